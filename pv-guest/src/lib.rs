//! A PV guest kernel as a library: link it, define `main`, and the result is an image that Xen, and
//! everything compatible with it, boots as a domain, the initial one included.
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! pv_guest::entry!(main);
//!
//! async fn main() {
//!     loop {
//!         pv_guest::println!("{:?}", pv_guest::clock::wall_clock());
//!         pv_guest::clock::sleep(core::time::Duration::from_secs(1)).await;
//!     }
//! }
//! ```
//!
//! The guest runs in tasks that take turns (`spawn`); when no task is ready, the vCPU blocks. When
//! `main` is done, the domain powers off. A panic or an unexpected trap prints registers and crashes
//! the domain. `main` runs on the boot vCPU; others run what they are started with (`vcpus`).
//!
//! # What is where
//!
//! | module | what it is for |
//! |---|---|
//! | `boot` | start info, command line, module (ramdisk) |
//! | `console`, `print!`, `println!`, `line` | printing (never waits), reading, lines |
//! | `clock` | system time, wall clock, `sleep`, `timeout` |
//! | `executor` | tasks: `spawn`, `JoinHandle`, `yield_now` |
//! | `events` | event channels: bind, wait, notify, mask |
//! | `grants` | memory that other domains may use, and theirs |
//! | `block` | disks |
//! | `net` | network interfaces, with TCP (feature `net`) |
//! | `memory` | frames, DMA memory, memory on demand, foreign and device mappings, page tables |
//! | `ports` | I/O ports |
//! | `balloon` | memory that follows the toolstack's target |
//! | `control` | obeying the toolstack's orders to end |
//! | `store` | the store's client: requests, transactions, watches |
//! | `power` | power off, reboot, crash |
//! | `traps` | a hook on every exception |
//! | `sync` | a lock between vCPUs |
//! | `user` | user mode: address spaces, threads, copy-on-write fork |
//! | `vcpus` | starting further vCPUs |
//! | `hotplug` | vCPUs that come and go as the toolstack says |
//! | `counters` | the hypervisor's counters, for the initial domain |
//! | `cpu` | shared info, upcall mask, CPUID |
//! | `hypercall` | the typed hypercalls of `hypercall_abi::caller` |
//!
//! # Shared memory
//!
//! Memory that another domain or a device writes is a `memory::Window`: words and copies by
//! offset, never a reference. It is owned by what maps it: `memory::Mapping` (frames of another
//! domain, device registers) or `memory::DmaMemory` (this guest's own frames, with machine
//! addresses). It implements `split_drivers::SharedMemory`.
//!
//! # For the initial domain
//!
//! - `memory::ForeignDomain`: map a domain's frames, pin its page tables, set its
//!   machine-to-physical numbers.
//! - `memory::Mapping::device` and `ports::IoPorts`: devices.
//! - `memory::DmaMemory`: rings and buffers for them.
//! - `events::EventChannel::bind_pirq`, `events::EventChannel::alloc_unbound_for`: interrupts;
//!   ports for new domains.
//! - `hypercall`: everything else.
//!
//! # Rules
//!
//! Code that runs in an upcall (`events::EventChannel::set_handler`, wakers) or in a trap hook
//! must not map memory or wait; it may use the heap, send events and wake tasks. There is no
//! floating point, and no thread but the executor of each vCPU.
//!
//! Everything that is not hardware builds and is tested on the host.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod balloon;
pub mod control;
pub mod evtchn_bits;
pub mod executor;
pub mod line;
pub mod p2m;
pub mod pte;
pub mod regions;
pub mod shared;
pub mod store;
pub mod time_scale;
pub mod timers;

#[cfg(target_os = "none")]
pub mod block;
#[cfg(target_os = "none")]
pub mod boot;
#[cfg(target_os = "none")]
pub mod clock;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod counters;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod events;
#[cfg(target_os = "none")]
mod frontend;
#[cfg(target_os = "none")]
pub mod grants;
#[cfg(target_os = "none")]
pub mod hotplug;
#[cfg(target_os = "none")]
pub mod memory;
#[cfg(all(target_os = "none", feature = "net"))]
pub mod net;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
pub mod ports;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
mod queues;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
pub mod sync;
#[cfg(target_os = "none")]
mod task;
#[cfg(target_os = "none")]
pub mod traps;
#[cfg(target_os = "none")]
pub mod user;
#[cfg(target_os = "none")]
pub mod vcpus;

pub use executor::{JoinHandle, yield_now};
#[cfg(target_os = "none")]
pub use hypercall_abi::caller as hypercall;
#[cfg(target_os = "none")]
pub use task::{run, spawn};

/// Names the guest's main function: `async fn() -> ()`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "Rust" fn __pv_guest_main() -> ! {
            $crate::run($main())
        }
    };
}
