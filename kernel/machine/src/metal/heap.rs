//! The heap for the hypervisor's own Rust values. It begins with a small part of the image, so that boot code can
//! use it from its first line, and grows by what boot and the core give it.

use core::cell::UnsafeCell;

use talc::TalcLock;
use talc::source::Manual;

use super::lock::RawLock;

#[global_allocator]
static HEAP: TalcLock<RawLock, Manual> = TalcLock::new(Manual);

const EARLY_SIZE: usize = 128 << 10;

#[repr(C, align(64))]
struct Early(UnsafeCell<[u8; EARLY_SIZE]>);

// SAFETY: only the heap touches it, and the heap has a lock.
unsafe impl Sync for Early {}

static EARLY: Early = Early(UnsafeCell::new([0; EARLY_SIZE]));

/// Gives the heap its first memory.
///
/// # Safety
/// To be called once.
pub unsafe fn begin() {
    // SAFETY: the array is the heap's alone, and this is called once.
    unsafe { claim(EARLY.0.get().cast(), EARLY_SIZE) }
}

/// Gives the heap `size` bytes at `base` for good.
///
/// # Safety
/// They are mapped, writable, and nobody else's from now on.
pub unsafe fn claim(base: *mut u8, size: usize) {
    // SAFETY: the caller's promise.
    let claimed = unsafe { HEAP.lock().claim(base, size) };
    assert!(
        claimed.is_some(),
        "the heap refused {size:#x} bytes at {base:p}"
    );
}

/// Bytes that are free.
pub fn free() -> usize {
    HEAP.lock().counters().available_bytes
}
