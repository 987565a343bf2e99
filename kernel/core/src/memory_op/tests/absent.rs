use super::*;

use hypercall_abi::grant_table::{GNTTABOP_SET_VERSION, GnttabSetVersion};
use hypercall_abi::xen::HYPERVISOR_GRANT_TABLE_OP;
use zerocopy::{FromZeros, IntoBytes};

/// What each of the two domains is answered for each kind of domain that can be named.
fn domids(host: &Host, command: u32, make: impl Fn(Domid) -> Vec<u8>, own: Errno, other: Errno) {
    let ask = |id, domid: Domid| {
        let bytes = make(domid);
        let at = host.put_slice(id, &bytes);
        raw(host, id, command.into(), at)
    };
    for id in [DOM0, DOMU] {
        for nobody in NOBODY.into_iter().chain([Domid::IO, Domid::XEN]) {
            assert_eq!(ask(id, nobody), errno(Errno::ESRCH), "{nobody:?}");
        }
        assert_eq!(ask(id, Domid::SELF), errno(own));
        assert_eq!(ask(id, id), errno(own));
    }
    assert_eq!(ask(DOM0, DOMU), errno(own));
    assert_eq!(ask(DOMU, DOM0), errno(other));
}

#[test]
fn no_pv_domain_has_a_physical_map() {
    let host = Host::new();
    let refused = Errno::EACCES;
    let spaces = [
        XENMAPSPACE_SHARED_INFO,
        XENMAPSPACE_GRANT_TABLE,
        XENMAPSPACE_GMFN,
        XENMAPSPACE_GMFN_RANGE,
        XENMAPSPACE_GMFN_FOREIGN,
        XENMAPSPACE_DEV_MMIO,
        77,
    ];
    for space in spaces {
        let single = |domid| {
            let mut wanted = AddToPhysmap::new_zeroed();
            (wanted.domid, wanted.space) = (domid, space);
            wanted.as_bytes().to_vec()
        };
        let batch = |domid| {
            let mut wanted = AddToPhysmapBatch::new_zeroed();
            (wanted.domid, wanted.space) = (domid, space as u16);
            wanted.size = u16::MAX;
            wanted.as_bytes().to_vec()
        };
        match space {
            XENMAPSPACE_GMFN_FOREIGN => {
                let at = host.put_slice(DOM0, &single(Domid(99)));
                let result = raw(&host, DOM0, XENMEM_ADD_TO_PHYSMAP.into(), at);
                assert_eq!(result, errno(Errno::ENOSYS));
            }
            _ => domids(&host, XENMEM_ADD_TO_PHYSMAP, single, refused, refused),
        }
        match space {
            XENMAPSPACE_GMFN_RANGE => {
                let at = host.put_slice(DOM0, &batch(Domid(99)));
                let result = raw(&host, DOM0, XENMEM_ADD_TO_PHYSMAP_BATCH.into(), at);
                assert_eq!(result, errno(Errno::EOPNOTSUPP));
            }
            _ => domids(&host, XENMEM_ADD_TO_PHYSMAP_BATCH, batch, refused, refused),
        }
    }
    let remove = |domid| {
        let mut wanted = RemoveFromPhysmap::new_zeroed();
        wanted.domid = domid;
        wanted.as_bytes().to_vec()
    };
    domids(&host, XENMEM_REMOVE_FROM_PHYSMAP, remove, refused, refused);
}

#[test]
fn nothing_is_populated_on_demand() {
    let host = Host::new();
    for command in [XENMEM_SET_POD_TARGET, XENMEM_GET_POD_TARGET] {
        let target = |domid| {
            let mut target = PodTarget::new_zeroed();
            target.domid = domid;
            target.as_bytes().to_vec()
        };
        domids(&host, command, target, Errno::EINVAL, Errno::EINVAL);
    }
    let owner = host.domain(DOMU).owner.clone();
    let before = owner.frames();
    for (id, domid) in [(DOMU, Domid::SELF), (DOM0, DOMU)] {
        let mut wanted = extents(host.put(id, &5_u64), 1, 0, domid);
        wanted.mem_flags = XENMEMF_POPULATE_ON_DEMAND;
        assert_eq!(call(&host, id, XENMEM_POPULATE_PHYSMAP, &wanted), 0);
    }
    assert_eq!(owner.frames(), before);
}

#[test]
fn no_domain_is_told_of_nodes() {
    let host = Host::new();
    let topology = |pad| {
        move |domid| {
            let mut topology = VnumaTopologyInfo::new_zeroed();
            (topology.domid, topology.pad) = (domid, pad);
            topology.as_bytes().to_vec()
        }
    };
    let command = XENMEM_GET_VNUMAINFO;
    domids(&host, command, topology(0), Errno::EOPNOTSUPP, Errno::EPERM);
    let at = host.put_slice(DOM0, &topology(1)(Domid(99)));
    assert_eq!(raw(&host, DOM0, command.into(), at), errno(Errno::EINVAL));
}

#[test]
fn no_device_has_memory_of_its_own() {
    let host = Host::new();
    let mut map = ReservedDeviceMemoryMap::new_zeroed();
    map.nr_entries = 9;
    for id in [DOM0, DOMU] {
        for flags in [0, XENMEM_RDM_ALL] {
            map.flags = flags;
            let at = host.put(id, &map);
            assert_eq!(
                raw(&host, id, XENMEM_RESERVED_DEVICE_MEMORY_MAP.into(), at),
                0
            );
            assert_eq!(host.get::<ReservedDeviceMemoryMap>(id, at).nr_entries, 0);
        }
        map.flags = 2;
        let result = call(&host, id, XENMEM_RESERVED_DEVICE_MEMORY_MAP, &map);
        assert_eq!(result, errno(Errno::EINVAL));
    }
}

#[test]
fn resources_are_other_domains_and_not_there() {
    let host = Host::new();
    let ask = |id, wanted: &MemAcquireResource| call(&host, id, XENMEM_ACQUIRE_RESOURCE, wanted);
    let mut wanted = MemAcquireResource::new_zeroed();
    wanted.domid = DOMU;
    for (type_, refusal) in [
        (XENMEM_RESOURCE_IOREQ_SERVER, Errno::EINVAL),
        (XENMEM_RESOURCE_VMTRACE_BUF, Errno::EINVAL),
        (99, Errno::EOPNOTSUPP),
    ] {
        wanted.type_ = type_;
        for (nr_frames, frame) in [(0, 0), (1, 0), (u32::MAX, 0), (0, u32::MAX.into())] {
            (wanted.nr_frames, wanted.frame) = (nr_frames, frame);
            assert_eq!(ask(DOM0, &wanted), errno(refusal));
        }
    }
    for (domid, of_dom0, of_domu) in [
        (DOM0, Errno::EPERM, Errno::EPERM),
        (DOMU, Errno::EOPNOTSUPP, Errno::EPERM),
        (Domid::SELF, Errno::ESRCH, Errno::ESRCH),
        (Domid::IO, Errno::ESRCH, Errno::ESRCH),
        (Domid::XEN, Errno::ESRCH, Errno::ESRCH),
        (Domid(99), Errno::ESRCH, Errno::ESRCH),
    ] {
        wanted.domid = domid;
        assert_eq!(ask(DOM0, &wanted), errno(of_dom0), "{domid:?}");
        assert_eq!(ask(DOMU, &wanted), errno(of_domu), "{domid:?}");
    }
    wanted.domid = Domid(99);
    for (nr_frames, frame) in [
        (1, u32::MAX.into()),
        (0, 1 << 32),
        (u32::MAX, 1),
        (1, u64::MAX),
    ] {
        (wanted.nr_frames, wanted.frame) = (nr_frames, frame);
        assert_eq!(ask(DOM0, &wanted), errno(Errno::EINVAL));
    }
    (wanted.nr_frames, wanted.frame, wanted.pad) = (0, 0, 1);
    assert_eq!(ask(DOM0, &wanted), errno(Errno::EINVAL));
    let compat = u64::from(XENMEM_MACHPHYS_COMPAT_MFN_LIST);
    assert_eq!(raw(&host, DOMU, compat, UNMAPPED), errno(Errno::EOPNOTSUPP));
}

#[test]
fn a_toolstack_gets_the_frames_of_a_grant_table() {
    let host = Host::new();
    let mut wanted = MemAcquireResource::new_zeroed();
    (wanted.domid, wanted.type_) = (DOMU, XENMEM_RESOURCE_GRANT_TABLE);
    let list = host.put_slice(DOM0, &[0_u64; 4]);
    let ask = |wanted: &MemAcquireResource| call(&host, DOM0, XENMEM_ACQUIRE_RESOURCE, wanted);
    for (id, most) in [
        (XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED, 64),
        (XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS, 8),
    ] {
        wanted.id = id;
        let at = host.put(DOM0, &wanted);
        assert_eq!(raw(&host, DOM0, XENMEM_ACQUIRE_RESOURCE.into(), at), 0);
        assert_eq!(host.get::<MemAcquireResource>(DOM0, at).nr_frames, most);
        let at = host.put_read_only(DOM0, wanted.as_bytes());
        let result = raw(&host, DOM0, XENMEM_ACQUIRE_RESOURCE.into(), at);
        assert_eq!(result, errno(Errno::EFAULT));
    }
    wanted.id = 2;
    assert_eq!(ask(&wanted), errno(Errno::EINVAL));
    wanted.id = XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED;
    wanted.nr_frames = 1;
    assert_eq!(
        ask(&wanted),
        errno(Errno::EINVAL),
        "there is no room for it"
    );
    wanted.frame_list = GuestHandle::new(list);
    (wanted.frame, wanted.nr_frames) = (1, 2);
    assert_eq!(ask(&wanted), 0);
    let frames = crate::grant::recount::frames(&host.domain(DOMU));
    assert_eq!(frames.len(), 3);
    assert_eq!(
        [0, 8].map(|offset| host.get::<u64>(DOM0, list + offset)),
        [frames[1].0, frames[2].0]
    );
    for (frame, nr_frames) in [(64, 1), (63, 2), (0, 0), (0, u32::MAX)] {
        (wanted.frame, wanted.nr_frames) = (frame, nr_frames);
        assert_eq!(ask(&wanted), errno(Errno::EINVAL));
    }
    (wanted.frame, wanted.nr_frames) = (1, 2);
    wanted.frame_list = GuestHandle::new(UNMAPPED);
    assert_eq!(ask(&wanted), errno(Errno::EFAULT));
    wanted.frame_list = GuestHandle::new(list);
    (wanted.id, wanted.frame, wanted.nr_frames) = (XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS, 0, 1);
    assert_eq!(ask(&wanted), errno(Errno::EINVAL), "of version 1");
    let at = host.put(DOMU, &GnttabSetVersion { version: 2 });
    let args = [GNTTABOP_SET_VERSION.into(), at, 1];
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_GRANT_TABLE_OP, &args), 0);
    assert_eq!(ask(&wanted), 0);
    wanted.frame = 8;
    assert_eq!(ask(&wanted), errno(Errno::EINVAL), "more than there can be");
    crate::memory::recount::check(&host.hv).expect("all in order");
}
