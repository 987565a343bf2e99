//! CPUID as the toolstack reads it.

use super::*;

use hypercall_abi::arch_x86::{CpuidLeaf, MsrEntry, XEN_CPUID_NO_SUBLEAF};

use crate::cpuid;

/// A host whose processor has some leaves.
fn host_with_leaves() -> Host {
    let machine = hv_machine::sim::Machine::new(4096);
    machine.set_cpuid(0, 0, [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
    machine.set_cpuid(1, 0, [0x306c3, 0x0800, 0x7ffa_fbff, 0xbfeb_fbff]);
    machine.set_cpuid(4, 0, [0x121, 1, 2, 3]);
    machine.set_cpuid(7, 0, [0, 0x27ab, 0, 0]);
    machine.set_cpuid(0xd, 0, [7, 832, 832, 0]);
    machine.set_cpuid(0xd, 2, [256, 576, 0, 0]);
    machine.set_cpuid(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]);
    machine.set_cpuid(0x8000_0001, 0, [0, 0, 0x21, 0x2c10_0800]);
    Host::with_machine(MachineRef::new(machine))
}

#[test]
fn feature_sets_are_copied_as_far_as_there_is_room() {
    let host = host_with_leaves();
    let count = cpuid::WORD_COUNT as u32;
    let arm = SysctlCpuFeatureset::new_zeroed();
    assert_eq!(
        succeed(&host, XEN_SYSCTL_GET_CPU_FEATURESET, &arm).nr_features,
        count
    );
    let buffer = host.room(DOM0, 4 * cpuid::WORD_COUNT);
    let get = |index, nr_features| SysctlCpuFeatureset {
        index,
        nr_features,
        features: GuestHandle::new(buffer),
    };
    let words = |index| {
        let got = succeed(&host, XEN_SYSCTL_GET_CPU_FEATURESET, &get(index, 99));
        assert_eq!(got.nr_features, count);
        host.get::<[u32; cpuid::WORD_COUNT]>(DOM0, buffer)
    };
    let raw = words(XEN_SYSCTL_CPU_FEATURESET_RAW);
    assert_eq!(raw[..2], [0xbfeb_fbff, 0x7ffa_fbff]);
    let pv = words(XEN_SYSCTL_CPU_FEATURESET_PV);
    assert_ne!(pv[0], raw[0]);
    let (result, got) = call(&host, XEN_SYSCTL_GET_CPU_FEATURESET, &get(0, 2));
    assert_eq!(result, Errno::ENOBUFS.to_return());
    assert_eq!(got.nr_features, 2);
    let few = Sysctl::with(XEN_SYSCTL_GET_CPU_FEATURESET, &get(0, 2));
    let fixed = host.put_read_only(DOM0, few.as_bytes());
    assert_eq!(
        host.hypercall(DOM0, HYPERVISOR_SYSCTL, &[fixed]),
        Errno::EFAULT.to_return(),
        "how many were copied cannot be told"
    );
    for (index, errno) in [
        (XEN_SYSCTL_CPU_FEATURESET_HVM, Errno::EOPNOTSUPP),
        (4, Errno::EINVAL),
        (u32::MAX, Errno::EINVAL),
    ] {
        fail(&host, XEN_SYSCTL_GET_CPU_FEATURESET, &get(index, 99), errno);
    }
    let bad = SysctlCpuFeatureset {
        features: GuestHandle::new(UNMAPPED),
        ..get(0, 99)
    };
    fail(&host, XEN_SYSCTL_GET_CPU_FEATURESET, &bad, Errno::EFAULT);
    let caps = SysctlCpuLevellingCaps { caps: 9 };
    let caps = succeed(&host, XEN_SYSCTL_GET_CPU_LEVELLING_CAPS, &caps);
    assert_eq!(caps.caps, 0);
}

#[test]
fn policies_are_lists_of_leaves_and_registers() {
    let host = host_with_leaves();
    let sizes = succeed(
        &host,
        XEN_SYSCTL_GET_CPU_POLICY,
        &SysctlCpuPolicy::new_zeroed(),
    );
    assert_eq!((sizes.nr_leaves, sizes.nr_msrs), (120, 2));
    let leaves = host.room(DOM0, 120 * size_of::<CpuidLeaf>());
    let msrs = host.room(DOM0, 2 * size_of::<MsrEntry>());
    let get = |index| SysctlCpuPolicy {
        index,
        nr_leaves: sizes.nr_leaves,
        nr_msrs: sizes.nr_msrs,
        leaves: GuestHandle::new(leaves),
        msrs: GuestHandle::new(msrs),
        ..Default::default()
    };
    for index in [
        XEN_SYSCTL_CPU_POLICY_RAW,
        XEN_SYSCTL_CPU_POLICY_HOST,
        XEN_SYSCTL_CPU_POLICY_PV_MAX,
        XEN_SYSCTL_CPU_POLICY_PV_DEFAULT,
    ] {
        let got = succeed(&host, XEN_SYSCTL_GET_CPU_POLICY, &get(index));
        assert!((20..=120).contains(&got.nr_leaves), "{}", got.nr_leaves);
        assert_eq!(got.nr_msrs, 2);
        let list: [CpuidLeaf; 120] = host.get(DOM0, leaves);
        let list = &list[..got.nr_leaves as usize];
        assert!(list.is_sorted_by_key(|leaf| (leaf.leaf, leaf.subleaf)));
        assert!(list.iter().all(cpuid::is_listed));
        let first = list[0];
        assert_eq!(
            (first.leaf, first.subleaf, first.b),
            (0, XEN_CPUID_NO_SUBLEAF, 0x756e_6547)
        );
    }
    let few = SysctlCpuPolicy {
        nr_leaves: 3,
        ..get(0)
    };
    let one = SysctlCpuPolicy {
        nr_msrs: 1,
        ..get(0)
    };
    let reserved = SysctlCpuPolicy { _rsvd: 1, ..get(0) };
    let bad_leaves = SysctlCpuPolicy {
        leaves: GuestHandle::new(UNMAPPED),
        ..get(0)
    };
    let bad_msrs = SysctlCpuPolicy {
        msrs: GuestHandle::new(UNMAPPED),
        ..get(0)
    };
    for (arm, errno) in [
        (few, Errno::ENOBUFS),
        (one, Errno::ENOBUFS),
        (reserved, Errno::EINVAL),
        (bad_leaves, Errno::EFAULT),
        (bad_msrs, Errno::EFAULT),
        (get(XEN_SYSCTL_CPU_POLICY_HVM_MAX), Errno::EOPNOTSUPP),
        (get(XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT), Errno::EOPNOTSUPP),
        (get(6), Errno::EINVAL),
    ] {
        fail(&host, XEN_SYSCTL_GET_CPU_POLICY, &arm, errno);
    }
}
