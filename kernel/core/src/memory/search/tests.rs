//! The search itself, and what it found.

use alloc::boxed::Box;
use alloc::sync::Arc;
use std::panic;
use std::string::String;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::vec::Vec;
use std::{env, format, println, thread, vec};

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
    let sequences: Vec<u64> = match env::var("SEARCH_SEQUENCES") {
        Ok(list) => list
            .split(',')
            .map(|number| number.parse().expect("a number"))
            .collect(),
        Err(_) => (0..steps.div_ceil(SEQUENCE)).collect(),
    };
    let next = AtomicUsize::new(0);
    let search = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let number = *sequences.get(at)?;
            let mut dice = Dice::Seed(seed.wrapping_add(number) << 32);
            let steps: Vec<_> = (0..SEQUENCE).map(|_| dice.step()).collect();
            if let Err((done, _)) = attempt_as(number, &steps) {
                next.store(sequences.len(), Ordering::Relaxed);
                let tried = at as u64 * SEQUENCE + done as u64;
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
    let threads = match number_from("RUST_TEST_THREADS") {
        Some(threads) => threads as usize,
        None => thread::available_parallelism().map_or(1, usize::from),
    };
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

/// Name of the threads that search, with the number of a sequence behind it where they carry one out.
const NAME: &str = "search";

/// Carries out a sequence on a thread that has its number in its name.
fn attempt_as(number: u64, steps: &[Step]) -> Result<(), (usize, String)> {
    let name = format!("{NAME} {number}");
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name);
        let thread = thread.spawn_scoped(scope, || attempt(&mut steps.iter().cloned()));
        thread.expect("a thread").join().expect("an answer")
    })
}

/// Works without a word, and a backtrace, of the panics of threads that search: to shrink a sequence takes hundreds.
fn quietly<R>(work: impl FnOnce() -> R) -> R {
    let loud = Arc::new(panic::take_hook());
    let hook = loud.clone();
    panic::set_hook(Box::new(move |info| {
        let searches = |name: &str| name.starts_with(NAME);
        if !thread::current().name().is_some_and(searches) {
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
