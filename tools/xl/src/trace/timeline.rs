//! [`Timeline`]: what the records say, put together: which vCPU ran where, in which state each was, and what happened.

use std::collections::BTreeMap;

use hypercall_abi::trace::*;
use hypercall_abi::types::Domid;
use hypercall_abi::vcpu::{
    RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING,
};

use super::names;
use super::records::Record;

/// A vCPU of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VcpuId {
    /// The domain's number.
    pub domid: u16,
    /// Its own number in it.
    pub vcpu: u16,
}

impl VcpuId {
    /// As in a word of a record: the domain above.
    fn of_word(word: u32) -> Self {
        Self {
            domid: (word >> 16) as u16,
            vcpu: word as u16,
        }
    }
}

/// What a vCPU does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is on a CPU.
    Running,
    /// It waits for one.
    Runnable,
    /// It waits for an event.
    Blocked,
    /// It is paused or down.
    Offline,
}

impl State {
    fn of(runstate: u32) -> Self {
        match runstate {
            RUNSTATE_RUNNING => Self::Running,
            RUNSTATE_RUNNABLE => Self::Runnable,
            RUNSTATE_BLOCKED => Self::Blocked,
            _ => {
                debug_assert_eq!(runstate, RUNSTATE_OFFLINE);
                Self::Offline
            }
        }
    }

    /// Its name, as Xen's headers have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Runnable => "runnable",
            Self::Blocked => "blocked",
            Self::Offline => "offline",
        }
    }
}

/// Something that lasted from one time to another, in nanoseconds since the trace began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice<T> {
    pub start: u64,
    pub end: u64,
    pub what: T,
}

/// Something that happened at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// In nanoseconds since the trace began.
    pub at: u64,
    /// The CPU on which it happened.
    pub cpu: u32,
    /// The vCPU that it happened to, if it was one's.
    pub vcpu: Option<VcpuId>,
    /// The kind of thing.
    pub category: &'static str,
    /// What it was.
    pub name: String,
    /// What else is known of it.
    pub details: Vec<(&'static str, String)>,
}

/// All that is known of the time traced.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// Nanoseconds.
    pub length: u64,
    /// By CPU, which vCPU ran when.
    pub cpus: Vec<Vec<Slice<VcpuId>>>,
    /// By CPU, when the scheduler had nothing for it.
    pub idle: Vec<Vec<Slice<()>>>,
    /// In which state each vCPU was when.
    pub vcpus: BTreeMap<VcpuId, Vec<Slice<State>>>,
    /// What happened.
    pub marks: Vec<Mark>,
    /// How many records there were.
    pub records: usize,
    /// The domains' names.
    pub domains: BTreeMap<u16, String>,
    /// By CPU, how many records were lost.
    pub lost: Vec<u64>,
}

impl Timeline {
    /// Puts records together that are in the order of time, of a host with so many CPUs and that rate of the
    /// time-stamp counter.
    pub fn new(
        records: Vec<Record>,
        cpus: u32,
        khz: u32,
        domains: BTreeMap<u16, String>,
    ) -> Timeline {
        let mut build = Build {
            khz: khz.max(1),
            first: records.first().map_or(0, |record| record.tsc),
            running: vec![None; cpus as usize],
            idle: vec![None; cpus as usize],
            states: BTreeMap::new(),
            timeline: Timeline {
                cpus: vec![Vec::new(); cpus as usize],
                idle: vec![Vec::new(); cpus as usize],
                lost: vec![0; cpus as usize],
                records: records.len(),
                domains,
                ..Timeline::default()
            },
        };
        for record in &records {
            build.add(record);
        }
        build.finish(records.last().map_or(0, |record| record.tsc))
    }

    /// How many records were lost.
    pub fn lost(&self) -> u64 {
        self.lost.iter().sum()
    }

    /// A domain's name.
    pub fn domain(&self, domid: u16) -> String {
        let name = self.domains.get(&domid).cloned();
        name.unwrap_or_else(|| format!("domain {domid}"))
    }
}

/// A timeline that grows.
struct Build {
    khz: u32,
    first: u64,
    /// By CPU, the vCPU that runs, and since when.
    running: Vec<Option<Slice<VcpuId>>>,
    /// By CPU, since when it is idle.
    idle: Vec<Option<u64>>,
    states: BTreeMap<VcpuId, Slice<State>>,
    timeline: Timeline,
}

impl Build {
    fn time(&self, tsc: u64) -> u64 {
        let ticks = u128::from(tsc.saturating_sub(self.first));
        (ticks * 1_000_000 / u128::from(self.khz)) as u64
    }

    fn add(&mut self, record: &Record) {
        let (cpu, at) = (record.cpu as usize, self.time(record.tsc));
        if cpu >= self.running.len() {
            return;
        }
        let word = |index: usize| record.data.get(index).copied().unwrap_or(0);
        let long = |index: usize| u64::from(word(index)) | u64::from(word(index + 1)) << 32;
        let hex = |value: u64| format!("{value:#x}");
        // Any runstate's change: two numbers of two bits are in the event's.
        if record.event & !0x330 == TRC_SCHED_RUNSTATE_CHANGE {
            let states = [record.event >> 8 & 3, record.event >> 4 & 3].map(State::of);
            return self.change(cpu, at, VcpuId::of_word(word(0)), states);
        }
        let current = self.running[cpu].map(|slice| slice.what);
        // The two words of an event of the scheduler's.
        let named = VcpuId {
            domid: word(0) as u16,
            vcpu: word(1) as u16,
        };
        let mut mark = |vcpu, category, name: String, details| {
            self.timeline.marks.push(Mark {
                at,
                cpu: record.cpu,
                vcpu,
                category,
                name,
                details,
            });
        };
        match record.event {
            TRC_LOST_RECORDS => {
                let lost = word(0);
                mark(None, "lost", format!("{lost} records lost"), Vec::new());
                self.timeline.lost[cpu] += u64::from(lost);
            }
            // Of vCPUs the changes of the runstates tell the same.
            TRC_SCHED_SWITCH if word(2) == u32::from(Domid::IDLE.0) => {
                self.idle[cpu].get_or_insert(at);
            }
            TRC_SCHED_SWITCH => self.end_idle(cpu, at),
            TRC_SCHED_CONTINUE_RUNNING => {}
            TRC_SCHED_WAKE => mark(Some(named), "sched", "wake".into(), Vec::new()),
            TRC_SCHED_SLEEP => mark(Some(named), "sched", "sleep".into(), Vec::new()),
            TRC_SCHED_BLOCK => mark(Some(named), "sched", "block".into(), Vec::new()),
            TRC_SCHED_YIELD => mark(Some(named), "sched", "yield".into(), Vec::new()),
            TRC_DOM0_DOM_ADD | TRC_DOM0_DOM_REM => {
                let what = match record.event {
                    TRC_DOM0_DOM_ADD => "created",
                    _ => "destroyed",
                };
                let name = format!("domain {} {what}", word(0));
                mark(current, "domain", name, Vec::new());
            }
            TRC_PV_HYPERCALL_V2 | TRC_PV_HYPERCALL_SUBCALL => {
                let category = match record.event {
                    TRC_PV_HYPERCALL_V2 => "hypercall",
                    _ => "subcall",
                };
                let name = names::hypercall(word(0) & !TRC_PV_HYPERCALL_V2_ARG_MASK);
                mark(current, category, name, arguments(&record.data));
            }
            event if event == TRC_PV_TRAP | TRC_64_FLAG => {
                let name = names::exception(word(2) & 0x7fff);
                let mut details = vec![("rip", hex(long(0)))];
                if word(2) & 0x8000 != 0 {
                    details.push(("error_code", hex((word(2) >> 16).into())));
                }
                mark(current, "trap", name, details);
            }
            event if event == TRC_PV_PAGE_FAULT | TRC_64_FLAG => {
                let details = vec![
                    ("rip", hex(long(0))),
                    ("address", hex(long(2))),
                    ("error_code", hex(word(4).into())),
                ];
                mark(current, "trap", "#PF".into(), details);
            }
            event if event == TRC_PV_EMULATE_PRIVOP | TRC_64_FLAG => {
                let details = vec![("rip", hex(long(0)))];
                mark(
                    current,
                    "emulation",
                    "privileged instruction".into(),
                    details,
                );
            }
            event if event == TRC_PV_PTWR_EMULATION | TRC_64_FLAG => {
                let details = vec![
                    ("entry", hex(long(0))),
                    ("address", hex(long(2))),
                    ("rip", hex(long(4))),
                ];
                mark(current, "page table", "store".into(), details);
            }
            TRC_XENOLITH_UNHOOK => {
                let details = vec![("table", hex(long(1)))];
                mark(current, "page table", "unhook".into(), details);
            }
            TRC_XENOLITH_REHOOK => {
                let details = vec![("table", hex(long(1))), ("changed", word(3).to_string())];
                mark(current, "page table", "rehook".into(), details);
            }
            TRC_XENOLITH_EVENT => {
                let target = self.timeline.domain(word(0) as u16);
                let details = vec![("to", target), ("port", word(1).to_string())];
                self.timeline.marks.push(Mark {
                    at,
                    cpu: record.cpu,
                    vcpu: current,
                    category: "event",
                    name: "event".into(),
                    details,
                });
            }
            other => {
                let words: Vec<String> = record
                    .data
                    .iter()
                    .map(|word| format!("{word:#x}"))
                    .collect();
                let details = vec![("data", words.join(" "))];
                mark(current, "other", format!("{other:#010x}"), details);
            }
        }
    }

    fn end_idle(&mut self, cpu: usize, end: u64) {
        self.timeline.idle[cpu].extend(self.idle[cpu].take().map(|start| Slice {
            start,
            end,
            what: (),
        }));
    }

    /// A vCPU's state changes on that CPU.
    fn change(&mut self, cpu: usize, at: u64, vcpu: VcpuId, [old, new]: [State; 2]) {
        let begun = Slice {
            start: at,
            end: at,
            what: new,
        };
        // Before its first change it was in the old state from the beginning on.
        let before = self.states.insert(vcpu, begun);
        let start = before.map_or(0, |slice| slice.start);
        let slices = self.timeline.vcpus.entry(vcpu).or_default();
        slices.push(Slice {
            start,
            end: at,
            what: old,
        });
        if old == State::Running {
            let since = self.running[cpu].take().filter(|slice| slice.what == vcpu);
            let start = match since {
                Some(slice) => slice.start,
                // Records of its beginning were lost, or it ran from the beginning on.
                None => self.timeline.cpus[cpu]
                    .last()
                    .map_or(0, |last| last.end)
                    .max(start),
            };
            self.timeline.cpus[cpu].push(Slice {
                start,
                end: at,
                what: vcpu,
            });
        }
        if new == State::Running {
            self.running[cpu] = Some(Slice {
                start: at,
                end: at,
                what: vcpu,
            });
        }
    }

    /// What has no end yet ends with the trace.
    fn finish(mut self, last: u64) -> Timeline {
        let end = self.time(last);
        for cpu in 0..self.idle.len() {
            self.end_idle(cpu, end);
        }
        for (slices, running) in self.timeline.cpus.iter_mut().zip(self.running) {
            slices.extend(running.map(|slice| Slice { end, ..slice }));
        }
        for (vcpu, slice) in self.states {
            let slices = self.timeline.vcpus.entry(vcpu).or_default();
            slices.push(Slice { end, ..slice });
        }
        self.timeline.length = end;
        self.timeline
    }
}

/// The arguments of a hypercall that its record has, by the bits of its first word.
fn arguments(data: &[u32]) -> Vec<(&'static str, String)> {
    const NAMES: [&str; 6] = ["arg0", "arg1", "arg2", "arg3", "arg4", "arg5"];
    let first = data.first().copied().unwrap_or(0);
    let mut rest = data.iter().skip(1).copied();
    let mut next = || rest.next().map(u64::from);
    let mut found = Vec::new();
    for (place, name) in NAMES.into_iter().enumerate() {
        let value = match first >> (20 + 2 * place) & 3 {
            1 => next(),
            2 => next().zip(next()).map(|(low, high)| low | high << 32),
            _ => None,
        };
        found.extend(value.map(|value| (name, format!("{value:#x}"))));
    }
    found
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const DOMU: u32 = 3 << 16;

    fn record(cpu: u32, tsc: u64, event: u32, data: &[u32]) -> Record {
        Record {
            cpu,
            tsc,
            event,
            data: data.into(),
        }
    }

    fn change(cpu: u32, tsc: u64, vcpu: u32, old: u32, new: u32) -> Record {
        let event = TRC_SCHED_RUNSTATE_CHANGE | old << 8 | new << 4;
        record(cpu, tsc, event, &[vcpu])
    }

    fn slice<T>(start: u64, end: u64, what: T) -> Slice<T> {
        Slice { start, end, what }
    }

    /// Two domains that take turns on the first of two CPUs, at 1 tick a nanosecond.
    pub fn two_domains() -> Timeline {
        use hypercall_abi::vcpu::*;
        let (running, runnable) = (RUNSTATE_RUNNING, RUNSTATE_RUNNABLE);
        let records = vec![
            change(0, 5000, 1 << 16, running, runnable),
            record(0, 5100, TRC_SCHED_SWITCH, &[1, 0, 3, 0]),
            change(0, 5200, DOMU, runnable, running),
            record(0, 5500, TRC_PV_HYPERCALL_V2, &[29 | 1 << 20, 1]),
            change(0, 6000, DOMU, running, RUNSTATE_BLOCKED),
            record(0, 6050, TRC_LOST_RECORDS, &[4, 3, 0, 0]),
            change(0, 6100, 1 << 16, runnable, running),
            record(1, 6200, TRC_SCHED_SWITCH, &[1, 0, 0x7fff, 1]),
            record(1, 6500, TRC_XENOLITH_EVENT, &[3, 9]),
            record(1, 6510, TRC_SCHED_WAKE, &[3, 0]),
            change(1, 6520, DOMU, RUNSTATE_BLOCKED, runnable),
            record(1, 6590, TRC_SCHED_SWITCH, &[0x7fff, 1, 3, 0]),
            change(1, 6600, DOMU, runnable, running),
            record(
                1,
                7000,
                TRC_PV_PAGE_FAULT | TRC_64_FLAG,
                &[0x10, 0, 0x2000, 1, 6],
            ),
        ];
        let names = BTreeMap::from([(1, "one".to_owned()), (3, "\"three\"".to_owned())]);
        Timeline::new(records, 2, 1_000_000, names)
    }

    #[test]
    fn who_ran_where_and_in_which_state_all_were_follows_from_the_changes() {
        let timeline = two_domains();
        let (one, three) = (VcpuId { domid: 1, vcpu: 0 }, VcpuId { domid: 3, vcpu: 0 });
        assert_eq!(timeline.length, 2000);
        assert_eq!(
            timeline.cpus,
            [
                vec![
                    slice(0, 0, one),
                    slice(200, 1000, three),
                    slice(1100, 2000, one)
                ],
                vec![slice(1600, 2000, three)],
            ]
        );
        assert_eq!(timeline.idle, [vec![], vec![slice(1200, 1590, ())]]);
        use State::*;
        let states = [
            slice(0, 200, Runnable),
            slice(200, 1000, Running),
            slice(1000, 1520, Blocked),
            slice(1520, 1600, Runnable),
            slice(1600, 2000, Running),
        ];
        assert_eq!(timeline.vcpus[&three], states);
        assert_eq!(timeline.lost, [4, 0]);
    }

    #[test]
    fn what_happened_is_the_vcpus_that_ran_there() {
        let timeline = two_domains();
        let marks: Vec<_> = timeline
            .marks
            .iter()
            .map(|mark| (mark.at, mark.vcpu.map(|it| it.domid), mark.name.as_str()))
            .collect();
        let expected = [
            (500, Some(3), "sched_op"),
            (1050, None, "4 records lost"),
            (1500, None, "event"),
            (1510, Some(3), "wake"),
            (2000, Some(3), "#PF"),
        ];
        assert_eq!(marks, expected);
        assert_eq!(timeline.marks[0].details, [("arg0", "0x1".to_owned())]);
        let address = ("address", "0x100002000".to_owned());
        assert!(timeline.marks[4].details.contains(&address));
    }

    #[test]
    fn a_record_that_nobody_knows_is_shown_as_it_is() {
        let strange = record(0, 7, 0x0040_f123, &[1, 0xff]);
        let of_no_cpu = record(9, 8, TRC_SCHED_WAKE, &[]);
        let timeline = Timeline::new(vec![strange, of_no_cpu], 1, 0, BTreeMap::new());
        let [mark] = &timeline.marks[..] else {
            panic!("{:?}", timeline.marks);
        };
        assert_eq!((mark.name.as_str(), mark.category), ("0x0040f123", "other"));
        assert_eq!(mark.details, [("data", "0x1 0xff".to_owned())]);
    }

    #[test]
    fn a_vcpu_whose_beginning_was_lost_ran_since_the_one_before() {
        use hypercall_abi::vcpu::*;
        let records = vec![
            change(0, 0, DOMU, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING),
            change(0, 100, DOMU, RUNSTATE_RUNNING, RUNSTATE_RUNNABLE),
            change(0, 900, 0, RUNSTATE_RUNNING, RUNSTATE_BLOCKED),
        ];
        let timeline = Timeline::new(records, 1, 1_000_000, BTreeMap::new());
        let dom0 = VcpuId { domid: 0, vcpu: 0 };
        assert_eq!(timeline.cpus[0][1], slice(100, 900, dom0));
    }
}
