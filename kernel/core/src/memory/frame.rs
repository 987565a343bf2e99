//! [`Frame`]: what is known of each machine frame.
//!
//! The fields of a record are private to this module because they carry the invariants of memory: a frame with
//! references has an owner or is being freed, a frame with a type count has references.

mod allocation;
mod list;
mod reference;
mod type_count;

use core::sync::atomic::{AtomicI16, AtomicU32, AtomicU64, Ordering};

use hv_machine::Platform;
use hypercall_abi::types::{Domid, Mfn};

use super::type_word::{Stage, TypeWord};
use super::{Level, Memory};
pub(super) use list::{List, NONE};
pub use reference::{FrameRef, TypedRef};

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
/// Each use of a type has a reference, so that a type word counts them all.
const _: () = assert!((COUNT as u64) < TypeWord::COUNT);
const NO_OWNER: u32 = u32::MAX;

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

    #[inline]
    pub(super) fn word(&self) -> TypeWord {
        TypeWord(self.type_word.load(Ordering::Acquire))
    }

    /// Changes the type word if it still is `old`; whether it was.
    #[inline]
    pub(super) fn replace_word(&self, old: TypeWord, new: TypeWord) -> bool {
        self.type_word
            .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Changes the type word as `change` says, if it has something to say of what the word is by then; whether it had.
    #[inline]
    fn try_change(&self, change: impl Fn(TypeWord) -> Option<TypeWord>) -> bool {
        let next = |word| change(TypeWord(word)).map(|new| new.0);
        self.type_word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .is_ok()
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

    /// Counts a reference more, if there are some, and less than `most`; whether there were.
    #[inline]
    fn refer(&self, most: u32) -> bool {
        let more = |count: u32| (count & COUNT != 0 && count & COUNT < most).then(|| count + 1);
        self.count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .is_ok()
    }

    /// Counts a reference more, for a stage of a table; the caller has one.
    pub(super) fn hold(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes the allocation's reference and the only other one; whether there were just these.
    pub(super) fn take_last_reference(&self) -> bool {
        self.count
            .compare_exchange(ALLOCATED | 2, 0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Makes it nobody's.
    pub(super) fn disown(&self) {
        self.owner.store(NO_OWNER, Ordering::Release);
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

impl Memory {
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

    /// Notes that nobody uses the frame any more who did, so that what processors remember of it is as old as this.
    #[inline]
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

#[cfg(test)]
mod tests {
    use super::*;

    use crate::testing::{DOMU, Host};

    #[test]
    fn references_are_refused_before_their_count_overflows() {
        let host = Host::new();
        let memory = &host.hv.memory;
        let mfn = host.layout(DOMU).scratch[5];
        let frame = memory.frame(mfn).expect("RAM");
        let count = frame.count.load(Ordering::Relaxed);
        let most = COUNT - 0xff;
        frame.count.store(ALLOCATED | (most - 1), Ordering::Relaxed);
        let last = memory.get(mfn, DOMU).map(FrameRef::into_bits);
        assert_eq!(last, Some(mfn));
        assert!(memory.get(mfn, DOMU).is_none());
        frame.count.store(count, Ordering::Relaxed);
    }
}
