//! The scheduler and CPU pools, of which there is one, number 0, with all CPUs.

use hypercall_abi::domctl::XEN_SCHEDULER_CREDIT;
use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::*;
use hypercall_abi::types::Domid;

use hv_machine::Platform;

use crate::bitmap;
use crate::current::Current;

/// The one pool.
const POOL: u32 = 0;

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_US: u64 = 1_000;

/// `XEN_SYSCTL_scheduler_op`. The null scheduler has nothing to say or to set. The credit scheduler knows no delay for migration, so that a wish for one has no
/// effect and reads back as 0.
///
/// # Errors
/// `EINVAL` for an unknown command, another scheduler, or parameters out of range; `ESRCH` for another pool.
pub(super) fn scheduler(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlSchedulerOp = op.u.get();
    if !matches!(
        arm.cmd,
        XEN_SYSCTL_SCHEDOP_PUTINFO | XEN_SYSCTL_SCHEDOP_GETINFO
    ) {
        return Err(Errno::EINVAL);
    }
    if arm.cpupool_id != POOL {
        return Err(Errno::ESRCH);
    }
    let mut scheduler = cx.hv.scheduler.lock();
    if arm.sched_id != scheduler.id() {
        return Err(Errno::EINVAL);
    }
    if arm.sched_id != XEN_SCHEDULER_CREDIT {
        return Ok(());
    }
    if arm.cmd == XEN_SYSCTL_SCHEDOP_PUTINFO {
        let wanted: SysctlCreditSchedule = arm.u.get();
        let slice = u64::from(wanted.tslice_ms) * NS_PER_MS;
        let limit = u64::from(wanted.ratelimit_us) * NS_PER_US;
        let slices = XEN_SYSCTL_CSCHED_TSLICE_MIN..=XEN_SYSCTL_CSCHED_TSLICE_MAX;
        let limits = XEN_SYSCTL_SCHED_RATELIMIT_MIN..=XEN_SYSCTL_SCHED_RATELIMIT_MAX;
        if !slices.contains(&wanted.tslice_ms)
            || limit != 0 && !limits.contains(&wanted.ratelimit_us)
            || limit > slice
            || wanted.vcpu_migr_delay_us > XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US
        {
            return Err(Errno::EINVAL);
        }
        scheduler.set_slice(slice, limit);
    }
    let (slice, limit) = scheduler.slice();
    arm.u.set(&SysctlCreditSchedule {
        tslice_ms: (slice / NS_PER_MS) as u32,
        ratelimit_us: (limit / NS_PER_US) as u32,
        vcpu_migr_delay_us: 0,
    });
    op.u.set(&arm);
    Ok(())
}

/// `XEN_SYSCTL_cpupool_op`.
///
/// # Errors
/// `ENOENT` for another pool; `EEXIST` for making pool 0 and `EINVAL` for any other; `EBUSY` for taking pool 0 or its
/// CPUs away; `ENODEV` for a CPU that is not free; `EINVAL` for one that is not there; `EPERM` and `ESRCH` for moving
/// the caller's own domain and one that is not there; `EFAULT`; `ENOSYS` for an unknown operation.
pub(super) fn pool(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlCpupoolOp = op.u.get();
    let cpus = cx.machine().cpu_count();
    let named = if arm.cpupool_id == POOL {
        Ok(())
    } else {
        Err(Errno::ENOENT)
    };
    match arm.op {
        XEN_SYSCTL_CPUPOOL_OP_CREATE if arm.cpupool_id == POOL => Err(Errno::EEXIST),
        XEN_SYSCTL_CPUPOOL_OP_CREATE => Err(Errno::EINVAL),
        XEN_SYSCTL_CPUPOOL_OP_DESTROY => named.and(Err(Errno::EBUSY)),
        XEN_SYSCTL_CPUPOOL_OP_INFO => {
            named?;
            arm.sched_id = cx.hv.scheduler.lock().id();
            arm.n_dom = cx.hv.domains.read().len() as u32;
            bitmap::write(cx, &arm.cpumap, super::host::all_cpus(cx))?;
            op.u.set(&arm);
            Ok(())
        }
        XEN_SYSCTL_CPUPOOL_OP_ADDCPU => {
            named?;
            match arm.cpu {
                XEN_SYSCTL_CPUPOOL_PAR_ANY => Err(Errno::ENODEV),
                cpu if cpu >= cpus => Err(Errno::EINVAL),
                _ => Err(Errno::ENODEV),
            }
        }
        XEN_SYSCTL_CPUPOOL_OP_RMCPU => {
            named?;
            match arm.cpu {
                XEN_SYSCTL_CPUPOOL_PAR_ANY => Err(Errno::EBUSY),
                cpu if cpu >= cpus => Err(Errno::EINVAL),
                _ => Err(Errno::EBUSY),
            }
        }
        XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN => {
            let id = u16::try_from(arm.domid).map_err(|_| Errno::ESRCH)?;
            if Domid(id) == cx.domain.id {
                return Err(Errno::EPERM);
            }
            cx.hv.domain(Domid(id))?;
            named
        }
        XEN_SYSCTL_CPUPOOL_OP_FREEINFO => bitmap::write(cx, &arm.cpumap, 0),
        _ => Err(Errno::ENOSYS),
    }
}
