//! A domain's reservation: `XENMEM_increase_reservation`, `XENMEM_decrease_reservation`, `XENMEM_populate_physmap`
//! and `XENMEM_claim_pages`.

use hv_machine::{PAGE_SHIFT, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::memory::*;
use hypercall_abi::types::Mfn;

use super::{COMMAND_BITS, permitted_domain};
use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::{HypercallResult, should_preempt};
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
            Some(Progress::OutOfTime)
        } else {
            match command {
                XENMEM_INCREASE_RESERVATION => increase(cx, &domain, &wanted, index),
                XENMEM_POPULATE_PHYSMAP => populate(cx, &domain, &wanted, index),
                _ => decrease(cx, &domain, &wanted, index),
            }
        };
        match done {
            Some(Progress::Done) => index += 1,
            Some(Progress::OutOfTime) => {
                let word = u64::from(command) | index << COMMAND_BITS;
                return Err(cx.again([word, argument, 0, 0, 0, 0]));
            }
            None => break,
        }
    }
    Ok(index)
}

/// How far an extent has come that nothing is wrong with: what else there is to say of one, callers are not told.
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
) -> Option<Progress> {
    let Some(mfn) = allocate(cx, domain, wanted)? else {
        return Some(Progress::OutOfTime);
    };
    if !wanted.extent_start.is_null() {
        tell(cx, domain, wanted, index, mfn)?;
    }
    Some(Progress::Done)
}

/// Tells the caller where an extent is, or takes it away again: nobody would know of its frames.
fn tell(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryReservation,
    index: u64,
    first: Mfn,
) -> Option<()> {
    let told = cx.write_element(wanted.extent_start.address(), index, &first.0);
    told.inspect_err(|_| give_back(cx, domain, first, wanted.extent_order))
        .ok()
}

fn populate(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryReservation,
    index: u64,
) -> Option<Progress> {
    let list = wanted.extent_start.address();
    let pfn: u64 = cx.read_element(list, index).ok()?;
    let Some(mfn) = allocate(cx, domain, wanted)? else {
        return Some(Progress::OutOfTime);
    };
    tell(cx, domain, wanted, index, mfn)?;
    place(cx, mfn, wanted.extent_order, pfn);
    Some(Progress::Done)
}

/// Enters an extent in the machine-to-phys table.
pub(super) fn place(cx: &Current<'_>, first: Mfn, order: u32, pfn: u64) {
    for offset in 0..1 << order {
        cx.machine()
            .set_m2p(Mfn(first.0 + offset), pfn.wrapping_add(offset));
    }
}

/// An extent's frames; the inner `None` where the time was up.
fn allocate(cx: &Current<'_>, domain: &Domain, wanted: &MemoryReservation) -> Option<Option<Mfn>> {
    let block = Wanted {
        order: wanted.extent_order,
        limit: frame_limit(wanted.mem_flags),
        exchange: false,
    };
    let memory = &cx.hv.memory;
    memory
        .allocate_in_time(&domain.owner, &block, &mut || should_preempt(cx))
        .ok()
}

fn decrease(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryReservation,
    index: u64,
) -> Option<Progress> {
    let list = wanted.extent_start.address();
    let first: u64 = cx.read_element(list, index).ok()?;
    let mut frames = (0..1 << wanted.extent_order).map(|offset| Mfn(first.wrapping_add(offset)));
    frames
        .all(|mfn| remove_frame(cx, domain, mfn))
        .then_some(Progress::Done)
}

/// Takes a frame from a domain's reservation, if it is in it. It goes back to the heap once nothing refers to it.
fn remove_frame(cx: &Current<'_>, domain: &Domain, mfn: Mfn) -> bool {
    let frame = cx.hv.memory.get(mfn, domain.id);
    let kept = mfn == domain.shared_info || domain.grants.has_frame(mfn);
    let frame = frame.filter(|_| !kept);
    frame.is_some_and(|frame| cx.hv.memory.release_allocation(frame))
}

/// Takes an extent away that was allocated a moment ago.
pub(super) fn give_back(cx: &Current<'_>, domain: &Domain, first: Mfn, order: u32) {
    for offset in 0..1 << order {
        // The domain itself, on another CPU, or its end may have been faster.
        remove_frame(cx, domain, Mfn(first.0 + offset));
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
