//! Guests cannot keep a privileged client's transaction from being committed.

use hypercall_abi::errno::Errno::*;
use xenstore::client::TransactionId;
use xenstore::server::{ClientId, PRECEDENCE};
use xenstore::wire::Kind;

use crate::harness::{DOM0, Store, guest};

/// A guest sends a write, and everyone is served until there is nothing to do.
fn write(store: &mut Store, who: ClientId, value: &str) {
    let client = store.client(who);
    let none = TransactionId::NONE;
    client.write(none, "busy", value.as_bytes()).unwrap();
    store.send(who);
    while store.server.serve(store.now, &mut store.world).is_some() {}
    store.receive(who);
}

fn value(store: &mut Store) -> String {
    let value = store.ok(DOM0, Kind::Read, "/local/domain/5/busy\0");
    String::from_utf8(value).unwrap()
}

/// Dom0's transaction has failed once because of domain 5.
fn contended() -> Store {
    let mut store = Store::with_guests(&[5, 6]);
    write(&mut store, guest(5), "0");
    let transaction = store.start(DOM0);
    store.ok_in(DOM0, transaction, Kind::Read, "/local/domain/5/busy\0");
    write(&mut store, guest(5), "1");
    assert_eq!(store.commit(DOM0, transaction), Err(EAGAIN));
    store
}

#[test]
fn after_one_conflict_guests_wait_until_the_next_try_is_over() {
    let mut store = contended();
    let transaction = store.start(DOM0);
    write(&mut store, guest(5), "2");
    store.ok_in(DOM0, transaction, Kind::Read, "/local/domain/5/busy\0");
    store.ok_in(DOM0, transaction, Kind::Write, "/seen\0");
    assert_eq!(value(&mut store), "1");
    assert_eq!(store.server.deadline(), Some(PRECEDENCE));
    store.commit(DOM0, transaction).unwrap();
    while store.server.serve(store.now, &mut store.world).is_some() {}
    assert_eq!(value(&mut store), "2");
    assert_eq!(store.server.deadline(), None);
    write(&mut store, guest(5), "3");
    assert_eq!(value(&mut store), "3");
}

#[test]
fn what_cannot_interfere_does_not_wait() {
    let mut store = contended();
    let now = store.now;
    store.ok(guest(6), Kind::Directory, "/local/domain/6\0");
    let transaction = store.start(guest(6));
    store.ok_in(guest(6), transaction, Kind::Write, "a\0");
    store.ok(DOM0, Kind::Write, "/a\0");
    assert_eq!(store.now, now);
    // A commit of a guest's does.
    store.commit(guest(6), transaction).unwrap();
    assert_eq!(store.now, now + PRECEDENCE);
}

#[test]
fn who_does_not_try_again_keeps_nobody_waiting_for_long() {
    let mut store = contended();
    write(&mut store, guest(5), "2");
    assert_eq!(value(&mut store), "1");
    store.now = store.server.deadline().unwrap();
    while store.server.serve(store.now, &mut store.world).is_some() {}
    assert_eq!(value(&mut store), "2");
}

#[test]
fn who_disconnects_keeps_nobody_waiting() {
    let mut store = Store::with_guests(&[5]);
    let other = store.connect();
    write(&mut store, guest(5), "0");
    let transaction = store.start(other);
    store.ok_in(other, transaction, Kind::Read, "/local/domain/5/busy\0");
    write(&mut store, guest(5), "1");
    assert_eq!(store.commit(other, transaction), Err(EAGAIN));
    write(&mut store, guest(5), "2");
    assert_eq!(value(&mut store), "1");
    store.server.disconnect(other);
    while store.server.serve(store.now, &mut store.world).is_some() {}
    assert_eq!(value(&mut store), "2");
}

#[test]
fn a_guest_has_no_precedence() {
    let mut store = Store::with_guests(&[5, 6]);
    let transaction = store.start(guest(5));
    store.ok_in(guest(5), transaction, Kind::Write, "busy\0");
    store.ok(DOM0, Kind::Write, "/local/domain/5/busy\0");
    assert_eq!(store.commit(guest(5), transaction), Err(EAGAIN));
    write(&mut store, guest(6), "1");
    let now = store.now;
    store.ok(guest(6), Kind::Read, "busy\0");
    assert_eq!(store.now, now);
}
