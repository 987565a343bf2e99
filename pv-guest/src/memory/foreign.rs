//! Another domain's memory, in the hands of the one that builds it.

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn, Pfn};
use hypercall_abi::xen::{
    MMU_MACHPHYS_UPDATE, MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE, MmuUpdate,
    MmuextOp,
};

use super::{Access, Mapping, pfn_of};
use crate::hypercall::{Result, mmu};

/// A domain that this one has control of. None of its operations touches a frame of this guest: one
/// that names such a frame fails with `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignDomain(Domid);

impl ForeignDomain {
    /// `None` for the reserved numbers, some of which stand for the caller.
    pub fn new(domain: Domid) -> Option<Self> {
        domain.is_ordinary().then_some(Self(domain))
    }

    /// Its number.
    pub fn id(self) -> Domid {
        self.0
    }

    /// Maps frames of it.
    pub fn map(self, frames: &[Mfn], access: Access) -> Result<Mapping> {
        Mapping::foreign(self.0, frames, access)
    }

    /// Has the hypervisor validate a frame as page table of `level` (1 to 4), with all below it,
    /// and keep it one.
    pub fn pin_table(self, level: u32, frame: Mfn) -> Result<()> {
        if !(1..=4).contains(&level) {
            return Err(Errno::EINVAL.into());
        }
        const { assert!(MMUEXT_PIN_L4_TABLE == MMUEXT_PIN_L1_TABLE + 3) }
        self.table_op(MMUEXT_PIN_L1_TABLE + level - 1, frame)
    }

    /// Undoes [`Self::pin_table`].
    pub fn unpin_table(self, frame: Mfn) -> Result<()> {
        self.table_op(MMUEXT_UNPIN_TABLE, frame)
    }

    fn table_op(self, cmd: u32, frame: Mfn) -> Result<()> {
        not_ours(frame)?;
        let op = MmuextOp {
            cmd,
            arg1: frame.0,
            ..MmuextOp::default()
        };
        // SAFETY: it concerns the tables of another domain.
        unsafe { mmu::mmuext_op(&[op], None, self.0) }
    }

    /// Says which pseudo-physical frame of the domain each machine frame is.
    pub fn set_machine_to_physical(self, frames: &[(Mfn, Pfn)]) -> Result<()> {
        const BATCH: usize = 64;
        for batch in frames.chunks(BATCH) {
            let mut updates = [MmuUpdate { ptr: 0, val: 0 }; BATCH];
            for (update, (mfn, pfn)) in updates.iter_mut().zip(batch) {
                not_ours(*mfn)?;
                *update = MmuUpdate {
                    ptr: (mfn.0 << 12) | MMU_MACHPHYS_UPDATE,
                    val: pfn.0,
                };
            }
            // SAFETY: it changes no mapping, and no number of this guest's frames.
            unsafe { mmu::mmu_update(&updates[..batch.len()], None, self.0) }?;
        }
        Ok(())
    }
}

fn not_ours(frame: Mfn) -> Result<()> {
    if pfn_of(frame).is_some() {
        Err(Errno::EINVAL.into())
    } else {
        Ok(())
    }
}
