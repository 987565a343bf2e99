//! How a domain's vCPUs share the host's CPUs.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// A set of the host's CPUs, as ranges of their numbers, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuSet(pub Vec<(u16, u16)>);

impl CpuSet {
    /// How many CPUs a host may have: Xen's limit.
    pub const MAX_CPUS: u16 = 4095;

    /// Puts a set together.
    pub fn of(cpus: impl IntoIterator<Item = u16>) -> CpuSet {
        let mut cpus: Vec<u16> = cpus.into_iter().collect();
        cpus.sort_unstable();
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for cpu in cpus {
            match ranges.last_mut() {
                Some((_, last)) if cpu <= last.saturating_add(1) => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        CpuSet(ranges)
    }

    /// Whether a CPU is one of them.
    pub fn contains(&self, cpu: u16) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&cpu))
    }
}

/// What a configuration says of that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// Its share of the CPUs, 1 to 65535; if none is given, the scheduler's usual one, 256.
    pub weight: Option<u16>,
    /// What it may use at most, in hundredths of a CPU; 0 for no limit, which is usual.
    pub cap: Option<u16>,
    /// The CPUs that each vCPU may run on, by number; those beyond the list may run on all.
    pub affinity: Vec<CpuSet>,
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::*;

    #[test]
    fn neighbours_make_a_range() {
        let set = CpuSet::of([3, 1, 2, 7, 2]);
        assert_eq!(set, CpuSet(vec![(1, 3), (7, 7)]));
        assert!(set.contains(2) && set.contains(7));
        assert!(!set.contains(0) && !set.contains(4) && !set.contains(8));
        assert_eq!(
            CpuSet::of([u16::MAX, u16::MAX]),
            CpuSet(vec![(u16::MAX, u16::MAX)])
        );
    }
}
