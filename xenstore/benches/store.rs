//! How many requests a second the store serves, among a thousand domains, and what it keeps for each:
//! `cargo bench -p xenstore`.

use std::alloc::System;
use std::time::{Duration, Instant};

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
const REQUESTS: u32 = 200_000;

/// Domains whose times are put together for the first and the last of them.
const GROUP: usize = 50;

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

/// The shortest time: whatever else the machine does makes it no shorter.
fn shortest(times: &[Duration]) -> Duration {
    times.iter().min().copied().unwrap_or_default()
}

fn bench(store: &mut Store, name: &str, mut request: impl FnMut(&mut Store, ClientId, u32)) {
    let start = Instant::now();
    for number in 0..REQUESTS {
        let domain = 1 + number * 7 % u32::from(DOMAINS);
        request(store, ClientId::Domain(Domid(domain as u16)), number);
    }
    let each = start.elapsed() / REQUESTS;
    let rate = 1.0 / each.as_secs_f64();
    println!("{name:<44} {each:>10.2?} {rate:>10.0} a second");
}

fn main() {
    println!("{DOMAINS} domains, {NODES} nodes and {WATCHES} watches each:");
    let heap = Region::new(HEAP);
    let (mut store, times) = Store::populated();
    let change = heap.change();
    let kept = change.bytes_allocated - change.bytes_deallocated;
    let nodes = usize::from(DOMAINS) * NODES as usize;
    println!(
        "{:<44} {:>10} bytes",
        "memory for a node, watches included",
        kept / nodes
    );
    let [first, last] = [&times[..GROUP], &times[times.len() - GROUP..]].map(shortest);
    println!(
        "{:<44} {first:>10.2?}",
        "create and introduce one of the first"
    );
    let ratio = last.as_secs_f64() / first.as_secs_f64();
    println!(
        "{:<44} {last:>10.2?} {ratio:>10.2} times",
        "one of the last"
    );

    bench(&mut store, "read", |store, who, _| {
        store.ask(who, 0, Kind::Read, b"device/9\0");
    });
    bench(&mut store, "write", |store, who, number| {
        let payload = format!("device/9\0{number}");
        store.ask(who, 0, Kind::Write, payload.as_bytes());
    });
    bench(
        &mut store,
        "write that fires a watch",
        |store, who, number| {
            let payload = format!("device/1\0{number}");
            store.ask(who, 0, Kind::Write, payload.as_bytes());
        },
    );
    bench(&mut store, "create and remove a node", |store, who, _| {
        store.ask(who, 0, Kind::Mkdir, b"device/new\0");
        store.ask(who, 0, Kind::Remove, b"device/new\0");
    });
    bench(&mut store, "list 49 children", |store, who, _| {
        store.ask(who, 0, Kind::Directory, b"device\0");
    });
    let dom0 = store.dom0;
    bench(
        &mut store,
        "transaction of ten writes",
        |store, _, number| {
            let home = format!("/local/domain/{}", 1 + number % u32::from(DOMAINS));
            store.transaction(|store, transaction| {
                for node in 10..20 {
                    let payload = format!("{home}/device/{node}\0{number}");
                    store.ask(dom0, transaction, Kind::Write, payload.as_bytes());
                }
            });
        },
    );
}
