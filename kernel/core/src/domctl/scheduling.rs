//! Where a domain's vCPUs may run, and its share of the processors.

use hv_machine::Platform;
use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;

use crate::bitmap;
use crate::current::Current;
use crate::domain::Domain;
use crate::sched::{self, Parameters};

/// `XEN_DOMCTL_{set,get}vcpuaffinity`. What is set is told in the caller's bitmaps as far as it has an effect.
///
/// # Errors
/// `EINVAL` for a vCPU that cannot be, without a flag or a bitmap, or where no CPU would be left; `ESRCH` for a vCPU
/// that is not there yet; `EFAULT`; `EBUSY` while the vCPU has limited itself and `FORCE` is not given.
pub(super) fn affinity(cx: &Current<'_>, domain: &Domain, op: &Domctl) -> Result<bool, Errno> {
    let arm: DomctlVcpuaffinity = op.u.get();
    if arm.vcpu >= domain.max_vcpus {
        return Err(Errno::EINVAL);
    }
    let vcpu = domain.vcpu(arm.vcpu).ok_or(Errno::ESRCH)?;
    let named = |flag| arm.flags & flag != 0;
    let (hard, soft) = (named(XEN_VCPUAFFINITY_HARD), named(XEN_VCPUAFFINITY_SOFT));
    let unusable =
        hard && arm.cpumap_hard.bitmap.is_null() || soft && arm.cpumap_soft.bitmap.is_null();
    if arm.flags == 0 || unusable {
        return Err(Errno::EINVAL);
    }
    let all = cpus(cx);
    if op.cmd == XEN_DOMCTL_SETVCPUAFFINITY {
        if named(XEN_VCPUAFFINITY_FORCE) {
            sched::end_pin_override(cx.hv, &vcpu);
        }
        let wanted = |flag, map| {
            if flag {
                bitmap::read(cx, map).map(Some)
            } else {
                Ok(None)
            }
        };
        let wanted_hard = wanted(hard, &arm.cpumap_hard)?;
        let wanted_soft = wanted(soft, &arm.cpumap_soft)?;
        if let Some(wanted) = wanted_hard {
            if wanted & all == 0 {
                return Err(Errno::EINVAL);
            }
            sched::set_hard_affinity(cx.hv, &vcpu, wanted & all)?;
        }
        if let Some(wanted) = wanted_soft {
            sched::set_soft_affinity(cx.hv, &vcpu, wanted);
        }
    }
    let allowed = sched::hard_affinity(cx.hv, &vcpu) & all;
    if hard {
        bitmap::write(cx, &arm.cpumap_hard, allowed)?;
    }
    if soft {
        let effective = match op.cmd {
            XEN_DOMCTL_SETVCPUAFFINITY => allowed,
            _ => all,
        };
        bitmap::write(cx, &arm.cpumap_soft, vcpu.seat.soft_affinity() & effective)?;
    }
    Ok(false)
}

/// One bit for each CPU.
fn cpus(cx: &Current<'_>) -> u64 {
    u64::MAX >> (u64::BITS - cx.machine().cpu_count().clamp(1, u64::BITS))
}

/// `XEN_DOMCTL_setnodeaffinity`: there is one node, which has everything, so that nothing needs to be kept.
///
/// # Errors
/// `EFAULT`, `EINVAL` for nodes that are all not there.
pub(super) fn set_nodes(cx: &Current<'_>, op: &Domctl) -> Result<bool, Errno> {
    let arm: DomctlNodeaffinity = op.u.get();
    match bitmap::read(cx, &arm.nodemap)? & 1 {
        0 => Err(Errno::EINVAL),
        _ => Ok(false),
    }
}

/// `XEN_DOMCTL_getnodeaffinity`.
///
/// # Errors
/// `EFAULT`.
pub(super) fn get_nodes(cx: &Current<'_>, op: &Domctl) -> Result<bool, Errno> {
    let arm: DomctlNodeaffinity = op.u.get();
    bitmap::write(cx, &arm.nodemap, 1)?;
    Ok(false)
}

/// `XEN_DOMCTL_scheduler_op`: the share by the credit scheduler; the null scheduler has nothing to say or to set.
///
/// # Errors
/// `EINVAL` for another scheduler than that of the host, an unknown command, or shares by vCPU, which no scheduler here
/// has.
pub(super) fn scheduler_op(
    cx: &Current<'_>,
    domain: &Domain,
    op: &mut Domctl,
) -> Result<bool, Errno> {
    let mut arm: DomctlSchedulerOp = op.u.get();
    let mut scheduler = cx.hv.scheduler.lock();
    if arm.sched_id != scheduler.id() {
        return Err(Errno::EINVAL);
    }
    if arm.sched_id != XEN_SCHEDULER_CREDIT {
        return match arm.cmd {
            XEN_DOMCTL_SCHEDOP_GETINFO | XEN_DOMCTL_SCHEDOP_PUTINFO => Ok(false),
            _ => Err(Errno::EINVAL),
        };
    }
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
        _ => Err(Errno::EINVAL),
    }
}
