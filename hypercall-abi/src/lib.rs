//! Xen's public interface, as of version 4.17, as Rust types: numbers, structs and wire formats for
//! 64-bit x86.
//!
//! - One module per public header, and no logic beyond conversions. A C name leads to the Rust
//!   name: constants in upper case without leading double underscores (`__HYPERVISOR_mmu_update` is
//!   `HYPERVISOR_MMU_UPDATE`), structs in camel case without `xen_` (`xen_memory_reservation` is
//!   `MemoryReservation`), fields as they are.
//! - Every struct is plain old data without implicit padding, so that copying one to a guest copies
//!   nothing else; its default is all zeroes. A C union is a [`types::Union`] or, where all arms
//!   are one word, that word.
//! - Layouts and values are compared with the C headers, field by field, by the test `headers`.
//! - The feature `caller` adds the guest's side: typed hypercalls through the hypercall page.
#![no_std]
#![deny(unsafe_code)]

pub mod arch_x86;
pub mod callback;
#[cfg(feature = "caller")]
#[expect(
    unsafe_code,
    reason = "a hypercall is an instruction that reads and writes memory"
)]
pub mod caller;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod io;
#[doc(hidden)]
pub mod layout;
pub mod memory;
pub mod nmi;
pub mod physdev;
pub mod platform;
pub mod sched;
pub mod sysctl;
pub mod trace;
pub mod types;
pub mod vcpu;
pub mod version;
pub mod xen;
