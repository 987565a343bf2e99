//! Where a domain's vCPUs may run, and its share of the processors.

use hv_machine::Platform;
use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;

use crate::bitmap;
use crate::current::Current;
use crate::domain::Domain;
use crate::sched::{self, Parameters, Scheduler};

/// Most CPUs that the hypervisor runs on.
const MAX_CPUS: u32 = 64;

/// `XEN_DOMCTL_{set,get}vcpuaffinity`. Only hard affinity is kept; soft affinity is a hint that asks for all CPUs.
///
/// # Errors
/// `ESRCH`, `EFAULT`; `EINVAL` where no flag is set, or no CPU would be left.
pub(super) fn affinity(cx: &Current<'_>, domain: &Domain, op: &mut Domctl) -> Result<bool, Errno> {
    let arm: DomctlVcpuaffinity = op.u.get();
    let vcpu = domain.vcpu(arm.vcpu).ok_or(Errno::ESRCH)?;
    let known = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT | XEN_VCPUAFFINITY_FORCE;
    if arm.flags & !known != 0 || arm.flags & (XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT) == 0 {
        return Err(Errno::EINVAL);
    }
    let all = u64::MAX >> (MAX_CPUS - cx.machine().cpu_count().clamp(1, MAX_CPUS));
    if op.cmd == XEN_DOMCTL_GETVCPUAFFINITY {
        if arm.flags & XEN_VCPUAFFINITY_HARD != 0 {
            bitmap::write(cx, &arm.cpumap_hard, sched::affinity(cx.hv, &vcpu) & all)?;
        }
        if arm.flags & XEN_VCPUAFFINITY_SOFT != 0 {
            bitmap::write(cx, &arm.cpumap_soft, all)?;
        }
        return Ok(false);
    }
    if arm.flags & XEN_VCPUAFFINITY_HARD != 0 {
        let cpus = bitmap::read(cx, &arm.cpumap_hard)? & all;
        if cpus == 0 {
            return Err(Errno::EINVAL);
        }
        sched::set_affinity(cx.hv, &vcpu, cpus);
        bitmap::write(cx, &arm.cpumap_hard, cpus)?;
    }
    if arm.flags & XEN_VCPUAFFINITY_SOFT != 0 {
        if bitmap::read(cx, &arm.cpumap_soft)? & all == 0 {
            return Err(Errno::EINVAL);
        }
        bitmap::write(cx, &arm.cpumap_soft, all)?;
    }
    Ok(false)
}

/// `XEN_DOMCTL_scheduler_op` of the credit scheduler.
///
/// # Errors
/// `EINVAL` for another scheduler, an unknown command or a share that cannot be; `EOPNOTSUPP` for shares by vCPU.
pub(super) fn scheduler_op(
    cx: &Current<'_>,
    domain: &Domain,
    op: &mut Domctl,
) -> Result<bool, Errno> {
    let mut arm: DomctlSchedulerOp = op.u.get();
    if arm.sched_id != XEN_SCHEDULER_CREDIT {
        return Err(Errno::EINVAL);
    }
    let mut scheduler = cx.hv.scheduler.lock();
    let current = scheduler.parameters(domain.id).unwrap_or_default();
    match arm.cmd {
        XEN_DOMCTL_SCHEDOP_GETINFO => {
            arm.u.set(&DomctlSchedCredit {
                weight: current.weight,
                cap: current.cap,
            });
            op.u.set(&arm);
            Ok(true)
        }
        XEN_DOMCTL_SCHEDOP_PUTINFO => {
            let wanted: DomctlSchedCredit = arm.u.get();
            let weight = if wanted.weight == 0 {
                current.weight
            } else {
                wanted.weight
            };
            // All ones leaves the cap as it is.
            let cap = if wanted.cap == u16::MAX {
                current.cap
            } else {
                wanted.cap
            };
            scheduler.set_parameters(domain.id, Parameters { weight, cap });
            Ok(false)
        }
        XEN_DOMCTL_SCHEDOP_GETVCPUINFO | XEN_DOMCTL_SCHEDOP_PUTVCPUINFO => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}
