//! The page walk over a guest's tables, in software.

use hv_machine::{Platform, is_guest_range};
use hypercall_abi::types::Mfn;

use super::{Level, Memory, Pte, is_guest_slot};

/// Where the L1 entry for an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1Slot {
    /// The L1 table.
    pub table: Mfn,
    /// The entry in it.
    pub index: usize,
}

impl Memory {
    /// The L1 entry that translates `va` under `root`, whether present or not; `None` where a table above is
    /// missing or the address is not the guest's.
    ///
    /// The caller holds the root. The answer is a hint: another vCPU may change the tables, and give what was one to
    /// somebody else. Who writes to the entry first takes the table as an L1 table, which cannot succeed on anything
    /// else. So no table is held on the way, which would cost more than all the rest.
    #[inline]
    pub fn l1_slot(&self, root: Mfn, va: u64) -> Option<L1Slot> {
        if !is_guest_range(va, 1) {
            return None;
        }
        let mut table = root;
        for level in [Level::L4, Level::L3, Level::L2] {
            let entry = Pte(self.machine.peek_u64(table, level.index(va))?);
            if !entry.present() || entry.has(Pte::PSE) {
                return None;
            }
            table = entry.mfn();
        }
        self.frame(table)?;
        Some(L1Slot {
            table,
            index: Level::L1.index(va),
        })
    }

    /// Whether the tables under `root` allow ring 3 this access to `va`.
    pub fn allows(&self, root: Mfn, va: u64, write: bool, fetch: bool) -> bool {
        let mut table = root;
        for level in [Level::L4, Level::L3, Level::L2, Level::L1] {
            let Some(_table) = self.get_any(table) else {
                return false;
            };
            let entry = Pte(self.machine.load_u64(table, level.index(va)));
            let allowed = entry.has(Pte::PRESENT | Pte::USER)
                && (!write || entry.has(Pte::WRITABLE))
                && !(fetch && entry.has(Pte::NO_EXECUTE));
            if !allowed || !is_guest_slot(level, level.index(va)) {
                return false;
            }
            table = entry.mfn();
        }
        true
    }

    /// The L1 entry itself, if it is present: a hint, too.
    pub fn translate(&self, root: Mfn, va: u64) -> Option<Pte> {
        let slot = self.l1_slot(root, va)?;
        let entry = Pte(self.machine.peek_u64(slot.table, slot.index)?);
        entry.present().then_some(entry)
    }
}
