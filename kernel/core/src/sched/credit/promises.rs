//! What the credit scheduler promises, in numbers, from one processor to 64 and up to a thousand units.

use std::vec::Vec;

use crate::sched::simulation::{HOG, Habit, MS, SECOND, Simulation, assert_near};

/// Wakes a thousand times a second and runs for 10 us.
const WAKER: Habit = Habit {
    burst: 10_000,
    wait: MS - 10_000,
    yields: false,
};

/// Processors and how many domains are on them, each of which could use all: up to a thousand units.
const MACHINES: [(u32, u16); 7] = [(1, 2), (1, 9), (2, 4), (4, 7), (8, 12), (32, 12), (64, 15)];

#[test]
fn domains_get_time_by_weight_within_three_percent_in_ten_seconds() {
    for (cpus, domains) in MACHINES {
        let mut machine = Simulation::new(cpus);
        let weight = |domain: u16| [256, 512, 128, 1024][usize::from(domain % 4)];
        for domain in 0..domains {
            machine.add_some(domain, HOG, cpus as usize);
            machine.share(domain, weight(domain), 0);
        }
        machine.run(SECOND);
        let before: Vec<u64> = (0..domains).map(|domain| machine.ran(domain)).collect();
        machine.run(10 * SECOND);
        let all: u64 = (0..domains).map(|domain| u64::from(weight(domain))).sum();
        for domain in 0..domains {
            let due = u64::from(cpus) * 10 * SECOND * u64::from(weight(domain)) / all;
            let got = machine.ran(domain) - before[usize::from(domain)];
            assert_near(got, due, 3);
        }
    }
}

#[test]
fn a_domain_that_cannot_use_its_share_leaves_it_to_the_others_by_weight() {
    for cpus in [2, 8, 64] {
        let mut machine = Simulation::new(cpus);
        machine.add(1, HOG);
        machine.share(1, 60_000, 0);
        machine.add_some(2, HOG, cpus as usize);
        machine.add_some(3, HOG, cpus as usize);
        machine.share(3, 512, 0);
        machine.run(10 * SECOND);
        let rest = u64::from(cpus - 1) * 10 * SECOND;
        assert_near(machine.ran(1), 10 * SECOND, 3);
        assert_near(machine.ran(2), rest / 3, 3);
        assert_near(machine.ran(3), rest * 2 / 3, 3);
    }
}

#[test]
fn caps_are_kept_within_two_points() {
    for (cpus, others) in [(1, 0), (1, 3), (2, 0), (2, 5), (8, 20), (64, 0), (64, 200)] {
        for cap in [5, 25, 50, 75] {
            let mut machine = Simulation::new(cpus);
            machine.add(1, HOG);
            // All that it may have is its due.
            machine.share(1, 20_000, cap);
            machine.add_some(2, HOG, others);
            machine.run(10 * SECOND);
            let points = machine.ran(1) / (SECOND / 10);
            assert!(
                points.abs_diff(cap.into()) <= 2,
                "{points} instead of {cap} on {cpus} CPUs beside {others}"
            );
        }
    }
}

#[test]
fn a_cap_of_several_processors_holds_for_all_units_together() {
    for (cpus, units, cap) in [(4, 4, 150), (8, 3, 250), (64, 64, 4000)] {
        let mut machine = Simulation::new(cpus);
        machine.add_some(1, HOG, units);
        machine.share(1, 256, cap);
        machine.run(10 * SECOND);
        let points = machine.ran(1) / (SECOND / 10);
        let tolerance = 2 * u64::from(cap).div_ceil(100);
        assert!(
            points.abs_diff(cap.into()) <= tolerance,
            "{points} instead of {cap}"
        );
    }
}

fn percentile(mut latencies: Vec<u64>, percent: usize) -> u64 {
    latencies.sort_unstable();
    latencies[latencies.len() * percent / 100]
}

#[test]
fn one_that_wakes_a_thousand_times_a_second_runs_within_two_milliseconds() {
    for (cpus, spinners) in [(1, 4), (2, 8), (4, 16), (64, 256), (64, 998)] {
        let mut machine = Simulation::new(cpus);
        for domain in 0..spinners {
            machine.add(domain, HOG);
        }
        machine.run(SECOND / 10);
        machine.add(5000, WAKER);
        machine.run(5 * SECOND);
        let waker = machine.loads.last().unwrap();
        assert!(waker.latencies.len() > 2000, "{}", waker.latencies.len());
        let latency = percentile(waker.latencies.clone(), 99);
        assert!(latency < 2 * MS, "{latency} ns on {cpus} CPUs");
    }
}

#[test]
fn pinned_spinners_share_their_processor_by_weight() {
    for cpus in [1, 2, 64] {
        let mut machine = Simulation::new(cpus);
        for domain in [1, 2] {
            let id = machine.add(domain, HOG);
            machine.pin(id, 1);
        }
        machine.share(2, 512, 0);
        machine.run(10 * SECOND);
        assert_near(machine.ran(1), 10 * SECOND / 3, 3);
        assert_near(machine.ran(2), 20 * SECOND / 3, 3);
    }
}

#[test]
fn nobody_starves() {
    for (cpus, domains, units) in [(1, 3, 4), (4, 3, 4), (2, 4, 4), (16, 30, 8)] {
        let mut machine = Simulation::new(cpus);
        for domain in 0..domains {
            machine.add_some(domain, HOG, units / 2);
            for unit in 0..units as u64 / 2 {
                machine.add(
                    domain,
                    Habit {
                        burst: (3 + unit) * MS,
                        wait: MS / 2,
                        yields: false,
                    },
                );
            }
        }
        machine.run(10 * SECOND);
        let share = u64::from(cpus) * 10 * SECOND / machine.loads.len() as u64;
        for load in &machine.loads {
            let worst = load.latencies.iter().max().unwrap();
            assert!(load.ran > share / 2, "{} of {share} ns", load.ran);
            // A slice of each of the others that run on as many processors, and as much again.
            let turn = 30 * MS * machine.loads.len() as u64 / u64::from(cpus);
            assert!(*worst < 2 * turn, "{worst} ns");
        }
    }
}

#[test]
fn those_that_yield_all_the_time_get_their_share_and_let_others_wait_for_nothing() {
    for cpus in [1, 2, 4] {
        let mut machine = Simulation::new(cpus);
        let yielder = Habit {
            burst: MS / 5,
            wait: 0,
            yields: true,
        };
        for domain in 1..4 {
            machine.add_some(domain, yielder, 4);
        }
        machine.add(9, WAKER);
        machine.run(5 * SECOND);
        for domain in 1..4 {
            let due = u64::from(cpus) * 5 * SECOND / 3;
            // To yield is to give time away.
            assert_near(machine.ran(domain), due, 10);
        }
        let latency = percentile(machine.loads.last().unwrap().latencies.clone(), 99);
        assert!(latency < 2 * MS, "{latency} ns");
    }
}

#[test]
fn a_unit_is_where_it_likes_to_be_as_long_as_there_is_room() {
    let mut machine = Simulation::new(4);
    for domain in 0..2 {
        let id = machine.add(
            domain,
            Habit {
                burst: 3 * MS,
                wait: MS,
                yields: false,
            },
        );
        machine.prefer(id, 0b1100);
    }
    machine.run(SECOND / 10);
    for _ in 0..500 {
        machine.run(MS);
        assert_eq!([machine.cpus[0].0, machine.cpus[1].0], [None; 2]);
    }
    // More than the two that they like: the others are not left idle.
    for domain in 2..4 {
        let id = machine.add(domain, HOG);
        machine.prefer(id, 0b1100);
    }
    machine.run(SECOND);
}
