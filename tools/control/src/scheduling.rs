//! How a domain's vCPUs share the host's CPUs.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::domain::DomainRef;

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

    /// The CPUs, in ascending order.
    pub fn cpus(&self) -> impl Iterator<Item = u16> {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
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
    pub hard: Vec<CpuSet>,
    /// Those of them that each vCPU had better run on, in the same way.
    pub soft: Vec<CpuSet>,
}

/// What xl asks about scheduling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedulingRequest {
    /// A vCPU of a domain. Answer: [`SchedulingReply::Vcpu`].
    Vcpu {
        /// Whose.
        domain: DomainRef,
        /// Its number.
        vcpu: u32,
    },
    /// Limit vCPUs to CPUs, or have them use some rather than others. Answer:
    /// [`crate::Reply::Done`].
    SetAffinity {
        /// Whose.
        domain: DomainRef,
        /// Which one; all if none is given.
        vcpu: Option<u32>,
        /// Those that it may use, if that is to change.
        hard: Option<CpuSet>,
        /// Those that it had better use, if that is to change.
        soft: Option<CpuSet>,
        /// End a limit that the vCPU has set itself.
        force: bool,
    },
    /// A domain's share. Answer: [`SchedulingReply::Share`].
    Share(DomainRef),
    /// Set a domain's share, as far as it is given. Answer: [`crate::Reply::Done`].
    SetShare {
        /// Whose.
        domain: DomainRef,
        /// The weight.
        weight: Option<u16>,
        /// The cap, in percent of a CPU.
        cap: Option<u16>,
    },
    /// What holds for all domains. Answer: [`SchedulingReply::Parameters`].
    Parameters,
    /// Set what holds for all domains, as far as it is given. Answer: [`crate::Reply::Done`].
    SetParameters {
        /// Time slice in milliseconds.
        timeslice_ms: Option<u32>,
        /// Time for which a vCPU is not preempted, in microseconds.
        ratelimit_us: Option<u32>,
        /// Time after its last run in which a vCPU is not moved, in microseconds.
        migration_delay_us: Option<u32>,
    },
}

/// What dom0 answers to a [`SchedulingRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedulingReply {
    /// A domain's vCPU. One a message, since sets of CPUs can be long.
    Vcpu {
        /// The domain's id.
        domid: u16,
        /// Its name.
        name: String,
        /// How many CPUs the host has.
        cpus: u32,
        /// The vCPU; none if its number is beyond the last one's.
        vcpu: Option<VcpuInfo>,
    },
    /// A domain's share.
    Share {
        /// The domain's id.
        domid: u16,
        /// Its name.
        name: String,
        /// The share.
        share: Share,
    },
    /// What holds for all domains.
    Parameters(Parameters),
}

/// A vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuInfo {
    /// Its number.
    pub id: u32,
    /// It is up.
    pub online: bool,
    /// It waits for an event.
    pub blocked: bool,
    /// It is on a CPU.
    pub running: bool,
    /// Time that it has run, in nanoseconds.
    pub cpu_time_ns: u64,
    /// The CPU that it runs on or ran on last.
    pub cpu: u32,
    /// Processors that it may use.
    pub hard: CpuSet,
    /// Processors that it had better use.
    pub soft: CpuSet,
}

/// A domain's share of the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Relative to other domains.
    pub weight: u16,
    /// The most that it may use, in percent of a CPU; 0 for no limit.
    pub cap: u16,
}

/// What holds for all domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Time slice in milliseconds.
    pub timeslice_ms: u32,
    /// Time for which a vCPU is not preempted, in microseconds.
    pub ratelimit_us: u32,
    /// Time after its last run in which a vCPU is not moved, in microseconds.
    pub migration_delay_us: u32,
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
