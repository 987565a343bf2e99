use super::*;

fn claim(host: &Host, id: Domid, domid: Domid, pages: u64) -> i64 {
    let wanted = extents(0, pages, 0, domid);
    call(host, id, XENMEM_CLAIM_PAGES, &wanted)
}

fn populate(host: &Host, domid: Domid, pages: u64) -> i64 {
    let wanted = extents(0, pages, 0, domid);
    call(host, DOM0, XENMEM_INCREASE_RESERVATION, &wanted)
}

#[test]
fn what_is_set_aside_is_for_its_domain_alone() {
    let host = Host::new();
    let memory = &host.hv.memory;
    let [dom0, domu] = [DOM0, DOMU].map(|id| host.domain(id).owner.clone());
    dom0.set_max_frames(u64::MAX);
    domu.set_max_frames(u64::MAX);
    let free = memory.free_frames();
    let all = domu.frames() + free;
    assert_eq!(claim(&host, DOM0, DOMU, all - 10), 0);
    assert_eq!(
        (domu.claim(), memory.claimed_frames()),
        (free - 10, free - 10)
    );
    assert_eq!(populate(&host, DOM0, 100), 10, "what nobody claims");
    assert_eq!(populate(&host, DOMU, 100), 100);
    assert_eq!(domu.claim(), free - 110);
    assert_eq!(populate(&host, DOM0, 1), 0);
    assert_eq!(claim(&host, DOM0, DOMU, 0), 0);
    assert_eq!((domu.claim(), memory.claimed_frames()), (0, 0));
    assert_eq!(populate(&host, DOM0, 1), 1);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn a_claim_is_of_one_domain_once_and_of_what_there_is() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    let (owned, free) = (owner.frames(), host.hv.memory.free_frames());
    for pages in [1, owned, 257, u64::MAX] {
        assert_eq!(
            claim(&host, DOM0, DOMU, pages),
            errno(Errno::EINVAL),
            "{pages}"
        );
    }
    owner.set_max_frames(u64::MAX);
    for pages in [owned + free + 1, u64::MAX] {
        assert_eq!(
            claim(&host, DOM0, DOMU, pages),
            errno(Errno::ENOMEM),
            "{pages}"
        );
    }
    assert_eq!(claim(&host, DOM0, DOMU, owned + 5), 0);
    assert_eq!(claim(&host, DOM0, DOMU, owned + 5), errno(Errno::EINVAL));
    let own = host.domain(DOM0).owner.frames();
    host.domain(DOM0).owner.set_max_frames(u64::MAX);
    assert_eq!(
        claim(&host, DOM0, DOM0, own + free - 4),
        errno(Errno::ENOMEM)
    );
    assert_eq!(claim(&host, DOM0, DOM0, own + free - 5), 0);
}

#[test]
fn a_claim_is_the_control_domains_and_a_plain_number() {
    let host = Host::new();
    for id in [DOM0, DOMU] {
        for domid in NOBODY.into_iter().chain([Domid::SELF, Domid::IO]) {
            assert_eq!(
                claim(&host, id, domid, 0),
                errno(Errno::EINVAL),
                "{domid:?}"
            );
        }
    }
    for domid in [DOM0, DOMU] {
        assert_eq!(claim(&host, DOMU, domid, 0), errno(Errno::EPERM));
    }
    let plain = extents(0, 0, 0, DOMU);
    for odd in [
        MemoryReservation {
            extent_order: 1,
            ..plain
        },
        MemoryReservation {
            mem_flags: 1,
            ..plain
        },
        extents(SCRATCH, 0, 0, DOMU),
    ] {
        for id in [DOM0, DOMU] {
            let result = call(&host, id, XENMEM_CLAIM_PAGES, &odd);
            assert_eq!(result, errno(Errno::EINVAL));
        }
    }
}

#[test]
fn a_dying_domain_claims_nothing_and_what_it_claimed_is_free() {
    let host = Host::new();
    let domain = host.domain(DOMU);
    let held = host.hv.memory.get(host.layout(DOMU).scratch[0], DOMU);
    assert_eq!(claim(&host, DOM0, DOMU, domain.owner.frames() + 9), 0);
    assert!(crate::lifecycle::destroy(&host.hv, &domain, &mut || false));
    assert_eq!(host.hv.memory.claimed_frames(), 0);
    assert_eq!(claim(&host, DOM0, DOMU, 100), errno(Errno::EINVAL));
    drop(held);
}

#[test]
fn the_toolstack_sees_what_is_set_aside() {
    use hypercall_abi::domctl::*;
    use hypercall_abi::xen::HYPERVISOR_DOMCTL;
    let host = Host::new();
    let owned = host.domain(DOMU).owner.frames();
    assert_eq!(claim(&host, DOM0, DOMU, owned + 9), 0);
    let op = Domctl::new(XEN_DOMCTL_GETDOMAININFO, DOMU);
    let at = host.put(DOM0, &op);
    assert_eq!(host.hypercall(DOM0, HYPERVISOR_DOMCTL, &[at]), 0);
    let info: DomctlGetdomaininfo = host.get::<Domctl>(DOM0, at).u.get();
    assert_eq!(info.outstanding_pages, 9);
}
