//! PV kernel images: ELF notes and the start-of-day memory layout.
//!
//! Whoever builds a PV domain (the hypervisor for dom0, dom0 for all others) takes the same three
//! steps, and both use this crate for the first two:
//!
//! 1. [`PvImage::parse`] reads an ELF file that nobody vouches for: headers, `XEN_ELFNOTE_*` notes
//!    (or the older `__xen_guest` section), and says what the kernel wants, or which header or note
//!    is at fault.
//! 2. [`Layout::plan`] places kernel, ramdisk, phys-to-machine list, start info, rings, page tables
//!    and boot stack in pseudo-physical and virtual memory by the rules above `struct start_info`
//!    in Xen's `xen.h`, and [`Layout::tables`] lists the boot page tables entry by entry.
//! 3. Frames are allocated and written, which is the builder's own affair.
//!
//! Nothing here panics, overflows or loops without bound, whatever the file contains.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod error;
mod features;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
mod image;
mod layout;
mod legacy;
mod notes;
mod tables;

pub use hypercall_abi::types::Pfn;

pub use error::{ImageError, LayoutError};
pub use features::Features;
pub use image::{L1MfnValid, PaeMode, PvImage, Role, Segment};
pub use layout::{Layout, P2m, Ramdisk, Region, Request};
pub use tables::{Entry, Table};

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
pub(crate) const PAGE_SHIFT: u32 = 12;

/// Rounds `value` up to a whole number of pages; `None` when that does not fit 64 bits.
pub(crate) fn page_align_up(value: u64) -> Option<u64> {
    Some(value.checked_add(PAGE_SIZE - 1)? & !(PAGE_SIZE - 1))
}
