//! Copies.

use super::*;

/// One end of a copy: a grant of a domain's.
fn of_grant(domid: Domid, reference: u32, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr {
        u: Union::new(&reference),
        domid,
        offset,
        _pad0: 0,
    }
}

/// One end of a copy: a frame of the caller's.
fn of_frame(mfn: Mfn, offset: u16) -> GnttabCopyPtr {
    GnttabCopyPtr {
        u: Union::new(&mfn.0),
        domid: Domid::SELF,
        offset,
        _pad0: 0,
    }
}

fn to_own(source: GnttabCopyPtr, mfn: Mfn, len: u16) -> GnttabCopy {
    GnttabCopy {
        source,
        dest: of_frame(mfn, 0),
        len,
        flags: GNTCOPY_SOURCE_GREF,
        ..Default::default()
    }
}

fn copy(host: &Host, op: GnttabCopy) -> i16 {
    one(host, OTHER, GNTTABOP_COPY, op).status
}

#[test]
fn bytes_go_from_frame_or_grant_to_frame_or_grant() {
    let host = host();
    let (read, write) = (
        granted(&host, 8, GTF_PERMIT_ACCESS | GTF_READONLY),
        granted(&host, 9, GTF_PERMIT_ACCESS),
    );
    let own = host.layout(OTHER).scratch[30];
    let machine = &host.hv.machine;
    machine.write_frame(read, 100, b"granted");
    machine.write_frame(own, 200, b"own");
    let ends = [
        (
            of_grant(DOMU, 8, 100),
            GNTCOPY_SOURCE_GREF,
            of_frame(own, 1),
            0,
            7,
        ),
        (
            of_frame(own, 200),
            0,
            of_grant(DOMU, 9, 4093),
            GNTCOPY_DEST_GREF,
            3,
        ),
        (
            of_grant(DOMU, 8, 100),
            GNTCOPY_SOURCE_GREF,
            of_grant(DOMU, 9, 8),
            GNTCOPY_DEST_GREF,
            7,
        ),
        (of_frame(own, 200), 0, of_frame(own, 4000), 0, 3),
        (of_frame(own, 0), 0, of_frame(own, 0), 0, 0),
    ];
    let mut list = ends.map(|(source, from, dest, to, len)| GnttabCopy {
        source,
        dest,
        len,
        flags: from | to,
        ..Default::default()
    });
    machine.set_tsc_step(BUDGET / 2);
    assert_eq!(call(&host, OTHER, GNTTABOP_COPY, &mut list), 0);
    assert_eq!(list.map(|op| op.status), [GNTST_OKAY; 5]);
    let at = |mfn, offset| {
        let mut bytes = [0_u8; 7];
        machine.read_frame(mfn, offset, &mut bytes);
        bytes
    };
    assert_eq!(&at(own, 1), b"granted");
    assert_eq!(&at(write, 8), b"granted");
    assert_eq!(&at(write, 4089)[4..], b"own");
    assert_eq!(&at(own, 4000)[..3], b"own");
    assert_eq!(
        (counts(&host, read), counts(&host, write)),
        ((1, 0), (1, 0))
    );
    assert_eq!(flags_of(&host, DOMU, 9), GTF_PERMIT_ACCESS);
    in_order(&host);
}

#[test]
fn each_refusal_has_its_status() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS | GTF_READONLY);
    grant(&host, DOMU, 9, GTF_PERMIT_ACCESS, DOM0, mfn);
    grant(
        &host,
        DOMU,
        10,
        GTF_PERMIT_ACCESS,
        OTHER,
        host.layout(DOM0).scratch[0],
    );
    let table = host.layout(DOMU).tables[3];
    grant(&host, DOMU, 11, GTF_PERMIT_ACCESS, OTHER, table);
    let own = host.layout(OTHER).scratch[30];
    let grants = |source, dest| GnttabCopy {
        source,
        dest,
        len: 8,
        flags: GNTCOPY_SOURCE_GREF | GNTCOPY_DEST_GREF,
        ..Default::default()
    };
    for (op, status) in [
        (to_own(of_grant(DOMU, 512, 0), own, 8), GNTST_BAD_GNTREF),
        (to_own(of_grant(Domid(99), 8, 0), own, 8), GNTST_BAD_DOMAIN),
        (to_own(of_grant(DOMU, 9, 0), own, 8), GNTST_GENERAL_ERROR),
        (to_own(of_grant(DOMU, 10, 0), own, 8), GNTST_BAD_PAGE),
        (to_own(of_grant(DOMU, 8, 4089), own, 8), GNTST_BAD_COPY_ARG),
        (
            to_own(of_grant(DOMU, 8, u16::MAX), own, u16::MAX),
            GNTST_BAD_COPY_ARG,
        ),
        (to_own(of_grant(DOMU, 8, 0), mfn, 8), GNTST_BAD_PAGE),
        (
            to_own(of_grant(DOMU, 8, 0), host.layout(OTHER).tables[3], 8),
            GNTST_GENERAL_ERROR,
        ),
        (
            grants(of_grant(DOMU, 8, 0), of_grant(DOMU, 8, 0)),
            GNTST_GENERAL_ERROR,
        ),
        (
            grants(of_grant(DOMU, 8, 0), of_grant(DOMU, 11, 0)),
            GNTST_GENERAL_ERROR,
        ),
        (
            grants(of_grant(DOMU, 8, 0), of_grant(Domid(99), 8, 0)),
            GNTST_BAD_DOMAIN,
        ),
        (
            GnttabCopy {
                flags: GNTCOPY_SOURCE_GREF,
                ..grants(of_grant(DOMU, 8, 0), of_grant(DOMU, 8, 0))
            },
            GNTST_PERMISSION_DENIED,
        ),
        (
            grants(of_grant(DOMU, 11, 0), of_grant(DOMU, 8, 0)),
            GNTST_GENERAL_ERROR,
        ),
        (
            GnttabCopy {
                flags: 0,
                ..to_own(of_grant(DOMU, 8, 0), own, 8)
            },
            GNTST_PERMISSION_DENIED,
        ),
        // A table may be read: its owner can.
        (to_own(of_grant(DOMU, 11, 0), own, 8), GNTST_OKAY),
    ] {
        assert_eq!(copy(&host, op), status, "{op:?}");
    }
    assert_eq!(counts(&host, mfn), (1, 0));
    let op = to_own(of_grant(DOMU, 8, 0), own, 8);
    let end = va(64) - 40;
    host.put_at(OTHER, end, &op);
    let args = [GNTTABOP_COPY.into(), end, 2];
    assert_eq!(
        host.hypercall(OTHER, HYPERVISOR_GRANT_TABLE_OP, &args),
        FAULT
    );
    in_order(&host);
}

/// Gives [`DOMU`] a table of version 2 and writes an entry of it.
fn grant_v2(host: &Host, id: Domid, reference: u32, first: u64, second: u64) {
    if crate::grant::recount::frames(&host.domain(id)).len() == 1 {
        let version = GnttabSetVersion { version: 2 };
        one(host, id, GNTTABOP_SET_VERSION, version);
    }
    let frame = crate::grant::recount::frames(&host.domain(id))[0];
    let word = 2 * reference as usize;
    host.hv.machine.store_u64(frame, word + 1, second);
    host.hv.machine.store_u64(frame, word, first);
}

fn first_word(flags: u16, to: Domid, low: u16, high: u16) -> u64 {
    u64::from(flags) | u64::from(to.0) << 16 | u64::from(low) << 32 | u64::from(high) << 48
}

#[test]
fn a_part_of_a_page_is_all_that_is_copied_and_nothing_to_be_mapped() {
    let host = host();
    let mfn = host.layout(DOMU).scratch[28];
    let flags = GTF_PERMIT_ACCESS | GTF_SUB_PAGE;
    grant_v2(&host, DOMU, 8, first_word(flags, OTHER, 100, 50), mfn.0);
    let own = host.layout(OTHER).scratch[30];
    let from = |offset, len| copy(&host, to_own(of_grant(DOMU, 8, offset), own, len));
    assert_eq!(from(100, 50), GNTST_OKAY);
    assert_eq!(from(149, 1), GNTST_OKAY);
    for (offset, len) in [(99, 1), (100, 51), (150, 1), (0, 4096)] {
        assert_eq!(from(offset, len), GNTST_GENERAL_ERROR, "{offset} {len}");
    }
    assert_eq!(
        map(&host, OTHER, wish(8, MAP_RO, 31)).status,
        GNTST_GENERAL_ERROR
    );
    grant_v2(
        &host,
        DOMU,
        9,
        first_word(flags, OTHER, u16::MAX, u16::MAX),
        mfn.0,
    );
    let beyond = to_own(of_grant(DOMU, 9, 4095), own, 1);
    assert_eq!(copy(&host, beyond), GNTST_GENERAL_ERROR);
    in_order(&host);
}

#[test]
fn a_grant_of_a_grant_is_one_of_what_that_grants() {
    let host = host();
    let mfn = host.layout(DOM0).scratch[28];
    host.hv.machine.write_frame(mfn, 0, b"far away");
    grant(&host, DOM0, 12, GTF_PERMIT_ACCESS | GTF_READONLY, DOMU, mfn);
    grant_v2(
        &host,
        DOMU,
        8,
        first_word(GTF_TRANSITIVE, OTHER, DOM0.0, 0),
        12,
    );
    let own = host.layout(OTHER).scratch[30];
    let op = to_own(of_grant(DOMU, 8, 0), own, 8);
    assert_eq!(copy(&host, op), GNTST_OKAY);
    let mut bytes = [0; 8];
    host.hv.machine.read_frame(own, 0, &mut bytes);
    assert_eq!(&bytes, b"far away");
    let to = GnttabCopy {
        source: op.dest,
        dest: op.source,
        flags: GNTCOPY_DEST_GREF,
        ..op
    };
    assert_eq!(
        copy(&host, to),
        GNTST_GENERAL_ERROR,
        "only to be read there"
    );
    assert_eq!(
        map(&host, OTHER, wish(8, MAP_RO, 31)).status,
        GNTST_GENERAL_ERROR
    );
    // Nobody there, nothing there, not for us, and the way back.
    for (domid, reference, refusal) in [
        (99, 12, GNTST_GENERAL_ERROR),
        (DOM0.0, 13, GNTST_GENERAL_ERROR),
        (DOM0.0, 9999, GNTST_BAD_GNTREF),
        (DOMU.0, 12, GNTST_GENERAL_ERROR),
        (DOMU.0, 8, GNTST_GENERAL_ERROR),
    ] {
        grant_v2(
            &host,
            DOMU,
            9,
            first_word(GTF_TRANSITIVE, OTHER, domid, 0),
            reference,
        );
        let status = copy(&host, to_own(of_grant(DOMU, 9, 0), own, 8));
        assert_eq!(status, refusal, "{domid} {reference}");
        let statuses = crate::grant::recount::frames(&host.domain(DOMU))[1];
        assert_eq!(host.hv.machine.load_u64(statuses, 2), 0, "no mark is left");
    }
    assert_eq!(flags_of(&host, DOM0, 12), GTF_PERMIT_ACCESS | GTF_READONLY);
    // A grant of a grant goes no further.
    grant_v2(
        &host,
        DOMU,
        9,
        first_word(GTF_TRANSITIVE, OTHER, DOM0.0, 0),
        12,
    );
    grant_v2(
        &host,
        DOM0,
        12,
        first_word(GTF_TRANSITIVE, DOMU, OTHER.0, 0),
        8,
    );
    grant(&host, OTHER, 8, GTF_PERMIT_ACCESS, DOM0, own);
    let op = to_own(of_grant(DOMU, 9, 0), own, 8);
    assert_eq!(copy(&host, op), GNTST_GENERAL_ERROR);
    in_order(&host);
}

#[test]
fn grants_of_grants_can_be_switched_off() {
    let mut host = host();
    host.hv.options.grants.transitive = false;
    grant(
        &host,
        DOM0,
        12,
        GTF_PERMIT_ACCESS,
        DOMU,
        host.layout(DOM0).scratch[28],
    );
    grant_v2(
        &host,
        DOMU,
        8,
        first_word(GTF_TRANSITIVE, OTHER, DOM0.0, 0),
        12,
    );
    let own = host.layout(OTHER).scratch[30];
    let op = to_own(of_grant(DOMU, 8, 0), own, 8);
    assert_eq!(copy(&host, op), GNTST_GENERAL_ERROR);
    in_order(&host);
}
