//! Time, and timers.

use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;

use hypercall_abi::vcpu::RUNSTATE_RUNNING;
use pv_guest::hypercall::{sched, vcpu};
use pv_guest::memory::DmaMemory;
use pv_guest::{clock, cpu, yield_now};

use super::tap::{OK, Tap};

/// Seconds from the Unix epoch to the year 2020, before which no clock is right.
const YEAR_2020: u64 = 1_577_836_800;

/// Nanoseconds within which each count of a vCPU's time must have grown.
const PATIENCE: u64 = 10_000_000_000;

pub async fn run(tap: &mut Tap) {
    let mut last = clock::now();
    let mut back = 0;
    for _ in 0..10_000 {
        let now = clock::now();
        back += u32::from(now < last);
        last = now;
    }
    tap.is("time never goes back", back, 0);
    tap.holds(
        "the wall clock is set",
        clock::wall_clock().as_secs() > YEAR_2020,
    );
    let hertz = clock::tsc_frequency();
    tap.holds(
        "the counter has a frequency",
        (100_000_000..10_000_000_000).contains(&hertz),
    );

    let start = clock::now();
    clock::sleep(Duration::from_millis(20)).await;
    let slept = clock::now() - start;
    tap.holds("20 ms of sleep are at least that", slept >= 20_000_000);
    tap.holds("and no more than a second", slept < 1_000_000_000);

    let start = clock::now();
    let sleepers = [30, 10, 20].map(|milliseconds| {
        pv_guest::spawn(async move {
            clock::sleep_until(start + milliseconds * 1_000_000).await;
            clock::now() - start
        })
    });
    let mut woken = [0; 3];
    for (woken, sleeper) in woken.iter_mut().zip(sleepers) {
        *woken = sleeper.await / 1_000_000;
    }
    tap.holds(
        "three sleepers wake in their order",
        woken[1] >= 10
            && woken[2] >= 20
            && woken[0] >= 30
            && woken[1] <= woken[2]
            && woken[2] <= woken[0],
    );

    tap.call("a timer in the past", sched::set_timer(1), OK);
    yield_now().await;
    tap.holds("is harmless", true);
    tap.call("no timer", sched::set_timer(0), OK);

    areas(tap).await;

    // Another vCPU may take the CPU for most of any one span: how long it takes until a count has
    // grown is not ours to say.
    let start = vcpu::runstate_info(0).unwrap_or_default();
    let limit = clock::now() + PATIENCE;
    let end = loop {
        clock::sleep(Duration::from_millis(20)).await;
        let end = vcpu::runstate_info(0).unwrap_or_default();
        if end.time[2] - start.time[2] >= 10_000_000 || clock::now() > limit {
            break end;
        }
    };
    tap.holds(
        "sleeping counts as blocked",
        end.time[2] - start.time[2] >= 10_000_000,
    );
    let start = vcpu::runstate_info(0).unwrap_or_default();
    let limit = clock::now() + PATIENCE;
    let end = loop {
        let end = vcpu::runstate_info(0).unwrap_or_default();
        if end.time[0] - start.time[0] >= 4_000_000 || clock::now() > limit {
            break end;
        }
    };
    tap.holds(
        "computing counts as running",
        end.time[0] - start.time[0] >= 4_000_000,
    );
    tap.is("and not as blocked", end.time[2] - start.time[2], 0);
}

/// Memory in which the hypervisor keeps a vCPU's times.
async fn areas(tap: &mut Tap) {
    let Ok(page) = DmaMemory::new(4096, 64) else {
        tap.holds("there is memory", false);
        return;
    };
    // SAFETY: the page is the hypervisor's to write until it is told otherwise below.
    unsafe {
        let area = vcpu::register_runstate_memory_area(0, page.address());
        tap.call("runstate information in memory", area, OK);
        let area = vcpu::register_time_memory_area(0, page.address() + 256);
        tap.call("time information in memory", area, OK);
    }
    clock::sleep(Duration::from_millis(5)).await;
    tap.is(
        "it says that the vCPU runs",
        page.get::<u32>(0),
        RUNSTATE_RUNNING,
    );
    // Another vCPU may have the CPU between the two looks.
    let (since, info) = loop {
        let since = page.get::<u64>(8);
        let info = vcpu::runstate_info(0).unwrap_or_default();
        if page.get::<u64>(8) == since {
            break (since, info);
        }
    };
    tap.is("since it woke", since, info.state_entry_time);
    tap.is(
        "and how long it was blocked",
        page.get::<u64>(32),
        info.time[2],
    );
    let time = &cpu::vcpu().time;
    let (scale, stamp) = (page.get::<u32>(256 + 24), page.get::<u64>(256 + 8));
    tap.is(
        "the clock in memory is the vCPU's",
        (scale, stamp),
        (
            time.tsc_to_system_mul.load(Relaxed),
            time.tsc_timestamp.load(Relaxed),
        ),
    );
    // SAFETY: this takes the memory away from the hypervisor.
    unsafe {
        let area = vcpu::register_runstate_memory_area(0, 0);
        tap.call("no runstate information in memory", area, OK);
        let area = vcpu::register_time_memory_area(0, 0);
        tap.call("no time information in memory", area, OK);
    }
}
