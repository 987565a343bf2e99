//! The global allocator. It takes frames as it needs them and keeps them.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32};

use lock_api::{GuardNoSend, RawMutex};
use talc::base::Talc;
use talc::base::binning::{Binning, DefaultBinning};
use talc::source::Source;
use talc::sync::TalcLock;

use super::frames;
use crate::pte::PAGE_SIZE;
use crate::{cpu, sync, vcpus};

/// At least this many frames are taken at a time.
const STEP: usize = 64;

/// Room for the allocator's own bookkeeping in what is taken.
const OVERHEAD: usize = 4096;

#[global_allocator]
static HEAP: TalcLock<MaskingLock, FrameSource, DefaultBinning> =
    TalcLock::new(FrameSource { end: None });

/// A lock that also holds back upcalls, whose handlers use the heap.
struct MaskingLock {
    /// The vCPU that has it, or [`NOBODY`].
    holder: AtomicU32,
    were_masked: AtomicBool,
}

const NOBODY: u32 = u32::MAX;

// SAFETY: one vCPU takes it at a time, and gives it back.
unsafe impl RawMutex for MaskingLock {
    const INIT: Self = Self {
        holder: AtomicU32::new(NOBODY),
        were_masked: AtomicBool::new(false),
    };

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        let mut attempts = 0;
        while !self.try_lock() {
            // Upcalls are masked while the lock is held: whoever finds that its own vCPU has it
            // interrupted the holder by an exception, and would wait for ever.
            assert!(
                self.holder.load(Relaxed) != vcpus::current(),
                "the heap is used by a trap handler that interrupted it"
            );
            sync::relax(&mut attempts);
        }
    }

    fn try_lock(&self) -> bool {
        let masked = cpu::disable_upcalls();
        let taken = self
            .holder
            .compare_exchange(NOBODY, vcpus::current(), Acquire, Relaxed)
            .is_ok();
        if taken {
            self.were_masked.store(masked, Relaxed);
        } else if !masked {
            cpu::enable_upcalls();
        }
        taken
    }

    unsafe fn unlock(&self) {
        let masked = self.were_masked.load(Relaxed);
        self.holder.store(NOBODY, Release);
        if !masked {
            cpu::enable_upcalls();
        }
    }
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
