//! Domains that come and go.

use super::*;
use crate::lifecycle;

fn destroy(host: &Host, id: Domid) {
    let domain = host.domain(id);
    while !lifecycle::destroy(&host.hv, &domain, &mut || true) {}
}

#[test]
fn a_mapped_frame_outlives_the_domain_that_granted_it() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    granted(&host, 9, GTF_PERMIT_ACCESS);
    let done = map(&host, OTHER, wish(8, MAP | GNTMAP_DEVICE_MAP, 30));
    host.put_at(OTHER, va(30), &0x77_u64);
    destroy(&host, DOMU);
    assert!(host.hv.domain(DOMU).is_ok(), "as long as its frame is used");
    assert_eq!(host.hv.memory.owner_of(mfn), Some(DOMU));
    assert_eq!(host.get::<u64>(OTHER, va(30)), 0x77);
    for reference in [8, 9, 512] {
        let late = map(&host, OTHER, wish(reference, MAP, 31));
        assert_eq!(late.status, GNTST_BAD_DOMAIN);
    }
    in_order(&host);
    let op = GnttabUnmapGrantRef {
        host_addr: va(30),
        dev_bus_addr: done.dev_bus_addr,
        handle: done.handle,
        ..Default::default()
    };
    assert_eq!(
        one(&host, OTHER, GNTTABOP_UNMAP_GRANT_REF, op).status,
        GNTST_OKAY
    );
    lifecycle::reap(&host.hv);
    assert!(host.hv.domain(DOMU).is_err());
    in_order(&host);
}

#[test]
fn a_domain_that_goes_gives_back_what_it_had_mapped() {
    let host = host();
    let frames: Vec<_> = (8..16)
        .map(|reference| granted(&host, reference, GTF_PERMIT_ACCESS))
        .collect();
    for (reference, flags) in (8..).zip([
        MAP,
        MAP_RO,
        GNTMAP_DEVICE_MAP,
        MAP | GNTMAP_DEVICE_MAP,
        MAP_RO | GNTMAP_DEVICE_MAP,
    ]) {
        let done = map(
            &host,
            OTHER,
            wish(reference, flags, 30 + reference as usize),
        );
        assert_eq!(done.status, GNTST_OKAY);
    }
    destroy(&host, OTHER);
    assert!(host.hv.domain(OTHER).is_err());
    for (mfn, reference) in frames.into_iter().zip(8..) {
        assert_eq!(counts(&host, mfn), (1, 0));
        assert_eq!(flags_of(&host, DOMU, reference), GTF_PERMIT_ACCESS);
    }
    in_order(&host);
}

#[test]
fn domains_that_map_from_each_other_go_in_any_order() {
    for order in [[DOMU, OTHER], [OTHER, DOMU]] {
        let host = host();
        let free = host.hv.memory.free_frames();
        granted(&host, 8, GTF_PERMIT_ACCESS);
        grant(
            &host,
            OTHER,
            8,
            GTF_PERMIT_ACCESS,
            DOMU,
            host.layout(OTHER).scratch[20],
        );
        let there = GnttabMapGrantRef {
            dom: OTHER,
            ..wish(8, MAP | GNTMAP_DEVICE_MAP, 30)
        };
        assert_eq!(map(&host, DOMU, there).status, GNTST_OKAY);
        assert_eq!(
            map(&host, OTHER, wish(8, MAP | GNTMAP_DEVICE_MAP, 30)).status,
            GNTST_OKAY
        );
        for id in order {
            destroy(&host, id);
            in_order(&host);
        }
        lifecycle::reap(&host.hv);
        assert!(host.hv.domain(DOMU).is_err() && host.hv.domain(OTHER).is_err());
        assert!(host.hv.memory.free_frames() > free);
    }
}

#[test]
fn a_mapping_that_was_overwritten_is_lost_until_its_domain_goes() {
    let host = host();
    let mfn = granted(&host, 8, GTF_PERMIT_ACCESS);
    let done = map(&host, OTHER, wish(8, MAP, 30));
    assert_eq!(remap(&host, OTHER, 30, Pte(0)), 0);
    assert_eq!(counts(&host, mfn), (1, 0));
    assert_eq!(unmap(&host, OTHER, done.handle, 30), GNTST_GENERAL_ERROR);
    let used = GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING;
    assert_eq!(flags_of(&host, DOMU, 8), used, "the granter sees that");
    in_order(&host);
    destroy(&host, DOMU);
    assert!(host.hv.domain(DOMU).is_err(), "nothing keeps it");
    assert_eq!(unmap(&host, OTHER, done.handle, 30), GNTST_GENERAL_ERROR);
    in_order(&host);
    destroy(&host, OTHER);
    in_order(&host);
}
