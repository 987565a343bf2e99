//! Watches.

use std::pin::pin;
use std::task::Poll;

use hypercall_abi::errno::Errno;
use pv_guest::store::{Error, Watch};
use xenstore::wire::Kind;

use crate::harness::System;

/// The events that are there, and none is waited for.
async fn events(watch: &mut Watch) -> Vec<String> {
    let mut events = Vec::new();
    while let Some(event) = std::future::poll_fn(|context| {
        Poll::Ready(match watch.poll_next(context) {
            Poll::Ready(event) => Some(event.unwrap()),
            Poll::Pending => None,
        })
    })
    .await
    {
        events.push(event);
    }
    events
}

#[test]
fn a_watch_fires_at_once_and_for_each_change_below_it() {
    let mut system = System::new();
    let store = system.guest.store.clone();
    system.run(async move {
        let mut watch = store.watch("data");
        let mut other = store.watch("other");
        assert_eq!(watch.next().await.unwrap(), "data");
        store.write("data/a", "").await.unwrap();
        assert_eq!(watch.next().await.unwrap(), "data/a");
        store.write("other", "").await.unwrap();
        store.write("data", "").await.unwrap();
        assert_eq!(watch.next().await.unwrap(), "data");
        assert_eq!(other.next().await.unwrap(), "other");
    });
}

#[test]
fn changes_by_dom0_wake_the_task_that_waits() {
    let mut system = System::new();
    let store = system.guest.store.clone();
    let task = system.guest.spawn(async move {
        let mut watch = store.watch("memory/target");
        watch.next().await.unwrap();
        watch.next().await
    });
    system.settle();
    assert!(!task.is_finished());
    system.dom0(Kind::Write, "/local/domain/5/memory/target\x001");
    assert_eq!(system.finish(task), Ok("memory/target".to_owned()));
}

#[test]
fn a_watch_that_is_dropped_ends() {
    let mut system = System::new();
    let store = system.guest.store.clone();
    system.run(async move {
        let mut watch = store.watch("data");
        watch.next().await.unwrap();
        // This one was never looked at.
        drop(store.watch("data"));
    });
    system.settle();
    assert_eq!(system.quota("watches"), 0);
}

#[test]
fn a_watch_that_the_store_refuses_says_so() {
    let mut system = System::new();
    let store = system.guest.store.clone();
    system.run(async move {
        let error = store.watch("a//b").next().await;
        assert_eq!(error, Err(Error::Refused(Errno::EINVAL)));
        // As many as the quota allows, and one more.
        let mut watches: Vec<_> = (0..128).map(|_| store.watch("data")).collect();
        let mut excess = pin!(store.watch("data"));
        for watch in &mut watches {
            watch.next().await.unwrap();
        }
        let error = excess.next().await;
        assert_eq!(error, Err(Error::Refused(Errno::E2BIG)));
    });
}

#[test]
fn changes_nobody_looks_at_become_one_and_none_is_lost() {
    let mut system = System::new();
    let store = system.guest.store.clone();
    system.run(async move {
        let mut watch = store.watch("data");
        watch.next().await.unwrap();
        for _ in 0..50 {
            store.write("data/a", "").await.unwrap();
        }
        assert_eq!(events(&mut watch).await, ["data/a"]);
        for number in 0..500 {
            let path = format!("data/{number}");
            store.write(&path, "").await.unwrap();
        }
        let seen = events(&mut watch).await;
        assert!(
            seen.len() <= 32 && seen.contains(&"data".to_owned()),
            "{seen:?}"
        );
    });
}
