//! Connections that end.

use std::sync::atomic::Ordering::Relaxed;

use hypercall_abi::io::xs_wire::{XENSTORE_ERROR_RINGIDX, XENSTORE_RING_SIZE};
use pv_guest::store::{Error, Failure};
use split_drivers::SharedMemory;
use xenstore::wire::Kind;

use crate::harness::{REQ_PROD, RSP_PROD, System};

impl System {
    /// Has the store find the guest's index wrong, and end the connection.
    fn break_it(&mut self) {
        let page = &self.guest.page;
        let index = page.load_index(REQ_PROD);
        page.store_index(REQ_PROD, index.wrapping_add(XENSTORE_RING_SIZE as u32 + 1));
        self.serve();
    }
}

#[test]
fn a_connection_that_failed_is_renewed_and_what_was_under_way_is_lost() {
    let mut system = System::new();
    let store = system.guest.store.clone();
    let again = store.clone();
    system.run(async move { store.write("a", "1").await.unwrap() });
    let store = again.clone();
    let lost = system.guest.spawn(async move { store.read("a").await });
    system.break_it();
    assert_eq!(system.finish(lost), Err(Error::Lost));
    let value = system.run(async move { again.read("a").await });
    assert_eq!(value.unwrap(), b"1");
    assert_eq!(system.guest.reconnections.load(Relaxed), 1);
}

#[test]
fn watches_outlive_the_connection_and_fire() {
    let mut system = System::new();
    let store = system.guest.store.clone();
    let task = system.guest.spawn(async move {
        let mut watch = store.watch("data");
        let mut events = Vec::new();
        for _ in 0..3 {
            events.push(watch.next().await.unwrap());
        }
        (events, watch)
    });
    system.settle();
    system.break_it();
    system.settle();
    system.dom0(Kind::Write, "/local/domain/5/data/a\0");
    let (events, watch) = system.finish(task);
    assert_eq!(events, ["data", "data", "data/a"]);
    assert_eq!(system.quota("watches"), 1);
    drop(watch);
    system.settle();
    assert_eq!(system.quota("watches"), 0);
}

#[test]
fn a_transaction_that_lost_its_connection_begins_anew() {
    let mut system = System::new();
    let store = system.guest.store.clone();
    let (started, wait) = std::sync::mpsc::channel();
    let task = system.guest.spawn(async move {
        store
            .transaction(async |requests| {
                requests.write("a", "1").await?;
                started.send(()).unwrap();
                // The first time, this waits for a connection that ends.
                requests.write("b", "1").await
            })
            .await
    });
    while wait.try_recv().is_err() {
        system.guest.settle();
        system.serve();
        system.guest.settle();
    }
    system.break_it();
    assert_eq!(system.finish(task), Ok(()));
    assert_eq!(system.dom0(Kind::Read, "/local/domain/5/b\0"), b"1");
    assert_eq!(system.quota("transactions"), 0);
}

#[test]
fn where_there_is_no_other_connection_all_is_an_error() {
    let mut system = System::without_reconnection();
    let store = system.guest.store.clone();
    let mut watch = store.watch("data");
    system.settle();
    let waiting = system.guest.spawn({
        let store = store.clone();
        async move { store.read("a").await }
    });
    system.guest.page.store_index(RSP_PROD, 0x8000_0000);
    let failed = Error::Failed(Failure(XENSTORE_ERROR_RINGIDX));
    assert_eq!(system.finish(waiting), Err(failed));
    system.run(async move {
        // What came before is not known to be true any more.
        assert_eq!(watch.next().await, Err(failed));
        assert_eq!(store.write("a", "").await, Err(failed));
        assert_eq!(store.transaction(async |_| Ok(())).await, Err(failed));
        assert_eq!(store.watch("b").next().await, Err(failed));
    });
}

#[test]
fn a_store_that_answers_nothing_is_not_asked_for_ever() {
    let system = System::new();
    let store = system.guest.store.clone();
    let page = system.guest.page.clone();
    let task = system.guest.spawn(async move { store.read("a").await });
    // It claims to have connected, and its indices make no sense.
    for _ in 0..10 {
        page.store_index(
            RSP_PROD,
            page.load_index(RSP_PROD).wrapping_add(0x1000_0000),
        );
        system.guest.settle();
        page.store_index(
            std::mem::offset_of!(
                hypercall_abi::io::xs_wire::XenstoreDomainInterface,
                connection
            ),
            0,
        );
    }
    assert_eq!(system.guest.reconnections.load(Relaxed), 1);
    assert_eq!(crate::harness::result(task), Err(Error::Lost));
}
