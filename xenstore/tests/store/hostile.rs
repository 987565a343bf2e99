//! Clients that send whatever they like.

use hypercall_abi::errno::Errno::*;
use hypercall_abi::types::Domid;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use xenstore::server::ClientId;
use xenstore::wire::{self, Kind};

use crate::harness::{DOM0, Store, guest};

const FIVE: ClientId = ClientId::Domain(Domid(5));

#[test]
fn the_deepest_path_needs_little_stack() {
    let work = || {
        let mut store = Store::with_guests(&[5]);
        store.ok(DOM0, Kind::SetQuota, "nodes\x000\0");
        store.ok(DOM0, Kind::SetQuota, "memory\x000\0");
        let deep = ["a"; 1000].join("/");
        let transaction = store.start(FIVE);
        store.ok(FIVE, Kind::Watch, &format!("{deep}\0t\0"));
        store.ok_in(FIVE, transaction, Kind::Write, &format!("{deep}\0x"));
        store.commit(FIVE, transaction).unwrap();
        assert_eq!(store.events(FIVE).len(), 2);
        store.ok(FIVE, Kind::Directory, &format!("{deep}\0"));
        let wide = store.start(FIVE);
        store.ok_in(FIVE, wide, Kind::Remove, "a\0");
        store.ok(FIVE, Kind::Remove, "a\0");
        assert_eq!(store.events(FIVE).len(), 1);
        store.check();
    };
    let thread = std::thread::Builder::new().stack_size(64 << 10);
    thread.spawn(work).unwrap().join().unwrap();
}

#[test]
fn transactions_that_never_end_do_not_keep_the_past_for_ever() {
    let mut store = Store::with_guests(&[5, 6]);
    for _ in 0..10 {
        store.start(FIVE);
    }
    for number in 0..30_000 {
        store.ok(guest(6), Kind::Write, &format!("a\0{number}"));
        store.events(guest(6));
    }
    store.ok(DOM0, Kind::SetPermissions, "/local/domain/6/a\0r6\0");
    for id in 1..=10 {
        // Their copy is not that of the beginning, where there was no such node.
        let seen = store.ask_in(FIVE, id, Kind::Read, b"/local/domain/6/a\0");
        assert_eq!(seen, Err(EACCES));
        assert_eq!(store.commit(FIVE, id), Err(EAGAIN));
    }
}

/// What payloads are made of.
const WORDS: [&str; 16] = [
    "/",
    "a",
    "/a",
    "\0",
    "\0",
    "@releaseDomain",
    "5",
    "n5",
    "r6",
    "T",
    "1",
    "-",
    "\u{e4}",
    "/local/domain/6",
    "quota",
    "set",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_of_any_content_are_answered_and_leave_all_in_order(
        requests in vec((0..30_u32, 0..3_u32, vec(select(&WORDS[..]), 0..8)), 1..100),
    ) {
        let mut store = Store::with_guests(&[5, 6]);
        for (kind, transaction, parts) in requests {
            let payload = parts.concat().into_bytes();
            let mut bytes = wire::encode(Kind::Read, 1, transaction, &payload);
            bytes[..4].copy_from_slice(&kind.to_le_bytes());
            prop_assert_eq!(store.server.receive(FIVE, &bytes), Ok(bytes.len()));
            prop_assert_eq!(store.server.serve(store.now, &mut store.world), Some(FIVE));
            prop_assert!(!store.server.output(FIVE).is_empty());
            store.receive(FIVE);
            prop_assert_eq!(store.server.check(), Ok(()));
        }
        prop_assert!(store.world.released.is_empty() && store.world.printed.is_empty());
        prop_assert!(store.ask(guest(6), Kind::Write, "mine\0x").is_ok());
    }
}
