//! A lock between vCPUs.
//!
//! The holder may have been descheduled by the hypervisor, so whoever waits gives its time away
//! after a few attempts. The lock does not mask upcalls: what an upcall or a waker uses is behind a
//! critical section instead, which is a lock of all vCPUs and masks them.

use core::hint::spin_loop;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use lock_api::{GuardNoSend, RawMutex};

use crate::hypercall::sched;

/// A mutual exclusion lock for data that tasks on several vCPUs share.
///
/// It must not be held across an `await`, and not be taken in an upcall or a trap hook.
pub type Mutex<T> = lock_api::Mutex<YieldingLock, T>;

/// Attempts before a waiter yields.
const SPINS: u32 = 64;

/// Waits a moment for another vCPU; `attempts` counts how often.
pub(crate) fn relax(attempts: &mut u32) {
    *attempts += 1;
    if attempts.is_multiple_of(SPINS) {
        sched::yield_now();
    } else {
        spin_loop();
    }
}

/// What [`Mutex`] is made of.
pub struct YieldingLock(AtomicBool);

// SAFETY: the flag is taken by one holder only, and given back by it.
unsafe impl RawMutex for YieldingLock {
    const INIT: Self = Self(AtomicBool::new(false));

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        let mut attempts = 0;
        while !self.try_lock() {
            while self.0.load(Relaxed) {
                relax(&mut attempts);
            }
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Release);
    }
}
