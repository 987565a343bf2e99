//! The null scheduler: each unit has a processor for itself, for as long as it lives. One that finds none waits until
//! another goes. So nothing is decided while guests run, and no timer is set.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hypercall_abi::domctl::XEN_SCHEDULER_NULL;
use hypercall_abi::types::Domid;

use super::{Decision, Parameters, Scheduler, UnitId};
use crate::Vcpu;

struct Unit<T> {
    payload: T,
    affinity: u64,
    soft: u64,
    cpu: Option<usize>,
    awake: bool,
}

/// The null scheduler's state; `T` is what it schedules.
pub struct Null<T = Arc<Vcpu>> {
    units: Vec<Option<Unit<T>>>,
    free: Vec<UnitId>,
    /// By processor: whose it is.
    cpus: Vec<Option<UnitId>>,
    /// Units without a processor, the first first.
    waiting: VecDeque<UnitId>,
}

impl<T: Clone> Null<T> {
    /// A scheduler for `cpus` CPUs (at most 64) without units.
    pub fn new(cpus: u32) -> Self {
        Self {
            units: Vec::new(),
            free: Vec::new(),
            cpus: (0..cpus.clamp(1, 64)).map(|_| None).collect(),
            waiting: VecDeque::new(),
        }
    }

    fn unit_mut(&mut self, id: UnitId) -> Option<&mut Unit<T>> {
        self.units.get_mut(id.0 as usize)?.as_mut()
    }

    fn unit(&self, id: UnitId) -> Option<&Unit<T>> {
        self.units.get(id.0 as usize)?.as_ref()
    }

    /// Gives a unit a free processor that it may use, rather one that it had better use; returns that.
    fn assign(&mut self, id: UnitId) -> Option<usize> {
        let unit = self.unit(id)?;
        let free_of = |cpus: u64| {
            let mut all = self.cpus.iter().enumerate();
            all.find_map(|(cpu, owner)| (owner.is_none() && cpus >> cpu & 1 != 0).then_some(cpu))
        };
        let cpu = free_of(unit.affinity & unit.soft).or_else(|| free_of(unit.affinity))?;
        self.cpus[cpu] = Some(id);
        self.unit_mut(id)?.cpu = Some(cpu);
        Some(cpu)
    }

    /// Takes a unit's processor, or its place among those that wait; the processor goes to the first of these that
    /// may use it.
    fn release(&mut self, id: UnitId) -> Option<usize> {
        self.waiting.retain(|&waiting| waiting != id);
        let cpu = self.unit_mut(id)?.cpu.take()?;
        self.cpus[cpu] = None;
        let allowed = |id: &UnitId| {
            self.unit(*id)
                .is_some_and(|unit| unit.affinity >> cpu & 1 != 0)
        };
        if let Some(next) = self.waiting.iter().position(allowed)
            && let Some(next) = self.waiting.remove(next)
        {
            self.cpus[cpu] = Some(next);
            if let Some(unit) = self.unit_mut(next) {
                unit.cpu = Some(cpu);
            }
        }
        Some(cpu)
    }
}

impl<T: Clone> Scheduler<T> for Null<T> {
    fn id(&self) -> u32 {
        XEN_SCHEDULER_NULL
    }

    fn insert(&mut self, _domain: Domid, payload: T) -> UnitId {
        let unit = Some(Unit {
            payload,
            affinity: u64::MAX,
            soft: u64::MAX,
            cpu: None,
            awake: false,
        });
        let id = match self.free.pop() {
            Some(id) => {
                self.units[id.0 as usize] = unit;
                id
            }
            None => {
                self.units.push(unit);
                UnitId(self.units.len() as u32 - 1)
            }
        };
        if self.assign(id).is_none() {
            self.waiting.push_back(id);
        }
        id
    }

    fn remove(&mut self, id: UnitId) -> u64 {
        let cpu = self.release(id);
        if self
            .units
            .get_mut(id.0 as usize)
            .and_then(Option::take)
            .is_some()
        {
            self.free.push(id);
        }
        cpu.map_or(0, |cpu| 1 << cpu)
    }

    fn wake(&mut self, id: UnitId, _now: u64) -> Option<u32> {
        let unit = self.unit_mut(id)?;
        let slept = !core::mem::replace(&mut unit.awake, true);
        unit.cpu.filter(|_| slept).map(|cpu| cpu as u32)
    }

    fn sleep(&mut self, id: UnitId) -> Option<u32> {
        let unit = self.unit_mut(id)?;
        unit.awake = false;
        unit.cpu.map(|cpu| cpu as u32)
    }

    fn yield_now(&mut self, _cpu: u32) {}

    fn pick(&mut self, cpu: u32, _now: u64) -> Decision<T> {
        let owner = self.cpus.get(cpu as usize).copied().flatten();
        let unit = owner.and_then(|id| self.unit(id));
        Decision {
            next: unit
                .filter(|unit| unit.awake)
                .map(|unit| unit.payload.clone()),
            until: u64::MAX,
            ask: 0,
        }
    }

    fn set_affinity(&mut self, id: UnitId, cpus: u64) -> u64 {
        let Some(unit) = self.unit_mut(id) else {
            return 0;
        };
        unit.affinity = cpus;
        if unit.cpu.is_some_and(|cpu| cpus >> cpu & 1 != 0) {
            return 0;
        }
        let left = self.release(id);
        let got = self.assign(id);
        if got.is_none() {
            self.waiting.push_back(id);
        }
        let cpus = [left, got].into_iter().flatten();
        cpus.fold(0, |cpus, cpu| cpus | 1 << cpu)
    }

    fn affinity(&self, id: UnitId) -> u64 {
        let all = u64::MAX >> (64 - self.cpus.len());
        self.unit(id).map_or(0, |unit| unit.affinity & all)
    }

    fn set_soft_affinity(&mut self, id: UnitId, cpus: u64) {
        if let Some(unit) = self.unit_mut(id) {
            unit.soft = cpus;
        }
    }

    fn parameters(&self, _domain: Domid) -> Option<Parameters> {
        None
    }

    fn set_parameters(&mut self, _domain: Domid, _parameters: Parameters) {}

    fn slice(&self) -> (u64, u64) {
        (0, 0)
    }

    fn set_slice(&mut self, _slice: u64, _rate_limit: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::sched::simulation::{HOG, Habit, MS, SECOND, Simulation};

    #[test]
    fn each_unit_has_a_processor_for_itself() {
        let mut machine = Simulation::partitioned(Null::new(4), 4);
        for domain in 0..3 {
            machine.add(domain, HOG);
        }
        machine.add(
            3,
            Habit {
                burst: MS,
                wait: MS,
                yields: false,
            },
        );
        machine.run(SECOND);
        for domain in 0..3 {
            assert_eq!(machine.ran(domain), SECOND);
        }
        assert_eq!(machine.ran(3), SECOND / 2);
        assert!(
            machine.loads[3]
                .latencies
                .iter()
                .all(|&latency| latency == 0)
        );
    }

    #[test]
    fn one_more_waits_until_another_goes() {
        let mut null = Null::<u32>::new(2);
        let ids = [1, 2, 3].map(|payload| null.insert(Domid(payload as u16), payload));
        for (id, cpu) in ids.into_iter().zip([Some(0), Some(1), None]) {
            assert_eq!(null.wake(id, 0), cpu);
        }
        assert_eq!(null.pick(0, 5).next, Some(1));
        assert_eq!(null.pick(1, 5).next, Some(2));
        assert_eq!(null.remove(ids[0]), 0b01);
        let decision = null.pick(0, 6);
        assert_eq!((decision.next, decision.until), (Some(3), u64::MAX));
    }

    #[test]
    fn a_unit_is_on_a_processor_that_it_may_use() {
        let mut null = Null::<u32>::new(3);
        let a = null.insert(Domid(1), 1);
        let b = null.insert(Domid(2), 2);
        assert_eq!((null.wake(a, 0), null.wake(b, 0)), (Some(0), Some(1)));
        assert_eq!(null.set_affinity(a, 0b100), 0b101);
        assert_eq!(null.pick(0, 0).next, None);
        assert_eq!(null.pick(2, 0).next, Some(1));
        assert_eq!(null.affinity(a), 0b100);
        // It waits for the other's processor.
        assert_eq!(null.set_affinity(b, 0b100), 0b010);
        assert_eq!(null.pick(1, 0).next, None);
        assert_eq!(null.set_affinity(a, 0b001), 0b101);
        assert_eq!(null.pick(2, 0).next, Some(2));
        assert_eq!(null.sleep(b), Some(2));
        assert_eq!(null.pick(2, 0).next, None);
    }
}
