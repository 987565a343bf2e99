//! What the calls answer to requests that are wrong or hostile, and what they do when they are interrupted.

mod extended;
mod pieces;
mod update;
mod va_mapping;

use core::sync::atomic::Ordering;

use hv_machine::Platform;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};
use hypercall_abi::xen::*;
use zerocopy::{Immutable, IntoBytes};

use crate::memory::{Pte, recount};
use crate::testing::{BAD_ADDRESSES, DOM0, DOMU, Host, NOBODY, RO, RW, SCRATCH, UNMAPPED};

const SELF: u64 = Domid::SELF.0 as u64;
/// Frames of devices, behind all memory.
const DEVICE: (Mfn, Mfn) = (Mfn(0x1_0000), Mfn(0x1_000f));

/// A number that names no frame at all.
const NO_FRAME: Mfn = Mfn((1 << 40) - 1);

/// Makes a list of requests; gives the result and how many were done.
fn list<T: IntoBytes + Immutable>(
    host: &Host,
    id: Domid,
    call: u32,
    requests: &[T],
    foreign: u64,
) -> (i64, u32) {
    let at = host.put_slice(id, requests);
    let done = host.put(id, &u32::MAX);
    let result = host.hypercall(id, call, &[at, requests.len() as u64, done, foreign]);
    (result, host.get(id, done))
}

/// Whether a list is not done at once where every look at the clock takes longer than a call may; it is given up.
fn is_interrupted<T: IntoBytes + Immutable>(host: &Host, call: u32, requests: &[T]) -> bool {
    let args = [
        host.put_slice(DOMU, requests),
        requests.len() as u64,
        0,
        SELF,
    ];
    host.hv.machine.set_tsc_step(1_000_000);
    host.begin_hypercall(DOMU, 0, call, &args);
    let interrupted = host.go_on(DOMU, 0, 1).is_none();
    host.hv.machine.set_tsc_step(0);
    interrupted
}

/// Takes the mapping of a scratch page away, so that its frame may become anything; gives the frame.
fn unmapped(host: &Host, id: Domid, page: usize) -> Mfn {
    let va = SCRATCH + page as u64 * 4096;
    let args = [va, 0, UVMF_INVLPG];
    assert_eq!(host.hypercall(id, HYPERVISOR_UPDATE_VA_MAPPING, &args), 0);
    host.layout(id).scratch[page]
}

/// A zombie: [`DOMU`] after its end, with a frame that is still held. Gives the frame and an end to the holding.
fn zombie(host: &Host) -> (Mfn, crate::memory::FrameRef<'_>) {
    let mfn = host.layout(DOMU).scratch[20];
    let held = host.hv.memory.get(mfn, DOMU).expect("its own");
    let domain = host.domain(DOMU);
    assert!(crate::lifecycle::destroy(&host.hv, &domain, &mut || false));
    (mfn, held)
}

/// The list of requests and its counter, which `mmu_update` and `mmuext_op` take alike.
#[test]
fn a_list_is_read_where_the_caller_could_and_its_counter_is_the_callers_business() {
    let host = Host::new();
    for call in [HYPERVISOR_MMU_UPDATE, HYPERVISOR_MMUEXT_OP] {
        let make = |args: &[u64]| host.hypercall(DOMU, call, args);
        for bad in BAD_ADDRESSES {
            let counter = host.put(DOMU, &7_u32);
            for count in [1, 2, 0x7fff_ffff] {
                let result = make(&[bad, count, counter, SELF]);
                assert_eq!(result, Errno::EFAULT.to_return(), "{bad:#x}");
                // Where no list can be, nothing was begun.
                let begun = hv_machine::is_guest_range(bad, 1);
                let counted = if begun { 0 } else { 7 };
                assert_eq!(host.get::<u32>(DOMU, counter), counted);
                host.put_at(DOMU, counter, &7_u32);
            }
        }
        assert_eq!(make(&[UNMAPPED, 0, 0, SELF]), 0, "nothing to read");
        assert_eq!(make(&[UNMAPPED, 1 << 31, 0, SELF]), 0, "bit 31 is no count");
        for bad in [hv_machine::HYPERVISOR_VIRT_START, 1 << 47] {
            let result = make(&[bad, 0, 0, SELF]);
            assert_eq!(result, Errno::EFAULT.to_return());
            let result = make(&[bad, 0, 0, 99]);
            assert_eq!(result, Errno::EFAULT.to_return(), "before all else");
        }
        for count in [0, 1 << 31] {
            for bad in BAD_ADDRESSES {
                assert_eq!(make(&[UNMAPPED, count, bad, SELF]), 0, "{bad:#x}");
            }
        }
        // A call that goes on adds to what the calls before it have done.
        let counter = host.put(DOMU, &7_u32);
        let result = make(&[UNMAPPED, 1 | 1 << 31, counter, SELF]);
        assert_eq!(result, Errno::EFAULT.to_return());
        assert_eq!(host.get::<u32>(DOMU, counter), 7);
    }
}

#[test]
fn a_list_may_lie_across_pages_and_ends_where_they_end() {
    let host = Host::new();
    let page = host.layout(DOMU).scratch[7];
    let across = SCRATCH + 11 * 4096 - 24;
    let write = |index: u64| MmuUpdate {
        ptr: (page.0 << 12) | (index * 8),
        val: 100 + index,
    };
    host.put_at(DOMU, across, &[write(0), write(1), write(2)]);
    let args = [across, 3, 0, SELF];
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_MMU_UPDATE, &args), 0);
    assert_eq!(host.hv.machine.load_u64(page, 2), 102);
    unmapped(&host, DOMU, 11);
    let counter = host.put(DOMU, &0_u32);
    let args = [across, 3, counter, SELF];
    let result = host.hypercall(DOMU, HYPERVISOR_MMU_UPDATE, &args);
    assert_eq!(result, Errno::EFAULT.to_return());
    assert_eq!(host.get::<u32>(DOMU, counter), 1);
}

#[test]
fn whose_frames_are_meant_is_checked_before_what_is_to_be_done() {
    let host = Host::new();
    let args = |foreign: u64| [UNMAPPED, 0, 0, foreign];
    for call in [HYPERVISOR_MMU_UPDATE, HYPERVISOR_MMUEXT_OP] {
        for (id, nobody) in NOBODY.into_iter().flat_map(|id| [(DOM0, id), (DOMU, id)]) {
            let result = host.hypercall(id, call, &args(nobody.0.into()));
            assert_eq!(result, Errno::ESRCH.to_return(), "{nobody:?}");
        }
        for id in [DOM0, DOMU] {
            let result = host.hypercall(id, call, &args(id.0.into()));
            assert_eq!(result, Errno::ESRCH.to_return(), "its own number");
            assert_eq!(host.hypercall(id, call, &args(SELF)), 0);
        }
    }
}

#[test]
fn a_dying_domain_gets_nothing_done() {
    let host = Host::new();
    let va = SCRATCH + 8 * 4096;
    host.domain(DOMU).dying.store(true, Ordering::Relaxed);
    for (call, args) in [
        (HYPERVISOR_MMU_UPDATE, [SCRATCH, 0, 0, SELF]),
        (HYPERVISOR_MMUEXT_OP, [SCRATCH, 0, 0, SELF]),
        (HYPERVISOR_UPDATE_VA_MAPPING, [va, 0, 0, 0]),
        (HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN, [va, 0, 0, SELF]),
        (HYPERVISOR_MEMORY_OP, [2, 0, 0, 0]),
    ] {
        let result = host.hypercall(DOMU, call, &args);
        assert_eq!(result, Errno::EINVAL.to_return());
    }
}

#[test]
fn a_list_does_not_go_on_at_the_first_address_behind_the_last() {
    let host = Host::new();
    host.map_top(DOMU);
    let table = host.layout(DOMU).tables[3];
    let request = |index: u64| MmuUpdate {
        ptr: (table.0 << 12) | (index * 8),
        val: 0,
    };
    let size = size_of::<MmuUpdate>() as u64;
    let last = u64::MAX - (size - 1);
    host.put_at(DOMU, last, &request(30));
    host.put_at(DOMU, last - size, &request(31));
    let done = host.put(DOMU, &0_u32);
    for (count, at) in [(1, last), (2, last - size)] {
        let list = |count| host.hypercall(DOMU, HYPERVISOR_MMU_UPDATE, &[at, count, done, SELF]);
        assert_eq!(list(count), 0);
        assert_eq!(list(count + 1), Errno::EFAULT.to_return());
        assert_eq!(host.get::<u32>(DOMU, done), count as u32);
    }
}

/// Makes an L2 table with two L1 tables below it; gives it.
fn small_tree(host: &Host) -> Mfn {
    let [table, a, b] = [20, 21, 22].map(|page| unmapped(host, DOMU, page));
    for (index, below) in [(1, a), (2, b)] {
        let entry = Pte::new(below, RW).0;
        host.hv.machine.store_u64(table, index, entry);
    }
    table
}

#[test]
fn a_list_at_the_end_of_the_lower_half_goes_on_there_until_its_tables_are_taken_apart() {
    let host = Host::new();
    host.map_top(DOMU);
    let [l4, l3, ..] = host.layout(DOMU).tables;
    let entry = |table: Mfn, index: u64, val| MmuUpdate {
        ptr: (table.0 << 12) | (index * 8),
        val,
    };
    let tree = small_tree(&host);
    let set = [
        entry(l4, 255, Pte::new(l3, RW).0),
        entry(l3, 100, Pte::new(tree, RW).0),
    ];
    let end = 1 << 47;
    assert_eq!(list(&host, DOMU, HYPERVISOR_MMU_UPDATE, &set, SELF).0, 0);
    let last = end - size_of::<MmuUpdate>() as u64;
    host.put_at(DOMU, last, &entry(l3, 100, 0));
    host.hv.machine.set_tsc_step(1_000_000);
    let args = [last, 1, 0, SELF];
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_MMU_UPDATE, &args), 0);
    let operation = |cmd| MmuextOp {
        cmd,
        _pad0: 0,
        arg1: tree.0,
        arg2: 0,
    };
    let pin = [operation(MMUEXT_PIN_L2_TABLE)];
    assert_eq!(list(&host, DOMU, HYPERVISOR_MMUEXT_OP, &pin, SELF).0, 0);
    let last = end - size_of::<MmuextOp>() as u64;
    host.put_at(DOMU, last, &operation(MMUEXT_UNPIN_TABLE));
    let args = [last, 1, 0, SELF];
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_MMUEXT_OP, &args), 0);
    host.hv.machine.set_tsc_step(0);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn without_a_counter_nothing_is_written_where_address_0_is_mapped() {
    let host = Host::new();
    let [_, l3, l2, _] = host.layout(DOMU).tables;
    let first = host.put(DOMU, &0x7777_7777_u64);
    assert_eq!(first, SCRATCH);
    let again = MmuUpdate {
        ptr: l3.0 << 12,
        val: Pte::new(l2, RW).0,
    };
    let set = [again];
    assert_eq!(list(&host, DOMU, HYPERVISOR_MMU_UPDATE, &set, SELF).0, 0);
    for call in [HYPERVISOR_MMU_UPDATE, HYPERVISOR_MMUEXT_OP] {
        for count in [0, 1 << 31] {
            assert_eq!(host.hypercall(DOMU, call, &[UNMAPPED, count, 0, SELF]), 0);
        }
        assert_eq!(host.get::<u64>(DOMU, 0), 0x7777_7777);
    }
}

#[test]
fn what_failed_in_a_paused_domains_tables_is_taken_apart_before_the_caller_is_told() {
    let host = Host::new();
    let tree = small_tree(&host);
    let bad = Pte::new(host.layout(DOM0).scratch[0], RW).0;
    host.hv.machine.store_u64(tree, 3, bad);
    crate::lifecycle::toolstack_pause(&host.hv, &host.domain(DOMU));
    let request = MmuUpdate {
        ptr: (host.layout(DOMU).tables[1].0 << 12) | (100 * 8),
        val: Pte::new(tree, RW).0,
    };
    let foreign = u64::from(DOMU.0 + 1) << 16 | u64::from(DOMU.0);
    let made = list(&host, DOM0, HYPERVISOR_MMU_UPDATE, &[request], foreign);
    assert_eq!(made, (Errno::EINVAL.to_return(), 0));
    assert!(host.domain(DOMU).owner.is_settled());
    recount::check(&host.hv).expect("all counts stand");
}
