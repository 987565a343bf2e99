//! Requests and transactions.

use std::cell::Cell;
use std::rc::Rc;

use hypercall_abi::errno::Errno;
use pv_guest::store::Error;
use pv_guest::yield_now;
use xenstore::wire::Kind;

use crate::harness::System;

fn refused<T>(errno: Errno) -> Result<T, Error> {
    Err(Error::Refused(errno))
}

#[test]
fn a_node_is_written_read_listed_protected_and_removed() {
    let mut system = System::new();
    let store = system.guest.store.clone();
    system.run(async move {
        store.write("data/a", "12").await.unwrap();
        store.mkdir("data/b").await.unwrap();
        assert_eq!(store.read("data/a").await.unwrap(), b"12");
        assert_eq!(store.parse::<u64>("data/a").await, Ok(12));
        assert_eq!(store.read("/local/domain/5/data/b").await.unwrap(), b"");
        assert_eq!(store.directory("data").await.unwrap(), ["a", "b"]);
        store
            .set_permissions("data/a", &["n5", "r6"])
            .await
            .unwrap();
        assert_eq!(store.permissions("data/a").await.unwrap(), ["n5", "r6"]);
        store.remove("data/a").await.unwrap();
        assert_eq!(store.read("data/a").await, refused(Errno::ENOENT));
    });
}

#[test]
fn what_the_store_refuses_or_cannot_be_sent_is_an_error() {
    let mut system = System::new();
    let store = system.guest.store.clone();
    system.run(async move {
        assert_eq!(store.write("/a", "").await, refused(Errno::EACCES));
        assert_eq!(store.read("a//b").await, refused(Errno::EINVAL));
        assert_eq!(store.read("a\0b").await, refused(Errno::EINVAL));
        assert_eq!(store.write("a", vec![0; 5000]).await, refused(Errno::E2BIG));
        store.write("a", "no number").await.unwrap();
        assert_eq!(store.parse::<u64>("a").await, refused(Errno::EINVAL));
    });
}

#[test]
fn requests_of_many_tasks_are_under_way_at_once_and_each_gets_its_reply() {
    let mut system = System::new();
    let store = system.guest.store.clone();
    let tasks: Vec<_> = (0..100)
        .map(|number| {
            let store = store.clone();
            system.guest.spawn(async move {
                let path = format!("data/{number}");
                // More than the ring holds.
                let value = [number; 300];
                store.write(&path, value).await.unwrap();
                store.read(&path).await == Ok(value.to_vec())
            })
        })
        .collect();
    for task in tasks {
        assert!(system.finish(task));
    }
}

#[test]
fn a_transaction_others_came_between_begins_anew() {
    let mut system = System::new();
    system.dom0(Kind::Write, "/local/domain/5/n\x001");
    let attempts = Rc::new(Cell::new(0));
    let (store, tries) = (system.guest.store.clone(), attempts.clone());
    let task = system.guest.spawn(async move {
        let (outside, tries) = (store.clone(), &tries);
        store
            .transaction(async move |requests| {
                let number: u32 = requests.parse("n").await?;
                tries.set(tries.get() + 1);
                if tries.get() < 3 {
                    outside.write("n", (number * 10).to_string()).await?;
                }
                requests.write("n", (number + 1).to_string()).await?;
                Ok(number)
            })
            .await
    });
    assert_eq!(system.finish(task), Ok(100));
    assert_eq!(attempts.get(), 3);
    assert_eq!(system.dom0(Kind::Read, "/local/domain/5/n\0"), b"101");
    assert_eq!(system.quota("transactions"), 0);
}

#[test]
fn a_transaction_whose_body_fails_changes_nothing_and_is_over() {
    let mut system = System::new();
    system.dom0(Kind::Write, "/local/domain/5/n\x001");
    let store = system.guest.store.clone();
    let result: Result<(), Error> = system.run(async move {
        store
            .transaction(async |requests| {
                requests.write("n", "2").await?;
                requests.read("absent").await?;
                Ok(())
            })
            .await
    });
    assert_eq!(result, refused(Errno::ENOENT));
    system.settle();
    assert_eq!(system.dom0(Kind::Read, "/local/domain/5/n\0"), b"1");
    assert_eq!(system.quota("transactions"), 0);
}

#[test]
fn who_is_not_waited_for_any_more_leaves_no_transaction_behind() {
    // However far the task came.
    for turns in 0..12 {
        let mut system = System::new();
        let store = system.guest.store.clone();
        system.run(async move {
            let mut transaction = Box::pin(store.transaction(async |requests| {
                requests.write("a", "x").await?;
                requests.write("b", "x").await
            }));
            for _ in 0..turns {
                let poll = std::future::poll_fn(|context| {
                    let poll = transaction.as_mut().poll(context);
                    std::task::Poll::Ready(poll.is_ready())
                });
                if poll.await {
                    return;
                }
                store.read("a").await.ok();
                yield_now().await;
            }
        });
        system.settle();
        assert_eq!(system.quota("transactions"), 0, "after {turns} turns");
    }
}
