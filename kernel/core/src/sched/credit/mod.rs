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

mod accounts;
mod balance;
mod claims;
mod unit;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hypercall_abi::domctl::XEN_SCHEDULER_CREDIT;
use hypercall_abi::types::Domid;

use super::{Decision, Parameters, Scheduler, UnitId};
use crate::Vcpu;
use unit::{Cpu, Place, Priority, Unit};

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
/// The most credit that a unit has that wants to run, in nanoseconds; one that sleeps has a [`PERIOD`] at most.
const MOST_CREDIT: u64 = 4 * PERIOD;
/// The most that a unit owes, in nanoseconds.
const MOST_DEBT: u64 = 2 * PERIOD;
/// What a weight is multiplied by before it is divided among units.
const WEIGHT_SCALE: u64 = 1 << 16;
/// No decision is shorter than this, in nanoseconds.
const SHORTEST: u64 = 50_000;

struct Share {
    parameters: Parameters,
    units: u32,
}

fn cap_of(domains: &BTreeMap<Domid, Share>, domain: Domid) -> u16 {
    domains.get(&domain).map_or(0, |share| share.parameters.cap)
}

/// The credit scheduler's state; `T` is what it schedules.
pub struct Credit<T = Arc<Vcpu>> {
    units: Vec<Option<Unit<T>>>,
    free: Vec<UnitId>,
    domains: BTreeMap<Domid, Share>,
    cpus: Vec<Cpu>,
    /// Units in queues.
    queued: usize,
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
            queued: 0,
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

    fn cap(&self, domain: Domid) -> u16 {
        cap_of(&self.domains, domain)
    }

    /// Puts a unit at the end of the queue of its priority on its processor.
    fn enqueue(&mut self, id: UnitId) {
        let Some(unit) = self.unit_mut(id) else {
            return;
        };
        unit.place = Place::Queued;
        let (cpu, priority) = (unit.cpu, unit.priority);
        self.cpus[cpu].queues[priority as usize].push_back(id);
        self.queued += 1;
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
        self.queued -= 1;
    }

    /// All processors, bit n for processor n.
    fn all(&self) -> u64 {
        u64::MAX >> (64 - self.cpus.len())
    }

    /// Whether the running unit goes on, given who waits.
    fn stays(&self, cpu: usize, unit: &Unit<T>, now: u64) -> bool {
        let state = &self.cpus[cpu];
        if !unit.awake || unit.parked || state.yielded || unit.affinity >> cpu & 1 == 0 {
            return false;
        }
        match state.waiting() {
            Some(priority) if priority > unit.priority => self.is_rate_limited(state, now),
            Some(priority) if priority == unit.priority => {
                now.saturating_sub(state.since) < self.slice
            }
            _ => unit.priority != Priority::Over || self.cpus.len() == 1,
        }
    }

    /// Whether it is too early to preempt who runs on a processor. What is left of the time is not worth a decision when
    /// it is shorter than any.
    fn is_rate_limited(&self, state: &Cpu, now: u64) -> bool {
        now.saturating_sub(state.since) + SHORTEST < self.rate_limit
    }

    /// When `cpu` is to decide again, given that it runs `id`.
    fn until(&self, cpu: usize, id: UnitId, now: u64) -> u64 {
        let state = &self.cpus[cpu];
        let Some(unit) = self.unit(id) else {
            return now;
        };
        let mut until = state.since + self.slice;
        let credit = unit.credit.max(0) as u64;
        match state.waiting() {
            Some(priority) if priority > unit.priority => until = state.since + self.rate_limit,
            Some(_) => until = until.min(now + TICK),
            None => {}
        }
        // Where others wait, if on other processors, it is not to run for long once it is in debt.
        if self.queued > 0 && unit.credit >= 0 {
            until = until.min(now + credit.max(self.rate_limit));
        } else if self.queued > 0 {
            until = until.min(self.settled + PERIOD);
        }
        if self.cap(unit.domain) != 0 {
            until = until.min(now + credit);
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
}

impl<T: Clone> Scheduler<T> for Credit<T> {
    fn id(&self) -> u32 {
        XEN_SCHEDULER_CREDIT
    }

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
            soft: u64::MAX,
            liked: u64::MAX,
            cpu: 0,
            // It is not to be in debt before credit was handed out once.
            credit: TICK as i64,
            priority: Priority::Under,
            boost: 0,
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

    fn remove(&mut self, id: UnitId) -> u64 {
        self.dequeue(id);
        let Some(unit) = self.units.get_mut(id.0 as usize).and_then(Option::take) else {
            return 0;
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
        0
    }

    fn wake(&mut self, id: UnitId, now: u64) -> Option<u32> {
        let unit = self.unit(id)?;
        if unit.awake {
            return None;
        }
        let (place, parked) = (unit.place, unit.parked);
        let cpu = match place {
            Place::Out if unit.credit >= 0 => self.place_boosted(unit, now),
            Place::Out => self.place(unit),
            _ => unit.cpu,
        };
        let unit = self.unit_mut(id)?;
        unit.awake = true;
        unit.active = true;
        if place != Place::Out {
            return None;
        }
        unit.cpu = cpu;
        if unit.credit >= 0 {
            unit.priority = Priority::Boost;
            unit.boost = TICK;
        } else {
            unit.priority = Priority::Over;
        }
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
        let Some(cpu) = self.cpus.get_mut(cpu as usize) else {
            return;
        };
        cpu.yielded = true;
        if let Some(id) = cpu.running
            && let Some(unit) = self.unit_mut(id)
        {
            // Whoever lets others go first is in no hurry.
            unit.boost = 0;
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
                ask |= self.requeue(id).map_or(0, |cpu| 1 << cpu);
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

    fn set_affinity(&mut self, id: UnitId, cpus: u64) -> u64 {
        let Some(unit) = self.unit_mut(id) else {
            return 0;
        };
        unit.affinity = cpus;
        unit.prefer();
        let cpu = unit.cpu;
        match unit.place {
            Place::Running if cpus >> cpu & 1 == 0 => 1 << cpu,
            Place::Queued => {
                self.dequeue(id);
                let moved = self.requeue(id);
                moved.map_or_else(|| self.helper(cpu), |cpu| 1 << cpu)
            }
            Place::Running | Place::Out => 0,
        }
    }

    fn affinity(&self, id: UnitId) -> u64 {
        self.unit(id).map_or(0, |unit| unit.affinity & self.all())
    }

    fn set_soft_affinity(&mut self, id: UnitId, cpus: u64) {
        if let Some(unit) = self.unit_mut(id) {
            unit.soft = cpus;
            unit.prefer();
        }
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

#[cfg(test)]
mod promises;
#[cfg(test)]
mod tests;
