//! The control domain: it builds the other domains, serves their consoles, sees them end, and does
//! what `xl` asks.
//!
//! Everything here is free of I/O: bytes and events come in by calls, and the hypervisor is behind
//! the trait [`xen::Xen`], so that all of it runs in tests on the host. What touches hardware is in
//! the binary: the hypercalls, PCI, the virtio console and the loop that feeds [`Toolstack`].
//!
//! | module | one of |
//! |---|---|
//! | [`toolstack`] | the whole: the domains there are, and what happens to them |
//! | [`server`] | the connections from `xl`, each with a request in progress |
//! | [`block`] | the guests' disks: block backends, and the volumes under them |
//! | [`device`] | what the backends of all devices have in common |
//! | [`builder`] | a PV domain, built from an image |
//! | [`console`], [`scrollback`] | a guest's console, and what it has printed |
//! | [`net`] | the guests' network: backends of their interfaces, and the bridge |
//! | [`images`] | the kernels and ramdisks that were sent |
//! | [`store`] | the store, with the guests' rings |
//! | [`nodes`] | what the toolstack keeps in the store |
//! | [`scheduling`] | where vCPUs run, and how they share the CPUs |
//! | [`trace`] | the hypervisor's trace, and who reads it |
//! | [`reaper`] | what follows a domain's end |
//! | [`acpi`] | the firmware's tables, for switching the machine off |
//! | [`xen`], [`storage`], [`nic`] | the hypervisor, the disks and the network card, as seen from here |
//!
//! It uses Xen's public interface alone, and so runs on Xen as well as on Xenolith.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod block;
pub mod builder;
pub mod console;
pub mod device;
#[cfg(test)]
mod fake;
pub mod images;
pub mod net;
pub mod nic;
pub mod nodes;
pub mod reaper;
pub mod scheduling;
pub mod scrollback;
pub mod server;
pub mod storage;
pub mod store;
pub mod toolstack;
pub mod trace;
pub mod xen;

pub use toolstack::Toolstack;
