//! Which processor a unit runs on: where it is put when it wakes, who takes it from there, and how what all are due is
//! spread.

use super::Credit;
use super::unit::{PRIORITIES, Place, Priority, Unit};
use crate::sched::UnitId;

impl<T: Clone> Credit<T> {
    fn is_idle(&self, cpu: usize) -> bool {
        self.cpus
            .get(cpu)
            .is_some_and(|cpu| cpu.running.is_none() && cpu.waiting().is_none())
    }

    /// Where a unit that wakes is to wait: a processor that has nothing to do, one that it likes first; else its own.
    pub(super) fn place(&self, unit: &Unit<T>) -> usize {
        let idle_among = |cpus: u64| {
            let allowed = |cpu: &usize| cpus >> cpu & 1 != 0 && self.is_idle(*cpu);
            let mut all = 0..self.cpus.len();
            Some(unit.cpu).filter(allowed).or_else(|| all.find(allowed))
        };
        let any = || {
            let mut all = 0..self.cpus.len();
            all.find(|cpu| unit.affinity >> cpu & 1 != 0)
        };
        idle_among(unit.liked)
            .or_else(|| idle_among(unit.affinity))
            .or_else(|| (unit.affinity >> unit.cpu & 1 == 0).then(any).flatten())
            .unwrap_or(unit.cpu)
    }

    /// The same for one that wakes boosted: where all are busy, rather a processor that it likes and can have at once
    /// than its own, where it would wait for the end of the rate limit.
    pub(super) fn place_boosted(&self, unit: &Unit<T>, now: u64) -> usize {
        let own = self.place(unit);
        let at_once = |&cpu: &usize| {
            let state = &self.cpus[cpu];
            let running = state.running.and_then(|id| self.unit(id));
            state.waiting() < Some(Priority::Boost)
                && running.is_none_or(|running| {
                    running.priority < Priority::Boost && !self.is_rate_limited(state, now)
                })
        };
        let mut others = (0..self.cpus.len()).filter(|cpu| unit.liked >> cpu & 1 != 0);
        let found = Some(own).filter(at_once).or_else(|| others.find(at_once));
        found.unwrap_or(own)
    }

    /// The first unit in `cpu`'s queues of at least priority `least` that may run on the processor `on`, and, where
    /// `liking`, likes it.
    fn find(&self, cpu: usize, least: Priority, on: usize, liking: bool) -> Option<UnitId> {
        let queues = &self.cpus.get(cpu)?.queues;
        PRIORITIES
            .into_iter()
            .filter(|&priority| priority >= least)
            .find_map(|priority| {
                let mut queue = queues[priority as usize].iter();
                queue.find(|&&id| {
                    self.unit(id).is_some_and(|unit| {
                        let cpus = if liking { unit.liked } else { unit.affinity };
                        cpus >> on & 1 != 0
                    })
                })
            })
            .copied()
    }

    /// The first unit that waits for another processor than `cpu`, is of at least priority `least`, and may run here;
    /// rather one that likes this processor.
    fn steal(&self, cpu: usize, least: Priority) -> Option<UnitId> {
        let len = self.cpus.len();
        let mut others = (1..len).map(|i| (cpu + i) % len);
        let mut again = others.clone();
        let liking = others.find_map(|other| self.find(other, least, cpu, true));
        liking.or_else(|| again.find_map(|other| self.find(other, least, cpu, false)))
    }

    /// Takes the unit that is to run on `cpu` out of the queues.
    pub(super) fn take_next(&mut self, cpu: usize) -> Option<UnitId> {
        let own = self.find(cpu, Priority::Over, cpu, false);
        let own_priority = own.and_then(|id| self.unit(id)).map(|unit| unit.priority);
        let chosen = match own_priority {
            Some(Priority::Boost | Priority::Under) => own,
            _ if self.queued == 0 => None,
            Some(Priority::Over) => self.steal(cpu, Priority::Under).or(own),
            None => {
                let stolen = self.steal(cpu, Priority::Under);
                stolen.or_else(|| self.steal(cpu, Priority::Over))
            }
        }?;
        self.dequeue(chosen);
        Some(chosen)
    }

    /// Moves units that wait so that what all are due is spread over the processors; returns those that got any.
    pub(super) fn even_out(&mut self) -> u64 {
        if self.cpus.len() == 1 || self.queued == 0 {
            return 0;
        }
        let due = |unit: &Unit<T>| unit.credit.max(0);
        let mut loads = [0; 64];
        for unit in self.units.iter().flatten() {
            if unit.place != Place::Out {
                loads[unit.cpu] += due(unit);
            }
        }
        let mut moved = 0;
        for index in 0..self.units.len() {
            let id = UnitId(index as u32);
            let Some(unit) = self.unit(id).filter(|unit| unit.place == Place::Queued) else {
                continue;
            };
            let (from, due) = (unit.cpu, due(unit));
            let allowed = (0..self.cpus.len()).filter(|&cpu| unit.liked >> cpu & 1 != 0);
            let Some(to) = allowed.min_by_key(|&cpu| loads[cpu]) else {
                continue;
            };
            if due == 0 || loads[to] + due >= loads[from] {
                continue;
            }
            loads[from] -= due;
            loads[to] += due;
            self.dequeue(id);
            if let Some(unit) = self.unit_mut(id) {
                unit.cpu = to;
            }
            self.enqueue(id);
            moved |= 1 << to;
        }
        moved
    }

    /// A processor that has nothing to do and may run a unit that waits on `cpu`.
    pub(super) fn helper(&self, cpu: usize) -> u64 {
        (0..self.cpus.len())
            .find(|&other| {
                self.is_idle(other) && self.find(cpu, Priority::Over, other, false).is_some()
            })
            .map_or(0, |other| 1 << other)
    }

    /// Queues a unit on its processor, or on one where it may run; returns the latter.
    pub(super) fn requeue(&mut self, id: UnitId) -> Option<usize> {
        let unit = self.unit(id)?;
        let moves = unit.affinity >> unit.cpu & 1 == 0;
        let cpu = if moves { self.place(unit) } else { unit.cpu };
        self.unit_mut(id)?.cpu = cpu;
        self.enqueue(id);
        moves.then_some(cpu)
    }
}
