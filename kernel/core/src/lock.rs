//! Locks, and the one order in which they are taken: that of [`rank`], rising.
//!
//! A lock's rank is part of its type. Builds with debug assertions note for each CPU which ranks it holds, and panic
//! where it waits for a lock that does not come after all of those, or enters a guest with one that it must not hold
//! there ([`check_at_entry`]). Without them nothing of that is left.
//!
//! A lock that is only tried is never waited for, so its order does not matter; what is waited for while it is held
//! does. A flush of other CPUs' TLBs may be asked for with any lock held, because whoever waits for one serves such
//! requests.

use core::ops::{Deref, DerefMut};

use spin::RelaxStrategy;

/// What comes when. A CPU waits for a lock only while it holds none of the same rank or a later one.
pub mod rank {
    /// A vCPU's state ([`crate::VcpuState`]). The CPU that runs a vCPU holds its state's lock throughout, so that
    /// nobody may wait for the state of another vCPU that could be running.
    pub const VCPU: u8 = 0;
    /// The toolstack's operation ([`crate::Hypervisor::toolstack`]), which is only ever tried.
    pub const TOOLSTACK: u8 = 1;
    /// The domain list ([`crate::Hypervisor::domains`]).
    pub const DOMAINS: u8 = 2;
    /// A domain's life ([`crate::domain::Life`]).
    pub const LIFE: u8 = 3;
    /// A domain's event channels, of two domains the lower number's first.
    pub const EVENTS: u8 = 4;
    /// The interrupt lines, and who handles the host's virtual interrupts.
    pub const INTERRUPTS: u8 = 5;
    /// A domain's watchdogs.
    pub const WATCHDOGS: u8 = 6;
    /// A domain's list of vCPUs.
    pub const VCPUS: u8 = 7;
    /// The timers or the scheduler, never both.
    pub const SCHEDULER: u8 = 8;
    /// A vCPU's time in each state, a CPU's time in vCPUs.
    pub const RUNSTATE: u8 = 9;
    /// What a toolstack has set of a domain: its access to devices, its CPUID, its memory map.
    pub const SETTINGS: u8 = 10;
    /// Between writing a port that is an index and using the port that it is the index of.
    pub const INDEXED_PORTS: u8 = 11;
    /// A domain's grant table, or its list of mappings: of all of these one.
    pub const GRANTS: u8 = 12;
    /// Who takes apart a domain's page tables, which is only ever tried.
    pub const TEARDOWN: u8 = 13;
    /// The owners of frames by number.
    pub const OWNERS: u8 = 14;
    /// The list of page tables that an owner lets go of.
    pub const LEAVING: u8 = 15;
    /// The claims on frames.
    pub const CLAIMS: u8 = 16;
    /// An owner's page lists.
    pub const PAGES: u8 = 17;
    /// The frame heap.
    pub const HEAP: u8 = 18;
    /// Frames that are to be scrubbed.
    pub const DIRTY: u8 = 19;
    /// The log, the console and the wall clock: nothing is waited for while one of them is held.
    pub const LAST: u8 = 20;
}

/// What a lock does between two looks: without it two CPUs could wait for each other, one for a lock, the other, which
/// holds it, for the first to flush its TLB.
pub struct Relax;

impl RelaxStrategy for Relax {
    fn relax() {
        hv_machine::relax();
    }
}

/// A note that this CPU holds a lock of some rank.
#[derive(Debug)]
struct Held {
    /// The bit that is this note's to clear; 0 where an earlier one has noted the rank.
    #[cfg(debug_assertions)]
    bit: u64,
}

#[cfg(debug_assertions)]
impl Held {
    /// Notes a lock that is not waited for, or was waited for by [`Self::waiting`].
    fn note(rank: u8) -> Self {
        let held = hv_machine::held_locks();
        let bit = 1 << rank & !held;
        hv_machine::set_held_locks(held | bit);
        Self { bit }
    }

    /// To be called before a lock is waited for. A `twin` of one that is held may follow it.
    #[track_caller]
    fn waiting(rank: u8, twin: bool) {
        let held = hv_machine::held_locks();
        let below = u64::from(rank) + u64::from(twin);
        assert!(
            held >> below == 0,
            "a lock of rank {rank} is waited for while those of {held:#b} are held"
        );
    }
}

#[cfg(debug_assertions)]
impl Drop for Held {
    fn drop(&mut self) {
        hv_machine::set_held_locks(hv_machine::held_locks() & !self.bit);
    }
}

#[cfg(not(debug_assertions))]
impl Held {
    #[inline(always)]
    fn note(_rank: u8) -> Self {
        Self {}
    }

    #[inline(always)]
    fn waiting(_rank: u8, _twin: bool) {}
}

/// To be called before a guest is entered: with another lock held than that of its vCPU's state, every other CPU could
/// wait for as long as the guest runs.
///
/// # Panics
/// With debug assertions, where that is so.
#[inline(always)]
#[track_caller]
pub fn check_at_entry() {
    #[cfg(debug_assertions)]
    {
        let held = hv_machine::held_locks() & !(1 << rank::VCPU);
        assert!(held == 0, "a guest is entered while {held:#b} are held");
    }
}

/// A mutual-exclusion lock that spins.
pub struct Mutex<T, const RANK: u8> {
    inner: spin::mutex::SpinMutex<T, Relax>,
}

impl<T, const RANK: u8> Mutex<T, RANK> {
    /// A lock that nobody holds.
    pub const fn new(value: T) -> Self {
        Self {
            inner: spin::mutex::SpinMutex::new(value),
        }
    }

    /// Waits for the lock.
    ///
    /// # Panics
    /// With debug assertions, out of order.
    #[inline(always)]
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        Held::waiting(RANK, false);
        self.take()
    }

    /// Waits for a lock of a rank of which this CPU holds one already; the caller has an order among them.
    ///
    /// # Panics
    /// As [`Self::lock`].
    #[track_caller]
    pub fn lock_second(&self) -> MutexGuard<'_, T> {
        Held::waiting(RANK, true);
        self.take()
    }

    /// Waits for a lock whose holder, if there is one, waits for nothing before it lets go of it.
    pub fn lock_out_of_order(&self) -> MutexGuard<'_, T> {
        self.take()
    }

    /// The lock, if nobody holds it.
    #[inline(always)]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = self.inner.try_lock()?;
        Some(MutexGuard {
            _held: Held::note(RANK),
            inner,
        })
    }

    #[inline(always)]
    fn take(&self) -> MutexGuard<'_, T> {
        let inner = self.inner.lock();
        MutexGuard {
            _held: Held::note(RANK),
            inner,
        }
    }
}

impl<T: Default, const RANK: u8> Default for Mutex<T, RANK> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: core::fmt::Debug, const RANK: u8> core::fmt::Debug for Mutex<T, RANK> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.inner.fmt(f)
    }
}

/// What [`Mutex::lock`] returns.
#[derive(Debug)]
pub struct MutexGuard<'a, T> {
    // Fields are dropped in this order: the lock first, so that the note never says less than is held.
    inner: spin::mutex::SpinMutexGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A readers-writer lock that spins.
#[derive(Debug)]
pub struct RwLock<T, const RANK: u8> {
    inner: spin::rwlock::RwLock<T, Relax>,
}

impl<T, const RANK: u8> RwLock<T, RANK> {
    /// A lock that nobody holds.
    pub const fn new(value: T) -> Self {
        Self {
            inner: spin::rwlock::RwLock::new(value),
        }
    }

    /// Waits until nobody writes.
    ///
    /// # Panics
    /// With debug assertions, out of order.
    #[inline(always)]
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        Held::waiting(RANK, false);
        let inner = self.inner.read();
        ReadGuard {
            _held: Held::note(RANK),
            inner,
        }
    }

    /// Waits until nobody reads or writes.
    ///
    /// # Panics
    /// As [`Self::read`].
    #[track_caller]
    pub fn write(&self) -> WriteGuard<'_, T> {
        Held::waiting(RANK, false);
        let inner = self.inner.write();
        WriteGuard {
            _held: Held::note(RANK),
            inner,
        }
    }
}

/// What [`RwLock::read`] returns.
pub struct ReadGuard<'a, T> {
    inner: spin::rwlock::RwLockReadGuard<'a, T>,
    _held: Held,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.inner
    }
}

/// What [`RwLock::write`] returns.
pub struct WriteGuard<'a, T> {
    inner: spin::rwlock::RwLockWriteGuard<'a, T, Relax>,
    _held: Held,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locks() -> (
        Mutex<u32, { rank::LIFE }>,
        Mutex<u32, { rank::EVENTS }>,
        RwLock<u32, { rank::VCPUS }>,
    ) {
        (Mutex::new(1), Mutex::new(2), RwLock::new(3))
    }

    #[test]
    fn locks_may_be_taken_in_rising_order_and_given_back_in_any() {
        let (life, events, vcpus) = locks();
        for _ in 0..2 {
            let first = life.lock();
            let second = events.lock();
            drop(first);
            *vcpus.write() += *second;
            drop(second);
            assert!(life.try_lock().is_some());
            check_at_entry();
        }
        assert_eq!(*vcpus.read(), 7);
    }

    #[test]
    #[should_panic(expected = "waited for")]
    fn a_lock_of_a_lower_rank_may_not_be_waited_for() {
        let (life, events, _) = locks();
        let _events = events.lock();
        let _life = life.lock();
    }

    #[test]
    #[should_panic(expected = "waited for")]
    fn a_second_reader_of_a_rank_may_not_wait() {
        let (_, _, vcpus) = locks();
        let _first = vcpus.read();
        let _second = vcpus.read();
    }

    #[test]
    fn two_locks_of_a_rank_may_be_held_where_the_caller_has_an_order() {
        let ((_, first, _), (_, second, _)) = (locks(), locks());
        let held = first.lock();
        let twin = second.lock_second();
        drop(twin);
        drop(held);
        assert_eq!(hv_machine::held_locks(), 0);
    }

    #[test]
    #[should_panic(expected = "waited for")]
    fn what_was_only_tried_counts_for_what_is_waited_for() {
        let (life, events, _) = locks();
        let _events = events.try_lock();
        let _life = life.lock();
    }

    #[test]
    #[should_panic(expected = "is entered")]
    fn no_guest_is_entered_with_a_lock() {
        let (life, _, _) = locks();
        let _life = life.lock();
        check_at_entry();
    }

    #[test]
    fn the_lock_of_the_vcpu_is_held_while_it_runs() {
        let vcpu = Mutex::<u32, { rank::VCPU }>::new(0);
        let _state = vcpu.lock();
        check_at_entry();
    }
}
