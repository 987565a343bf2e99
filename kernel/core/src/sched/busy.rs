//! [`Busy`]: how long each CPU has run vCPUs, by which idle time is known.

use alloc::vec::Vec;

use crate::lock::{Mutex, rank};

/// Time for which each CPU has run vCPUs. Times are system time in nanoseconds.
pub struct Busy(Vec<Mutex<Record, { rank::RUNSTATE }>>);

#[derive(Default)]
struct Record {
    total: u64,
    /// When the vCPU began to run that runs.
    since: Option<u64>,
}

impl Record {
    fn at(&self, now: u64) -> u64 {
        let running = self.since.map_or(0, |since| now.saturating_sub(since));
        self.total.saturating_add(running)
    }
}

impl Busy {
    /// All `cpus` CPUs have been idle since system time 0.
    pub fn new(cpus: u32) -> Self {
        Self((0..cpus).map(|_| Mutex::default()).collect())
    }

    /// A vCPU begins to run.
    pub fn begin(&self, cpu: u32, now: u64) {
        if let Some(record) = self.0.get(cpu as usize) {
            record.lock().since = Some(now);
        }
    }

    /// It stops.
    pub fn end(&self, cpu: u32, now: u64) {
        if let Some(record) = self.0.get(cpu as usize) {
            let mut record = record.lock();
            record.total = record.at(now);
            record.since = None;
        }
    }

    /// Time up to `now`; 0 for a CPU that is not there.
    pub fn total(&self, cpu: u32, now: u64) -> u64 {
        self.0
            .get(cpu as usize)
            .map_or(0, |record| record.lock().at(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_add_up_and_the_running_one_counts() {
        let busy = Busy::new(1);
        busy.begin(0, 100);
        assert_eq!(busy.total(0, 130), 30);
        busy.end(0, 150);
        assert_eq!(busy.total(0, 1000), 50);
        busy.begin(0, 2000);
        assert_eq!(busy.total(0, 2007), 57);
        assert_eq!(busy.total(9, 2007), 0);
    }
}
