//! The hypercall `sched_op` (`xen/sched.h`): yield, block, poll, shut down, watchdogs.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hypercall_abi::errno::Errno;
use hypercall_abi::sched::*;
use hypercall_abi::types::Port;

use crate::hypercall::{Args, HypercallResult};
use crate::lock::{Mutex, rank};
use crate::time::{self, Due, SECOND, TimerId};
use crate::{Current, Domain, Hypervisor, event, lifecycle, sched};
use hv_machine::{Platform, is_guest_range};

/// Most ports that a vCPU may poll at once.
const MAX_POLLED: u32 = 128;
/// Watchdogs of a domain.
const WATCHDOGS: usize = 2;

/// `HYPERVISOR_sched_op`: a command and the address of its struct.
pub fn do_sched_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let at = args[1];
    match args[0] as u32 {
        SCHEDOP_YIELD => sched::yield_now(cx),
        SCHEDOP_BLOCK => block(cx),
        SCHEDOP_SHUTDOWN => {
            let op: SchedShutdown = cx.read(at)?;
            lifecycle::shutdown(cx.hv, cx.domain, op.reason & 0xff);
        }
        SCHEDOP_SHUTDOWN_CODE => {
            let op: SchedShutdown = cx.read(at)?;
            cx.domain.life.lock().reason.get_or_insert(op.reason & 0xff);
        }
        SCHEDOP_POLL => {
            let op: SchedPoll = cx.read(at)?;
            poll(cx, &op)?;
        }
        SCHEDOP_REMOTE_SHUTDOWN => {
            let op: SchedRemoteShutdown = cx.read(at)?;
            let domain = cx.hv.domain(op.domain_id)?;
            if !cx.domain.privileged {
                return Err(Errno::EPERM.into());
            }
            lifecycle::shutdown(cx.hv, &domain, op.reason & 0xff);
        }
        SCHEDOP_WATCHDOG => {
            let op: SchedWatchdog = cx.read(at)?;
            return Ok(watchdog(cx, op.id, op.timeout)?);
        }
        SCHEDOP_PIN_OVERRIDE => {
            if !cx.domain.privileged {
                return Err(Errno::EPERM.into());
            }
            let op: SchedPinOverride = cx.read(at)?;
            sched::pin_override(cx, op.pcpu)?;
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// `HYPERVISOR_sched_op_compat`: a command and, for a shutdown, the reason itself.
pub fn do_sched_op_compat(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    match args[0] as u32 {
        SCHEDOP_YIELD => sched::yield_now(cx),
        SCHEDOP_BLOCK => block(cx),
        SCHEDOP_SHUTDOWN => lifecycle::shutdown(cx.hv, cx.domain, args[1] as u32 & 0xff),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

fn block(cx: &mut Current<'_>) {
    event::unmask_upcalls(cx.hv, cx.vcpu);
    sched::block(cx);
}

/// Sleeps until one of the ports is pending, masked or not, an upcall is due, or the time is up.
fn poll(cx: &mut Current<'_>, op: &SchedPoll) -> Result<(), Errno> {
    if op.nr_ports > MAX_POLLED {
        return Err(Errno::EINVAL);
    }
    let bytes = u64::from(op.nr_ports) * size_of::<Port>() as u64;
    if !is_guest_range(op.ports.address(), bytes) {
        return Err(Errno::EFAULT);
    }
    // First the flags, then the look at the ports: whoever makes one pending after that look sees the
    // flags and wakes the vCPU.
    if cx.vcpu.polling.swap(u32::MAX, Ordering::SeqCst) == 0 {
        cx.domain.events.poll_begun();
    }
    cx.vcpu.blocked.swap(true, Ordering::SeqCst);
    match wanted(cx, op) {
        Ok(Wanted::Wait(port)) => {
            if let Some(port) = port {
                let one = (u32::MAX, port.0);
                // Not where it was woken in the meantime.
                let (order, seen) = (Ordering::SeqCst, Ordering::SeqCst);
                let _ = cx.vcpu.polling.compare_exchange(one.0, one.1, order, seen);
            }
            if op.timeout != 0 {
                time::set_poll_timeout(cx.hv, cx.vcpu_arc, time::signed_deadline(op.timeout));
            }
            sched::sleep(cx.hv, cx.vcpu_arc);
            Ok(())
        }
        Ok(Wanted::Return) => {
            sched::unblock(cx.hv, cx.vcpu_arc);
            Ok(())
        }
        Err(errno) => {
            sched::unblock(cx.hv, cx.vcpu_arc);
            Err(errno)
        }
    }
}

enum Wanted {
    /// Nothing has happened; the port, where it is one.
    Wait(Option<Port>),
    /// Something has.
    Return,
}

fn wanted(cx: &Current<'_>, op: &SchedPoll) -> Result<Wanted, Errno> {
    if event::upcall_due(cx.hv, cx.vcpu) {
        return Ok(Wanted::Return);
    }
    let mut only = None;
    for index in 0..u64::from(op.nr_ports) {
        let port: Port = cx.read_element(op.ports.address(), index)?;
        if event::poll(cx.hv, cx.domain, port)? {
            return Ok(Wanted::Return);
        }
        only = (op.nr_ports == 1).then_some(port);
    }
    Ok(Wanted::Wait(only))
}

/// A domain's watchdogs: the timers of those in use.
#[derive(Default)]
pub struct Watchdogs(Mutex<[Option<TimerId>; WATCHDOGS], { rank::WATCHDOGS }>);

/// Sets a new watchdog (`id` 0), pokes one, or stops one (`timeout` 0).
fn watchdog(cx: &mut Current<'_>, id: u32, timeout: u32) -> Result<u64, Errno> {
    let hv = cx.hv;
    let deadline = time::now(hv).saturating_add(u64::from(timeout) * SECOND);
    let cpu = hv.machine.cpu_id();
    let mut watchdogs = cx.domain.watchdogs.0.lock();
    let result = match (id as usize).checked_sub(1) {
        None => {
            let free = watchdogs
                .iter()
                .position(Option::is_none)
                .ok_or(Errno::ENOSPC)?;
            let mut timers = hv.timers.lock();
            let timer = timers.add(Due::Watchdog(Arc::downgrade(cx.domain_arc)));
            timers.set(timer, cpu, deadline);
            watchdogs[free] = Some(timer);
            free as u64 + 1
        }
        Some(index) => {
            let running = watchdogs
                .get_mut(index)
                .and_then(|slot| slot.map(|timer| (slot, timer)));
            let (slot, timer) = running.ok_or(Errno::EINVAL)?;
            let mut timers = hv.timers.lock();
            if timeout == 0 {
                timers.remove(timer);
                *slot = None;
            } else {
                timers.set(timer, cpu, deadline);
            }
            0
        }
    };
    time::arm(hv);
    Ok(result)
}

/// Stops the watchdogs of a domain that is going.
pub fn stop_watchdogs(hv: &Hypervisor, domain: &Domain) {
    let timers = core::mem::take(&mut *domain.watchdogs.0.lock());
    for timer in timers.into_iter().flatten() {
        hv.timers.lock().remove(timer);
    }
}

/// A domain's watchdog was not poked in time.
pub fn watchdog_expired(hv: &Hypervisor, domain: &Domain) {
    let ended = {
        let life = domain.life.lock();
        lifecycle::is_dying(domain) || life.shutdown.is_some()
    };
    if !ended {
        lifecycle::shutdown(hv, domain, SHUTDOWN_WATCHDOG);
    }
}

#[cfg(test)]
mod tests;
