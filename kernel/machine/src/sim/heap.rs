//! The host's allocator as a heap that may have few large blocks left.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

thread_local! {
    /// Bytes of the largest block that there is, and how many larger ones there are still.
    static LEFT: Cell<(usize, usize)> = const { Cell::new((usize::MAX, 0)) };
}

/// For `#[global_allocator]`: the host's own, but for what [`with_largest_block`] takes away.
#[derive(Debug)]
pub struct Heap;

// SAFETY: blocks are the system allocator's; that there is none may be said at any time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (largest, larger) = LEFT.get();
        if layout.size() > largest {
            match larger.checked_sub(1) {
                Some(left) => LEFT.set((largest, left)),
                None => return null_mut(),
            }
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Does something while the calling thread gets no block of more than `largest` bytes but for the first `larger`.
///
/// Code that cannot do without one ends the process.
pub fn with_largest_block<R>(largest: usize, larger: usize, work: impl FnOnce() -> R) -> R {
    struct Restore((usize, usize));
    impl Drop for Restore {
        fn drop(&mut self) {
            LEFT.set(self.0);
        }
    }
    let _restore = Restore(LEFT.replace((largest, larger)));
    work()
}
