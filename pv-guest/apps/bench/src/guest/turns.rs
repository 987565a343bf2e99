//! Whose turn it is: switching between two vCPUs of one processor, and being woken by a timer.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicBool, AtomicU64};

use hypercall_abi::event_channel::EVTCHNSTAT_VIRQ;
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::xen::VIRQ_TIMER;
use pv_guest::hypercall::{event_channel, sched, vcpu};
use pv_guest::{clock, cpu, vcpus};

use super::meter::{Meter, report};
use super::sleeper::Sleeper;

/// The vCPU that ran last.
static LAST: AtomicU64 = AtomicU64::new(0);
/// How often the other one ran.
static SWITCHES: AtomicU64 = AtomicU64::new(0);
/// The second vCPU is to go.
static ENOUGH: AtomicBool = AtomicBool::new(false);

/// Lets the other vCPU go first.
fn give_way(own: u64) {
    sched::yield_now();
    if LAST.swap(own, SeqCst) != own {
        SWITCHES.fetch_add(1, SeqCst);
    }
}

/// Measures what it takes until the other of two vCPUs runs.
pub fn switches(meter: &Meter) {
    const NAME: &str = "vcpu-switch";
    if !meter.wants(NAME) || vcpus::count() < 2 {
        return;
    }
    let other = || async {
        while !ENOUGH.load(SeqCst) {
            give_way(1);
        }
    };
    vcpus::start(1, other).expect("a second vCPU");
    let mut best = u64::MAX;
    for _ in 0..meter.batches() {
        let (start, before) = (cpu::tsc(), SWITCHES.load(SeqCst));
        (0..meter.rounds()).for_each(|_| give_way(0));
        let took = cpu::tsc() - start;
        let switches = SWITCHES.load(SeqCst) - before;
        best = best.min(took.checked_div(switches).unwrap_or(u64::MAX));
    }
    ENOUGH.store(true, SeqCst);
    while vcpu::is_up(1).expect("it is there") {
        sched::yield_now();
    }
    report(NAME, best);
}

/// Measures by how much a timer is late for a vCPU that sleeps: the median of a few hundred.
pub fn timer(meter: &Meter) {
    const NAME: &str = "timer-latency";
    const TIMES: usize = 301;
    /// Nanoseconds, far enough for everybody to be asleep.
    const AHEAD: u64 = 300_000;
    if !meter.wants(NAME) {
        return;
    }
    let mut sleeper = Sleeper::new(timer_port(), || false);
    let mut late: Vec<u64> = (0..TIMES)
        .map(|_| {
            let deadline = clock::now() + AHEAD;
            sched::set_timer(deadline).expect("a timer can be set");
            sleeper.wait();
            clock::now().saturating_sub(deadline)
        })
        .collect();
    drop(sleeper);
    late.sort_unstable();
    let median = u128::from(late[TIMES / 2]);
    report(
        NAME,
        (median * u128::from(clock::tsc_frequency()) / 1_000_000_000) as u64,
    );
}

/// The port of the boot vCPU's timer.
fn timer_port() -> Port {
    let is_timer = |port: &Port| {
        event_channel::status(Domid::SELF, *port).is_ok_and(|status| {
            status.status == EVTCHNSTAT_VIRQ
                && status.vcpu == 0
                && status.u.get::<u32>() == VIRQ_TIMER
        })
    };
    (1..64)
        .map(Port)
        .find(is_timer)
        .expect("the library has bound it")
}
