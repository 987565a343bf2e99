use super::*;

const ALL: [u32; 3] = [
    XENMEM_INCREASE_RESERVATION,
    XENMEM_DECREASE_RESERVATION,
    XENMEM_POPULATE_PHYSMAP,
];

#[test]
fn a_domain_that_is_not_there_or_not_the_callers_gets_and_gives_nothing() {
    let host = Host::new();
    let before = host.hv.memory.free_frames();
    for command in ALL {
        let domids = NOBODY.into_iter().chain([Domid::IO, Domid::XEN]);
        for (id, domid) in domids.map(|id| (DOM0, id)).chain([(DOMU, DOM0)]) {
            let list = host.put(id, &host.layout(DOM0).scratch[30].0);
            assert_eq!(call(&host, id, command, &extents(list, 1, 0, domid)), 0);
        }
    }
    assert_eq!(host.hv.memory.free_frames(), before);
}

#[test]
fn a_list_is_followed_as_far_as_it_goes() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    let before = owner.frames();
    // The last of these elements is in a page that is not there.
    let list = SCRATCH + 64 * 4096 - 24;
    for command in [XENMEM_INCREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP] {
        let wanted = extents(list, 4, 0, Domid::SELF);
        assert_eq!(call(&host, DOMU, command, &wanted), 3);
    }
    assert_eq!(owner.frames(), before + 6);
    let wanted = extents(list, 4, 0, Domid::SELF);
    assert_eq!(call(&host, DOMU, XENMEM_DECREASE_RESERVATION, &wanted), 3);
    assert_eq!(owner.frames(), before + 3);
    for list in BAD_ADDRESSES.into_iter().chain([u64::MAX - 7, 1 << 63]) {
        for command in ALL {
            let wanted = extents(list, 1, 0, Domid::SELF);
            assert_eq!(call(&host, DOMU, command, &wanted), 0, "{list:#x}");
        }
    }
    assert_eq!(owner.frames(), before + 3);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn how_large_an_extent_may_be_depends_on_who_asks() {
    let host = Host::new();
    let ask = |id, order| {
        call(
            &host,
            id,
            XENMEM_INCREASE_RESERVATION,
            &extents(0, 1, order, Domid::SELF),
        )
    };
    for id in [DOM0, DOMU] {
        host.domain(id).owner.set_max_frames(u64::MAX);
    }
    assert_eq!((ask(DOMU, 9), ask(DOMU, 10)), (1, 0));
    assert_eq!((ask(DOM0, 10), ask(DOM0, 13)), (1, 0));
    host.domain(DOMU)
        .access
        .lock()
        .set_ports(1, 1, true)
        .expect("room for a range");
    assert_eq!((ask(DOMU, 10), ask(DOMU, 13)), (1, 0));
    for order in [18, 19, 31, 32, 63, 64, u32::MAX] {
        assert_eq!(ask(DOM0, order), 0);
    }
}

#[test]
fn memory_lies_where_it_is_asked_for() {
    let host = Host::new();
    let list = host.put(DOMU, &0_u64);
    let ask = |bits: u8| {
        let mut wanted = extents(list, 1, 0, Domid::SELF);
        wanted.mem_flags = memf_address_bits(bits);
        let done = call(&host, DOMU, XENMEM_INCREASE_RESERVATION, &wanted);
        (done == 1).then(|| host.get::<u64>(DOMU, list))
    };
    for bits in [22, 23, 24, 63, 64, 255] {
        let mfn = ask(bits).expect("there is some");
        assert!(
            bits >= 52 || mfn >> (bits - 12) == 0,
            "{mfn:#x} has {bits} bits"
        );
    }
    for bits in [1, 11, 12, 13] {
        assert_eq!(ask(bits), None);
    }
    let mut narrow = extents(host.put(DOMU, &ask(0).expect("memory")), 1, 0, Domid::SELF);
    narrow.mem_flags = memf_address_bits(12);
    assert_eq!(call(&host, DOMU, XENMEM_DECREASE_RESERVATION, &narrow), 0);
}

#[test]
fn only_the_control_domain_chooses_a_node_and_there_is_but_one() {
    let host = Host::new();
    for (id, flags, done) in [
        (DOM0, memf_node(0), 1),
        (DOM0, memf_exact_node(0), 1),
        (DOM0, memf_node(1), 1),
        (DOM0, memf_exact_node(1), 0),
        (DOM0, memf_node(64), 0),
        (DOM0, memf_exact_node(64) | XENMEMF_VNODE, 1),
        (DOM0, XENMEMF_EXACT_NODE_REQUEST, 1),
        (DOMU, memf_node(0), 1),
        (DOMU, memf_node(64), 1),
        (DOMU, memf_exact_node(0), 0),
        (DOMU, XENMEMF_EXACT_NODE_REQUEST, 1),
    ] {
        let mut wanted = extents(0, 1, 0, Domid::SELF);
        wanted.mem_flags = flags;
        let result = call(&host, id, XENMEM_INCREASE_RESERVATION, &wanted);
        assert_eq!(result, done, "{flags:#x}");
    }
}

#[test]
fn an_extent_with_a_bad_frame_in_it_ends_the_list() {
    let host = Host::new();
    let frames = host.layout(DOMU).scratch.clone();
    let owner = host.domain(DOMU).owner.clone();
    let before = owner.frames();
    for bad in [
        host.layout(DOM0).scratch[0].0,
        host.domain(DOMU).shared_info.0,
        0,
        1,
        1 << 20,
        u64::MAX,
    ] {
        let list = host.put(DOMU, &[bad, frames[0].0]);
        let wanted = extents(list, 2, 0, Domid::SELF);
        assert_eq!(
            call(&host, DOMU, XENMEM_DECREASE_RESERVATION, &wanted),
            0,
            "{bad:#x}"
        );
    }
    let list = host.put(DOMU, &[u64::MAX - 1]);
    let wraps = extents(list, 1, 1, Domid::SELF);
    assert_eq!(call(&host, DOMU, XENMEM_DECREASE_RESERVATION, &wraps), 0);
    assert_eq!(owner.frames(), before);
    let twice = host.put(DOMU, &[frames[40].0; 2]);
    let wanted = extents(twice, 2, 0, Domid::SELF);
    assert_eq!(call(&host, DOMU, XENMEM_DECREASE_RESERVATION, &wanted), 1);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn a_call_goes_on_from_the_extent_that_it_names() {
    let host = Host::new();
    let list = host.put(DOMU, &[1_u64, 2, 3, 4]);
    let wanted = extents(list, 4, 0, Domid::SELF);
    let at = host.put(DOMU, &wanted);
    let word = |start: u64| u64::from(XENMEM_POPULATE_PHYSMAP) | start << COMMAND_BITS;
    assert_eq!(raw(&host, DOMU, word(3), at), 4);
    let pfns: [u64; 4] = host.get(DOMU, list);
    assert_eq!(pfns[..3], [1, 2, 3]);
    assert_eq!(host.hv.machine.m2p(Mfn(pfns[3])), 4);
    for start in [4, 5, 1 << 26, 1 << 57] {
        assert_eq!(raw(&host, DOMU, word(start), at), start as i64);
    }
}

#[test]
fn a_long_list_is_interrupted_and_done_once() {
    let host = Host::new();
    host.domain(DOMU).owner.set_max_frames(u64::MAX);
    let pfns: Vec<u64> = (1000..1100).collect();
    let list = host.put_slice(DOMU, &pfns);
    let wanted = extents(list, 100, 1, Domid::SELF);
    let before = host.domain(DOMU).owner.frames();
    host.hv.machine.set_tsc_step(1_000_000);
    let argument = host.put(DOMU, &wanted);
    for command in [XENMEM_POPULATE_PHYSMAP, XENMEM_DECREASE_RESERVATION] {
        let command_word = u64::from(command);
        host.as_guest(DOMU, |cx| {
            cx.deadline.set(Some(0));
            let result = do_memory_op(cx, &[command_word, argument, 0, 0, 0, 0]);
            assert_eq!(result, Err(crate::hypercall::Stop::AGAIN));
            let goes_on = command_word | 1 << COMMAND_BITS;
            assert_eq!(cx.continuation.get()[0], goes_on, "behind the first extent");
        });
        assert_eq!(
            raw(&host, DOMU, command_word | 1 << COMMAND_BITS, argument),
            100
        );
        if command == XENMEM_POPULATE_PHYSMAP {
            assert_eq!(host.domain(DOMU).owner.frames(), before + 200);
        }
    }
    assert_eq!(host.domain(DOMU).owner.frames(), before);
    host.hv.machine.set_tsc_step(0);
    recount::check(&host.hv).expect("all counts stand");
}

/// What a domain freed is scrubbed before another gets it, but not gigabytes of it in one step.
#[test]
fn scrubbing_for_a_single_extent_is_interrupted() {
    let host = Host::new();
    let memory = &host.hv.memory;
    let owner = host.domain(DOM0).owner.clone();
    owner.set_max_frames(u64::MAX);
    let mut held = Vec::new();
    while let Ok(mfn) = memory.allocate(&owner, 0, u64::MAX) {
        held.push(mfn);
    }
    for mfn in held {
        let frame = memory.get(mfn, DOM0).expect("its own");
        assert!(memory.release_allocation(frame));
    }
    let dirty = memory.dirty_frames();
    assert!(dirty > 3 * 512);
    host.hv.machine.set_tsc_step(1_000_000);
    let argument = host.put(DOM0, &extents(0, 1, 10, Domid::SELF));
    host.as_guest(DOM0, |cx| {
        cx.deadline.set(Some(0));
        let args = [XENMEM_INCREASE_RESERVATION.into(), argument, 0, 0, 0, 0];
        let result = do_memory_op(cx, &args);
        assert_eq!(result, Err(crate::hypercall::Stop::AGAIN));
        assert_eq!(cx.continuation.get(), args);
    });
    let left = memory.dirty_frames();
    assert!((1..dirty).contains(&left), "{left} of {dirty} are left");
    assert_eq!(
        raw(&host, DOM0, XENMEM_INCREASE_RESERVATION.into(), argument),
        1
    );
}

#[test]
fn a_dying_domain_gets_no_memory() {
    let host = Host::new();
    let domain = host.domain(DOMU);
    let held = host.hv.memory.get(host.layout(DOMU).scratch[0], DOMU);
    assert!(crate::lifecycle::destroy(&host.hv, &domain, &mut || false));
    let list = host.put(DOM0, &[5_u64]);
    for command in ALL {
        assert_eq!(call(&host, DOM0, command, &extents(list, 1, 0, DOMU)), 0);
    }
    drop(held);
    crate::lifecycle::reap(&host.hv);
    assert!(host.hv.domain(DOMU).is_err());
    recount::check(&host.hv).expect("all counts stand");
}
