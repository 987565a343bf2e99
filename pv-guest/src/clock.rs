//! Time: reading it, and sleeping.
//!
//! Instants are nanoseconds of system time, which counts from the host's power-on and never stops
//! for this guest.

use core::cell::RefCell;
use core::future::poll_fn;
use core::pin::{Pin, pin};
use core::sync::atomic::Ordering::Relaxed;
use core::task::{Context, Poll};
use core::time::Duration;

use critical_section::Mutex;
use hypercall_abi::types::Port;
use hypercall_abi::xen::VIRQ_TIMER;

use crate::events::EventChannel;
use crate::hypercall::{sched, vcpu};
use crate::timers::{TimerId, TimerQueue};
use crate::vcpus::{self, MAX_VCPUS};
use crate::{cpu, time_scale};

/// By vCPU: who sleeps there.
static SLEEPERS: [Mutex<RefCell<TimerQueue>>; MAX_VCPUS] =
    [const { Mutex::new(RefCell::new(TimerQueue::new())) }; MAX_VCPUS];

/// Uses the sleepers of a vCPU.
fn with_sleepers<T>(vcpu: u32, action: impl FnOnce(&mut TimerQueue) -> T) -> T {
    critical_section::with(|cs| action(&mut SLEEPERS[vcpu as usize].borrow_ref_mut(cs)))
}

/// Binds the timer of this vCPU.
pub(crate) fn init() {
    // A hypervisor without periodic timers has none to stop.
    _ = vcpu::stop_periodic_timer(vcpus::current());
    let timer = EventChannel::bind_virq(VIRQ_TIMER).expect("the timer can be bound");
    timer.set_handler(expire);
    core::mem::forget(timer);
}

/// Wakes whom it is time to wake, and sets the timer for the next. It comes to the vCPU that they
/// sleep on.
fn expire(_: Port) {
    let vcpu = vcpus::current();
    while let Some(waker) = with_sleepers(vcpu, |sleepers| sleepers.pop_due(now())) {
        waker.wake();
    }
    program(vcpu);
}

/// Sets the timer for the earliest sleeper of this vCPU. A deadline that passed meanwhile fires at
/// once.
fn program(vcpu: u32) {
    if let Some(deadline) = with_sleepers(vcpu, |sleepers| sleepers.next_deadline()) {
        sched::set_timer(deadline).expect("a timer can be set");
    }
}

/// System time in nanoseconds.
pub fn now() -> u64 {
    time_scale::system_time(&cpu::vcpu().time, cpu::tsc)
}

/// Time since the Unix epoch.
pub fn wall_clock() -> Duration {
    let (seconds, nanoseconds) = time_scale::boot_wall_clock(cpu::shared());
    Duration::new(seconds, nanoseconds) + Duration::from_nanos(now())
}

/// Frequency of the time-stamp counter in Hz.
pub fn tsc_frequency() -> u64 {
    let time = &cpu::vcpu().time;
    time_scale::frequency(
        time.tsc_to_system_mul.load(Relaxed),
        time.tsc_shift.load(Relaxed),
    )
}

/// Sleeps for at least this long.
pub fn sleep(duration: Duration) -> Sleep {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    sleep_until(now().saturating_add(nanoseconds))
}

/// Sleeps until this instant.
pub fn sleep_until(deadline: u64) -> Sleep {
    Sleep {
        deadline,
        timer: None,
    }
}

/// What [`sleep`] and [`sleep_until`] return.
#[derive(Debug)]
#[must_use = "sleeping happens when it is awaited"]
pub struct Sleep {
    deadline: u64,
    /// Where it is queued: the vCPU that polled it last.
    timer: Option<(u32, TimerId)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if now() >= self.deadline {
            return Poll::Ready(());
        }
        if let Some((vcpu, id)) = self.timer {
            // A timer that fired a little early took the entry out; inserting anew covers that too.
            with_sleepers(vcpu, |sleepers| sleepers.remove(id));
        }
        let (vcpu, deadline) = (vcpus::current(), self.deadline);
        let (id, earliest) = with_sleepers(vcpu, |sleepers| {
            let id = sleepers.insert(deadline, context.waker().clone());
            (id, sleepers.next_deadline() == Some(deadline))
        });
        self.timer = Some((vcpu, id));
        if earliest {
            program(vcpu);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((vcpu, id)) = self.timer {
            with_sleepers(vcpu, |sleepers| sleepers.remove(id));
        }
    }
}

/// The time given to a future ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// The result of `future`, if it is there within `duration`; else the future is dropped.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep(duration));
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        sleep.as_mut().poll(context).map(|()| Err(Elapsed))
    })
    .await
}
