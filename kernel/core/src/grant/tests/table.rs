//! A table as a whole: its size, its version, its entries' places.

use super::*;

fn query(host: &Host, id: Domid, dom: Domid) -> GnttabQuerySize {
    let op = GnttabQuerySize {
        dom,
        ..Default::default()
    };
    one(host, id, GNTTABOP_QUERY_SIZE, op)
}

fn set_version(host: &Host, id: Domid, version: u32) -> (i64, u32) {
    let mut list = [GnttabSetVersion { version }];
    let result = call(host, id, GNTTABOP_SET_VERSION, &mut list);
    (result, list[0].version)
}

fn status_frames(host: &Host, id: Domid, count: u32) -> (i16, Mfn) {
    let list = host.put(id, &0_u64);
    let op = GnttabGetStatusFrames {
        nr_frames: count,
        dom: Domid::SELF,
        frame_list: GuestHandle::new(list),
        ..Default::default()
    };
    let status = one(host, id, GNTTABOP_GET_STATUS_FRAMES, op).status;
    (status, host.get(id, list))
}

#[test]
fn a_table_grows_to_its_limit_and_its_frames_are_the_domains() {
    let host = host();
    let size = query(&host, DOMU, Domid::SELF);
    assert_eq!(
        (size.nr_frames, size.max_nr_frames, size.status),
        (1, 64, 0)
    );
    let first = frames(&host, DOMU, 1);
    let all = frames(&host, DOMU, 3);
    assert_eq!(all[0], first[0]);
    assert_eq!(query(&host, DOM0, DOMU).nr_frames, 3);
    assert_eq!(frames(&host, DOMU, 0), []);
    for &mfn in &all {
        assert_eq!(counts(&host, mfn), (2, 1));
        assert_eq!(remap(&host, DOMU, 30, Pte::new(mfn, RW)), 0);
    }
    // Not to be given up, nor to become a table.
    let list = host.put(DOMU, &all[0].0);
    let reservation = hypercall_abi::memory::MemoryReservation {
        extent_start: GuestHandle::new(list),
        nr_extents: 1,
        domid: Domid::SELF,
        ..Default::default()
    };
    let at = host.put(DOMU, &reservation);
    let decrease = hypercall_abi::memory::XENMEM_DECREASE_RESERVATION;
    let number = hypercall_abi::xen::HYPERVISOR_MEMORY_OP;
    assert_eq!(host.hypercall(DOMU, number, &[decrease.into(), at]), 0);
    let kind = FrameType::Table(crate::memory::Level::L1);
    assert!(host.hv.memory.get_typed(all[0], DOMU, kind).is_err());
    in_order(&host);
    // An entry of the last frame is as good as any.
    let mfn = host.layout(DOMU).scratch[40];
    grant(&host, DOMU, 3 * 512 - 1, GTF_PERMIT_ACCESS, OTHER, mfn);
    let done = map(&host, OTHER, wish(3 * 512 - 1, MAP, 31));
    assert_eq!(done.status, GNTST_OKAY);
    assert_eq!(unmap(&host, OTHER, done.handle, 31), GNTST_OKAY);
    in_order(&host);
}

#[test]
fn a_wrong_wish_for_a_table_is_refused() {
    let host = host();
    let list = host.put_slice(DOMU, &[0_u64; 70]);
    let ask = |id, dom, nr_frames, list| {
        let op = GnttabSetupTable {
            dom,
            nr_frames,
            frame_list: GuestHandle::new(list),
            ..Default::default()
        };
        let mut ops = [op];
        (
            call(&host, id, GNTTABOP_SETUP_TABLE, &mut ops),
            ops[0].status,
        )
    };
    assert_eq!(ask(DOMU, DOM0, 1, list), (0, GNTST_PERMISSION_DENIED));
    assert_eq!(ask(DOMU, Domid(99), 1, list), (0, GNTST_BAD_DOMAIN));
    assert_eq!(ask(DOMU, Domid::SELF, 65, list), (0, GNTST_GENERAL_ERROR));
    assert_eq!(
        ask(DOMU, Domid::SELF, 2, UNMAPPED),
        (0, GNTST_BAD_VIRT_ADDR)
    );
    assert_eq!(
        ask(DOMU, Domid::SELF, u32::MAX, list),
        (0, GNTST_GENERAL_ERROR)
    );
    let hypervisors = hv_machine::HYPERVISOR_VIRT_START;
    assert_eq!(ask(DOMU, Domid::SELF, 1, hypervisors).0, FAULT);
    assert_eq!(ask(DOMU, Domid::SELF, 2, hypervisors - 8).0, FAULT);
    let mut two = [GnttabQuerySize::default(); 2];
    assert_eq!(call(&host, DOMU, GNTTABOP_QUERY_SIZE, &mut two), INVAL);
    assert_eq!(
        call::<GnttabQuerySize>(&host, DOMU, GNTTABOP_QUERY_SIZE, &mut []),
        INVAL
    );
    assert_eq!(query(&host, DOMU, DOM0).status, GNTST_PERMISSION_DENIED);
    let mut version = [GnttabGetVersion {
        dom: DOM0,
        ..Default::default()
    }];
    let permission = Errno::EPERM.to_return();
    assert_eq!(
        call(&host, DOMU, GNTTABOP_GET_VERSION, &mut version),
        permission
    );
    version[0].dom = Domid(99);
    assert_eq!(
        call(&host, DOMU, GNTTABOP_GET_VERSION, &mut version),
        Errno::ESRCH.to_return()
    );
    for (command, errno) in [
        (3, Errno::ENOSYS),
        (13, Errno::ENOSYS),
        (0x1000, Errno::EINVAL),
        (u32::MAX, Errno::EINVAL),
    ] {
        assert_eq!(call(&host, DOMU, command, &mut [0_u64]), errno.to_return());
    }
    in_order(&host);
}

#[test]
fn the_first_entries_outlive_a_change_of_version() {
    let host = host();
    let owned = host.domain(DOMU).owner.frames();
    let mfn = host.layout(DOMU).scratch[28];
    grant(&host, DOMU, 1, GTF_PERMIT_ACCESS, OTHER, mfn);
    grant(&host, DOMU, 9, GTF_PERMIT_ACCESS, OTHER, mfn);
    let store = map(&host, OTHER, wish(1, MAP, 30));
    assert_eq!(store.status, GNTST_OKAY);
    let nine = map(&host, OTHER, wish(9, MAP_RO, 31));
    assert_eq!(set_version(&host, DOMU, 2), (Errno::EBUSY.to_return(), 1));
    assert_eq!(unmap(&host, OTHER, nine.handle, 31), GNTST_OKAY);
    assert_eq!(set_version(&host, DOMU, 3), (INVAL, 1));
    assert_eq!(status_frames(&host, DOMU, 1).0, GNTST_GENERAL_ERROR);

    assert_eq!(set_version(&host, DOMU, 2), (0, 2));
    let (status, statuses) = status_frames(&host, DOMU, 1);
    assert_eq!(status, GNTST_OKAY);
    let machine = &host.hv.machine;
    let frame = frames(&host, DOMU, 1)[0];
    let header = u64::from(GTF_PERMIT_ACCESS) | u64::from(OTHER.0) << 16;
    assert_eq!(
        (machine.load_u64(frame, 2), machine.load_u64(frame, 3)),
        (header, mfn.0)
    );
    let used = u64::from(GTF_READING | GTF_WRITING);
    assert_eq!(machine.load_u64(statuses, 0), used << 16);
    assert_eq!(machine.load_u64(frame, 18), 0, "the others are gone");
    assert_eq!(set_version(&host, DOMU, 2), (0, 2));

    assert_eq!(set_version(&host, DOMU, 1), (0, 1));
    assert_eq!(flags_of(&host, DOMU, 1), GTF_PERMIT_ACCESS | used as u16);
    assert_eq!(unmap(&host, OTHER, store.handle, 30), GNTST_OKAY);
    assert_eq!(flags_of(&host, DOMU, 1), GTF_PERMIT_ACCESS);
    in_order(&host);
    // The frames of statuses are no part of what it may own, neither while it has them nor afterwards.
    for version in [1, 2, 1] {
        assert_eq!(set_version(&host, DOMU, version), (0, version));
        assert_eq!(host.domain(DOMU).owner.frames(), owned);
    }
}

#[test]
fn what_version_1_cannot_say_keeps_a_table_at_2() {
    let host = host();
    assert_eq!(set_version(&host, DOMU, 2), (0, 2));
    let frame = frames(&host, DOMU, 1)[0];
    let machine = &host.hv.machine;
    let header = |flags: u16| u64::from(flags) | u64::from(OTHER.0) << 16;
    for (first, second) in [
        (header(GTF_PERMIT_ACCESS), 1 << 32),
        (header(GTF_TRANSITIVE), 3),
    ] {
        machine.store_u64(frame, 7, second);
        machine.store_u64(frame, 6, first);
        assert_eq!(set_version(&host, DOMU, 1), (Errno::ERANGE.to_return(), 2));
    }
    machine.store_u64(frame, 6, header(GTF_ACCEPT_TRANSFER));
    assert_eq!(set_version(&host, DOMU, 1), (0, 1));
    assert_eq!(machine.load_u64(frame, 3), 0);
    in_order(&host);
}

#[test]
fn a_domain_may_be_kept_to_version_1() {
    let mut host = Host::new();
    host.hv.options.grants.limits.max_version = 1;
    host.add_domain(OTHER, false);
    assert_eq!(set_version(&host, OTHER, 2), (Errno::ENOSYS.to_return(), 1));
    assert_eq!(set_version(&host, OTHER, 1), (0, 1));
}

#[test]
fn mappings_of_version_2_are_marked_in_the_status() {
    let host = host();
    assert_eq!(set_version(&host, DOMU, 2), (0, 2));
    let statuses = status_frames(&host, DOMU, 1).1;
    let mfn = host.layout(DOMU).scratch[28];
    let frame = frames(&host, DOMU, 1)[0];
    let machine = &host.hv.machine;
    let header = u64::from(GTF_PERMIT_ACCESS) | u64::from(OTHER.0) << 16;
    machine.store_u64(frame, 2 * 255 + 1, mfn.0);
    machine.store_u64(frame, 2 * 255, header);
    let mark = || machine.load_u64(statuses, 255 / 4) >> 48;
    let reader = map(&host, OTHER, wish(255, MAP_RO, 30));
    assert_eq!(
        (reader.status, mark()),
        (GNTST_OKAY, u64::from(GTF_READING))
    );
    let writer = map(&host, OTHER, wish(255, MAP, 31));
    assert_eq!(mark(), u64::from(GTF_READING | GTF_WRITING));
    assert_eq!(unmap(&host, OTHER, writer.handle, 31), GNTST_OKAY);
    assert_eq!(mark(), u64::from(GTF_READING));
    // What was granted stays so for whom it was; to write, it takes a grant that says so now.
    machine.store_u64(frame, 2 * 255, header | u64::from(GTF_READONLY));
    assert_eq!(
        map(&host, OTHER, wish(255, MAP, 31)).status,
        GNTST_GENERAL_ERROR
    );
    assert_eq!(mark(), u64::from(GTF_READING));
    machine.store_u64(frame, 2 * 255, 0);
    let again = map(&host, OTHER, wish(255, MAP_RO, 31));
    assert_eq!(again.status, GNTST_OKAY, "in use by the same domain");
    assert_eq!(unmap(&host, OTHER, again.handle, 31), GNTST_OKAY);
    assert_eq!(unmap(&host, OTHER, reader.handle, 30), GNTST_OKAY);
    assert_eq!(mark(), 0);
    assert_eq!(
        map(&host, OTHER, wish(255, MAP_RO, 31)).status,
        GNTST_GENERAL_ERROR
    );
    assert_eq!(
        map(&host, OTHER, wish(256, MAP_RO, 31)).status,
        GNTST_BAD_GNTREF
    );
    in_order(&host);
}

#[test]
fn entries_change_places_unless_they_are_used() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    let swap = |a, b| {
        let op = GnttabSwapGrantRef {
            ref_a: GrantRef(a),
            ref_b: GrantRef(b),
            ..Default::default()
        };
        one(&host, DOMU, GNTTABOP_SWAP_GRANT_REF, op).status
    };
    assert_eq!(swap(8, 300), GNTST_OKAY);
    assert_eq!(
        (flags_of(&host, DOMU, 8), flags_of(&host, DOMU, 300)),
        (0, GTF_PERMIT_ACCESS)
    );
    let done = map(&host, OTHER, wish(300, MAP, 30));
    assert_eq!(done.dev_bus_addr, mfn.0 << 12);
    assert_eq!((swap(300, 8), swap(8, 300)), (GNTST_EAGAIN, GNTST_EAGAIN));
    assert_eq!(swap(300, 300), GNTST_OKAY);
    assert_eq!(
        (swap(8, 512), swap(u32::MAX, 8)),
        (GNTST_BAD_GNTREF, GNTST_BAD_GNTREF)
    );
    in_order(&host);
}

#[test]
fn caches_of_what_is_ones_own_or_granted_are_flushed() {
    let host = host();
    let mfn = host.layout(DOMU).scratch[40];
    grant(&host, DOMU, 500, GTF_PERMIT_ACCESS, OTHER, mfn);
    let own = host.layout(OTHER).scratch[30];
    let flush = |mfn: Mfn, offset, length, op| {
        let op = GnttabCacheFlush {
            a: Union::new(&(mfn.0 << 12)),
            offset,
            length,
            op,
        };
        call(&host, OTHER, GNTTABOP_CACHE_FLUSH, &mut [op, op])
    };
    let clean = GNTTAB_CACHE_CLEAN;
    assert_eq!(flush(own, 0, 4096, clean), 0);
    assert_eq!(flush(own, 8, 8, clean | GNTTAB_CACHE_INVAL), 0);
    assert_eq!(
        flush(own, 8, 8, GNTTAB_CACHE_INVAL),
        Errno::EOPNOTSUPP.to_return()
    );
    for (offset, length, op) in [
        (4096, 1, clean),
        (1, 4096, clean),
        (0, 4097, clean),
        (0, 8, 1 << 31),
        (0, 8, 4),
    ] {
        assert_eq!(flush(own, offset, length, op), INVAL);
    }
    assert_eq!(flush(Mfn(1 << 40), 0, 8, clean), INVAL);
    assert_eq!(flush(mfn, 0, 8, clean), INVAL, "not mapped yet");
    frames(&host, DOMU, 20);
    host.hv.machine.set_tsc_step(BUDGET);
    assert_eq!(map(&host, OTHER, wish(500, MAP, 31)).status, GNTST_OKAY);
    assert_eq!(flush(mfn, 0, 8, clean), 0);
    assert_eq!(flush(host.layout(DOMU).scratch[0], 0, 8, clean), INVAL);
    in_order(&host);
}
