//! `XENMEM_exchange`: pages for pages, in extents of another order.

use alloc::vec::Vec;

use hv_machine::Platform;
use hypercall_abi::errno::Errno;
use hypercall_abi::memory::*;
use hypercall_abi::types::Mfn;

use super::{MAX_EXTENTS, frame_limit, give_back, max_order, permitted_domain};
use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::{HypercallResult, Stop, should_preempt};

/// `XENMEM_exchange`: gives extents and gets as many pages in extents of another order (contiguous memory for
/// DMA). `nr_exchanged` counts input extents; a continuation goes on from there.
pub(super) fn exchange(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
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
    given
        .try_reserve_exact(out_count as usize)
        .map_err(|_| Errno::ENOMEM)?;
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
