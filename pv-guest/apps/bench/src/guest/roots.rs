//! Page tables that the measurements make, and switching between two roots.

use hypercall_abi::xen::*;
use pv_guest::hypercall::mmu;
use pv_guest::memory::{self, Frames, LINEAR_BASE};
use pv_guest::pte::{ENTRIES, Flags, PAGE_SIZE, Pte};

use super::meter::Meter;
use super::page::{address, extended, mfn};

/// L4 slots of the hypervisor.
const HYPERVISOR_SLOTS: core::ops::Range<usize> = 256..272;

/// Makes each page of a block a page table, with what `entry` gives for each of its places; they can
/// be read from there on.
pub fn tables(frames: &mut Frames, mut entry: impl FnMut(usize, usize) -> u64) {
    for (place, word) in frames.as_mut_slice().chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&entry(place / ENTRIES, place % ENTRIES).to_ne_bytes());
    }
    for table in 0..frames.count() {
        let entry = Pte::new(mfn(frames, table), Flags::READ);
        // SAFETY: nobody has a reference to the block by which it would be written.
        unsafe { mmu::update_va_mapping(address(frames, table), entry.0, UVMF_INVLPG) }
            .expect("a page can be made read-only");
    }
}

/// A word of this guest's root.
fn root_entry(index: usize) -> u64 {
    let pfn = memory::pfn_of(memory::root()).expect("the root is this guest's");
    let address = LINEAR_BASE + pfn.0 * PAGE_SIZE as u64 + index as u64 * 8;
    // SAFETY: the linear map has the root, readable.
    unsafe { core::ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() }
}

pub fn run(meter: &Meter) {
    let mut frames = Frames::zeroed(0).expect("there is memory");
    tables(&mut frames, |_, index| {
        if HYPERVISOR_SLOTS.contains(&index) {
            0
        } else {
            root_entry(index)
        }
    });
    let other = mfn(&frames, 0);
    extended(MMUEXT_PIN_L4_TABLE, other.0);
    let roots = [memory::root(), other];
    meter.measure("new-baseptr", |round| {
        extended(MMUEXT_NEW_BASEPTR, roots[(round + 1) as usize & 1].0);
    });
    extended(MMUEXT_NEW_BASEPTR, memory::root().0);
    extended(MMUEXT_UNPIN_TABLE, other.0);
    // The table stays read-only, so it is not given back.
    core::mem::forget(frames);
}
