//! Locks, and the one order in which they are taken.
//!
//! 1. the domain list ([`crate::Hypervisor::domains`])
//! 2. a domain's life ([`crate::domain::Life`])
//! 3. a vCPU's state ([`crate::VcpuState`]); the CPU that runs a vCPU holds its state's lock throughout
//! 4. a domain's event channels
//! 5. the timers, the scheduler
//! 6. an owner's page list, the frame heap
//! 7. the log and the console

/// A mutual-exclusion lock that spins.
pub type Mutex<T> = spin::mutex::SpinMutex<T>;
/// What [`Mutex::lock`] returns.
pub type MutexGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T>;
/// A readers-writer lock that spins.
pub type RwLock<T> = spin::RwLock<T>;
