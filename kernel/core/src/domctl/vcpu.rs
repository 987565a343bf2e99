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
use crate::vcpu::{Vcpu, VcpuState};
use crate::{lifecycle, runstate, sched, vcpu_context};

fn find(domain: &Domain, id: u32) -> Result<Arc<Vcpu>, Errno> {
    if id >= domain.max_vcpus {
        return Err(Errno::EINVAL);
    }
    domain.vcpu(id).ok_or(Errno::ESRCH)
}

/// `XEN_DOMCTL_getvcpuinfo`.
///
/// # Errors
/// `ESRCH` where there is no such vCPU.
pub(super) fn info(cx: &Current<'_>, domain: &Domain, op: &mut Domctl) -> Result<bool, Errno> {
    let mut arm: DomctlGetvcpuinfo = op.u.get();
    let vcpu = domain.vcpu(arm.vcpu).ok_or(Errno::ESRCH)?;
    arm.online = u8::from(!vcpu.down.load(Ordering::Acquire));
    arm.blocked = u8::from(vcpu.blocked.load(Ordering::Acquire));
    arm.running = u8::from(vcpu.running.load(Ordering::Acquire));
    arm.cpu_time = runstate::running_time(cx.hv, &vcpu);
    arm.cpu = vcpu.seat.cpu();
    op.u.set(&arm);
    Ok(true)
}

/// `XEN_DOMCTL_setvcpucontext`; without a context the vCPU is brought down and forgets the one it has.
///
/// # Errors
/// `EINVAL` for an own vCPU, one that cannot be, or a bad context; `ESRCH`, `EFAULT`; `EBUSY` while it runs.
pub(super) fn set_context(
    cx: &Current<'_>,
    domain: &Arc<Domain>,
    op: &Domctl,
) -> Result<bool, Errno> {
    let arm: DomctlVcpucontext = op.u.get();
    if Arc::ptr_eq(domain, cx.domain) {
        return Err(Errno::EINVAL);
    }
    let vcpu = find(domain, arm.vcpu)?;
    if lifecycle::is_dying(domain) {
        return Err(Errno::EINVAL);
    }
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
    lifecycle::pause(cx.hv, domain);
    let result = vcpu
        .state
        .try_lock()
        .ok_or(Errno::EBUSY)
        .and_then(|mut state| match &context {
            Some(context) => vcpu_context::apply(cx.hv, domain, &vcpu, &mut state, context),
            None => {
                vcpu.down.store(true, Ordering::Release);
                lifecycle::release_tables(cx.hv, &mut state);
                *state = VcpuState::default();
                Ok(())
            }
        });
    lifecycle::unpause(cx.hv, domain);
    sched::wake(cx.hv, &vcpu);
    result.map(|()| false)
}

/// `XEN_DOMCTL_getvcpucontext`.
///
/// # Errors
/// `EINVAL` for an own vCPU or one that cannot be, `ESRCH`, `ENODATA` before it has a context, `EBUSY` while it
/// runs, `EFAULT`.
pub(super) fn get_context(
    cx: &Current<'_>,
    domain: &Arc<Domain>,
    op: &Domctl,
) -> Result<bool, Errno> {
    let arm: DomctlVcpucontext = op.u.get();
    if Arc::ptr_eq(domain, cx.domain) {
        return Err(Errno::EINVAL);
    }
    let vcpu = find(domain, arm.vcpu)?;
    lifecycle::pause(cx.hv, domain);
    let context = vcpu.state.try_lock().ok_or(Errno::EBUSY).and_then(|state| {
        if !state.initialised {
            return Err(Errno::ENODATA);
        }
        vcpu_context::read(cx.hv, domain, &vcpu, &state)
    });
    lifecycle::unpause(cx.hv, domain);
    let context = context?;
    cx.write_bytes(arm.ctxt.address(), context.as_bytes())?;
    Ok(false)
}

/// `XEN_DOMCTL_sendtrigger`: an NMI is all that a PV vCPU can be sent.
///
/// # Errors
/// `EINVAL` for a vCPU that cannot be, `ESRCH`, `ENOSYS` for another trigger.
pub(super) fn send_trigger(cx: &Current<'_>, domain: &Domain, op: &Domctl) -> Result<bool, Errno> {
    let arm: DomctlSendtrigger = op.u.get();
    let vcpu = find(domain, arm.vcpu)?;
    match arm.trigger {
        XEN_DOMCTL_SENDTRIGGER_NMI => {
            vcpu.nmi_requested.store(true, Ordering::Release);
            sched::kick(cx.hv, &vcpu);
            Ok(false)
        }
        _ => Err(Errno::ENOSYS),
    }
}
