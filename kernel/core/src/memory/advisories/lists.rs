//! Lists of frames that a guest gives, gets, or has the hypervisor look through.

use super::*;

use hypercall_abi::memory::*;
use hypercall_abi::types::GuestHandle;
use zerocopy::FromZeros;

use crate::lifecycle;

fn reservation(list: u64, count: u64, order: u32) -> MemoryReservation {
    let mut reservation = MemoryReservation::new_zeroed();
    reservation.extent_start = GuestHandle::new(list);
    reservation.nr_extents = count;
    reservation.extent_order = order;
    reservation.domid = Domid::SELF;
    reservation
}

fn call(host: &Host, id: Domid, command: u32, wanted: &MemoryReservation) -> i64 {
    let at = host.put(id, wanted);
    host.hypercall(id, HYPERVISOR_MEMORY_OP, &[command.into(), at])
}

fn exchange(host: &Host, input: MemoryReservation, output: MemoryReservation, done: u64) -> i64 {
    let mut wanted = MemoryExchange::new_zeroed();
    (wanted.in_, wanted.out, wanted.nr_exchanged) = (input, output, done);
    let at = host.put(DOMU, &wanted);
    host.hypercall(DOMU, HYPERVISOR_MEMORY_OP, &[XENMEM_EXCHANGE.into(), at])
}

/// XSA-14: nothing is populated on demand in a PV domain, and asking for it is no harm.
#[test]
fn memory_on_demand_is_refused() {
    let host = Host::new();
    let mut wanted = reservation(host.put(DOMU, &5_u64), 1, 0);
    wanted.mem_flags = XENMEMF_POPULATE_ON_DEMAND;
    assert_eq!(call(&host, DOMU, XENMEM_POPULATE_PHYSMAP, &wanted), 0);
    in_order(&host);
}

/// XSA-29, -212: the lists of an exchange lie in the guest's memory to their last element, also where the first is left
/// out as done and only the one that counts is somewhere else.
#[test]
fn an_exchange_reads_and_writes_no_memory_but_the_guests() {
    let host = Host::new();
    let target = hv_machine::HYPERVISOR_VIRT_START + 0x5_0000_0000;
    for (page, done) in (20..).zip([0, 1, 1 << 20, 1 << 40, 1 << 60]) {
        let frame = unmapped(&host, page);
        let good = host.put(DOMU, &frame).wrapping_sub(done * 8);
        let pfn = host.put(DOMU, &500_u64).wrapping_sub(done * 8);
        let bad = target.wrapping_sub(done * 8);
        let side = |list| reservation(list, done + 1, 0);
        for (input, output) in [(bad, pfn), (bad, bad), (good, bad)] {
            let result = exchange(&host, side(input), side(output), done);
            assert_eq!(result, FAULT, "{done:#x}");
        }
        in_order(&host);
    }
}

/// XSA-31: no order makes a long loop or shifts a number away.
#[test]
fn an_order_that_no_extent_can_have_does_nothing() {
    let host = Host::new();
    let free = host.hv.memory.free_frames();
    let list = host.put(DOMU, &[host.layout(DOMU).scratch[20].0; 2]);
    for order in [19, 20, 31, 32, 52, 63, 64, 65, 127, 1 << 31, u32::MAX] {
        for command in [
            XENMEM_INCREASE_RESERVATION,
            XENMEM_DECREASE_RESERVATION,
            XENMEM_POPULATE_PHYSMAP,
        ] {
            assert_eq!(call(&host, DOMU, command, &reservation(list, 2, order)), 0);
        }
        let (plain, odd) = (reservation(list, 1, 0), reservation(list, 1, order));
        let refused = Errno::EPERM.to_return();
        assert_eq!(exchange(&host, odd, plain, 0), refused);
        assert_eq!(exchange(&host, plain, odd, 0), refused);
    }
    assert_eq!(host.hv.memory.free_frames(), free);
    in_order(&host);
}

/// XSA-159, -287: an exchange that fails gives back what it took and frees nothing twice, and a page in use is not
/// taken from whoever uses it.
#[test]
fn a_failed_exchange_changes_nothing() {
    let host = Host::new();
    let idle: Vec<u64> = (40..43).map(|page| unmapped(&host, page).0).collect();
    let layout = host.layout(DOMU);
    let (owned, free) = (
        host.domain(DOMU).owner.frames(),
        host.hv.memory.free_frames(),
    );
    let output = host.put(DOMU, &500_u64);
    for bad in [
        layout.scratch[50].0,
        layout.tables[2].0,
        host.layout(DOM0).scratch[0].0,
        idle[0],
        u64::MAX,
    ] {
        let input = host.put(DOMU, &[idle[0], idle[1], idle[2], bad]);
        let sides = (reservation(input, 4, 0), reservation(output, 1, 2));
        for _ in 0..2 {
            assert_eq!(exchange(&host, sides.0, sides.1, 0), INVAL);
        }
        assert_eq!(host.domain(DOMU).owner.frames(), owned);
        assert_eq!(host.hv.memory.free_frames(), free);
        in_order(&host);
    }
}

/// XSA-231: a node is a number that somebody may look up in a table.
#[test]
fn a_node_that_is_not_there_is_refused() {
    let host = Host::new();
    for node in [1, 63, 64, 128, 254] {
        let mut wanted = reservation(0, 1, 0);
        wanted.mem_flags = memf_exact_node(node);
        for id in [DOM0, DOMU] {
            assert_eq!(call(&host, id, XENMEM_INCREASE_RESERVATION, &wanted), 0);
        }
        let frame = host.put(DOMU, &unmapped(&host, 20).0);
        let mut output = reservation(host.put(DOMU, &5_u64), 1, 0);
        output.mem_flags = memf_exact_node(node);
        assert_eq!(exchange(&host, reservation(frame, 1, 0), output, 0), INVAL);
    }
    in_order(&host);
}

/// XSA-385: what a domain gave up but still uses counts as its own, so that nobody comes to have more than he may.
#[test]
fn a_page_given_up_and_still_mapped_counts() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    let owned = owner.frames();
    owner.set_max_frames(owned);
    let kept: Vec<u64> = (40..50)
        .map(|page| host.layout(DOMU).scratch[page].0)
        .collect();
    let list = host.put_slice(DOMU, &kept);
    let wanted = reservation(list, 10, 0);
    assert_eq!(call(&host, DOMU, XENMEM_DECREASE_RESERVATION, &wanted), 10);
    assert_eq!(owner.frames(), owned);
    let more = reservation(0, 10, 0);
    assert_eq!(call(&host, DOMU, XENMEM_INCREASE_RESERVATION, &more), 0);
    assert_eq!(map(&host, 40, Pte(0)), 0);
    assert_eq!(call(&host, DOMU, XENMEM_INCREASE_RESERVATION, &more), 1);
    in_order(&host);
}

/// XSA-100, -245, -372: what a page held is not for its next owner.
#[test]
fn a_new_page_holds_nothing() {
    let host = Host::new();
    for owner in [DOM0, DOMU].map(|id| host.domain(id).owner.clone()) {
        owner.set_max_frames(u64::MAX);
    }
    let secret = 0x5ec2_e700_u64;
    let list = host.room(DOM0, 8 * 64);
    let mut wanted = reservation(list, 64, 0);
    for command in [XENMEM_INCREASE_RESERVATION, XENMEM_DECREASE_RESERVATION] {
        assert_eq!(call(&host, DOM0, command, &wanted), 64);
        for index in 0..64 {
            let mfn = Mfn(host.get::<u64>(DOM0, list + 8 * index));
            if command == XENMEM_INCREASE_RESERVATION {
                host.hv.machine.store_u64(mfn, 77, secret);
            }
        }
    }
    wanted.nr_extents = 1 << 20;
    wanted.extent_start = GuestHandle::NULL;
    let got = call(&host, DOMU, XENMEM_INCREASE_RESERVATION, &wanted);
    assert!(got > 64);
    let held = |mfn: &Mfn| host.hv.machine.load_u64(*mfn, 77) == secret;
    let frames = host.hv.memory.frames_of(&host.domain(DOMU).owner);
    assert!(!frames.iter().any(held));
}

/// XSA-147: a domain's end and somebody who gives its memory back take the same reference once.
#[test]
fn a_dying_domains_memory_is_given_back_once() {
    let host = Host::new();
    let domain = host.domain(DOMU);
    let frames: Vec<u64> = host.layout(DOMU).scratch.iter().map(|mfn| mfn.0).collect();
    let list = host.put_slice(DOM0, &frames);
    let mut wanted = reservation(list, frames.len() as u64, 0);
    wanted.domid = DOMU;
    let mut steps = 0;
    while !lifecycle::destroy(&host.hv, &domain, &mut || true) {
        steps += 1;
        if steps % 3 == 0 {
            wanted.extent_start = GuestHandle::new(list + 8 * steps);
            wanted.nr_extents = 4;
            call(&host, DOM0, XENMEM_DECREASE_RESERVATION, &wanted);
        }
    }
    assert!(steps > 3, "{steps} steps");
    assert!(host.hv.domain(DOMU).is_err());
    in_order(&host);
}
