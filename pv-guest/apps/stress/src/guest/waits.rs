//! Waiting: blocked until a timer, in a poll, or to let others go first.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;

use hypercall_abi::types::Port;
use pv_guest::clock;
use pv_guest::events::EventChannel;
use pv_guest::hypercall::sched;

use super::{Count, Dice, LIMIT, fail, is_over};

/// How often a vCPU waited.
pub static WAITS: Count = Count::new();
/// How many timers fired.
pub static TIMERS: Count = Count::new();
/// The latest of them, in nanoseconds after its time.
pub static WORST: AtomicU64 = AtomicU64::new(0);

/// Sleeps again and again while the vCPU does other things.
pub async fn sleep_often(mut dice: Dice) {
    while !is_over() {
        sleep(50 + dice.below(3000)).await;
    }
}

/// Wakes a thousand times a second, and is busy for 10 us each time.
pub async fn wake_often() {
    let mut next = clock::now();
    loop {
        next = clock::now().max(next + 1_000_000);
        clock::sleep_until(next).await;
        let end = clock::now() + 10_000;
        while clock::now() < end {
            core::hint::spin_loop();
        }
    }
}

/// Sleeps for some time; nothing else may be ready then.
pub async fn block(dice: &mut Dice) {
    sleep(dice.below(1000)).await;
    WAITS.add();
}

async fn sleep(us: u64) {
    let due = clock::now() + us * 1000;
    clock::sleep(Duration::from_micros(us)).await;
    check_end(due);
    TIMERS.add();
}

/// A wait that was to end at `due` has ended.
fn check_end(due: u64) {
    let Some(late) = clock::now().checked_sub(due) else {
        fail(format_args!("a wait ended early"));
    };
    if late > LIMIT {
        fail(format_args!("a wait ended {late} ns late"));
    }
    WORST.fetch_max(late, Relaxed);
}

/// Polls for an event: one that comes by time only, or one that is there.
pub fn poll(dice: &mut Dice) {
    let channel = match EventChannel::bind_ipi() {
        Ok(channel) => channel,
        Err(error) => fail(format_args!("no port: {error}")),
    };
    channel.mask();
    let sent = dice.below(2) == 0;
    if sent && channel.notify().is_err() {
        fail(format_args!("no event"));
    }
    let start = clock::now();
    let due = start + if sent { LIMIT } else { dice.below(500_000) };
    if let Err(error) = sched::poll(&[Port(channel.port().0)], due) {
        fail(format_args!("no poll: {error}"));
    }
    if sent && clock::now() >= due {
        fail(format_args!("a poll does not see what is pending"));
    }
    WAITS.add();
}

/// Lets others go first, a few times.
pub fn give_way(dice: &mut Dice) {
    for _ in 0..dice.below(20) {
        sched::yield_now();
    }
    WAITS.add();
}
