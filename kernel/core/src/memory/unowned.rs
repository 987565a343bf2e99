//! [`Unowned`]: a frame on the way from one owner to another, with all that is in it.

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;

use super::frame::Frame;
use super::type_word::TypeWord;
use super::{FrameRef, FrameType, Memory, Owner};

/// A frame that nobody owns or refers to and that is in no list. Dropping it frees it.
#[must_use]
pub struct Unowned<'m> {
    memory: &'m Memory,
    mfn: Mfn,
}

impl Drop for Unowned<'_> {
    fn drop(&mut self) {
        if let Some(frame) = self.memory.frame(self.mfn) {
            self.memory.free(self.mfn, frame);
        }
    }
}

impl Memory {
    /// Takes a frame away from its owner, for whom no processor remembers it then; `None` where the owner gave it up, or
    /// anybody but the caller refers to it.
    pub fn take_away(&self, reference: FrameRef<'_>) -> Option<Unowned<'_>> {
        let mfn = reference.mfn();
        let frame = self.seize(mfn)?;
        let _ = reference.into_bits();
        // Of those who read it nobody noted when they let go of it.
        self.note_last_use(frame);
        self.flush_since(self.last_use(frame));
        Some(Unowned { memory: self, mfn })
    }

    /// Makes a frame an owner's; which it is. `None` where the owner has as many as it may, or gets no more: the frame is
    /// freed then.
    pub fn give(&self, frame: Unowned<'_>, owner: &Owner) -> Option<Mfn> {
        let _claimed = self.claimed.lock();
        if owner.is_closed() || owner.is_full() {
            return None;
        }
        let mfn = frame.mfn;
        core::mem::forget(frame);
        self.assign(mfn, 1, owner);
        Some(mfn)
    }

    /// As [`Self::release_shared`], where no guest has a mapping of the frame.
    ///
    /// # Errors
    /// `EBUSY` where one has; nothing is changed then.
    pub fn release_unused_shared(&self, mfn: Mfn) -> Result<(), Errno> {
        let owner = self.owner_of(mfn).and_then(|id| self.owner(id));
        let frame = self.seize(mfn).ok_or(Errno::EBUSY)?;
        if let Some(owner) = owner {
            owner.count_shared(-1);
        }
        frame.set_word(TypeWord::idle(FrameType::Writable));
        self.free(mfn, frame);
        Ok(())
    }

    /// Takes a frame from its owner to which there is but one reference besides the allocation; it has none then, and
    /// nobody can get one.
    fn seize(&self, mfn: Mfn) -> Option<&Frame> {
        let frame = self.frame(mfn)?;
        let owner = self.owner(self.owner_of(mfn)?)?;
        let mut lists = owner.lists.lock();
        if !frame.take_last_reference() {
            return None;
        }
        self.unlink(mfn, frame, &mut lists.allocated);
        frame.disown();
        Some(frame)
    }
}
