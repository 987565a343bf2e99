//! Transfers.

use super::*;

/// Has [`OTHER`] give a frame for [`DOMU`]'s entry `reference`.
fn transfer(host: &Host, mfn: Mfn, domid: Domid, reference: u32) -> i16 {
    let op = GnttabTransfer {
        mfn,
        domid,
        ref_: GrantRef(reference),
        ..Default::default()
    };
    one(host, OTHER, GNTTABOP_TRANSFER, op).status
}

/// A frame of [`OTHER`]'s that nothing refers to.
fn unused(host: &Host, page: usize) -> Mfn {
    let mfn = host.layout(OTHER).scratch[page];
    assert_eq!(remap(host, OTHER, page, Pte(0)), 0);
    mfn
}

#[test]
fn a_frame_becomes_the_receivers_with_what_is_in_it() {
    let host = host();
    let pfn = Mfn(0x123);
    for (version, reference) in [(1, 8), (2, 9)] {
        let op = GnttabSetVersion { version };
        one(&host, DOMU, GNTTABOP_SET_VERSION, op);
        let frame = frames(&host, DOMU, 1)[0];
        let machine = &host.hv.machine;
        let header = u64::from(GTF_ACCEPT_TRANSFER) | u64::from(OTHER.0) << 16;
        if version == 1 {
            machine.store_u64(frame, reference, header | pfn.0 << 32);
        } else {
            machine.store_u64(frame, 2 * reference + 1, pfn.0);
            machine.store_u64(frame, 2 * reference, header);
        }
        let mfn = unused(&host, 30 + reference);
        machine.store_u64(mfn, 5, 0x99);
        let owned = [OTHER, DOMU].map(|id| host.domain(id).owner.frames());
        assert_eq!(transfer(&host, mfn, DOMU, reference as u32), GNTST_OKAY);
        assert_eq!(host.hv.memory.owner_of(mfn), Some(DOMU));
        assert_eq!(counts(&host, mfn), (1, 0));
        assert_eq!((machine.load_u64(mfn, 5), machine.m2p(mfn)), (0x99, pfn.0));
        let after = [OTHER, DOMU].map(|id| host.domain(id).owner.frames());
        assert_eq!(after, [owned[0] - 1, owned[1] + 1]);
        let done = GTF_ACCEPT_TRANSFER | GTF_TRANSFER_COMMITTED | GTF_TRANSFER_COMPLETED;
        let header = u64::from(done) | u64::from(OTHER.0) << 16;
        if version == 1 {
            assert_eq!(machine.load_u64(frame, reference), header | mfn.0 << 32);
        } else {
            assert_eq!(machine.load_u64(frame, 2 * reference), header);
            assert_eq!(machine.load_u64(frame, 2 * reference + 1), mfn.0);
        }
        in_order(&host);
        // An entry accepts one.
        let mfn = unused(&host, 50 + reference);
        assert_eq!(
            transfer(&host, mfn, DOMU, reference as u32),
            GNTST_GENERAL_ERROR
        );
    }
}

/// The giver may have kept a translation, by which it would read and write what is the receiver's.
#[test]
fn no_processor_remembers_a_frame_that_was_given() {
    let host = host();
    grant(&host, DOMU, 8, GTF_ACCEPT_TRANSFER, OTHER, Mfn(5));
    let mfn = host.layout(OTHER).scratch[30];
    let read = || host.as_guest(OTHER, |cx| cx.read::<u64>(va(30)));
    host.put_at(OTHER, va(30), &7_u64);
    assert_eq!(remap(&host, OTHER, 30, Pte(0)), 0);
    assert_eq!(read(), Ok(7), "nobody has asked for a flush");
    assert_eq!(transfer(&host, mfn, DOMU, 8), GNTST_OKAY);
    assert_eq!(read(), Err(Errno::EFAULT));
    in_order(&host);
    // Whoever reads takes no type, of which the end would be noted.
    grant(&host, DOMU, 9, GTF_ACCEPT_TRANSFER, OTHER, Mfn(6));
    let mfn = host.layout(OTHER).scratch[31];
    assert_eq!(remap(&host, OTHER, 30, Pte::new(mfn, RO)), 0);
    assert_eq!(remap(&host, OTHER, 31, Pte(0)), 0);
    host.hv.machine.flush_tlb_on(1);
    assert_eq!(read(), Ok(0));
    assert_eq!(remap(&host, OTHER, 30, Pte(0)), 0);
    assert_eq!(read(), Ok(0), "nobody has asked for a flush");
    assert_eq!(transfer(&host, mfn, DOMU, 9), GNTST_OKAY);
    assert_eq!(read(), Err(Errno::EFAULT));
    in_order(&host);
}

#[test]
fn a_domain_that_goes_is_given_nothing() {
    let host = host();
    grant(&host, DOMU, 8, GTF_ACCEPT_TRANSFER, OTHER, Mfn(5));
    let mfn = unused(&host, 30);
    // The first step of its end; its table is there until later.
    host.hv.memory.close(&host.domain(DOMU).owner);
    let owned = host.domain(DOMU).owner.frames();
    assert_eq!(transfer(&host, mfn, DOMU, 8), GNTST_GENERAL_ERROR);
    assert_eq!(host.hv.memory.owner_of(mfn), None);
    assert_eq!(host.domain(DOMU).owner.frames(), owned);
    in_order(&host);
}

#[test]
fn what_is_used_or_anothers_is_not_given() {
    let host = host();
    grant(&host, DOMU, 8, GTF_ACCEPT_TRANSFER, OTHER, Mfn(5));
    let give = |mfn| transfer(&host, mfn, DOMU, 8);
    for mfn in [
        host.layout(OTHER).scratch[30],
        host.layout(OTHER).tables[3],
        host.domain(OTHER).shared_info,
        recount_frames(&host, OTHER)[0],
        host.layout(DOMU).scratch[30],
        Mfn(0),
        Mfn(u64::MAX),
    ] {
        assert_eq!(give(mfn), GNTST_BAD_PAGE, "{mfn}");
    }
    assert_eq!(flags_of(&host, DOMU, 8), GTF_ACCEPT_TRANSFER);
    in_order(&host);
}

#[test]
fn a_frame_that_is_not_accepted_is_lost_and_scrubbed() {
    let host = host();
    grant(&host, DOMU, 9, GTF_ACCEPT_TRANSFER, DOM0, Mfn(5));
    grant(&host, DOMU, 10, GTF_PERMIT_ACCESS, OTHER, Mfn(5));
    let refusals = [
        (Domid(99), 8, GNTST_BAD_DOMAIN),
        (Domid::SELF, 8, GNTST_BAD_DOMAIN),
        (DOMU, 9, GNTST_GENERAL_ERROR),
        (DOMU, 10, GNTST_GENERAL_ERROR),
        (DOMU, 11, GNTST_GENERAL_ERROR),
        (DOMU, 512, GNTST_GENERAL_ERROR),
    ];
    for (page, (domid, reference, status)) in (30..).zip(refusals) {
        let mfn = unused(&host, page);
        host.hv.machine.store_u64(mfn, 0, 7);
        assert_eq!(transfer(&host, mfn, domid, reference), status);
        assert_eq!(host.hv.memory.owner_of(mfn), None);
        in_order(&host);
        assert_eq!(host.hv.machine.load_u64(mfn, 0), 0);
    }
    grant(&host, DOMU, 8, GTF_ACCEPT_TRANSFER, OTHER, Mfn(5));
    let owner = host.domain(DOMU).owner.clone();
    owner.set_max_frames(owner.frames());
    assert_eq!(
        transfer(&host, unused(&host, 40), DOMU, 8),
        GNTST_GENERAL_ERROR
    );
    assert_eq!(flags_of(&host, DOMU, 8), GTF_ACCEPT_TRANSFER);
    in_order(&host);
}

#[test]
fn transfers_can_be_switched_off() {
    let mut host = host();
    host.hv.options.grants.transfer = false;
    let mut list = [GnttabTransfer::default()];
    let result = call(&host, OTHER, GNTTABOP_TRANSFER, &mut list);
    assert_eq!(result, Errno::EOPNOTSUPP.to_return());
}
