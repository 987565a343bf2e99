//! Many changes of page tables in one hypercall.

use alloc::vec::Vec;

use hypercall_abi::types::{Domid, Mfn};
use hypercall_abi::xen::{
    HYPERVISOR_MMU_UPDATE, HYPERVISOR_MMUEXT_OP, MMU_NORMAL_PT_UPDATE, MMUEXT_TLB_FLUSH_ALL,
    MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_MULTI, MmuUpdate, MmuextOp, MulticallEntry,
};

use super::frames::Frames;
use super::{address_of, tables};
use crate::hypercall::{Result, check, system};
use crate::pte::{Flags, Pte};
use crate::vcpus;

/// Changes of entries of this guest's tables, then operations on tables and TLBs, all sent as one
/// multicall.
#[derive(Default)]
pub(crate) struct Batch {
    updates: Vec<MmuUpdate>,
    operations: Vec<MmuextOp>,
    /// What the operations' masks of vCPUs point to.
    mask: u64,
}

impl Batch {
    /// Gives an entry, by its machine address, another value.
    pub(crate) fn set(&mut self, address: u64, entry: Pte) {
        self.updates.push(MmuUpdate {
            ptr: address | MMU_NORMAL_PT_UPDATE,
            val: entry.0,
        });
    }

    /// Makes a frame read-only in the linear map, as a page table must be, or writable again.
    pub(crate) fn protect(&mut self, frame: &Frames, flags: Flags) {
        let address = address_of(frame.pfn());
        let place = tables::machine_entry(address).expect("the linear map has a table");
        self.set(place, tables::entry(frame.mfn(), flags));
    }

    /// Does an operation (`MMUEXT_*`) on a table.
    pub(crate) fn table(&mut self, cmd: u32, table: Mfn) {
        self.operations.push(MmuextOp::frame(cmd, table));
    }

    /// Flushes the TLBs of these vCPUs, a bit for each. One batch has one set.
    pub(crate) fn flush(&mut self, vcpus: u64) {
        if vcpus != 0 {
            self.mask = vcpus;
            self.operations.push(MmuextOp {
                cmd: MMUEXT_TLB_FLUSH_MULTI,
                ..MmuextOp::default()
            });
        }
    }

    /// Flushes the TLBs of all vCPUs.
    pub(crate) fn flush_all(&mut self) {
        let cmd = if vcpus::is_alone() {
            MMUEXT_TLB_FLUSH_LOCAL
        } else {
            MMUEXT_TLB_FLUSH_ALL
        };
        self.operations.push(MmuextOp {
            cmd,
            ..MmuextOp::default()
        });
    }

    /// Sends it.
    ///
    /// # Errors
    ///
    /// What the hypervisor says of the first call that it refuses; what is before that is done.
    ///
    /// # Safety
    ///
    /// The changes take nothing away that is referenced, and give no second access to what is.
    pub(crate) unsafe fn send(mut self) -> Result<()> {
        let mask = (&raw const self.mask).expose_provenance() as u64;
        for operation in &mut self.operations {
            if operation.cmd == MMUEXT_TLB_FLUSH_MULTI {
                operation.arg2 = mask;
            }
        }
        let lists = [
            (
                HYPERVISOR_MMU_UPDATE,
                self.updates.as_ptr().expose_provenance(),
                self.updates.len(),
            ),
            (
                HYPERVISOR_MMUEXT_OP,
                self.operations.as_ptr().expose_provenance(),
                self.operations.len(),
            ),
        ];
        let mut calls = lists.map(|(call, list, length)| MulticallEntry {
            op: call.into(),
            args: [list as u64, length as u64, 0, Domid::SELF.0.into(), 0, 0],
            ..MulticallEntry::default()
        });
        // SAFETY: the lists live until the call is over; the rest is the caller's promise.
        unsafe { system::multicall(&mut calls) }?;
        for call in &calls {
            check(call.result as i64)?;
        }
        Ok(())
    }
}
