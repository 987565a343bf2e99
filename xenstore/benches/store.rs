//! How many requests a second the store serves, among a thousand domains: `cargo bench -p xenstore`.

use std::time::{Duration, Instant};

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use xenstore::server::{ClientId, Links, Server};
use xenstore::wire::{self, Kind};

const DOMAINS: u16 = 1000;
const REQUESTS: u32 = 200_000;

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

    fn populated() -> Self {
        let mut server = Server::new();
        let dom0 = server.connect();
        let mut store = Self { server, dom0 };
        for domain in 1..=DOMAINS {
            let home = format!("/local/domain/{domain}\0");
            store.ask(dom0, 0, Kind::Mkdir, home.as_bytes());
            let owned = format!("{home}n{domain}\0");
            store.ask(dom0, 0, Kind::SetPermissions, owned.as_bytes());
            let introduced = format!("{domain}\x001\x001\0");
            store.ask(dom0, 0, Kind::Introduce, introduced.as_bytes());
            let client = ClientId::Domain(Domid(domain));
            for node in 0..50 {
                let payload = format!("device/{node}\0value");
                store.ask(client, 0, Kind::Write, payload.as_bytes());
            }
            for watch in 0..5 {
                let payload = format!("device/{watch}\0token\0");
                store.ask(client, 0, Kind::Watch, payload.as_bytes());
            }
        }
        store
    }
}

fn bench(store: &mut Store, name: &str, mut request: impl FnMut(&mut Store, ClientId, u32)) {
    let start = Instant::now();
    for number in 0..REQUESTS {
        let domain = 1 + number * 7 % u32::from(DOMAINS);
        request(store, ClientId::Domain(Domid(domain as u16)), number);
    }
    let each = start.elapsed() / REQUESTS;
    println!("{name:<44} {each:>10.2?}");
}

fn main() {
    let mut store = Store::populated();
    println!("{DOMAINS} domains, 50 nodes and 5 watches each:");
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
    bench(&mut store, "list 50 children", |store, who, _| {
        store.ask(who, 0, Kind::Directory, b"device\0");
    });
    let dom0 = store.dom0;
    let mut transaction = 0;
    bench(
        &mut store,
        "transaction of a read and a write",
        |store, _, number| {
            transaction += 1;
            let path = format!(
                "/local/domain/{}/device/7\0",
                1 + number % u32::from(DOMAINS)
            );
            store.ask(dom0, 0, Kind::TransactionStart, b"\0");
            store.ask(dom0, transaction, Kind::Read, path.as_bytes());
            let payload = format!("{path}{number}");
            store.ask(dom0, transaction, Kind::Write, payload.as_bytes());
            store.ask(dom0, transaction, Kind::TransactionEnd, b"T\0");
        },
    );
}
