//! [`Sample`]: how the host was at a moment, and what two of them say of the time between.

use std::cmp::Ordering;

use control::{DomainInfo, HostInfo, ShutdownReason};

use super::columns::COLUMNS;

/// The host at a moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// When, in nanoseconds of the host's time.
    pub time_ns: u64,
    /// Time for which each CPU has run no vCPU.
    pub idle_ns: Vec<u64>,
    /// The domains, by id.
    pub domains: Vec<Domain>,
    /// Memory, and what CPUs there are.
    pub host: HostInfo,
}

/// A domain at a moment.
#[derive(Clone, Debug)]
pub struct Domain {
    /// What `xl list` knows.
    pub info: DomainInfo,
    /// Nanoseconds that each vCPU has run, by number; none for one that is not online, or where nobody asked.
    pub vcpus: Vec<(u32, u64)>,
}

/// A domain's line, with what it used since the sample before.
#[derive(Clone, Debug)]
pub struct Row {
    /// The domain.
    pub domain: Domain,
    /// Hundredths of a CPU.
    pub cpu_percent: f64,
    /// Hundredths of the machine's memory.
    pub memory_percent: f64,
    /// The same of what it may have; none where it has no limit.
    pub max_percent: Option<f64>,
    /// Times that events interrupted it; none where nobody counts them.
    pub events_per_second: Option<f64>,
}

impl Row {
    /// Whether it has shut down for another reason than a crash.
    pub fn is_down(&self) -> bool {
        let reason = self.domain.info.state.shutdown;
        reason.is_some_and(|reason| reason != ShutdownReason::CRASH)
    }

    /// Whether it has crashed.
    pub fn is_crashed(&self) -> bool {
        self.domain.info.state.shutdown == Some(ShutdownReason::CRASH)
    }
}

/// Nanoseconds as hundredths of a time.
fn percent(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => part as f64 / whole as f64 * 100.0,
    }
}

fn per_second(times: u32, passed_ns: u64) -> f64 {
    match passed_ns {
        0 => 0.0,
        passed_ns => f64::from(times) * 1e9 / passed_ns as f64,
    }
}

impl Sample {
    /// The domains' lines in the order of a column, with what they used since `before`.
    pub fn rows(&self, before: Option<&Sample>, column: Option<usize>) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .domains
            .iter()
            .map(|domain| self.row(domain, before))
            .collect();
        if let Some(column) = column.and_then(|index| COLUMNS.get(index)) {
            rows.sort_by(|a, b| (column.order)(a, b));
        }
        rows
    }

    fn row(&self, domain: &Domain, before: Option<&Sample>) -> Row {
        let info = &domain.info;
        // A domain that came since, or under another's number, has no sample to compare with.
        let earlier = before.and_then(|before| {
            let same = |it: &&Domain| it.info.domid == info.domid && it.info.uuid == info.uuid;
            let found = before.domains.iter().find(same)?;
            Some((found, self.time_ns.saturating_sub(before.time_ns)))
        });
        let used = earlier.and_then(|(earlier, passed)| {
            let used = info.cpu_time_ns.checked_sub(earlier.info.cpu_time_ns)?;
            Some(percent(used, passed))
        });
        let events = earlier.and_then(|(earlier, passed)| {
            let more = info.upcalls?.wrapping_sub(earlier.info.upcalls?);
            Some(per_second(more, passed))
        });
        let total = self.host.total_memory_kib;
        let limited = info.max_memory_kib < NO_LIMIT;
        Row {
            domain: domain.clone(),
            cpu_percent: used.unwrap_or(0.0),
            memory_percent: percent(info.memory_kib, total),
            max_percent: limited.then(|| percent(info.max_memory_kib, total)),
            events_per_second: info.upcalls.map(|_| events.unwrap_or(0.0)),
        }
    }

    /// Hundredths of a CPU that nobody used since `before`, all CPUs together.
    pub fn idle_percent(&self, before: &Sample) -> f64 {
        let passed = self.time_ns.saturating_sub(before.time_ns);
        let idle = self.idle_ns.iter().zip(&before.idle_ns);
        idle.map(|(now, then)| percent(now.saturating_sub(*then), passed))
            .sum()
    }
}

/// The memory, in KiB, from which on a domain may have as much as there is: Xen counts pages in 32 bits.
pub const NO_LIMIT: u64 = u32::MAX as u64 * 4;

/// Orders what is more first.
pub fn more_first<T: PartialOrd>(a: T, b: T) -> Ordering {
    b.partial_cmp(&a).unwrap_or(Ordering::Equal)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use control::{DeviceUse, DomainState, Uuid};

    const SECOND: u64 = 1_000_000_000;

    pub fn domain(domid: u16, name: &str, cpu_time_ns: u64) -> Domain {
        let info = DomainInfo {
            domid,
            name: name.into(),
            uuid: Uuid([domid as u8; 16]),
            memory_kib: 64 << 10,
            max_memory_kib: 128 << 10,
            outstanding_kib: 0,
            vcpus: 1,
            max_vcpus: 1,
            cpu_time_ns,
            upcalls: None,
            uptime_ms: 0,
            state: DomainState::default(),
            ssidref: 0,
            cpupool: 0,
            devices: DeviceUse::default(),
        };
        Domain {
            info,
            vcpus: vec![(0, cpu_time_ns)],
        }
    }

    /// Two CPUs at a time in seconds, and what was used of them in hundredths of a second.
    pub fn sample(time: u64, used: [(u16, &str, u64); 3], idle: [u64; 2]) -> Sample {
        Sample {
            time_ns: time * SECOND,
            idle_ns: idle.map(|idle| idle * SECOND / 100).into(),
            domains: used
                .map(|(domid, name, time)| domain(domid, name, time * SECOND / 100))
                .into(),
            host: HostInfo {
                nr_cpus: 2,
                cpu_khz: 2_400_000,
                total_memory_kib: 1 << 20,
                free_memory_kib: 512 << 10,
                ..HostInfo::default()
            },
        }
    }

    #[test]
    fn what_is_idle_and_what_domains_use_make_up_all_cpus() {
        let names = [(0, "Domain-0"), (1, "b"), (7, "a")];
        let used = |times: [u64; 3]| {
            let [a, b, c] = names;
            [
                (a.0, a.1, times[0]),
                (b.0, b.1, times[1]),
                (c.0, c.1, times[2]),
            ]
        };
        let before = sample(10, used([100, 200, 300]), [1000, 400]);
        let after = sample(14, used([110, 600, 590]), [1080, 420]);
        let rows = after.rows(Some(&before), None);
        let percents: Vec<f64> = rows.iter().map(|row| row.cpu_percent).collect();
        assert_eq!(percents, [2.5, 100.0, 72.5]);
        assert_eq!(after.idle_percent(&before), 25.0);
        let all: f64 = percents.iter().sum::<f64>() + after.idle_percent(&before);
        assert_eq!(all, 200.0);
        assert_eq!(
            (rows[0].memory_percent, rows[0].max_percent),
            (6.25, Some(12.5))
        );
    }

    #[test]
    fn a_domain_that_was_not_there_before_has_used_nothing_yet() {
        let all = [(0, "Domain-0", 1), (1, "b", 900), (2, "c", 5)];
        let mut before = sample(10, all, [0, 0]);
        let after = sample(20, all, [0, 0]);
        assert_eq!(after.rows(None, None)[1].cpu_percent, 0.0);
        before.domains[1].info.uuid = Uuid([99; 16]);
        before.domains[1].info.cpu_time_ns = 0;
        assert_eq!(after.rows(Some(&before), None)[1].cpu_percent, 0.0);
        let mut free = after.clone();
        free.domains[0].info.max_memory_kib = NO_LIMIT;
        assert_eq!(free.rows(None, None)[0].max_percent, None);
    }
}
