//! Validation of page tables and of single entries: here is decided what a guest's processor may be told.

use hv_machine::{FIRST_HYPERVISOR_SLOT, HYPERVISOR_SLOTS, Platform, TABLE_ENTRIES};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};
use zerocopy::IntoBytes;

use super::frame::{FrameType, TypedRef};
use super::{Level, Memory, Pte};
use crate::descriptor;

/// Flags whose change needs no new look at the frame that an entry names.
const HARMLESS: u64 = Pte::ACCESSED
    | Pte::DIRTY
    | Pte::AVAILABLE
    | Pte::AVAILABLE_HIGH
    | Pte::USER
    | Pte::GUEST_KERNEL
    | Pte::GLOBAL
    | Pte::NO_EXECUTE;

/// Why and where the validation of a frame stopped.
pub(super) struct Stopped {
    /// Entries that count.
    pub(super) done: usize,
    /// `ERESTART` where the time was up, else what is wrong.
    pub(super) why: Errno,
}

/// What the update of an entry came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Updated {
    /// The entry before.
    pub old: Pte,
    /// The entry as stored.
    pub new: Pte,
}

/// Whether entry `index` of a table of this level belongs to the guest.
pub fn is_guest_slot(level: Level, index: usize) -> bool {
    level != Level::L4
        || !(FIRST_HYPERVISOR_SLOT..FIRST_HYPERVISOR_SLOT + HYPERVISOR_SLOTS).contains(&index)
}

impl Memory {
    /// Checks a frame's contents for its use as `kind`, from entry `done` on, and takes what they refer to.
    ///
    /// The frame is not writable by guests any more, nor a table yet, so that nobody else writes to it.
    ///
    /// # Errors
    /// What is wrong, or `ERESTART`, and how many entries count; that is none where `kind` is not a table above L1.
    pub(super) fn validate(
        &self,
        mfn: Mfn,
        kind: FrameType,
        done: usize,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> Result<(), Stopped> {
        match kind {
            FrameType::Table(level) => self.validate_table(mfn, level, done, out_of_time),
            FrameType::Descriptors => {
                let checked = self.validate_descriptors(mfn);
                checked.map_err(|why| Stopped { done: 0, why })
            }
            FrameType::None | FrameType::Writable => Ok(()),
        }
    }

    /// Who owns a table that is held, and so has an owner; nothing can be had in the name of nobody.
    pub(super) fn holder(&self, table: Mfn) -> Domid {
        self.owner_of(table).unwrap_or(Domid::INVALID)
    }

    fn validate_table(
        &self,
        mfn: Mfn,
        level: Level,
        done: usize,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> Result<(), Stopped> {
        let stop = |done, why| Err(Stopped { done, why });
        let owner = self.holder(mfn);
        let mut entries = [0_u64; TABLE_ENTRIES];
        self.read_table(mfn, &mut entries);
        for (index, &entry) in entries.iter().enumerate().skip(done) {
            if entry & Pte::PRESENT == 0 || !is_guest_slot(level, index) {
                continue;
            }
            match self.acquire(Pte(entry), mfn, level, owner, out_of_time) {
                Ok(stored) if stored.0 != entry => self.machine.store_u64(mfn, index, stored.0),
                Ok(_) => {}
                Err(why) if level == Level::L1 => {
                    self.release_entries(mfn, index);
                    return stop(0, why);
                }
                Err(why) => return stop(index, why),
            }
            self.note_hook(Pte(entry), level, mfn);
            if level != Level::L1 && index + 1 < TABLE_ENTRIES && out_of_time() {
                return stop(index + 1, Errno::ERESTART);
            }
        }
        if level == Level::L4 {
            for (slot, entry) in self.machine.hypervisor_slots().into_iter().enumerate() {
                self.machine
                    .store_u64(mfn, FIRST_HYPERVISOR_SLOT + slot, entry);
            }
        }
        Ok(())
    }

    fn validate_descriptors(&self, mfn: Mfn) -> Result<(), Errno> {
        let mut entries = [0_u64; TABLE_ENTRIES];
        self.read_table(mfn, &mut entries);
        for (index, &entry) in entries.iter().enumerate() {
            let checked = descriptor::check(entry).ok_or(Errno::EINVAL)?;
            if checked != entry {
                self.machine.store_u64(mfn, index, checked);
            }
        }
        Ok(())
    }

    /// Gives back what the first `count` entries of an L1 table refer to.
    pub(super) fn release_entries(&self, mfn: Mfn, count: usize) {
        let mut entries = [0_u64; TABLE_ENTRIES];
        self.read_table(mfn, &mut entries);
        for &entry in entries.iter().take(count) {
            self.release(Pte(entry), mfn, Level::L1);
        }
    }

    /// Copies a table.
    pub(super) fn read_table(&self, mfn: Mfn, entries: &mut [u64; TABLE_ENTRIES]) {
        self.machine.read_frame(mfn, 0, entries.as_mut_bytes());
    }

    /// Checks an entry for a table of `level`, takes what it refers to, and returns it as it is to be stored.
    /// `frame_owner` is whose frame it may name; [`Domid::IO`] for I/O memory.
    #[inline]
    pub(super) fn acquire(
        &self,
        entry: Pte,
        table: Mfn,
        level: Level,
        frame_owner: Domid,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> Result<Pte, Errno> {
        if !entry.present() {
            return Ok(entry);
        }
        if !entry.flags_allowed(level) {
            return Err(Errno::EINVAL);
        }
        let entry = entry.adjusted(level);
        if let Some(below) = level.below() {
            // Tables are never shared between domains.
            let table_owner = self.holder(table);
            match self.get_table(entry.mfn(), table_owner, below, out_of_time) {
                Ok(found) => _ = found.into_bits(),
                Err(Errno::EINVAL) => self.acquire_linear(entry, table, level)?,
                Err(why) => return Err(why),
            }
            return Ok(entry);
        }
        self.acquire_page(entry, table, frame_owner)
    }

    /// As [`Self::acquire`], for a present entry of an L1 table, adjusted.
    #[inline(always)]
    fn acquire_page(&self, entry: Pte, table: Mfn, frame_owner: Domid) -> Result<Pte, Errno> {
        let mfn = entry.mfn();
        let Some(frame) = self.frame(mfn) else {
            return self.acquire_io(entry, table, frame_owner);
        };
        if entry.0 & Pte::CACHE != 0
            && !self
                .owner(self.holder(table))
                .is_some_and(|owner| owner.has_io_memory())
        {
            return Err(Errno::EINVAL);
        }
        self.get_page(mfn, frame, frame_owner, entry.writable())?;
        // RAM is always cached write-back: a second memory type for the same frame is a hazard on real hardware.
        Ok(Pte(entry.0 & !Pte::CACHE))
    }

    /// An L1 entry that names a frame which is no RAM of the hypervisor's: the owner needs permission for it, and does
    /// not get to cache it. Two mappings of a device's registers of which one is cached are a hazard on real hardware.
    #[cold]
    fn acquire_io(&self, entry: Pte, table: Mfn, frame_owner: Domid) -> Result<Pte, Errno> {
        let table_owner = self.holder(table);
        let mfn = entry.mfn();
        let allowed = |id: Domid| {
            self.owner(id)
                .is_some_and(|owner| owner.io_memory_allowed(mfn, mfn))
        };
        if !allowed(table_owner) || (frame_owner != Domid::IO && !allowed(frame_owner)) {
            // What names no frame at all is a mistake rather than a wish for more.
            let nothing = mfn == Pte(u64::MAX).mfn();
            return Err(if nothing { Errno::EINVAL } else { Errno::EPERM });
        }
        let uncached = match entry.0 & (Pte::PWT | Pte::PCD) {
            0 if entry.has(Pte::PAT) => 0,
            0 => Pte::PWT | Pte::PCD,
            Pte::PWT => Pte::PCD,
            _ => 0,
        };
        Ok(Pte(entry.0 | uncached))
    }

    /// Gives back what an entry that was in a table refers to.
    #[inline]
    pub(super) fn release(&self, entry: Pte, table: Mfn, level: Level) {
        if !entry.present() {
            return;
        }
        match level.below() {
            Some(_) if self.is_linear(entry, table, level) => {
                self.release_linear(entry, table, level);
            }
            Some(below) => drop(self.adopt_typed(entry.mfn(), FrameType::Table(below))),
            None => self.put_page(entry.mfn(), entry.writable()),
        }
    }

    /// Notes where the table is hooked that a new entry of `table` names.
    fn note_hook(&self, entry: Pte, level: Level, table: Mfn) {
        if let (Some(_), Some(below)) = (level.below(), self.frame(entry.mfn()))
            && entry.present()
        {
            below.set_hooked_in(table);
        }
    }

    /// What is to be stored for `entry`, where it names the same frame with the same rights as the entry that it
    /// replaces: the counts stand.
    #[inline]
    pub(super) fn keeps_counts(&self, old: Pte, entry: Pte, level: Level) -> Option<Pte> {
        let plain = level != Level::L1 || entry.0 & Pte::CACHE == 0;
        let good = old.present() && entry.present() && plain && entry.flags_allowed(level);
        let next = entry.adjusted(level);
        (good && (old.0 ^ next.0) & !HARMLESS == 0).then_some(next)
    }

    /// Writes entry `index` of a table that the caller holds as such.
    ///
    /// With `preserve` the processor's accessed and dirty bits of the old entry are kept. In an L1 table it is a
    /// matter of a moment; else `out_of_time` says when to stop.
    ///
    /// # Errors
    /// `EINVAL`, `EPERM` and `EBUSY` (a frame that is not the owner's, or is in use as something else) as the
    /// entry's check gives them, `EINVAL` in the hypervisor's slots, `ERESTART` as
    /// [`super::FrameRef::with_type_until`]; the entry is not changed then.
    pub fn update_entry(
        &self,
        table: &TypedRef<'_>,
        index: usize,
        entry: Pte,
        frame_owner: Domid,
        preserve: bool,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> Result<Updated, Errno> {
        let level = match table.kind() {
            FrameType::Table(level) if is_guest_slot(level, index) => level,
            _ => return Err(Errno::EINVAL),
        };
        if level == Level::L1 {
            return self.update_page(table.mfn(), index, entry, frame_owner, preserve);
        }
        let table = table.mfn();
        let old = Pte(self.machine.load_u64(table, index));
        if let Some(next) = self.keeps_counts(old, entry, level)
            && let Some(old) = self.store_entry(table, index, old, next, preserve)
        {
            return Ok(Updated { old, new: next });
        }
        let next = self.acquire(entry, table, level, frame_owner, out_of_time)?;
        self.note_hook(next, level, table);
        let mut expected = old;
        loop {
            if let Some(old) = self.store_entry(table, index, expected, next, preserve) {
                self.release(old, table, level);
                return Ok(Updated { old, new: next });
            }
            // Another vCPU of the guest wrote the entry first: its value is the one to be released.
            expected = Pte(self.machine.load_u64(table, index));
        }
    }

    /// As [`Self::update_entry`], for an L1 table.
    #[inline(always)]
    pub fn update_page(
        &self,
        table: Mfn,
        index: usize,
        entry: Pte,
        frame_owner: Domid,
        preserve: bool,
    ) -> Result<Updated, Errno> {
        const LEVEL: Level = Level::L1;
        let mut old = Pte(self.machine.load_u64(table, index));
        let mut next = entry;
        if entry.present() {
            // It may have all flags.
            const { assert!(Pte(u64::MAX).flags_allowed(LEVEL)) };
            next = entry.adjusted(LEVEL);
            if let Some(next) = self.keeps_counts(old, entry, LEVEL)
                && let Some(old) = self.store_entry(table, index, old, next, preserve)
            {
                return Ok(Updated { old, new: next });
            }
            next = self.acquire_page(next, table, frame_owner)?;
        }
        loop {
            if let Some(old) = self.store_entry(table, index, old, next, preserve) {
                if old.present() {
                    self.put_page(old.mfn(), old.writable());
                }
                return Ok(Updated { old, new: next });
            }
            // Another vCPU of the guest wrote the entry first: its value is the one to be released.
            old = Pte(self.machine.load_u64(table, index));
        }
    }

    /// Writes entry `index` of an L1 table that the caller holds as such, if it is `expected` to the bit; whether it
    /// was. `None` for an entry that [`Self::update_entry`] refuses.
    pub fn compare_exchange_entry(
        &self,
        table: Mfn,
        index: usize,
        expected: Pte,
        entry: Pte,
        frame_owner: Domid,
    ) -> Option<bool> {
        let next = self.acquire(entry, table, Level::L1, frame_owner, &mut || false);
        let next = next.ok()?;
        let exchanged = self
            .machine
            .compare_exchange_u64(table, index, expected.0, next.0)
            .is_ok();
        let released = if exchanged { expected } else { next };
        self.release(released, table, Level::L1);
        Some(exchanged)
    }

    /// Replaces `old` (with whatever accessed and dirty bits the processor has set meanwhile) by `new`; returns
    /// what was replaced, or `None` where the entry is not `old` any more.
    #[inline]
    pub(super) fn store_entry(
        &self,
        table: Mfn,
        index: usize,
        old: Pte,
        new: Pte,
        preserve: bool,
    ) -> Option<Pte> {
        const PROCESSOR: u64 = Pte::ACCESSED | Pte::DIRTY;
        let mut seen = old;
        loop {
            let kept = if preserve && new.present() {
                seen.0 & PROCESSOR
            } else {
                0
            };
            match self
                .machine
                .compare_exchange_u64(table, index, seen.0, new.0 | kept)
            {
                Ok(_) => return Some(seen),
                Err(found) if (found ^ old.0) & !PROCESSOR == 0 => seen = Pte(found),
                Err(_) => return None,
            }
        }
    }
}
