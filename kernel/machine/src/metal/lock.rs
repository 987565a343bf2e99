//! A spin lock. Nothing is preempted and no interrupt is taken in the hypervisor, so a holder is always another CPU.

use core::sync::atomic::{AtomicBool, Ordering};

use lock_api::{GuardSend, Mutex, RawMutex};

use super::tlb;

/// The lock itself, for [`Lock`].
pub struct RawLock(AtomicBool);

/// A value that one CPU at a time may use.
pub type Lock<T> = Mutex<RawLock, T>;

/// What every wait for another CPU does between two looks: the other may wait for this one to flush its TLB.
pub fn relax() {
    tlb::serve();
    core::hint::spin_loop();
}

/// What [`set_held_locks`] last noted on this CPU.
#[cfg(debug_assertions)]
pub fn held_locks() -> u64 {
    super::cpu::this().held_locks.get()
}

/// Notes which locks this CPU holds, in bits whose meaning is the caller's.
#[cfg(debug_assertions)]
pub fn set_held_locks(held: u64) {
    super::cpu::this().held_locks.set(held);
}

// SAFETY: `lock` returns only after this CPU has changed the flag from false to true, and only `unlock` changes it
// back; acquire and release order what is done in between.
unsafe impl RawMutex for RawLock {
    #[allow(
        clippy::declare_interior_mutable_const,
        reason = "lock_api's way to write a constructor"
    )]
    const INIT: Self = Self(AtomicBool::new(false));
    type GuardMarker = GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            while self.0.load(Ordering::Relaxed) {
                relax();
            }
        }
    }

    fn try_lock(&self) -> bool {
        self.0
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}
