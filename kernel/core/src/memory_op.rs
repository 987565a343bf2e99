//! `HYPERVISOR_memory_op` (`xen/memory.h`): a domain's reservation, and what it may know of the machine's memory.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hv_machine::{PAGE_SHIFT, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::memory::*;
use hypercall_abi::types::{Domid, GuestHandle, Mfn};

use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::{Args, HypercallResult, Stop, should_preempt};
use crate::memory::MAX_ORDER;

/// Bits of the command word that say what to do; those above say where a continued call goes on.
const COMMAND_BITS: u32 = 6;
/// Most extents of a call, so that where it goes on fits behind the command.
const MAX_EXTENTS: u64 = (u32::MAX >> COMMAND_BITS) as u64;
/// Largest extent of a domain that has I/O memory, and so may need contiguous memory for DMA: 1 GiB.
const MAX_ORDER_WITH_IO: u32 = MAX_ORDER;
/// Largest extent of any other domain: 2 MiB.
const MAX_ORDER_PLAIN: u32 = 9;
/// Frames below this many bits' worth of address are below 4 GiB and so on; 0 bits is no limit.
const ADDRESS_BITS: u32 = 64;

/// `HYPERVISOR_memory_op(command, argument)`.
///
/// # Errors
/// By command; `ENOSYS` for one that is unknown or not for PV domains. The reservation calls return how many
/// extents they did instead of an error.
pub fn do_memory_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let [raw, argument, ..] = *args;
    let command = raw as u32 & ((1 << COMMAND_BITS) - 1);
    let start = u64::from(raw as u32 >> COMMAND_BITS);
    match command {
        XENMEM_INCREASE_RESERVATION | XENMEM_DECREASE_RESERVATION | XENMEM_POPULATE_PHYSMAP => {
            reservation(cx, command, start, argument)
        }
        XENMEM_EXCHANGE => exchange(cx, argument),
        XENMEM_MAXIMUM_RAM_PAGE => Ok(cx.machine().frame_limit().saturating_sub(1)),
        XENMEM_CURRENT_RESERVATION => Ok(named_domain(cx, argument)?.owner.frames()),
        XENMEM_MAXIMUM_RESERVATION => Ok(named_domain(cx, argument)?.owner.max_frames()),
        XENMEM_MAXIMUM_GPFN => {
            let domain = named_domain(cx, argument)?;
            let mut max_pfn = [0; 8];
            let offset = core::mem::offset_of!(hypercall_abi::xen::SharedInfo, arch)
                + core::mem::offset_of!(hypercall_abi::arch_x86::ArchSharedInfo, max_pfn);
            cx.machine()
                .read_frame(domain.shared_info, offset, &mut max_pfn);
            // As the guest says; what it says of the size of a list is nobody's bound.
            Ok(u64::from_le_bytes(max_pfn).saturating_sub(1) & (u64::MAX >> 1))
        }
        XENMEM_MACHPHYS_MFN_LIST => machphys_mfn_list(cx, argument),
        XENMEM_MACHPHYS_MAPPING => machphys_mapping(cx, argument),
        XENMEM_MEMORY_MAP => memory_map(cx, argument),
        XENMEM_MACHINE_MEMORY_MAP => machine_memory_map(cx, argument),
        XENMEM_SET_MEMORY_MAP => set_memory_map(cx, argument),
        XENMEM_CLAIM_PAGES => claim_pages(cx, argument),
        XENMEM_GET_SHARING_FREED_PAGES | XENMEM_GET_SHARING_SHARED_PAGES => Ok(0),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// A domain that the caller may work on.
fn permitted_domain(cx: &Current<'_>, id: Domid) -> Result<Arc<Domain>, Errno> {
    if id == Domid::SELF || id == cx.domain.id {
        return Ok(cx.domain.clone());
    }
    let domain = cx.hv.domain(id)?;
    if cx.domain.privileged {
        Ok(domain)
    } else {
        Err(Errno::EPERM)
    }
}

fn named_domain(cx: &Current<'_>, argument: u64) -> Result<Arc<Domain>, Errno> {
    let named: MemoryDomain = cx.read(argument)?;
    permitted_domain(cx, named.domid)
}

/// The highest frame number, exclusive, that an address width allows.
fn frame_limit(mem_flags: u32) -> u64 {
    match u32::from(memf_get_address_bits(mem_flags)) {
        0 => u64::MAX,
        bits if bits <= PAGE_SHIFT => 0,
        bits if bits >= ADDRESS_BITS => u64::MAX,
        bits => 1 << (bits - PAGE_SHIFT),
    }
}

fn max_order(cx: &Current<'_>) -> u32 {
    match cx.domain.owner.has_io_memory() {
        true => MAX_ORDER_WITH_IO,
        false => MAX_ORDER_PLAIN,
    }
}

/// Increase, decrease and populate: extents one by one, from `start` on; the result is how many were done.
fn reservation(cx: &mut Current<'_>, command: u32, start: u64, argument: u64) -> HypercallResult {
    let Ok(wanted) = cx.read::<MemoryReservation>(argument) else {
        return Ok(start);
    };
    if wanted.nr_extents > MAX_EXTENTS
        || start > wanted.nr_extents
        || wanted.extent_order > max_order(cx)
    {
        return Ok(start);
    }
    let Ok(domain) = permitted_domain(cx, wanted.domid) else {
        return Ok(start);
    };
    let mut index = start;
    while index < wanted.nr_extents {
        if index > start && should_preempt(cx) {
            let word = u64::from(command) | index << COMMAND_BITS;
            return Err(Stop::Again([word, argument, 0, 0, 0, 0]));
        }
        let done = match command {
            XENMEM_INCREASE_RESERVATION => increase(cx, &domain, &wanted, index),
            XENMEM_POPULATE_PHYSMAP => populate(cx, &domain, &wanted, index),
            _ => decrease(cx, &domain, &wanted, index),
        };
        if done.is_err() {
            break;
        }
        index += 1;
    }
    Ok(index)
}

fn increase(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryReservation,
    index: u64,
) -> Result<(), Errno> {
    let mfn = allocate(cx, domain, wanted)?;
    if wanted.extent_start.is_null() {
        return Ok(());
    }
    let told = cx.write_element(wanted.extent_start.address(), index, &mfn.0);
    // Nobody knows of the frames of an extent that could not be told.
    told.inspect_err(|_| give_back(cx, domain, mfn, wanted.extent_order))
}

fn populate(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryReservation,
    index: u64,
) -> Result<(), Errno> {
    let list = wanted.extent_start.address();
    let pfn: u64 = cx.read_element(list, index)?;
    let mfn = allocate(cx, domain, wanted)?;
    for offset in 0..1 << wanted.extent_order {
        cx.machine()
            .set_m2p(Mfn(mfn.0 + offset), pfn.wrapping_add(offset));
    }
    let told = cx.write_element(list, index, &mfn.0);
    told.inspect_err(|_| give_back(cx, domain, mfn, wanted.extent_order))
}

fn allocate(cx: &Current<'_>, domain: &Domain, wanted: &MemoryReservation) -> Result<Mfn, Errno> {
    if crate::lifecycle::is_dying(domain) {
        return Err(Errno::EINVAL);
    }
    cx.hv.memory.allocate(
        &domain.owner,
        wanted.extent_order,
        frame_limit(wanted.mem_flags),
    )
}

fn decrease(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryReservation,
    index: u64,
) -> Result<(), Errno> {
    let first: u64 = cx.read_element(wanted.extent_start.address(), index)?;
    for offset in 0..1 << wanted.extent_order {
        remove_frame(
            cx,
            domain,
            Mfn(first.checked_add(offset).ok_or(Errno::EINVAL)?),
        )?;
    }
    Ok(())
}

/// Takes a frame from a domain's reservation. It goes back to the heap once nothing refers to it.
fn remove_frame(cx: &Current<'_>, domain: &Domain, mfn: Mfn) -> Result<(), Errno> {
    if mfn == domain.shared_info {
        return Err(Errno::EINVAL);
    }
    let frame = cx.hv.memory.get(mfn, domain.id).ok_or(Errno::EINVAL)?;
    cx.hv.memory.release_allocation(frame)
}

fn give_back(cx: &Current<'_>, domain: &Domain, first: Mfn, order: u32) {
    for offset in 0..1 << order {
        // It was allocated a moment ago.
        let _ = remove_frame(cx, domain, Mfn(first.0 + offset));
    }
}

/// `XENMEM_exchange`: gives extents and gets as many pages in extents of another order (contiguous memory for
/// DMA). `nr_exchanged` counts input extents; a continuation goes on from there.
fn exchange(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    let mut wanted: MemoryExchange = cx.read(argument)?;
    let (input, output) = (wanted.in_, wanted.out);
    if input.extent_order > max_order(cx) || output.extent_order > max_order(cx) {
        return Err(Errno::EPERM.into());
    }
    if input.nr_extents > MAX_EXTENTS || output.nr_extents > MAX_EXTENTS {
        return Err(Errno::E2BIG.into());
    }
    let pages =
        |reservation: &MemoryReservation| reservation.nr_extents << reservation.extent_order;
    if wanted.nr_exchanged > input.nr_extents
        || pages(&input) != pages(&output)
        || input.domid != output.domid
        || input.mem_flags != 0
    {
        return Err(Errno::EINVAL.into());
    }
    let domain = permitted_domain(cx, input.domid)?;
    let chunk_order = input.extent_order.max(output.extent_order);
    let (in_chunk, out_chunk) = (
        1_u64 << (chunk_order - input.extent_order),
        1 << (chunk_order - output.extent_order),
    );
    if !wanted.nr_exchanged.is_multiple_of(in_chunk) || !input.nr_extents.is_multiple_of(in_chunk) {
        return Err(Errno::EINVAL.into());
    }
    let mut first = true;
    while wanted.nr_exchanged < input.nr_extents {
        if !first && should_preempt(cx) {
            cx.write(argument, &wanted)?;
            return Err(Stop::Again([
                u64::from(XENMEM_EXCHANGE),
                argument,
                0,
                0,
                0,
                0,
            ]));
        }
        first = false;
        let in_from = wanted.nr_exchanged;
        let out_from = in_from / in_chunk * out_chunk;
        if let Err(errno) = exchange_chunk(
            cx,
            &domain,
            &wanted,
            (in_from, in_chunk),
            (out_from, out_chunk),
        ) {
            cx.write(argument, &wanted)?;
            return Err(errno.into());
        }
        wanted.nr_exchanged += in_chunk;
    }
    cx.write(argument, &wanted)?;
    Ok(0)
}

/// Exchanges as many extents as make up one of the larger kind. Nothing is taken before all is there to be given.
fn exchange_chunk(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryExchange,
    (in_from, in_count): (u64, u64),
    (out_from, out_count): (u64, u64),
) -> Result<(), Errno> {
    let (input, output) = (&wanted.in_, &wanted.out);
    let memory = &cx.hv.memory;
    let mut taken = Vec::new();
    for index in in_from..in_from + in_count {
        let first: u64 = cx.read_element(input.extent_start.address(), index)?;
        for offset in 0..1 << input.extent_order {
            let mfn = Mfn(first.checked_add(offset).ok_or(Errno::EINVAL)?);
            if mfn == domain.shared_info {
                return Err(Errno::EINVAL);
            }
            let frame = memory.get(mfn, domain.id).ok_or(Errno::EINVAL)?;
            let state = memory.state(mfn).ok_or(Errno::EINVAL)?;
            // The allocation and this call: a page that is mapped or a table cannot be given.
            if !state.allocated || state.references != 2 || state.types != 0 {
                return Err(Errno::EINVAL);
            }
            taken.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            taken.push(frame);
        }
    }
    let mut given = Vec::new();
    let pages = in_count << input.extent_order;
    let limit = domain.owner.max_frames();
    // For a moment the domain owns both.
    domain.owner.set_max_frames(limit.saturating_add(pages));
    for _ in 0..out_count {
        match memory.allocate(
            &domain.owner,
            output.extent_order,
            frame_limit(output.mem_flags),
        ) {
            Ok(first) => given.push(first),
            Err(_) => break,
        }
    }
    domain.owner.set_max_frames(limit);
    if (given.len() as u64) < out_count {
        for first in given {
            give_back(cx, domain, first, output.extent_order);
        }
        return Err(Errno::ENOMEM);
    }
    for frame in taken {
        memory.release_allocation(frame)?;
    }
    for (index, first) in (out_from..).zip(given) {
        let pfn: u64 = cx.read_element(output.extent_start.address(), index)?;
        for offset in 0..1 << output.extent_order {
            cx.machine()
                .set_m2p(Mfn(first.0 + offset), pfn.wrapping_add(offset));
        }
        cx.write_element(output.extent_start.address(), index, &first.0)?;
    }
    Ok(())
}

fn machphys_mfn_list(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    let mut list: MachphysMfnList = cx.read(argument)?;
    let extents = cx.machine().m2p_extents();
    let count = extents.len().min(list.max_extents as usize);
    for (index, mfn) in extents.iter().take(count).enumerate() {
        cx.write_element(list.extent_start.address(), index as u64, mfn)?;
    }
    list.nr_extents = count as u32;
    cx.write(argument, &list)?;
    Ok(0)
}

fn machphys_mapping(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    use hypercall_abi::arch_x86::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
    let entries = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) / 8;
    let mapping = MachphysMapping {
        v_start: MACH2PHYS_VIRT_START,
        v_end: MACH2PHYS_VIRT_END,
        max_mfn: entries - 1,
    };
    cx.write(argument, &mapping)?;
    Ok(0)
}

/// An entry of an E820 map, as the BIOS packs it.
const E820_ENTRY: usize = 20;

fn write_e820(cx: &Current<'_>, argument: u64, entries: &[(u64, u64, u32)]) -> HypercallResult {
    let mut map: MemoryMap = cx.read(argument)?;
    if map.buffer == GuestHandle::NULL {
        map.nr_entries = entries.len() as u32;
        cx.write(argument, &map)?;
        return Ok(0);
    }
    let count = entries.len().min(map.nr_entries as usize);
    for (index, &(base, size, kind)) in entries.iter().take(count).enumerate() {
        let mut packed = [0; E820_ENTRY];
        packed[..8].copy_from_slice(&base.to_le_bytes());
        packed[8..16].copy_from_slice(&size.to_le_bytes());
        packed[16..].copy_from_slice(&kind.to_le_bytes());
        let at = map
            .buffer
            .address()
            .checked_add((index * E820_ENTRY) as u64)
            .ok_or(Errno::EFAULT)?;
        cx.write_bytes(at, &packed)?;
    }
    map.nr_entries = count as u32;
    cx.write(argument, &map)?;
    Ok(0)
}

/// The map that the toolstack gave the domain.
fn memory_map(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    let map = cx.domain.memory_map.lock().clone();
    if map.is_empty() {
        return Err(Errno::ENOSYS.into());
    }
    write_e820(cx, argument, &map)
}

/// The machine's own map; for the control domain.
fn machine_memory_map(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let regions = cx.machine().memory_map();
    let map: Vec<_> = regions
        .iter()
        .map(|region| (region.base, region.size, region.kind.e820_type()))
        .collect();
    write_e820(cx, argument, &map)
}

/// Most entries of a map that a toolstack gives a domain (`E820MAX`).
const MAX_MAP_ENTRIES: u32 = 1024;

fn set_memory_map(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    let foreign: ForeignMemoryMap = cx.read(argument)?;
    if foreign.map.nr_entries > MAX_MAP_ENTRIES {
        return Err(Errno::EINVAL.into());
    }
    let domain = permitted_domain(cx, foreign.domid)?;
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let bytes = cx.read_array::<u8>(
        foreign.map.buffer.address(),
        foreign.map.nr_entries as usize * E820_ENTRY,
    )?;
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0_u64, |word, &byte| word << 8 | u64::from(byte))
    };
    let entries = bytes.chunks_exact(E820_ENTRY);
    *domain.memory_map.lock() = entries
        .map(|entry| {
            (
                word(&entry[..8]),
                word(&entry[8..16]),
                word(&entry[16..]) as u32,
            )
        })
        .collect();
    Ok(0)
}

/// A claim reserves memory for a domain that is being built. Every frame is given at once here, so that what can
/// be claimed is what is free.
fn claim_pages(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let claim: MemoryReservation = cx.read(argument)?;
    if claim.extent_order != 0 || claim.mem_flags != 0 || !claim.extent_start.is_null() {
        return Err(Errno::EINVAL.into());
    }
    let domain = permitted_domain(cx, claim.domid)?;
    let owned = domain.owner.frames();
    if claim.nr_extents > domain.owner.max_frames() {
        return Err(Errno::EINVAL.into());
    }
    if claim.nr_extents.saturating_sub(owned) > cx.hv.memory.free_frames() {
        return Err(Errno::ENOMEM.into());
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DOM0, DOMU, Host, SCRATCH, UNMAPPED};
    use hypercall_abi::xen::{HYPERVISOR_MEMORY_OP, HYPERVISOR_UPDATE_VA_MAPPING};
    use zerocopy::{FromZeros, Immutable, IntoBytes};

    fn call<T: IntoBytes + Immutable>(host: &Host, id: Domid, command: u32, argument: &T) -> i64 {
        let at = host.put(id, argument);
        host.hypercall(id, HYPERVISOR_MEMORY_OP, &[u64::from(command), at])
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
            4095
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
        assert_eq!(
            call(&host, DOMU, XENMEM_SET_MEMORY_MAP, &foreign),
            errno(Errno::EPERM)
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
}
