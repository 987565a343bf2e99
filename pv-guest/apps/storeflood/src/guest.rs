//! What the guest does.

extern crate alloc;

use alloc::format;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use core::future::pending;
use core::time::Duration;

use pv_guest::power::{Reason, shutdown};
use pv_guest::store::{Error, Store, Watch, store};
use pv_guest::{boot, clock, control, println, spawn};

pv_guest::entry!(main);

/// Requests under way at a time: far more than the ring holds.
const TASKS: u32 = 64;

const TRANSACTIONS: u32 = 1000;
const WATCHES: u32 = 10_000;
/// What a node may hold.
const VALUE: usize = 2048;
/// Names that are written: more than a domain may have nodes.
const NODES: u32 = 2000;

/// Requests of a kind whose times are put together.
const SAMPLES: usize = 100;

async fn main() {
    let store = match store() {
        Ok(store) => store,
        Err(error) => {
            println!("storeflood: {error}");
            shutdown(Reason::Crash)
        }
    };
    spawn(control::obey(async |_| ())).detach();
    let asked = |word| boot::command_line().split(' ').any(|it| it == word);
    if asked("measure") {
        measure(store).await;
    } else if asked("transactions") {
        loop {
            open_transactions(&store).await;
        }
    } else if asked("watches") {
        let mut watches = Vec::new();
        loop {
            watches.extend(set_watches(&store).await);
        }
    } else if asked("rewatch") {
        loop {
            drop(set_watches(&store).await);
        }
    } else if asked("requests") {
        make_requests(store).await;
    } else {
        open_transactions(&store).await;
        let _watches = set_watches(&store).await;
        make_requests(store).await;
    }
}

/// Prints, again and again, how long requests take.
async fn measure(store: Store) {
    for round in 1.. {
        match sample(&store).await {
            Ok([read, write, mean]) => println!(
                "storeflood: round {round}: median read {read} us, write {write} us, mean {mean} us"
            ),
            Err(error) => println!("storeflood: round {round}: {error}"),
        }
        clock::sleep(Duration::from_millis(100)).await;
    }
}

/// The median times of a read and a write, and the mean of both, in microseconds.
async fn sample(store: &Store) -> Result<[u64; 3], Error> {
    let mut times = [const { Vec::new() }; 2];
    let begin = clock::now();
    for _ in 0..SAMPLES {
        let start = clock::now();
        store.read("name").await?;
        let between = clock::now();
        store.write("data/sample", "value").await?;
        times[0].push((between - start) / 1000);
        times[1].push((clock::now() - between) / 1000);
    }
    let mean = (clock::now() - begin) / (2000 * SAMPLES as u64);
    let [read, write] = times.map(|mut times| {
        times.sort_unstable();
        times[SAMPLES / 2]
    });
    Ok([read, write, mean])
}

/// What the store said to requests of a kind.
#[derive(Default)]
struct Count {
    done: Cell<u32>,
    refused: Cell<u32>,
}

impl Count {
    fn note<T>(&self, result: &Result<T, Error>) {
        let count = match result {
            Ok(_) => &self.done,
            Err(_) => &self.refused,
        };
        count.set(count.get() + 1);
    }
}

/// Writes nodes and lists them, as fast as the store answers.
async fn make_requests(store: Store) {
    let requests = Rc::new(Count::default());
    for task in 0..TASKS {
        spawn(write_on(store.clone(), task, requests.clone())).detach();
    }
    for second in 1.. {
        clock::sleep(Duration::from_secs(1)).await;
        println!(
            "storeflood: {second} s: {} requests done, {} refused",
            requests.done.take(),
            requests.refused.take()
        );
    }
}

/// Begins transactions that never end.
async fn open_transactions(store: &Store) {
    let count = Rc::new(Count::default());
    for _ in 0..TRANSACTIONS {
        let (store, count) = (store.clone(), count.clone());
        spawn(async move {
            let opened = Cell::new(false);
            let result: Result<(), Error> = store
                .transaction(async |requests| {
                    // As much as it may keep to itself.
                    _ = requests.write("data/open", vec![1; VALUE]).await;
                    opened.set(true);
                    count.note(&Ok(()));
                    pending().await
                })
                .await;
            if !opened.get() {
                count.note(&result);
            }
        })
        .detach();
    }
    while count.done.get() + count.refused.get() < TRANSACTIONS {
        clock::sleep(Duration::from_millis(10)).await;
    }
    println!(
        "storeflood: {} transactions open, {} refused",
        count.done.get(),
        count.refused.get()
    );
}

/// Sets watches, all of which its own requests fire.
async fn set_watches(store: &Store) -> Vec<Watch> {
    let count = Count::default();
    let mut watches = Vec::new();
    // All at once, as far as the ring goes.
    let all: Vec<Watch> = (0..WATCHES).map(|_| store.watch("data")).collect();
    for mut watch in all {
        let first = watch.next().await;
        count.note(&first);
        if first.is_ok() {
            watches.push(watch);
        }
    }
    println!(
        "storeflood: {} watches set, {} refused",
        count.done.get(),
        count.refused.get()
    );
    watches
}

/// Makes requests for ever.
async fn write_on(store: Store, task: u32, count: Rc<Count>) {
    for number in 0.. {
        let path = format!("data/{task}/{}", number % NODES);
        count.note(&store.write(&path, vec![task as u8; VALUE]).await);
        count.note(&store.directory("data").await);
    }
}
