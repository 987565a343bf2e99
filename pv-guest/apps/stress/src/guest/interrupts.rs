//! Interrupts between vCPUs: each that is sent is seen, by the vCPU that it is for.

use core::hint::spin_loop;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;

use hypercall_abi::types::Port;
use pv_guest::events::EventChannel;
use pv_guest::hypercall::{event_channel, sched};
use pv_guest::vcpus::{self, MAX_VCPUS};
use pv_guest::{clock, yield_now};

use super::{Count, LIMIT, fail};

/// How many were sent.
pub static SENT: Count = Count::new();

/// From one vCPU to another.
struct Line {
    port: AtomicU32,
    sent: AtomicU32,
    seen: AtomicU32,
}

static LINES: [[Line; MAX_VCPUS]; MAX_VCPUS] = [const {
    [const {
        Line {
            port: AtomicU32::new(0),
            sent: AtomicU32::new(0),
            seen: AtomicU32::new(0),
        }
    }; MAX_VCPUS]
}; MAX_VCPUS];

/// Binds a port for each pair.
pub fn init(vcpus: u32) {
    for from in &LINES[..vcpus as usize] {
        for (to, line) in (0..vcpus).zip(from) {
            let channel = match EventChannel::bind_ipi_of(to) {
                Ok(channel) => channel,
                Err(error) => fail(format_args!("no port for vCPU {to}: {error}")),
            };
            line.port.store(channel.port().0, SeqCst);
            channel.set_handler(handle);
            core::mem::forget(channel);
        }
    }
}

fn handle(port: Port) {
    let to = vcpus::current() as usize;
    let line = LINES
        .iter()
        .map(|from| &from[to])
        .find(|line| line.port.load(SeqCst) == port.0);
    match line {
        Some(line) => line.seen.store(line.sent.load(SeqCst), SeqCst),
        None => fail(format_args!("port {} is another vCPU's", port.0)),
    }
}

/// Sends one, and waits until it is seen.
pub async fn exchange(from: u32, to: u32) {
    const SPINS: u32 = 500;
    let line = &LINES[from as usize][to as usize];
    let number = line.sent.fetch_add(1, SeqCst) + 1;
    SENT.add();
    if let Err(error) = event_channel::send(Port(line.port.load(SeqCst))) {
        fail(format_args!("no interrupt can be sent to {to}: {error}"));
    }
    let deadline = clock::now() + LIMIT;
    let mut spins = 0;
    while line.seen.load(SeqCst) != number {
        if clock::now() > deadline {
            fail(format_args!("interrupt {number} to vCPU {to} is lost"));
        }
        spins += 1;
        if spins % SPINS == 0 {
            sched::yield_now();
            yield_now().await;
        } else {
            spin_loop();
        }
    }
}
