//! [`Comparison`]: whether the time-stamp counters of two CPUs agree, and if not, by how much they differ.
//!
//! Both read their counters in turns that memory orders. If one reads a value that is behind what the other has read
//! before, no constant rate makes time on both go forward only. The difference is then what one sees of the other's
//! counter, half-way between two readings of its own.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

/// Readings of each CPU at least.
const ROUNDS: u64 = 2000;
/// How often the one reads after the other, also where a host gives them a processor in turns.
const TURNS: u64 = 8;
/// Differences measured, of which the one that took least time counts.
const SAMPLES: u64 = 64;

/// What two CPUs compare by.
#[derive(Debug)]
pub struct Comparison {
    /// The latest value that either has read.
    latest: AtomicU64,
    /// The most that a reading was behind it.
    worst: AtomicU64,
    /// Whether the second CPU was the last to read.
    second_read: AtomicBool,
    /// How often the second CPU has read, and how often after the first.
    readings: AtomicU64,
    turns: AtomicU64,
    /// The first is to be answered no more.
    ended: AtomicBool,
    /// Number of the sample that is asked for, and of the last that is answered.
    asked: AtomicU64,
    answered: AtomicU64,
    answer: AtomicU64,
    /// By how many ticks the second CPU's counter is behind, once it has ended.
    lag: AtomicU64,
}

impl Comparison {
    /// Nothing is read yet.
    pub const fn new() -> Self {
        Self {
            latest: AtomicU64::new(0),
            worst: AtomicU64::new(0),
            second_read: AtomicBool::new(false),
            readings: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            answer: AtomicU64::new(0),
            lag: AtomicU64::new(0),
        }
    }

    /// Whether the second CPU takes part.
    pub fn has_begun(&self) -> bool {
        self.readings.load(SeqCst) > 0
    }

    fn read(&self, tsc: &impl Fn() -> u64) {
        let before = self.latest.load(SeqCst);
        let now = tsc();
        self.latest.fetch_max(now, SeqCst);
        self.worst.fetch_max(before.saturating_sub(now), SeqCst);
    }

    /// The first CPU's part: gives by how many ticks the second's counter is behind, modulo 2^64, and 0 where no
    /// difference can be seen. `None` where the second does not take part while `patient`.
    pub fn first(&self, tsc: impl Fn() -> u64, patient: impl Fn() -> bool) -> Option<u64> {
        let enough = || self.readings.load(SeqCst) >= ROUNDS && self.turns.load(SeqCst) >= TURNS;
        let mut rounds = 0;
        while rounds < ROUNDS || !enough() {
            self.read(&tsc);
            self.second_read.store(false, SeqCst);
            rounds += 1;
            if !patient() {
                return None;
            }
        }
        let lag = match self.worst.load(SeqCst) {
            0 => 0,
            _ => self.measure(&tsc, &patient)?,
        };
        self.lag.store(lag, SeqCst);
        self.ended.store(true, SeqCst);
        Some(lag)
    }

    fn measure(&self, tsc: &impl Fn() -> u64, patient: &impl Fn() -> bool) -> Option<u64> {
        let mut best = (u64::MAX, 0);
        for number in 1..=SAMPLES {
            let before = tsc();
            self.asked.store(number, SeqCst);
            while self.answered.load(SeqCst) != number {
                if !patient() {
                    return None;
                }
            }
            let took = tsc() - before;
            let other = self.answer.load(SeqCst);
            if took < best.0 {
                best = (took, (before + took / 2).wrapping_sub(other));
            }
        }
        Some(best.1)
    }

    /// The second CPU's part, until the first has ended; gives what that has found.
    pub fn second(&self, tsc: impl Fn() -> u64) -> u64 {
        while !self.ended.load(SeqCst) {
            let asked = self.asked.load(SeqCst);
            if self.answered.load(SeqCst) != asked {
                self.answer.store(tsc(), SeqCst);
                self.answered.store(asked, SeqCst);
            } else if asked == 0 {
                self.read(&tsc);
                self.readings.fetch_add(1, SeqCst);
                if !self.second_read.swap(true, SeqCst) {
                    self.turns.fetch_add(1, SeqCst);
                }
            }
        }
        self.lag.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::thread;
    use std::time::Instant;

    /// Compares two counters of nanoseconds, of which the second is ahead by `ahead`, modulo 2^64.
    fn compare(ahead: u64) -> u64 {
        const START: u64 = 1 << 40;
        let start = Instant::now();
        let tsc = || start.elapsed().as_nanos() as u64 + START;
        let comparison = Comparison::new();
        thread::scope(|scope| {
            assert!(!comparison.has_begun());
            let second = scope.spawn(|| comparison.second(|| tsc().wrapping_add(ahead)));
            let patient = || start.elapsed().as_secs() < 30;
            let lag = comparison.first(tsc, patient);
            comparison.ended.store(true, SeqCst);
            assert_eq!(second.join().ok(), lag);
            lag.expect("the other takes part")
        })
    }

    #[test]
    fn equal_counters_are_found_equal() {
        assert_eq!(compare(0), 0);
    }

    #[test]
    fn a_counter_that_is_ahead_or_behind_is_measured() {
        const DIFFERENCE: u64 = 20_000_000_000;
        for ahead in [DIFFERENCE, DIFFERENCE.wrapping_neg()] {
            let error = compare(ahead).wrapping_add(ahead) as i64;
            // A busy machine may take either thread off its CPU.
            assert!(error.unsigned_abs() < 100_000_000, "{error} ns off");
        }
    }

    #[test]
    fn a_cpu_that_does_not_take_part_is_not_waited_for() {
        assert_eq!(Comparison::new().first(|| 1, || false), None);
    }
}
