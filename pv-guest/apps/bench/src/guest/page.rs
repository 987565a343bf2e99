//! Page-table entries by hypercall, and flushes.

use hypercall_abi::types::{Domid, Mfn};
use hypercall_abi::xen::*;
use pv_guest::hypercall::mmu;
use pv_guest::memory::{self, Frames, LINEAR_BASE, machine_entry};
use pv_guest::pte::{Flags, PAGE_SIZE, Pte};

use super::meter::Meter;

/// Updates in a batch.
pub const BATCH: usize = 128;

/// The machine frame of frame `index` of a block.
pub fn mfn(frames: &Frames, index: usize) -> Mfn {
    let mut pfn = frames.pfn();
    pfn.0 += index as u64;
    memory::mfn_of(pfn).expect("it has a machine frame")
}

/// The address of frame `index` of a block in the linear map.
pub fn address(frames: &Frames, index: usize) -> u64 {
    LINEAR_BASE + frames.pfn().0 * PAGE_SIZE as u64 + (index * PAGE_SIZE) as u64
}

/// Makes one extended operation.
pub fn extended(cmd: u32, arg1: u64) {
    let op = MmuextOp {
        cmd,
        arg1,
        ..MmuextOp::default()
    };
    // SAFETY: it flushes, or concerns tables that map the kernel as it is.
    unsafe { mmu::mmuext_op(&[op], None, Domid::SELF) }.expect("an operation");
}

pub fn run(meter: &Meter) {
    let block = Frames::zeroed(BATCH.trailing_zeros()).expect("there is memory");
    // In odd rounds each page of a pair has the frame of the other.
    let entry = |page: usize, round: u64| {
        Pte::new(mfn(&block, page ^ (round as usize & 1)), Flags::READ_WRITE).0
    };
    let place = |page: usize| machine_entry(address(&block, page)).expect("there is a table");
    let batch = |round: u64| {
        core::array::from_fn::<_, BATCH, _>(|page| MmuUpdate {
            ptr: place(page),
            val: entry(page, round),
        })
    };
    let (batches, va) = ([batch(0), batch(1)], address(&block, 0));
    let entries = [entry(0, 0), entry(0, 1)];

    meter.measure("update-va-mapping", |round| {
        // SAFETY: nobody uses the block's memory.
        unsafe { mmu::update_va_mapping(va, entries[(round + 1) as usize & 1], UVMF_INVLPG) }
            .expect("an update");
    });
    meter.measure("mmu-update-1", |round| {
        let update = MmuUpdate {
            ptr: batches[0][0].ptr,
            val: entries[(round + 1) as usize & 1],
        };
        // SAFETY: nobody uses the block's memory.
        unsafe { mmu::mmu_update(&[update], None, Domid::SELF) }.expect("an update");
    });
    meter.measure("mmu-update-128", |round| {
        // SAFETY: nobody uses the block's memory.
        unsafe { mmu::mmu_update(&batches[(round + 1) as usize & 1], None, Domid::SELF) }
            .expect("updates");
    });
    // Rounds are an even number or not: the block is as it was in any case before it is freed.
    // SAFETY: nobody uses the block's memory.
    unsafe { mmu::mmu_update(&batches[0], None, Domid::SELF) }.expect("updates");

    meter.measure("invlpg", |_| extended(MMUEXT_INVLPG_LOCAL, va));
    meter.measure("tlb-flush", |_| extended(MMUEXT_TLB_FLUSH_LOCAL, 0));
}
