//! The kernel: rounds of processes, on all vCPUs.

mod process;
mod program;

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;

use pv_guest::power::{Reason, shutdown};
use pv_guest::user::Space;
use pv_guest::vcpus::{self, MAX_VCPUS};
use pv_guest::{boot, clock, memory, println, yield_now};

use program::CHILDREN;

pv_guest::entry!(main);

/// How often a vCPU takes its process off for another.
const SLICE: Duration = Duration::from_millis(1);

/// How long what processes had may take to be free again.
const LIMIT: Duration = Duration::from_secs(10);

/// Rounds, unless they go on for ever.
const ROUNDS: u32 = 2;

/// What the heap takes at a time, and never gives back.
const HEAP_STEP: usize = 64 * 4096;

/// By vCPU: how often it ran a process in this round.
static RUNS: [AtomicU32; MAX_VCPUS] = [const { AtomicU32::new(0) }; MAX_VCPUS];

async fn main() {
    let vcpus = vcpus::count();
    println!("forks: {CHILDREN} processes, vCPUs: {vcpus}");
    for id in 1..vcpus {
        if let Err(error) = vcpus::start(id, serve) {
            fail(format_args!("vCPU {id} does not start: {error}"));
        }
    }
    pv_guest::spawn(tick()).detach();
    let forever = boot::command_line()
        .split(' ')
        .any(|word| word == "forever");
    let mut free_after_first = 0;
    let mut number = 1;
    while forever || number <= ROUNDS {
        round(number, vcpus).await;
        if number == 1 {
            free_after_first = memory::free_bytes();
        }
        number += 1;
    }
    let lost = free_after_first.saturating_sub(memory::free_bytes());
    if lost > HEAP_STEP {
        fail(format_args!("{lost} bytes were not given back"));
    }
    println!("forks: {CHILDREN} processes, all contents right");
}

/// Says what went wrong, and crashes the domain.
fn fail(what: core::fmt::Arguments<'_>) -> ! {
    println!("forks: {what}");
    shutdown(Reason::Crash)
}

/// Forks all processes, and takes part in running them until they are done.
async fn round(number: u32, vcpus: u32) {
    if let Err(error) = process::start() {
        fail(format_args!("the first process does not start: {error}"));
    }
    let wrong = loop {
        process::work(true).await;
        if let Some(wrong) = process::result() {
            break wrong;
        }
        run_one();
        yield_now().await;
    };
    if wrong != 0 {
        fail(format_args!("wrong contents: {wrong}"));
    }
    // A vCPU that ran a process last has its tables until it is idle.
    let deadline = clock::now() + LIMIT.as_nanos() as u64;
    while Space::count() != 0 {
        if clock::now() > deadline {
            fail(format_args!("{} address spaces are left", Space::count()));
        }
        clock::sleep(SLICE).await;
    }
    let runs = RUNS.each_ref().map(|runs| runs.swap(0, Relaxed));
    println!(
        "forks: round {number}: vCPUs ran processes {:?} times",
        &runs[..vcpus as usize]
    );
}

/// Runs processes for ever.
async fn serve() {
    pv_guest::spawn(tick()).detach();
    loop {
        process::work(false).await;
        run_one();
        yield_now().await;
    }
}

fn run_one() {
    if process::run_one() {
        RUNS[vcpus::current() as usize].fetch_add(1, Relaxed);
    }
}

/// Makes events that end the time of a process.
async fn tick() {
    loop {
        clock::sleep(SLICE).await;
    }
}
