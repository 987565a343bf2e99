//! Quotas: whoever is at one gets the error, and nobody else notices.

use hypercall_abi::errno::Errno::{self, *};
use xenstore::server::ClientId;
use xenstore::wire::Kind;

use crate::harness::{DOM0, Store, guest};

const FIVE: ClientId = ClientId::Domain(hypercall_abi::types::Domid(5));

/// How many requests succeed before one fails with `error`; dom0 and another domain can make them
/// still.
#[track_caller]
fn count(
    store: &mut Store,
    error: Errno,
    mut request: impl FnMut(&mut Store, ClientId, usize) -> Result<(), Errno>,
) -> usize {
    let mut number = 0;
    while request(store, FIVE, number).is_ok() {
        number += 1;
        assert!(number < 10_000);
    }
    assert_eq!(request(store, FIVE, number), Err(error));
    for other in [guest(6), DOM0] {
        assert_eq!(request(store, other, number), Ok(()), "{other:?}");
    }
    store.check();
    number
}

#[test]
fn nodes() {
    let mut store = Store::with_guests(&[5, 6]);
    let write = |store: &mut Store, who, number| {
        let payload = format!("n{number}\0");
        store.ask(who, Kind::Write, &payload).map(drop)
    };
    // One is its home.
    assert_eq!(count(&mut store, ENOSPC, write), 999);
    // What it has it may change, and what it removes it may have again.
    store.ok(FIVE, Kind::Write, "n5\0x");
    store.ok(FIVE, Kind::Remove, "n5\0");
    assert_eq!(store.ask(FIVE, Kind::Mkdir, "a/b\0"), Err(ENOSPC));
    assert_eq!(store.ask(FIVE, Kind::Read, "a\0"), Err(ENOENT));
    store.ok(FIVE, Kind::Mkdir, "a\0");
    // What dom0 creates in its home is its own as well, but dom0 has no quota.
    store.ok(DOM0, Kind::Write, "/local/domain/5/more\0");
    store.check();
}

#[test]
fn nodes_in_transactions() {
    let mut store = Store::with_guests(&[5, 6]);
    store.ok(DOM0, Kind::SetQuota, "nodes\x0010\0");
    let (one, two) = (store.start(FIVE), store.start(FIVE));
    for number in 0..9 {
        store.ok_in(FIVE, one, Kind::Write, &format!("one{number}\0"));
    }
    assert_eq!(store.ask_in(FIVE, one, Kind::Write, b"one9\0"), Err(ENOSPC));
    store.ok_in(FIVE, one, Kind::Write, "one8\0again");
    store.ok_in(FIVE, two, Kind::Write, "two\0");
    store.commit(FIVE, one).unwrap();
    assert_eq!(store.commit(FIVE, two), Err(ENOSPC));
    // Within one it may make room.
    let three = store.start(FIVE);
    store.ok_in(FIVE, three, Kind::Remove, "one0\0");
    store.ok_in(FIVE, three, Kind::Write, "three\0");
    store.commit(FIVE, three).unwrap();
    // Dom0's commit does not fail for a guest that is at its quota.
    let four = store.start(DOM0);
    store.ok_in(DOM0, four, Kind::Write, "/local/domain/5/four\0");
    store.commit(DOM0, four).unwrap();
    store.check();
}

#[test]
fn watches() {
    let mut store = Store::with_guests(&[5, 6]);
    let watch = |store: &mut Store, who, number| {
        let payload = format!("n\0{number}\0");
        store.ask(who, Kind::Watch, &payload).map(drop)
    };
    assert_eq!(count(&mut store, E2BIG, watch), 128);
    assert_eq!(store.ask(FIVE, Kind::Watch, "n\x000\0"), Err(EEXIST));
    store.ok(FIVE, Kind::Unwatch, "n\x000\0");
    store.ok(FIVE, Kind::Watch, "n\0new\0");
    store.check();
}

#[test]
fn transactions() {
    let mut store = Store::with_guests(&[5, 6]);
    let start = |store: &mut Store, who, _| store.ask(who, Kind::TransactionStart, "\0").map(drop);
    assert_eq!(count(&mut store, ENOSPC, start), 10);
    store.ask_in(FIVE, 3, Kind::TransactionEnd, b"F\0").unwrap();
    assert_eq!(store.start(FIVE), 11);
}

#[test]
fn nodes_that_a_transaction_touches() {
    let mut store = Store::with_guests(&[5, 6]);
    let transactions = [DOM0, FIVE, guest(6)].map(|who| (who, store.start(who)));
    let read = |store: &mut Store, who, number| {
        let transaction = transactions
            .iter()
            .find(|(other, _)| *other == who)
            .unwrap()
            .1;
        let number = if who == FIVE { number } else { 0 };
        let payload = format!("n{number}\0");
        match store.ask_in(who, transaction, Kind::Read, payload.as_bytes()) {
            Ok(_) | Err(ENOENT) => Ok(()),
            Err(error) => Err(error),
        }
    };
    assert_eq!(count(&mut store, ENOSPC, read), 1023);
}

#[test]
fn size_of_a_node() {
    let mut store = Store::with_guests(&[5]);
    let write = |store: &mut Store, who, size| {
        let payload = format!("n\0{}", "x".repeat(size));
        store.ask(who, Kind::Write, &payload)
    };
    assert!(write(&mut store, FIVE, 2048).is_ok());
    assert_eq!(write(&mut store, FIVE, 2049), Err(ENOSPC));
    assert!(write(&mut store, DOM0, 4094).is_ok());
}

#[test]
fn permissions_of_a_node() {
    let mut store = Store::with_guests(&[5]);
    let set = |store: &mut Store, who, path: &str, count: usize| {
        let payload = format!("{path}\0n5\0{}", "r6\0".repeat(count - 1));
        store.ask(who, Kind::SetPermissions, &payload)
    };
    assert!(set(&mut store, FIVE, "/local/domain/5", 5).is_ok());
    assert_eq!(set(&mut store, FIVE, "/local/domain/5", 6), Err(ENOSPC));
    assert!(set(&mut store, DOM0, "/local/domain/5", 100).is_ok());
}

#[test]
fn memory_of_nodes_watches_and_transactions() {
    let mut store = Store::with_guests(&[5, 6]);
    store.ok(DOM0, Kind::SetQuota, "memory\x00100000\0");
    store.ok(DOM0, Kind::SetQuota, "5\0watches\x000\0");
    let value = "x".repeat(2000);
    let write = |store: &mut Store, who, number| {
        let payload = format!("n{number}\0{value}");
        store.ask(who, Kind::Write, &payload).map(drop)
    };
    let nodes = count(&mut store, ENOMEM, write);
    assert!((40..50).contains(&nodes), "{nodes}");
    assert_eq!(
        store.ask(FIVE, Kind::Watch, &format!("n\0{value}\0")),
        Err(ENOMEM)
    );
    let transaction = store.start(FIVE);
    let larger = format!("n0\0{value}");
    let answer = store.ask_in(FIVE, transaction, Kind::Write, larger.as_bytes());
    assert_eq!(answer, Err(ENOMEM));
    // To use less is always possible.
    store.ok(DOM0, Kind::SetQuota, "memory\x001\0");
    store.ok(FIVE, Kind::Write, "n1\0");
    store.ok(FIVE, Kind::Remove, "n2\0");
    assert_eq!(store.ask(FIVE, Kind::Write, "n1\0x"), Err(ENOMEM));

    store.ok(DOM0, Kind::SetQuota, "memory\x00100000\0");
    for number in 3..43 {
        store.ok(FIVE, Kind::Remove, &format!("n{number}\0"));
    }
    let watch = |store: &mut Store, who, number| {
        let payload = format!("n{number}\0{value}\0");
        store.ask(who, Kind::Watch, &payload).map(drop)
    };
    let watches = count(&mut store, ENOMEM, watch);
    assert!((35..50).contains(&watches), "{watches}");
    store.ok(FIVE, Kind::ResetWatches, "\0");

    // All transactions together.
    let (one, two) = (store.start(FIVE), store.start(FIVE));
    let mut written = 0;
    let full = loop {
        let payload = format!("t{written}\0{value}");
        let transaction = [one, two][written % 2];
        match store.ask_in(FIVE, transaction, Kind::Write, payload.as_bytes()) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, ENOMEM);
    assert!((20..35).contains(&written), "{written}");
    store
        .ask_in(FIVE, one, Kind::TransactionEnd, b"F\0")
        .unwrap();
    store.ok_in(FIVE, two, Kind::Write, &format!("again\0{value}"));
    store.commit(FIVE, two).unwrap();
    store.check();
}

#[test]
fn memory_of_what_a_transaction_looked_at() {
    let mut store = Store::with_guests(&[5, 6]);
    store.ok(DOM0, Kind::SetQuota, "memory\x00100000\0");
    let transactions = [DOM0, FIVE, guest(6)].map(|who| (who, store.start(who)));
    let read = |store: &mut Store, who, number| {
        let transaction = transactions.iter().find(|(other, _)| *other == who);
        let number = if who == FIVE { number } else { 0 };
        let payload = format!("{}{number}\0", "x".repeat(1900));
        match store.ask_in(who, transaction.unwrap().1, Kind::Read, payload.as_bytes()) {
            Ok(_) | Err(ENOENT) => Ok(()),
            Err(error) => Err(error),
        }
    };
    let looks = count(&mut store, ENOMEM, read);
    assert!((40..55).contains(&looks), "{looks}");
}

#[test]
fn quotas_are_shown_and_set_for_all_and_for_one() {
    let mut store = Store::with_guests(&[5, 6]);
    let names = store.strings(DOM0, Kind::GetQuota, "")[0].clone();
    assert!(names.starts_with("nodes watches transactions"), "{names}");
    assert_eq!(store.ok(DOM0, Kind::GetQuota, "nodes\0"), b"1000\0");
    store.ok(DOM0, Kind::SetQuota, "5\0nodes\x002\0");
    store.ok(DOM0, Kind::SetQuota, "nodes\x003\0");
    assert_eq!(store.ok(DOM0, Kind::GetQuota, "5\0nodes\0"), b"2\0");
    assert_eq!(store.ok(DOM0, Kind::GetQuota, "6\0nodes\0"), b"3\0");
    store.ok(FIVE, Kind::Write, "a\0");
    assert_eq!(store.ask(FIVE, Kind::Write, "b\0"), Err(ENOSPC));
    store.ok(guest(6), Kind::Write, "a/b\0");
    // 0 is no quota.
    store.ok(DOM0, Kind::SetQuota, "5\0nodes\x000\0");
    store.ok(FIVE, Kind::Write, "b/c/d\0");
    // A domain that comes later has those of all.
    store.ok(DOM0, Kind::Release, "5\0");
    assert_eq!(store.ok(DOM0, Kind::GetQuota, "5\0nodes\0"), b"3\0");
    for (kind, payload) in [
        (Kind::GetQuota, "unknown\0"),
        (Kind::GetQuota, "5\0nodes\x001\0"),
        (Kind::SetQuota, "nodes\0"),
        (Kind::SetQuota, "nodes\0x\0"),
        (Kind::SetQuota, "unknown\x001\0"),
        (Kind::Control, "quota\0set\0unknown\x001\0"),
        (Kind::Control, "quota\0set\0nodes\x000\0"),
    ] {
        assert_eq!(
            store.ask(DOM0, kind, payload),
            Err(EINVAL),
            "{kind:?} {payload:?}"
        );
    }
    store.ok(DOM0, Kind::Control, "quota\0set\0nodes\x0077\0");
    let shown = store.strings(DOM0, Kind::Control, "quota\0")[0].clone();
    assert!(
        shown.contains("nodes            :       77 Nodes per domain\n"),
        "{shown}"
    );
    let used = store.strings(DOM0, Kind::Control, "quota\x006\0")[0].clone();
    assert!(
        used.starts_with("Domain 6:\nnodes           :        3\n"),
        "{used}"
    );
    assert_eq!(store.ask(DOM0, Kind::Control, "quota\x0077\0"), Err(ENOENT));
}
