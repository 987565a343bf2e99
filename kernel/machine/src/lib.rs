//! The machine under the hypervisor: CPU, MMU, frames, traps, timers, interrupt controllers.
//!
//! [`Platform`] is the whole of what `hv-core` may ask of the hardware. It has two backends behind one name,
//! [`Machine`]: the metal (`metal`, built for `target_os = "none"`) and a simulated machine (`sim`, on the
//! host) in which the real hypercall code runs under `cargo test`. All `unsafe` code of the hypervisor is in
//! this crate.
//!
//! What every backend keeps:
//!
//! - A frame is either *private* (it holds Rust values: the image, the heap, stacks, the machine's own page
//!   tables) or *untyped*. Frame accessors work on untyped frames only, through atomics or volatile copies, so
//!   that no Rust reference ever points into memory that a guest may write. Naming a private or absent frame
//!   in an accessor is a bug of the caller and stops the machine.
//! - Guest virtual memory is reached only by [`Platform::copy_from_guest`] and [`Platform::copy_to_guest`],
//!   which check that the range is the guest's, lift SMAP for the copy alone, and turn a fault into [`Fault`].
//! - Whoever waits for another CPU does so by [`relax`], which serves what other CPUs ask of this one meanwhile.
//! - The hypervisor runs with interrupts off. They are taken in [`Platform::enter_guest`] and
//!   [`Platform::idle`] only, and come back as values.
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

mod context;
mod flush_clock;
mod log;
mod memory_map;
#[cfg(any(target_os = "none", test))]
mod metal;
mod place;
mod platform;
#[cfg(not(target_os = "none"))]
pub mod sim;

pub use context::{
    Descriptor, Exit, FpuState, GuestContext, Irq, SegmentBase, Segments, SelectorFault,
};
pub use flush_clock::MAX_CPUS;
pub use log::{LogLevel, LogRing};
pub use memory_map::{BootModule, MemoryKind, MemoryRegion};
#[cfg(target_os = "none")]
pub use metal::{Machine, relax};
#[cfg(all(target_os = "none", debug_assertions))]
pub use metal::{held_locks, set_held_locks};
pub use place::Place;
pub use platform::{
    Fault, GeneralProtection, Guest, IoWidth, Platform, Polarity, TriggerMode, TscInfo,
};
#[cfg(not(target_os = "none"))]
pub use sim::{Machine, held_locks, relax, set_held_locks};

/// How the hypervisor holds its machine.
#[cfg(target_os = "none")]
pub type MachineRef = &'static Machine;
/// How the hypervisor holds its machine.
#[cfg(not(target_os = "none"))]
pub type MachineRef = alloc::sync::Arc<Machine>;

/// Bytes in a frame and in a page.
pub const PAGE_SIZE: usize = 4096;
/// Binary logarithm of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// Entries in a page table.
pub const TABLE_ENTRIES: usize = 512;
/// First L4 slot that belongs to the hypervisor; this one holds the read-only machine-to-phys table.
pub const FIRST_HYPERVISOR_SLOT: usize = 256;
/// Number of L4 slots that belong to the hypervisor (256 to 271).
pub const HYPERVISOR_SLOTS: usize = 16;
/// First guest-inaccessible virtual address (`HYPERVISOR_VIRT_START` of `arch-x86/xen-x86_64.h`).
pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// First virtual address behind the hypervisor's range (`HYPERVISOR_VIRT_END`).
pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;
/// Frames of a guest's GDT (14 of the 16 pages; the last two are the hypervisor's).
pub const GUEST_GDT_FRAMES: usize = 14;

/// Whether `len` bytes from `va` are canonical and wholly outside the hypervisor's range.
///
/// An empty range is the guest's wherever it is, as long as it is canonical.
#[inline]
pub fn is_guest_range(va: u64, len: u64) -> bool {
    let Some(end) = va.checked_add(len) else {
        // The very top of the address space is the guest's.
        return va >= HYPERVISOR_VIRT_END && va.wrapping_add(len) == 0;
    };
    end <= 0x0000_8000_0000_0000 || va >= HYPERVISOR_VIRT_END
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_range_touches_neither_the_hole_nor_the_hypervisor() {
        assert!(is_guest_range(0, 0x0000_8000_0000_0000));
        assert!(!is_guest_range(0, 0x0000_8000_0000_0001));
        assert!(!is_guest_range(0x0000_7fff_ffff_ffff, 2));
        assert!(!is_guest_range(HYPERVISOR_VIRT_START, 8));
        assert!(!is_guest_range(HYPERVISOR_VIRT_END - 1, 2));
        assert!(is_guest_range(HYPERVISOR_VIRT_END, 8));
        assert!(is_guest_range(u64::MAX - 7, 8));
        assert!(!is_guest_range(u64::MAX - 7, 9));
    }
}
