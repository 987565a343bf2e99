//! The kernel: a worker on each vCPU, which does one thing after the other by chance.

mod hotplug;
mod interrupts;
mod meeting;
mod ring;
mod shared_page;
mod tables;
mod waits;

use core::fmt::Arguments;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU32, AtomicU64};
use core::time::Duration;

use hypercall_abi::vcpu::RUNSTATE_RUNNING;
use pv_guest::hypercall::vcpu;
use pv_guest::power::{Reason, shutdown};
use pv_guest::{boot, clock, println, vcpus};

pv_guest::entry!(main);

/// How long anything that another vCPU does may take, in nanoseconds: the host may have many more to run.
const LIMIT: u64 = 10_000_000_000;

/// When the workers are to end.
static END: AtomicU64 = AtomicU64::new(0);
/// Workers that have ended.
static ENDED: AtomicU32 = AtomicU32::new(0);
/// The latest time that any vCPU has seen.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// What was done, by kind.
struct Count(AtomicU64);

impl Count {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Random numbers, of each vCPU its own.
struct Dice(u64);

impl Dice {
    fn of(seed: u64, vcpu: u32) -> Self {
        Self((seed << 8 | u64::from(vcpu) | 1 << 63).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// From 0 to `below`, not included.
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

async fn main() {
    while boot::command_line().split(' ').any(|word| word == "spin") {
        core::hint::spin_loop();
    }
    if boot::command_line().split(' ').any(|word| word == "wake") {
        waits::wake_often().await;
    }
    let (seconds, seed) = (word("seconds=", 10), word("seed=", 1));
    let vcpus = vcpus::count();
    println!("stress: {vcpus} vCPUs for {seconds} s");
    if boot::command_line().split(' ').any(|word| word == "ring") {
        ring::run(seconds, seed, vcpus).await;
        return;
    }
    shared_page::init();
    interrupts::init(vcpus);
    let start = clock::now();
    END.store(start + seconds * 1_000_000_000, SeqCst);
    for id in 1..vcpus {
        if let Err(error) = vcpus::start(id, move || work(seed, id, vcpus)) {
            fail(format_args!("vCPU {id} does not start: {error}"));
        }
    }
    let watch = pv_guest::spawn(hotplug::bring_up(vcpus - 1));
    work(seed, 0, vcpus).await;
    wait_until("all workers have ended", || ENDED.load(SeqCst) == vcpus).await;
    watch.await;
    hotplug::check();
    println!(
        "stress: {} interrupts, {} remaps, {} pins, {} pages, {} waits, {} timers up to {} us late, {} times down",
        interrupts::SENT.get(),
        shared_page::CHANGES.get(),
        tables::PINS.get(),
        tables::PAGES.get(),
        waits::WAITS.get(),
        waits::TIMERS.get(),
        waits::WORST.load(Relaxed) / 1000,
        hotplug::DOWNS.get(),
    );
    println!("stress: {seconds} s, all right");
}

/// The number behind a word of the command line.
fn word(name: &str, default: u64) -> u64 {
    let words = boot::command_line().split(' ');
    let mut numbers = words.filter_map(|word| word.strip_prefix(name)?.parse().ok());
    numbers.next_back().unwrap_or(default)
}

/// Says what went wrong, and crashes the domain.
fn fail(what: Arguments<'_>) -> ! {
    println!("stress: vCPU {}: {what}", vcpus::current());
    shutdown(Reason::Crash)
}

/// Whether it is time to end.
fn is_over() -> bool {
    clock::now() >= END.load(SeqCst)
}

/// Waits for what another vCPU does.
async fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = clock::now() + LIMIT;
    while !done() {
        if clock::now() > deadline {
            fail(format_args!("it takes too long until {what}"));
        }
        clock::sleep(Duration::from_micros(200)).await;
    }
}

/// What each vCPU does.
async fn work(seed: u64, id: u32, vcpus: u32) {
    let mut dice = Dice::of(seed, id);
    let sleeper = pv_guest::spawn(waits::sleep_often(Dice::of(seed, id + vcpus)));
    let mut table = tables::Scratch::new();
    let mut spent = 0;
    while !is_over() {
        match dice.below(16) {
            0..5 => interrupts::exchange(id, dice.below(vcpus.into()) as u32).await,
            5..8 => shared_page::change(&mut dice, vcpus),
            8 => table.pin(),
            9 => tables::touch(&mut dice),
            10 => waits::poll(&mut dice),
            11 => waits::give_way(&mut dice),
            12 if id != 0 && id == vcpus - 1 => hotplug::go_down(id),
            12 => pv_guest::yield_now().await,
            _ => waits::block(&mut dice).await,
        }
        check_clock();
        shared_page::check();
        spent = check_runstate(id, spent);
    }
    sleeper.await;
    if id == vcpus - 1 {
        hotplug::end();
    }
    ENDED.fetch_add(1, SeqCst);
}

/// No vCPU sees an earlier time than another has seen before.
fn check_clock() {
    for _ in 0..8 {
        let latest = LATEST.load(SeqCst);
        let now = clock::now();
        if now < latest {
            fail(format_args!("the clock is {} ns behind", latest - now));
        }
        LATEST.fetch_max(now, SeqCst);
    }
}

/// The time in all states together is never less than before, and no more than there was.
fn check_runstate(id: u32, before: u64) -> u64 {
    let info = match vcpu::runstate_info(id) {
        Ok(info) => info,
        Err(error) => fail(format_args!("no run state: {error}")),
    };
    let sum = info.time.iter().sum();
    if info.state != RUNSTATE_RUNNING || sum < before || sum > clock::now() {
        fail(format_args!("after {before} ns it is {info:?}"));
    }
    sum
}
