//! Pins: the uses of page tables that a guest asks for, and that its end takes away.

use core::sync::atomic::Ordering;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use super::frame::{Frame, List};
use super::owner::{Lists, Owner};
use super::type_word::{Stage, TypeWord};
use super::{Level, Memory};

/// Frames that [`Memory::unpin_all`] looks at between two looks at the clock.
const BATCH: usize = 64;

impl Memory {
    /// Pins a page table (`MMUEXT_PIN_L*_TABLE`): it stays valid until it is unpinned.
    ///
    /// # Errors
    /// `EINVAL` where it is no such table of that owner, is pinned already, or its owner goes; `ERESTART` as
    /// [`super::FrameRef::with_type_until`].
    pub fn pin(
        &self,
        mfn: Mfn,
        owner: Domid,
        level: Level,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> Result<(), Errno> {
        let table = self.get_table(mfn, owner, level, out_of_time)?;
        let pin = |frame: &Frame| frame.change_flags(TypeWord::PINNED, true);
        if self.frame(mfn).is_none_or(|frame| pin(frame).pinned()) {
            return Err(Errno::EINVAL);
        }
        table.into_bits();
        // Who takes the pins of an owner that goes either sees this one or has closed the account before.
        if self.owner(owner).is_none_or(|owner| owner.is_closed()) {
            self.unpin(mfn);
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// Takes a pin away; `false` where there is none.
    pub fn unpin(&self, mfn: Mfn) -> bool {
        let Some(frame) = self.frame(mfn) else {
            return false;
        };
        let before = frame.change_flags(TypeWord::PINNED, false);
        if before.pinned() {
            drop(self.adopt_typed(mfn, before.kind()));
        }
        before.pinned()
    }

    /// Takes away what keeps frames of a closed account though nobody wants them: pins, and the stages of tables that
    /// somebody began to validate. Until `out_of_time` says so; whether that is finished.
    pub fn unpin_all(&self, owner: &Owner, out_of_time: &mut dyn FnMut() -> bool) -> bool {
        // What is given up meanwhile goes from the first list to the head of the second.
        self.unpin_list(owner, |lists| &mut lists.allocated, out_of_time)
            && self.unpin_list(owner, |lists| &mut lists.lingering, out_of_time)
    }

    fn unpin_list(
        &self,
        owner: &Owner,
        which: fn(&mut Lists) -> &mut List,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> bool {
        loop {
            let mut kept = None;
            {
                let mut lists = owner.lists.lock();
                let list = which(&mut lists);
                for _ in 0..BATCH {
                    let mfn = Mfn(u64::from(*list.cursor.get_or_insert(list.head)));
                    let Some(frame) = self.frame(mfn) else {
                        return true;
                    };
                    list.cursor = Some(frame.next());
                    let word = frame.word();
                    if word.pinned() || matches!(word.stage(), Stage::Partial(_)) {
                        // Under the lock, under which frames leave their owner.
                        kept = self.refer(mfn, u32::MAX);
                        break;
                    }
                }
            }
            if let Some(kept) = kept {
                self.unpin(kept.mfn());
                self.leave_partial(kept.mfn());
            }
            if out_of_time() {
                return false;
            }
        }
    }

    /// Makes a table leave that is partially validated.
    fn leave_partial(&self, mfn: Mfn) {
        let Some(frame) = self.frame(mfn) else { return };
        let word = frame.word();
        if let Stage::Partial(done) = word.stage() {
            // Where somebody goes on with it instead, he sees that the account is closed.
            self.leave(mfn, frame, word, done);
        }
    }
}

impl Owner {
    /// Closes the account of a domain that goes ([`super::Memory::close`]): from here on nothing of it is pinned, and no
    /// table is left partially validated.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        core::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Whether [`Self::close`] was called before; what the caller did before it asks is seen by who closes it later.
    pub(super) fn is_closed(&self) -> bool {
        core::sync::atomic::fence(Ordering::SeqCst);
        self.closed.load(Ordering::SeqCst)
    }
}
