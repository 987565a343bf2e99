use super::*;

use hv_machine::MachineRef;
use hypercall_abi::arch_x86::{CpuidLeaf, MsrEntry, XEN_CPUID_NO_SUBLEAF};

use crate::cpuid::{self, Asked, MAX_LEAVES};
use crate::sysctl::POLICY_MSRS;

const NEW: Domid = Domid(5);
const ROOM: usize = MAX_LEAVES as usize;

/// A host whose processor has some leaves, and a domain on it that has not run.
fn host() -> Host {
    let machine = hv_machine::sim::Machine::new(4096);
    machine.set_cpuid(0, 0, [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
    machine.set_cpuid(1, 0, [0x306c3, 0x0800, 0x7ffa_fbff, 0xbfeb_fbff]);
    machine.set_cpuid(7, 0, [0, 0x27ab, 0, 0]);
    machine.set_cpuid(0xd, 0, [7, 832, 832, 0]);
    machine.set_cpuid(0xd, 2, [256, 576, 0, 0]);
    machine.set_cpuid(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]);
    machine.set_cpuid(0x8000_0001, 0, [0, 0, 0x21, 0x2c10_0800]);
    let mut host = Host::with_machine(MachineRef::new(machine));
    host.add_domain(NEW, false);
    host.domain(NEW).life.lock().started = false;
    host
}

fn get(host: &Host, domain: Domid) -> Vec<CpuidLeaf> {
    let buffer = host.room(DOM0, ROOM * size_of::<CpuidLeaf>());
    let msrs = host.room(DOM0, 2 * size_of::<MsrEntry>());
    let arm = DomctlCpuPolicy {
        nr_leaves: MAX_LEAVES,
        nr_msrs: 2,
        leaves: GuestHandle::new(buffer),
        msrs: GuestHandle::new(msrs),
        ..Default::default()
    };
    let got = succeed(host, XEN_DOMCTL_GET_CPU_POLICY, domain, &arm);
    assert_eq!(got.nr_msrs, 2);
    let leaves: [CpuidLeaf; ROOM] = host.get(DOM0, buffer);
    leaves[..got.nr_leaves as usize].to_vec()
}

fn wish(host: &Host, leaves: &[CpuidLeaf], msrs: &[MsrEntry]) -> DomctlCpuPolicy {
    DomctlCpuPolicy {
        nr_leaves: leaves.len() as u32,
        nr_msrs: msrs.len() as u32,
        leaves: GuestHandle::new(host.put_slice(DOM0, leaves)),
        msrs: GuestHandle::new(host.put_slice(DOM0, msrs)),
        ..Default::default()
    }
}

fn leaf(leaf: u32, subleaf: u32, [a, b, c, d]: [u32; 4]) -> CpuidLeaf {
    CpuidLeaf {
        leaf,
        subleaf,
        a,
        b,
        c,
        d,
    }
}

fn shown(host: &Host, number: u32, subleaf: u32) -> [u32; 4] {
    host.as_guest(NEW, |cx| {
        cpuid::for_current(cx, number, subleaf, Asked::Explicitly)
    })
}

fn words(leaf: &CpuidLeaf) -> [u32; 6] {
    [leaf.leaf, leaf.subleaf, leaf.a, leaf.b, leaf.c, leaf.d]
}

#[test]
fn a_policy_that_was_read_can_be_set_and_changes_nothing() {
    let host = host();
    let before = get(&host, NEW);
    let arm = wish(&host, &before, &[]);
    succeed(&host, XEN_DOMCTL_SET_CPU_POLICY, NEW, &arm);
    let after = get(&host, NEW);
    let words = |leaves: &[CpuidLeaf]| leaves.iter().map(words).collect::<Vec<_>>();
    assert_eq!(words(&after), words(&before));
}

#[test]
fn a_domain_is_shown_what_was_set_as_far_as_it_may_see_it() {
    let host = host();
    let [_, _, ecx, edx] = shown(&host, 1, 0);
    assert_ne!(ecx & 1, 0, "SSE3");
    let name = leaf(0x8000_0002, XEN_CPUID_NO_SUBLEAF, [1, 2, 3, 4]);
    // No SSE3, but virtualization, which no PV guest may have.
    let features = leaf(1, XEN_CPUID_NO_SUBLEAF, [0, 0, ecx & !1 | 1 << 5, edx]);
    let arm = wish(&host, &[features, name], &[]);
    succeed(&host, XEN_DOMCTL_SET_CPU_POLICY, NEW, &arm);
    assert_eq!(shown(&host, 1, 0)[2] & (1 | 1 << 5), 0);
    assert_eq!(shown(&host, 0x8000_0002, 0), [1, 2, 3, 4]);
    assert_eq!(shown(&host, 0x8000_0002, 9), [1, 2, 3, 4]);
    assert_ne!(
        get(&host, DOMU)
            .iter()
            .find(|leaf| leaf.leaf == 1)
            .map(|leaf| leaf.c & 1),
        Some(0),
        "another domain sees what it saw"
    );
}

#[test]
fn a_policy_that_cannot_be_changes_nothing_and_says_why() {
    let host = host();
    let none = u32::MAX;
    let msr = |idx, flags, val| MsrEntry { idx, flags, val };
    let good = leaf(0x8000_0002, none, [9; 4]);
    for (leaves, msrs, errno, refused) in [
        (
            vec![good, leaf(0x42, none, [0; 4])],
            vec![],
            Errno::ERANGE,
            [0x42, none, none],
        ),
        (
            vec![good, leaf(7, 3, [0; 4])],
            vec![],
            Errno::ERANGE,
            [7, 3, none],
        ),
        (
            vec![good, leaf(1, 0, [0; 4])],
            vec![],
            Errno::ERANGE,
            [1, 0, none],
        ),
        (
            vec![good, leaf(0, none, [0x20, 0, 0, 0])],
            vec![],
            Errno::EINVAL,
            [0, none, none],
        ),
        (
            vec![good, leaf(0x8000_0000, none, [0x8000_0020, 0, 0, 0])],
            vec![],
            Errno::EINVAL,
            [0x8000_0000, none, none],
        ),
        (
            vec![good],
            vec![msr(POLICY_MSRS[0], 0, 1)],
            Errno::EINVAL,
            [none, none, POLICY_MSRS[0]],
        ),
        (
            vec![good],
            vec![msr(POLICY_MSRS[1], 1, 0)],
            Errno::EINVAL,
            [none, none, POLICY_MSRS[1]],
        ),
        (
            vec![good],
            vec![msr(0x10, 0, 0)],
            Errno::ERANGE,
            [none, none, 0x10],
        ),
        (
            vec![good],
            vec![msr(POLICY_MSRS[0], 0, 0); 3],
            Errno::E2BIG,
            [none; 3],
        ),
    ] {
        let arm = wish(&host, &leaves, &msrs);
        let (result, arm) = call(&host, XEN_DOMCTL_SET_CPU_POLICY, NEW, &arm);
        assert_eq!(result, errno.to_return());
        assert_eq!([arm.err_leaf, arm.err_subleaf, arm.err_msr], refused);
    }
    assert!(host.domain(NEW).cpuid.lock().is_empty());
}

#[test]
fn lists_of_leaves_may_be_too_long_or_not_there() {
    let host = host();
    let set = XEN_DOMCTL_SET_CPU_POLICY;
    let arm = |nr_leaves, nr_msrs| DomctlCpuPolicy {
        nr_leaves,
        nr_msrs,
        leaves: GuestHandle::new(UNMAPPED),
        msrs: GuestHandle::new(UNMAPPED),
        ..Default::default()
    };
    fail(&host, set, NEW, &arm(u32::MAX, 0), Errno::E2BIG);
    fail(&host, set, NEW, &arm(1, 0), Errno::EFAULT);
    fail(&host, set, NEW, &arm(0, 1), Errno::EFAULT);
    let read = XEN_DOMCTL_GET_CPU_POLICY;
    fail(&host, read, NEW, &arm(1, 2), Errno::ENOBUFS);
    fail(&host, read, NEW, &arm(MAX_LEAVES, 2), Errno::EFAULT);
    let sizes = succeed(&host, read, NEW, &DomctlCpuPolicy::new_zeroed());
    assert_eq!((sizes.nr_leaves, sizes.nr_msrs), (MAX_LEAVES, 2));
    let msrs = DomctlCpuPolicy {
        leaves: GuestHandle::NULL,
        ..arm(0, 1)
    };
    fail(&host, read, NEW, &msrs, Errno::ENOBUFS);
}

#[test]
fn a_domain_that_has_run_keeps_its_policy() {
    let host = host();
    let arm = wish(&host, &[], &[]);
    succeed(&host, XEN_DOMCTL_SET_CPU_POLICY, NEW, &arm);
    act(&host, XEN_DOMCTL_PAUSEDOMAIN, NEW);
    act(&host, XEN_DOMCTL_UNPAUSEDOMAIN, NEW);
    fail(&host, XEN_DOMCTL_SET_CPU_POLICY, NEW, &arm, Errno::EEXIST);
}
