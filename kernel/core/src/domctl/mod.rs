//! `HYPERVISOR_domctl` (`xen/domctl.h`, interface version 0x15): the control domain's hold on all others.

mod access;
mod create;
mod info;
mod policy;
mod scheduling;
mod state;
mod vcpu;

pub use info::domain_info;

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;

use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::{Args, HypercallResult, begin_clock, should_preempt};
use crate::{event, lifecycle};

/// `HYPERVISOR_domctl(operation)`.
///
/// # Errors
/// `EFAULT`, `EACCES` for another interface version, `EPERM` for any caller but the control domain, `ESRCH` for a
/// domain that is not there, `ENOSYS` for an unknown operation; others by operation.
pub fn do_domctl(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    begin_clock(cx);
    let at = args[0];
    let mut op: Domctl = cx.read(at)?;
    if op.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    // Before the domain is looked up, so that nobody learns which there are.
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let hv = cx.hv;
    let Some(_alone) = hv.toolstack.try_lock() else {
        return Err(cx.again(*args));
    };
    let result = match op.cmd {
        XEN_DOMCTL_CREATEDOMAIN => create::create(cx, &mut op),
        XEN_DOMCTL_GETDOMAININFO => info::get_domain_info(cx, &mut op),
        XEN_DOMCTL_DESTROYDOMAIN => {
            let domain = other_domain(cx, &op)?;
            let mut out_of_time = || should_preempt(cx);
            if !lifecycle::destroy(hv, &domain, &mut out_of_time) {
                return Err(cx.again(*args));
            }
            Ok(false)
        }
        _ => {
            let domain = hv.domain(op.domain)?;
            apply(cx, &domain, &mut op)
        }
    };
    if result.unwrap_or_else(|_| tells_of_failure(op.cmd)) {
        cx.write(at, &op)?;
    }
    result?;
    Ok(0)
}

/// Whether an operation that fails says in the caller's struct how far it came, or what it refused.
fn tells_of_failure(cmd: u32) -> bool {
    matches!(
        cmd,
        XEN_DOMCTL_SET_CPU_POLICY | XEN_DOMCTL_GET_VCPU_MSRS | XEN_DOMCTL_SET_VCPU_MSRS
    )
}

/// The domain that an operation names, which must not be the caller's own.
fn other_domain(cx: &Current<'_>, op: &Domctl) -> Result<Arc<Domain>, Errno> {
    let domain = cx.hv.domain(op.domain)?;
    if Arc::ptr_eq(&domain, cx.domain_arc) {
        Err(Errno::EINVAL)
    } else {
        Ok(domain)
    }
}

/// The operations on a domain that exists; returns whether the caller's struct is to be written back.
fn apply(cx: &Current<'_>, domain: &Arc<Domain>, op: &mut Domctl) -> Result<bool, Errno> {
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
            let seconds = arm.time_offset_seconds as u64;
            domain.time_offset.store(seconds, Ordering::Relaxed);
            // A domain that is going may have lost its shared-info page.
            let _life = domain.life.lock();
            if !lifecycle::is_dying(domain) {
                crate::time::publish_wall_clock(cx.hv, domain);
            }
            Ok(false)
        }
        XEN_DOMCTL_SET_ADDRESS_SIZE => match op.u.get::<DomctlAddressSize>().size {
            64 => Ok(false),
            32 => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EINVAL),
        },
        XEN_DOMCTL_GET_ADDRESS_SIZE => {
            op.u.set(&DomctlAddressSize { size: 64 });
            Ok(true)
        }
        XEN_DOMCTL_SUBSCRIBE => {
            let arm: DomctlSubscribe = op.u.get();
            domain.suspend_port.store(arm.port.0, Ordering::Relaxed);
            Ok(false)
        }
        XEN_DOMCTL_SET_VIRQ_HANDLER => {
            let arm: DomctlSetVirqHandler = op.u.get();
            event::set_virq_handler(cx.hv, domain, arm.virq).map(|()| false)
        }
        XEN_DOMCTL_SETDEBUGGING => state::set_debugging(cx, domain, op),
        XEN_DOMCTL_MAX_VCPUS => create::max_vcpus(cx, domain, op),
        XEN_DOMCTL_HYPERCALL_INIT => create::hypercall_init(cx, domain, op),
        XEN_DOMCTL_GET_CPU_POLICY => policy::get(cx, domain, op),
        XEN_DOMCTL_SET_CPU_POLICY => policy::set(cx, domain, op),
        XEN_DOMCTL_GETPAGEFRAMEINFO3 => info::page_frame_info(cx, domain, op),
        XEN_DOMCTL_GETVCPUINFO => vcpu::info(cx, domain, op),
        XEN_DOMCTL_SETVCPUCONTEXT => vcpu::set_context(cx, domain, op),
        XEN_DOMCTL_GETVCPUCONTEXT => vcpu::get_context(cx, domain, op),
        XEN_DOMCTL_SENDTRIGGER => vcpu::send_trigger(cx, domain, op),
        XEN_DOMCTL_GETVCPUEXTSTATE => state::get_extended(cx, domain, op),
        XEN_DOMCTL_SETVCPUEXTSTATE => state::set_extended(cx, domain, op),
        XEN_DOMCTL_GET_VCPU_MSRS => state::get_msrs(cx, domain, op),
        XEN_DOMCTL_SET_VCPU_MSRS => state::set_msrs(cx, domain, op),
        XEN_DOMCTL_GET_EXT_VCPUCONTEXT => state::get_entries(cx, domain, op),
        XEN_DOMCTL_SET_EXT_VCPUCONTEXT => state::set_entries(cx, domain, op),
        XEN_DOMCTL_GETTSCINFO => state::get_tsc(cx, domain, op),
        XEN_DOMCTL_SETTSCINFO => state::set_tsc(cx, domain, op),
        XEN_DOMCTL_SETVCPUAFFINITY | XEN_DOMCTL_GETVCPUAFFINITY => {
            scheduling::affinity(cx, domain, op)
        }
        XEN_DOMCTL_SETNODEAFFINITY => scheduling::set_nodes(cx, op),
        XEN_DOMCTL_GETNODEAFFINITY => scheduling::get_nodes(cx, op),
        XEN_DOMCTL_SCHEDULER_OP => scheduling::scheduler_op(cx, domain, op),
        XEN_DOMCTL_IRQ_PERMISSION => access::irq(cx, domain, op),
        XEN_DOMCTL_IOMEM_PERMISSION => access::io_memory(cx, domain, op),
        XEN_DOMCTL_IOPORT_PERMISSION => access::ports(cx, domain, op),
        XEN_DOMCTL_MEMORY_MAPPING => access::memory_mapping(cx, domain, op),
        _ => Err(not_for_pv(cx, domain, op)),
    }
}

/// Why an operation is refused that works on other kinds of domains, or on hosts that have more: for a PV domain as
/// Xen, for what a host may lack as a Xen that was built without it.
fn not_for_pv(cx: &Current<'_>, domain: &Arc<Domain>, op: &Domctl) -> Errno {
    match op.cmd {
        XEN_DOMCTL_GETHVMCONTEXT
        | XEN_DOMCTL_SETHVMCONTEXT
        | XEN_DOMCTL_GETHVMCONTEXT_PARTIAL
        | XEN_DOMCTL_BIND_PT_IRQ
        | XEN_DOMCTL_UNBIND_PT_IRQ
        | XEN_DOMCTL_DEBUG_OP
        | XEN_DOMCTL_SET_BROKEN_PAGE_P2M
        | XEN_DOMCTL_SOFT_RESET
        | XEN_DOMCTL_VMTRACE_OP => Errno::EINVAL,
        XEN_DOMCTL_SHADOW_OP if Arc::ptr_eq(domain, cx.domain_arc) => Errno::EINVAL,
        XEN_DOMCTL_IOPORT_MAPPING
        | XEN_DOMCTL_SHADOW_OP
        | XEN_DOMCTL_MONITOR_OP
        | XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE
        | XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE
        | XEN_DOMCTL_ASSIGN_DEVICE
        | XEN_DOMCTL_TEST_ASSIGN_DEVICE
        | XEN_DOMCTL_DEASSIGN_DEVICE
        | XEN_DOMCTL_GET_DEVICE_GROUP => Errno::EOPNOTSUPP,
        XEN_DOMCTL_SET_TARGET => {
            let arm: DomctlSetTarget = op.u.get();
            match cx.hv.domain(arm.target) {
                Err(errno) => errno,
                Ok(target) if Arc::ptr_eq(&target, domain) => Errno::EINVAL,
                Ok(_) => Errno::EOPNOTSUPP,
            }
        }
        XEN_DOMCTL_PSR_CMT_OP | XEN_DOMCTL_PSR_ALLOC => Errno::ENODEV,
        _ => Errno::ENOSYS,
    }
}

#[cfg(test)]
mod tests;
