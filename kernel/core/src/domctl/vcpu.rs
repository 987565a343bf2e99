//! The operations on a vCPU of another domain.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hv_machine::Platform;
use hypercall_abi::arch_x86::VcpuGuestContext;
use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;
use zerocopy::{FromZeros, IntoBytes};

use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::should_preempt;
use crate::vcpu::{Vcpu, VcpuState};
use crate::{lifecycle, mmu, runstate, sched, vcpu_context};

/// Works on the state of a vCPU that does not run meanwhile.
///
/// # Errors
/// `EBUSY` where it is the caller's own, or somebody else's at this moment.
pub(super) fn while_paused<R>(
    cx: &Current<'_>,
    vcpu: &Arc<Vcpu>,
    work: impl FnOnce(&Arc<Vcpu>, &mut VcpuState) -> Result<R, Errno>,
) -> Result<R, Errno> {
    lifecycle::pause_vcpu(cx.hv, vcpu);
    // The CPU that runs it stops when the hypercall that it may be in has had its time. Toolstack's operations come one
    // at a time, so that it does not wait for the caller in turn.
    while vcpu.running.load(Ordering::SeqCst) && !Arc::ptr_eq(vcpu, cx.vcpu_arc) {
        hv_machine::relax();
    }
    let result = match vcpu.state.try_lock() {
        Some(mut state) => work(vcpu, &mut state),
        None => Err(Errno::EBUSY),
    };
    lifecycle::unpause_vcpu(cx.hv, vcpu);
    result
}

/// `XEN_DOMCTL_getvcpuinfo`.
///
/// # Errors
/// `EINVAL` for a vCPU that cannot be, `ESRCH` for one that is not there yet.
pub(super) fn info(cx: &Current<'_>, domain: &Domain, op: &mut Domctl) -> Result<bool, Errno> {
    let mut arm: DomctlGetvcpuinfo = op.u.get();
    if arm.vcpu >= domain.max_vcpus {
        return Err(Errno::EINVAL);
    }
    let vcpu = domain.vcpu(arm.vcpu).ok_or(Errno::ESRCH)?;
    arm.online = u8::from(!vcpu.down.load(Ordering::Acquire));
    arm.blocked = u8::from(vcpu.blocked.load(Ordering::Acquire));
    // One that has just blocked may be on its CPU still, which waits whether it is wanted again.
    let running = vcpu.running.load(Ordering::Acquire);
    arm.running = u8::from(running && vcpu.is_runnable());
    arm.cpu_time = runstate::running_time(cx.hv, &vcpu);
    arm.cpu = vcpu.seat.cpu();
    op.u.set(&arm);
    Ok(true)
}

/// `XEN_DOMCTL_setvcpucontext`; without a context the vCPU is brought down and forgets the one it has.
///
/// # Errors
/// `EINVAL` for the caller's own domain, one that is being taken apart, a vCPU that is not there, or a bad context;
/// `EOPNOTSUPP` for other tables than a vCPU has already; `EFAULT`, `ENOMEM`; `EBUSY` while it runs.
pub(super) fn set_context(
    cx: &Current<'_>,
    domain: &Arc<Domain>,
    op: &Domctl,
) -> Result<bool, Errno> {
    let arm: DomctlVcpucontext = op.u.get();
    // Tables that are taken when the others have been given back would never be let go of.
    if Arc::ptr_eq(domain, cx.domain_arc) || lifecycle::is_dying(domain) {
        return Err(Errno::EINVAL);
    }
    let vcpu = domain.vcpu(arm.vcpu).ok_or(Errno::EINVAL)?;
    let context = if arm.ctxt.is_null() {
        None
    } else {
        let mut context = VcpuGuestContext::new_box_zeroed().map_err(|_| Errno::ENOMEM)?;
        let bytes = context.as_mut_bytes();
        cx.machine()
            .copy_from_guest(arm.ctxt.address(), bytes)
            .map_err(|_| Errno::EFAULT)?;
        Some(context)
    };
    // The domain's other vCPUs may run.
    let _hold = mmu::hold_tables(cx, domain.id);
    while_paused(cx, &vcpu, |vcpu, state| match &context {
        Some(context) => {
            let out_of_time = &mut || should_preempt(cx);
            vcpu_context::apply(cx.hv, domain, vcpu, state, context, out_of_time)
        }
        None => {
            cx.hv.reserve_heap(lifecycle::NEW_DOMAIN_HEAP)?;
            vcpu.down.store(true, Ordering::Release);
            lifecycle::release_tables(cx.hv, state);
            *state = VcpuState::default();
            Ok(())
        }
    })?;
    if context.is_none() && !mmu::settle(cx, domain.id) {
        // The same once more does nothing but to go on with the tables.
        return Err(Errno::ERESTART);
    }
    sched::wake(cx.hv, &vcpu);
    Ok(false)
}

/// `XEN_DOMCTL_getvcpucontext`.
///
/// # Errors
/// `EINVAL` for the caller itself or a vCPU that is not there, `ENODATA` before it has a context, `EBUSY` while it
/// runs, `EFAULT`, `ENOMEM`.
pub(super) fn get_context(cx: &Current<'_>, domain: &Domain, op: &Domctl) -> Result<bool, Errno> {
    let arm: DomctlVcpucontext = op.u.get();
    let vcpu = domain.vcpu(arm.vcpu).ok_or(Errno::EINVAL)?;
    if Arc::ptr_eq(&vcpu, cx.vcpu_arc) {
        return Err(Errno::EINVAL);
    }
    let context = while_paused(cx, &vcpu, |vcpu, state| {
        if !state.initialised {
            return Err(Errno::ENODATA);
        }
        vcpu_context::read(cx.hv, domain, vcpu, state)
    })?;
    cx.write_bytes(arm.ctxt.address(), context.as_bytes())?;
    Ok(false)
}

/// `XEN_DOMCTL_sendtrigger`: an NMI is all that a PV vCPU can be sent.
///
/// # Errors
/// `ESRCH` for a vCPU that is not there, `EINVAL` for the buttons of a machine, `ENOSYS` for other triggers.
pub(super) fn send_trigger(cx: &Current<'_>, domain: &Domain, op: &Domctl) -> Result<bool, Errno> {
    let arm: DomctlSendtrigger = op.u.get();
    let vcpu = domain.vcpu(arm.vcpu).ok_or(Errno::ESRCH)?;
    match arm.trigger {
        XEN_DOMCTL_SENDTRIGGER_NMI => {
            vcpu.nmi_requested.store(true, Ordering::Release);
            sched::kick(cx.hv, &vcpu);
            Ok(false)
        }
        XEN_DOMCTL_SENDTRIGGER_POWER | XEN_DOMCTL_SENDTRIGGER_SLEEP => Err(Errno::EINVAL),
        _ => Err(Errno::ENOSYS),
    }
}
