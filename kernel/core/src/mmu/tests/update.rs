use super::*;

fn update(host: &Host, id: Domid, ptr: u64, val: u64, foreign: u64) -> i64 {
    list(
        host,
        id,
        HYPERVISOR_MMU_UPDATE,
        &[MmuUpdate { ptr, val }],
        foreign,
    )
    .0
}

#[track_caller]
fn refuse(host: &Host, id: Domid, (ptr, val): (u64, u64), foreign: u64, errno: Errno) {
    let entry = host.hv.machine.load_u64(host.layout(id).tables[3], 8);
    assert_eq!(update(host, id, ptr, val, foreign), errno.to_return());
    let after = host.hv.machine.load_u64(host.layout(id).tables[3], 8);
    assert_eq!(entry, after, "nothing is changed");
}

/// The L1 entry of scratch page 8.
fn place(host: &Host, id: Domid) -> u64 {
    (host.layout(id).tables[3].0 << 12) | (8 * 8)
}

/// `foreigndom` for tables of one domain and frames of another.
fn tables_of(id: Domid, frames: u64) -> u64 {
    (u64::from(id.0) + 1) << 16 | frames
}

#[test]
fn tables_are_a_domains_that_is_there_and_has_a_vcpu() {
    let host = Host::new();
    let entry = Pte::new(host.layout(DOMU).scratch[9], RW).0;
    let own = (place(&host, DOMU), entry);
    assert_eq!(update(&host, DOMU, own.0, own.1, tables_of(DOMU, SELF)), 0);
    for nobody in NOBODY
        .into_iter()
        .chain([Domid::SELF, Domid::IO, Domid::XEN])
    {
        if nobody != Domid::IDLE {
            refuse(&host, DOMU, own, tables_of(nobody, SELF), Errno::ESRCH);
        }
        refuse(&host, DOMU, own, tables_of(nobody, 99), Errno::ESRCH);
    }
    let new = crate::lifecycle::NewDomain {
        id: Domid(7),
        privileged: false,
        handle: [0; 16],
        max_vcpus: 1,
        max_port: 1,
        grants: host.hv.options.grants.limits,
    };
    crate::lifecycle::create(&host.hv, &new).expect("room for a domain");
    refuse(&host, DOM0, own, tables_of(new.id, SELF), Errno::EINVAL);
    refuse(&host, DOM0, own, tables_of(new.id, 99), Errno::EINVAL);
}

#[test]
fn only_the_control_domain_writes_tables_of_others_or_names_their_frames() {
    let host = Host::new();
    let theirs = (place(&host, DOM0), 0);
    let own = (place(&host, DOMU), 0);
    refuse(&host, DOMU, theirs, tables_of(DOM0, SELF), Errno::EPERM);
    refuse(&host, DOMU, own, u64::from(DOM0.0), Errno::EPERM);
    refuse(&host, DOMU, own, Domid::XEN.0.into(), Errno::EPERM);
    refuse(&host, DOMU, theirs, SELF, Errno::EINVAL);
    let nothing = tables_of(DOM0, u64::from(DOM0.0));
    let args = [UNMAPPED, 0, 0, nothing];
    assert_eq!(
        host.hypercall(DOMU, HYPERVISOR_MMU_UPDATE, &args),
        0,
        "of no request there is nothing to refuse"
    );
    let frame = host.layout(DOMU).scratch[9];
    let tables = tables_of(DOMU, DOMU.0.into());
    assert_eq!(
        update(
            &host,
            DOM0,
            place(&host, DOMU),
            Pte::new(frame, RO).0,
            tables
        ),
        0
    );
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn an_entry_names_what_its_table_may_hold() {
    let host = Host::new();
    let memory = &host.hv.memory;
    let [l4, l3, l2, l1] = host.layout(DOMU).tables;
    let own = host.layout(DOMU).scratch[9];
    let theirs = host.layout(DOM0).scratch[9];
    let at = place(&host, DOMU);
    let free = memory
        .allocate(&host.domain(DOMU).owner, 0, u64::MAX)
        .expect("room");
    assert!(memory.release_allocation(memory.get(free, DOMU).expect("its own")));
    let beyond = (0..12).map(|shift| Mfn(1 << (shift + 28)));
    for (mfn, flags, errno) in [
        (theirs, RO, Errno::EBUSY),
        (theirs, RW, Errno::EBUSY),
        (free, RO, Errno::EBUSY),
        (l1, RW, Errno::EBUSY),
        (l4, RW, Errno::EBUSY),
        (Mfn(1), RO, Errno::EPERM),
        (DEVICE.0, RO, Errno::EPERM),
        (NO_FRAME, RW, Errno::EINVAL),
        (own, RW | Pte::PCD, Errno::EINVAL),
        (own, RW | Pte::PWT, Errno::EINVAL),
        (own, RW | Pte::PAT, Errno::EINVAL),
    ]
    .into_iter()
    .chain(beyond.map(|mfn| (mfn, RO, Errno::EPERM)))
    {
        refuse(&host, DOMU, (at, Pte::new(mfn, flags).0), SELF, errno);
    }
    for (table, below) in [(l4, l3), (l3, l2), (l2, l1)] {
        let at = (table.0 << 12) | (100 * 8);
        for bad in [
            Pte::new(own, RW),
            Pte::new(theirs, RO),
            Pte::new(free, RO),
            Pte::new(DEVICE.0, RO),
            Pte::new(NO_FRAME, RO),
            Pte::new(Mfn(1), RO),
            Pte::new(host.layout(DOM0).tables[3], RO),
            Pte::new(below, RO | Pte::PSE),
            Pte::new(below, RO | Pte::GLOBAL),
            Pte::new(below, RO | Pte::PWT),
            Pte::new(below, RO | Pte::PCD),
        ] {
            refuse(&host, DOMU, (at, bad.0), SELF, Errno::EINVAL);
        }
        assert_eq!(update(&host, DOMU, at, !1, SELF), 0, "not present");
    }
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn a_request_is_for_a_frame_of_the_tables_owner() {
    let host = Host::new();
    let descriptors = unmapped(&host, DOMU, 20);
    let gdt = host.put(DOMU, &descriptors);
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_SET_GDT, &[gdt, 8]), 0);
    let shared = host.domain(DOM0).shared_info;
    for mfn in [
        descriptors,
        host.layout(DOM0).tables[3],
        host.layout(DOM0).scratch[3],
        shared,
        Mfn(0),
        Mfn(1),
        Mfn(4096),
        DEVICE.0,
        NO_FRAME,
    ] {
        refuse(&host, DOMU, (mfn.0 << 12, 0), SELF, Errno::EINVAL);
    }
    refuse(&host, DOMU, (!7, 0), SELF, Errno::EINVAL);
    let own_shared = host.domain(DOMU).shared_info;
    assert_eq!(
        update(&host, DOMU, own_shared.0 << 12 | 0xff8, 5, SELF),
        0,
        "an ordinary page"
    );
}

#[test]
fn tables_above_the_last_level_hold_frames_of_their_owner_alone() {
    let host = Host::new();
    let [l4, l3, l2, _] = host.layout(DOM0).tables;
    let l1_of_another = host.layout(DOMU).tables[3];
    for table in [l4, l3, l2] {
        let at = (table.0 << 12) | (100 * 8);
        for (val, foreign) in [
            (Pte::new(l1_of_another, RO).0, u64::from(DOMU.0)),
            (0, u64::from(DOMU.0)),
            (0, Domid::IO.0.into()),
            (0, Domid::XEN.0.into()),
        ] {
            refuse(&host, DOM0, (at, val), foreign, Errno::EINVAL);
        }
    }
}

#[test]
fn device_memory_is_for_those_that_were_given_it_and_keeps_its_caching() {
    let host = Host::new();
    let at = place(&host, DOMU);
    let uncached = Pte::new(DEVICE.1, RW | Pte::PCD);
    for foreign in [SELF, Domid::IO.0.into()] {
        refuse(&host, DOMU, (at, uncached.0), foreign, Errno::EPERM);
    }
    let owner = host.domain(DOMU).owner.clone();
    owner
        .set_io_memory(DEVICE.0, DEVICE.1, true)
        .expect("room for a range");
    for foreign in [SELF, Domid::IO.0.into()] {
        assert_eq!(update(&host, DOMU, at, uncached.0, foreign), 0);
        let stored = host.hv.machine.load_u64(host.layout(DOMU).tables[3], 8);
        assert_ne!(stored & Pte::PCD, 0);
    }
    let next = Pte::new(Mfn(DEVICE.1.0 + 1), RW).0;
    refuse(&host, DOMU, (at, next), SELF, Errno::EPERM);
    // Memory is not the device's, and stays cached.
    let own = Pte::new(host.layout(DOMU).scratch[9], RW | Pte::PCD).0;
    refuse(&host, DOMU, (at, own), Domid::IO.0.into(), Errno::EBUSY);
    assert_eq!(update(&host, DOMU, at, own, SELF), 0);
    let stored = host.hv.machine.load_u64(host.layout(DOMU).tables[3], 8);
    assert_eq!(stored & Pte::CACHE, 0);
    // What the control domain may, counts for the domain that maps.
    let dom0 = u64::from(DOM0.0);
    refuse(
        &host,
        DOM0,
        (place(&host, DOM0), uncached.0),
        SELF,
        Errno::EPERM,
    );
    let foreign = tables_of(DOMU, dom0 + 1);
    refuse(
        &host,
        DOM0,
        (at, Pte::new(Mfn(1), RO).0),
        foreign,
        Errno::EPERM,
    );
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn the_machine_to_phys_table_is_for_frames_of_the_owner_named() {
    let host = Host::new();
    let own = host.layout(DOMU).scratch[3];
    let theirs = host.layout(DOM0).scratch[3];
    let at = |mfn: Mfn| (mfn.0 << 12 | MMU_MACHPHYS_UPDATE, 77);
    for (id, request, foreign, errno) in [
        (DOMU, at(theirs), SELF, Errno::EINVAL),
        (DOMU, at(DEVICE.0), SELF, Errno::EINVAL),
        (DOMU, at(NO_FRAME), SELF, Errno::EINVAL),
        (DOMU, at(Mfn(1)), SELF, Errno::EINVAL),
        (DOMU, at(own), Domid::IO.0.into(), Errno::EPERM),
        (DOMU, at(own), Domid::XEN.0.into(), Errno::EPERM),
        (DOM0, at(own), Domid::IO.0.into(), Errno::EINVAL),
        (DOM0, at(theirs), u64::from(DOMU.0), Errno::EINVAL),
        (DOM0, at(own), tables_of(DOMU, SELF), Errno::EPERM),
        (DOMU, at(own), tables_of(DOM0, SELF), Errno::EPERM),
    ] {
        refuse(&host, id, request, foreign, errno);
    }
    assert_eq!(host.hv.machine.m2p(own), u64::MAX);
    let (ptr, _) = at(own);
    for pfn in [0, 5, u64::MAX] {
        assert_eq!(update(&host, DOMU, ptr, pfn, SELF), 0);
        assert_eq!(host.hv.machine.m2p(own), pfn);
    }
}

#[test]
fn there_are_four_commands_and_an_entry_is_aligned() {
    let host = Host::new();
    for command in 4..8 {
        for base in [place(&host, DOMU), 0, !7] {
            refuse(&host, DOMU, (base | command, 0), SELF, Errno::ENOSYS);
            refuse(&host, DOMU, (base | command, 0), 0, Errno::ENOSYS);
        }
    }
}

#[test]
fn accessed_and_dirty_bits_are_kept_on_request_and_nothing_is_translated() {
    const BITS: u64 = Pte::ACCESSED | Pte::DIRTY;
    let host = Host::new();
    let (at, table) = (place(&host, DOMU), host.layout(DOMU).tables[3]);
    let [own, other] = [8, 9].map(|page| host.layout(DOMU).scratch[page]);
    let stored = || Pte(host.hv.machine.load_u64(table, 8));
    let clean = |mfn: Mfn| Pte::new(mfn, RW & !BITS).0;
    for mfn in [own, other] {
        assert_eq!(update(&host, DOMU, at, clean(mfn) | BITS, SELF), 0);
        let preserve = at | MMU_PT_UPDATE_PRESERVE_AD;
        assert_eq!(update(&host, DOMU, preserve, clean(mfn), SELF), 0);
        assert_eq!(stored().0 & BITS, BITS);
    }
    assert_eq!(update(&host, DOMU, at, clean(own), SELF), 0);
    assert_eq!(stored().0 & BITS, 0);
    let plain = at | MMU_PT_UPDATE_NO_TRANSLATE;
    assert_eq!(update(&host, DOMU, plain, clean(other) | BITS, SELF), 0);
    assert_eq!(stored().mfn(), other);
    let preserve = at | MMU_PT_UPDATE_PRESERVE_AD;
    assert_eq!(update(&host, DOMU, preserve, 0, SELF), 0);
    assert_eq!(
        stored(),
        Pte(0),
        "an entry that is not present has no such bits"
    );
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn a_long_list_goes_on_and_counts_right() {
    const COUNT: u64 = 200;
    let host = Host::new();
    let table = host.layout(DOMU).tables[3];
    let own = host.layout(DOMU).scratch[9];
    let requests: Vec<_> = (0..COUNT)
        .map(|index| MmuUpdate {
            ptr: (table.0 << 12) | ((100 + index) * 8),
            val: Pte::new(own, RO).0,
        })
        .collect();
    assert!(is_interrupted(&host, HYPERVISOR_MMU_UPDATE, &requests));
    host.hv.machine.set_tsc_step(1_000_000);
    let made = list(&host, DOMU, HYPERVISOR_MMU_UPDATE, &requests, SELF);
    assert_eq!(made, (0, COUNT as u32));
    for index in 0..COUNT {
        let entry = host.hv.machine.load_u64(table, 100 + index as usize);
        assert_eq!(Pte(entry).mfn(), own);
    }
    let mut bad = requests;
    bad[150].val = Pte::new(host.layout(DOM0).scratch[0], RO).0;
    let made = list(&host, DOMU, HYPERVISOR_MMU_UPDATE, &bad, SELF);
    assert_eq!(made, (Errno::EBUSY.to_return(), 150));
    host.hv.machine.set_tsc_step(0);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn of_a_dying_domain_frames_are_mapped_as_long_as_they_are_there() {
    let host = Host::new();
    let gone = host.layout(DOMU).scratch[21];
    let tables = host.layout(DOMU).tables;
    let (mfn, held) = zombie(&host);
    let at = place(&host, DOM0);
    let domu = u64::from(DOMU.0);
    refuse(&host, DOM0, (at, Pte::new(gone, RO).0), domu, Errno::EBUSY);
    refuse(
        &host,
        DOM0,
        (tables[3].0 << 12, 0),
        tables_of(DOMU, domu),
        Errno::EINVAL,
    );
    assert_eq!(update(&host, DOM0, at, Pte::new(mfn, RW).0, domu), 0);
    drop(held);
    crate::lifecycle::reap(&host.hv);
    assert!(host.hv.domain(DOMU).is_ok(), "the mapping holds it");
    assert_eq!(update(&host, DOM0, at, 0, SELF), 0);
    crate::lifecycle::reap(&host.hv);
    assert!(host.hv.domain(DOMU).is_err());
    recount::check(&host.hv).expect("all counts stand");
}
