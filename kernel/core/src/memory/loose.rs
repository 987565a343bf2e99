//! Uses of a frame by a domain that does not own it, and page-table entries that are in no table, as values.
//!
//! [`Memory::update_entry`](super::Memory::update_entry) checks what a guest wrote and finds the counts for it. Here it
//! is the other way round: somebody who holds the counts for a frame makes an entry of them, and puts that into a table
//! in exchange for what was there ([`Memory::exchange_entry`]). The entry that comes out has its counts still, so that
//! whoever gets it says when they are given back: behind a flush, for one.

use hv_machine::Platform;
use hypercall_abi::types::{Domid, Mfn};

use super::{FrameRef, FrameType, L1Slot, Level, Memory, Pte, TypedRef};

/// A reference to a frame, with a use of it as writable where it is to be written.
#[must_use]
pub enum Held<'m> {
    /// To be read; the frame may be a page table.
    Readable(FrameRef<'m>),
    /// To be written.
    Writable(TypedRef<'m>),
}

/// An L1 entry in no table, with the counts for the frame that it names. Dropping it gives them back.
#[must_use]
pub struct LooseEntry<'m> {
    memory: &'m Memory,
    entry: Pte,
}

impl<'m> Held<'m> {
    /// Of a referenced frame; `None` where it is to be written and is in use as something else.
    pub fn new(frame: FrameRef<'m>, write: bool) -> Option<Self> {
        if !write {
            return Some(Self::Readable(frame));
        }
        let writable = frame.with_type(FrameType::Writable).ok()?;
        Some(Self::Writable(writable))
    }

    /// The frame.
    pub fn mfn(&self) -> Mfn {
        match self {
            Self::Readable(frame) => frame.mfn(),
            Self::Writable(frame) => frame.mfn(),
        }
    }

    /// As [`TypedRef::into_bits`]; back by [`Memory::adopt_held`].
    pub fn into_bits(self) -> Mfn {
        match self {
            Self::Readable(frame) => frame.into_bits(),
            Self::Writable(frame) => frame.into_bits(),
        }
    }

    /// An entry that names the frame, with these flags, and with [`Pte::WRITABLE`] if the frame is held for that.
    pub fn into_entry(self, memory: &'m Memory, flags: u64) -> LooseEntry<'m> {
        let write = match self {
            Self::Readable(_) => 0,
            Self::Writable(_) => Pte::WRITABLE,
        };
        let flags = flags & !Pte::WRITABLE | Pte::PRESENT | write;
        let entry = Pte::new(self.into_bits(), flags).adjusted(Level::L1);
        LooseEntry { memory, entry }
    }
}

impl Drop for LooseEntry<'_> {
    fn drop(&mut self) {
        self.memory.release(self.entry, Mfn(0), Level::L1);
    }
}

impl Memory {
    /// Takes back what [`Held::into_bits`] put away; each may be taken back once.
    pub fn adopt_held(&self, mfn: Mfn, write: bool) -> Held<'_> {
        match write {
            false => Held::Readable(self.adopt(mfn)),
            true => Held::Writable(self.adopt_typed(mfn, FrameType::Writable)),
        }
    }

    /// An entry that names nothing.
    pub fn empty_entry(&self) -> LooseEntry<'_> {
        LooseEntry {
            memory: self,
            entry: Pte::default(),
        }
    }

    /// Puts an entry into an L1 table of `owner`'s, where what is there is as `expected`, and gives that.
    ///
    /// # Errors
    /// Gives the entry back where the frame is no L1 table of the owner's, what is there is something else, or another
    /// vCPU changes it at this moment.
    pub fn exchange_entry<'m>(
        &'m self,
        slot: L1Slot,
        owner: Domid,
        entry: LooseEntry<'m>,
        expected: impl FnOnce(Pte) -> bool,
    ) -> Result<LooseEntry<'m>, LooseEntry<'m>> {
        let kind = FrameType::Table(Level::L1);
        // Only a table that is one: nothing is made a table, nor its contents checked, for this.
        if self.type_in_use(slot.table) != kind {
            return Err(entry);
        }
        let Ok(table) = self.get_typed(slot.table, owner, kind) else {
            return Err(entry);
        };
        let old = Pte(self.machine.load_u64(table.mfn(), slot.index));
        if !expected(old) {
            return Err(entry);
        }
        match self.store_entry(table.mfn(), slot.index, old, entry.entry, false) {
            Some(old) => {
                core::mem::forget(entry);
                Ok(LooseEntry {
                    memory: self,
                    entry: old,
                })
            }
            None => Err(entry),
        }
    }
}
