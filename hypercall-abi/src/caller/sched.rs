//! Yielding, blocking, polling, shutting down, and the timer.

use crate::caller::{Result, address_of, check, count_of, hypercall1, hypercall2};
use crate::sched::*;
use crate::types::{Domid, GuestHandle, Port};
use crate::xen::{HYPERVISOR_SCHED_OP, HYPERVISOR_SET_TIMER_OP};

/// An operation with an argument that it only reads, as all do. `T` is the struct that `cmd` has.
fn op<T>(cmd: u32, argument: &T) -> Result<u64> {
    // SAFETY: the operations read `argument` and, for a poll, the ports of a slice; none writes.
    check(unsafe { hypercall2::<HYPERVISOR_SCHED_OP>(u64::from(cmd), address_of(argument)) })
}

/// Lets other vCPUs run.
#[inline]
pub fn yield_now() {
    // SAFETY: the operation has no argument. It cannot fail.
    unsafe { hypercall2::<HYPERVISOR_SCHED_OP>(u64::from(SCHEDOP_YIELD), 0) };
}

/// Unmasks upcalls and sleeps until one; returns after it was taken.
#[inline]
pub fn block() {
    // SAFETY: the operation has no argument. It cannot fail.
    unsafe { hypercall2::<HYPERVISOR_SCHED_OP>(u64::from(SCHEDOP_BLOCK), 0) };
}

/// Sleeps until one of `ports` (at most 128) is pending, masked or not, or until the absolute
/// system time `timeout` in nanoseconds, where that is not 0.
#[inline]
pub fn poll(ports: &[Port], timeout: u64) -> Result<()> {
    let argument = SchedPoll {
        ports: GuestHandle::from_ptr(ports.as_ptr()),
        nr_ports: count_of(ports) as u32,
        timeout,
        ..Default::default()
    };
    op(SCHEDOP_POLL, &argument)?;
    Ok(())
}

/// Stops the domain, with `SHUTDOWN_*` as the reason. Returns for a suspend only, and then whether
/// it was cancelled.
#[inline]
pub fn shutdown(reason: u32) -> Result<bool> {
    Ok(op(SCHEDOP_SHUTDOWN, &SchedShutdown { reason })? != 0)
}

/// Latches the reason of a shutdown, `SHUTDOWN_*`, before it happens.
#[inline]
pub fn shutdown_code(reason: u32) -> Result<()> {
    op(SCHEDOP_SHUTDOWN_CODE, &SchedShutdown { reason })?;
    Ok(())
}

/// Stops another domain, with `SHUTDOWN_*` as the reason.
#[inline]
pub fn remote_shutdown(domain_id: Domid, reason: u32) -> Result<()> {
    op(
        SCHEDOP_REMOTE_SHUTDOWN,
        &SchedRemoteShutdown {
            domain_id,
            _pad0: 0,
            reason,
        },
    )?;
    Ok(())
}

/// Starts (`id` 0), restarts or, with `timeout` 0, stops a watchdog, which expires after `timeout`
/// seconds. Returns the number of a new one.
#[inline]
pub fn watchdog(id: u32, timeout: u32) -> Result<u32> {
    Ok(op(SCHEDOP_WATCHDOG, &SchedWatchdog { id, timeout })? as u32)
}

/// Pins this vCPU to a physical CPU, or, if negative, ends that.
#[inline]
pub fn pin_override(pcpu: i32) -> Result<()> {
    op(SCHEDOP_PIN_OVERRIDE, &SchedPinOverride { pcpu })?;
    Ok(())
}

/// Requests `VIRQ_TIMER` on this vCPU at the absolute system time `deadline` in nanoseconds; 0
/// cancels.
#[inline]
pub fn set_timer(deadline: u64) -> Result<()> {
    // SAFETY: the argument is a number.
    check(unsafe { hypercall1::<HYPERVISOR_SET_TIMER_OP>(deadline) })?;
    Ok(())
}
