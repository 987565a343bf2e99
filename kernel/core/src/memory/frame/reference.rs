//! [`FrameRef`] and [`TypedRef`]: the counts of a frame as values.

use core::sync::atomic::Ordering;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use super::{COUNT, Frame, FrameType};
use crate::memory::type_word::TypeWord;
use crate::memory::{Level, Memory};

/// Most references that are given out; the others are for [`Frame::hold`] and the end of the owner.
const MOST: u32 = COUNT - 0xff;

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
    pub(in crate::memory) fn refer(&self, mfn: Mfn, most: u32) -> Option<FrameRef<'_>> {
        let referred = self.frame(mfn)?.refer(most);
        referred.then(|| FrameRef { memory: self, mfn })
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

    /// A reference to a frame and a use of it as the table of a level that it is already; `None` where it is none, or
    /// not the owner's. A matter of a moment.
    #[inline]
    pub fn get_valid(&self, mfn: Mfn, owner: Domid, level: Level) -> Option<TypedRef<'_>> {
        let kind = FrameType::Table(level);
        let frame = self.get(mfn, owner)?;
        let again = self.frame(mfn)?.try_change(|word| word.used_again(kind));
        again.then(|| TypedRef { frame, kind })
    }

    /// Takes what a mapping refers to: a reference to a frame, whose record the caller has looked up, that `owner` owns,
    /// and where it is `writable` a use as such. Given back by [`Self::put_page`].
    ///
    /// This and the next are [`Self::get_typed`] and its end for the one thing that guests do by the hundred thousand,
    /// with each record looked up once: half the time of a page-table update.
    ///
    /// # Errors
    /// `EBUSY` where either fails.
    #[inline]
    pub(in crate::memory) fn get_page(
        &self,
        mfn: Mfn,
        frame: &Frame,
        owner: Domid,
        writable: bool,
    ) -> Result<(), Errno> {
        if !frame.refer(MOST) {
            return Err(Errno::EBUSY);
        }
        let held = FrameRef { memory: self, mfn };
        if frame.owner.load(Ordering::Acquire) != u32::from(owner.0) {
            return Err(Errno::EBUSY);
        }
        if writable && !frame.try_change(|word| word.used_again(FrameType::Writable)) {
            self.take_type(mfn, FrameType::Writable, &mut || false)
                .map_err(|_| Errno::EBUSY)?;
        }
        held.into_bits();
        Ok(())
    }

    /// Gives back what [`Self::get_page`] took.
    #[inline]
    pub(in crate::memory) fn put_page(&self, mfn: Mfn, writable: bool) {
        let Some(frame) = self.frame(mfn) else { return };
        if writable && !frame.try_change(TypeWord::used_less) {
            let last = TypeWord::valid(FrameType::Writable);
            // As in `put_type`.
            if frame.replace_word(last, TypeWord::busy(FrameType::Writable)) {
                self.note_last_use(frame);
                frame.set_word(TypeWord::idle(FrameType::Writable));
            } else {
                self.put_type(mfn);
            }
        }
        self.put_reference(mfn, frame);
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

    #[inline]
    fn put(&self, mfn: Mfn) {
        if let Some(frame) = self.frame(mfn) {
            self.put_reference(mfn, frame);
        }
    }

    #[inline]
    fn put_reference(&self, mfn: Mfn, frame: &Frame) {
        let before = frame.count.fetch_sub(1, Ordering::AcqRel);
        if before & COUNT <= 1 {
            self.free_unreferenced(mfn, frame, before);
        }
    }
}
