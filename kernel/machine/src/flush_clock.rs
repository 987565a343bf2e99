//! [`FlushClock`]: which CPUs have flushed their TLB since when.
//!
//! Whoever takes the last mapping of a frame away notes the time. Before the frame becomes something that no guest
//! may write to, only those CPUs need a flush that have not had one since, for whatever reason: most have, because
//! every change of an address space is one.

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Most CPUs that the hypervisor runs on: as many as a mask of CPUs has bits.
pub const MAX_CPUS: usize = 64;

/// A clock that ticks with each full flush of any CPU's TLB, and when each CPU had its last.
#[derive(Debug)]
#[repr(C)]
pub struct FlushClock {
    // In front, to be in one page with the first CPUs' times: just after a flush each page costs.
    now: PerCpu,
    flushed: [PerCpu; MAX_CPUS],
}

/// In a cache line of its own: each CPU writes its own at every change of its root.
#[derive(Debug)]
#[repr(align(64))]
struct PerCpu(AtomicU64);

impl FlushClock {
    /// A clock by which no CPU has flushed yet.
    pub const fn new() -> Self {
        Self {
            now: PerCpu(AtomicU64::new(0)),
            flushed: [const { PerCpu(AtomicU64::new(0)) }; MAX_CPUS],
        }
    }

    /// The time. Mappings that are gone from the tables before the call, the flushes of later times forget.
    #[inline]
    pub fn now(&self) -> u64 {
        self.now.0.load(SeqCst)
    }

    /// Carries out a full flush of this CPU, `cpu`.
    ///
    /// The clock ticks first: a mapping that is removed while the flush is under way may survive it, and finds a time
    /// that is not before this flush's. The CPU's own time is set last: who sees it relies on a flush that is complete.
    pub fn flush(&self, cpu: u32, flush: impl FnOnce()) {
        let time = self.now.0.fetch_add(1, SeqCst) + 1;
        flush();
        if let Some(PerCpu(flushed)) = self.flushed.get(cpu as usize) {
            flushed.store(time, SeqCst);
        }
    }

    /// Of the first `cpus` CPUs those that have not begun a flush after `time`, bit n for CPU n.
    pub fn unflushed_since(&self, time: u64, cpus: u32) -> u64 {
        let flushed = self.flushed.iter().take(cpus as usize).enumerate();
        flushed
            .filter(|(_, flushed)| flushed.0.load(SeqCst) <= time)
            .fold(0, |mask, (cpu, _)| mask | 1 << cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_flushed_later_needs_no_other_flush() {
        let clock = FlushClock::new();
        let removed = clock.now();
        assert_eq!(clock.unflushed_since(removed, 3), 0b111);
        clock.flush(1, || {});
        assert_eq!(clock.unflushed_since(removed, 3), 0b101);
        assert_eq!(clock.unflushed_since(clock.now(), 3), 0b111);
        clock.flush(0, || {});
        clock.flush(2, || {});
        assert_eq!(clock.unflushed_since(removed, 3), 0);
        assert_eq!(clock.unflushed_since(removed, 64), !0b111);
    }

    #[test]
    fn what_is_removed_during_a_flush_needs_another() {
        let clock = FlushClock::new();
        let mut removed = 0;
        clock.flush(0, || removed = clock.now());
        assert_eq!(clock.unflushed_since(removed, 1), 1);
        clock.flush(0, || assert_eq!(clock.unflushed_since(removed, 1), 1));
        assert_eq!(clock.unflushed_since(removed, 1), 0);
    }
}
