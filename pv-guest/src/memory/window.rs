//! A range of memory that somebody else writes too: another domain, or a device.

use core::arch::asm;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release, SeqCst};
use core::sync::atomic::{AtomicU16, AtomicU32};

use hypercall_abi::types::Mfn;
use split_drivers::SharedMemory;

use super::{address_of, pfn_of};
use crate::pte::PAGE_SIZE;

mod sealed {
    pub trait Sealed {}
}

/// An integer that is read or written in one access.
pub trait Word: Copy + sealed::Sealed {}

macro_rules! words {
    ($($type:ty)*) => { $(
        impl sealed::Sealed for $type {}
        impl Word for $type {}
    )* };
}

words! { u8 u16 u32 u64 }

/// Memory that is never behind a reference. It is owned by what dereferences to it, such as a
/// [`super::Mapping`].
///
/// Offsets are in bytes; one beyond the end, or not aligned for a [`Word`], panics.
#[derive(Debug)]
pub struct Window {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: every access is a volatile or atomic one of its own, and no reference into the memory is
// ever made.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Over `size` bytes from `base` on.
    ///
    /// # Safety
    ///
    /// The memory must stay mapped for as long as the window exists, and not be behind a Rust
    /// reference meanwhile.
    pub(crate) unsafe fn new(base: NonNull<u8>, size: usize) -> Self {
        Self { base, size }
    }

    fn at(&self, offset: usize, size: usize) -> *mut u8 {
        assert!(
            size <= self.size && offset <= self.size - size,
            "{size} bytes at {offset:#x} are not in a window of {:#x}",
            self.size
        );
        // SAFETY: just checked to be within the memory.
        unsafe { self.base.as_ptr().add(offset) }
    }

    fn word_at<T: Word>(&self, offset: usize) -> *mut T {
        let pointer = self.at(offset, size_of::<T>()).cast::<T>();
        assert!(pointer.is_aligned(), "{offset:#x} is not aligned");
        pointer
    }

    /// Bytes there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The linear address of the first byte.
    pub fn address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    /// Reads a word, in one access that is neither left out nor repeated.
    pub fn get<T: Word>(&self, offset: usize) -> T {
        // SAFETY: mapped and aligned, as checked; any bits are valid for an integer.
        unsafe { self.word_at::<T>(offset).read_volatile() }
    }

    /// Writes a word, in one access that is neither left out nor repeated.
    pub fn set<T: Word>(&self, offset: usize, value: T) {
        // SAFETY: mapped and aligned, as checked, and not behind a reference.
        unsafe { self.word_at::<T>(offset).write_volatile(value) }
    }

    /// Writes a word where it is `old`, as one access.
    ///
    /// # Errors
    ///
    /// Gives what it is.
    pub fn compare_exchange(&self, offset: usize, old: u16, new: u16) -> Result<u16, u16> {
        // SAFETY: mapped and aligned, as checked; the other side accesses it atomically as well.
        let word = unsafe { AtomicU16::from_ptr(self.word_at(offset)) };
        word.compare_exchange(old, new, AcqRel, Acquire)
    }

    /// A word that both ends of event channels change.
    pub fn shared_word(&self, offset: usize) -> SharedWord<'_> {
        SharedWord {
            window: self,
            offset,
        }
    }

    /// Copies bytes out. Whoever else writes them may be seen half-way.
    pub fn copy_out(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.at(offset, bytes.len());
        // SAFETY: both ranges have the length; the destination is exclusively borrowed.
        unsafe { copy(bytes.as_mut_ptr(), from, bytes.len()) }
    }

    /// Copies bytes in.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: both ranges have the length; the destination is not behind a reference.
        unsafe { copy(to, bytes.as_ptr(), bytes.len()) }
    }

    /// Copies bytes from another one.
    pub fn copy_from(&self, offset: usize, from: &Window, at: usize, size: usize) {
        let (to, from) = (self.at(offset, size), from.at(at, size));
        // SAFETY: both ranges have the length, and neither is behind a reference. Where they overlap, what
        // is copied is bytes all the same.
        unsafe { copy(to, from, size) }
    }

    /// Sets `size` bytes to `value`.
    pub fn fill(&self, offset: usize, size: usize, value: u8) {
        let to = self.at(offset, size);
        let word = u64::from_ne_bytes([value; 8]);
        // SAFETY: the range is within the memory, as checked: whole words first, then the rest.
        unsafe {
            asm!(
                "rep stosq",
                "mov rcx, {rest}",
                "rep stosb",
                rest = in(reg) size % 8,
                inout("rcx") size / 8 => _, inout("rdi") to => _, in("rax") word,
                options(nostack, preserves_flags),
            );
        }
    }
}

/// A word of a [`Window`] that both ends of event channels change.
#[derive(Clone, Copy, Debug)]
pub struct SharedWord<'a> {
    window: &'a Window,
    offset: usize,
}

impl SharedWord<'_> {
    fn atomic(&self) -> &AtomicU32 {
        // SAFETY: mapped and aligned, as checked; the other end accesses it atomically as well.
        unsafe { AtomicU32::from_ptr(self.window.word_at(self.offset)) }
    }
}

impl event_protocol::Word<u32> for SharedWord<'_> {
    fn load(&self) -> u32 {
        self.atomic().load(SeqCst)
    }

    fn store(&self, value: u32) {
        self.atomic().store(value, SeqCst);
    }

    fn fetch_or(&self, bits: u32) -> u32 {
        self.atomic().fetch_or(bits, SeqCst)
    }

    fn fetch_and(&self, bits: u32) -> u32 {
        self.atomic().fetch_and(bits, SeqCst)
    }

    fn compare_exchange(&self, old: u32, new: u32) -> Result<u32, u32> {
        self.atomic().compare_exchange(old, new, SeqCst, SeqCst)
    }
}

/// A page that the builder made for a ring; `None` where the frame is not this guest's.
///
/// # Safety
///
/// The frame is one that the start info names, and so never among the free ones.
pub(crate) unsafe fn ring_page(mfn: Mfn) -> Option<Window> {
    let address = address_of(pfn_of(mfn)?) as usize;
    let base = NonNull::new(core::ptr::with_exposed_provenance_mut(address))?;
    // SAFETY: the page is in the linear map for ever, by the caller's promise.
    Some(unsafe { Window::new(base, PAGE_SIZE) })
}

/// Copies bytes in a way that the compiler makes no assumptions about, since others may write them
/// at the same time.
///
/// # Safety
///
/// Both ranges must be mapped, the destination writable and not behind a shared reference.
pub(crate) unsafe fn copy(to: *mut u8, from: *const u8, size: usize) {
    // By words and then the rest, since software emulation spends as much on a byte as on a word.
    //
    // SAFETY: the direction flag is clear, as the ABI has it; the rest is the caller's promise.
    unsafe {
        asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) size % 8,
            inout("rcx") size / 8 => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}

impl SharedMemory for Window {
    fn size(&self) -> usize {
        self.size
    }

    fn load_index(&self, offset: usize) -> u32 {
        // SAFETY: mapped and aligned, as checked; the other side accesses it atomically as well.
        unsafe { AtomicU32::from_ptr(self.word_at(offset)) }.load(Acquire)
    }

    fn store_index(&self, offset: usize, value: u32) {
        // SAFETY: mapped and aligned, as checked; the other side accesses it atomically as well.
        unsafe { AtomicU32::from_ptr(self.word_at(offset)) }.store(value, Release);
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.copy_out(offset, bytes);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.copy_in(offset, bytes);
    }
}
