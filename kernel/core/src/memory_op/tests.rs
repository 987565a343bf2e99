//! `memory_op` on the simulated machine.

mod absent;
mod claim;
mod exchange;
mod maps;
mod reservation;

use super::*;

use hypercall_abi::types::{GuestHandle, Mfn};
use hypercall_abi::xen::{HYPERVISOR_MEMORY_OP, HYPERVISOR_UPDATE_VA_MAPPING};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::memory::recount;
use crate::testing::{BAD_ADDRESSES, DOM0, DOMU, Host, NOBODY, SCRATCH, UNMAPPED};

fn call<T: IntoBytes + Immutable>(host: &Host, id: Domid, command: u32, argument: &T) -> i64 {
    let at = host.put(id, argument);
    host.hypercall(id, HYPERVISOR_MEMORY_OP, &[u64::from(command), at])
}

/// A call with the command word as it is, its upper bits included.
fn raw(host: &Host, id: Domid, word: u64, at: u64) -> i64 {
    host.hypercall(id, HYPERVISOR_MEMORY_OP, &[word, at])
}

fn errno(errno: Errno) -> i64 {
    errno.to_return()
}

fn extents(list: u64, count: u64, order: u32, domid: Domid) -> MemoryReservation {
    let mut wanted = MemoryReservation::new_zeroed();
    wanted.extent_start = GuestHandle::new(list);
    wanted.nr_extents = count;
    wanted.extent_order = order;
    wanted.domid = domid;
    wanted
}

#[test]
fn a_reservation_grows_is_told_and_shrinks() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    let (before, free) = (owner.frames(), host.hv.memory.free_frames());
    let list = host.put(DOMU, &[100_u64, 200]);
    assert_eq!(
        call(
            &host,
            DOMU,
            XENMEM_POPULATE_PHYSMAP,
            &extents(list, 2, 1, Domid::SELF)
        ),
        2
    );
    assert_eq!(owner.frames(), before + 4);
    let [first, second] = host.get::<[u64; 2]>(DOMU, list);
    assert_eq!(host.hv.machine.m2p(Mfn(first + 1)), 101);
    assert_eq!(host.hv.machine.m2p(Mfn(second)), 200);
    assert_eq!(
        call(
            &host,
            DOMU,
            XENMEM_DECREASE_RESERVATION,
            &extents(list, 2, 1, Domid::SELF)
        ),
        2
    );
    assert_eq!(
        (owner.frames(), host.hv.memory.free_frames()),
        (before, free)
    );
    assert_eq!(
        call(
            &host,
            DOMU,
            XENMEM_DECREASE_RESERVATION,
            &extents(list, 2, 1, Domid::SELF)
        ),
        0
    );
}

#[test]
fn a_reservation_stops_at_the_limit() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    owner.set_max_frames(owner.frames() + 3);
    let wanted = extents(0, 10, 0, Domid::SELF);
    assert_eq!(call(&host, DOMU, XENMEM_INCREASE_RESERVATION, &wanted), 3);
    assert_eq!(call(&host, DOMU, XENMEM_INCREASE_RESERVATION, &wanted), 0);
    owner.set_max_frames(owner.frames() + 2);
    let most = u64::from(u32::MAX >> COMMAND_BITS);
    let mut wanted = extents(0, most, 0, Domid::SELF);
    // It says something of populated memory alone.
    wanted.mem_flags = XENMEMF_POPULATE_ON_DEMAND;
    assert_eq!(call(&host, DOMU, XENMEM_INCREASE_RESERVATION, &wanted), 2);
}

#[test]
fn an_extent_that_cannot_be_told_is_not_kept() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    let before = owner.frames();
    assert_eq!(
        call(
            &host,
            DOMU,
            XENMEM_INCREASE_RESERVATION,
            &extents(UNMAPPED, 2, 0, Domid::SELF)
        ),
        0
    );
    assert_eq!(
        call(
            &host,
            DOMU,
            XENMEM_POPULATE_PHYSMAP,
            &extents(UNMAPPED, 2, 0, Domid::SELF)
        ),
        0
    );
    assert_eq!(owner.frames(), before);
}

#[test]
fn hostile_sizes_do_nothing() {
    let host = Host::new();
    let list = host.put(DOMU, &[0_u64; 4]);
    for (count, order) in [
        (u64::MAX, 0),
        (1 << 26, 0),
        (1, 10),
        (1, 31),
        (1, 64),
        (1, u32::MAX),
    ] {
        for command in [
            XENMEM_INCREASE_RESERVATION,
            XENMEM_DECREASE_RESERVATION,
            XENMEM_POPULATE_PHYSMAP,
        ] {
            assert_eq!(
                call(
                    &host,
                    DOMU,
                    command,
                    &extents(list, count, order, Domid::SELF)
                ),
                0
            );
        }
    }
    let word = u64::from(XENMEM_INCREASE_RESERVATION) | 77 << 6;
    let at = host.put(DOMU, &extents(0, 10, 0, Domid::SELF));
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_MEMORY_OP, &[word, at]), 77);
    assert_eq!(
        host.hypercall(DOMU, HYPERVISOR_MEMORY_OP, &[0, UNMAPPED]),
        0
    );
}

#[test]
fn frames_of_others_and_of_the_hypervisor_are_not_given_up() {
    let host = Host::new();
    let list = host.put(DOMU, &[host.layout(DOM0).scratch[0].0]);
    assert_eq!(
        call(
            &host,
            DOMU,
            XENMEM_DECREASE_RESERVATION,
            &extents(list, 1, 0, Domid::SELF)
        ),
        0
    );
    assert_eq!(
        call(
            &host,
            DOMU,
            XENMEM_DECREASE_RESERVATION,
            &extents(list, 1, 0, DOM0)
        ),
        0
    );
    let list = host.put(DOMU, &[host.domain(DOMU).shared_info.0]);
    assert_eq!(
        call(
            &host,
            DOMU,
            XENMEM_DECREASE_RESERVATION,
            &extents(list, 1, 0, Domid::SELF)
        ),
        0
    );
    let list = host.put(DOMU, &[u64::MAX]);
    assert_eq!(
        call(
            &host,
            DOMU,
            XENMEM_DECREASE_RESERVATION,
            &extents(list, 1, 0, Domid::SELF)
        ),
        0
    );
}

#[test]
fn a_page_given_up_while_mapped_is_freed_with_its_last_mapping() {
    let host = Host::new();
    let free = host.hv.memory.free_frames();
    let list = host.put(DOMU, &[host.layout(DOMU).scratch[30].0]);
    assert_eq!(
        call(
            &host,
            DOMU,
            XENMEM_DECREASE_RESERVATION,
            &extents(list, 1, 0, Domid::SELF)
        ),
        1
    );
    assert_eq!(host.hv.memory.free_frames(), free);
    let va = SCRATCH + 30 * 4096;
    assert_eq!(
        host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &[va, 0, 0]),
        0
    );
    assert_eq!(host.hv.memory.free_frames(), free + 1);
}

#[test]
fn the_control_domain_populates_others() {
    let host = Host::new();
    let list = host.put(DOM0, &[7_u64]);
    assert_eq!(
        call(
            &host,
            DOM0,
            XENMEM_POPULATE_PHYSMAP,
            &extents(list, 1, 0, DOMU)
        ),
        1
    );
    let mfn = Mfn(host.get::<u64>(DOM0, list));
    assert_eq!(host.hv.memory.owner_of(mfn), Some(DOMU));
    assert_eq!(
        call(
            &host,
            DOM0,
            XENMEM_POPULATE_PHYSMAP,
            &extents(list, 1, 0, Domid(99))
        ),
        0
    );
}

#[test]
fn single_pages_are_exchanged_for_a_contiguous_block() {
    let host = Host::new();
    let singles: Vec<u64> = (40..44)
        .map(|page| {
            let va = SCRATCH + page * 4096;
            assert_eq!(
                host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &[va, 0, 0]),
                0
            );
            host.layout(DOMU).scratch[page as usize].0
        })
        .collect();
    let owned = host.domain(DOMU).owner.frames();
    let input = host.put_slice(DOMU, &singles);
    let output = host.put(DOMU, &500_u64);
    let mut wanted = MemoryExchange::new_zeroed();
    wanted.in_ = extents(input, 4, 0, Domid::SELF);
    wanted.out = extents(output, 1, 2, Domid::SELF);
    let at = host.put(DOMU, &wanted);
    let op = u64::from(XENMEM_EXCHANGE);
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_MEMORY_OP, &[op, at]), 0);
    assert_eq!(host.get::<MemoryExchange>(DOMU, at).nr_exchanged, 4);
    let first = host.get::<u64>(DOMU, output);
    assert_eq!(first % 4, 0);
    assert_eq!(host.hv.machine.m2p(Mfn(first + 3)), 503);
    assert_eq!(host.domain(DOMU).owner.frames(), owned);
    for mfn in singles {
        assert_ne!(host.hv.memory.owner_of(Mfn(mfn)), Some(DOMU));
    }
}

#[test]
fn a_mapped_page_cannot_be_exchanged() {
    let host = Host::new();
    let input = host.put(DOMU, &host.layout(DOMU).scratch[40].0);
    let output = host.put(DOMU, &1_u64);
    let mut wanted = MemoryExchange::new_zeroed();
    wanted.in_ = extents(input, 1, 0, Domid::SELF);
    wanted.out = extents(output, 1, 0, Domid::SELF);
    assert_eq!(
        call(&host, DOMU, XENMEM_EXCHANGE, &wanted),
        errno(Errno::EINVAL)
    );
    wanted.out.nr_extents = 2;
    assert_eq!(
        call(&host, DOMU, XENMEM_EXCHANGE, &wanted),
        errno(Errno::EINVAL)
    );
    wanted.in_.extent_order = 60;
    assert_eq!(
        call(&host, DOMU, XENMEM_EXCHANGE, &wanted),
        errno(Errno::EPERM)
    );
}

#[test]
fn reservations_and_limits_are_told() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    let named = |domid: Domid| {
        let mut named = MemoryDomain::new_zeroed();
        named.domid = domid;
        named
    };
    let own = named(Domid::SELF);
    assert_eq!(
        call(&host, DOMU, XENMEM_CURRENT_RESERVATION, &own),
        owner.frames() as i64
    );
    assert_eq!(call(&host, DOMU, XENMEM_MAXIMUM_RESERVATION, &own), 256);
    assert_eq!(
        call(&host, DOMU, XENMEM_CURRENT_RESERVATION, &named(DOM0)),
        errno(Errno::EPERM)
    );
    assert_eq!(
        call(&host, DOM0, XENMEM_CURRENT_RESERVATION, &named(Domid(9))),
        errno(Errno::ESRCH)
    );
    assert_eq!(
        host.hypercall(
            DOMU,
            HYPERVISOR_MEMORY_OP,
            &[u64::from(XENMEM_MAXIMUM_RAM_PAGE), 0]
        ),
        4096
    );
    assert_eq!(
        host.hypercall(
            DOMU,
            HYPERVISOR_MEMORY_OP,
            &[u64::from(XENMEM_ACCESS_OP), 0]
        ),
        errno(Errno::ENOSYS)
    );
}

#[test]
fn memory_maps_are_set_by_the_control_domain_and_read_by_their_owner() {
    let host = Host::new();
    let mut packed = [0_u8; 20];
    packed[8..16].copy_from_slice(&(64_u64 << 20).to_le_bytes());
    packed[16] = 1;
    let mut foreign = ForeignMemoryMap::new_zeroed();
    foreign.domid = DOMU;
    foreign.map.nr_entries = 1;
    foreign.map.buffer = GuestHandle::new(host.put(DOM0, &packed));
    let mut mine = MemoryMap::new_zeroed();
    mine.nr_entries = 8;
    mine.buffer = GuestHandle::new(host.room(DOMU, 160));
    assert_eq!(
        call(&host, DOMU, XENMEM_MEMORY_MAP, &mine),
        errno(Errno::ENOSYS)
    );
    assert_eq!(call(&host, DOM0, XENMEM_SET_MEMORY_MAP, &foreign), 0);
    assert_eq!(call(&host, DOMU, XENMEM_MEMORY_MAP, &mine), 0);
    assert_eq!(host.get::<[u8; 20]>(DOMU, mine.buffer.address()), packed);
    foreign.map.nr_entries = 4096;
    assert_eq!(
        call(&host, DOM0, XENMEM_SET_MEMORY_MAP, &foreign),
        errno(Errno::EINVAL)
    );
    assert_eq!(
        call(&host, DOMU, XENMEM_MACHINE_MEMORY_MAP, &mine),
        errno(Errno::EPERM)
    );
}

#[test]
fn an_argument_is_read_where_the_caller_could() {
    let host = Host::new();
    for command in [
        XENMEM_EXCHANGE,
        XENMEM_CURRENT_RESERVATION,
        XENMEM_MAXIMUM_RESERVATION,
        XENMEM_MAXIMUM_GPFN,
        XENMEM_MACHPHYS_MFN_LIST,
        XENMEM_MACHPHYS_MAPPING,
        XENMEM_ADD_TO_PHYSMAP,
        XENMEM_ADD_TO_PHYSMAP_BATCH,
        XENMEM_REMOVE_FROM_PHYSMAP,
        XENMEM_MEMORY_MAP,
        XENMEM_MACHINE_MEMORY_MAP,
        XENMEM_SET_MEMORY_MAP,
        XENMEM_SET_POD_TARGET,
        XENMEM_GET_POD_TARGET,
        XENMEM_CLAIM_PAGES,
        XENMEM_GET_VNUMAINFO,
        XENMEM_RESERVED_DEVICE_MEMORY_MAP,
        XENMEM_ACQUIRE_RESOURCE,
    ] {
        for bad in BAD_ADDRESSES {
            let result = raw(&host, DOM0, command.into(), bad);
            assert_eq!(result, errno(Errno::EFAULT), "{command} at {bad:#x}");
        }
    }
    for command in [
        XENMEM_INCREASE_RESERVATION,
        XENMEM_DECREASE_RESERVATION,
        XENMEM_POPULATE_PHYSMAP,
    ] {
        for bad in BAD_ADDRESSES {
            assert_eq!(raw(&host, DOM0, command.into(), bad), 0);
            let word = u64::from(command) | 9 << COMMAND_BITS;
            assert_eq!(raw(&host, DOM0, word, bad), 9, "as much as was done");
        }
    }
}

#[test]
fn a_domain_that_is_named_is_there_and_the_callers_to_ask_about() {
    let host = Host::new();
    for command in [
        XENMEM_CURRENT_RESERVATION,
        XENMEM_MAXIMUM_RESERVATION,
        XENMEM_MAXIMUM_GPFN,
    ] {
        let ask = |id, domid| call(&host, id, command, &MemoryDomain { domid });
        for domid in NOBODY.into_iter().chain([Domid::IO, Domid::XEN]) {
            for id in [DOM0, DOMU] {
                assert_eq!(ask(id, domid), errno(Errno::ESRCH), "{domid:?}");
            }
        }
        assert_eq!(ask(DOMU, DOM0), errno(Errno::EPERM));
        assert_eq!(ask(DOMU, DOMU), ask(DOMU, Domid::SELF));
        assert_eq!(ask(DOM0, DOMU), ask(DOMU, Domid::SELF));
    }
}

#[test]
fn the_highest_frame_is_what_the_guest_says_and_no_errno() {
    let host = Host::new();
    let offset = core::mem::offset_of!(hypercall_abi::xen::SharedInfo, arch)
        + core::mem::offset_of!(hypercall_abi::arch_x86::ArchSharedInfo, max_pfn);
    for (said, answer) in [(0, 0), (1, 0), (512, 511), (u64::MAX, i64::MAX - 1)] {
        let shared = host.domain(DOMU).shared_info;
        host.hv.machine.store_u64(shared, offset / 8, said);
        let own = MemoryDomain { domid: Domid::SELF };
        assert_eq!(call(&host, DOMU, XENMEM_MAXIMUM_GPFN, &own), answer);
    }
}

#[test]
fn what_is_never_interrupted_does_not_go_on() {
    let host = Host::new();
    let argument = host.put(DOM0, &[0_u64; 16]);
    for command in 0..=63_u32 {
        for start in [1, 7, 1 << 40] {
            let result = raw(
                &host,
                DOM0,
                u64::from(command) | start << COMMAND_BITS,
                argument,
            );
            let expected = match command {
                XENMEM_INCREASE_RESERVATION
                | XENMEM_DECREASE_RESERVATION
                | XENMEM_POPULATE_PHYSMAP => start as i64,
                XENMEM_ADD_TO_PHYSMAP | XENMEM_ADD_TO_PHYSMAP_BATCH if start > 0xffff => {
                    errno(Errno::EDOM)
                }
                XENMEM_ADD_TO_PHYSMAP | XENMEM_ADD_TO_PHYSMAP_BATCH => errno(Errno::EACCES),
                XENMEM_ACQUIRE_RESOURCE => errno(Errno::EPERM),
                XENMEM_EXCHANGE
                | XENMEM_MAXIMUM_RAM_PAGE
                | XENMEM_CURRENT_RESERVATION
                | XENMEM_MAXIMUM_RESERVATION
                | XENMEM_MAXIMUM_GPFN
                | XENMEM_REMOVE_FROM_PHYSMAP
                | XENMEM_CLAIM_PAGES
                | XENMEM_GET_VNUMAINFO
                | XENMEM_RESERVED_DEVICE_MEMORY_MAP => errno(Errno::EINVAL),
                _ => errno(Errno::ENOSYS),
            };
            assert_eq!(result, expected, "{command} from {start}");
        }
    }
}

#[test]
fn unknown_commands_are_told() {
    let host = Host::new();
    let argument = host.put(DOM0, &[0_u64; 16]);
    for command in [8, 20, 21, 22].into_iter().chain(29..64) {
        for id in [DOM0, DOMU] {
            assert_eq!(raw(&host, id, command, argument), errno(Errno::ENOSYS));
        }
    }
    for command in [
        XENMEM_GET_SHARING_FREED_PAGES,
        XENMEM_GET_SHARING_SHARED_PAGES,
    ] {
        assert_eq!(raw(&host, DOMU, command.into(), 0), 0, "nothing is shared");
    }
}
