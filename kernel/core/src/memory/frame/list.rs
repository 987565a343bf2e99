//! [`List`]: frames linked through their records.

#[cfg(any(test, fuzzing))]
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use hypercall_abi::types::Mfn;

use super::Frame;
use crate::memory::Memory;

/// End of a list of frames.
pub(in crate::memory) const NONE: u32 = u32::MAX;

/// Head and length of a list of frames.
pub(in crate::memory) struct List {
    pub(in crate::memory) head: u32,
    pub(in crate::memory) len: u64,
    /// The next frame to be looked at by [`Memory::unpin_all`], once that has begun.
    pub(in crate::memory) cursor: Option<u32>,
}

impl List {
    pub(in crate::memory) const EMPTY: Self = Self {
        head: NONE,
        len: 0,
        cursor: None,
    };
}

impl Memory {
    /// The frames of a list, in order; the first wrong link ends it.
    #[cfg(any(test, fuzzing))]
    pub(in crate::memory) fn listed(&self, list: &List) -> Vec<Mfn> {
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

    /// Puts a frame at the head of a list.
    pub(in crate::memory) fn link(&self, mfn: Mfn, frame: &Frame, list: &mut List) {
        frame.next.store(list.head, Ordering::Relaxed);
        frame.prev.store(NONE, Ordering::Relaxed);
        if let Some(head) = self.frame(Mfn(u64::from(list.head))) {
            head.prev.store(mfn.0 as u32, Ordering::Relaxed);
        }
        list.head = mfn.0 as u32;
        list.len += 1;
    }

    /// Takes a frame out of a list.
    pub(in crate::memory) fn unlink(&self, mfn: Mfn, frame: &Frame, list: &mut List) {
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
}
