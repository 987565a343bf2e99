//! The hypervisor proper: domains, vCPUs, hypercalls, page types, events, scheduling, time.
//!
//! Everything here is safe code over [`hv_machine::Platform`], so that it runs in the same form on the metal
//! and, under test, on the simulated machine. Principles:
//!
//! - A hypercall handler is a function from [`Current`] and its arguments to a [`HypercallResult`]. It copies
//!   what the guest points to once, checks the copy, and uses the copy.
//! - A guest's mistake is an errno or an exception in that guest; a guest whose kernel stack cannot take an
//!   exception crashes alone. Nothing a guest does panics.
//! - Locks are taken in the order in which [`lock`] lists them.
#![cfg_attr(target_os = "none", no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(test)]
#[global_allocator]
static HEAP: hv_machine::sim::Heap = hv_machine::sim::Heap;

pub mod bitmap;
pub mod callbacks;
pub mod console_io;
pub mod counters;
pub mod cpuid;
pub mod current;
pub mod debugreg;
pub mod descriptor;
pub mod dom0;
pub mod domain;
pub mod domctl;
pub mod emulate;
pub mod event;
pub mod grant;
pub mod hypercall;
pub mod hypervisor;
pub mod interrupt;
pub mod iret;
pub mod lifecycle;
pub mod lock;
pub mod log;
pub mod memory;
pub mod memory_op;
pub mod mmu;
pub mod msr;
pub mod multicall;
pub mod options;
pub mod pci;
pub mod physdev;
pub mod platform_op;
pub mod run;
pub mod runstate;
pub mod sched;
pub mod sched_op;
pub mod sysctl;
#[cfg(any(test, fuzzing))]
pub mod testing;
pub mod time;
pub mod trace;
pub mod traps;
pub mod vcpu;
pub mod vcpu_context;
pub mod vcpu_op;
pub mod version;
pub mod vm_assist;

pub use current::Current;
pub use domain::Domain;
pub use hypercall::{HypercallResult, Stop};
pub use hypervisor::Hypervisor;
pub use vcpu::{Vcpu, VcpuState};
