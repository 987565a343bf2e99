//! What a domain can have dom0 keep for it, in bytes of the heap: it has a process of its own, since
//! all that is allocated in one is counted.
#![forbid(unsafe_code)]

use std::alloc::System;
use std::time::Duration;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use xenstore::server::{ClientId, Links, Server};
use xenstore::wire::{self, Kind};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What its nodes, watches and transactions are accounted for.
const QUOTA: usize = (2 << 20) + (512 << 10);

/// Replies that it does not take, and events, of which there is at most one for each watch.
const OUTPUT: usize = 20 * 4200 + 128 * 4200;

struct Nowhere;

impl Links for Nowhere {
    fn introduce(&mut self, _: Domid, _: u64, _: Port, _: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn release(&mut self, _: Domid) {}

    fn print(&mut self, _: &str) {}
}

/// Serves until there is nothing to do.
fn serve(server: &mut Server) {
    while server.serve(Duration::ZERO, &mut Nowhere).is_some() {}
}

fn ask(server: &mut Server, who: ClientId, transaction: u32, kind: Kind, payload: &[u8]) {
    let request = wire::encode(kind, 1, transaction, payload);
    // With too many replies not taken, requests wait.
    if server.receive(who, &request) == Ok(request.len()) {
        serve(server);
    }
}

/// Takes all output.
fn take(server: &mut Server, who: ClientId) {
    loop {
        match server.output(who).len() {
            0 => return,
            count => server.sent(who, count),
        }
        serve(server);
    }
}

#[test]
fn a_domain_that_does_its_worst_costs_no_more_than_its_quota() {
    let mut server = Server::new();
    let dom0 = server.connect();
    for (kind, payload) in [
        (Kind::Mkdir, &b"/local/domain/5\0"[..]),
        (Kind::SetPermissions, b"/local/domain/5\0n5\0"),
        (Kind::Introduce, b"5\x001\x001\0"),
    ] {
        ask(&mut server, dom0, 0, kind, payload);
        take(&mut server, dom0);
    }
    let five = ClientId::Domain(Domid(5));
    let heap = Region::new(HEAP);
    // Nodes with long names and large values, until no more are taken.
    let long = "n".repeat(200);
    for node in 0..2000 {
        for value in [&[][..], &[1; 500], &[1; 2048]] {
            let payload = [format!("data/{long}{node}\0").as_bytes(), value].concat();
            ask(&mut server, five, 0, Kind::Write, &payload);
            take(&mut server, five);
        }
    }
    for watch in 0..10_000 {
        let payload = format!("data\0{}{watch}\0", "t".repeat(900));
        ask(&mut server, five, 0, Kind::Watch, payload.as_bytes());
        take(&mut server, five);
    }
    for transaction in 1..=1000 {
        ask(&mut server, five, 0, Kind::TransactionStart, b"\0");
        take(&mut server, five);
        for node in 0..200 {
            let payload = [format!("data/{node}\0").as_bytes(), &[2; 2048]].concat();
            ask(&mut server, five, transaction, Kind::Write, &payload);
            take(&mut server, five);
        }
    }
    // Nothing is taken from here on.
    for node in 0..2000 {
        let payload = format!("data/{long}{node}\0value");
        ask(&mut server, five, 0, Kind::Write, payload.as_bytes());
        ask(&mut server, five, 0, Kind::Directory, b"data\0");
    }
    let change = heap.change();
    let kept = change.bytes_allocated - change.bytes_deallocated;
    assert!(kept <= QUOTA + OUTPUT, "{kept} bytes");
    // It did try.
    assert!(kept > QUOTA / 4, "{kept} bytes");
    assert_eq!(server.check(), Ok(()));
}
