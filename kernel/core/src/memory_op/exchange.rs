//! `XENMEM_exchange`: pages for pages, in extents of another order.

use alloc::vec::Vec;
use core::mem::offset_of;

use hypercall_abi::errno::Errno;
use hypercall_abi::memory::*;
use hypercall_abi::types::Mfn;

use super::permitted_domain;
use super::reservation::{frame_limit, give_back, max_order, node_allowed, place};
use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::{HypercallResult, should_preempt};
use crate::memory::{FrameRef, FrameState, Wanted};

/// `XENMEM_exchange`: gives extents and gets as many pages in extents of another order (contiguous memory for
/// DMA). `nr_exchanged` counts input extents; a continuation goes on from there.
///
/// # Errors
/// `EFAULT`; `EPERM` for larger extents than the caller may name, or another's; `EINVAL` where the two sides are not
/// of the same size and domain, for an exact node that is not there, and for a page that is not the domain's or in use;
/// `ESRCH`, `ENOMEM`. What was exchanged before stays, and is told.
pub(super) fn exchange(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    let wanted: MemoryExchange = cx.read(argument)?;
    let mut done = wanted.nr_exchanged;
    let result = exchange_extents(cx, &wanted, &mut done);
    let told_at = argument.wrapping_add(offset_of!(MemoryExchange, nr_exchanged) as u64);
    cx.write(told_at, &done)?;
    match result {
        Ok(true) => Ok(0),
        Ok(false) => {
            let again = [u64::from(XENMEM_EXCHANGE), argument, 0, 0, 0, 0];
            Err(cx.again(again))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Exchanges from extent `done` on; whether that was all.
fn exchange_extents(
    cx: &Current<'_>,
    wanted: &MemoryExchange,
    done: &mut u64,
) -> Result<bool, Errno> {
    let (input, output) = (&wanted.in_, &wanted.out);
    if input.extent_order.max(output.extent_order) > max_order(cx) {
        return Err(Errno::EPERM);
    }
    let fits = |side: &MemoryReservation| side.nr_extents <= u64::MAX >> side.extent_order;
    if !fits(input) || !fits(output) {
        return Err(Errno::EINVAL);
    }
    let pages = |side: &MemoryReservation| side.nr_extents << side.extent_order;
    let chunk_order = input.extent_order.max(output.extent_order);
    let (in_chunk, out_chunk) = (
        1_u64 << (chunk_order - input.extent_order),
        1_u64 << (chunk_order - output.extent_order),
    );
    if *done > input.nr_extents
        || pages(input) != pages(output)
        || input.domid != output.domid
        // An interrupted call has stopped between chunks.
        || !done.is_multiple_of(in_chunk)
        || !node_allowed(cx, output.mem_flags)
    {
        return Err(Errno::EINVAL);
    }
    let domain = permitted_domain(cx, input.domid)?;
    let mut first = true;
    while *done < input.nr_extents {
        if !first && should_preempt(cx) {
            return Ok(false);
        }
        first = false;
        let chunk = Chunk {
            in_from: *done,
            in_count: in_chunk,
            out_from: *done / in_chunk * out_chunk,
            out_count: out_chunk,
        };
        if !exchange_chunk(cx, &domain, wanted, &chunk)? {
            return Ok(false);
        }
        *done += in_chunk;
    }
    Ok(true)
}

/// As many extents as make up one of the larger kind.
struct Chunk {
    in_from: u64,
    in_count: u64,
    out_from: u64,
    out_count: u64,
}

/// Exchanges a chunk; `false` where the time was up before anything was taken. Nothing is taken before all is there to
/// be given.
fn exchange_chunk(
    cx: &Current<'_>,
    domain: &Domain,
    wanted: &MemoryExchange,
    chunk: &Chunk,
) -> Result<bool, Errno> {
    let output = &wanted.out;
    let taken = unused_frames(cx, domain, &wanted.in_, chunk)?;
    let mut given = Vec::new();
    given
        .try_reserve_exact(chunk.out_count as usize)
        .map_err(|_| Errno::ENOMEM)?;
    let block = Wanted {
        order: output.extent_order,
        limit: frame_limit(output.mem_flags),
        exchange: true,
    };
    for _ in 0..chunk.out_count {
        let out_of_time = &mut || should_preempt(cx);
        let memory = &cx.hv.memory;
        match memory.allocate_in_time(&domain.owner, &block, out_of_time) {
            Ok(Some(first)) => given.push(first),
            stopped => {
                for first in given {
                    give_back(cx, domain, first, output.extent_order);
                }
                return stopped.map(|_| false);
            }
        }
    }
    for frame in taken {
        // The domain may have given it up itself meanwhile, on another CPU.
        cx.hv.memory.release_allocation(frame);
    }
    // What the domain got is its own even where it cannot be told.
    let mut told = Ok(true);
    let list = output.extent_start.address();
    for (index, first) in (chunk.out_from..).zip(given) {
        let pfn = cx.read_element::<u64>(list, index);
        let written = pfn.and_then(|pfn| {
            place(cx, first, output.extent_order, pfn);
            cx.write_element(list, index, &first.0)
        });
        if let Err(errno) = written {
            told = Err(errno);
        }
    }
    told
}

/// References to the frames that a chunk gives, none of which is mapped or a table.
fn unused_frames<'a>(
    cx: &Current<'a>,
    domain: &Domain,
    input: &MemoryReservation,
    chunk: &Chunk,
) -> Result<Vec<FrameRef<'a>>, Errno> {
    let memory = &cx.hv.memory;
    let mut frames = Vec::new();
    frames
        .try_reserve_exact((chunk.in_count << input.extent_order) as usize)
        .map_err(|_| Errno::ENOMEM)?;
    for index in chunk.in_from..chunk.in_from + chunk.in_count {
        let first: u64 = cx.read_element(input.extent_start.address(), index)?;
        for offset in 0..1 << input.extent_order {
            let mfn = Mfn(first.wrapping_add(offset));
            if mfn == domain.shared_info {
                return Err(Errno::EINVAL);
            }
            let frame = memory.get(mfn, domain.id).ok_or(Errno::EINVAL)?;
            // The allocation and this call; a frame that is named twice has one more.
            let unused = |it: FrameState| it.allocated && it.references == 2 && it.types == 0;
            if !memory.state(mfn).is_some_and(unused) {
                return Err(Errno::EINVAL);
            }
            frames.push(frame);
        }
    }
    Ok(frames)
}
