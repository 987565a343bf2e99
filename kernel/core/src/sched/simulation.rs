//! Simulated processors under a scheduler, with time that passes only between events. After every step it checks what
//! holds at any time: no unit runs twice or where it may not, and no processor idles while a unit waits that may run
//! there.

use std::vec;
use std::vec::Vec;

use hypercall_abi::types::Domid;

use super::{Credit, Parameters, Scheduler, UnitId};

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000 * MS;

/// What a unit does: runs for `burst`, waits for `wait`; a hog never waits.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    /// Nanoseconds.
    pub burst: u64,
    /// Nanoseconds.
    pub wait: u64,
    /// Whether it only yields when its burst is over.
    pub yields: bool,
}

/// Runs whenever it may.
pub const HOG: Habit = Habit {
    burst: u64::MAX,
    wait: 0,
    yields: false,
};

/// A unit and what it has done.
pub struct Load {
    /// Its name in the scheduler.
    pub id: UnitId,
    domain: Domid,
    habit: Habit,
    cpus: u64,
    /// Run time until it waits.
    left: u64,
    /// When it wakes; `u64::MAX` while awake.
    wakes: u64,
    /// When it woke, until it runs; `u64::MAX` then.
    woke: u64,
    /// How long it has run, in nanoseconds.
    pub ran: u64,
    /// How long it waited after each wake until it ran, in nanoseconds.
    pub latencies: Vec<u64>,
}

impl Load {
    /// Whether it wants to run.
    pub fn is_awake(&self) -> bool {
        self.wakes == u64::MAX
    }
}

/// The processors.
pub struct Simulation<S = Credit<usize>> {
    /// What decides.
    pub scheduler: S,
    /// What runs.
    pub loads: Vec<Load>,
    /// Per CPU: who runs, and until when at most.
    pub cpus: Vec<(Option<usize>, u64)>,
    now: u64,
    /// A domain may be held back by its cap, so that processors idle.
    capped: bool,
    /// Not every unit finds a processor, whatever is idle.
    partitioned: bool,
}

impl Simulation {
    /// `cpus` processors under the credit scheduler.
    pub fn new(cpus: u32) -> Self {
        Self::under(Credit::new(cpus), cpus)
    }
}

impl<S: Scheduler<usize>> Simulation<S> {
    /// `cpus` processors under `scheduler`.
    pub fn under(scheduler: S, cpus: u32) -> Self {
        Self {
            scheduler,
            loads: Vec::new(),
            cpus: vec![(None, u64::MAX); cpus as usize],
            now: 0,
            capped: false,
            partitioned: false,
        }
    }

    /// The same where the scheduler lets units wait though a processor is idle.
    pub fn partitioned(scheduler: S, cpus: u32) -> Self {
        Self {
            partitioned: true,
            ..Self::under(scheduler, cpus)
        }
    }

    /// Adds a unit of `domain` that is awake.
    pub fn add(&mut self, domain: u16, habit: Habit) -> UnitId {
        let domain = Domid(domain);
        let id = self.scheduler.insert(domain, self.loads.len());
        let load = Load {
            id,
            domain,
            habit,
            cpus: u64::MAX,
            left: habit.burst,
            wakes: u64::MAX,
            woke: self.now,
            ran: 0,
            latencies: Vec::new(),
        };
        self.loads.push(load);
        let ask = self.scheduler.wake(id, self.now);
        self.ask(ask);
        id
    }

    /// Adds as many units.
    pub fn add_some(&mut self, domain: u16, habit: Habit, count: usize) {
        for _ in 0..count {
            self.add(domain, habit);
        }
    }

    /// Sets a domain's share.
    pub fn share(&mut self, domain: u16, weight: u16, cap: u16) {
        self.capped |= cap != 0;
        self.scheduler
            .set_parameters(Domid(domain), Parameters { weight, cap });
    }

    /// Limits a unit to processors.
    pub fn pin(&mut self, id: UnitId, cpus: u64) {
        if let Some(load) = self.loads.iter_mut().find(|load| load.id == id) {
            load.cpus = cpus;
        }
        let asked = self.scheduler.set_affinity(id, cpus);
        self.ask_all(asked);
    }

    /// Has a unit use some processors rather than others.
    pub fn prefer(&mut self, id: UnitId, cpus: u64) {
        self.scheduler.set_soft_affinity(id, cpus);
    }

    fn ask_all(&mut self, cpus: u64) {
        for cpu in (0..self.cpus.len()).filter(|cpu| cpus >> cpu & 1 != 0) {
            self.cpus[cpu].1 = self.now;
        }
    }

    fn ask(&mut self, cpu: Option<u32>) {
        if let Some(cpu) = cpu {
            self.cpus[cpu as usize].1 = self.now;
        }
    }

    /// Lets `time` nanoseconds pass.
    pub fn run(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            let mut next = end;
            for &(running, until) in &self.cpus {
                next = next.min(until);
                if let Some(load) = running.map(|index| &self.loads[index]) {
                    next = next.min(self.now.saturating_add(load.left));
                }
            }
            for load in &self.loads {
                next = next.min(load.wakes);
            }
            let passed = next - self.now;
            self.now = next;
            for &(running, _) in &self.cpus {
                if let Some(load) = running.map(|index| &mut self.loads[index]) {
                    load.ran += passed;
                    load.left = load.left.saturating_sub(passed);
                }
            }
            self.step();
        }
    }

    /// Everything that happens at this moment.
    pub fn step(&mut self) {
        for index in 0..self.loads.len() {
            let load = &mut self.loads[index];
            let mut ask = None;
            if load.left == 0 && load.habit.yields {
                load.left = load.habit.burst;
                let cpu = self.cpus.iter().position(|&(unit, _)| unit == Some(index));
                let cpu = cpu.expect("it has run") as u32;
                self.scheduler.yield_now(cpu);
                ask = Some(cpu);
            } else if load.left == 0 && load.is_awake() {
                load.wakes = self.now + load.habit.wait;
                ask = self.scheduler.sleep(load.id);
            } else if load.wakes <= self.now {
                load.wakes = u64::MAX;
                load.left = load.habit.burst;
                load.woke = self.now;
                ask = self.scheduler.wake(load.id, self.now);
            }
            self.ask(ask);
        }
        let mut rounds = 0;
        while let Some(cpu) = self.cpus.iter().position(|&(_, until)| until <= self.now) {
            rounds += 1;
            assert!(
                rounds < 100 * self.cpus.len(),
                "the processors ask each other for ever"
            );
            let decision = self.scheduler.pick(cpu as u32, self.now);
            assert!(decision.until > self.now);
            assert!(decision.until < u64::MAX || decision.next.is_none() || self.partitioned);
            self.cpus[cpu] = (decision.next, decision.until);
            if let Some(load) = decision.next.map(|index| &mut self.loads[index]) {
                assert!(load.is_awake(), "a sleeper runs");
                assert!(load.cpus >> cpu & 1 != 0, "a unit runs where it may not");
                if load.woke != u64::MAX {
                    load.latencies.push(self.now - load.woke);
                    load.woke = u64::MAX;
                }
            }
            self.ask_all(decision.ask);
        }
        self.check();
    }

    fn check(&self) {
        let mut running = vec![false; self.loads.len()];
        let mut idle = 0_u64;
        for (cpu, &(unit, _)) in self.cpus.iter().enumerate() {
            match unit {
                Some(unit) if running[unit] => panic!("two processors run one unit"),
                Some(unit) => running[unit] = true,
                None => idle |= 1 << cpu,
            }
        }
        if idle == 0 || self.capped || self.partitioned {
            return;
        }
        for (load, running) in self.loads.iter().zip(running) {
            assert!(
                running || !load.is_awake() || load.cpus & idle == 0,
                "of {idle:#b} none runs what waits for {:#b}",
                load.cpus
            );
        }
    }

    /// How long the units of a domain have run, in nanoseconds.
    pub fn ran(&self, domain: u16) -> u64 {
        let of_domain = self
            .loads
            .iter()
            .filter(|load| load.domain == Domid(domain));
        of_domain.map(|load| load.ran).sum()
    }
}

/// Panics unless `value` is within `percent` % of `expected`.
#[track_caller]
pub fn assert_near(value: u64, expected: u64, percent: u64) {
    assert!(
        value.abs_diff(expected) * 100 <= expected * percent,
        "{value} is not within {percent} % of {expected}"
    );
}
