//! The search itself, and what it found.

use alloc::boxed::Box;
use alloc::sync::Arc;
use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;
use std::{env, println, thread, vec};

use super::dice::Dice;
use super::{SEQUENCE, Step, attempt, shrink, try_choices};

/// Steps that a run of all tests tries.
const STEPS: u64 = 50_000;
/// Steps that continuous integration tries.
const CI_STEPS: u64 = 1_000_000;

/// Demands that a sequence, which once failed, does not.
fn replay(steps: &[Step]) {
    if let Err((done, wrong)) = attempt(&mut steps.iter().cloned()) {
        panic!("behind step {done} of {}: {wrong}", steps.len());
    }
}

fn number_from(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn no_sequence_of_hypercalls_breaks_isolation_or_a_count() {
    let steps = match env::var_os("CI") {
        Some(_) => CI_STEPS,
        None => STEPS,
    };
    let steps = number_from("SEARCH_STEPS").unwrap_or(steps);
    let seed = number_from("SEARCH_SEED").unwrap_or(0);
    let sequences = steps.div_ceil(SEQUENCE);
    let next = AtomicU64::new(0);
    let search = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= sequences {
                return None;
            }
            let mut dice = Dice::Seed(seed.wrapping_add(number) << 32);
            let steps: Vec<_> = (0..SEQUENCE).map(|_| dice.step()).collect();
            if let Err((done, _)) = attempt(&mut steps.iter().cloned()) {
                next.store(sequences, Ordering::Relaxed);
                let tried = number * SEQUENCE + done as u64;
                let steps = &steps[..done];
                let short = env::var_os("SEARCH_SHRINK").is_none_or(|it| it != "no");
                let steps = if short {
                    shrink::shrink(steps)
                } else {
                    steps.to_vec()
                };
                return Some((tried, steps));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let found = quietly(|| {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|_| {
                    thread::Builder::new()
                        .name(NAME.into())
                        .spawn_scoped(scope, search)
                })
                .collect();
            let found = threads
                .into_iter()
                .map(|thread| thread.expect("a thread").join());
            found.filter_map(|found| found.expect("an answer")).next()
        })
    });
    if let Some((tried, steps)) = found {
        let test = shrink::as_test(&steps);
        println!("after some {tried} steps:\n{test}");
        replay(&steps);
    }
}

/// Name of the threads that search.
const NAME: &str = "search";

/// Works without a word, and a backtrace, of the panics of threads that search: to shrink a sequence takes hundreds.
fn quietly<R>(work: impl FnOnce() -> R) -> R {
    let loud = Arc::new(panic::take_hook());
    let hook = loud.clone();
    panic::set_hook(Box::new(move |info| {
        if thread::current().name() != Some(NAME) {
            hook(info);
        }
    }));
    let result = work();
    panic::set_hook(Box::new(move |info| loud(info)));
    result
}

#[test]
fn a_fuzzers_choices_are_a_sequence_however_few_they_are() {
    for choices in [vec![], vec![0xff], (0..=255).collect::<Vec<u8>>()] {
        assert_eq!(try_choices(&choices), Ok(()));
    }
}
