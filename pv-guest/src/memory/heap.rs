//! The global allocator. It takes frames as it needs them and keeps them.

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

use critical_section::RestoreState;
use lock_api::{GuardNoSend, RawMutex};
use talc::base::Talc;
use talc::base::binning::{Binning, DefaultBinning};
use talc::source::Source;
use talc::sync::TalcLock;

use super::frames;
use crate::pte::PAGE_SIZE;

/// At least this many frames are taken at a time.
const STEP: usize = 64;

/// Room for the allocator's own bookkeeping in what is taken.
const OVERHEAD: usize = 4096;

#[global_allocator]
static HEAP: TalcLock<SectionLock, FrameSource, DefaultBinning> =
    TalcLock::new(FrameSource { end: None });

/// The heap's lock: the critical section, in which the heap is used and out of which it takes frames
/// that are behind one too. A second lock could be taken in either order.
struct SectionLock {
    locked: AtomicBool,
    /// What ends the section.
    state: UnsafeCell<RestoreState>,
}

// SAFETY: the state is used by the holder alone.
unsafe impl Sync for SectionLock {}
// SAFETY: as above.
unsafe impl Send for SectionLock {}

// SAFETY: one vCPU is in the critical section at a time, and the flag tells when it comes back to a
// lock that it has.
unsafe impl RawMutex for SectionLock {
    const INIT: Self = Self {
        locked: AtomicBool::new(false),
        state: UnsafeCell::new(RestoreState::invalid()),
    };

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        // Upcalls are masked while the lock is held: whoever has the section and finds it taken
        // interrupted the holder by an exception, and would wait for ever.
        assert!(
            self.try_lock(),
            "the heap is used by a trap handler that interrupted it"
        );
    }

    fn try_lock(&self) -> bool {
        // SAFETY: released in `unlock`, or at once.
        let state = unsafe { critical_section::acquire() };
        if self.locked.swap(true, Relaxed) {
            // SAFETY: as it was acquired.
            unsafe { critical_section::release(state) };
            return false;
        }
        // SAFETY: the lock was free, and is this vCPU's.
        unsafe { *self.state.get() = state };
        true
    }

    unsafe fn unlock(&self) {
        // SAFETY: this vCPU has the lock.
        let state = unsafe { *self.state.get() };
        self.locked.store(false, Relaxed);
        // SAFETY: it is the state of `try_lock`, and what was acquired since is released.
        unsafe { critical_section::release(state) };
    }
}

/// What the heap has and does not use, in bytes.
pub fn available() -> usize {
    HEAP.lock().counters().available_bytes
}

/// Gives the heap frames.
#[derive(Debug)]
struct FrameSource {
    /// Where the last block ended: one that begins there extends it.
    end: Option<NonNull<u8>>,
}

// SAFETY: the end is only compared and handed to the allocator that it came from.
unsafe impl Send for FrameSource {}

// SAFETY: frames do not come from the heap, so taking some never calls into it.
unsafe impl Source for FrameSource {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let size = layout
            .size()
            .checked_add(layout.align().max(OVERHEAD))
            .ok_or(())?;
        let wanted = size
            .div_ceil(PAGE_SIZE)
            .checked_next_power_of_two()
            .ok_or(())?;
        // When memory is short, a smaller step than usual may still do.
        let (base, size) = [wanted.max(STEP), wanted]
            .into_iter()
            .find_map(|count| Some((frames::take(count.trailing_zeros())?, count * PAGE_SIZE)))
            .ok_or(())?;
        let end = talc.source.end;
        // SAFETY: the frames were free and are the allocator's from here on; `end` is where its
        // last block ends.
        talc.source.end = unsafe {
            if end == Some(base) {
                Some(talc.extend(base, base.as_ptr().add(size)))
            } else {
                talc.claim(base.as_ptr(), size)
            }
        };
        talc.source.end.map(drop).ok_or(())
    }
}
