use super::*;

use crate::memory::Level;

#[test]
fn the_domain_named_or_the_next_one_is_described() {
    let mut host = Host::new();
    host.add_domain(Domid(7), false);
    let get = |domain| submit(&host, &Domctl::new(XEN_DOMCTL_GETDOMAININFO, domain));
    for (asked, found) in [(DOM0, DOM0), (DOMU, DOMU), (Domid(2), Domid(7))] {
        let (result, op) = get(asked);
        assert_eq!(result, 0);
        assert_eq!(op.domain, found);
        let info: DomctlGetdomaininfo = op.u.get();
        assert_eq!(info.domain, found);
        assert_eq!(info.handle, [found.0 as u8; 16]);
        assert_eq!(info.shared_info_frame, host.domain(found).shared_info.0);
        assert_eq!((info.nr_online_vcpus, info.max_vcpu_id), (1, 0));
        assert_eq!(info.cpupool, 0);
    }
    assert_eq!(get(Domid(8)).0, Errno::ESRCH.to_return());
    assert_eq!(get(Domid::SELF).0, Errno::EINVAL.to_return());
    assert_eq!(get(Domid(u16::MAX)).0, Errno::EINVAL.to_return());
}

#[test]
fn the_flags_follow_the_domains_life() {
    let host = Host::new();
    let flags = || {
        let (_, op) = submit(&host, &Domctl::new(XEN_DOMCTL_GETDOMAININFO, DOMU));
        let info: DomctlGetdomaininfo = op.u.get();
        info.flags
    };
    assert_eq!(flags(), XEN_DOMINF_RUNNING);
    host.vcpu(DOMU).blocked.store(true, Ordering::Release);
    assert_eq!(flags(), XEN_DOMINF_BLOCKED);
    host.vcpu(DOMU).blocked.store(false, Ordering::Release);
    act(&host, XEN_DOMCTL_PAUSEDOMAIN, DOMU);
    assert_eq!(flags(), XEN_DOMINF_PAUSED);
    act(&host, XEN_DOMCTL_UNPAUSEDOMAIN, DOMU);
    for (enable, flag) in [(1, XEN_DOMINF_DEBUGGED), (0, 0)] {
        let arm = DomctlSetdebugging { enable };
        succeed(&host, XEN_DOMCTL_SETDEBUGGING, DOMU, &arm);
        assert_eq!(flags(), XEN_DOMINF_RUNNING | flag);
    }
    crate::lifecycle::shutdown(&host.hv, &host.domain(DOMU), 3);
    assert_eq!(flags(), XEN_DOMINF_SHUTDOWN | 3 << XEN_DOMINF_SHUTDOWNSHIFT);
    act(&host, XEN_DOMCTL_RESUMEDOMAIN, DOMU);
    assert_eq!(flags(), XEN_DOMINF_RUNNING);
    host.vcpu(DOMU).down.store(true, Ordering::Release);
    assert_eq!(flags(), 0);
}

fn types(host: &Host, num: u64, frames: &[u64]) -> (i64, Vec<u64>) {
    let at = host.put_slice(DOM0, frames);
    let arm = DomctlGetpageframeinfo3 {
        num,
        array: GuestHandle::new(at),
    };
    let (result, _) = call(host, XEN_DOMCTL_GETPAGEFRAMEINFO3, DOMU, &arm);
    let types = (0..frames.len() as u64)
        .map(|index| host.get(DOM0, at + 8 * index))
        .collect();
    (result, types)
}

#[test]
fn the_type_of_each_frame_is_told() {
    let host = Host::new();
    let layout = host.layout(DOMU);
    host.hv
        .memory
        .pin(layout.tables[0], DOMU, Level::L4, &mut || false)
        .expect("a root");
    let mut frames: Vec<u64> = layout.tables.iter().map(|mfn| mfn.0).collect();
    frames.extend([
        layout.scratch[0].0,
        host.layout(DOM0).scratch[0].0,
        host.domain(DOMU).shared_info.0,
        u64::MAX,
        0,
    ]);
    let (result, types) = types(&host, frames.len() as u64, &frames);
    assert_eq!(result, 0);
    assert_eq!(
        types,
        [
            XEN_DOMCTL_PFINFO_L4TAB | XEN_DOMCTL_PFINFO_LPINTAB,
            XEN_DOMCTL_PFINFO_L3TAB,
            XEN_DOMCTL_PFINFO_L2TAB,
            XEN_DOMCTL_PFINFO_L1TAB,
            XEN_DOMCTL_PFINFO_NOTAB,
            XEN_DOMCTL_PFINFO_XTAB,
            XEN_DOMCTL_PFINFO_XTAB,
            XEN_DOMCTL_PFINFO_XTAB,
            XEN_DOMCTL_PFINFO_XTAB,
        ]
        .map(u64::from)
    );
}

#[test]
fn a_list_of_frames_may_be_too_long_or_not_there() {
    let host = Host::new();
    for num in [1025, 1 << 32, u64::MAX] {
        assert_eq!(types(&host, num, &[0]).0, Errno::E2BIG.to_return());
    }
    let arm = DomctlGetpageframeinfo3 {
        num: 1,
        array: GuestHandle::new(UNMAPPED),
    };
    let unwritable = DomctlGetpageframeinfo3 {
        num: 1,
        array: GuestHandle::new(host.put_read_only(DOM0, &[0; 8])),
    };
    for arm in [arm, unwritable] {
        let cmd = XEN_DOMCTL_GETPAGEFRAMEINFO3;
        fail(&host, cmd, DOMU, &arm, Errno::EFAULT);
    }
    assert_eq!(types(&host, 0, &[5]), (0, vec![5]));
}

#[test]
fn a_list_of_frames_is_read_and_written_where_the_caller_could() {
    let host = Host::new();
    let ask = |at| {
        let arm = DomctlGetpageframeinfo3 {
            num: 2,
            array: GuestHandle::new(at),
        };
        call(&host, XEN_DOMCTL_GETPAGEFRAMEINFO3, DOMU, &arm).0
    };
    for bad in crate::testing::BAD_ADDRESSES {
        assert_eq!(ask(bad), Errno::EFAULT.to_return(), "{bad:#x}");
    }
    // The second element is in a page that is not there, the first is answered.
    let last = crate::testing::SCRATCH + crate::testing::SCRATCH_PAGES * 4096 - 8;
    host.put_at(DOM0, last, &host.layout(DOMU).tables[3].0);
    assert_eq!(ask(last), Errno::EFAULT.to_return());
    let told: u64 = host.get(DOM0, last);
    assert_eq!(told, u64::from(XEN_DOMCTL_PFINFO_L1TAB));
    let va = crate::testing::SCRATCH + 30 * 4096;
    let read_only = host.layout(DOM0).scratch[30].0 << 12 | crate::testing::RO;
    let update = hypercall_abi::xen::HYPERVISOR_UPDATE_VA_MAPPING;
    assert_eq!(host.hypercall(DOM0, update, &[va, read_only, 0]), 0);
    assert_eq!(ask(va), Errno::EFAULT.to_return());
}

#[test]
fn a_limit_may_be_anything_and_holds_at_once() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    for (max_memkb, frames) in [
        (0, 0),
        (3, 0),
        (4, 1),
        (1023, 255),
        (1 << 20, 1 << 18),
        (u64::MAX, u64::from(u32::MAX)),
    ] {
        let arm = DomctlMaxMem { max_memkb };
        succeed(&host, XEN_DOMCTL_MAX_MEM, DOMU, &arm);
        assert_eq!(owner.max_frames(), frames);
        let owned = owner.frames();
        let more = host.hv.memory.allocate(&owner, 0, u64::MAX);
        assert_eq!(more.is_ok(), frames > owned);
    }
}
