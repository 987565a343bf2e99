//! Performance counters: what the hypervisor did for its guests, as `XEN_SYSCTL_perfc_op` shows it.
//!
//! Most have a value for each CPU; [`UPCALLS`] has one for each domain.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use hv_machine::Platform;

use crate::Hypervisor;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Page faults of guests.
    PageFaults,
    /// Those that were stores of a kernel to an L1 table of its own, mapped read-only.
    TableFaults,
    /// Such stores that were checked and carried out.
    TableStores,
    /// L1 tables that were unhooked ([`crate::emulate::unhook`]).
    Unhooks,
    /// L1 tables that were hooked back.
    Rehooks,
    /// Entries that guests had changed in them meanwhile.
    ChangedEntries,
    /// Tables hooked back because the guest used an address that they map.
    Touches,
}

/// The names, in the order of [`Counter`]; where Xen counts the same, they are Xen's (`perfc_defn.h`).
pub const NAMES: [&str; 7] = [
    "page faults",
    "writable pt faults",
    "writable pt emulations",
    "writable pt unhooks",
    "writable pt rehooks",
    "writable pt changed entries",
    "writable pt touches",
];

/// The name of the counter of upcalls: how often each domain's vCPUs entered their event callback, by domain in the
/// order of their numbers. It comes after the others. No interface of Xen's tells this of a domain.
pub const UPCALLS: &str = "event upcalls by domain";

/// The counters. They wrap around.
#[derive(Debug)]
pub struct Counters {
    cpus: Vec<[AtomicU32; NAMES.len()]>,
    /// Domains that the control domain has room for, because it was told that there are so many.
    pub(crate) told_domains: AtomicU32,
}

/// Adds to what only this CPU adds to, without the cost of a locked instruction.
pub(crate) fn add(count: &AtomicU32, more: u32) {
    let sum = count.load(Ordering::Relaxed).wrapping_add(more);
    count.store(sum, Ordering::Relaxed);
}

impl Counters {
    /// All zero.
    pub fn new(cpus: u32) -> Self {
        Self {
            cpus: (0..cpus).map(|_| Default::default()).collect(),
            told_domains: AtomicU32::new(0),
        }
    }

    /// Values of one counter, by CPU.
    pub fn values(&self, counter: usize) -> impl Iterator<Item = u32> {
        let of_cpu =
            move |cpu: &[AtomicU32; NAMES.len()]| Some(cpu.get(counter)?.load(Ordering::Relaxed));
        self.cpus.iter().filter_map(of_cpu)
    }
}

impl Hypervisor {
    /// Counts one more.
    pub fn count(&self, counter: Counter) {
        self.count_many(counter, 1);
    }

    /// Counts `more` of them.
    pub fn count_many(&self, counter: Counter, more: u32) {
        let cpu = self.counters.cpus.get(self.machine.cpu_id() as usize);
        if let Some(count) = cpu.and_then(|cpu| cpu.get(counter as usize)) {
            add(count, more);
        }
    }

    /// Sets all to zero; what other CPUs count at this moment may be lost, or come back.
    pub fn reset_counters(&self) {
        for counter in self.counters.cpus.iter().flatten() {
            counter.store(0, Ordering::Relaxed);
        }
        for domain in self.domains.read().values() {
            for vcpu in domain.vcpus() {
                vcpu.upcalls.store(0, Ordering::Relaxed);
            }
        }
    }
}
