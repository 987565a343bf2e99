//! Who runs next: the policy as a trait, and what joins it to vCPUs.
//!
//! A vCPU is runnable when nothing holds it back ([`Vcpu::is_runnable`]). The policy is told of every
//! change by [`wake`] and [`sleep`], which look at the vCPU again under the scheduler's lock, so that
//! it does not matter in which order two processors report.

mod busy;
mod credit;
mod null;
mod policy;
#[cfg(test)]
mod simulation;

pub use busy::Busy;
pub use credit::Credit;
pub use null::Null;
pub use policy::{Decision, Parameters, Scheduler, UnitId};

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hv_machine::Platform;
use hypercall_abi::errno::Errno;
use hypercall_abi::trace::{TRC_SCHED_BLOCK, TRC_SCHED_SLEEP, TRC_SCHED_WAKE, TRC_SCHED_YIELD};
use hypercall_abi::vcpu::{
    RUNSTATE_BLOCKED, RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE, RUNSTATE_RUNNING,
};

use crate::{Current, Hypervisor, Vcpu, event, runstate, time, trace};

/// The policy of a host.
pub type Policy = Box<dyn Scheduler<Arc<Vcpu>> + Send>;

/// The policy that `sched=` names, for so many CPUs: `null`, else the credit scheduler.
pub fn policy(name: &str, cpus: u32) -> Policy {
    match name {
        "null" => Box::new(Null::new(cpus)),
        _ => Box::new(Credit::new(cpus)),
    }
}

/// A vCPU as the scheduler knows it.
#[derive(Debug)]
pub struct Seat {
    unit: AtomicU32,
    cpu: AtomicU32,
    /// CPUs that it may use again once a temporary limit ends; 0 while there is none.
    saved_affinity: AtomicU64,
    /// CPUs that it had better use.
    soft_affinity: AtomicU64,
}

impl Seat {
    const NONE: u32 = u32::MAX;

    /// Not known to the scheduler yet.
    pub const fn new() -> Self {
        Self {
            unit: AtomicU32::new(Self::NONE),
            cpu: AtomicU32::new(0),
            saved_affinity: AtomicU64::new(0),
            soft_affinity: AtomicU64::new(u64::MAX),
        }
    }

    fn unit(&self) -> Option<UnitId> {
        let unit = self.unit.load(Ordering::Acquire);
        (unit != Self::NONE).then_some(UnitId(unit))
    }

    /// CPUs that the vCPU had better use, as its toolstack thinks.
    pub fn soft_affinity(&self) -> u64 {
        self.soft_affinity.load(Ordering::Acquire)
    }

    /// The CPU that runs the vCPU or ran it last.
    pub fn cpu(&self) -> u32 {
        self.cpu.load(Ordering::Acquire)
    }
}

impl Default for Seat {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes a vCPU known to the scheduler, which takes it to be not runnable.
pub fn insert(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    let Some(domain) = vcpu.domain.upgrade() else {
        return;
    };
    let mut scheduler = hv.scheduler.lock();
    if vcpu.seat.unit().is_none() {
        let unit = scheduler.insert(domain.id, vcpu.clone());
        vcpu.seat.unit.store(unit.0, Ordering::Release);
    }
}

/// Makes the scheduler and the timers forget a vCPU, for good.
pub fn remove(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    let ask = {
        let mut scheduler = hv.scheduler.lock();
        vcpu.seat.unit().map_or(0, |unit| {
            vcpu.seat.unit.store(Seat::NONE, Ordering::Release);
            scheduler.remove(unit)
        })
    };
    request_schedule(hv, ask);
    time::forget(hv, vcpu);
}

/// Tells the scheduler that a vCPU may have become runnable.
pub fn wake(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    told(hv, TRC_SCHED_WAKE, vcpu);
    update(hv, vcpu);
}

/// Tells the scheduler that a vCPU may no longer be runnable. The CPU that runs it stops soon.
pub fn sleep(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    let blocked = vcpu.blocked.load(Ordering::Acquire);
    let event = if blocked {
        TRC_SCHED_BLOCK
    } else {
        TRC_SCHED_SLEEP
    };
    told(hv, event, vcpu);
    update(hv, vcpu);
}

#[inline(always)]
fn told(hv: &Hypervisor, event: u32, vcpu: &Vcpu) {
    if hv.tracer.is_on() {
        trace::vcpu(hv, event, vcpu);
    }
}

fn update(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    let ask = {
        let mut scheduler = hv.scheduler.lock();
        let Some(unit) = vcpu.seat.unit() else { return };
        let (state, now) = (vcpu.runstate.state(), time::now(hv));
        if vcpu.is_runnable() {
            if state != RUNSTATE_RUNNING && state != RUNSTATE_RUNNABLE {
                runstate::change(hv, vcpu, RUNSTATE_RUNNABLE, now);
            }
            scheduler.wake(unit, now)
        } else {
            if state != RUNSTATE_RUNNING && state != idle_state(vcpu) {
                runstate::change(hv, vcpu, idle_state(vcpu), now);
            }
            // A CPU that sleeps may hold its state still.
            scheduler.sleep(unit).or_else(|| vcpu.runs_on())
        }
    };
    if let Some(cpu) = ask {
        hv.request_schedule(cpu);
    }
}

/// The state of a vCPU that is not runnable.
fn idle_state(vcpu: &Vcpu) -> u32 {
    if vcpu.blocked.load(Ordering::Acquire) {
        RUNSTATE_BLOCKED
    } else {
        RUNSTATE_OFFLINE
    }
}

/// Decides which vCPU this CPU runs next, `None` for none, and when it is to decide again.
pub fn pick(hv: &Hypervisor) -> Option<Arc<Vcpu>> {
    let cpu = hv.machine.cpu_id();
    let decision = hv.scheduler.lock().pick(cpu, time::now(hv));
    time::set_slice(hv, decision.until);
    if decision.ask != 0 {
        request_schedule(hv, decision.ask);
    }
    if hv.tracer.is_on() {
        trace::chosen(hv, decision.next.as_deref());
    }
    decision.next
}

/// Has the scheduler asked again on CPUs, bit n for CPU n.
fn request_schedule(hv: &Hypervisor, cpus: u64) {
    for cpu in (0..u64::BITS).filter(|cpu| cpus >> cpu & 1 != 0) {
        hv.request_schedule(cpu);
    }
}

/// To be called when this CPU is about to run a vCPU, before its address space is loaded: a flush of the domain's
/// translations that does not find the vCPU here yet comes before that.
pub fn switching_in(hv: &Hypervisor, vcpu: &Vcpu) {
    vcpu.seat.cpu.store(hv.machine.cpu_id(), Ordering::SeqCst);
    vcpu.running.store(true, Ordering::SeqCst);
}

/// To be called when this CPU begins to run a vCPU, once its address space is loaded.
pub fn switched_in(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    let now = time::now(hv);
    hv.busy.begin(hv.machine.cpu_id(), now);
    runstate::change(hv, vcpu, RUNSTATE_RUNNING, now);
    time::start_period(hv, vcpu);
    time::publish(hv, vcpu);
    runstate::refresh_areas(hv, vcpu);
}

/// To be called when this CPU stops running a vCPU, while its address space is still loaded.
pub fn switched_out(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    time::stop_period(hv, vcpu);
    let state = if vcpu.is_runnable() {
        RUNSTATE_RUNNABLE
    } else {
        idle_state(vcpu)
    };
    let now = time::now(hv);
    runstate::change(hv, vcpu, state, now);
    runstate::refresh_areas(hv, vcpu);
    hv.busy.end(hv.machine.cpu_id(), now);
}

/// Nanoseconds for which a CPU has run no vCPU.
pub fn idle_time(hv: &Hypervisor, cpu: u32) -> u64 {
    let now = time::now(hv);
    now.saturating_sub(hv.busy.total(cpu, now))
}

/// Lets others go first (`SCHEDOP_yield`).
pub fn yield_now(cx: &mut Current<'_>) {
    told(cx.hv, TRC_SCHED_YIELD, cx.vcpu);
    let cpu = cx.machine().cpu_id();
    cx.hv.scheduler.lock().yield_now(cpu);
    cx.hv.request_schedule(cpu);
}

/// Puts the current vCPU to sleep until an event is due, unless one is (`SCHEDOP_block`).
pub fn block(cx: &mut Current<'_>) {
    // The exchange orders the flag before the look at the events: whoever sets one after that look sees
    // the flag and wakes the vCPU.
    cx.vcpu.blocked.swap(true, Ordering::SeqCst);
    if event::upcall_due(cx.hv, cx.vcpu) {
        cx.vcpu.blocked.store(false, Ordering::SeqCst);
    } else {
        sleep(cx.hv, cx.vcpu_arc);
    }
}

/// Limits a vCPU to CPUs (bit n for CPU n).
pub fn set_affinity(hv: &Hypervisor, vcpu: &Vcpu, cpus: u64) {
    let ask = {
        let mut scheduler = hv.scheduler.lock();
        let unit = vcpu.seat.unit();
        unit.map_or(0, |unit| scheduler.set_affinity(unit, cpus))
    };
    request_schedule(hv, ask);
}

/// Has a vCPU use CPUs (bit n for CPU n) rather than others.
pub fn set_soft_affinity(hv: &Hypervisor, vcpu: &Vcpu, cpus: u64) {
    let mut scheduler = hv.scheduler.lock();
    vcpu.seat.soft_affinity.store(cpus, Ordering::Release);
    if let Some(unit) = vcpu.seat.unit() {
        scheduler.set_soft_affinity(unit, cpus);
    }
}

/// The CPUs that a vCPU may use.
pub fn affinity(hv: &Hypervisor, vcpu: &Vcpu) -> u64 {
    let scheduler = hv.scheduler.lock();
    vcpu.seat.unit().map_or(0, |unit| scheduler.affinity(unit))
}

/// The CPUs that a vCPU may use, apart from a temporary limit.
pub fn hard_affinity(hv: &Hypervisor, vcpu: &Vcpu) -> u64 {
    match vcpu.seat.saved_affinity.load(Ordering::Acquire) {
        0 => affinity(hv, vcpu),
        cpus => cpus,
    }
}

/// Limits a vCPU to CPUs (bit n for CPU n) for good.
///
/// # Errors
/// `EBUSY` while a temporary limit lasts.
pub fn set_hard_affinity(hv: &Hypervisor, vcpu: &Vcpu, cpus: u64) -> Result<(), Errno> {
    if vcpu.seat.saved_affinity.load(Ordering::Acquire) != 0 {
        return Err(Errno::EBUSY);
    }
    set_affinity(hv, vcpu, cpus);
    Ok(())
}

/// Ends a vCPU's temporary limit; `false` where there is none.
pub fn end_pin_override(hv: &Hypervisor, vcpu: &Vcpu) -> bool {
    match vcpu.seat.saved_affinity.swap(0, Ordering::AcqRel) {
        0 => false,
        cpus => {
            set_affinity(hv, vcpu, cpus);
            true
        }
    }
}

/// Limits the current vCPU to CPU `cpu` until the next call with a negative number, which gives it back
/// what it had (`SCHEDOP_pin_override`).
///
/// # Errors
/// `EINVAL` for no such CPU, or nothing to give back; `EBUSY` where it is limited already.
pub fn pin_override(cx: &mut Current<'_>, cpu: i32) -> Result<(), Errno> {
    let saved = &cx.vcpu.seat.saved_affinity;
    let Ok(cpu) = u32::try_from(cpu) else {
        return if end_pin_override(cx.hv, cx.vcpu) {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        };
    };
    if cpu >= cx.machine().cpu_count().min(64) {
        return Err(Errno::EINVAL);
    }
    if saved.load(Ordering::Acquire) != 0 {
        return Err(Errno::EBUSY);
    }
    saved.store(affinity(cx.hv, cx.vcpu), Ordering::Release);
    set_affinity(cx.hv, cx.vcpu, 1 << cpu);
    Ok(())
}

/// Ends a vCPU's block or poll; whether it was in one.
pub fn unblock(hv: &Hypervisor, vcpu: &Arc<Vcpu>) -> bool {
    if !vcpu.blocked.swap(false, Ordering::SeqCst) {
        return false;
    }
    if vcpu.polling.swap(0, Ordering::SeqCst) != 0 {
        if let Some(domain) = vcpu.domain.upgrade() {
            domain.events.poll_ended();
        }
        time::stop_poll_timeout(hv, vcpu);
        // A waker that came between the two exchanges saw a vCPU that polls.
        vcpu.blocked.store(false, Ordering::SeqCst);
    }
    wake(hv, vcpu);
    true
}

/// Ends a vCPU's poll, if it polls.
pub fn end_poll(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    if vcpu.polling.load(Ordering::SeqCst) != 0 {
        unblock(hv, vcpu);
    }
}

/// Has a vCPU look at its events: it wakes, or leaves guest mode on the CPU that runs it. One that wakes looks by itself
/// before it goes on.
pub fn kick(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    if unblock(hv, vcpu) {
        return;
    }
    if let Some(cpu) = vcpu.runs_on()
        && cpu != hv.machine.cpu_id()
    {
        hv.machine.send_ipi(cpu);
    }
}
