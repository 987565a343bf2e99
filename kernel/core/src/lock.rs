//! Locks, and the one order in which they are taken.
//!
//! The toolstack's operation ([`crate::Hypervisor::toolstack`]) comes with any of them held: it is only ever tried.
//!
//! 1. a vCPU's state ([`crate::VcpuState`]); the CPU that runs a vCPU holds its state's lock throughout, so that
//!    nobody may wait for the state of another vCPU that could be running
//! 2. the domain list ([`crate::Hypervisor::domains`])
//! 3. a domain's life ([`crate::domain::Life`])
//! 4. a domain's event channels, of two domains the lower number's first
//! 5. the interrupt lines, a domain's watchdogs; then the timers or the scheduler, never both
//! 6. the claims on frames; then an owner's page list, the frame heap
//! 7. the log and the console
//!
//! A flush of other CPUs' TLBs may be asked for with any of them held, because whoever waits for one serves such requests.

use spin::RelaxStrategy;

/// What a lock does between two looks: without it two CPUs could wait for each other, one for a lock, the other, which
/// holds it, for the first to flush its TLB.
pub struct Relax;

impl RelaxStrategy for Relax {
    fn relax() {
        hv_machine::relax();
    }
}

/// A mutual-exclusion lock that spins.
pub type Mutex<T> = spin::mutex::SpinMutex<T, Relax>;
/// What [`Mutex::lock`] returns.
pub type MutexGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;
/// A readers-writer lock that spins.
pub type RwLock<T> = spin::rwlock::RwLock<T, Relax>;
