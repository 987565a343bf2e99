//! The direct map, and which frames are whose.
//!
//! [`Frames`] hands out addresses of untyped frames only. What may be done with one: atomic accesses and raw copies,
//! never a Rust reference to plain data, because a guest may be writing the frame.

use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use hypercall_abi::types::Mfn;

use super::{layout, nearby};
use crate::{MemoryKind, MemoryRegion, PAGE_SHIFT, PAGE_SIZE, Place, TABLE_ENTRIES};

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

/// How often frames have been closed, plus 1 from the first look on; [`u16::MAX`] for once too often to count. Not with the frames: the linker
/// script puts it where all exits go by.
static CLOSINGS: AtomicU16 = AtomicU16::new(0);

#[inline(always)]
fn closings() -> &'static AtomicU16 {
    nearby!(CLOSINGS: AtomicU16)
}

impl Frames {
    /// Opens all of RAM but the first MiB and what `taken` has.
    pub fn new(map: &[MemoryRegion], limit: u64, taken: &[(u64, u64)]) -> Self {
        let words = limit.div_ceil(64) as usize;
        let mut closed = Vec::with_capacity(words);
        closed.resize_with(words, || AtomicU64::new(u64::MAX));
        let frames = Self { closed, limit };
        closings().store(1, Ordering::Relaxed);
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
        let more = |count: u16| Some(count.saturating_add(1));
        let _ = closings().fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// First byte of an untyped frame.
    #[inline]
    pub fn address(&self, mfn: Mfn) -> *mut u8 {
        if self.is_closed(mfn) {
            no_such_frame(mfn);
        }
        direct(mfn.0 << PAGE_SHIFT)
    }

    /// An entry of an untyped frame.
    #[inline]
    pub fn entry(&self, mfn: Mfn, index: usize) -> &AtomicU64 {
        if index >= TABLE_ENTRIES {
            no_such_entry(index);
        }
        let entry = self.address(mfn).cast::<u64>();
        // SAFETY: the direct map has the whole frame, the index is inside it, and untyped frames are reached by
        // atomics and raw copies only.
        unsafe { AtomicU64::from_ptr(entry.add(index)) }
    }

    /// A 32-bit word of an untyped frame.
    #[inline]
    pub fn half(&self, mfn: Mfn, index: usize) -> &AtomicU32 {
        if index >= 2 * TABLE_ENTRIES {
            no_such_entry(index);
        }
        let half = self.address(mfn).cast::<u32>();
        // SAFETY: as in `entry`. Where one CPU uses a word and another half of it, each is one instruction for the
        // processor, which orders them as it does a guest's.
        unsafe { AtomicU32::from_ptr(half.add(index)) }
    }

    /// What an entry of a frame holds; `None` where the frame is not to be reached.
    #[inline]
    pub fn peek(&self, mfn: Mfn, index: usize) -> Option<u64> {
        if self.is_closed(mfn) || index >= TABLE_ENTRIES {
            return None;
        }
        let entry = direct((mfn.0 << PAGE_SHIFT) + 8 * index as u64);
        let value: u64;
        // SAFETY: the direct map has all of RAM, so that the load does not fault. The frame may become one with Rust's
        // values between the look and the load, which is why the compiler does not see a load: any bits are an answer.
        unsafe {
            asm!("mov {value}, [{entry}]", value = out(reg) value, entry = in(reg) entry,
                options(readonly, nostack, preserves_flags));
        }
        Some(value)
    }

    /// Word `index` of a place. Whether its frame is untyped is looked up only where frames were closed since it last
    /// was.
    #[inline]
    pub fn word(&self, place: &Place, index: usize) -> &AtomicU64 {
        let closings = closings().load(Ordering::Acquire);
        let mut address = place.compare(closings);
        if address >> 48 != 0 {
            address = self.look_up(place, closings);
        }
        if address as usize % PAGE_SIZE + 8 * index >= PAGE_SIZE {
            no_such_entry(index);
        }
        // SAFETY: the frame was seen to be untyped, and none was closed since; a place is a multiple of 8, and the word
        // in the frame. Untyped frames are reached by atomics and raw copies only.
        unsafe { AtomicU64::from_ptr(direct(address).cast::<u64>().add(index)) }
    }

    #[cold]
    #[inline(never)]
    fn look_up(&self, place: &Place, closings: u16) -> u64 {
        let compared = place.compare(closings);
        let address = compared & Place::ADDRESS;
        let _checked = self.address(Mfn(address >> PAGE_SHIFT));
        if closings != u16::MAX {
            place.note(compared, closings);
        }
        address
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

// The ends of the checks above take what they print by value: a message that is formatted in place has its values put
// into memory whether it is wanted or not, in front of every access.

#[cold]
#[inline(never)]
fn no_such_frame(mfn: Mfn) -> ! {
    panic!("frame {mfn} is private or absent")
}

#[cold]
#[inline(never)]
fn no_such_entry(index: usize) -> ! {
    panic!("entry {index} of a frame")
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
