//! L1 tables that their guest writes by itself for a while ([`crate::emulate::unhook`]): whether a processor can be
//! kept from reaching one, and the check of all that was written.

use hv_machine::{Platform, TABLE_ENTRIES};
use hypercall_abi::types::{Domid, Mfn};

use super::{FrameType, Level, Memory, Pte, Stage, is_guest_slot};

/// What leads a processor to an L1 table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Nothing.
    None,
    /// One L2 entry, by the addresses of one 2 MiB range alone, which begins here.
    Only(u64),
}

/// What became of the entries that a guest wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Entries that are not as they were.
    pub changed: u32,
    /// The first that the guest may not have; all of these are as they were.
    pub refused: Option<(usize, Pte)>,
}

impl Memory {
    /// How a processor with this root comes to an L1 table of `owner`; `None` where there may be more than one way.
    /// Nobody changes the owner's tables until the answer has served its purpose.
    pub fn way_to(&self, root: Mfn, table: Mfn, owner: Domid) -> Option<Way> {
        let Some((l2, in_l2)) = self.only_hook(table, Level::L1, owner)? else {
            return Some(Way::None);
        };
        let Some((l3, in_l3)) = self.only_hook(l2, Level::L2, owner)? else {
            return Some(Way::None);
        };
        // The L3 table may be under many roots, but is under this one at most once.
        let mut found = None;
        let mut entries = [0; TABLE_ENTRIES];
        self.read_table(root, &mut entries);
        for (index, entry) in entries.into_iter().enumerate() {
            if is_guest_slot(Level::L4, index) && names(entry, l3) && found.replace(index).is_some()
            {
                return None;
            }
        }
        let Some(in_l4) = found else {
            return Some(Way::None);
        };
        let address = (in_l4 << 39 | in_l3 << 30 | in_l2 << 21) as u64;
        Some(Way::Only((((address << 16) as i64) >> 16) as u64))
    }

    /// The one entry of a higher table that names this one, or that there is none; `None` where there are more, or it
    /// is not found.
    fn only_hook(&self, table: Mfn, level: Level, owner: Domid) -> Option<Option<(Mfn, usize)>> {
        let valid = |table, level| {
            let state = self.state(table)?;
            let is_table = state.kind == FrameType::Table(level) && state.stage == Stage::Valid;
            (is_table && state.owner == Some(owner)).then_some(state)
        };
        let state = valid(table, level)?;
        match state.types.checked_sub(state.pinned.into())? {
            0 => Some(None),
            1 => {
                let above = self.frame(table)?.hooked_in();
                valid(above, level.above()?)?;
                let mut entries = [0; TABLE_ENTRIES];
                self.read_table(above, &mut entries);
                let index = entries.iter().position(|&entry| names(entry, table))?;
                Some(Some((above, index)))
            }
            _ => None,
        }
    }

    /// Checks what a guest wrote to its validated L1 table, which nobody writes to any more nor walks yet, and makes
    /// the counts those of the new entries. `before` has the entries that they are of.
    pub fn renew(&self, table: Mfn, before: &[u64], owner: Domid) -> Renewed {
        let mut renewed = Renewed::default();
        let mut replaced = [false; TABLE_ENTRIES];
        let mut entries = [0; TABLE_ENTRIES];
        self.read_table(table, &mut entries);
        let all = || before.iter().copied().map(Pte).enumerate();
        // New entries first: they may be all that keeps a frame which an old one named.
        for (((index, old), written), replaced) in all().zip(entries).zip(&mut replaced) {
            if written == old.0 {
                continue;
            }
            let written = Pte(written);
            let next = match self.keeps_counts(old, written, Level::L1) {
                Some(next) => next,
                None => match self.acquire(written, table, Level::L1, owner, &mut || false) {
                    Ok(next) => {
                        *replaced = true;
                        next
                    }
                    Err(_) => {
                        renewed.refused.get_or_insert((index, written));
                        old
                    }
                },
            };
            if next != old {
                renewed.changed += 1;
            }
            if next != written {
                self.machine.store_u64(table, index, next.0);
            }
        }
        for ((_, old), _) in all().zip(replaced).filter(|&(_, replaced)| replaced) {
            self.release(old, table, Level::L1);
        }
        renewed
    }
}

fn names(entry: u64, table: Mfn) -> bool {
    Pte(entry).present() && Pte(entry).mfn() == table
}
