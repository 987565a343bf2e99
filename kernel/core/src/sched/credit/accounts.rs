//! Credit: how units pay for the time that they run, and how it is handed out again.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use hypercall_abi::types::Domid;

use super::claims::{self, Claim};
use super::unit::{Place, Priority};
use super::{Credit, MOST_CREDIT, MOST_DEBT, PERIOD, WEIGHT_SCALE, cap_of};
use crate::sched::{Parameters, UnitId};

impl<T: Clone> Credit<T> {
    /// Lets the unit that runs on `cpu` pay for its time up to `now`.
    pub(super) fn charge(&mut self, cpu: usize, now: u64) {
        let state = &mut self.cpus[cpu];
        let Some(id) = state.running else { return };
        let ran = now.saturating_sub(state.charged);
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
            .max(-(MOST_DEBT as i64));
        unit.active = true;
        unit.boost = unit.boost.saturating_sub(ran);
        if unit.credit < 0 {
            unit.priority = Priority::Over;
        } else if unit.boost == 0 {
            unit.priority = Priority::Under;
        }
        unit.parked = capped && unit.credit <= 0;
    }

    /// Hands out the time that the processors had since it was last done, and returns the
    /// processors that have work which they do not know of.
    pub(super) fn settle(&mut self, now: u64) -> u64 {
        for cpu in 0..self.cpus.len() {
            self.charge(cpu, now);
        }
        let elapsed = now.saturating_sub(self.settled).min(2 * PERIOD);
        self.settled = now;
        let all = self.all();
        let due = self.due(elapsed);
        let mut asked = 0;
        for index in 0..self.units.len() {
            let id = UnitId(index as u32);
            let Some(unit) = self.units.get_mut(index).and_then(Option::as_mut) else {
                continue;
            };
            if !unit.wants() {
                continue;
            }
            let claim = due.get(&(unit.domain, unit.affinity & all));
            let share = claim.map_or(0, |claim| claim.given / claim.units.max(1));
            unit.active = unit.awake;
            // Who waits for a processor does not hoard.
            let most = if unit.awake { MOST_CREDIT } else { PERIOD };
            unit.credit = unit.credit.saturating_add_unsigned(share).min(most as i64);
            let capped = cap_of(&self.domains, unit.domain) != 0;
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
                    self.place_again(id, priority, parked);
                    let cpu = self.unit(id).map_or(0, |unit| unit.cpu);
                    asked |= 1 << cpu | self.helper(cpu);
                }
                _ => {
                    unit.priority = priority;
                    unit.parked = parked;
                }
            }
        }
        asked | self.even_out()
    }

    /// What each domain's units are due of the last `elapsed` nanoseconds, by the processors that they may use.
    fn due(&self, elapsed: u64) -> BTreeMap<(Domid, u64), Claim> {
        let all = self.all();
        let mut active = BTreeMap::<Domid, u64>::new();
        let mut claims = BTreeMap::<(Domid, u64), Claim>::new();
        for unit in self.units.iter().flatten().filter(|unit| unit.wants()) {
            let cpus = unit.affinity & all;
            *active.entry(unit.domain).or_default() += 1;
            let claim = claims.entry((unit.domain, cpus));
            claim.or_insert(Claim::new(unit.domain, cpus)).units += 1;
        }
        let mut list: Vec<Claim> = claims.values().copied().collect();
        for claim in &mut list {
            let share = self.domains.get(&claim.domain);
            let Parameters { weight, cap } =
                share.map(|share| share.parameters).unwrap_or_default();
            let units = active.get(&claim.domain).copied().unwrap_or(1);
            // A domain's weight and cap are its active units' in equal parts.
            claim.weight = u64::from(weight) * WEIGHT_SCALE * claim.units / units;
            claim.most = claim.units * elapsed;
            if cap != 0 {
                claim.most = claim
                    .most
                    .min(u64::from(cap) * elapsed / 100 * claim.units / units);
            }
        }
        claims::share_out(elapsed, all, &mut list);
        let list = list.into_iter();
        list.map(|claim| ((claim.domain, claim.cpus), claim))
            .collect()
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
}
