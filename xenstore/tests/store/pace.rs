//! Guests that take more than their share of the store's time.

use std::time::Duration;

use hypercall_abi::errno::Errno;
use xenstore::client::{RequestId, TransactionId};
use xenstore::server::ClientId;

use crate::harness::{DOM0, Store, guest};

const MS: Duration = Duration::from_millis(1);

/// Sends a request that is not served yet.
fn send(store: &mut Store, who: ClientId) -> RequestId {
    let request = store.client(who).write(TransactionId::NONE, "a", b"x");
    store.send(who);
    request.unwrap()
}

/// Has the store serve, each request for a millisecond, until a client's is answered: the time that
/// took, and how many others were served before. The clients `busy` always have another request.
fn wait(store: &mut Store, who: ClientId, busy: &[ClientId]) -> (Duration, u32) {
    let (start, request) = (store.now, send(store, who));
    let mut others = 0;
    loop {
        match store.server.serve(store.now, &mut store.world) {
            Some(served) => {
                store.now += MS;
                store.receive(served);
                others += u32::from(served != who);
                if busy.contains(&served) {
                    send(store, served);
                }
                store.server.charge(served, store.now, MS);
            }
            None => store.now += MS,
        }
        let answer: Option<Result<_, Errno>> = store.client(who).reply(request);
        if let Some(answer) = answer {
            answer.unwrap();
            return (store.now - start, others);
        }
    }
}

#[test]
fn who_has_had_a_lot_waits_while_another_wants_some_and_gets_a_share() {
    let mut store = Store::with_guests(&[5, 6]);
    let (flood, other) = (guest(5), guest(6));
    send(&mut store, flood);
    // Its burst is soon over; then there is one of its requests in eight milliseconds.
    let mut before = 0;
    for request in 0..200 {
        let (_, others) = wait(&mut store, other, &[flood]);
        before += u32::from(request >= 100) * others;
        // A modest guest, which is no reason to let it wait.
        store.now += 9 * MS;
    }
    assert!((100..=140).contains(&before), "{before}");
}

#[test]
fn who_waited_has_some_requests_served_and_then_waits_for_a_while() {
    let mut store = Store::with_guests(&[5, 6]);
    let (flood, other) = (guest(5), guest(6));
    wait(&mut store, other, &[]);
    let now = store.now;
    store.server.charge(flood, now, Duration::from_secs(1));
    send(&mut store, flood);
    assert_eq!(store.server.serve(now, &mut store.world), None);
    store.now = store.server.deadline().unwrap();
    // One of its requests between two of the other's, until it has had enough.
    let served: u32 = (0..10).map(|_| wait(&mut store, other, &[flood]).1).sum();
    assert!((3..=6).contains(&served), "{served}");
    let waits = store.server.deadline().unwrap() - store.now;
    assert!(waits >= 15 * MS, "{waits:?}");
}

#[test]
fn who_asks_on_as_soon_as_it_is_answered_does_not_suffer_because_another_floods() {
    let mut store = Store::with_guests(&[5, 6]);
    let (flood, other) = (guest(5), guest(6));
    send(&mut store, flood);
    let mut time = Duration::ZERO;
    for request in 0..400 {
        let (taken, _) = wait(&mut store, other, &[flood]);
        if request >= 200 {
            time += taken;
        }
        store.now += 3 * MS;
    }
    // One millisecond each, and one in some eight of all others' time.
    assert!(time <= 200 * MS * 2, "{time:?}");
}

#[test]
fn who_asks_for_nothing_but_what_is_dear_has_no_more_than_a_third() {
    let mut store = Store::with_guests(&[5, 6]);
    let (dear, other) = (guest(5), guest(6));
    let mut spent = Duration::ZERO;
    let mut begin = store.now;
    send(&mut store, dear);
    for request in 0..2000 {
        if request == 1000 {
            (spent, begin) = (Duration::ZERO, store.now);
        }
        send(&mut store, other);
        while let Some(served) = store.server.serve(store.now, &mut store.world) {
            let time = if served == dear { 5 * MS } else { MS / 10 };
            store.now += time;
            store.receive(served);
            store.server.charge(served, store.now, time);
            if served == dear {
                spent += time;
                send(&mut store, dear);
            }
            if served == other {
                break;
            }
        }
        store.now += MS / 10;
    }
    let all = store.now - begin;
    assert!(
        spent > all / 5 && spent < all * 2 / 5,
        "{spent:?} of {all:?}"
    );
}

#[test]
fn a_flood_that_nobody_else_minds_is_not_held_back() {
    let mut store = Store::with_guests(&[5, 6]);
    let flood = guest(5);
    // Dom0 prepared all this a while ago.
    store.now += 100 * MS;
    for _ in 0..1000 {
        assert_eq!(wait(&mut store, flood, &[]).0, MS);
    }
    // Nor is it punished for long.
    assert_eq!(wait(&mut store, guest(6), &[]).0, MS);
    let (time, _) = wait(&mut store, flood, &[]);
    assert!(time <= 102 * MS, "{time:?}");
}

#[test]
fn dom0_is_not_held_back() {
    let mut store = Store::with_guests(&[5]);
    for _ in 0..1000 {
        wait(&mut store, guest(5), &[]);
        store.now += 9 * MS;
        let start = store.now;
        store.ok(DOM0, xenstore::wire::Kind::Mkdir, "/a\0");
        store.server.charge(DOM0, store.now, MS);
        assert_eq!(store.now, start);
    }
}

#[test]
fn who_waits_is_named_in_the_deadline() {
    let mut store = Store::with_guests(&[5, 6]);
    wait(&mut store, guest(6), &[]);
    let now = store.now;
    store.server.charge(guest(5), now, Duration::from_secs(1));
    send(&mut store, guest(5));
    assert_eq!(store.server.serve(now, &mut store.world), None);
    let deadline = store.server.deadline().unwrap();
    assert!(deadline > now && deadline <= now + 100 * MS);
    let before = deadline - Duration::from_nanos(1);
    assert_eq!(store.server.serve(before, &mut store.world), None);
    assert_eq!(
        store.server.serve(deadline, &mut store.world),
        Some(guest(5))
    );
}
