//! The credit scheduler: each domain gets processor time in proportion to its weight, up to its cap.
//!
//! Credit is processor time in nanoseconds. A unit (a vCPU) pays for the time it runs; every
//! [`PERIOD`] the time that the processors had is handed out again among the domains that wanted
//! any, by weight. A unit in credit is *under*, one in debt is *over*; a unit that wakes in credit is
//! *boosted* until it has run for a [`TICK`], so that those that mostly wait are served at once.
//! Boosted units run before those under, and those before those over; among equals it goes round
//! with a time slice. A unit of a capped domain that has used up its credit is *parked* until it has
//! some again.
//!
//! Each processor has its own queues. One that finds nothing better than an over unit in them looks
//! for work in the others', before it idles or runs that.
//!
//! Picking and waking take constant time, but for the scan of other processors' queues; handing out
//! credit goes over all units once a period.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use hypercall_abi::types::Domid;

use super::{Decision, Parameters, Scheduler, UnitId};
use crate::Vcpu;

/// Time between hand-outs of credit, in nanoseconds.
pub const PERIOD: u64 = 30_000_000;
/// Time after which a unit that others wait for is looked at again, in nanoseconds.
pub const TICK: u64 = 10_000_000;
/// Time slice at start, in nanoseconds.
pub const SLICE: u64 = 30_000_000;
/// Time for which a unit is not preempted, at start, in nanoseconds.
pub const RATE_LIMIT: u64 = 1_000_000;
/// Weight of a domain at start.
pub const WEIGHT: u16 = 256;
/// No decision is shorter than this, in nanoseconds.
const SHORTEST: u64 = 50_000;

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Priority {
    Over,
    Under,
    Boost,
}

const PRIORITIES: [Priority; 3] = [Priority::Boost, Priority::Under, Priority::Over];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In no queue: not runnable, or parked.
    Out,
    /// In the queue of its priority on its processor.
    Queued,
    /// Its processor runs it.
    Running,
}

struct Unit<T> {
    payload: T,
    domain: Domid,
    affinity: u64,
    cpu: usize,
    credit: i64,
    priority: Priority,
    place: Place,
    /// Runnable.
    awake: bool,
    /// Wanted to run since credit was last handed out.
    active: bool,
    /// Held back because its domain's cap is reached.
    parked: bool,
}

#[derive(Default)]
struct Cpu {
    queues: [VecDeque<UnitId>; 3],
    running: Option<UnitId>,
    /// When the running unit's slice began.
    since: u64,
    /// Up to when the running unit has paid.
    charged: u64,
    /// The running unit lets others go first.
    yielded: bool,
}

impl Cpu {
    /// The highest priority that waits.
    fn waiting(&self) -> Option<Priority> {
        PRIORITIES
            .into_iter()
            .find(|&priority| !self.queues[priority as usize].is_empty())
    }
}

struct Share {
    parameters: Parameters,
    units: u32,
}

/// The credit scheduler's state; `T` is what it schedules.
pub struct Credit<T = Arc<Vcpu>> {
    units: Vec<Option<Unit<T>>>,
    free: Vec<UnitId>,
    domains: BTreeMap<Domid, Share>,
    cpus: Vec<Cpu>,
    /// When credit was last handed out.
    settled: u64,
    slice: u64,
    rate_limit: u64,
}

impl<T: Clone> Credit<T> {
    /// A scheduler for `cpus` CPUs (at most 64) without units.
    pub fn new(cpus: u32) -> Self {
        Self {
            units: Vec::new(),
            free: Vec::new(),
            domains: BTreeMap::new(),
            cpus: (0..cpus.clamp(1, 64)).map(|_| Cpu::default()).collect(),
            settled: 0,
            slice: SLICE,
            rate_limit: RATE_LIMIT,
        }
    }

    fn unit(&self, id: UnitId) -> Option<&Unit<T>> {
        self.units.get(id.0 as usize)?.as_ref()
    }

    fn unit_mut(&mut self, id: UnitId) -> Option<&mut Unit<T>> {
        self.units.get_mut(id.0 as usize)?.as_mut()
    }

    fn is_idle(&self, cpu: usize) -> bool {
        self.cpus
            .get(cpu)
            .is_some_and(|cpu| cpu.running.is_none() && cpu.waiting().is_none())
    }

    fn cap(&self, domain: Domid) -> u16 {
        self.domains
            .get(&domain)
            .map_or(0, |share| share.parameters.cap)
    }

    /// Puts a unit at the end of the queue of its priority on its processor.
    fn enqueue(&mut self, id: UnitId) {
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        unit.place = Place::Queued;
        let (cpu, priority) = (unit.cpu, unit.priority);
        self.cpus[cpu].queues[priority as usize].push_back(id);
    }

    /// Takes a unit out of its queue, if it is in one.
    fn dequeue(&mut self, id: UnitId) {
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        if unit.place != Place::Queued {
            return;
        }
        unit.place = Place::Out;
        let (cpu, priority) = (unit.cpu, unit.priority);
        self.cpus[cpu].queues[priority as usize].retain(|&queued| queued != id);
    }

    /// Lets the unit that runs on `cpu` pay for its time up to `now`.
    fn charge(&mut self, cpu: usize, now: u64) {
        let state = &mut self.cpus[cpu];
        let Some(id) = state.running else { return };
        let ran = now.saturating_sub(state.charged);
        let since = state.since;
        state.charged = now;
        let Some(domain) = self.unit(id).map(|unit| unit.domain) else {
            return;
        };
        let capped = self.cap(domain) != 0;
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        unit.credit = unit
            .credit
            .saturating_sub_unsigned(ran)
            .max(-(PERIOD as i64));
        unit.active = true;
        if unit.credit < 0 {
            unit.priority = Priority::Over;
        } else if unit.priority == Priority::Boost && now.saturating_sub(since) >= TICK {
            unit.priority = Priority::Under;
        }
        unit.parked = capped && unit.credit <= 0;
    }

    /// Hands out the time that the processors had since it was last done, and returns the
    /// processors that have work which they do not know of.
    fn settle(&mut self, now: u64) -> u64 {
        for cpu in 0..self.cpus.len() {
            self.charge(cpu, now);
        }
        let elapsed = now.saturating_sub(self.settled).min(2 * PERIOD);
        self.settled = now;
        let mut active = BTreeMap::<Domid, u64>::new();
        for unit in self
            .units
            .iter()
            .flatten()
            .filter(|unit| unit.active || unit.awake)
        {
            *active.entry(unit.domain).or_default() += 1;
        }
        let wanting = active.iter().map(|(&domain, &units)| {
            let parameters = self.domains.get(&domain).map(|share| share.parameters);
            let Parameters { weight, cap } = parameters.unwrap_or_default();
            let cap = if cap == 0 {
                u64::MAX
            } else {
                u64::from(cap) * elapsed / 100
            };
            Claim {
                domain,
                weight: weight.into(),
                most: cap.min(units * elapsed),
                given: 0,
            }
        });
        let mut claims: Vec<Claim> = wanting.collect();
        divide(elapsed * self.cpus.len() as u64, &mut claims);
        let given: BTreeMap<Domid, (u64, bool)> = claims
            .iter()
            .map(|claim| {
                let units = active.get(&claim.domain).copied().unwrap_or(1).max(1);
                (
                    claim.domain,
                    (claim.given / units, self.cap(claim.domain) != 0),
                )
            })
            .collect();
        let mut asked = 0;
        for index in 0..self.units.len() {
            let id = UnitId(index as u32);
            let Some(unit) = self.unit_mut(id) else {
                continue;
            };
            if !(unit.active || unit.awake) {
                continue;
            }
            let (share, capped) = given.get(&unit.domain).copied().unwrap_or_default();
            unit.active = unit.awake;
            unit.credit = unit
                .credit
                .saturating_add_unsigned(share)
                .min(PERIOD as i64);
            let parked = capped && unit.credit <= 0;
            let priority = match unit.priority {
                _ if unit.credit < 0 => Priority::Over,
                Priority::Boost => Priority::Boost,
                _ => Priority::Under,
            };
            match unit.place {
                Place::Queued if parked || priority != unit.priority => {
                    self.dequeue(id);
                    self.place_again(id, priority, parked);
                }
                Place::Out if unit.awake && !parked => {
                    let cpu = unit.cpu;
                    self.place_again(id, priority, parked);
                    asked |= 1 << cpu;
                }
                _ => {
                    unit.priority = priority;
                    unit.parked = parked;
                }
            }
        }
        asked
    }

    fn place_again(&mut self, id: UnitId, priority: Priority, parked: bool) {
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        unit.priority = priority;
        unit.parked = parked;
        if !parked {
            self.enqueue(id);
        }
    }

    /// The first unit in `cpu`'s queues of at least priority `least` that may run on `on`.
    fn find(&self, cpu: usize, least: Priority, on: usize) -> Option<UnitId> {
        let queues = &self.cpus.get(cpu)?.queues;
        PRIORITIES
            .into_iter()
            .filter(|&priority| priority >= least)
            .find_map(|priority| {
                let mut queue = queues[priority as usize].iter();
                queue.find(|&&id| {
                    self.unit(id)
                        .is_some_and(|unit| unit.affinity >> on & 1 != 0)
                })
            })
            .copied()
    }

    /// Takes the unit that is to run on `cpu` out of the queues.
    fn take_next(&mut self, cpu: usize) -> Option<UnitId> {
        let own = self.find(cpu, Priority::Over, cpu);
        let own_priority = own.and_then(|id| self.unit(id)).map(|unit| unit.priority);
        let others = (1..self.cpus.len()).map(|i| (cpu + i) % self.cpus.len());
        let chosen = match own_priority {
            Some(Priority::Boost | Priority::Under) => own,
            Some(Priority::Over) => others
                .into_iter()
                .find_map(|other| self.find(other, Priority::Under, cpu))
                .or(own),
            None => others
                .clone()
                .find_map(|other| self.find(other, Priority::Under, cpu))
                .or_else(|| {
                    others
                        .clone()
                        .find_map(|other| self.find(other, Priority::Over, cpu))
                }),
        }?;
        self.dequeue(chosen);
        Some(chosen)
    }

    /// Whether the running unit goes on, given who waits.
    fn stays(&self, cpu: usize, unit: &Unit<T>, now: u64) -> bool {
        let state = &self.cpus[cpu];
        if !unit.awake || unit.parked || state.yielded || unit.affinity >> cpu & 1 == 0 {
            return false;
        }
        let ran = now.saturating_sub(state.since);
        match state.waiting() {
            Some(priority) if priority > unit.priority => ran < self.rate_limit,
            Some(priority) if priority == unit.priority => ran < self.slice,
            _ => unit.priority != Priority::Over || self.cpus.len() == 1,
        }
    }

    /// When `cpu` is to decide again, given that it runs `id`.
    fn until(&self, cpu: usize, id: UnitId, now: u64) -> u64 {
        let state = &self.cpus[cpu];
        let Some(unit) = self.unit(id) else {
            return now;
        };
        let mut until = state.since + self.slice;
        match state.waiting() {
            None => {}
            Some(priority) if priority > unit.priority => until = state.since + self.rate_limit,
            Some(_) => until = until.min(now + TICK),
        }
        if self.cap(unit.domain) != 0 {
            until = until.min(now.saturating_add(unit.credit.max(0) as u64));
        }
        if self.any_parked() {
            until = until.min(self.settled + PERIOD);
        }
        until.max(now + SHORTEST)
    }

    fn any_parked(&self) -> bool {
        self.domains.values().any(|share| share.parameters.cap != 0)
            && self
                .units
                .iter()
                .flatten()
                .any(|unit| unit.awake && unit.parked)
    }

    /// A processor that has nothing to do and may run a unit that waits on `cpu`.
    fn helper(&self, cpu: usize) -> u64 {
        (0..self.cpus.len())
            .find(|&other| self.is_idle(other) && self.find(cpu, Priority::Over, other).is_some())
            .map_or(0, |other| 1 << other)
    }
}

/// A domain that wants processor time.
struct Claim {
    domain: Domid,
    weight: u64,
    most: u64,
    given: u64,
}

/// Divides `time` by weight; what a domain cannot use goes to the others.
fn divide(mut time: u64, claims: &mut [Claim]) {
    loop {
        let open = |claim: &Claim| claim.given < claim.most;
        let weight: u64 = claims
            .iter()
            .filter(|claim| open(claim))
            .map(|claim| claim.weight)
            .sum();
        if weight == 0 || time == 0 {
            return;
        }
        let share = |claim: &Claim| {
            (u128::from(time) * u128::from(claim.weight) / u128::from(weight)) as u64
        };
        let sated = claims
            .iter()
            .position(|claim| open(claim) && share(claim) >= claim.most);
        let Some(sated) = sated else {
            for claim in claims.iter_mut().filter(|claim| claim.given < claim.most) {
                claim.given = share(claim);
            }
            return;
        };
        if let Some(claim) = claims.get_mut(sated) {
            claim.given = claim.most;
            time -= claim.most;
        }
    }
}

impl<T: Clone> Scheduler<T> for Credit<T> {
    fn insert(&mut self, domain: Domid, payload: T) -> UnitId {
        let share = self.domains.entry(domain).or_insert(Share {
            parameters: Parameters::default(),
            units: 0,
        });
        share.units += 1;
        let unit = Unit {
            payload,
            domain,
            affinity: u64::MAX,
            cpu: 0,
            // It is not to be in debt before credit was handed out once.
            credit: TICK as i64,
            priority: Priority::Under,
            place: Place::Out,
            awake: false,
            active: false,
            parked: false,
        };
        match self.free.pop() {
            Some(id) => {
                self.units[id.0 as usize] = Some(unit);
                id
            }
            None => {
                self.units.push(Some(unit));
                UnitId(self.units.len() as u32 - 1)
            }
        }
    }

    fn remove(&mut self, id: UnitId) {
        self.dequeue(id);
        let Some(unit) = self.units.get_mut(id.0 as usize).and_then(Option::take) else {
            return;
        };
        for cpu in &mut self.cpus {
            cpu.running.take_if(|running| *running == id);
        }
        if let Some(share) = self.domains.get_mut(&unit.domain) {
            share.units -= 1;
            if share.units == 0 {
                self.domains.remove(&unit.domain);
            }
        }
        self.free.push(id);
    }

    fn wake(&mut self, id: UnitId) -> Option<u32> {
        let unit = self.unit(id)?;
        if unit.awake {
            return None;
        }
        let (place, home, affinity, parked) = (unit.place, unit.cpu, unit.affinity, unit.parked);
        let allowed = |cpu: usize| affinity >> cpu & 1 != 0;
        let mut cpu = home;
        if place == Place::Out && !(allowed(home) && self.is_idle(home)) {
            let all = 0..self.cpus.len();
            let idle = all.clone().find(|&cpu| allowed(cpu) && self.is_idle(cpu));
            let fallback = if allowed(home) {
                Some(home)
            } else {
                all.clone().find(|&cpu| allowed(cpu))
            };
            cpu = idle.or(fallback).unwrap_or(home);
        }
        let unit = self.unit_mut(id)?;
        unit.awake = true;
        unit.active = true;
        if place != Place::Out {
            return None;
        }
        unit.cpu = cpu;
        unit.priority = if unit.credit >= 0 {
            Priority::Boost
        } else {
            Priority::Over
        };
        if parked {
            return None;
        }
        let priority = unit.priority;
        self.enqueue(id);
        let lower = match self.cpus[cpu].running.and_then(|id| self.unit(id)) {
            Some(running) => !running.awake || running.priority < priority,
            None => true,
        };
        lower.then_some(cpu as u32)
    }

    fn sleep(&mut self, id: UnitId) -> Option<u32> {
        let unit = self.unit_mut(id)?;
        unit.awake = false;
        match unit.place {
            Place::Queued => self.dequeue(id),
            Place::Running => return Some(unit.cpu as u32),
            Place::Out => {}
        }
        None
    }

    fn yield_now(&mut self, cpu: u32) {
        if let Some(cpu) = self.cpus.get_mut(cpu as usize) {
            cpu.yielded = true;
        }
    }

    fn pick(&mut self, cpu: u32, now: u64) -> Decision<T> {
        let index = cpu as usize;
        if index >= self.cpus.len() {
            return Decision {
                next: None,
                until: u64::MAX,
                ask: 0,
            };
        }
        let mut ask = 0;
        if now >= self.settled.saturating_add(PERIOD) {
            ask = self.settle(now);
        } else {
            self.charge(index, now);
        }
        let current = self.cpus[index].running;
        let stays = current
            .and_then(|id| self.unit(id))
            .is_some_and(|unit| self.stays(index, unit, now));
        let mut next = current;
        if !stays {
            self.cpus[index].running = None;
            let yielded = core::mem::take(&mut self.cpus[index].yielded);
            let again = current.filter(|&id| match self.unit_mut(id) {
                Some(unit) => {
                    unit.place = Place::Out;
                    unit.awake && !unit.parked
                }
                None => false,
            });
            if let Some(id) = again {
                self.requeue(id);
            }
            next = self.take_next(index);
            if yielded
                && next.is_some()
                && next == again
                && let Some(other) = self.take_next(index)
            {
                next.into_iter().for_each(|id| self.enqueue(id));
                next = Some(other);
            }
        }
        let state = &mut self.cpus[index];
        state.running = next;
        let Some(id) = next else {
            let until = if self.any_parked() {
                self.settled + PERIOD
            } else {
                u64::MAX
            };
            return Decision {
                next: None,
                until,
                ask: ask & !(1 << index),
            };
        };
        if next != current || now.saturating_sub(state.since) >= self.slice {
            state.since = now;
        }
        state.charged = now;
        if let Some(unit) = self.unit_mut(id) {
            unit.place = Place::Running;
            unit.cpu = index;
        }
        if self.cpus[index].waiting().is_some() {
            ask |= self.helper(index);
        }
        let until = self.until(index, id, now);
        let next = self.unit(id).map(|unit| unit.payload.clone());
        Decision {
            next,
            until,
            ask: ask & !(1 << index),
        }
    }

    fn set_affinity(&mut self, id: UnitId, cpus: u64) -> Option<u32> {
        let unit = self.unit_mut(id)?;
        unit.affinity = cpus;
        if cpus >> unit.cpu & 1 != 0 {
            return None;
        }
        match unit.place {
            Place::Running => Some(unit.cpu as u32),
            Place::Queued => {
                self.dequeue(id);
                self.requeue(id)
            }
            Place::Out => None,
        }
    }

    fn affinity(&self, id: UnitId) -> u64 {
        let all = u64::MAX >> (64 - self.cpus.len());
        self.unit(id).map_or(0, |unit| unit.affinity & all)
    }

    fn parameters(&self, domain: Domid) -> Option<Parameters> {
        self.domains.get(&domain).map(|share| share.parameters)
    }

    fn set_parameters(&mut self, domain: Domid, parameters: Parameters) {
        if let Some(share) = self.domains.get_mut(&domain) {
            share.parameters = parameters;
        }
        // A domain without a cap has nothing to wait for.
        if parameters.cap == 0 {
            for index in 0..self.units.len() {
                let id = UnitId(index as u32);
                let Some(unit) = self.unit_mut(id) else {
                    continue;
                };
                if unit.domain == domain
                    && core::mem::take(&mut unit.parked)
                    && unit.awake
                    && unit.place == Place::Out
                {
                    self.enqueue(id);
                }
            }
        }
    }

    fn slice(&self) -> (u64, u64) {
        (self.slice, self.rate_limit)
    }

    fn set_slice(&mut self, slice: u64, rate_limit: u64) {
        self.slice = slice;
        self.rate_limit = rate_limit;
    }
}

impl<T: Clone> Credit<T> {
    /// Queues a unit on its processor, or on one where it may run; returns the latter.
    fn requeue(&mut self, id: UnitId) -> Option<u32> {
        let cpus = self.cpus.len();
        let unit = self.unit_mut(id)?;
        let affinity = unit.affinity;
        let mut moved = None;
        if affinity >> unit.cpu & 1 == 0
            && let Some(cpu) = (0..cpus).find(|&cpu| affinity >> cpu & 1 != 0)
        {
            unit.cpu = cpu;
            moved = Some(cpu as u32);
        }
        self.enqueue(id);
        moved
    }
}

#[cfg(test)]
mod tests;
