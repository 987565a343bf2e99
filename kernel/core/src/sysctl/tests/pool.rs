//! The scheduler and the one CPU pool.

use super::*;

fn scheduler_op(cmd: u32, parameters: SysctlCreditSchedule) -> SysctlSchedulerOp {
    let mut arm = SysctlSchedulerOp {
        sched_id: XEN_SCHEDULER_CREDIT,
        cmd,
        ..Default::default()
    };
    arm.u.set(&parameters);
    arm
}

#[test]
fn the_credit_schedulers_slice_is_read_and_set() {
    let host = Host::new();
    let id = succeed(&host, XEN_SYSCTL_SCHED_ID, &SysctlSchedId { sched_id: 0 });
    assert_eq!(id.sched_id, XEN_SCHEDULER_CREDIT);
    let get = || {
        let arm = scheduler_op(XEN_SYSCTL_SCHEDOP_GETINFO, Default::default());
        let parameters: SysctlCreditSchedule =
            succeed(&host, XEN_SYSCTL_SCHEDULER_OP, &arm).u.get();
        (parameters.tslice_ms, parameters.ratelimit_us)
    };
    assert_eq!(get(), (30, 1000));
    let put = |tslice_ms, ratelimit_us, vcpu_migr_delay_us| {
        let wanted = SysctlCreditSchedule {
            tslice_ms,
            ratelimit_us,
            vcpu_migr_delay_us,
        };
        let arm = scheduler_op(XEN_SYSCTL_SCHEDOP_PUTINFO, wanted);
        let (result, arm) = call(&host, XEN_SYSCTL_SCHEDULER_OP, &arm);
        (result, arm.u.get::<SysctlCreditSchedule>())
    };
    let (result, effective) = put(5, 0, 70);
    assert_eq!(result, 0);
    assert_eq!(effective.vcpu_migr_delay_us, 0);
    assert_eq!(get(), (5, 0));
    for (slice, limit, delay) in [
        (0, 0, 0),
        (1001, 0, 0),
        (10, 99, 0),
        (1000, 500_001, 0),
        (1, 1001, 0),
        (10, 0, 100_001),
        (u32::MAX, u32::MAX, u32::MAX),
    ] {
        assert_eq!(put(slice, limit, delay).0, Errno::EINVAL.to_return());
    }
    assert_eq!(get(), (5, 0));
}

#[test]
fn another_scheduler_or_pool_is_refused() {
    let host = Host::new();
    let good = scheduler_op(XEN_SYSCTL_SCHEDOP_GETINFO, Default::default());
    for (arm, errno) in [
        (SysctlSchedulerOp { cmd: 2, ..good }, Errno::EINVAL),
        (
            SysctlSchedulerOp {
                sched_id: XEN_SCHEDULER_CREDIT + 1,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            SysctlSchedulerOp {
                cpupool_id: 1,
                ..good
            },
            Errno::ESRCH,
        ),
    ] {
        fail(&host, XEN_SYSCTL_SCHEDULER_OP, &arm, errno);
    }
}

#[test]
fn there_is_one_pool_and_it_has_all_processors_and_domains() {
    let host = Host::new();
    let map = host.put(DOM0, &u64::MAX);
    let arm = SysctlCpupoolOp {
        op: XEN_SYSCTL_CPUPOOL_OP_INFO,
        cpumap: bitmap(map, 64),
        ..Default::default()
    };
    let info = succeed(&host, XEN_SYSCTL_CPUPOOL_OP, &arm);
    assert_eq!((info.cpupool_id, info.n_dom), (0, 2));
    assert_eq!(info.sched_id, XEN_SCHEDULER_CREDIT);
    assert_eq!(host.get::<u64>(DOM0, map), 1);
    let free = SysctlCpupoolOp {
        op: XEN_SYSCTL_CPUPOOL_OP_FREEINFO,
        ..arm
    };
    succeed(&host, XEN_SYSCTL_CPUPOOL_OP, &free);
    assert_eq!(host.get::<u64>(DOM0, map), 0);
    let bad = SysctlCpupoolOp {
        cpumap: bitmap(UNMAPPED, 64),
        ..arm
    };
    fail(&host, XEN_SYSCTL_CPUPOOL_OP, &bad, Errno::EFAULT);
    let bad = SysctlCpupoolOp { op: free.op, ..bad };
    fail(&host, XEN_SYSCTL_CPUPOOL_OP, &bad, Errno::EFAULT);
}

#[test]
fn the_pool_cannot_be_changed() {
    let host = Host::new();
    let any = XEN_SYSCTL_CPUPOOL_PAR_ANY;
    let u32_of = |domain: Domid| u32::from(domain.0);
    // Operation, pool, CPU, domain.
    for (op, cpupool_id, cpu, domid, errno) in [
        (XEN_SYSCTL_CPUPOOL_OP_CREATE, 0, 0, 0, Some(Errno::EEXIST)),
        (XEN_SYSCTL_CPUPOOL_OP_CREATE, any, 0, 0, Some(Errno::EINVAL)),
        (XEN_SYSCTL_CPUPOOL_OP_DESTROY, 0, 0, 0, Some(Errno::EBUSY)),
        (XEN_SYSCTL_CPUPOOL_OP_DESTROY, 1, 0, 0, Some(Errno::ENOENT)),
        (XEN_SYSCTL_CPUPOOL_OP_INFO, 1, 0, 0, Some(Errno::ENOENT)),
        (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 1, 0, 0, Some(Errno::ENOENT)),
        (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 0, any, 0, Some(Errno::ENODEV)),
        (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 0, 0, 0, Some(Errno::ENODEV)),
        (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 0, 64, 0, Some(Errno::EINVAL)),
        (XEN_SYSCTL_CPUPOOL_OP_RMCPU, 1, 0, 0, Some(Errno::ENOENT)),
        (XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, any, 0, Some(Errno::EBUSY)),
        (XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, 0, 0, Some(Errno::EBUSY)),
        (XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, 64, 0, Some(Errno::EINVAL)),
        (
            XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
            0,
            0,
            u32_of(DOM0),
            Some(Errno::EPERM),
        ),
        (
            XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
            0,
            0,
            9,
            Some(Errno::ESRCH),
        ),
        (
            XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
            0,
            0,
            0x1_0001,
            Some(Errno::ESRCH),
        ),
        (
            XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
            1,
            0,
            u32_of(DOMU),
            Some(Errno::ENOENT),
        ),
        (XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 0, 0, u32_of(DOMU), None),
        (99, 0, 0, 0, Some(Errno::ENOSYS)),
    ] {
        let arm = SysctlCpupoolOp {
            op,
            cpupool_id,
            cpu,
            domid,
            ..Default::default()
        };
        let expected = errno.map_or(0, Errno::to_return);
        let (result, _) = call(&host, XEN_SYSCTL_CPUPOOL_OP, &arm);
        assert_eq!(result, expected, "{op} {cpupool_id} {cpu} {domid}");
    }
}
