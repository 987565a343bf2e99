//! [`Frame`]: what is known of each machine frame, and the counts as values.
//!
//! The fields of a record are private to this file because they carry the invariants of the module: a frame with
//! references has an owner or is being freed, a frame with a type count has references.

#[cfg(test)]
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI16, AtomicU32, AtomicU64, Ordering};

use hv_machine::Platform;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use super::owner::{List, NONE, Owner};
use super::page_table::Stopped;
use super::type_word::{Stage, TypeWord};
use super::{Level, Memory};

/// The record of one machine frame.
pub struct Frame {
    /// References; [`ALLOCATED`] while its owner's allocation is one of them.
    count: AtomicU32,
    /// Domain number of the owner, or [`NO_OWNER`].
    owner: AtomicU32,
    /// Type, stage and type count; see [`super::type_word`].
    type_word: AtomicU64,
    /// When it was last used as its type, or freed: the low bits of [`Platform::flush_time`].
    last_use: AtomicU32,
    next: AtomicU32,
    prev: AtomicU32,
    /// Entries of the table that name others of its level, or, negative, such entries elsewhere that name it; see
    /// [`super::linear`].
    pub(super) linear: AtomicI16,
    /// The table that last came to have an entry naming this one.
    hooked_in: AtomicU32,
}

const ALLOCATED: u32 = 1 << 31;
const COUNT: u32 = ALLOCATED - 1;
/// Most references that are given out; the others are for [`Frame::hold`] and the end of the owner.
const MOST: u32 = COUNT - 0xff;
const NO_OWNER: u32 = u32::MAX;
/// Frames that [`Memory::release_all`] takes between two looks at the clock.
const RELEASE_BATCH: usize = 16;

/// What a frame may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameType {
    /// Nothing that depends on its contents.
    None,
    /// A validated page table.
    Table(Level),
    /// A page of a GDT or LDT, each entry checked.
    Descriptors,
    /// Mapped writable by guests.
    Writable,
}

impl Frame {
    pub(super) fn new() -> Self {
        Self {
            count: AtomicU32::new(0),
            owner: AtomicU32::new(NO_OWNER),
            type_word: AtomicU64::new(0),
            last_use: AtomicU32::new(0),
            next: AtomicU32::new(NONE),
            prev: AtomicU32::new(NONE),
            linear: AtomicI16::new(0),
            hooked_in: AtomicU32::new(NONE),
        }
    }

    /// The table that last came to have an entry naming this one. It may have lost it since, and be no table at all.
    pub(super) fn hooked_in(&self) -> Mfn {
        Mfn(self.hooked_in.load(Ordering::Relaxed).into())
    }

    /// Notes for [`Self::hooked_in`] that `table` has an entry naming this one.
    pub(super) fn set_hooked_in(&self, table: Mfn) {
        self.hooked_in.store(table.0 as u32, Ordering::Relaxed);
    }

    pub(super) fn word(&self) -> TypeWord {
        TypeWord(self.type_word.load(Ordering::Acquire))
    }

    /// Changes the type word if it still is `old`; whether it was.
    pub(super) fn replace_word(&self, old: TypeWord, new: TypeWord) -> bool {
        self.type_word
            .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Changes the type word as `change` says, where it says so and nobody else changes it meanwhile; whether it did.
    #[inline]
    fn try_change(&self, change: impl FnOnce(TypeWord) -> Option<TypeWord>) -> bool {
        let word = self.word();
        change(word).is_some_and(|new| self.replace_word(word, new))
    }

    /// Changes the type word, which is the caller's alone to change.
    pub(super) fn set_word(&self, new: TypeWord) {
        self.type_word.store(new.0, Ordering::Release);
    }

    /// Sets bits of the type word, or clears them; gives the word before.
    pub(super) fn change_flags(&self, flags: u64, set: bool) -> TypeWord {
        TypeWord(if set {
            self.type_word.fetch_or(flags, Ordering::AcqRel)
        } else {
            self.type_word.fetch_and(!flags, Ordering::AcqRel)
        })
    }

    /// Counts a reference more, for a stage of a table; the caller has one.
    pub(super) fn hold(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// The next frame of the list that it is in.
    pub(super) fn next(&self) -> u32 {
        self.next.load(Ordering::Relaxed)
    }
}

/// What a frame's record says, for tests and for domctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameState {
    /// References.
    pub references: u32,
    /// Whether the owner's allocation is one of them.
    pub allocated: bool,
    /// Owner.
    pub owner: Option<Domid>,
    /// Type; of an earlier use where the count is 0.
    pub kind: FrameType,
    /// Type count.
    pub types: u32,
    /// Whether a pin is one of them.
    pub pinned: bool,
    /// How far it is what its type says.
    pub stage: Stage,
}

/// A counted reference to a frame.
#[must_use]
pub struct FrameRef<'m> {
    memory: &'m Memory,
    mfn: Mfn,
}

impl<'m> FrameRef<'m> {
    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// Keeps the reference in a place that does not know of it (a page-table entry, a register); the caller
    /// gives it back through [`Memory::adopt`].
    pub fn into_bits(self) -> Mfn {
        let mfn = self.mfn;
        core::mem::forget(self);
        mfn
    }

    /// Makes the frame a `kind`, or counts one more use as it, and keeps reference and type together.
    ///
    /// It takes whatever time it takes, and so is for what has no tables below it.
    ///
    /// # Errors
    /// `EINVAL` where the frame is in use as something else, or its contents do not make it a `kind`.
    #[inline]
    pub fn with_type(self, kind: FrameType) -> Result<TypedRef<'m>, Errno> {
        self.with_type_until(kind, &mut || false)
    }

    /// As [`Self::with_type`], for all kinds.
    ///
    /// # Errors
    /// As there, and `ERESTART` where `out_of_time` said so before the frame was what it is to be: the next call goes
    /// on, from where this one stopped or somebody else did. Each call gets on by an entry of a table at least.
    #[inline]
    pub fn with_type_until(
        self,
        kind: FrameType,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> Result<TypedRef<'m>, Errno> {
        let used = |frame: &Frame| frame.try_change(|word| word.used_again(kind));
        if !self.memory.frame(self.mfn).is_some_and(used) {
            self.memory.take_type(self.mfn, kind, out_of_time)?;
        }
        Ok(TypedRef { frame: self, kind })
    }
}

impl Drop for FrameRef<'_> {
    #[inline]
    fn drop(&mut self) {
        self.memory.put(self.mfn);
    }
}

/// A counted reference to a frame together with a counted use of its type.
#[must_use]
pub struct TypedRef<'m> {
    frame: FrameRef<'m>,
    kind: FrameType,
}

impl TypedRef<'_> {
    /// The frame.
    pub fn mfn(&self) -> Mfn {
        self.frame.mfn
    }

    /// Its type.
    pub fn kind(&self) -> FrameType {
        self.kind
    }

    /// Keeps both counts in a place that does not know of them; the caller gives them back through
    /// [`Memory::adopt_typed`].
    pub fn into_bits(self) -> Mfn {
        let mfn = self.frame.mfn;
        core::mem::forget(self);
        mfn
    }
}

impl Drop for TypedRef<'_> {
    #[inline]
    fn drop(&mut self) {
        let FrameRef { memory, mfn } = self.frame;
        let less = |frame: &Frame| frame.try_change(TypeWord::used_less);
        if !memory.frame(mfn).is_some_and(less) {
            memory.put_type(mfn);
        }
    }
}

impl Memory {
    /// A reference to a frame that `owner` owns; `None` where it does not, or the frame is being freed.
    #[inline]
    pub fn get(&self, mfn: Mfn, owner: Domid) -> Option<FrameRef<'_>> {
        let reference = self.get_any(mfn)?;
        (self.owner_of(mfn) == Some(owner)).then_some(reference)
    }

    /// A reference to a frame, whoever owns it; `None` where nobody does, or there are [`MOST`].
    #[inline]
    pub fn get_any(&self, mfn: Mfn) -> Option<FrameRef<'_>> {
        self.refer(mfn, MOST)
    }

    /// A reference to a frame that has some, and less than `most`.
    #[inline]
    pub(super) fn refer(&self, mfn: Mfn, most: u32) -> Option<FrameRef<'_>> {
        let frame = self.frame(mfn)?;
        let more = |count: u32| (count & COUNT != 0 && count & COUNT < most).then(|| count + 1);
        frame
            .count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .ok()?;
        Some(FrameRef { memory: self, mfn })
    }

    /// A reference and a use of a type in one: [`Self::get`], then [`FrameRef::with_type`].
    ///
    /// # Errors
    /// `EINVAL` where either fails.
    #[inline]
    pub fn get_typed(
        &self,
        mfn: Mfn,
        owner: Domid,
        kind: FrameType,
    ) -> Result<TypedRef<'_>, Errno> {
        self.get(mfn, owner).ok_or(Errno::EINVAL)?.with_type(kind)
    }

    /// A reference to a frame and a use of it as a page table: [`Self::get`], then [`FrameRef::with_type_until`].
    ///
    /// # Errors
    /// `EINVAL` where either fails, `ERESTART` as there.
    pub fn get_table(
        &self,
        mfn: Mfn,
        owner: Domid,
        level: Level,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> Result<TypedRef<'_>, Errno> {
        let frame = self.get(mfn, owner).ok_or(Errno::EINVAL)?;
        frame.with_type_until(FrameType::Table(level), out_of_time)
    }

    /// Takes back a reference that [`FrameRef::into_bits`] put away. Each may be taken back once: the caller
    /// removes it from where it was kept.
    pub fn adopt(&self, mfn: Mfn) -> FrameRef<'_> {
        FrameRef { memory: self, mfn }
    }

    /// Takes back the counts that [`TypedRef::into_bits`] put away; each may be taken back once.
    pub fn adopt_typed(&self, mfn: Mfn, kind: FrameType) -> TypedRef<'_> {
        TypedRef {
            frame: self.adopt(mfn),
            kind,
        }
    }

    /// Who owns the frame.
    #[inline]
    pub fn owner_of(&self, mfn: Mfn) -> Option<Domid> {
        match self.frame(mfn)?.owner.load(Ordering::Acquire) {
            NO_OWNER => None,
            id => Some(Domid(id as u16)),
        }
    }

    /// What the frame's record says at this moment.
    pub fn state(&self, mfn: Mfn) -> Option<FrameState> {
        let frame = self.frame(mfn)?;
        let count = frame.count.load(Ordering::Acquire);
        let word = frame.word();
        Some(FrameState {
            references: count & COUNT,
            allocated: count & ALLOCATED != 0,
            owner: self.owner_of(mfn),
            kind: word.kind(),
            types: word.count() as u32,
            pinned: word.pinned(),
            stage: word.stage(),
        })
    }

    /// The type that the frame has while somebody counts on it.
    pub fn type_in_use(&self, mfn: Mfn) -> FrameType {
        match self.frame(mfn).map(Frame::word) {
            Some(word) if word.count() > 0 => word.kind(),
            _ => FrameType::None,
        }
    }

    /// The frames of a list, in order; the first wrong link ends it.
    #[cfg(test)]
    pub(super) fn listed(&self, list: &List) -> Vec<Mfn> {
        let mut found = Vec::new();
        let (mut cursor, mut before) = (list.head, NONE);
        while let Some(frame) = self.frame(Mfn(u64::from(cursor))) {
            if frame.prev.load(Ordering::Relaxed) != before || found.len() as u64 > list.len {
                break;
            }
            found.push(Mfn(u64::from(cursor)));
            before = cursor;
            cursor = frame.next.load(Ordering::Relaxed);
        }
        found
    }

    /// Makes frames that come from the heap the owner's: one reference each, the allocation.
    pub(super) fn assign(&self, first: Mfn, frames: u64, owner: &Owner) {
        let mut lists = owner.lists.lock();
        for number in first.0..first.0 + frames {
            let Some(frame) = self.frame(Mfn(number)) else {
                continue;
            };
            frame.owner.store(u32::from(owner.id.0), Ordering::Release);
            self.link(Mfn(number), frame, &mut lists.allocated);
            frame.type_word.store(0, Ordering::Release);
            frame.count.store(ALLOCATED | 1, Ordering::Release);
        }
    }

    /// Puts a frame at the head of a list.
    pub(super) fn link(&self, mfn: Mfn, frame: &Frame, list: &mut List) {
        frame.next.store(list.head, Ordering::Relaxed);
        frame.prev.store(NONE, Ordering::Relaxed);
        if let Some(head) = self.frame(Mfn(u64::from(list.head))) {
            head.prev.store(mfn.0 as u32, Ordering::Relaxed);
        }
        list.head = mfn.0 as u32;
        list.len += 1;
    }

    /// Takes a frame out of a list.
    pub(super) fn unlink(&self, mfn: Mfn, frame: &Frame, list: &mut List) {
        let next = frame.next.load(Ordering::Relaxed);
        let prev = frame.prev.load(Ordering::Relaxed);
        if list.cursor == Some(mfn.0 as u32) {
            list.cursor = Some(next);
        }
        match self.frame(Mfn(u64::from(prev))) {
            Some(before) => before.next.store(next, Ordering::Relaxed),
            None => list.head = next,
        }
        if let Some(after) = self.frame(Mfn(u64::from(next))) {
            after.prev.store(prev, Ordering::Relaxed);
        }
        list.len -= 1;
    }

    /// Takes the allocation's reference away, as the owner asks (`XENMEM_decrease_reservation`, its death); the
    /// frame is freed once nobody else refers to it.
    ///
    /// # Errors
    /// `EINVAL` where that has happened already.
    pub fn release_allocation(&self, reference: FrameRef<'_>) -> Result<(), Errno> {
        let mfn = reference.mfn;
        let frame = self.frame(mfn).ok_or(Errno::EINVAL)?;
        let owner = self
            .owner_of(mfn)
            .and_then(|id| self.owner(id))
            .ok_or(Errno::EINVAL)?;
        {
            // Under the lock, lest the end of the domain take the same reference.
            let mut lists = owner.lists.lock();
            let before = frame.count.fetch_and(!ALLOCATED, Ordering::AcqRel);
            if before & ALLOCATED == 0 {
                return Err(Errno::EINVAL);
            }
            self.unlink(mfn, frame, &mut lists.allocated);
            self.link(mfn, frame, &mut lists.lingering);
        }
        drop(self.adopt(mfn));
        Ok(())
    }

    /// Takes the whole reservation of a dying domain away, until `out_of_time` says so; whether that is finished.
    pub fn release_all(&self, owner: &Owner, out_of_time: &mut dyn FnMut() -> bool) -> bool {
        loop {
            let mut lists = owner.lists.lock();
            for _ in 0..RELEASE_BATCH {
                let mfn = Mfn(u64::from(lists.allocated.head));
                let Some(frame) = self.frame(mfn) else {
                    return true;
                };
                self.unlink(mfn, frame, &mut lists.allocated);
                let alone = frame.count.compare_exchange(
                    ALLOCATED | 1,
                    0,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                if alone.is_ok() {
                    self.forget_owner(mfn, frame);
                    continue;
                }
                // Others refer to it, so that it outlives the domain.
                self.link(mfn, frame, &mut lists.lingering);
                frame.count.fetch_and(!ALLOCATED, Ordering::AcqRel);
                drop(lists);
                drop(self.adopt(mfn));
                lists = owner.lists.lock();
            }
            drop(lists);
            if out_of_time() {
                return false;
            }
        }
    }

    /// Whether this frame, without its allocation and held but once, is all that an owner has left.
    pub fn is_last(&self, owner: &Owner, mfn: Mfn) -> bool {
        let lists = owner.lists.lock();
        let last = lists.allocated.len == 0
            && lists.lingering.len == 1
            && u64::from(lists.lingering.head) == mfn.0;
        last && self
            .frame(mfn)
            .is_some_and(|frame| frame.count.load(Ordering::Acquire) == 1)
    }

    #[inline]
    fn put(&self, mfn: Mfn) {
        let Some(frame) = self.frame(mfn) else { return };
        let before = frame.count.fetch_sub(1, Ordering::AcqRel);
        assert!(
            before & COUNT != 0,
            "frame {mfn} has no reference to give back"
        );
        if before & COUNT == 1 {
            self.free_unreferenced(mfn, frame);
        }
    }

    /// Frees a frame without references.
    #[cold]
    fn free_unreferenced(&self, mfn: Mfn, frame: &Frame) {
        if let Some(owner) = self.owner_of(mfn).and_then(|id| self.owner(id)) {
            self.unlink(mfn, frame, &mut owner.lists.lock().lingering);
        }
        self.forget_owner(mfn, frame);
    }

    fn forget_owner(&self, mfn: Mfn, frame: &Frame) {
        assert!(
            frame.word().count() == 0,
            "frame {mfn} is freed while in use as a type"
        );
        frame.owner.store(NO_OWNER, Ordering::Release);
        self.free(mfn, frame);
    }

    /// Counts one more use of a frame as `kind`; the caller holds a reference. Errors as
    /// [`FrameRef::with_type_until`].
    #[inline(never)]
    fn take_type(
        &self,
        mfn: Mfn,
        kind: FrameType,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> Result<(), Errno> {
        let frame = self.frame(mfn).ok_or(Errno::EINVAL)?;
        let contents_matter = matches!(kind, FrameType::Table(_) | FrameType::Descriptors);
        loop {
            let word = frame.word();
            let stage = word.stage();
            if stage != Stage::Idle && word.kind() != kind {
                // So ends, too, a table that names itself or one above it: as what it would be there it is none.
                return Err(Errno::EINVAL);
            }
            let done = match stage {
                Stage::Valid => {
                    if word.count() == TypeWord::COUNT {
                        return Err(Errno::EINVAL);
                    }
                    if frame.replace_word(word, TypeWord(word.0 + 1)) {
                        return Ok(());
                    }
                    continue;
                }
                // Another CPU is at it, and ends when its time is up. What it may wait for in turn is of a lower level.
                Stage::Busy => {
                    hv_machine::relax();
                    continue;
                }
                Stage::Leaving(_) => {
                    let owner = self.owner_of(mfn).and_then(|id| self.owner(id));
                    match owner.is_some_and(|owner| self.take_apart(&owner, out_of_time)) {
                        true => continue,
                        false => return Err(Errno::ERESTART),
                    }
                }
                Stage::Partial(done) => done,
                Stage::Idle => 0,
            };
            let changes =
                stage == Stage::Idle && word.kind() != FrameType::None && word.kind() != kind;
            // Nobody else may use it as what it becomes until everybody has forgotten what it was.
            let next = if contents_matter || changes {
                TypeWord::busy(kind)
            } else {
                TypeWord::valid(kind)
            };
            if !frame.replace_word(word, next) {
                continue;
            }
            if changes {
                // A stale writable translation would let the guest edit a page table that is in use; a stale
                // paging-structure entry would let it edit one through a page that no longer is a table.
                self.flush_since(self.last_use(frame));
            }
            if stage != Stage::Idle {
                // The stage's own; the caller has another.
                drop(self.adopt(mfn));
            }
            if !contents_matter {
                if changes {
                    frame.set_word(TypeWord::valid(kind));
                }
                return Ok(());
            }
            return match self.validate(mfn, kind, done, out_of_time) {
                Ok(()) => {
                    frame.set_word(TypeWord::valid(kind));
                    Ok(())
                }
                Err(stopped) => Err(self.stop(mfn, frame, kind, &stopped)),
            };
        }
    }

    /// Leaves a frame that [`Self::validate`] has not come to the end of in a stage without it; gives what the caller
    /// is told.
    fn stop(&self, mfn: Mfn, frame: &Frame, kind: FrameType, stopped: &Stopped) -> Errno {
        let busy = TypeWord::busy(kind);
        if stopped.why != Errno::ERESTART {
            if stopped.done == 0 {
                // What processors remember of an earlier use as the same type, they still do.
                frame.set_word(TypeWord::idle(kind));
            } else {
                self.leave(mfn, frame, busy, stopped.done);
            }
            return stopped.why;
        }
        frame.hold();
        let partial = TypeWord::partial(kind, stopped.done);
        frame.set_word(partial);
        // Who looks through the frames of an owner that goes either sees it now or has closed the account before.
        let closed = self
            .owner_of(mfn)
            .and_then(|id| self.owner(id))
            .is_none_or(|owner| owner.is_closed());
        if closed {
            self.leave(mfn, frame, partial, stopped.done);
            return Errno::EINVAL;
        }
        Errno::ERESTART
    }

    /// Counts one use of the frame's type less; the last use of a table above L1 puts it on its owner's list of those
    /// to be taken apart.
    #[inline(never)]
    fn put_type(&self, mfn: Mfn) {
        let Some(frame) = self.frame(mfn) else { return };
        loop {
            let word = frame.word();
            assert!(
                word.stage() == Stage::Valid,
                "frame {mfn} has no type to give back"
            );
            if word.count() > 1 {
                if frame.replace_word(word, TypeWord(word.0 - 1)) {
                    return;
                }
                continue;
            }
            let kind = word.kind();
            if matches!(kind, FrameType::Table(level) if level != Level::L1) {
                if self.leave(mfn, frame, word, hv_machine::TABLE_ENTRIES) {
                    return;
                }
                continue;
            }
            // Nobody else may count on the type from here on: a use that began and ended while the time is taken would
            // be later than that. An L1 table's type stays until it is empty.
            if !frame.replace_word(word, TypeWord::busy(kind)) {
                continue;
            }
            if kind == FrameType::Table(Level::L1) {
                self.release_entries(mfn, hv_machine::TABLE_ENTRIES);
            }
            self.note_last_use(frame);
            frame.set_word(TypeWord::idle(kind));
            return;
        }
    }

    /// Notes that nobody uses the frame any more who did, so that what processors remember of it is as old as this.
    pub(super) fn note_last_use(&self, frame: &Frame) {
        let time = self.machine.flush_time();
        frame.last_use.store(time as u32, Ordering::Release);
    }

    /// What [`Self::note_last_use`] noted, as a time on the whole clock; where that is so long ago that the bits do not
    /// tell, a later time.
    pub(super) fn last_use(&self, frame: &Frame) -> u64 {
        let low = frame.last_use.load(Ordering::Acquire);
        unwrap_time(self.machine.flush_time(), low)
    }
}

/// The last time up to `now` with these low bits.
pub(super) fn unwrap_time(now: u64, low: u32) -> u64 {
    let ago = (now as u32).wrapping_sub(low);
    now.saturating_sub(ago.into())
}
