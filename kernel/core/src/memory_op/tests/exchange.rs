use super::*;

/// Frames of scratch pages that are mapped nowhere any more.
fn unmapped(host: &Host, pages: std::ops::Range<u64>) -> Vec<u64> {
    pages
        .map(|page| {
            let args = [SCRATCH + page * 4096, 0, 0];
            assert_eq!(host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &args), 0);
            host.layout(DOMU).scratch[page as usize].0
        })
        .collect()
}

/// An exchange of these frames for extents of an order, with pseudo-physical frames from 500 on.
fn exchange(host: &Host, frames: &[u64], order: u32) -> MemoryExchange {
    let count = frames.len() as u64 >> order;
    let pfns: Vec<u64> = (500..500 + count).collect();
    let mut wanted = MemoryExchange::new_zeroed();
    let input = host.put_slice(DOMU, frames);
    wanted.in_ = extents(input, frames.len() as u64, 0, Domid::SELF);
    wanted.out = extents(host.put_slice(DOMU, &pfns), count, order, Domid::SELF);
    wanted
}

/// Makes the call; gives the result and how many extents are said to be done.
fn make(host: &Host, id: Domid, wanted: &MemoryExchange) -> (i64, u64) {
    let at = host.put(id, wanted);
    let result = raw(host, id, XENMEM_EXCHANGE.into(), at);
    (result, host.get::<MemoryExchange>(id, at).nr_exchanged)
}

#[track_caller]
fn refuse(host: &Host, wanted: &MemoryExchange, refusal: Errno) {
    let before = host.hv.memory.free_frames();
    assert_eq!(
        make(host, DOMU, wanted),
        (errno(refusal), wanted.nr_exchanged)
    );
    assert_eq!(host.hv.memory.free_frames(), before);
}

#[test]
fn both_sides_are_of_one_size_and_one_domain() {
    let host = Host::new();
    let frames = unmapped(&host, 40..44);
    let good = exchange(&host, &frames, 1);
    let changed = |change: &dyn Fn(&mut MemoryExchange)| {
        let mut wanted = good;
        change(&mut wanted);
        wanted
    };
    for bad in [
        changed(&|wanted| wanted.out.nr_extents = 1),
        changed(&|wanted| wanted.out.nr_extents = 3),
        changed(&|wanted| wanted.in_.nr_extents = 3),
        changed(&|wanted| wanted.out.extent_order = 2),
        changed(&|wanted| wanted.in_.domid = DOM0),
        changed(&|wanted| wanted.out.domid = DOMU),
        changed(&|wanted| wanted.nr_exchanged = 5),
        changed(&|wanted| wanted.nr_exchanged = 6),
        changed(&|wanted| wanted.in_.extent_order = 9),
        changed(&|wanted| wanted.nr_exchanged = u64::MAX),
        changed(&|wanted| wanted.nr_exchanged = 1),
        // Sizes that are the same once they have overflown.
        changed(&|wanted| {
            wanted.in_.nr_extents = 1 << 60;
            wanted.in_.extent_order = 4;
            wanted.out.nr_extents = 0;
        }),
        changed(&|wanted| {
            wanted.out.nr_extents = 1 << 63 | 2;
        }),
        changed(&|wanted| wanted.out.mem_flags = memf_exact_node(0)),
    ] {
        refuse(&host, &bad, Errno::EINVAL);
    }
    // Here with an extent that would be taken first.
    let mut overflown = good;
    let owner = &host.domain(DOMU).owner;
    let pair = host.hv.memory.allocate(owner, 1, u64::MAX).expect("room");
    overflown.in_ = extents(host.put(DOMU, &pair.0), 1 << 63, 1, Domid::SELF);
    overflown.out.nr_extents = 0;
    refuse(&host, &overflown, Errno::EINVAL);
    for order in [10, 18, 64, u32::MAX] {
        refuse(
            &host,
            &changed(&|wanted| wanted.in_.extent_order = order),
            Errno::EPERM,
        );
        refuse(
            &host,
            &changed(&|wanted| wanted.out.extent_order = order),
            Errno::EPERM,
        );
    }
    for (domid, refusal) in [
        (DOM0, Errno::EPERM),
        (Domid(99), Errno::ESRCH),
        (Domid::IO, Errno::ESRCH),
        (Domid::XEN, Errno::ESRCH),
        (Domid::COW, Errno::ESRCH),
        (Domid::INVALID, Errno::ESRCH),
    ] {
        let of = changed(&|wanted| (wanted.in_.domid, wanted.out.domid) = (domid, domid));
        refuse(&host, &of, refusal);
    }
    assert_eq!(make(&host, DOMU, &good), (0, 4));
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn what_was_done_before_is_not_done_again() {
    let host = Host::new();
    let frames = unmapped(&host, 40..44);
    let mut wanted = exchange(&host, &frames, 1);
    wanted.nr_exchanged = 2;
    assert_eq!(make(&host, DOMU, &wanted), (0, 4));
    let told: [u64; 2] = host.get(DOMU, wanted.out.extent_start.address());
    assert_eq!(told[0], 500);
    assert_eq!(host.hv.machine.m2p(Mfn(told[1] + 1)), 502);
    assert_eq!(host.hv.memory.owner_of(Mfn(frames[0])), Some(DOMU));
    wanted.nr_exchanged = 4;
    wanted.in_.extent_start = GuestHandle::new(UNMAPPED);
    assert_eq!(make(&host, DOMU, &wanted), (0, 4), "nothing is left to do");
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn a_large_extent_is_exchanged_for_single_pages() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    let first = host
        .hv
        .memory
        .allocate(&owner, 2, u64::MAX)
        .expect("four frames");
    let mut wanted = MemoryExchange::new_zeroed();
    let input = host.put(DOMU, &first.0);
    let output = host.put(DOMU, &[1_u64, 2, 3, 4]);
    wanted.in_ = extents(input, 1, 2, Domid::SELF);
    wanted.out = extents(output, 4, 0, Domid::SELF);
    // The flags of what is given mean nothing.
    wanted.in_.mem_flags = memf_address_bits(1);
    let owned = owner.frames();
    assert_eq!(make(&host, DOMU, &wanted), (0, 1));
    let told: [u64; 4] = host.get(DOMU, output);
    for (pfn, mfn) in (1..).zip(told) {
        assert_eq!(host.hv.machine.m2p(Mfn(mfn)), pfn);
        assert_eq!(host.hv.memory.owner_of(Mfn(mfn)), Some(DOMU));
    }
    assert_eq!(owner.frames(), owned);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn a_limit_does_not_stand_in_the_way_and_is_not_passed() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    let frames = unmapped(&host, 40..44);
    let owned = owner.frames();
    owner.set_max_frames(owned);
    assert_eq!(make(&host, DOMU, &exchange(&host, &frames, 2)), (0, 4));
    assert_eq!((owner.frames(), owner.max_frames()), (owned, owned));
    let wanted = extents(0, 1, 0, Domid::SELF);
    assert_eq!(call(&host, DOMU, XENMEM_INCREASE_RESERVATION, &wanted), 0);
}

#[test]
fn pages_that_are_not_the_domains_own_and_idle_are_kept() {
    let host = Host::new();
    let layout = host.layout(DOMU);
    let frames = unmapped(&host, 40..43);
    let dom0 = &host.domain(DOM0).owner;
    let idle_of_dom0 = host.hv.memory.allocate(dom0, 0, u64::MAX).expect("room");
    // Given up already, and there as long as it is mapped.
    let lingering = host.make_read_only(DOMU, 45);
    let list = extents(host.put(DOMU, &lingering.0), 1, 0, Domid::SELF);
    assert_eq!(call(&host, DOMU, XENMEM_DECREASE_RESERVATION, &list), 1);
    for bad in [
        idle_of_dom0.0,
        lingering.0,
        layout.scratch[50].0,
        layout.tables[0].0,
        layout.tables[3].0,
        host.domain(DOMU).shared_info.0,
        host.layout(DOM0).scratch[0].0,
        frames[0],
        0,
        1,
        1 << 30,
        u64::MAX,
    ] {
        let list = [frames[0], frames[1], frames[2], bad];
        refuse(&host, &exchange(&host, &list, 2), Errno::EINVAL);
    }
    let mut wraps = exchange(&host, &[u64::MAX - 1, 0], 1);
    wraps.in_ = MemoryReservation {
        nr_extents: 1,
        extent_order: 1,
        ..wraps.in_
    };
    refuse(&host, &wraps, Errno::EINVAL);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn lists_and_the_struct_are_where_the_caller_could_use_them() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    let owned = owner.frames();
    for bad in BAD_ADDRESSES {
        let frames = unmapped(&host, 40..41);
        let mut wanted = exchange(&host, &frames, 0);
        wanted.in_.extent_start = GuestHandle::new(bad);
        refuse(&host, &wanted, Errno::EFAULT);
    }
    for (page, bad) in (40..).zip(BAD_ADDRESSES) {
        let frames = unmapped(&host, page..page + 1);
        let mut wanted = exchange(&host, &frames, 0);
        wanted.out.extent_start = GuestHandle::new(bad);
        let result = make(&host, DOMU, &wanted);
        assert_eq!(result, (errno(Errno::EFAULT), 0), "{bad:#x}");
        // The pages are gone, and those in their place are the domain's.
        assert_ne!(host.hv.memory.owner_of(Mfn(frames[0])), Some(DOMU));
        assert_eq!(owner.frames(), owned);
    }
    // A struct that can only be read is not one that says what was done.
    let frames = unmapped(&host, 30..31);
    let wanted = exchange(&host, &frames, 0);
    let va = SCRATCH + 29 * 4096;
    host.put_at(DOMU, va, &wanted);
    let read_only = host.layout(DOMU).scratch[29].0 << 12 | crate::testing::RO;
    assert_eq!(
        host.hypercall(
            DOMU,
            HYPERVISOR_UPDATE_VA_MAPPING,
            &[va, read_only, hypercall_abi::xen::UVMF_INVLPG]
        ),
        0
    );
    let result = raw(&host, DOMU, XENMEM_EXCHANGE.into(), va);
    assert_eq!(result, errno(Errno::EFAULT));
    assert_eq!(owner.frames(), owned);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn what_cannot_be_given_leaves_everything_as_it_was() {
    let host = Host::new();
    let frames = unmapped(&host, 40..44);
    let mut low = exchange(&host, &frames, 0);
    low.out.mem_flags = memf_address_bits(13);
    refuse(&host, &low, Errno::ENOMEM);
    let dom0 = host.domain(DOM0).owner.clone();
    dom0.set_max_frames(u64::MAX);
    let wanted = extents(0, 1 << 20, 0, Domid::SELF);
    call(&host, DOM0, XENMEM_INCREASE_RESERVATION, &wanted);
    refuse(&host, &exchange(&host, &frames, 2), Errno::ENOMEM);
    for mfn in &frames {
        let state = host.hv.memory.state(Mfn(*mfn)).expect("a frame");
        assert!(state.allocated && state.references == 1);
    }
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn a_long_exchange_is_interrupted_and_done_once() {
    let host = Host::new();
    let frames = unmapped(&host, 30..46);
    let wanted = exchange(&host, &frames, 1);
    let owned = host.domain(DOMU).owner.frames();
    host.hv.machine.set_tsc_step(1_000_000);
    let args = [XENMEM_EXCHANGE.into(), host.put(DOMU, &wanted)];
    host.begin_hypercall(DOMU, 0, HYPERVISOR_MEMORY_OP, &args);
    assert_eq!(host.go_on(DOMU, 0, 1), None);
    assert_eq!(host.go_on(DOMU, 0, 100), Some(0));
    assert_eq!(host.get::<MemoryExchange>(DOMU, args[1]).nr_exchanged, 16);
    for index in 0..8 {
        let at = wanted.out.extent_start.address() + 8 * index;
        let first = Mfn(host.get::<u64>(DOMU, at));
        assert_eq!(host.hv.machine.m2p(first), 500 + index);
    }
    assert_eq!(host.domain(DOMU).owner.frames(), owned);
    host.hv.machine.set_tsc_step(0);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn a_dying_domain_exchanges_nothing() {
    let host = Host::new();
    let mfn = unmapped(&host, 40..41)[0];
    let domain = host.domain(DOMU);
    let held = host.hv.memory.get(Mfn(mfn), DOMU);
    assert!(crate::lifecycle::destroy(&host.hv, &domain, &mut || false));
    let mut wanted = MemoryExchange::new_zeroed();
    wanted.in_ = extents(host.put(DOM0, &mfn), 1, 0, DOMU);
    wanted.out = extents(host.put(DOM0, &5_u64), 1, 0, DOMU);
    let result = make(&host, DOM0, &wanted);
    assert_eq!(result, (errno(Errno::EINVAL), 0));
    drop(held);
    crate::lifecycle::reap(&host.hv);
    assert!(host.hv.domain(DOMU).is_err());
}

#[test]
fn a_list_does_not_go_on_at_the_first_address_behind_the_last() {
    let host = Host::new();
    let frames = unmapped(&host, 40..44);
    let mut wanted = exchange(&host, &frames, 0);
    wanted.nr_exchanged = 1;
    wanted.in_.extent_start = GuestHandle::new(u64::MAX - 7);
    refuse(&host, &wanted, Errno::EFAULT);
    // Nor at its own beginning.
    wanted = exchange(&host, &frames, 0);
    (wanted.in_.nr_extents, wanted.out.nr_extents) = (u64::MAX, u64::MAX);
    wanted.nr_exchanged = 1 << 61;
    refuse(&host, &wanted, Errno::EFAULT);
}

#[test]
fn what_others_claim_is_not_had_by_exchange() {
    let host = Host::new();
    let owner = host.domain(DOM0).owner.clone();
    owner.set_max_frames(u64::MAX);
    let frames = unmapped(&host, 40..44);
    let wanted = exchange(&host, &frames, 1);
    let all = owner.frames() + host.hv.memory.free_frames();
    let claim = |pages| call(&host, DOM0, XENMEM_CLAIM_PAGES, &extents(0, pages, 0, DOM0));
    assert_eq!(claim(all), 0);
    refuse(&host, &wanted, Errno::ENOMEM);
    assert_eq!(claim(0), 0);
    assert_eq!(make(&host, DOMU, &wanted), (0, 4));
}

#[test]
fn nothing_is_exchanged_for_a_domain_that_is_taken_apart() {
    let host = Host::new();
    let frames = unmapped(&host, 40..44);
    let mut wanted = exchange(&host, &frames, 1);
    for (side, list) in [
        (&mut wanted.in_, frames.as_slice()),
        (&mut wanted.out, &[500, 501]),
    ] {
        side.domid = DOMU;
        side.extent_start = GuestHandle::new(host.put_slice(DOM0, list));
    }
    let domain = host.domain(DOMU);
    assert!(!crate::lifecycle::destroy(&host.hv, &domain, &mut || true));
    let free = host.hv.memory.free_frames();
    assert_eq!(make(&host, DOM0, &wanted), (errno(Errno::EINVAL), 0));
    assert_eq!(host.hv.memory.free_frames(), free);
}

#[test]
fn what_is_set_aside_for_a_domain_is_not_used_up_by_what_it_pays_for() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    let claim = extents(0, owner.frames() + 5, 0, DOMU);
    assert_eq!(call(&host, DOM0, XENMEM_CLAIM_PAGES, &claim), 0);
    let frames = unmapped(&host, 40..44);
    assert_eq!(make(&host, DOMU, &exchange(&host, &frames, 0)), (0, 4));
    assert_eq!((owner.claim(), host.hv.memory.claimed_frames()), (5, 5));
}

#[test]
fn an_extent_that_cannot_be_had_whole_is_not_had_in_part() {
    let host = Host::new();
    let [dom0, domu] = [DOM0, DOMU].map(|id| host.domain(id).owner.clone());
    let first = host.hv.memory.allocate(&domu, 2, u64::MAX).expect("room");
    let mut wanted = MemoryExchange::new_zeroed();
    wanted.in_ = extents(host.put(DOMU, &first.0), 1, 2, Domid::SELF);
    wanted.out = extents(host.put(DOMU, &[1_u64, 2, 3, 4]), 4, 0, Domid::SELF);
    dom0.set_max_frames(u64::MAX);
    let all_but_two = dom0.frames() + host.hv.memory.free_frames() - 2;
    let claim = extents(0, all_but_two, 0, DOM0);
    assert_eq!(call(&host, DOM0, XENMEM_CLAIM_PAGES, &claim), 0);
    let owned = domu.frames();
    refuse(&host, &wanted, Errno::ENOMEM);
    assert_eq!(domu.frames(), owned);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn what_must_be_scrubbed_before_it_is_given_is_waited_for() {
    let host = Host::new();
    let dom0 = host.domain(DOM0).owner.clone();
    dom0.set_max_frames(u64::MAX);
    let all = extents(0, 1 << 20, 0, Domid::SELF);
    call(&host, DOM0, XENMEM_INCREASE_RESERVATION, &all);
    let frames = unmapped(&host, 40..44);
    let dirty = extents(host.put_slice(DOMU, &frames[2..]), 2, 0, Domid::SELF);
    assert_eq!(call(&host, DOMU, XENMEM_DECREASE_RESERVATION, &dirty), 2);
    let wanted = exchange(&host, &frames[..2], 0);
    host.hv.machine.set_tsc_step(1_000_000);
    assert_eq!(make(&host, DOMU, &wanted), (0, 2));
    host.hv.machine.set_tsc_step(0);
    let mut told: [u64; 2] = host.get(DOMU, wanted.out.extent_start.address());
    told.sort();
    let mut given = [frames[2], frames[3]];
    given.sort();
    assert_eq!(told, given);
    recount::check(&host.hv).expect("all counts stand");
}
