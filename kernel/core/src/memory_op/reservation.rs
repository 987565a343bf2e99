//! A domain's reservation: `XENMEM_increase_reservation`, `XENMEM_decrease_reservation`, `XENMEM_populate_physmap`
//! and `XENMEM_claim_pages`.

use hv_machine::{PAGE_SHIFT, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::memory::*;
use hypercall_abi::types::Mfn;

use super::{COMMAND_BITS, permitted_domain};
use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::{HypercallResult, Stop, should_preempt};
use crate::memory::Wanted;

/// Most extents of a call, so that where it goes on fits behind the command.
const MAX_EXTENTS: u64 = (u32::MAX >> COMMAND_BITS) as u64;
/// Largest extent of a domain that has devices, which may need contiguous memory for DMA, and of the control domain:
/// 16 MiB. Xen lets the control domain have 1 GiB in one step that nothing interrupts; toolstacks that ask for so much
/// try less when they are refused.
const MAX_ORDER_WITH_DEVICES: u32 = 12;
/// Largest extent of any other domain: 2 MiB.
const MAX_ORDER_PLAIN: u32 = 9;
/// Width of an address that limits nothing.
const ADDRESS_BITS: u32 = 64;
/// What [`memf_get_node`] gives where no node is named.
const ANY_NODE: u8 = u8::MAX;
/// The number of the one node that there is.
const NODE: u8 = 0;
/// NUMA nodes that a caller can name (`MAX_NUMNODES`).
const MAX_NODES: u8 = 64;

/// The highest frame number, exclusive, that an address width allows.
pub(super) fn frame_limit(mem_flags: u32) -> u64 {
    match u32::from(memf_get_address_bits(mem_flags)) {
        0 => u64::MAX,
        bits if bits <= PAGE_SHIFT => 0,
        bits if bits >= ADDRESS_BITS => u64::MAX,
        bits => 1 << (bits - PAGE_SHIFT),
    }
}

/// The largest extent that the caller may name.
pub(super) fn max_order(cx: &Current<'_>) -> u32 {
    if cx.domain.privileged || cx.domain.may_flush_caches() {
        MAX_ORDER_WITH_DEVICES
    } else {
        MAX_ORDER_PLAIN
    }
}

/// Whether memory can come from the node that the flags name: all is on node 0. Only the control domain has a say.
pub(super) fn node_allowed(cx: &Current<'_>, mem_flags: u32) -> bool {
    let node = memf_get_node(mem_flags);
    let exact = mem_flags & XENMEMF_EXACT_NODE_REQUEST != 0;
    match (node, cx.domain.privileged) {
        (ANY_NODE, _) => true,
        (_, true) => node < MAX_NODES && (node == NODE || !exact),
        (_, false) => !exact,
    }
}

/// Increase, decrease and populate: extents one by one, from `start` on; the result is how many were done, whatever
/// was wrong with the next.
pub(super) fn change(
    cx: &mut Current<'_>,
    command: u32,
    start: u64,
    argument: u64,
) -> HypercallResult {
    let Ok(wanted) = cx.read::<MemoryReservation>(argument) else {
        return Ok(start);
    };
    // Nothing is populated on demand: there is none who would notice that a page is missing.
    let on_demand = wanted.mem_flags & XENMEMF_POPULATE_ON_DEMAND != 0;
    if wanted.nr_extents > MAX_EXTENTS
        || frame_limit(wanted.mem_flags) == 0
        || start >= wanted.nr_extents
        || wanted.extent_order > max_order(cx)
        || wanted.mem_flags & XENMEMF_VNODE == 0 && !node_allowed(cx, wanted.mem_flags)
        || command == XENMEM_POPULATE_PHYSMAP && on_demand
    {
        return Ok(start);
    }
    let Ok(domain) = permitted_domain(cx, wanted.domid) else {
        return Ok(start);
    };
    let mut index = start;
    while index < wanted.nr_extents {
        let done = if index > start && should_preempt(cx) {
            Ok(Progress::OutOfTime)
        } else {
            match command {
                XENMEM_INCREASE_RESERVATION => increase(cx, &domain, &wanted, index),
                XENMEM_POPULATE_PHYSMAP => populate(cx, &domain, &wanted, index),
                _ => decrease(cx, &domain, &wanted, index),
            }
        };
        match done {
            Ok(Progress::Done) => index += 1,
            Ok(Progress::OutOfTime) => {
                let word = u64::from(command) | index << COMMAND_BITS;
                return Err(Stop::Again([word, argument, 0, 0, 0, 0]));
            }
            Err(_) => break,
        }
    }
    Ok(index)
}

/// How far an extent has come.
enum Progress {
    Done,
    /// Nothing of it is done yet, but something was done for it.
    OutOfTime,
}

fn increase(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryReservation,
    index: u64,
) -> Result<Progress, Errno> {
    let Some(mfn) = allocate(cx, domain, wanted)? else {
        return Ok(Progress::OutOfTime);
    };
    if wanted.extent_start.is_null() {
        return Ok(Progress::Done);
    }
    let told = cx.write_element(wanted.extent_start.address(), index, &mfn.0);
    // Nobody knows of the frames of an extent that could not be told.
    told.inspect_err(|_| give_back(cx, domain, mfn, wanted.extent_order))?;
    Ok(Progress::Done)
}

fn populate(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryReservation,
    index: u64,
) -> Result<Progress, Errno> {
    let list = wanted.extent_start.address();
    let pfn: u64 = cx.read_element(list, index)?;
    let Some(mfn) = allocate(cx, domain, wanted)? else {
        return Ok(Progress::OutOfTime);
    };
    let told = cx.write_element(list, index, &mfn.0);
    told.inspect_err(|_| give_back(cx, domain, mfn, wanted.extent_order))?;
    place(cx, mfn, wanted.extent_order, pfn);
    Ok(Progress::Done)
}

/// Enters an extent in the machine-to-phys table.
pub(super) fn place(cx: &Current<'_>, first: Mfn, order: u32, pfn: u64) {
    for offset in 0..1 << order {
        cx.machine()
            .set_m2p(Mfn(first.0 + offset), pfn.wrapping_add(offset));
    }
}

fn allocate(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryReservation,
) -> Result<Option<Mfn>, Errno> {
    let block = Wanted {
        order: wanted.extent_order,
        limit: frame_limit(wanted.mem_flags),
        exchange: false,
    };
    let memory = &cx.hv.memory;
    memory.allocate_in_time(&domain.owner, &block, &mut || should_preempt(cx))
}

fn decrease(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryReservation,
    index: u64,
) -> Result<Progress, Errno> {
    let first: u64 = cx.read_element(wanted.extent_start.address(), index)?;
    for offset in 0..1 << wanted.extent_order {
        let mfn = first.checked_add(offset).ok_or(Errno::EINVAL)?;
        remove_frame(cx, domain, Mfn(mfn))?;
    }
    Ok(Progress::Done)
}

/// Takes a frame from a domain's reservation. It goes back to the heap once nothing refers to it.
fn remove_frame(cx: &Current<'_>, domain: &Domain, mfn: Mfn) -> Result<(), Errno> {
    if mfn == domain.shared_info || domain.grants.has_frame(mfn) {
        return Err(Errno::EINVAL);
    }
    let frame = cx.hv.memory.get(mfn, domain.id).ok_or(Errno::EINVAL)?;
    cx.hv.memory.release_allocation(frame)
}

/// Takes an extent away that was allocated a moment ago.
pub(super) fn give_back(cx: &Current<'_>, domain: &Domain, first: Mfn, order: u32) {
    for offset in 0..1 << order {
        // The domain itself, on another CPU, or its end may have been faster.
        let _ = remove_frame(cx, domain, Mfn(first.0 + offset));
    }
}

/// `XENMEM_claim_pages`: sets free frames aside, so that the domain can come to own `nr_extents` frames; 0 gives up
/// what is left of a claim.
///
/// # Errors
/// `EFAULT`; `EINVAL` for anything but a plain number, a domain that is not there, one that has a claim, owns as much
/// already or may not own as much; `EPERM` for all but the control domain; `ENOMEM`.
pub(super) fn claim(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    let wanted: MemoryReservation = cx.read(argument)?;
    if wanted.extent_order != 0 || wanted.mem_flags != 0 || !wanted.extent_start.is_null() {
        return Err(Errno::EINVAL.into());
    }
    let domain = cx.hv.domain(wanted.domid).map_err(|_| Errno::EINVAL)?;
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    cx.hv.memory.claim(&domain.owner, wanted.nr_extents)?;
    Ok(0)
}
