//! Transactions: what they see, and when they fail.

use hypercall_abi::errno::Errno::*;
use xenstore::server::{ClientId, PAST};
use xenstore::wire::Kind;

use crate::harness::{Answer, DOM0, Store, guest};

fn done() -> Answer {
    Ok(b"OK\0".to_vec())
}

#[test]
fn start_and_end_answer() {
    let mut store = Store::new();
    let first = store.start(DOM0);
    assert_eq!(first, 1);
    assert_eq!(
        store.ask_in(DOM0, first, Kind::TransactionStart, b"\0"),
        Err(EBUSY)
    );
    for wrong in [&b""[..], b"T", b"X\0", b"T\0F\0", b"\0"] {
        let answer = store.ask_in(DOM0, first, Kind::TransactionEnd, wrong);
        assert_eq!(answer, Err(EINVAL), "{wrong:?}");
    }
    assert_eq!(store.ask(DOM0, Kind::TransactionEnd, "T\0"), Err(ENOENT));
    assert_eq!(store.commit(DOM0, first), done());
    assert_eq!(store.commit(DOM0, first), Err(ENOENT));
    assert_eq!(store.start(DOM0), 2);
}

#[test]
fn a_transaction_sees_the_past_and_itself_and_is_not_seen() {
    let mut store = Store::new();
    store.ok(DOM0, Kind::Write, "/a\x001");
    let transaction = store.start(DOM0);
    store.ok(DOM0, Kind::Write, "/a\x002");
    store.ok(DOM0, Kind::Write, "/new\0");
    assert_eq!(store.ok_in(DOM0, transaction, Kind::Read, "/a\0"), b"1");
    let absent = store.ask_in(DOM0, transaction, Kind::Read, b"/new\0");
    assert_eq!(absent, Err(ENOENT));
    store.ok_in(DOM0, transaction, Kind::Write, "/a\x003");
    assert_eq!(store.ok_in(DOM0, transaction, Kind::Read, "/a\0"), b"3");
    assert_eq!(store.ok(DOM0, Kind::Read, "/a\0"), b"2");
    assert_eq!(store.commit(DOM0, transaction), Err(EAGAIN));
    assert_eq!(store.ok(DOM0, Kind::Read, "/a\0"), b"2");
    assert_eq!(store.ok(DOM0, Kind::Directory, "/\0"), b"a\0new\0");
}

#[test]
fn a_node_that_a_transaction_removes_and_makes_again_has_stayed_for_others() {
    let mut store = Store::new();
    store.ok(DOM0, Kind::Write, "/a/b\x001");
    let [first, second] = [(); 2].map(|()| store.start(DOM0));
    for path in ["/a", "/a/b"] {
        store.ok_in(DOM0, second, Kind::Directory, &format!("{path}\0"));
    }
    store.ok_in(DOM0, first, Kind::Remove, "/a/b\0");
    store.ok_in(DOM0, first, Kind::Write, "/a/b\x002");
    assert_eq!(store.commit(DOM0, first), done());
    store.ok_in(DOM0, second, Kind::Write, "/c\0");
    assert_eq!(store.commit(DOM0, second), done());
    assert_eq!(store.ok(DOM0, Kind::Read, "/a/b\0"), b"2");
}

#[test]
fn an_abandoned_transaction_leaves_nothing() {
    let mut store = Store::with_guests(&[5]);
    let five = guest(5);
    store.ok(five, Kind::Watch, "a\0t\0");
    store.events(five);
    let transaction = store.start(five);
    store.ok_in(five, transaction, Kind::Write, "a/b\0");
    let answer = store.ask_in(five, transaction, Kind::TransactionEnd, b"F\0");
    assert_eq!(answer, done());
    assert_eq!(store.ask(five, Kind::Read, "a\0"), Err(ENOENT));
    assert_eq!(store.event_lines(five), [""; 0]);
    store.check();
}

type Request = (Kind, &'static str);

/// Whether a commit fails that made `inside`, if another client made `outside` in between.
#[track_caller]
fn conflict(inside: &[Request], outside: &[Request], conflicts: bool) {
    let mut store = Store::new();
    let other: ClientId = store.connect();
    for path in ["/a", "/a/b", "/a/b/c", "/d", "/e"] {
        store.ok(DOM0, Kind::Write, &format!("{path}\0"));
    }
    let transaction = store.start(DOM0);
    let (before, after) = inside.split_at(inside.len() / 2);
    for (kind, payload) in before {
        let _ = store.ask_in(DOM0, transaction, *kind, payload.as_bytes());
    }
    for (kind, payload) in outside {
        store.ok(other, *kind, payload);
    }
    // What is looked at later is the past all the same.
    for (kind, payload) in after {
        let _ = store.ask_in(DOM0, transaction, *kind, payload.as_bytes());
    }
    let expected = if conflicts { Err(EAGAIN) } else { done() };
    assert_eq!(store.commit(DOM0, transaction), expected);
    store.check();
}

#[test]
fn a_commit_fails_if_what_it_read_or_wrote_has_changed() {
    use Kind::*;
    let changed: &[Request] = &[(Write, "/a\0new")];
    conflict(&[(Read, "/a\0")], changed, true);
    conflict(&[(Write, "/a\0x")], changed, true);
    conflict(&[(Remove, "/a\0")], changed, true);
    conflict(&[(SetPermissions, "/a\0n0\0")], changed, true);
    conflict(&[(Read, "/a\0")], &[(Remove, "/a\0")], true);
    conflict(&[(Read, "/a\0")], &[(SetPermissions, "/a\0r0\0")], true);
    conflict(
        &[(GetPermissions, "/a\0")],
        &[(SetPermissions, "/a\0r0\0")],
        true,
    );
    // Put back, it has changed nevertheless.
    conflict(
        &[(Read, "/a\0")],
        &[(Write, "/a\0x"), (Write, "/a\0")],
        true,
    );
    conflict(&[(Read, "/new\0")], &[(Write, "/new\0")], true);
    conflict(&[(Write, "/new/x\0")], &[(Write, "/new/y\0")], true);
    conflict(&[(Directory, "/a\0")], &[(Mkdir, "/a/new\0")], true);
    conflict(&[(Directory, "/a\0")], &[(Remove, "/a/b\0")], true);
    conflict(&[(DirectoryPart, "/a\x000\0")], changed, true);
    conflict(&[(Mkdir, "/a/new\0")], &[(Remove, "/a\0")], true);
    conflict(
        &[(Mkdir, "/a/new\0")],
        &[(SetPermissions, "/a\0n5\0")],
        true,
    );
    conflict(&[(Remove, "/a\0")], &[(Mkdir, "/a/b/c/new\0")], true);
    conflict(&[(Remove, "/a\0")], &[(Write, "/a/b/c\0x")], true);
    conflict(&[(Read, "/a\0"), (Write, "/d\0")], changed, true);
}

#[test]
fn a_commit_does_not_fail_for_what_it_did_not_look_at() {
    use Kind::*;
    conflict(&[(Read, "/a\0")], &[(Write, "/d\0x")], false);
    conflict(&[(Read, "/a\0")], &[(Write, "/a/b\0x")], false);
    conflict(&[(Read, "/a\0")], &[(Mkdir, "/a/new\0")], false);
    conflict(&[(GetPermissions, "/a\0")], &[(Write, "/a\0x")], false);
    conflict(&[(Directory, "/a\0")], &[(Write, "/a\0x")], false);
    conflict(&[(Directory, "/a\0")], &[(Mkdir, "/a/b/new\0")], false);
    conflict(&[(Mkdir, "/a/x\0")], &[(Mkdir, "/a/y\0")], false);
    conflict(&[(Remove, "/a/b\0")], &[(Mkdir, "/a/new\0")], false);
    conflict(
        &[(Read, "/new\0")],
        &[(Mkdir, "/new\0"), (Remove, "/new\0")],
        false,
    );
}

#[test]
fn commits_that_do_not_conflict_leave_the_changes_of_both() {
    let mut store = Store::new();
    let other = store.connect();
    store.ok(DOM0, Kind::Write, "/a\0");
    let (one, two) = (store.start(DOM0), store.start(other));
    store.ok_in(DOM0, one, Kind::Write, "/a/x\x001");
    store.ok_in(other, two, Kind::Write, "/a/y\x002");
    store.ok_in(other, two, Kind::Write, "/b\x003");
    store.commit(DOM0, one).unwrap();
    store.commit(other, two).unwrap();
    assert_eq!(store.ok(DOM0, Kind::Directory, "/a\0"), b"x\0y\0");
    assert_eq!(store.ok(DOM0, Kind::Read, "/b\0"), b"3");
    store.check();
}

#[test]
fn of_two_that_read_what_the_other_writes_one_commits() {
    let mut store = Store::new();
    let other = store.connect();
    store.ok(DOM0, Kind::Write, "/a\0");
    store.ok(DOM0, Kind::Write, "/b\0");
    let (one, two) = (store.start(DOM0), store.start(other));
    store.ok_in(DOM0, one, Kind::Read, "/a\0");
    store.ok_in(other, two, Kind::Read, "/b\0");
    store.ok_in(DOM0, one, Kind::Write, "/b\x001");
    store.ok_in(other, two, Kind::Write, "/a\x002");
    assert_eq!(store.commit(DOM0, one), done());
    assert_eq!(store.commit(other, two), Err(EAGAIN));
}

#[test]
fn watches_fire_at_the_commit_once_for_a_path_in_the_order_of_the_changes() {
    let mut store = Store::new();
    store.ok(DOM0, Kind::Mkdir, "/a/z/deep\0");
    store.ok(DOM0, Kind::Watch, "/a\0t\0");
    store.ok(DOM0, Kind::Watch, "/a/z/deep\0d\0");
    store.events(DOM0);
    let transaction = store.start(DOM0);
    for (kind, payload) in [
        (Kind::Write, "/a/y\x001"),
        (Kind::Write, "/a/x\x001"),
        (Kind::Write, "/a/y\x002"),
        (Kind::Mkdir, "/a/gone\0"),
        (Kind::Remove, "/a/z\0"),
        (Kind::Remove, "/a/gone\0"),
        (Kind::Write, "/a/implied/last\0"),
    ] {
        store.ok_in(DOM0, transaction, kind, payload);
    }
    assert_eq!(store.event_lines(DOM0), [""; 0]);
    store.commit(DOM0, transaction).unwrap();
    let events = [
        "/a/y t",
        "/a/x t",
        "/a/z/deep d",
        "/a/z t",
        "/a/implied/last t",
    ];
    assert_eq!(store.event_lines(DOM0), events);
}

#[test]
fn a_guests_copy_of_the_past_expires() {
    let mut store = Store::with_guests(&[5]);
    let five = guest(5);
    store.ok(five, Kind::Write, "mine\0x");
    let theirs = store.start(five);
    let ours = store.start(DOM0);
    for _ in 0..PAST / 3000 + 1 {
        let value = "x".repeat(2048);
        store.ok(
            DOM0,
            Kind::Write,
            &format!("/local/domain/5/other\0{value}"),
        );
    }
    // It goes on, as if nothing had happened.
    assert_eq!(store.ok_in(five, theirs, Kind::Read, "mine\0"), b"x");
    store.ok_in(five, theirs, Kind::Write, "mine\0y");
    assert_eq!(store.ok_in(five, theirs, Kind::Read, "mine\0"), b"y");
    assert_eq!(store.commit(five, theirs), Err(EAGAIN));
    store.ok_in(DOM0, ours, Kind::Write, "/local/domain/5/mine\0z");
    assert_eq!(store.commit(DOM0, ours), done());
    store.check();
}
