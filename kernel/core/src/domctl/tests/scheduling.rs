use super::*;

use hv_machine::MachineRef;
use hypercall_abi::xen::XenctlBitmap;

const FOUR: u32 = 4;

fn host_with_four_processors() -> Host {
    let machine = hv_machine::sim::Machine::with_cpus(4096, FOUR);
    Host::with_machine(MachineRef::new(machine))
}

fn bitmap(address: u64, nr_bits: u32) -> XenctlBitmap {
    XenctlBitmap {
        bitmap: GuestHandle::new(address),
        nr_bits,
        ..Default::default()
    }
}

/// A wish for affinity, with bitmaps that hold `hard` and `soft`.
fn affinity(host: &Host, flags: u32, hard: u64, soft: u64) -> DomctlVcpuaffinity {
    DomctlVcpuaffinity {
        vcpu: 0,
        flags,
        cpumap_hard: bitmap(host.put(DOM0, &hard), 64),
        cpumap_soft: bitmap(host.put(DOM0, &soft), 64),
    }
}

fn maps(host: &Host, arm: &DomctlVcpuaffinity) -> (u64, u64) {
    (
        host.get(DOM0, arm.cpumap_hard.bitmap.address()),
        host.get(DOM0, arm.cpumap_soft.bitmap.address()),
    )
}

const BOTH: u32 = XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT;

#[test]
fn affinity_is_set_as_far_as_there_are_processors() {
    let host = host_with_four_processors();
    let get = || {
        let arm = affinity(&host, BOTH, u64::MAX, u64::MAX);
        succeed(&host, XEN_DOMCTL_GETVCPUAFFINITY, DOMU, &arm);
        maps(&host, &arm)
    };
    assert_eq!(get(), (0xf, 0xf));
    let arm = affinity(&host, BOTH, 0xf6, 0x0c);
    succeed(&host, XEN_DOMCTL_SETVCPUAFFINITY, DOMU, &arm);
    assert_eq!(maps(&host, &arm), (0x6, 0x4));
    assert_eq!(get(), (0x6, 0xc));
    let arm = affinity(&host, XEN_VCPUAFFINITY_HARD, 0x8, 0x55);
    succeed(&host, XEN_DOMCTL_SETVCPUAFFINITY, DOMU, &arm);
    assert_eq!(maps(&host, &arm), (0x8, 0x55));
    assert_eq!(get(), (0x8, 0xc));
}

#[test]
fn affinity_that_cannot_be_leaves_the_old_one() {
    let host = host_with_four_processors();
    let good = affinity(&host, BOTH, 0x3, 0x3);
    succeed(&host, XEN_DOMCTL_SETVCPUAFFINITY, DOMU, &good);
    let unmapped = bitmap(UNMAPPED, 64);
    for (arm, errno) in [
        (DomctlVcpuaffinity { vcpu: 1, ..good }, Errno::ESRCH),
        (DomctlVcpuaffinity { vcpu: 128, ..good }, Errno::EINVAL),
        (
            DomctlVcpuaffinity {
                vcpu: u32::MAX,
                ..good
            },
            Errno::EINVAL,
        ),
        (DomctlVcpuaffinity { flags: 0, ..good }, Errno::EINVAL),
        (
            DomctlVcpuaffinity {
                cpumap_hard: bitmap(0, 64),
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlVcpuaffinity {
                cpumap_soft: bitmap(0, 64),
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlVcpuaffinity {
                cpumap_hard: unmapped,
                ..good
            },
            Errno::EFAULT,
        ),
        (
            DomctlVcpuaffinity {
                cpumap_soft: unmapped,
                ..good
            },
            Errno::EFAULT,
        ),
        (affinity(&host, BOTH, 0xf0, 0x3), Errno::EINVAL),
        (
            DomctlVcpuaffinity {
                cpumap_hard: bitmap(good.cpumap_hard.bitmap.address(), 0),
                ..good
            },
            Errno::EINVAL,
        ),
    ] {
        fail(&host, XEN_DOMCTL_SETVCPUAFFINITY, DOMU, &arm, errno);
    }
    for arm in [
        DomctlVcpuaffinity {
            cpumap_hard: unmapped,
            ..good
        },
        DomctlVcpuaffinity {
            cpumap_soft: unmapped,
            ..good
        },
    ] {
        fail(&host, XEN_DOMCTL_GETVCPUAFFINITY, DOMU, &arm, Errno::EFAULT);
    }
    let vcpu = host.vcpu(DOMU);
    assert_eq!(crate::sched::hard_affinity(&host.hv, &vcpu), 0x3);
    assert_eq!(vcpu.seat.soft_affinity(), 0x3);
}

#[test]
fn a_vcpu_that_limits_itself_gives_way_to_force() {
    let host = host_with_four_processors();
    host.as_guest(DOMU, |cx| crate::sched::pin_override(cx, 1))
        .expect("a processor");
    let arm = affinity(&host, XEN_VCPUAFFINITY_HARD, 0xc, 0);
    fail(&host, XEN_DOMCTL_SETVCPUAFFINITY, DOMU, &arm, Errno::EBUSY);
    let vcpu = host.vcpu(DOMU);
    assert_eq!(crate::sched::affinity(&host.hv, &vcpu), 0x2);
    let forced = DomctlVcpuaffinity {
        flags: XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_FORCE,
        ..arm
    };
    succeed(&host, XEN_DOMCTL_SETVCPUAFFINITY, DOMU, &forced);
    assert_eq!(crate::sched::affinity(&host.hv, &vcpu), 0xc);
}

#[test]
fn a_domain_is_on_the_one_node() {
    let host = Host::new();
    let at = host.put(DOM0, &u64::MAX);
    let arm = |address, nr_bits| DomctlNodeaffinity {
        nodemap: bitmap(address, nr_bits),
    };
    succeed(&host, XEN_DOMCTL_GETNODEAFFINITY, DOMU, &arm(at, 64));
    assert_eq!(host.get::<u64>(DOM0, at), 1);
    succeed(&host, XEN_DOMCTL_SETNODEAFFINITY, DOMU, &arm(at, 64));
    host.put_at(DOM0, at, &2_u64);
    let bad = arm(UNMAPPED, 64);
    for (cmd, arm, errno) in [
        (XEN_DOMCTL_SETNODEAFFINITY, arm(at, 64), Errno::EINVAL),
        (XEN_DOMCTL_SETNODEAFFINITY, arm(at, 0), Errno::EINVAL),
        (XEN_DOMCTL_SETNODEAFFINITY, bad, Errno::EFAULT),
        (XEN_DOMCTL_GETNODEAFFINITY, bad, Errno::EFAULT),
        (XEN_DOMCTL_GETNODEAFFINITY, arm(at, u32::MAX), Errno::E2BIG),
    ] {
        fail(&host, cmd, DOMU, &arm, errno);
    }
}

fn share(cmd: u32, weight: u16, cap: u16) -> DomctlSchedulerOp {
    let mut arm = DomctlSchedulerOp {
        sched_id: XEN_SCHEDULER_CREDIT,
        cmd,
        ..Default::default()
    };
    arm.u.set(&DomctlSchedCredit { weight, cap });
    arm
}

#[test]
fn a_domains_share_is_read_and_set() {
    let host = Host::new();
    let get = || {
        let arm = share(XEN_DOMCTL_SCHEDOP_GETINFO, 0, 0);
        let got = succeed(&host, XEN_DOMCTL_SCHEDULER_OP, DOMU, &arm);
        let share: DomctlSchedCredit = got.u.get();
        (share.weight, share.cap)
    };
    let put = |weight, cap| {
        let arm = share(XEN_DOMCTL_SCHEDOP_PUTINFO, weight, cap);
        succeed(&host, XEN_DOMCTL_SCHEDULER_OP, DOMU, &arm);
    };
    assert_eq!(get(), (256, 0));
    put(512, 50);
    assert_eq!(get(), (512, 50));
    put(0, u16::MAX);
    assert_eq!(get(), (512, 50), "neither is set");
    put(1, 0);
    assert_eq!(get(), (1, 0));
}

#[test]
fn another_scheduler_or_a_share_by_vcpu_is_refused() {
    let host = Host::new();
    let good = share(XEN_DOMCTL_SCHEDOP_GETINFO, 0, 0);
    for (sched_id, cmd) in [
        (XEN_SCHEDULER_CREDIT2, XEN_DOMCTL_SCHEDOP_GETINFO),
        (XEN_SCHEDULER_CREDIT, XEN_DOMCTL_SCHEDOP_GETVCPUINFO),
        (XEN_SCHEDULER_CREDIT, XEN_DOMCTL_SCHEDOP_PUTVCPUINFO),
        (XEN_SCHEDULER_CREDIT, 99),
    ] {
        let arm = DomctlSchedulerOp {
            sched_id,
            cmd,
            ..good
        };
        fail(&host, XEN_DOMCTL_SCHEDULER_OP, DOMU, &arm, Errno::EINVAL);
    }
}

#[test]
fn the_null_scheduler_has_no_shares() {
    let mut machine = hv_machine::sim::Machine::with_cpus(4096, FOUR);
    machine.set_command_line("sched=null");
    let host = Host::with_machine(MachineRef::new(machine));
    for cmd in [XEN_DOMCTL_SCHEDOP_GETINFO, XEN_DOMCTL_SCHEDOP_PUTINFO] {
        let arm = DomctlSchedulerOp {
            sched_id: XEN_SCHEDULER_NULL,
            ..share(cmd, 512, 7)
        };
        succeed(&host, XEN_DOMCTL_SCHEDULER_OP, DOMU, &arm);
        let of_credit = share(cmd, 512, 7);
        fail(
            &host,
            XEN_DOMCTL_SCHEDULER_OP,
            DOMU,
            &of_credit,
            Errno::EINVAL,
        );
    }
    let arm = DomctlSchedulerOp {
        sched_id: XEN_SCHEDULER_NULL,
        ..share(99, 0, 0)
    };
    fail(&host, XEN_DOMCTL_SCHEDULER_OP, DOMU, &arm, Errno::EINVAL);
}
