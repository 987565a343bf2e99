//! `HYPERVISOR_memory_op` (`xen/memory.h`): a domain's reservation, and what it may know of the machine's memory.

mod exchange;
mod maps;

use alloc::sync::Arc;

use hv_machine::{PAGE_SHIFT, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::memory::*;
use hypercall_abi::types::{Domid, Mfn};

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
        XENMEM_EXCHANGE => exchange::exchange(cx, argument),
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
        XENMEM_MACHPHYS_MFN_LIST => maps::machphys_mfn_list(cx, argument),
        XENMEM_MACHPHYS_MAPPING => maps::machphys_mapping(cx, argument),
        XENMEM_MEMORY_MAP => maps::memory_map(cx, argument),
        XENMEM_MACHINE_MEMORY_MAP => maps::machine_memory_map(cx, argument),
        XENMEM_SET_MEMORY_MAP => maps::set_memory_map(cx, argument),
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
mod tests;
