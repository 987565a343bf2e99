//! The guest's memory.
//!
//! Three ranges of the address space matter besides the image itself:
//!
//! - the *linear map*, where the frame `pfn` is at `LINEAR_BASE + pfn * 4096`. Every frame of the
//!   guest is there once and, but for the image, nowhere else, so whether a frame can become a page
//!   table depends on one entry. Page tables, code and constants are read-only in it.
//! - the *map range*, where foreign frames and device registers are mapped on request
//!   ([`Mapping`]).
//! - the *demand range*, whose pages get frames when they are touched ([`DemandMemory`]). These frames
//!   are in both ranges, and used in this one alone.

mod batch;
mod demand;
mod dma;
mod foreign;
mod frames;
mod heap;
mod init;
mod mapping;
mod reservation;
mod stack;
pub(crate) mod tables;
mod window;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hypercall_abi::arch_x86::MACH2PHYS_VIRT_START;
use hypercall_abi::types::{Mfn, Pfn};
use spin::Once;

use crate::hypercall::Result;
use crate::p2m::P2m;
use crate::pte::PAGE_SIZE;
use crate::sync::Mutex;

pub(crate) use batch::Batch;
pub use demand::DemandMemory;
pub(crate) use demand::serve as serve_demand;
pub use dma::DmaMemory;
pub use foreign::ForeignDomain;
pub use frames::Frames;
pub(crate) use init::init;
pub(crate) use mapping::Room;
pub use mapping::{Access, Mapping};
pub use reservation::{OwnReservation, pages};
pub(crate) use stack::Stack;
pub use tables::{machine_entry, translate};
pub use window::{SharedWord, Window, Word};
pub(crate) use window::{copy, ring_page};

/// Where the linear map begins: the first address above the hypervisor's.
pub const LINEAR_BASE: u64 = 0xffff_8800_0000_0000;

/// Where the map range begins.
pub const MAP_BASE: u64 = 0xffff_c000_0000_0000;

/// Pages in the map range.
pub const MAP_PAGES: u64 = 1 << 28;

/// Whether [`share_kernel_tables`] did its work.
static SHARED: Mutex<bool> = Mutex::new(false);

/// Makes the kernel's part of the root final, so that other kernel roots can have the same.
pub(crate) fn share_kernel_tables() -> Result<()> {
    let mut shared = SHARED.lock();
    if !*shared {
        const SPAN: usize = 1 << 39;
        for (base, pages) in [(MAP_BASE, MAP_PAGES), (DEMAND_BASE, DEMAND_PAGES)] {
            let end = base + pages * PAGE_SIZE as u64;
            tables::settle_root((base..end).step_by(SPAN))?;
        }
        *shared = true;
    }
    Ok(())
}

/// Where the demand range begins.
pub const DEMAND_BASE: u64 = 0xffff_d000_0000_0000;

/// Pages in the demand range.
pub const DEMAND_PAGES: u64 = 1 << 27;

struct Layout {
    p2m: P2m<'static>,
    /// How many frames there were at start of day.
    boot_frames: u64,
    root: Mfn,
    /// The highest frame that the machine-to-physical table has.
    max_mfn: u64,
}

static LAYOUT: Once<Layout> = Once::new();

fn layout() -> &'static Layout {
    LAYOUT.get().expect("memory is initialised first")
}

/// Where frames are to be found by number: the image's own range until the linear map exists.
static BASE: AtomicU64 = AtomicU64::new(crate::start::VIRT_BASE);

/// The address of a frame of this guest.
pub(crate) fn address_of(pfn: Pfn) -> u64 {
    BASE.load(Relaxed) + pfn.0 * PAGE_SIZE as u64
}

/// The frame at an address of the linear map.
fn pfn_at(address: u64) -> Pfn {
    debug_assert!((LINEAR_BASE..MAP_BASE).contains(&address));
    Pfn((address - LINEAR_BASE) / PAGE_SIZE as u64)
}

/// How many pseudo-physical frames this guest has room for: those that it began with, and those that
/// the balloon may add.
pub fn frame_count() -> u64 {
    layout().p2m.len()
}

/// Memory that is free, in bytes, not counting what the heap has and does not use.
pub fn free_bytes() -> usize {
    frames::free_bytes()
}

/// Memory that is in use, in bytes, but for what holes between allocations waste.
pub fn used_bytes() -> u64 {
    let free = frames::free_bytes() + heap::available();
    (frame_count() * PAGE_SIZE as u64).saturating_sub(free as u64)
}

/// The root of this guest's page tables.
pub fn root() -> Mfn {
    layout().root
}

/// The machine frame behind one of this guest's.
pub fn mfn_of(pfn: Pfn) -> Option<Mfn> {
    layout().p2m.mfn(pfn)
}

/// Which of this guest's frames a machine frame is; `None` where it is not this guest's.
pub fn pfn_of(mfn: Mfn) -> Option<Pfn> {
    let Layout { p2m, max_mfn, .. } = layout();
    if mfn.0 > *max_mfn {
        return None;
    }
    // SAFETY: the table is mapped, read-only, up to this frame.
    let claimed = unsafe { machine_to_physical(mfn) };
    p2m.confirm(mfn, claimed)
}

/// What the machine-to-physical table says.
///
/// # Safety
///
/// The table must be mapped at this entry: it is for each frame of memory up to the highest, but
/// need not be in the holes.
unsafe fn machine_to_physical(mfn: Mfn) -> Pfn {
    let table = core::ptr::with_exposed_provenance::<u64>(MACH2PHYS_VIRT_START as usize);
    // SAFETY: the caller's promise; the hypervisor may be writing the entry, hence volatile.
    Pfn(unsafe { table.add(mfn.0 as usize).read_volatile() })
}
