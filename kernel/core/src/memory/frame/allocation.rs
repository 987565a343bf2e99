//! The allocation: the reference that a frame's owner has for as long as the frame is in its reservation.

use core::sync::atomic::Ordering;

use hypercall_abi::types::Mfn;

use super::{ALLOCATED, COUNT, Frame, FrameRef};
use crate::memory::{Memory, Owner};

/// Frames that [`Memory::release_all`] takes between two looks at the clock.
const RELEASE_BATCH: usize = 16;

impl Memory {
    /// Makes frames that come from the heap the owner's: one reference each, the allocation.
    pub(in crate::memory) fn assign(&self, first: Mfn, frames: u64, owner: &Owner) {
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

    /// Takes the allocation's reference away, as the owner asks (`XENMEM_decrease_reservation`, its death); the
    /// frame is freed once nobody else refers to it. `false` where that has happened already.
    pub fn release_allocation(&self, reference: FrameRef<'_>) -> bool {
        let mfn = reference.mfn();
        let owner = self.owner_of(mfn).and_then(|id| self.owner(id));
        let (Some(frame), Some(owner)) = (self.frame(mfn), owner) else {
            return false;
        };
        {
            // Under the lock, lest the end of the domain take the same reference.
            let mut lists = owner.lists.lock();
            let before = frame.count.fetch_and(!ALLOCATED, Ordering::AcqRel);
            if before & ALLOCATED == 0 {
                return false;
            }
            self.unlink(mfn, frame, &mut lists.allocated);
            self.link(mfn, frame, &mut lists.lingering);
        }
        drop(self.adopt(mfn));
        true
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

    /// Frees a frame without references, which had so many before.
    #[cold]
    pub(super) fn free_unreferenced(&self, mfn: Mfn, frame: &Frame, before: u32) {
        assert!(
            before & COUNT == 1,
            "frame {mfn} has no reference to give back"
        );
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
        frame.disown();
        self.free(mfn, frame);
    }
}
