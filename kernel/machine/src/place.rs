//! [`Place`]: words of a frame that are used time and again.

use core::sync::atomic::{AtomicU64, Ordering};

use hypercall_abi::types::Mfn;

use crate::PAGE_SHIFT;

/// Where words are that are used time and again (a `vcpu_info`), in an untyped frame that is held for as long: reaching
/// them ([`crate::Platform::load_at`] and its kin) is cheaper than by the frame's number.
///
/// Bits 0 to 47 are the machine address, a multiple of 8. The others are a backend's own note of when it last made sure
/// that the frame is untyped, 0 for never.
#[derive(Debug)]
pub struct Place(AtomicU64);

const NOTE_SHIFT: u32 = 48;

impl Place {
    pub(crate) const ADDRESS: u64 = (1 << NOTE_SHIFT) - 1;

    /// Words of a frame from byte `offset` on, which is a multiple of 8 and in the frame.
    pub const fn new(mfn: Mfn, offset: usize) -> Self {
        Self(AtomicU64::new(pack(mfn, offset)))
    }

    /// Moves to other words.
    pub fn set(&self, mfn: Mfn, offset: usize) {
        self.0.store(pack(mfn, offset), Ordering::Release);
    }

    /// The frame, and the offset in it in bytes.
    #[inline]
    pub fn get(&self) -> (Mfn, usize) {
        let address = self.0.load(Ordering::Acquire) & Self::ADDRESS;
        let mfn = Mfn(address >> PAGE_SHIFT);
        (mfn, (address & ((1 << PAGE_SHIFT) - 1)) as usize)
    }

    /// The address, and with it the difference between the note and `note`.
    #[cfg(target_os = "none")]
    #[inline]
    pub(crate) fn compare(&self, note: u16) -> u64 {
        self.0.load(Ordering::Acquire) ^ u64::from(note) << NOTE_SHIFT
    }

    /// Notes that the frame was seen to be untyped, unless the place has moved since it was `compare`d.
    #[cfg(target_os = "none")]
    pub(crate) fn note(&self, compared: u64, note: u16) {
        let note = u64::from(note) << NOTE_SHIFT;
        let _ = self.0.compare_exchange(
            compared ^ note,
            compared & Self::ADDRESS | note,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
    }
}

const fn pack(mfn: Mfn, offset: usize) -> u64 {
    mfn.0 << PAGE_SHIFT & Place::ADDRESS | offset as u64 & ((1 << PAGE_SHIFT) - 8)
}
