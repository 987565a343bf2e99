//! The direct map, and which frames are whose.
//!
//! [`Frames`] hands out addresses of untyped frames only. What may be done with one: atomic accesses and raw copies,
//! never a Rust reference to plain data, because a guest may be writing the frame.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall_abi::types::Mfn;

use super::layout;
use crate::{MemoryKind, MemoryRegion, PAGE_SHIFT, PAGE_SIZE, TABLE_ENTRIES};

/// Address of a machine address in the direct map.
#[inline]
pub fn direct(address: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut((layout::DIRECT_MAP + address) as usize)
}

/// Machine address of an address in the direct map.
pub fn machine_address(pointer: *const u8) -> u64 {
    pointer.expose_provenance() as u64 - layout::DIRECT_MAP
}

/// Which frames may be reached by frame number.
#[derive(Debug)]
pub struct Frames {
    /// Bit n of word m is set when frame 64 m + n is private or not RAM.
    closed: Vec<AtomicU64>,
    limit: u64,
}

impl Frames {
    /// Opens all of RAM but the first MiB and what `taken` has.
    pub fn new(map: &[MemoryRegion], limit: u64, taken: &[(u64, u64)]) -> Self {
        let words = limit.div_ceil(64) as usize;
        let mut closed = Vec::with_capacity(words);
        closed.resize_with(words, || AtomicU64::new(u64::MAX));
        let frames = Self { closed, limit };
        let page = PAGE_SIZE as u64;
        for region in map.iter().filter(|r| r.kind == MemoryKind::Ram) {
            let first = region.base.div_ceil(page);
            let end = (region.base + region.size) / page;
            frames.set(first, end.min(limit), false);
        }
        frames.set(0, (1 << 20) / page, true);
        for &(start, end) in taken {
            frames.set(start / page, end / page, true);
        }
        frames
    }

    fn set(&self, first: u64, end: u64, close: bool) {
        let end = end.min(self.limit);
        let mut mfn = first;
        while mfn < end {
            let count = (64 - mfn % 64).min(end - mfn);
            let bits = u64::MAX >> (64 - count) << (mfn % 64);
            if let Some(word) = self.closed.get((mfn / 64) as usize) {
                if close {
                    word.fetch_or(bits, Ordering::Relaxed);
                } else {
                    word.fetch_and(!bits, Ordering::Relaxed);
                }
            }
            mfn += count;
        }
    }

    /// One more than the highest frame of RAM.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether the frame is not to be reached: private, or no RAM.
    #[inline]
    pub fn is_closed(&self, mfn: Mfn) -> bool {
        match self.closed.get((mfn.0 / 64) as usize) {
            Some(word) => word.load(Ordering::Relaxed) >> (mfn.0 % 64) & 1 != 0,
            None => true,
        }
    }

    /// Makes frames private.
    pub fn close(&self, first: Mfn, count: u64) {
        for mfn in first.0..first.0 + count {
            assert!(
                !self.is_closed(Mfn(mfn)),
                "frame {mfn:#x} is not to be given away"
            );
        }
        self.set(first.0, first.0 + count, true);
    }

    /// First byte of an untyped frame.
    #[inline]
    pub fn address(&self, mfn: Mfn) -> *mut u8 {
        assert!(!self.is_closed(mfn), "frame {mfn} is private or absent");
        direct(mfn.0 << PAGE_SHIFT)
    }

    /// An entry of an untyped frame.
    #[inline]
    pub fn entry(&self, mfn: Mfn, index: usize) -> &AtomicU64 {
        assert!(index < TABLE_ENTRIES, "entry {index} of a frame");
        let entry = self.address(mfn).cast::<u64>();
        // SAFETY: the direct map has the whole frame, the index is inside it, and untyped frames are reached by
        // atomics and raw copies only.
        unsafe { AtomicU64::from_ptr(entry.add(index)) }
    }

    /// `len` bytes of an untyped frame.
    #[inline]
    pub fn range(&self, mfn: Mfn, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset <= PAGE_SIZE && len <= PAGE_SIZE - offset,
            "{len} bytes at {offset} of a frame"
        );
        // SAFETY: checked to be inside the frame.
        unsafe { self.address(mfn).add(offset) }
    }
}

/// Copies between memory that a guest may be writing and memory that it cannot reach. The compiler makes nothing of
/// the bytes: it does not see the copy.
///
/// # Safety
/// Both ranges are mapped; `to` is writable, and its bytes are plain data. Where the ranges overlap, bytes are copied
/// that were copied before.
#[inline]
pub unsafe fn raw_copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise; DF is clear in the hypervisor.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov rcx, {tail}",
            "rep movsb",
            tail = in(reg) len % 8,
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}

/// Fills memory that a guest may be reading with zeros.
///
/// # Safety
/// The range is mapped and writable; `len` is a multiple of 8.
#[inline]
pub unsafe fn raw_zero(to: *mut u8, len: usize) {
    // SAFETY: the caller's promise; DF is clear in the hypervisor.
    unsafe {
        core::arch::asm!(
            "rep stosq",
            inout("rcx") len / 8 => _,
            inout("rdi") to => _,
            in("rax") 0_u64,
            options(nostack, preserves_flags),
        );
    }
}
