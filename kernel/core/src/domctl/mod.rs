//! `HYPERVISOR_domctl` (`xen/domctl.h`, interface version 0x15): the control domain's hold on all others.

mod access;
mod create;
mod info;
mod scheduling;
mod vcpu;

pub use info::domain_info;

use alloc::sync::Arc;

use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;

use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::{Args, HypercallResult, Stop};
use crate::lifecycle;

/// `HYPERVISOR_domctl(operation)`.
///
/// # Errors
/// `EPERM` for any caller but the control domain, `EFAULT`, `EACCES` for another interface version, `ESRCH` for a
/// domain that is not there, `ENOSYS` for an unknown operation; others by operation.
pub fn do_domctl(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let at = args[0];
    let mut op: Domctl = cx.read(at)?;
    if op.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    let changed = match op.cmd {
        XEN_DOMCTL_CREATEDOMAIN => create::create(cx, &mut op)?,
        XEN_DOMCTL_GETDOMAININFO => info::get_domain_info(cx, &mut op)?,
        XEN_DOMCTL_DESTROYDOMAIN => {
            let domain = other_domain(cx, &op)?;
            let deadline = cx.deadline;
            let machine = cx.machine();
            let mut out_of_time = || hv_machine::Platform::tsc(machine) >= deadline;
            if !lifecycle::destroy(cx.hv, &domain, &mut out_of_time) {
                return Err(Stop::Again(*args));
            }
            false
        }
        _ => {
            let domain = cx.hv.domain(op.domain)?;
            apply(cx, &domain, &mut op)?
        }
    };
    if changed {
        cx.write(at, &op)?;
    }
    Ok(0)
}

/// The domain that an operation names, which must not be the caller's own.
fn other_domain(cx: &Current<'_>, op: &Domctl) -> Result<Arc<Domain>, Errno> {
    let domain = cx.hv.domain(op.domain)?;
    if Arc::ptr_eq(&domain, cx.domain) {
        Err(Errno::EINVAL)
    } else {
        Ok(domain)
    }
}

/// The operations on a domain that exists; returns whether the caller's struct is to be written back.
fn apply(cx: &mut Current<'_>, domain: &Arc<Domain>, op: &mut Domctl) -> Result<bool, Errno> {
    match op.cmd {
        XEN_DOMCTL_PAUSEDOMAIN => {
            lifecycle::toolstack_pause(cx.hv, &*other_domain(cx, op)?);
            Ok(false)
        }
        XEN_DOMCTL_UNPAUSEDOMAIN => lifecycle::toolstack_unpause(cx.hv, domain).map(|()| false),
        XEN_DOMCTL_RESUMEDOMAIN => {
            lifecycle::resume(cx.hv, &*other_domain(cx, op)?);
            Ok(false)
        }
        XEN_DOMCTL_SETDOMAINHANDLE => {
            let arm: DomctlSetdomainhandle = op.u.get();
            *domain.handle.lock() = arm.handle;
            Ok(false)
        }
        XEN_DOMCTL_MAX_MEM => {
            let arm: DomctlMaxMem = op.u.get();
            domain
                .owner
                .set_max_frames((arm.max_memkb >> 2).min(u64::from(u32::MAX)));
            Ok(false)
        }
        XEN_DOMCTL_SETTIMEOFFSET => {
            let arm: DomctlSettimeoffset = op.u.get();
            domain.time_offset.store(
                arm.time_offset_seconds as u64,
                core::sync::atomic::Ordering::Relaxed,
            );
            crate::time::publish_wall_clock(cx.hv, domain);
            Ok(false)
        }
        XEN_DOMCTL_SET_ADDRESS_SIZE => match op.u.get::<DomctlAddressSize>().size {
            64 => Ok(false),
            _ => Err(Errno::EINVAL),
        },
        XEN_DOMCTL_GET_ADDRESS_SIZE => {
            op.u.set(&DomctlAddressSize { size: 64 });
            Ok(true)
        }
        XEN_DOMCTL_MAX_VCPUS => create::max_vcpus(cx, domain, op),
        XEN_DOMCTL_HYPERCALL_INIT => create::hypercall_init(cx, domain, op),
        XEN_DOMCTL_SET_CPU_POLICY => create::set_cpu_policy(cx, domain, op),
        XEN_DOMCTL_GETPAGEFRAMEINFO3 => info::page_frame_info(cx, domain, op),
        XEN_DOMCTL_GETVCPUINFO => vcpu::info(cx, domain, op),
        XEN_DOMCTL_SETVCPUCONTEXT => vcpu::set_context(cx, domain, op),
        XEN_DOMCTL_GETVCPUCONTEXT => vcpu::get_context(cx, domain, op),
        XEN_DOMCTL_SETVCPUAFFINITY | XEN_DOMCTL_GETVCPUAFFINITY => {
            scheduling::affinity(cx, domain, op)
        }
        XEN_DOMCTL_SCHEDULER_OP => scheduling::scheduler_op(cx, domain, op),
        XEN_DOMCTL_IRQ_PERMISSION => access::irq(cx, domain, op),
        XEN_DOMCTL_IOMEM_PERMISSION => access::io_memory(cx, domain, op),
        XEN_DOMCTL_IOPORT_PERMISSION => access::ports(cx, domain, op),
        XEN_DOMCTL_SENDTRIGGER => vcpu::send_trigger(cx, domain, op),
        _ => Err(Errno::ENOSYS),
    }
}
