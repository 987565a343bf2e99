//! Hypercalls that have nothing to do with memory.

use hypercall_abi::version::XENVER_VERSION;
use hypercall_abi::xen::{HYPERVISOR_XEN_VERSION, MulticallEntry};
use pv_guest::clock;
use pv_guest::hypercall::{sched, system, trap};

use super::meter::Meter;

pub fn run(meter: &Meter) {
    meter.measure("null-hypercall", |_| {
        system::version();
    });

    let null = MulticallEntry {
        op: HYPERVISOR_XEN_VERSION.into(),
        args: [XENVER_VERSION.into(), 0, 0, 0, 0, 0],
        ..MulticallEntry::default()
    };
    let mut calls = [null; 8];
    meter.measure("multicall-8", |_| {
        // SAFETY: the calls read a number.
        unsafe { system::multicall(&mut calls) }.expect("a multicall");
    });

    let deadline = clock::now() + 3_600_000_000_000;
    meter.measure("set-timer", |round| {
        sched::set_timer(deadline + round).expect("a timer");
    });
    sched::set_timer(0).expect("a timer can be cancelled");

    meter.measure("stack-switch", |round| {
        // SAFETY: no user mode exists that would make the kernel use this stack.
        unsafe { trap::stack_switch(pv_guest::traps::KERNEL_SS, round * 16) }.expect("a stack");
    });
}
