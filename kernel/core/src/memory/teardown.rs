//! Page tables whose last use is gone: they are taken apart piece by piece.
//!
//! A tree of page tables can be so large that it takes a second to give back everything that it refers to. So who
//! gives back the last use of a table above L1 (drops a [`super::TypedRef`], overwrites an entry, unpins, switches
//! roots) only puts it on a list that its owner has. The list is worked off in pieces, by [`Memory::take_apart`]:
//!
//! - by a vCPU of the owner before it goes on: before its next hypercall, be it one of a multicall or the next request
//!   of a list, and before the guest is entered again. What a guest let go of so is free for other uses when it can
//!   next ask for one, and its own time is used up for it.
//! - by the control domain's vCPU that made another domain let go, if that domain does not run to do it itself;
//! - by the destruction of the owner, and by whoever looks for domains of which nothing is left.
//!
//! A table on the list keeps itself ([`super::type_word`]), so that nothing else needs to remember it: neither the
//! vCPU that let go of it, nor the domain while it dies. Giving back an entry may put the table that it names on the
//! list in turn: there is no recursion, and the list has no limit because it is linked through the type words.

use core::sync::atomic::{AtomicU64, Ordering};

use hv_machine::TABLE_ENTRIES;
use hypercall_abi::types::Mfn;

use super::frame::{Frame, NONE};
use super::owner::Owner;
use super::type_word::{Stage, TypeWord};
use super::{FrameType, Memory, Pte, is_guest_slot};
use crate::lock::{Mutex, rank};

/// An owner's tables to be taken apart.
pub(super) struct Leaving {
    /// The first; the others are linked through their type words.
    head: Mutex<u32, { rank::LEAVING }>,
    /// How many there are, that one included which is in somebody's hands.
    len: AtomicU64,
    /// Held by who works the list off. It is only ever tried: the others have better things to do than to wait.
    worker: Mutex<(), { rank::TEARDOWN }>,
}

impl Leaving {
    pub(super) fn new() -> Self {
        Self {
            head: Mutex::new(NONE),
            len: AtomicU64::new(0),
            worker: Mutex::new(()),
        }
    }
}

impl Owner {
    /// Whether none of its tables is to be taken apart.
    pub fn is_settled(&self) -> bool {
        self.leaving.len.load(Ordering::Acquire) == 0
    }
}

impl Memory {
    /// Takes apart the tables that nobody uses of an owner, until `out_of_time` says so; whether that is finished.
    ///
    /// It gets on by an entry at least, or another CPU is at it.
    pub fn take_apart(&self, owner: &Owner, out_of_time: &mut dyn FnMut() -> bool) -> bool {
        if owner.is_settled() {
            return true;
        }
        let leaving = &owner.leaving;
        let Some(_alone) = leaving.worker.try_lock() else {
            return false;
        };
        loop {
            let Some((mfn, frame, word)) = self.next_leaving(leaving) else {
                return owner.is_settled();
            };
            let left = self.give_back(mfn, word, out_of_time);
            if left > 0 {
                let mut head = leaving.head.lock();
                frame.set_word(TypeWord::leaving(word.kind(), left, *head));
                *head = mfn.0 as u32;
                return false;
            }
            self.note_last_use(frame);
            frame.set_word(TypeWord::idle(word.kind()));
            let rest = leaving.len.fetch_sub(1, Ordering::AcqRel) - 1;
            drop(self.adopt(mfn));
            if rest == 0 {
                return true;
            }
            if out_of_time() {
                return false;
            }
        }
    }

    /// Makes a table leave whose word is `from`, with `left` entries that count, if it still is; whether it was.
    ///
    /// The caller's use of it goes to the list. A reference goes with it that the stage before had, or a new one.
    pub(super) fn leave(&self, mfn: Mfn, frame: &Frame, from: TypeWord, left: usize) -> bool {
        let owner = self.owner_of(mfn).and_then(|id| self.owner(id));
        let Some(owner) = owner else {
            panic!("frame {mfn} is a table of nobody")
        };
        let leaving = &owner.leaving;
        let mut head = leaving.head.lock();
        if !frame.replace_word(from, TypeWord::leaving(from.kind(), left, *head)) {
            return false;
        }
        // Under the lock, lest somebody take the table off the list, and the reference away, before it is there.
        if !matches!(from.stage(), Stage::Partial(_)) {
            frame.hold();
        }
        leaving.len.fetch_add(1, Ordering::AcqRel);
        *head = mfn.0 as u32;
        true
    }

    /// Takes the first table off the list, and gives its word.
    fn next_leaving<'m>(&'m self, leaving: &Leaving) -> Option<(Mfn, &'m Frame, TypeWord)> {
        let mut head = leaving.head.lock();
        let mfn = Mfn(u64::from(*head));
        let frame = self.frame(mfn)?;
        let word = frame.word();
        *head = word.next();
        Some((mfn, frame, word))
    }

    /// An owner's tables to be taken apart, in order, and how many there should be; the first wrong link ends it.
    #[cfg(any(test, fuzzing))]
    pub(super) fn listed_leaving(&self, owner: &Owner) -> (alloc::vec::Vec<Mfn>, u64) {
        let mut found = alloc::vec::Vec::new();
        let mut next = *owner.leaving.head.lock();
        let len = owner.leaving.len.load(Ordering::Acquire);
        while let Some(frame) = self.frame(Mfn(u64::from(next)))
            && matches!(frame.word().stage(), Stage::Leaving(_))
            && (found.len() as u64) <= len
        {
            found.push(Mfn(u64::from(next)));
            next = frame.word().next();
        }
        (found, len)
    }

    /// Gives back what the entries of a leaving table refer to, the last first; gives how many entries still count.
    fn give_back(&self, mfn: Mfn, word: TypeWord, out_of_time: &mut dyn FnMut() -> bool) -> usize {
        let (FrameType::Table(level), Stage::Leaving(left)) = (word.kind(), word.stage()) else {
            return 0;
        };
        let mut entries = [0_u64; TABLE_ENTRIES];
        self.read_table(mfn, &mut entries);
        for (index, &entry) in entries.iter().enumerate().take(left).rev() {
            if entry & Pte::PRESENT == 0 || !is_guest_slot(level, index) {
                continue;
            }
            self.release(Pte(entry), mfn, level);
            if index > 0 && out_of_time() {
                return index;
            }
        }
        0
    }
}
