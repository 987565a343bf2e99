//! Domains come, go, act for each other, and are controlled.

use hypercall_abi::errno::Errno::*;
use hypercall_abi::types::{Domid, Port};
use xenstore::server::FEATURES;
use xenstore::wire::Kind;

use crate::harness::{DOM0, Store, guest};

#[test]
fn introduce_connects_and_tells() {
    let mut store = Store::new();
    store.ok(DOM0, Kind::Watch, "@introduceDomain\0t\0");
    store.events(DOM0);
    for wrong in [
        "5\x001\0",
        "5\x001\x000\0",
        "0\x001\x001\0",
        "32752\x001\x001\0",
        "x\x001\x001\0",
        "5\0x\x001\0",
        "5\x001\x00-1\0",
        "",
    ] {
        let answer = store.ask(DOM0, Kind::Introduce, wrong);
        assert_eq!(answer, Err(EINVAL), "{wrong:?}");
    }
    assert!(store.world.introduced.is_empty());

    store.world.refuses = Some(EIO);
    assert_eq!(store.ask(DOM0, Kind::Introduce, "5\x007\x003\0"), Err(EIO));
    assert_eq!(store.ok(DOM0, Kind::IsDomainIntroduced, "5\0"), b"F\0");
    assert_eq!(store.event_lines(DOM0), [""; 0]);

    store.world.refuses = None;
    store.world.introduced.clear();
    store.ok(DOM0, Kind::Introduce, "5\x00-1\x003\0");
    let asked = (Domid(5), u64::MAX, Port(3), FEATURES);
    assert_eq!(store.world.introduced, [asked]);
    assert_eq!(store.event_lines(DOM0), ["@introduceDomain t"]);
    for (domain, answer) in [
        ("5\0", "T\0"),
        ("6\0", "F\0"),
        ("0\0", "T\0"),
        ("32752\0", "T\0"),
    ] {
        let introduced = store.ok(DOM0, Kind::IsDomainIntroduced, domain);
        assert_eq!(introduced, answer.as_bytes(), "{domain}");
    }
}

#[test]
fn a_domain_introduced_again_begins_anew_but_keeps_its_nodes() {
    let mut store = Store::with_guests(&[5]);
    let five = guest(5);
    store.ok(five, Kind::Write, "a\0x");
    store.ok(five, Kind::Watch, "a\0t\0");
    let transaction = store.start(five);
    store.events(five);
    store.ok(DOM0, Kind::Watch, "@introduceDomain\0t\0");
    store.events(DOM0);
    store.adopt(5);
    assert_eq!(store.event_lines(DOM0), [""; 0]);
    assert_eq!(store.commit(five, transaction), Err(ENOENT));
    store.ok(five, Kind::Write, "a\0y");
    assert_eq!(store.event_lines(five), [""; 0]);
    store.check();
}

#[test]
fn release_gives_everything_back() {
    let mut store = Store::with_guests(&[5, 6]);
    let (five, six) = (guest(5), guest(6));
    store.ok(DOM0, Kind::SetPermissions, "/\0b0\0");
    store.ok(five, Kind::Write, "a/b\0x");
    store.ok(five, Kind::Write, "/theirs/in/tree\0x");
    store.ok(six, Kind::Write, "a\0x");
    store.ok(six, Kind::SetPermissions, "a\0n6\0b5\0");
    // A node below one that goes is gone, whoever owns it.
    store.ok(five, Kind::SetPermissions, "a\0b5\0");
    store.ok(six, Kind::Write, "/local/domain/5/a/of-six\0");
    store.ok(five, Kind::Watch, "a\0t\0");
    store.start(five);
    store.ok(DOM0, Kind::SetPermissions, "@introduceDomain\0n5\0");
    store.ok(DOM0, Kind::Watch, "/theirs\0t\0");
    store.ok(DOM0, Kind::Watch, "@releaseDomain\0r\0");
    store.events(DOM0);

    store.ok(DOM0, Kind::Release, "5\0");
    assert_eq!(store.world.released, [Domid(5)]);
    assert_eq!(store.event_lines(DOM0), ["/theirs t", "@releaseDomain r"]);
    assert_eq!(store.ok(DOM0, Kind::Directory, "/local/domain\0"), b"6\0");
    assert_eq!(store.ask(DOM0, Kind::Read, "/theirs\0"), Err(ENOENT));
    assert_eq!(store.ask(DOM0, Kind::Control, "quota\x005\0"), Err(ENOENT));
    store.check();

    // Another domain of the same number has none of its rights.
    store.adopt(5);
    assert_eq!(
        store.ask(five, Kind::Read, "/local/domain/6/a\0"),
        Err(EACCES)
    );
    assert_eq!(store.ok(six, Kind::GetPermissions, "a\0"), b"n6\0");
    let special = store.ask(five, Kind::SetPermissions, "@introduceDomain\0n5\0");
    assert_eq!(special, Err(EACCES));
    store.ok(six, Kind::SetPermissions, "a\0n6\0b5\0");
    assert_eq!(store.ok(five, Kind::Read, "/local/domain/6/a\0"), b"x");
    store.check();
}

#[test]
fn a_domain_that_was_never_introduced_leaves_nothing_either() {
    let mut store = Store::new();
    store.ok(DOM0, Kind::Write, "/local/domain/9/a\0");
    store.ok(DOM0, Kind::SetPermissions, "/local/domain/9/a\0n9\0");
    store.ok(DOM0, Kind::Watch, "@releaseDomain\0t\0");
    store.events(DOM0);
    store.server.domain_destroyed(Domid(9), &mut store.world);
    assert_eq!(store.event_lines(DOM0), [""; 0]);
    assert_eq!(store.ok(DOM0, Kind::Directory, "/local/domain/9\0"), b"");
    assert!(store.world.released.is_empty());
    store.check();
}

#[test]
fn a_transaction_for_a_domain_that_went_meanwhile_fails() {
    let mut store = Store::with_guests(&[5]);
    let transaction = store.start(DOM0);
    store.ok_in(DOM0, transaction, Kind::Write, "/for-five\0");
    store.ok_in(DOM0, transaction, Kind::SetPermissions, "/for-five\0n5\0");
    store.ok(DOM0, Kind::Release, "5\0");
    assert_eq!(store.commit(DOM0, transaction), Err(EAGAIN));
    store.check();
}

#[test]
fn the_root_outlives_its_owner() {
    let mut store = Store::with_guests(&[5]);
    store.ok(DOM0, Kind::SetPermissions, "/\0r5\0");
    store.ok(DOM0, Kind::Release, "5\0");
    assert_eq!(store.ok(DOM0, Kind::GetPermissions, "/\0"), b"r0\0");
    assert_eq!(store.ok(DOM0, Kind::Directory, "/\0"), b"local\0");
    store.check();
}

#[test]
fn requests_about_domains_refuse_what_is_none() {
    let mut store = Store::with_guests(&[5]);
    for kind in [Kind::Release, Kind::Resume] {
        for (payload, error) in [
            ("0\0", EINVAL),
            ("x\0", EINVAL),
            ("", EINVAL),
            ("6\0", ENOENT),
        ] {
            assert_eq!(
                store.ask(DOM0, kind, payload),
                Err(error),
                "{kind:?} {payload:?}"
            );
        }
    }
    for (payload, error) in [("5\0", EINVAL), ("5\x006\0", ENOENT), ("6\x005\0", ENOENT)] {
        assert_eq!(store.ask(DOM0, Kind::SetTarget, payload), Err(error));
    }
    assert_eq!(store.ask(DOM0, Kind::IsDomainIntroduced, ""), Err(EINVAL));
    assert_eq!(store.ask(guest(5), Kind::GetDomainPath, "x\0"), Err(EINVAL));
    let path = store.ok(guest(5), Kind::GetDomainPath, "007\0");
    assert_eq!(path, b"/local/domain/7\0");
}

#[test]
fn a_stopped_domain_is_reported_once_until_it_resumes() {
    let mut store = Store::with_guests(&[5]);
    store.ok(DOM0, Kind::Watch, "@releaseDomain\0t\0");
    store.events(DOM0);
    for expected in [1, 0] {
        store.server.domain_stopped(Domid(5));
        assert_eq!(store.events(DOM0).len(), expected);
    }
    store.ok(DOM0, Kind::Resume, "5\0");
    store.server.domain_stopped(Domid(5));
    assert_eq!(store.events(DOM0).len(), 1);
    store.server.domain_stopped(Domid(6));
    assert_eq!(store.events(DOM0).len(), 0);
}

#[test]
fn a_domain_acts_for_its_target_while_that_is_there() {
    let mut store = Store::with_guests(&[5, 6]);
    let six = guest(6);
    store.ok(DOM0, Kind::Write, "/listed\0x");
    store.ok(DOM0, Kind::SetPermissions, "/listed\0n0\0r5\0");
    assert_eq!(store.ask(six, Kind::Read, "/listed\0"), Err(EACCES));
    store.ok(DOM0, Kind::SetTarget, "6\x005\0");
    assert_eq!(store.ok(six, Kind::Read, "/listed\0"), b"x");
    store.ok(six, Kind::Write, "/local/domain/5/a\0");
    store.ok(six, Kind::SetPermissions, "/local/domain/5\0b5\0");
    let transaction = store.start(six);
    store.ok_in(six, transaction, Kind::Write, "/local/domain/6/a\0");
    store.ok(DOM0, Kind::Release, "5\0");
    assert_eq!(store.commit(six, transaction), Err(EAGAIN));
    store.adopt(5);
    assert_eq!(store.ask(six, Kind::Read, "/listed\0"), Err(EACCES));
    store.check();
}

#[test]
fn features_are_set_before_a_domain_is_introduced() {
    let mut store = Store::with_guests(&[5]);
    let all = format!("{FEATURES}\0").into_bytes();
    assert_eq!(store.ok(DOM0, Kind::GetFeature, ""), all);
    assert_eq!(store.ok(DOM0, Kind::GetFeature, "6\0"), all);
    assert_eq!(store.ask(DOM0, Kind::SetFeature, "5\x001\0"), Err(EBUSY));
    assert_eq!(store.ask(DOM0, Kind::SetFeature, "6\x008\0"), Err(EINVAL));
    assert_eq!(store.ask(DOM0, Kind::SetFeature, "6\0"), Err(EINVAL));
    assert_eq!(store.ask(DOM0, Kind::GetFeature, "6\x001\0"), Err(EINVAL));
    store.ok(DOM0, Kind::SetFeature, "6\x001\0");
    assert_eq!(store.ok(DOM0, Kind::GetFeature, "6\0"), b"1\0");
    store.introduce(6);
    assert_eq!(store.world.introduced.last().unwrap().3, 1);
    store.ok(DOM0, Kind::Release, "6\0");
    assert_eq!(store.ok(DOM0, Kind::GetFeature, "6\0"), all);
}

#[test]
fn control_has_its_commands() {
    let mut store = Store::with_guests(&[5]);
    let help = String::from_utf8(store.ok(DOM0, Kind::Control, "help\0")).unwrap();
    for command in ["check", "log", "print", "quota", "help"] {
        assert!(help.contains(&format!("{command}\t")), "{command}");
    }
    assert_eq!(store.ok(DOM0, Kind::Control, "check\0"), b"OK\0");
    store.ok(DOM0, Kind::Control, "print\0hello\0");
    assert_eq!(store.world.printed, ["hello"]);
    store.ok(DOM0, Kind::Control, "log\0on\0");
    let _ = store.ask(guest(5), Kind::Read, "absent\0");
    store.ok(DOM0, Kind::Control, "log\0off\0");
    let logged = &store.world.printed[2];
    assert!(
        logged.contains("Read") && logged.contains("ENOENT"),
        "{logged}"
    );
    let lines = store.world.printed.len();
    let _ = store.ask(guest(5), Kind::Read, "absent\0");
    assert_eq!(store.world.printed.len(), lines);
    for wrong in [
        "",
        "unknown\0",
        "log\0",
        "log\0maybe\0",
        "check\0now\0",
        "quota\0set\0nodes\0",
    ] {
        assert_eq!(
            store.ask(DOM0, Kind::Control, wrong),
            Err(EINVAL),
            "{wrong:?}"
        );
    }
}
