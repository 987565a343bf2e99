//! A vCPU's timers: one-shot, periodic, and the timeout of a poll.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv_machine::Platform;
use hypercall_abi::xen::VIRQ_TIMER;

use super::{Due, MILLISECOND, TimerId, arm, now};
use crate::hypercall::{Args, HypercallResult};
use crate::{Current, Hypervisor, Vcpu, event};

/// Period of a vCPU's timer before the guest sets another.
const FIRST_PERIOD: u64 = 10 * MILLISECOND;
/// A one-shot deadline farther than this (13 days) is a guest's arithmetic gone wrong.
const ABSURD_SHIFT: u32 = 50;

/// A timer that is made when it is first needed.
struct LazyTimer(AtomicU32);

impl LazyTimer {
    const NONE: u32 = u32::MAX;

    const fn new() -> Self {
        Self(AtomicU32::new(Self::NONE))
    }

    fn get(&self) -> Option<TimerId> {
        let id = self.0.load(Ordering::Acquire);
        (id != Self::NONE).then_some(TimerId(id))
    }

    /// Sets the timer, on this CPU.
    fn set(&self, hv: &Hypervisor, deadline: u64, due: impl FnOnce() -> Due) {
        let mut timers = hv.timers.lock();
        let id = self.get().unwrap_or_else(|| {
            let id = timers.add(due());
            self.0.store(id.0, Ordering::Release);
            id
        });
        timers.set(id, hv.machine.cpu_id(), deadline);
    }

    fn stop(&self, hv: &Hypervisor) {
        if self.get().is_some() {
            let mut timers = hv.timers.lock();
            // The timer may have been removed before the lock was had.
            if let Some(id) = self.get() {
                timers.stop(id);
            }
        }
    }

    fn remove(&self, hv: &Hypervisor) {
        let mut timers = hv.timers.lock();
        if let Some(id) = self.get() {
            timers.remove(id);
            self.0.store(Self::NONE, Ordering::Release);
        }
    }
}

/// The timers of a vCPU.
pub struct VcpuTimers {
    singleshot: LazyTimer,
    periodic: LazyTimer,
    poll: LazyTimer,
    /// Nanoseconds; 0 for none.
    period: AtomicU64,
    last_tick: AtomicU64,
    /// The counter's value in the time stamps that the vCPU has; `u64::MAX` for none.
    pub(super) published: AtomicU64,
}

impl VcpuTimers {
    /// A vCPU's timers at its start: 100 ticks a second, no one-shot.
    pub fn new() -> Self {
        Self {
            singleshot: LazyTimer::new(),
            periodic: LazyTimer::new(),
            poll: LazyTimer::new(),
            period: AtomicU64::new(FIRST_PERIOD),
            last_tick: AtomicU64::new(0),
            published: AtomicU64::new(u64::MAX),
        }
    }
}

impl Default for VcpuTimers {
    fn default() -> Self {
        Self::new()
    }
}

/// Has `VIRQ_TIMER` sent to a vCPU once, at system time `deadline` or as soon as possible after it.
pub fn set_singleshot(hv: &Hypervisor, vcpu: &Arc<Vcpu>, deadline: u64) {
    vcpu.timers
        .singleshot
        .set(hv, deadline, || Due::Singleshot(Arc::downgrade(vcpu)));
    arm(hv);
}

/// Takes back [`set_singleshot`].
pub fn stop_singleshot(hv: &Hypervisor, vcpu: &Vcpu) {
    vcpu.timers.singleshot.stop(hv);
}

/// Has `VIRQ_TIMER` sent to a vCPU every `period` nanoseconds in which it runs; 0 for never.
pub fn set_period(hv: &Hypervisor, vcpu: &Arc<Vcpu>, period: u64) {
    vcpu.timers.periodic.stop(hv);
    vcpu.timers.period.store(period, Ordering::Release);
    start_period(hv, vcpu);
}

/// Sends the tick that is due, if one is, and sets the periodic timer to the next. Ticks that a vCPU
/// missed while it did not run count as one.
pub fn start_period(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    let period = vcpu.timers.period.load(Ordering::Acquire);
    if period == 0 {
        return;
    }
    let now = now(hv);
    let mut next = vcpu
        .timers
        .last_tick
        .load(Ordering::Relaxed)
        .saturating_add(period);
    if now >= next {
        event::send_vcpu_virq(hv, vcpu, VIRQ_TIMER);
        vcpu.timers.last_tick.store(now, Ordering::Relaxed);
        next = now.saturating_add(period);
    }
    vcpu.timers
        .periodic
        .set(hv, next, || Due::Periodic(Arc::downgrade(vcpu)));
    arm(hv);
}

/// Stops the ticks until [`start_period`]: the vCPU does not run.
pub fn stop_period(hv: &Hypervisor, vcpu: &Vcpu) {
    vcpu.timers.periodic.stop(hv);
}

/// Ends a vCPU's poll at system time `deadline`.
pub fn set_poll_timeout(hv: &Hypervisor, vcpu: &Arc<Vcpu>, deadline: u64) {
    vcpu.timers
        .poll
        .set(hv, deadline, || Due::Poll(Arc::downgrade(vcpu)));
    arm(hv);
}

/// Takes back [`set_poll_timeout`].
pub fn stop_poll_timeout(hv: &Hypervisor, vcpu: &Vcpu) {
    vcpu.timers.poll.stop(hv);
}

/// Removes the timers of a vCPU that is to go.
pub fn forget(hv: &Hypervisor, vcpu: &Vcpu) {
    vcpu.timers.singleshot.remove(hv);
    vcpu.timers.periodic.remove(hv);
    vcpu.timers.poll.remove(hv);
}

/// `HYPERVISOR_set_timer_op`: sets the one-shot timer of the calling vCPU, or stops it (0).
///
/// A deadline that is negative or absurdly far away is what some guests' arithmetic makes of "now" and
/// of "never" alike; the answer that serves both is a tick in a tenth of a second.
pub fn do_set_timer_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let deadline = args[0];
    if deadline == 0 {
        stop_singleshot(cx.hv, cx.vcpu);
        return Ok(0);
    }
    let now = now(cx.hv);
    let absurd = deadline as i64 <= 0 || deadline.saturating_sub(now) >> ABSURD_SHIFT != 0;
    let deadline = if absurd {
        now + 100 * MILLISECOND
    } else {
        deadline
    };
    set_singleshot(cx.hv, cx.vcpu_arc, deadline);
    Ok(0)
}
