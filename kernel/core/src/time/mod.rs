//! Time: the clock, the timers, and what guests are shown of them.
//!
//! The hardware's timer of each CPU is set to the earliest deadline of that CPU ([`arm`]); when it fires,
//! [`run_expired`] does what is due. Nothing is done to a vCPU while the timers are locked.

mod clock;
mod publish;
#[cfg(test)]
mod tests;
mod timers;
mod vcpu;

pub use clock::{Clock, SECOND, Scale, WallClock};
pub use publish::{publish, publish_wall_clock, refresh_time_area, republish, set_wall_clock};
pub use timers::{NEVER, TimerId, Timers};
pub use vcpu::{
    VcpuTimers, do_set_timer_op, forget, set_period, set_poll_timeout, set_singleshot,
    start_period, stop_period, stop_poll_timeout, stop_singleshot,
};

use alloc::sync::Weak;

use hv_machine::Platform;
use hypercall_abi::xen::VIRQ_TIMER;

use crate::{Domain, Hypervisor, Vcpu, event, sched};

/// Nanoseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000_000;

/// What a timer is about.
#[derive(Clone, Debug)]
pub enum Due {
    /// A vCPU's one-shot timer.
    Singleshot(Weak<Vcpu>),
    /// A vCPU's periodic timer.
    Periodic(Weak<Vcpu>),
    /// The time after which a vCPU polls no longer.
    Poll(Weak<Vcpu>),
    /// A domain's watchdog.
    Watchdog(Weak<Domain>),
}

/// System time in nanoseconds.
pub fn now(hv: &Hypervisor) -> u64 {
    hv.clock.at(first_tsc(hv))
}

/// What the first CPU's time-stamp counter shows, which system time is made of.
pub(crate) fn first_tsc(hv: &Hypervisor) -> u64 {
    hv.machine.tsc().wrapping_add(hv.machine.tsc_lag())
}

/// A guest's deadline as the timers take it. System time is signed: what is beyond its range is long past.
pub fn signed_deadline(deadline: u64) -> u64 {
    if deadline >> 63 == 0 { deadline } else { 0 }
}

/// Sets the time at which the scheduler is to be asked again on this CPU.
pub fn set_slice(hv: &Hypervisor, until: u64) {
    let mut timers = hv.timers.lock();
    timers.set_slice(hv.machine.cpu_id(), until);
    program(hv, &mut timers);
}

/// Sets the hardware's timer of this CPU to its earliest deadline, unless it fires by then.
pub fn arm(hv: &Hypervisor) {
    program(hv, &mut hv.timers.lock());
}

fn program(hv: &Hypervisor, timers: &mut Timers) {
    if let Some(deadline) = timers.program(hv.machine.cpu_id()) {
        let ticks = hv.clock.tsc_at(deadline, first_tsc(hv));
        hv.machine
            .set_timer(ticks.wrapping_sub(hv.machine.tsc_lag()));
    }
}

/// Does everything that is due on this CPU; to be called when its timer fired.
pub fn run_expired(hv: &Hypervisor) {
    let cpu = hv.machine.cpu_id();
    let now = now(hv);
    hv.timers.lock().fired(cpu);
    while let Some(due) = {
        let mut timers = hv.timers.lock();
        timers.pop_due(cpu, now)
    } {
        fire(hv, &due);
    }
    if hv.timers.lock().take_slice_end(cpu, now) {
        hv.request_schedule(cpu);
    }
    arm(hv);
}

fn fire(hv: &Hypervisor, due: &Due) {
    match due {
        Due::Singleshot(vcpu) => {
            if let Some(vcpu) = vcpu.upgrade() {
                event::send_vcpu_virq(hv, &vcpu, VIRQ_TIMER);
            }
        }
        Due::Periodic(vcpu) => {
            if let Some(vcpu) = vcpu.upgrade() {
                start_period(hv, &vcpu);
            }
        }
        Due::Poll(vcpu) => {
            if let Some(vcpu) = vcpu.upgrade() {
                sched::end_poll(hv, &vcpu);
            }
        }
        Due::Watchdog(domain) => {
            if let Some(domain) = domain.upgrade() {
                crate::sched_op::watchdog_expired(hv, &domain);
            }
        }
    }
}
