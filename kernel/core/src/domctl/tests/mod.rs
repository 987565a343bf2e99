//! The operations through the hypercall, as the toolstack makes them.

mod access;
mod contexts;
mod info;
mod life;
mod policy;
mod random;
mod scheduling;
mod vcpus;

use super::*;
use crate::hypercall::Stop;

use hypercall_abi::types::{Domid, GuestHandle, Mfn};
use hypercall_abi::xen::HYPERVISOR_DOMCTL;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::testing::{DOM0, DOMU, Host, UNMAPPED};

/// A domain that is never there.
const NOBODY: Domid = Domid(99);

/// Makes a call as the control domain; gives the result and the struct as it is afterwards.
fn submit(host: &Host, op: &Domctl) -> (i64, Domctl) {
    let at = host.put(DOM0, op);
    let result = host.hypercall(DOM0, HYPERVISOR_DOMCTL, &[at]);
    (result, host.get(DOM0, at))
}

/// The same with an arm.
fn call<A: FromBytes + IntoBytes + Immutable>(
    host: &Host,
    cmd: u32,
    domain: Domid,
    arm: &A,
) -> (i64, A) {
    let (result, op) = submit(host, &Domctl::with(cmd, domain, arm));
    (result, op.u.get())
}

#[track_caller]
fn succeed<A: FromBytes + IntoBytes + Immutable>(
    host: &Host,
    cmd: u32,
    domain: Domid,
    arm: &A,
) -> A {
    let (result, arm) = call(host, cmd, domain, arm);
    assert_eq!(result, 0, "operation {cmd}");
    arm
}

#[track_caller]
fn fail<A: FromBytes + IntoBytes + Immutable>(
    host: &Host,
    cmd: u32,
    domain: Domid,
    arm: &A,
    errno: Errno,
) {
    let (result, _) = call(host, cmd, domain, arm);
    assert_eq!(result, errno.to_return(), "operation {cmd}");
}

/// An operation without an arm that fails.
#[track_caller]
fn refuse(host: &Host, cmd: u32, domain: Domid, errno: Errno) {
    fail(host, cmd, domain, &[0_u64; 16], errno);
}

/// An operation without an arm.
#[track_caller]
fn act(host: &Host, cmd: u32, domain: Domid) {
    assert_eq!(
        submit(host, &Domctl::new(cmd, domain)).0,
        0,
        "operation {cmd}"
    );
}

#[test]
fn only_the_control_domain_is_answered_whether_the_domain_is_there_or_not() {
    let host = Host::new();
    for cmd in 0..100 {
        for domain in [DOM0, DOMU, NOBODY, Domid::SELF] {
            let at = host.put(DOMU, &Domctl::new(cmd, domain));
            assert_eq!(
                host.hypercall(DOMU, HYPERVISOR_DOMCTL, &[at]),
                Errno::EPERM.to_return(),
                "{cmd}"
            );
        }
    }
}

#[test]
fn the_argument_and_its_version_come_before_the_right_to_ask() {
    let host = Host::new();
    for caller in [DOM0, DOMU] {
        for address in [0, UNMAPPED, 0xffff_8000_0000_0000, u64::MAX] {
            assert_eq!(
                host.hypercall(caller, HYPERVISOR_DOMCTL, &[address]),
                Errno::EFAULT.to_return()
            );
        }
        let mut op = Domctl::new(XEN_DOMCTL_PAUSEDOMAIN, DOMU);
        op.interface_version += 1;
        let at = host.put(caller, &op);
        assert_eq!(
            host.hypercall(caller, HYPERVISOR_DOMCTL, &[at]),
            Errno::EACCES.to_return()
        );
    }
}

#[test]
fn a_domain_that_is_not_there_is_told_for_every_operation_on_one() {
    let host = Host::new();
    for cmd in (2..100).filter(|&cmd| cmd != XEN_DOMCTL_GETDOMAININFO) {
        for domain in [NOBODY, Domid::SELF, Domid::IO, Domid::INVALID] {
            refuse(&host, cmd, domain, Errno::ESRCH);
        }
    }
}

#[test]
fn one_operation_at_a_time_is_under_way() {
    let host = Host::new();
    let at = host.put(DOM0, &Domctl::new(XEN_DOMCTL_PAUSEDOMAIN, DOMU));
    let other = host.hv.toolstack.lock();
    host.as_guest(DOM0, |cx| {
        let args = [at, 0, 0, 0, 0, 0];
        assert_eq!(do_domctl(cx, &args), Err(Stop::AGAIN));
        assert_eq!(cx.continuation.get(), args);
    });
    assert_eq!(host.domain(DOMU).life.lock().toolstack_pauses, 0);
    drop(other);
    assert_eq!(host.hypercall(DOM0, HYPERVISOR_DOMCTL, &[at]), 0);
}

#[test]
fn what_a_pv_domain_has_not_is_refused_as_xen_refuses_it() {
    let host = Host::new();
    for (cmd, errno) in [
        (XEN_DOMCTL_GETHVMCONTEXT, Errno::EINVAL),
        (XEN_DOMCTL_SETHVMCONTEXT, Errno::EINVAL),
        (XEN_DOMCTL_GETHVMCONTEXT_PARTIAL, Errno::EINVAL),
        (XEN_DOMCTL_BIND_PT_IRQ, Errno::EINVAL),
        (XEN_DOMCTL_UNBIND_PT_IRQ, Errno::EINVAL),
        (XEN_DOMCTL_DEBUG_OP, Errno::EINVAL),
        (XEN_DOMCTL_SET_BROKEN_PAGE_P2M, Errno::EINVAL),
        (XEN_DOMCTL_SOFT_RESET, Errno::EINVAL),
        (XEN_DOMCTL_VMTRACE_OP, Errno::EINVAL),
        (XEN_DOMCTL_SHADOW_OP, Errno::EOPNOTSUPP),
        (XEN_DOMCTL_IOPORT_MAPPING, Errno::EOPNOTSUPP),
        (XEN_DOMCTL_MONITOR_OP, Errno::EOPNOTSUPP),
        (XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE, Errno::EOPNOTSUPP),
        (XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE, Errno::EOPNOTSUPP),
        (XEN_DOMCTL_ASSIGN_DEVICE, Errno::EOPNOTSUPP),
        (XEN_DOMCTL_TEST_ASSIGN_DEVICE, Errno::EOPNOTSUPP),
        (XEN_DOMCTL_DEASSIGN_DEVICE, Errno::EOPNOTSUPP),
        (XEN_DOMCTL_GET_DEVICE_GROUP, Errno::EOPNOTSUPP),
        (XEN_DOMCTL_PSR_CMT_OP, Errno::ENODEV),
        (XEN_DOMCTL_PSR_ALLOC, Errno::ENODEV),
        (XEN_DOMCTL_VM_EVENT_OP, Errno::ENOSYS),
        (XEN_DOMCTL_MEM_SHARING_OP, Errno::ENOSYS),
        (XEN_DOMCTL_CACHEFLUSH, Errno::ENOSYS),
        (XEN_DOMCTL_SETVNUMAINFO, Errno::ENOSYS),
        (XEN_DOMCTL_VUART_OP, Errno::ENOSYS),
        (0, Errno::ENOSYS),
        (u32::MAX, Errno::ENOSYS),
    ] {
        refuse(&host, cmd, DOMU, errno);
    }
    refuse(&host, XEN_DOMCTL_SHADOW_OP, DOM0, Errno::EINVAL);
    for (target, errno) in [
        (DOM0, Errno::EOPNOTSUPP),
        (DOMU, Errno::EINVAL),
        (NOBODY, Errno::ESRCH),
    ] {
        let arm = DomctlSetTarget { target };
        fail(&host, XEN_DOMCTL_SET_TARGET, DOMU, &arm, errno);
    }
}

#[test]
fn the_callers_own_domain_is_spared() {
    let host = Host::new();
    for cmd in [
        XEN_DOMCTL_DESTROYDOMAIN,
        XEN_DOMCTL_PAUSEDOMAIN,
        XEN_DOMCTL_RESUMEDOMAIN,
        XEN_DOMCTL_SETVCPUCONTEXT,
        XEN_DOMCTL_GETVCPUCONTEXT,
        XEN_DOMCTL_MAX_VCPUS,
        XEN_DOMCTL_SETDEBUGGING,
        XEN_DOMCTL_GETTSCINFO,
        XEN_DOMCTL_SETTSCINFO,
        XEN_DOMCTL_SET_CPU_POLICY,
        XEN_DOMCTL_GETVCPUEXTSTATE,
        XEN_DOMCTL_SETVCPUEXTSTATE,
        XEN_DOMCTL_GET_VCPU_MSRS,
        XEN_DOMCTL_SET_VCPU_MSRS,
    ] {
        refuse(&host, cmd, DOM0, Errno::EINVAL);
    }
    for cmd in [
        XEN_DOMCTL_GET_EXT_VCPUCONTEXT,
        XEN_DOMCTL_SET_EXT_VCPUCONTEXT,
    ] {
        refuse(&host, cmd, DOM0, Errno::ESRCH);
    }
}
