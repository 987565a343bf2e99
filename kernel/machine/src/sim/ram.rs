//! Frames of RAM: words that everybody reads and writes as atomics.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use hypercall_abi::types::Mfn;

use super::Machine;
use crate::{PAGE_SIZE, Platform, TABLE_ENTRIES};

impl Machine {
    /// How often a frame was written to.
    pub fn writes(&self, mfn: Mfn) -> u32 {
        let writes = self.writes.get(mfn.0 as usize);
        writes.map_or(0, |writes| writes.load(SeqCst))
    }

    /// A word of a frame, as the processor's walk reads it; `None` where no frame of RAM is.
    pub(super) fn peek(&self, mfn: Mfn, index: usize) -> Option<u64> {
        (!self.is_private(mfn)).then(|| self.word(mfn, index).load(SeqCst))
    }

    pub(super) fn word(&self, mfn: Mfn, index: usize) -> &AtomicU64 {
        assert!(
            !self.is_private(mfn),
            "access to private or absent frame {mfn:?}"
        );
        assert!(index < TABLE_ENTRIES, "entry {index} of a frame");
        &self.words[mfn.0 as usize * TABLE_ENTRIES + index]
    }

    /// As [`Self::word`], of a frame that is written to.
    pub(super) fn word_to_write(&self, mfn: Mfn, index: usize) -> &AtomicU64 {
        let word = self.word(mfn, index);
        self.writes[mfn.0 as usize].fetch_add(1, SeqCst);
        word
    }

    /// Makes of half a word what `change` says, if anything; what it held.
    pub(super) fn change_u32(
        &self,
        mfn: Mfn,
        index: usize,
        change: impl Fn(u32) -> Option<u32>,
    ) -> Result<u32, u32> {
        let shift = 32 * (index % 2);
        let half = |word: u64| (word >> shift) as u32;
        let set = |word: u64| {
            let others = word & !(u64::from(u32::MAX) << shift);
            Some(others | u64::from(change(half(word))?) << shift)
        };
        let word = self.word_to_write(mfn, index / 2);
        word.fetch_update(SeqCst, SeqCst, set)
            .map(half)
            .map_err(half)
    }

    /// [`crate::Platform::read_frame`].
    pub(super) fn read_bytes(&self, mfn: Mfn, offset: usize, out: &mut [u8]) {
        assert!(
            offset <= PAGE_SIZE && out.len() <= PAGE_SIZE - offset,
            "read across the end of a frame"
        );
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let word = self.word(mfn, at / 8).load(SeqCst).to_le_bytes();
            let part = &word[at % 8..];
            let (now, later) = rest.split_at_mut(part.len().min(rest.len()));
            now.copy_from_slice(&part[..now.len()]);
            at += now.len();
            rest = later;
        }
    }

    /// [`crate::Platform::write_frame`].
    pub(super) fn write_bytes(&self, mfn: Mfn, offset: usize, data: &[u8]) {
        assert!(
            offset <= PAGE_SIZE && data.len() <= PAGE_SIZE - offset,
            "write across the end of a frame"
        );
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (now, later) = rest.split_at((8 - at % 8).min(rest.len()));
            let set = |old: u64| {
                let mut word = old.to_le_bytes();
                word[at % 8..at % 8 + now.len()].copy_from_slice(now);
                Some(u64::from_le_bytes(word))
            };
            let word = self.word_to_write(mfn, at / 8);
            word.fetch_update(SeqCst, SeqCst, set).ok();
            at += now.len();
            rest = later;
        }
    }
}
