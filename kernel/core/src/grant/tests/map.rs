//! Mappings.

use super::*;

#[test]
fn a_mapped_grant_is_the_granters_memory_until_it_is_unmapped() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    host.hv.machine.store_u64(mfn, 0, 0x1234);
    let free = counts(&host, mfn);
    let done = map(&host, OTHER, wish(8, MAP, 30));
    assert_eq!((done.status, done.dev_bus_addr), (GNTST_OKAY, mfn.0 << 12));
    assert_eq!(counts(&host, mfn), (free.0 + 1, free.1 + 1));
    let used = GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING;
    assert_eq!(flags_of(&host, DOMU, 8), used);
    assert_eq!(host.get::<u64>(OTHER, va(30)), 0x1234);
    host.put_at(OTHER, va(30), &0x5678_u64);
    assert_eq!(host.hv.machine.load_u64(mfn, 0), 0x5678);
    in_order(&host);

    assert_eq!(unmap(&host, OTHER, done.handle, 30), GNTST_OKAY);
    assert_eq!(counts(&host, mfn), free);
    assert_eq!(flags_of(&host, DOMU, 8), GTF_PERMIT_ACCESS);
    assert_eq!(entry_of(&host, OTHER, 30), Pte(0));
    let gone = host.as_guest(OTHER, |cx| cx.read::<u64>(va(30)));
    assert_eq!(gone, Err(Errno::EFAULT), "no processor remembers it");
    assert_eq!(
        unmap(&host, OTHER, done.handle, 30),
        GNTST_BAD_HANDLE,
        "once is enough"
    );
    in_order(&host);
}

#[test]
fn what_is_granted_to_be_read_is_not_written() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS | GTF_READONLY);
    let refused = map(&host, OTHER, wish(8, MAP, 30));
    assert_eq!(refused.status, GNTST_GENERAL_ERROR);
    let done = map(&host, OTHER, wish(8, MAP_RO, 30));
    assert_eq!(done.status, GNTST_OKAY);
    assert_eq!(counts(&host, mfn), (2, 0));
    assert!(!entry_of(&host, OTHER, 30).writable());
    assert_eq!(
        flags_of(&host, DOMU, 8),
        GTF_PERMIT_ACCESS | GTF_READONLY | GTF_READING
    );
    // Nor does the one who mapped it get more by rewriting the entry, or a second one.
    let same = entry_of(&host, OTHER, 30);
    let busy = Errno::EBUSY.to_return();
    assert_eq!(remap(&host, OTHER, 30, Pte(same.0 | Pte::WRITABLE)), busy);
    assert_eq!(remap(&host, OTHER, 31, same), busy);
    assert_eq!(remap(&host, OTHER, 30, Pte(same.0 & !Pte::NO_EXECUTE)), 0);
    assert_eq!(unmap(&host, OTHER, done.handle, 30), GNTST_OKAY);
    in_order(&host);
}

#[test]
fn each_refusal_has_its_status_and_leaves_nothing_behind() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    grant(&host, DOMU, 9, GTF_PERMIT_ACCESS, DOM0, mfn);
    grant(&host, DOMU, 10, GTF_ACCEPT_TRANSFER, OTHER, mfn);
    grant(&host, DOMU, 11, GTF_INVALID, OTHER, mfn);
    let foreign = host.layout(DOM0).scratch[0];
    grant(&host, DOMU, 12, GTF_PERMIT_ACCESS, OTHER, foreign);
    grant(&host, DOMU, 13, GTF_PERMIT_ACCESS, OTHER, Mfn(0xffff_ffff));
    let table = host.layout(DOMU).tables[3];
    grant(&host, DOMU, 14, GTF_PERMIT_ACCESS, OTHER, table);
    let before = counts(&host, mfn);
    let refuse = |wish: GnttabMapGrantRef, status: i16| {
        let done = map(&host, OTHER, wish);
        assert_eq!(done.status, status, "{wish:?}");
        assert_eq!(done.handle, wish.handle);
    };
    refuse(wish(8, 0, 30), GNTST_BAD_GNTREF);
    refuse(wish(8, GNTMAP_READONLY, 30), GNTST_BAD_GNTREF);
    for dom in [Domid(99), Domid::SELF, Domid::IO, Domid::INVALID] {
        refuse(
            GnttabMapGrantRef {
                dom,
                ..wish(8, MAP, 30)
            },
            GNTST_BAD_DOMAIN,
        );
    }
    for reference in [512, u32::MAX] {
        refuse(wish(reference, MAP, 30), GNTST_BAD_GNTREF);
    }
    for reference in [9, 10, 11] {
        refuse(wish(reference, MAP_RO, 30), GNTST_GENERAL_ERROR);
    }
    for reference in [12, 13] {
        refuse(wish(reference, MAP_RO, 30), GNTST_BAD_PAGE);
    }
    refuse(wish(14, MAP, 30), GNTST_GENERAL_ERROR);
    refuse(wish(14, MAP | GNTMAP_DEVICE_MAP, 30), GNTST_GENERAL_ERROR);
    let at = |host_addr, flags| GnttabMapGrantRef {
        host_addr,
        ..wish(8, flags, 0)
    };
    let pte = (host.layout(OTHER).tables[3].0 << 12) + 30 * 8;
    for wish in [
        at(UNMAPPED << 20, MAP),
        at(hv_machine::HYPERVISOR_VIRT_START, MAP),
        at(u64::MAX, MAP),
        at(pte + 4, MAP | GNTMAP_CONTAINS_PTE),
        at(
            host.layout(OTHER).tables[2].0 << 12,
            MAP | GNTMAP_CONTAINS_PTE,
        ),
        at(
            host.layout(DOMU).tables[3].0 << 12,
            MAP | GNTMAP_CONTAINS_PTE,
        ),
        at(
            host.layout(OTHER).scratch[0].0 << 12,
            MAP | GNTMAP_CONTAINS_PTE,
        ),
        at(!7, MAP | GNTMAP_CONTAINS_PTE),
        at(UNMAPPED << 20, MAP | GNTMAP_DEVICE_MAP),
    ] {
        refuse(wish, GNTST_GENERAL_ERROR);
    }
    assert_eq!(counts(&host, mfn), before);
    assert_eq!(flags_of(&host, DOMU, 8), GTF_PERMIT_ACCESS);
    in_order(&host);
}

#[test]
fn an_entry_that_is_pointed_at_is_written_and_no_other() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    let pte = (host.layout(OTHER).tables[3].0 << 12) + 30 * 8;
    let flags = MAP | GNTMAP_CONTAINS_PTE | 5 << GNTMAP_GUEST_AVAIL0;
    let place = GnttabMapGrantRef {
        host_addr: pte,
        ..wish(8, flags, 0)
    };
    let done = map(&host, OTHER, place);
    assert_eq!(done.status, GNTST_OKAY);
    let entry = entry_of(&host, OTHER, 30);
    assert_eq!(entry.mfn(), mfn);
    assert_eq!(entry.0 & Pte::AVAILABLE, 5 << 9);
    assert!(entry.has(Pte::GUEST_KERNEL | Pte::NO_EXECUTE) && entry.writable());
    assert_eq!(unmap(&host, OTHER, done.handle, 30), GNTST_GENERAL_ERROR);
    let op = GnttabUnmapGrantRef {
        host_addr: pte,
        handle: done.handle,
        ..Default::default()
    };
    assert_eq!(
        one(&host, OTHER, GNTTABOP_UNMAP_GRANT_REF, op).status,
        GNTST_OKAY
    );
    let user = map(&host, OTHER, wish(8, MAP | GNTMAP_APPLICATION_MAP, 30));
    let entry = entry_of(&host, OTHER, 30);
    assert!(entry.has(Pte::USER) && !entry.has(Pte::GUEST_KERNEL));
    assert_eq!(unmap(&host, OTHER, user.handle, 30), GNTST_OKAY);
    in_order(&host);
}

#[test]
fn a_mapping_for_devices_holds_the_frame_by_itself() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    let both = map(&host, OTHER, wish(8, MAP | GNTMAP_DEVICE_MAP, 30));
    assert_eq!((both.status, counts(&host, mfn)), (GNTST_OKAY, (3, 2)));
    let reading = map(
        &host,
        OTHER,
        wish(8, GNTMAP_DEVICE_MAP | GNTMAP_READONLY, 0),
    );
    assert_eq!((reading.status, counts(&host, mfn)), (GNTST_OKAY, (4, 2)));
    in_order(&host);
    let undo = |handle, host_addr, dev_bus_addr| {
        let op = GnttabUnmapGrantRef {
            host_addr,
            dev_bus_addr,
            handle,
            ..Default::default()
        };
        one(&host, OTHER, GNTTABOP_UNMAP_GRANT_REF, op).status
    };
    assert_eq!(undo(both.handle, 0, 0), GNTST_OKAY, "nothing is asked");
    assert_eq!(undo(both.handle, 0, 4096), GNTST_BAD_DEV_ADDR);
    assert_eq!(undo(both.handle, va(30), 0), GNTST_OKAY);
    assert_eq!(counts(&host, mfn), (3, 1));
    assert_eq!(undo(both.handle, va(30), both.dev_bus_addr), GNTST_OKAY);
    assert_eq!(counts(&host, mfn), (2, 0));
    assert_eq!(flags_of(&host, DOMU, 8), GTF_PERMIT_ACCESS | GTF_READING);
    assert_eq!(undo(both.handle, 0, both.dev_bus_addr), GNTST_BAD_HANDLE);
    assert_eq!(undo(reading.handle, 0, both.dev_bus_addr), GNTST_OKAY);
    assert_eq!(counts(&host, mfn), (1, 0));
    assert_eq!(flags_of(&host, DOMU, 8), GTF_PERMIT_ACCESS);
    in_order(&host);
}

#[test]
fn a_mapping_is_replaced_by_what_is_mapped_elsewhere() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    let own = host.layout(OTHER).scratch[31];
    let replace = |handle, new_page| {
        let op = GnttabUnmapAndReplace {
            host_addr: va(30),
            new_addr: va(new_page),
            handle,
            ..Default::default()
        };
        one(&host, OTHER, GNTTABOP_UNMAP_AND_REPLACE, op).status
    };
    let done = map(&host, OTHER, wish(8, MAP, 30));
    assert_eq!(replace(GrantHandle(77), 31), GNTST_BAD_HANDLE);
    assert_eq!(replace(done.handle, 31), GNTST_OKAY);
    assert_eq!(entry_of(&host, OTHER, 30).mfn(), own);
    assert_eq!(entry_of(&host, OTHER, 31), Pte(0));
    assert_eq!((counts(&host, own), counts(&host, mfn)), ((2, 1), (1, 0)));
    in_order(&host);
    // By machine address there is nothing to take it from; what was to take its place stays.
    let pte = (host.layout(OTHER).tables[3].0 << 12) + 33 * 8;
    let place = GnttabMapGrantRef {
        host_addr: pte,
        ..wish(8, MAP | GNTMAP_CONTAINS_PTE, 0)
    };
    let done = map(&host, OTHER, place);
    assert_eq!(replace(done.handle, 34), GNTST_GENERAL_ERROR);
    assert!(entry_of(&host, OTHER, 34).present());
    in_order(&host);
}

#[test]
fn no_more_is_mapped_than_the_limits_say() {
    let machine = hv_machine::sim::Machine::new(4096);
    let mut host = Host::with_machine(hv_machine::MachineRef::new(machine));
    host.hv.options.grants.limits.max_maptrack_frames = 1;
    host.add_domain(OTHER, false);
    granted(&host, 8, GTF_PERMIT_ACCESS);
    let other = Domid(8);
    host.hv.options.grants.limits.max_maptrack_frames = 0;
    host.add_domain(other, false);
    assert_eq!(map(&host, other, wish(8, MAP, 30)).status, GNTST_NO_SPACE);

    // A counter of uses has no more than 128, and a list of mappings that of its frames.
    let mut list = vec![wish(8, MAP_RO, 30); 130];
    assert_eq!(call(&host, OTHER, GNTTABOP_MAP_GRANT_REF, &mut list), 0);
    let good = list.iter().filter(|op| op.status == GNTST_OKAY);
    assert_eq!(good.count(), 128);
    assert_eq!(list[128].status, GNTST_GENERAL_ERROR);
    in_order(&host);
    granted(&host, 9, GTF_PERMIT_ACCESS);
    granted(&host, 10, GTF_PERMIT_ACCESS);
    let mut list = vec![wish(9, MAP_RO, 31); 128];
    assert_eq!(call(&host, OTHER, GNTTABOP_MAP_GRANT_REF, &mut list), 0);
    assert!(list.iter().all(|op| op.status == GNTST_OKAY));
    assert_eq!(map(&host, OTHER, wish(10, MAP, 32)).status, GNTST_NO_SPACE);
    // Overwritten entries give nothing back: only the last can be unmapped.
    assert_eq!(unmap(&host, OTHER, list[0].handle, 31), GNTST_OKAY);
    assert_eq!(unmap(&host, OTHER, list[1].handle, 31), GNTST_GENERAL_ERROR);
    assert_eq!(map(&host, OTHER, wish(10, MAP, 32)).status, GNTST_OKAY);
    in_order(&host);
}

#[test]
fn a_long_list_is_carried_out_in_pieces() {
    let host = host();
    for reference in 8..20 {
        granted(&host, reference, GTF_PERMIT_ACCESS);
    }
    let mut list: Vec<_> = (8..20)
        .map(|reference| wish(reference, MAP, 30 + reference as usize))
        .collect();
    host.hv.machine.set_tsc_step(BUDGET);
    assert_eq!(call(&host, OTHER, GNTTABOP_MAP_GRANT_REF, &mut list), 0);
    assert!(list.iter().all(|op| op.status == GNTST_OKAY));
    let mut list: Vec<_> = list
        .iter()
        .cycle()
        .take(40)
        .map(|op| GnttabUnmapGrantRef {
            host_addr: op.host_addr,
            handle: op.handle,
            ..Default::default()
        })
        .collect();
    host.hv.machine.take_flushes();
    assert_eq!(call(&host, OTHER, GNTTABOP_UNMAP_GRANT_REF, &mut list), 0);
    let statuses: Vec<_> = list.iter().map(|op| op.status).collect();
    assert_eq!(statuses[..12], [GNTST_OKAY; 12]);
    assert_eq!(statuses[12..], [GNTST_BAD_HANDLE; 28]);
    in_order(&host);
}

#[test]
fn what_cannot_be_read_or_written_stops_the_list() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    let map_at = |at, count| {
        let args = [GNTTABOP_MAP_GRANT_REF.into(), at, count];
        host.hypercall(OTHER, HYPERVISOR_GRANT_TABLE_OP, &args)
    };
    let end = va(64) - 32;
    host.put_at(OTHER, end, &wish(8, MAP, 30));
    assert_eq!(map_at(end, 2), FAULT);
    let done: GnttabMapGrantRef = host.get(OTHER, end);
    assert_eq!(done.status, GNTST_OKAY, "those before are done");
    assert_eq!(unmap(&host, OTHER, done.handle, 30), GNTST_OKAY);
    for at in crate::testing::BAD_ADDRESSES {
        assert_eq!(map_at(at, 1), FAULT, "{at:#x}");
    }
    assert_eq!(map_at(hv_machine::HYPERVISOR_VIRT_START - 32, 2), FAULT);
    assert_eq!(map_at(end, 0), 0);
    assert_eq!(map_at(end, 1 << 31), INVAL);
    assert_eq!(map_at(end, u64::from(u32::MAX)), INVAL);
    assert_eq!(counts(&host, mfn), (1, 0));
    in_order(&host);
}

#[test]
fn a_domain_maps_its_own_grants() {
    let host = host();
    let mfn = host.layout(DOMU).scratch[20];
    grant(&host, DOMU, 8, GTF_PERMIT_ACCESS, DOMU, mfn);
    let done = map(&host, DOMU, wish(8, MAP, 30));
    assert_eq!((done.status, counts(&host, mfn)), (GNTST_OKAY, (3, 2)));
    host.put_at(DOMU, va(20), &0x77_u64);
    assert_eq!(host.get::<u64>(DOMU, va(30)), 0x77);
    assert_eq!(unmap(&host, DOMU, done.handle, 30), GNTST_OKAY);
    assert_eq!(counts(&host, mfn), (2, 1));
    in_order(&host);
}

#[test]
fn what_is_mapped_to_write_becomes_no_table() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    let memory = &host.hv.memory;
    let table = FrameType::Table(crate::memory::Level::L1);
    let done = map(&host, OTHER, wish(8, MAP, 30));
    assert!(memory.get_typed(mfn, DOMU, table).is_err());
    assert_eq!(unmap(&host, OTHER, done.handle, 30), GNTST_OKAY);
    // To read, it may be one, and the other way round.
    let done = map(&host, OTHER, wish(8, MAP_RO, 30));
    let held = memory.get_typed(mfn, DOMU, table).map(|it| it.mfn());
    assert_eq!(held, Ok(mfn));
    assert_eq!(unmap(&host, OTHER, done.handle, 30), GNTST_OKAY);
    in_order(&host);
}
