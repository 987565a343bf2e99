//! How many requests a second the store serves, among a thousand domains, and what it keeps for each:
//! `cargo bench -p xenstore`.

use std::alloc::System;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use xenstore::server::{ClientId, Links, Server};
use xenstore::wire::{self, Kind};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const DOMAINS: u16 = 1000;
const NODES: u32 = 50;
const WATCHES: u32 = 5;

/// Domains whose times are put together for the first and the last of them.
const GROUP: usize = 50;
/// Stores that are filled for that.
const STORES: usize = 5;

struct Nowhere;

impl Links for Nowhere {
    fn introduce(&mut self, _: Domid, _: u64, _: Port, _: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn release(&mut self, _: Domid) {}

    fn print(&mut self, _: &str) {}
}

struct Store {
    server: Server,
    dom0: ClientId,
    /// Transactions so far.
    transactions: u32,
}

impl Store {
    fn ask(&mut self, who: ClientId, transaction: u32, kind: Kind, payload: &[u8]) {
        let request = wire::encode(kind, 1, transaction, payload);
        let taken = self.server.receive(who, &request);
        assert_eq!(taken, Ok(request.len()));
        assert_eq!(self.server.serve(Duration::ZERO, &mut Nowhere), Some(who));
        loop {
            let count = self.server.output(who).len();
            if count == 0 {
                return;
            }
            self.server.sent(who, count);
        }
    }

    /// Creates a domain as a toolstack does: its nodes, in a transaction, and its introduction.
    fn create(&mut self, domain: u16) {
        let dom0 = self.dom0;
        let home = format!("/local/domain/{domain}\0");
        self.transaction(|store, transaction| {
            store.ask(dom0, transaction, Kind::Mkdir, home.as_bytes());
            let owned = format!("{home}n{domain}\0");
            store.ask(dom0, transaction, Kind::SetPermissions, owned.as_bytes());
            for node in 0..NODES - 1 {
                let payload = format!("/local/domain/{domain}/device/{node}\0value");
                store.ask(dom0, transaction, Kind::Write, payload.as_bytes());
            }
        });
        let introduced = format!("{domain}\x001\x001\0");
        self.ask(dom0, 0, Kind::Introduce, introduced.as_bytes());
    }

    fn transaction(&mut self, requests: impl FnOnce(&mut Self, u32)) {
        self.transactions += 1;
        let transaction = self.transactions;
        self.ask(self.dom0, 0, Kind::TransactionStart, b"\0");
        requests(self, transaction);
        self.ask(self.dom0, transaction, Kind::TransactionEnd, b"T\0");
    }

    /// A store with all domains, and how long each took to create.
    fn populated() -> (Self, Vec<Duration>) {
        let mut server = Server::new();
        let dom0 = server.connect();
        let mut store = Self {
            server,
            dom0,
            transactions: 0,
        };
        let mut times = Vec::new();
        for domain in 1..=DOMAINS {
            let start = Instant::now();
            store.create(domain);
            times.push(start.elapsed());
            let client = ClientId::Domain(Domid(domain));
            for watch in 0..WATCHES {
                let payload = format!("device/{watch}\0token\0");
                store.ask(client, 0, Kind::Watch, payload.as_bytes());
            }
        }
        (store, times)
    }
}

/// A client, and the number of its request.
type Turn = (ClientId, u32);

/// The next domain's turn, which is not beside the last one's.
fn turns() -> impl FnMut() -> Turn {
    let mut number = 0;
    move || {
        number += 1;
        let domain = 1 + number * 7 % u32::from(DOMAINS);
        (ClientId::Domain(Domid(domain as u16)), number)
    }
}

fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    store: &mut Store,
    name: &str,
    request: impl Fn(&mut Store, Turn),
) {
    let mut next = turns();
    group.bench_function(name, |bencher| bencher.iter(|| request(store, next())));
}

/// Prints what a node takes and how long a domain takes to create among how many others; the last store is returned.
fn creation() -> Store {
    println!("{DOMAINS} domains, {NODES} nodes and {WATCHES} watches each:");
    let heap = Region::new(HEAP);
    let (mut store, mut times) = Store::populated();
    let change = heap.change();
    let kept = change.bytes_allocated - change.bytes_deallocated;
    let nodes = usize::from(DOMAINS) * NODES as usize;
    println!(
        "memory for a node, watches included: {} bytes",
        kept / nodes
    );
    // The shortest counts: whatever else the machine does makes it no shorter.
    let mut ends = [Duration::MAX; 2];
    for number in 1..=STORES {
        let [first, last] = &mut ends;
        *first = times[..GROUP]
            .iter()
            .fold(*first, |least, it| least.min(*it));
        *last = times[times.len() - GROUP..]
            .iter()
            .fold(*last, |least, it| least.min(*it));
        if number < STORES {
            (store, times) = Store::populated();
        }
    }
    let [first, last] = ends;
    println!("create and introduce one of the first: {first:.2?}");
    let ratio = last.as_secs_f64() / first.as_secs_f64();
    println!("one of the last: {last:.2?}, {ratio:.2} times");
    store
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    let store = &mut creation();
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Elements(1));
    bench(&mut group, store, "read", |store, (who, _)| {
        store.ask(who, 0, Kind::Read, b"device/9\0");
    });
    bench(&mut group, store, "write", |store, (who, number)| {
        let payload = format!("device/9\0{number}");
        store.ask(who, 0, Kind::Write, payload.as_bytes());
    });
    bench(
        &mut group,
        store,
        "write that fires a watch",
        |store, (who, number)| {
            let payload = format!("device/1\0{number}");
            store.ask(who, 0, Kind::Write, payload.as_bytes());
        },
    );
    bench(
        &mut group,
        store,
        "create and remove a node",
        |store, (who, _)| {
            store.ask(who, 0, Kind::Mkdir, b"device/new\0");
            store.ask(who, 0, Kind::Remove, b"device/new\0");
        },
    );
    bench(&mut group, store, "list 49 children", |store, (who, _)| {
        store.ask(who, 0, Kind::Directory, b"device\0");
    });
    let dom0 = store.dom0;
    bench(
        &mut group,
        store,
        "transaction of ten writes",
        |store, (who, number)| {
            let home = format!("/local/domain/{}", who.domain().0);
            store.transaction(|store, transaction| {
                for node in 10..20 {
                    let payload = format!("{home}/device/{node}\0{number}");
                    store.ask(dom0, transaction, Kind::Write, payload.as_bytes());
                }
            });
        },
    );
    group.finish();
    criterion.final_summary();
}
