//! What the credit scheduler does, on simulated processors.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::sched::simulation::{HOG, Habit, MS, SECOND, Simulation, assert_near};

#[test]
fn equal_domains_get_equal_time() {
    for domains in 2..6 {
        let mut machine = Simulation::new(1);
        for domain in 0..domains {
            machine.add(domain, HOG);
        }
        machine.run(20 * SECOND);
        for domain in 0..domains {
            assert_near(machine.ran(domain), 20 * SECOND / u64::from(domains), 3);
        }
    }
}

#[test]
fn time_follows_weight() {
    let mut machine = Simulation::new(1);
    machine.add(1, HOG);
    machine.add(2, HOG);
    machine.add(3, HOG);
    machine.share(1, 512, 0);
    machine.share(3, 128, 0);
    machine.run(70 * SECOND);
    assert_near(machine.ran(1), 40 * SECOND, 4);
    assert_near(machine.ran(2), 20 * SECOND, 4);
    assert_near(machine.ran(3), 10 * SECOND, 6);
}

#[test]
fn weight_counts_for_the_domain_however_many_vcpus_it_has() {
    let mut machine = Simulation::new(1);
    machine.add(1, HOG);
    for _ in 0..3 {
        machine.add(2, HOG);
    }
    machine.run(30 * SECOND);
    assert_near(machine.ran(1), 15 * SECOND, 5);
    assert_near(machine.ran(2), 15 * SECOND, 5);
}

#[test]
fn several_processors_are_shared_fairly_and_kept_busy() {
    for cpus in 2..5 {
        let mut machine = Simulation::new(cpus);
        let domains = cpus as u16 + 1;
        for domain in 0..domains {
            machine.add(domain, HOG);
        }
        machine.run(30 * SECOND);
        let total: u64 = (0..domains).map(|domain| machine.ran(domain)).sum();
        assert_near(total, u64::from(cpus) * 30 * SECOND, 1);
        for domain in 0..domains {
            assert_near(machine.ran(domain), total / u64::from(domains), 12);
        }
    }
}

#[test]
fn as_many_hogs_as_processors_do_not_disturb_each_other() {
    let mut machine = Simulation::new(4);
    for domain in 0..4 {
        machine.add(domain, HOG);
    }
    machine.run(10 * SECOND);
    for domain in 0..4 {
        assert_near(machine.ran(domain), 10 * SECOND, 1);
    }
}

#[test]
fn a_cap_holds_even_on_an_idle_machine() {
    for cap in [10, 50, 90] {
        let mut machine = Simulation::new(2);
        machine.add(1, HOG);
        machine.share(1, 256, cap);
        machine.run(20 * SECOND);
        assert_near(machine.ran(1), 20 * SECOND * u64::from(cap) / 100, 5);
    }
}

#[test]
fn what_a_capped_domain_leaves_goes_to_the_others() {
    let mut machine = Simulation::new(1);
    machine.add(1, HOG);
    machine.add(2, HOG);
    machine.share(1, 256, 20);
    machine.run(20 * SECOND);
    assert_near(machine.ran(1), 4 * SECOND, 6);
    assert_near(machine.ran(2), 16 * SECOND, 4);
}

#[test]
fn lifting_a_cap_sets_a_parked_unit_free() {
    let mut machine = Simulation::new(1);
    machine.add(1, HOG);
    machine.share(1, 256, 1);
    machine.run(SECOND);
    machine.share(1, 256, 0);
    let before = machine.ran(1);
    machine.run(SECOND);
    assert_near(machine.ran(1) - before, SECOND, 4);
}

#[test]
fn one_that_mostly_waits_is_served_at_once() {
    let mut machine = Simulation::new(1);
    for domain in 1..5 {
        machine.add(domain, HOG);
    }
    machine.run(SECOND);
    machine.add(
        9,
        Habit {
            burst: MS / 5,
            wait: 7 * MS,
            yields: false,
        },
    );
    machine.run(10 * SECOND);
    let load = machine.loads.last().unwrap();
    let worst = load.latencies.iter().max().unwrap();
    assert!(*worst <= RATE_LIMIT, "waited {worst} ns");
    assert!(load.ran > 250 * MS);
}

#[test]
fn waking_often_gains_nothing_for_a_domain_in_debt() {
    let mut machine = Simulation::new(1);
    machine.add(1, HOG);
    machine.add(
        2,
        Habit {
            burst: 9 * MS,
            wait: MS / 10,
            yields: false,
        },
    );
    machine.run(20 * SECOND);
    assert_near(machine.ran(1), 10 * SECOND, 8);
}

#[test]
fn one_that_yields_lets_the_others_run() {
    let mut credit = Credit::<usize>::new(1);
    let a = credit.insert(Domid(1), 1);
    let b = credit.insert(Domid(2), 2);
    let _ = credit.wake(a, 0);
    let _ = credit.wake(b, 0);
    let first = credit.pick(0, 0).next.unwrap();
    credit.yield_now(0);
    let second = credit.pick(0, 10).next.unwrap();
    assert_ne!(first, second);
    // In debt, the one that yields still does not come before the other in the next turn.
    credit.yield_now(0);
    assert_eq!(credit.pick(0, 20).next, Some(first));
}

#[test]
fn a_yield_is_felt_even_by_a_lower_priority() {
    let mut credit = Credit::<usize>::new(1);
    let a = credit.insert(Domid(1), 1);
    let b = credit.insert(Domid(2), 2);
    let _ = credit.wake(b, 0);
    assert_eq!(credit.pick(0, 0).next, Some(2));
    let _ = credit.wake(a, 0);
    // b has run into debt, a is boosted.
    assert_eq!(credit.pick(0, 20 * MS).next, Some(1));
    credit.yield_now(0);
    assert_eq!(credit.pick(0, 20 * MS + 1).next, Some(2));
}

#[test]
fn a_unit_runs_only_where_its_affinity_allows() {
    let mut machine = Simulation::new(3);
    let pinned: Vec<_> = (0..3).map(|domain| machine.add(domain, HOG)).collect();
    for &id in &pinned {
        machine.pin(id, 0b010);
    }
    machine.step();
    let before: Vec<_> = (0..3).map(|domain| machine.ran(domain)).collect();
    machine.run(9 * SECOND);
    for domain in 0..3 {
        assert_near(machine.ran(domain) - before[domain as usize], 3 * SECOND, 5);
    }
    assert_eq!(machine.cpus[0].0, None);
    assert_eq!(machine.cpus[2].0, None);
    assert_eq!(machine.scheduler.affinity(pinned[0]), 0b010);
}

#[test]
fn a_removed_unit_never_runs_again_and_its_number_is_used_again() {
    let mut credit = Credit::<usize>::new(1);
    let a = credit.insert(Domid(1), 1);
    let _ = credit.wake(a, 0);
    assert_eq!(credit.pick(0, 0).next, Some(1));
    assert_eq!(credit.remove(a), 0);
    assert_eq!(credit.pick(0, 1).next, None);
    assert_eq!(credit.parameters(Domid(1)), None);
    assert_eq!(credit.insert(Domid(1), 7), a);
    assert_eq!(credit.pick(0, 2).next, None);
}

#[test]
fn an_idle_processor_is_asked_when_work_waits_elsewhere() {
    let mut credit = Credit::<usize>::new(2);
    let a = credit.insert(Domid(1), 1);
    let b = credit.insert(Domid(2), 2);
    let _ = credit.wake(a, 0);
    assert_eq!(credit.wake(b, 0), Some(1));
    assert_eq!(credit.pick(0, 0).next, Some(1));
    assert_eq!(credit.pick(1, 0).next, Some(2));
}

#[test]
fn who_wakes_boosted_takes_a_processor_that_it_may_have_at_once() {
    const US: u64 = MS / 1000;
    let mut credit = Credit::<usize>::new(2);
    let [a, b, c] = [1, 2, 3].map(|n| credit.insert(Domid(n), n.into()));
    for (unit, cpu) in [(a, 0), (b, 1)] {
        let _ = credit.wake(unit, 0);
        assert!(credit.pick(cpu, 0).next.is_some());
        assert!(
            credit.pick(cpu, 11 * MS).next.is_some(),
            "no longer boosted"
        );
    }
    assert_eq!(credit.wake(c, 11 * MS), Some(0));
    assert_eq!(credit.pick(0, 11 * MS).next, Some(3));
    let _ = credit.sleep(c);
    assert_eq!(credit.pick(0, 11_100 * US).next, Some(1));
    // There somebody has only begun to run.
    assert_eq!(credit.wake(c, 11_600 * US), Some(1));
    assert_eq!(credit.pick(1, 11_600 * US).next, Some(3));
    let _ = credit.sleep(c);
    assert_eq!(credit.pick(1, 11_700 * US).next, Some(2));
    // And so on both: it waits where it is, if not for the last few microseconds.
    assert_eq!(credit.wake(c, 11_800 * US), Some(1));
    let decision = credit.pick(1, 11_800 * US);
    assert_eq!((decision.next, decision.until), (Some(2), 12_700 * US));
    assert_eq!(credit.pick(1, 12_640 * US).next, Some(2));
    assert_eq!(credit.pick(1, 12_660 * US).next, Some(3));
}

#[test]
fn an_idle_machine_asks_for_no_timer() {
    let mut credit = Credit::<usize>::new(1);
    let a = credit.insert(Domid(1), 1);
    let _ = credit.wake(a, 0);
    assert!(credit.pick(0, 5).until <= 5 + SLICE);
    assert_eq!(credit.sleep(a), Some(0));
    assert_eq!(
        credit.pick(0, 6),
        Decision {
            next: None,
            until: u64::MAX,
            ask: 0
        }
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_processor_idles_while_a_unit_waits(
        cpus in 1_u32..5,
        habits in prop::collection::vec((1_u16..6, 1_u64..20_000, 0_u64..20_000, 0_u64..64), 1..9),
    ) {
        let mut machine = Simulation::new(cpus);
        for &(domain, burst, wait, allowed) in &habits {
            let id = machine.add(domain, Habit { burst: burst * 1000, wait: wait * 1000, yields: false });
            if allowed & ((1 << cpus) - 1) != 0 {
                machine.pin(id, allowed);
            }
        }
        machine.run(SECOND / 4);
    }

    #[test]
    fn any_order_of_calls_keeps_queues_and_units_in_step(
        steps in prop::collection::vec((0_u8..8, 0_u32..6, 0_u64..40), 1..300)
    ) {
        let mut credit = Credit::<u32>::new(3);
        let mut now = 0;
        let mut live = BTreeMap::new();
        for (what, n, time) in steps {
            now += time * MS;
            match what {
                0 => { live.entry(n).or_insert_with(|| credit.insert(Domid(n as u16 % 3), n)); }
                1 => if let Some(id) = live.remove(&n) { let _ = credit.remove(id); },
                2 => if let Some(&id) = live.get(&n) { let _ = credit.sleep(id); },
                3 => credit.yield_now(n % 3),
                4 => if let Some(&id) = live.get(&n) { let _ = credit.set_affinity(id, time | 1); },
                5 => credit.set_parameters(Domid(n as u16 % 3), Parameters { weight: 1 + time as u16, cap: time as u16 }),
                6 => if let Some(&id) = live.get(&n) { let _ = credit.wake(id, 0); },
                _ => { let _ = credit.pick(n % 3, now); }
            }
            for (&n, &id) in &live {
                let queued = credit.cpus.iter().enumerate().flat_map(|(cpu, state)| {
                    state.queues.iter().enumerate().flat_map(move |(priority, queue)| {
                        queue.iter().filter(move |&&queued| queued == id).map(move |_| (cpu, priority))
                    })
                });
                let queued: Vec<_> = queued.collect();
                let running = credit.cpus.iter().filter(|cpu| cpu.running == Some(id)).count();
                let unit = credit.unit(id).unwrap();
                prop_assert_eq!(unit.payload, n);
                let expected = if unit.place == Place::Queued {
                    vec![(unit.cpu, unit.priority as usize)]
                } else {
                    vec![]
                };
                prop_assert_eq!(queued, expected);
                prop_assert_eq!(running, usize::from(unit.place == Place::Running));
                if unit.awake && unit.place == Place::Out {
                    prop_assert!(unit.parked);
                }
            }
        }
    }
}
