//! Watches: which fire, for whom, in which order.

use hypercall_abi::errno::Errno::*;
use xenstore::server::PRECEDENCE;
use xenstore::wire::{self, Kind};

use crate::harness::{DOM0, Store, guest};

#[test]
fn watch_and_unwatch_answer() {
    let mut store = Store::with_guests(&[5]);
    let five = guest(5);
    for (kind, payload, expected) in [
        (Kind::Watch, "a\0t\0", Ok(b"OK\0".to_vec())),
        (Kind::Watch, "a\0t\0", Err(EEXIST)),
        (Kind::Watch, "/local/domain/5/a\0t\0", Err(EEXIST)),
        (Kind::Watch, "a\0other\0", Ok(b"OK\0".to_vec())),
        (Kind::Watch, "a\0deep\x002\0", Ok(b"OK\0".to_vec())),
        (Kind::Watch, "a\0deeper\0x\0", Err(EINVAL)),
        (Kind::Watch, "a\0", Err(EINVAL)),
        (Kind::Watch, "a\0t\x001\0more\0", Err(EINVAL)),
        (Kind::Watch, "a/\0t\0", Err(EINVAL)),
        (Kind::Watch, "", Err(EINVAL)),
        (Kind::Watch, "@releaseDomain\0t\x002\0", Err(EINVAL)),
        (Kind::Watch, "@whatever\0t\0", Ok(b"OK\0".to_vec())),
        (Kind::Unwatch, "a\0unknown\0", Err(ENOENT)),
        (Kind::Unwatch, "b\0t\0", Err(ENOENT)),
        (Kind::Unwatch, "a\0", Err(EINVAL)),
        (Kind::Unwatch, "a\0t\0more\0", Err(EINVAL)),
        (Kind::Unwatch, "a/\0t\0", Err(EINVAL)),
        (Kind::Unwatch, "a\0t\0", Ok(b"OK\0".to_vec())),
        (Kind::Unwatch, "a\0t\0", Err(ENOENT)),
    ] {
        assert_eq!(
            store.ask(five, kind, payload),
            expected,
            "{kind:?} {payload:?}"
        );
    }
    store.check();
}

#[test]
fn a_watch_fires_when_it_is_set_and_when_something_changes_below() {
    let mut store = Store::with_guests(&[5]);
    let five = guest(5);
    store.ok(five, Kind::Watch, "a\0rel\0");
    store.ok(five, Kind::Watch, "/local/domain/5/a/b\0abs\0");
    assert_eq!(
        store.event_lines(five),
        ["a rel", "/local/domain/5/a/b abs"]
    );
    store.ok(DOM0, Kind::Write, "/local/domain/5/a/b/c\0x");
    let both = ["a/b/c rel", "/local/domain/5/a/b/c abs"];
    assert_eq!(store.event_lines(five), both);
    store.ok(five, Kind::SetPermissions, "a/b/c\0n5\0r6\0");
    assert_eq!(store.event_lines(five), both);
    // Nothing changes.
    store.ok(five, Kind::Mkdir, "a/b/c\0");
    store.ok(five, Kind::Remove, "a/b/none\0");
    store.ok(five, Kind::Write, "ab\0");
    assert_eq!(store.event_lines(five), [""; 0]);
    store.ok(five, Kind::Unwatch, "a\0rel\0");
    store.ok(five, Kind::Write, "a/b\0");
    assert_eq!(store.event_lines(five), ["/local/domain/5/a/b abs"]);
}

#[test]
fn removal_fires_once_where_it_happens_and_for_what_is_watched_below() {
    let mut store = Store::new();
    store.ok(DOM0, Kind::Mkdir, "/a/b/c\0");
    store.ok(DOM0, Kind::Mkdir, "/a/b/d\0");
    for path in ["/a", "/a/b", "/a/b/c", "/a/b/none", "/"] {
        store.ok(DOM0, Kind::Watch, &format!("{path}\0{path}\0"));
    }
    store.events(DOM0);
    store.ok(DOM0, Kind::Remove, "/a/b\0");
    let events = ["/a/b/c /a/b/c", "/a/b /a", "/a/b /a/b", "/a/b /"];
    assert_eq!(store.event_lines(DOM0), events);
}

#[test]
fn depth_limits_a_watch() {
    let mut store = Store::new();
    for depth in 0..3 {
        store.ok(DOM0, Kind::Watch, &format!("/a\0depth-{depth}\0{depth}\0"));
    }
    store.events(DOM0);
    store.ok(DOM0, Kind::Write, "/a/b/c\0");
    assert_eq!(store.event_lines(DOM0), ["/a/b/c depth-2"]);
    store.ok(DOM0, Kind::Write, "/a\0");
    assert_eq!(store.events(DOM0).len(), 3);
}

#[test]
fn events_come_after_the_reply_of_who_caused_them() {
    let mut store = Store::new();
    store.ok(DOM0, Kind::Watch, "/a\0t\0");
    store.events(DOM0);
    let request = wire::encode(Kind::Write, 9, 0, b"/a\0x");
    store.server.receive(DOM0, &request).unwrap();
    store.server.serve(store.now, &mut store.world);
    let mut kinds = Vec::new();
    loop {
        let bytes = store.server.output(DOM0).to_vec();
        if bytes.is_empty() {
            break;
        }
        kinds.push(u32::from_le_bytes(bytes[..4].try_into().unwrap()));
        store.server.sent(DOM0, bytes.len());
    }
    assert_eq!(kinds, [Kind::Write as u32, Kind::WatchEvent as u32]);
}

#[test]
fn nobody_hears_of_what_it_cannot_read() {
    let mut store = Store::with_guests(&[5, 6]);
    let five = guest(5);
    store.ok(DOM0, Kind::Write, "/secret/a\0");
    store.ok(five, Kind::Watch, "/\0t\0");
    store.ok(five, Kind::Watch, "/secret/a\0t\0");
    store.events(five);
    store.ok(DOM0, Kind::Write, "/secret/a\0x");
    store.ok(DOM0, Kind::Write, "/secret/b\0x");
    store.ok(guest(6), Kind::Write, "mine\0x");
    assert_eq!(store.event_lines(five), [""; 0]);

    // Whoever gains or loses the right to read hears of that.
    store.ok(DOM0, Kind::SetPermissions, "/secret/a\0n0\0r5\0");
    assert_eq!(store.events(five).len(), 2);
    store.ok(DOM0, Kind::Write, "/secret/a\0y");
    assert_eq!(store.events(five).len(), 2);
    store.ok(DOM0, Kind::SetPermissions, "/secret/a\0n0\0");
    assert_eq!(store.events(five).len(), 2);
    store.ok(DOM0, Kind::Remove, "/secret\0");
    assert_eq!(store.event_lines(five), [""; 0]);
}

#[test]
fn who_can_list_a_node_hears_of_children_that_come_and_go_but_not_of_their_values() {
    let mut store = Store::with_guests(&[5]);
    let five = guest(5);
    store.ok(DOM0, Kind::Mkdir, "/list\0");
    store.ok(DOM0, Kind::SetPermissions, "/list\0r0\0");
    store.ok(five, Kind::Watch, "/list\0t\0");
    store.events(five);
    let transaction = store.start(DOM0);
    store.ok_in(DOM0, transaction, Kind::Write, "/list/x\0");
    store.ok_in(DOM0, transaction, Kind::SetPermissions, "/list/x\0n0\0");
    store.commit(DOM0, transaction).unwrap();
    assert_eq!(store.event_lines(five), ["/list/x t"]);
    store.ok(DOM0, Kind::Write, "/list/x\0value");
    assert_eq!(store.event_lines(five), [""; 0]);
    store.ok(DOM0, Kind::Remove, "/list/x\0");
    assert_eq!(store.event_lines(five), ["/list/x t"]);
}

#[test]
fn what_waits_to_be_read_is_not_queued_again() {
    let mut store = Store::with_guests(&[5]);
    let five = guest(5);
    store.ok(five, Kind::Watch, "a\0t\0");
    store.events(five);
    for value in 0..9 {
        store.ok(DOM0, Kind::Write, &format!("/local/domain/5/a\0{value}"));
    }
    assert_eq!(store.event_lines(five), ["a t"]);
    // What the client has begun to read may be older than the change.
    store.ok(DOM0, Kind::Write, "/local/domain/5/a\0begun");
    let byte = store.server.output(five)[..1].to_vec();
    store.client(five).receive(&byte).unwrap();
    store.server.sent(five, 1);
    for _ in 0..2 {
        store.ok(DOM0, Kind::Write, "/local/domain/5/a\0again");
        let byte = store.server.output(five)[..1].to_vec();
        store.client(five).receive(&byte).unwrap();
        store.server.sent(five, 1);
    }
    assert_eq!(store.event_lines(five), ["a t", "a t"]);
}

#[test]
fn a_client_that_reads_too_late_still_learns_where_to_look() {
    let mut store = Store::with_guests(&[5]);
    let five = guest(5);
    store.ok(five, Kind::Watch, "a\0t\0");
    store.ok(five, Kind::Watch, "b\0t\0");
    store.events(five);
    for number in 0..5000 {
        store.ok(DOM0, Kind::Write, &format!("/local/domain/5/a/{number}\0"));
    }
    store.ok(DOM0, Kind::Write, "/local/domain/5/b/c\0");
    let events = store.event_lines(five);
    assert!(events.len() < 3000, "{}", events.len());
    assert_eq!(events[0], "a/0 t");
    assert_eq!(events[events.len() - 2..], ["a t", "b t"]);
    store.ok(DOM0, Kind::Write, "/local/domain/5/b/c\0");
    assert_eq!(store.event_lines(five), ["b/c t"]);
}

#[test]
fn an_event_too_long_for_a_message_names_the_watched_path() {
    let mut store = Store::new();
    let (token, long) = ("t".repeat(2500), "n".repeat(2000));
    store.ok(DOM0, Kind::Watch, &format!("/a\0{token}\0"));
    store.events(DOM0);
    store.ok(DOM0, Kind::Write, &format!("/a/{long}\0"));
    assert_eq!(store.events(DOM0), [("/a".into(), token)]);
}

#[test]
fn reset_watches_drops_watches_and_transactions() {
    let mut store = Store::with_guests(&[5]);
    let five = guest(5);
    store.ok(five, Kind::Watch, "a\0t\0");
    let transaction = store.start(five);
    store.events(five);
    store.ok(five, Kind::ResetWatches, "\0");
    store.ok(five, Kind::Write, "a\0");
    assert_eq!(store.event_lines(five), [""; 0]);
    assert_eq!(store.commit(five, transaction), Err(ENOENT));
    assert_eq!(store.ask(five, Kind::Unwatch, "a\0t\0"), Err(ENOENT));
    store.check();
}

#[test]
fn special_events_go_to_those_whom_their_permissions_name() {
    let mut store = Store::with_guests(&[5, 6]);
    let (five, six) = (guest(5), guest(6));
    for who in [DOM0, five, six] {
        store.ok(who, Kind::Watch, "@introduceDomain\0in\0");
        store.ok(who, Kind::Watch, "@releaseDomain\0out\0");
        assert_eq!(store.events(who).len(), 2);
    }
    store.ok(DOM0, Kind::Watch, "@releaseDomain\0named\x001\0");
    store.ok(DOM0, Kind::Watch, "@releaseDomain/8\0eight\0");
    store.events(DOM0);
    store.ok(DOM0, Kind::SetPermissions, "@releaseDomain\0n0\0r5\0");
    for domain in [7, 8] {
        store.adopt(domain);
        assert_eq!(store.event_lines(DOM0), ["@introduceDomain in"]);
    }
    store.ok(DOM0, Kind::Release, "7\0");
    let events = ["@releaseDomain out", "@releaseDomain/7 named"];
    assert_eq!(store.event_lines(DOM0), events);
    store.ok(DOM0, Kind::Release, "8\0");
    let events = [
        "@releaseDomain out",
        "@releaseDomain/8 named",
        "@releaseDomain/8 eight",
    ];
    assert_eq!(store.event_lines(DOM0), events);
    assert_eq!(store.event_lines(five), ["@releaseDomain out"]);
    assert_eq!(store.event_lines(six), [""; 0]);
    assert!(store.now < PRECEDENCE);
}
