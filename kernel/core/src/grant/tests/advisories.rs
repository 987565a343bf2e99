//! One test for each class of mistake that the published advisories on grants describe (Xen Security Advisories,
//! <https://xenbits.xen.org/xsa/>), as far as the tests of the operations are not that already. The number is in the
//! comment above each test.
//!
//! - XSA-24, -134, -295, -314: no entry is tried for ever, no lock depends on what was read before it was taken, and what
//!   counts in an entry is read with the instruction that marks it.
//! - XSA-284, -287, -385: transfers, in [`super::transfer`]: a frame goes only if nobody refers to it, to nobody who is
//!   full, and is lost and scrubbed where it does not arrive.
//! - XSA-228: the list of free handles has one lock.
//! - XSA-232, -235, -268, -384, -395, -437: no translated domains, no other processors, no NUMA nodes.
//! - XSA-299, -318: what goes on is in the arguments of the call, which are counted from what was done.

use super::*;

/// XSA-224, -316: a mapping of two kinds that failed in its second part kept what the first had.
#[test]
fn a_mapping_that_fails_half_way_gives_all_back() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    for flags in [MAP, MAP_RO] {
        for host_addr in [UNMAPPED << 20, 0] {
            let op = GnttabMapGrantRef {
                host_addr,
                ..wish(8, flags | GNTMAP_DEVICE_MAP, 0)
            };
            assert_eq!(map(&host, OTHER, op).status, GNTST_GENERAL_ERROR);
            assert_eq!(counts(&host, mfn), (1, 0));
            assert_eq!(flags_of(&host, DOMU, 8), GTF_PERMIT_ACCESS);
        }
    }
    in_order(&host);
}

/// XSA-224: what one mapping had to write was given back by another that only reads.
#[test]
fn each_mapping_gives_back_what_it_had() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    let write = map(&host, OTHER, wish(8, MAP | GNTMAP_DEVICE_MAP, 30));
    let read = map(&host, OTHER, wish(8, MAP_RO | GNTMAP_DEVICE_MAP, 31));
    assert_eq!(
        (write.status, read.status, counts(&host, mfn)),
        (0, 0, (5, 2))
    );
    let devices = |handle| {
        let op = GnttabUnmapGrantRef {
            dev_bus_addr: mfn.0 << 12,
            handle,
            ..Default::default()
        };
        one(&host, OTHER, GNTTABOP_UNMAP_GRANT_REF, op).status
    };
    assert_eq!((devices(read.handle), counts(&host, mfn)), (0, (4, 2)));
    assert_eq!((devices(write.handle), counts(&host, mfn)), (0, (3, 1)));
    assert_eq!(
        (unmap(&host, OTHER, read.handle, 31), counts(&host, mfn)),
        (0, (2, 1))
    );
    assert_eq!(
        (unmap(&host, OTHER, write.handle, 30), counts(&host, mfn)),
        (0, (1, 0))
    );
    in_order(&host);
}

/// XSA-227: an entry named by an address that is none of an entry's was written across two.
#[test]
fn no_entry_is_written_but_a_whole_one() {
    let host = host();
    granted(&host, 8, GTF_PERMIT_ACCESS);
    let table = host.layout(OTHER).tables[3];
    for offset in (0..8).chain(4089..4096).filter(|offset| offset % 8 != 0) {
        let op = GnttabMapGrantRef {
            host_addr: (table.0 << 12) + offset,
            ..wish(8, MAP | GNTMAP_CONTAINS_PTE, 0)
        };
        assert_eq!(map(&host, OTHER, op).status, GNTST_GENERAL_ERROR);
    }
    in_order(&host);
}

/// XSA-230: the end of one use took away the mark of another.
#[test]
fn a_grant_is_marked_until_its_last_use_ends() {
    let host = host();
    granted(&host, 8, GTF_PERMIT_ACCESS);
    let kinds = [
        MAP,
        MAP_RO,
        GNTMAP_DEVICE_MAP,
        GNTMAP_DEVICE_MAP | GNTMAP_READONLY,
    ];
    let used = [GTF_READING | GTF_WRITING, GTF_READING];
    for (kept, first) in kinds.iter().zip(used.iter().cycle()) {
        let held = map(&host, OTHER, wish(8, *kept, 30));
        for (page, other) in (31..).zip(kinds) {
            let done = map(&host, OTHER, wish(8, other, page));
            let op = GnttabUnmapGrantRef {
                host_addr: va(page),
                dev_bus_addr: done.dev_bus_addr,
                handle: done.handle,
                ..Default::default()
            };
            assert_eq!(
                one(&host, OTHER, GNTTABOP_UNMAP_GRANT_REF, op).status,
                GNTST_OKAY
            );
            let left = flags_of(&host, DOMU, 8) & (GTF_READING | GTF_WRITING);
            assert_eq!(left & first, *first, "{kept:#x} {other:#x}");
        }
        let op = GnttabUnmapGrantRef {
            host_addr: va(30),
            dev_bus_addr: held.dev_bus_addr,
            handle: held.handle,
            ..Default::default()
        };
        assert_eq!(
            one(&host, OTHER, GNTTABOP_UNMAP_GRANT_REF, op).status,
            GNTST_OKAY
        );
        assert_eq!(flags_of(&host, DOMU, 8), GTF_PERMIT_ACCESS);
    }
    in_order(&host);
}

/// XSA-234: a mapping to write was unmapped where one to read was, whose counts are others.
#[test]
fn what_is_unmapped_is_what_was_mapped() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    let write = map(&host, OTHER, wish(8, MAP, 30)).handle;
    let read = map(&host, OTHER, wish(8, MAP_RO, 31)).handle;
    assert_eq!(unmap(&host, OTHER, write, 31), GNTST_GENERAL_ERROR);
    assert_eq!(unmap(&host, OTHER, read, 30), GNTST_GENERAL_ERROR);
    assert_eq!(unmap(&host, OTHER, read, 32), GNTST_GENERAL_ERROR);
    assert_eq!(counts(&host, mfn), (3, 1));
    in_order(&host);
    // With the same rights one is as good as another.
    let again = map(&host, OTHER, wish(8, MAP, 33)).handle;
    assert_eq!(unmap(&host, OTHER, write, 33), GNTST_OKAY);
    assert_eq!(unmap(&host, OTHER, again, 30), GNTST_OKAY);
    in_order(&host);
}

/// XSA-226: what a grant in use was of was looked up again in an entry that its domain had changed.
#[test]
fn what_a_grant_in_use_is_of_does_not_change() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    let first = map(&host, OTHER, wish(8, MAP, 30));
    grant(
        &host,
        DOMU,
        8,
        GTF_PERMIT_ACCESS,
        OTHER,
        host.layout(DOM0).scratch[0],
    );
    let second = map(&host, OTHER, wish(8, MAP, 31));
    assert_eq!(second.dev_bus_addr, first.dev_bus_addr);
    // Nor is it another's as long as the first has it.
    grant(&host, DOMU, 8, GTF_PERMIT_ACCESS, DOM0, mfn);
    assert_eq!(
        map(&host, DOM0, wish(8, MAP, 31)).status,
        GNTST_GENERAL_ERROR
    );
    in_order(&host);
    for (handle, page) in [(first.handle, 30), (second.handle, 31)] {
        assert_eq!(unmap(&host, OTHER, handle, page), GNTST_OKAY);
    }
    assert_eq!(map(&host, DOM0, wish(8, MAP, 31)).status, GNTST_OKAY);
    in_order(&host);
}

/// XSA-236: a use that outlived the frame's counts, because its entry was overwritten, was taken for a hold on the frame.
#[test]
fn a_use_without_a_mapping_is_no_way_to_the_frame() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    assert_eq!(map(&host, OTHER, wish(8, MAP, 30)).status, GNTST_OKAY);
    assert_eq!(remap(&host, OTHER, 30, Pte(0)), 0);
    let frame = host.hv.memory.get(mfn, DOMU).expect("its own");
    assert!(host.hv.memory.release_allocation(frame));
    in_order(&host);
    let heir = host.domain(DOM0).owner.clone();
    while host.hv.memory.owner_of(mfn) != Some(DOM0) {
        let given = host.hv.memory.allocate(&heir, 0, u64::MAX);
        heir.set_max_frames(heir.frames() + 8);
        assert!(given.is_ok() || heir.max_frames() < 1 << 20);
    }
    assert_eq!(
        map(&host, OTHER, wish(8, MAP, 31)).status,
        GNTST_GENERAL_ERROR
    );
    let op = GnttabCopy {
        source: GnttabCopyPtr {
            u: Union::new(&8_u32),
            domid: DOMU,
            ..Default::default()
        },
        dest: GnttabCopyPtr {
            u: Union::new(&host.layout(OTHER).scratch[40].0),
            domid: Domid::SELF,
            ..Default::default()
        },
        len: 8,
        flags: GNTCOPY_SOURCE_GREF,
        ..Default::default()
    };
    assert_eq!(
        one(&host, OTHER, GNTTABOP_COPY, op).status,
        GNTST_BAD_DOMAIN
    );
    in_order(&host);
}

/// XSA-255, -379, -387: the status pages of a table that went back to version 1 were freed while the domain still had
/// them mapped.
#[test]
fn a_status_page_that_is_mapped_stays_one() {
    let host = host();
    frames(&host, DOMU, 12);
    let set = |version| {
        let mut list = [GnttabSetVersion { version }];
        (
            call(&host, DOMU, GNTTABOP_SET_VERSION, &mut list),
            list[0].version,
        )
    };
    let free = host.hv.memory.free_frames();
    for which in [12, 13] {
        assert_eq!(set(2), (0, 2));
        let page = crate::grant::recount::frames(&host.domain(DOMU))[which];
        assert_eq!(remap(&host, DOMU, 30, Pte::new(page, RW)), 0);
        assert_eq!(set(1), (Errno::EBUSY.to_return(), 2));
        assert_eq!(host.hv.memory.owner_of(page), Some(DOMU));
        in_order(&host);
        assert_eq!(remap(&host, DOMU, 30, Pte(0)), 0);
        assert_eq!(set(1), (0, 1));
        assert_eq!(host.hv.memory.owner_of(page), None);
        in_order(&host);
    }
    assert_eq!(host.hv.memory.free_frames(), free);
}

/// XSA-382: a table that grew had fewer statuses than entries.
#[test]
fn every_entry_of_version_2_has_a_status() {
    let host = host();
    let version = GnttabSetVersion { version: 2 };
    one(&host, DOMU, GNTTABOP_SET_VERSION, version);
    for count in [1, 8, 9, 17, 64] {
        let all = frames(&host, DOMU, count);
        let last = count * 256 - 1;
        let machine = &host.hv.machine;
        let frame = all[count as usize - 1];
        machine.store_u64(frame, 511, host.layout(DOMU).scratch[40].0);
        machine.store_u64(
            frame,
            510,
            u64::from(GTF_PERMIT_ACCESS) | u64::from(OTHER.0) << 16,
        );
        let done = map(&host, OTHER, wish(last, MAP, 30));
        assert_eq!(done.status, GNTST_OKAY, "{count}");
        let statuses = recount_frames(&host, DOMU)[all.len()..].to_vec();
        assert_eq!(statuses.len() as u32, count.div_ceil(8));
        assert_eq!(unmap(&host, OTHER, done.handle, 30), GNTST_OKAY);
        assert_eq!(
            map(&host, OTHER, wish(last + 1, MAP, 30)).status,
            GNTST_BAD_GNTREF
        );
    }
    in_order(&host);
}
