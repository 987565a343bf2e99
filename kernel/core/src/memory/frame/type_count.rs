//! The type count: a frame becomes what it is to be used as, and ceases to be.

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;

use super::{Frame, FrameType};
use crate::memory::page_table::Stopped;
use crate::memory::type_word::{Stage, TypeWord};
use crate::memory::{Level, Memory};

impl Memory {
    /// Counts one more use of a frame as `kind`; the caller holds a reference. Errors as
    /// [`super::FrameRef::with_type_until`].
    #[inline(never)]
    pub(super) fn take_type(
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
    pub(super) fn put_type(&self, mfn: Mfn) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    use hv_machine::Platform;

    use crate::memory::Pte;
    use crate::testing::{DOMU, Host, RW};

    /// So another vCPU of the domain finds it, or the control domain.
    #[test]
    fn a_table_that_leaves_is_taken_apart_by_who_wants_it_in_pieces() {
        let host = Host::new();
        let memory = &host.hv.memory;
        let owner = &host.domain(DOMU).owner;
        let frames = [(); 3].map(|()| memory.allocate(owner, 0, u64::MAX));
        let [table, a, b] = frames.map(|frame| frame.expect("room"));
        for (index, below) in [(1, a), (2, b)] {
            let entry = Pte::new(below, RW).0;
            host.hv.machine.store_u64(table, index, entry);
        }
        let get = |stop: bool| memory.get_table(table, DOMU, Level::L2, &mut || stop);
        drop(get(false).expect("in order"));
        assert!(!owner.is_settled());
        assert_eq!(get(true).err(), Some(Errno::ERESTART));
        assert!(!owner.is_settled(), "half of it is left");
        let again = get(false).expect("in order");
        assert!(owner.is_settled());
        drop(again);
    }
}
