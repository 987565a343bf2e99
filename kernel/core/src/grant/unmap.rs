//! `GNTTABOP_unmap_grant_ref` and `GNTTABOP_unmap_and_replace`.
//!
//! Entries are taken out of the tables of a few mappings at a time, then every processor that runs the domain forgets
//! what it remembers of them, and only then are the counts of the frames and the marks of use given back.

use hypercall_abi::errno::Errno;
use hypercall_abi::grant_table::*;
use hypercall_abi::types::GrantHandle;
use zerocopy::{FromBytes, IntoBytes};

use super::active::Uses;
use super::pin::Pin;
use super::{Batch, Status, place_of};
use crate::current::Current;
use crate::hypercall::HypercallResult;
use crate::memory::{Held, LooseEntry, Pte};
use crate::mmu::flush_domain;

/// Mappings that are undone between two flushes.
const BATCH: usize = 32;

/// What is to be undone.
pub(super) struct Wanted {
    /// Where it is mapped for processors, if that is to be undone.
    pub(super) host_addr: u64,
    /// Its address for devices, if that is to be undone.
    pub(super) dev_bus_addr: u64,
    /// Where something is mapped that is to be mapped in its place.
    pub(super) new_addr: u64,
    pub(super) handle: GrantHandle,
}

impl From<GnttabUnmapGrantRef> for Wanted {
    fn from(op: GnttabUnmapGrantRef) -> Self {
        Self {
            host_addr: op.host_addr,
            dev_bus_addr: op.dev_bus_addr,
            new_addr: 0,
            handle: op.handle,
        }
    }
}

impl From<GnttabUnmapAndReplace> for Wanted {
    fn from(op: GnttabUnmapAndReplace) -> Self {
        Self {
            host_addr: op.host_addr,
            dev_bus_addr: 0,
            new_addr: op.new_addr,
            handle: op.handle,
        }
    }
}

/// What a mapping had, to be given back in this order when no processor remembers it.
struct Undone<'h> {
    _entry: Option<LooseEntry<'h>>,
    _for_devices: Option<Held<'h>>,
    _pin: Option<Pin<'h>>,
}

/// Undoes the mappings of a list.
pub(super) fn unmap_all<T>(cx: &Current<'_>, batch: &Batch, status_at: usize) -> HypercallResult
where
    T: FromBytes + IntoBytes + Into<Wanted>,
{
    let mut undone = [const { None }; BATCH];
    let mut index = 0;
    loop {
        let result = undo_some::<T>(cx, batch, status_at, &mut index, &mut undone);
        if undone.iter().any(Option::is_some) {
            flush_domain(cx.hv, cx.domain);
            undone = [const { None }; BATCH];
        }
        match result {
            Err(errno) => break Err(errno.into()),
            Ok(()) if index >= batch.count => break Ok(0),
            Ok(()) => {}
        }
        if let Some(stop) = batch.pause(cx, index) {
            break Err(stop);
        }
    }
}

/// Undoes as many as there is room for.
fn undo_some<'h, T>(
    cx: &Current<'h>,
    batch: &Batch,
    status_at: usize,
    index: &mut u64,
    undone: &mut [Option<Undone<'h>>],
) -> Result<(), Errno>
where
    T: FromBytes + IntoBytes + Into<Wanted>,
{
    for place in undone {
        if *index >= batch.count {
            break;
        }
        let op: T = cx.read_element(batch.at, *index)?;
        let status = match undo(cx, &op.into()) {
            Ok(taken) => {
                *place = taken;
                GNTST_OKAY
            }
            Err(status) => status,
        };
        batch.tell(cx, *index, status_at, status)?;
        *index += 1;
    }
    Ok(())
}

/// Undoes one mapping, or a part of it.
fn undo<'h>(cx: &Current<'h>, wanted: &Wanted) -> Result<Option<Undone<'h>>, Status> {
    let mut mappings = cx.domain.grants.mappings.lock();
    let mapping = mappings.get(wanted.handle).ok_or(GNTST_BAD_HANDLE)?;
    let (mfn, write) = (mapping.mfn, mapping.uses.write);
    let uses = Uses {
        host: mapping.uses.host && wanted.host_addr != 0,
        device: mapping.uses.device && wanted.dev_bus_addr != 0,
        write,
    };
    if uses.device && wanted.dev_bus_addr != mfn.0 << 12 {
        return Err(GNTST_BAD_DEV_ADDR);
    }
    let memory = &cx.hv.memory;
    let entry = match uses.host {
        false => None,
        true => {
            let names_it =
                |entry: Pte| entry.present() && entry.mfn() == mfn && entry.writable() == write;
            let replacement = replacement(cx, wanted, mapping.flags)?;
            let slot = place_of(cx, wanted.host_addr, mapping.flags).ok_or(GNTST_GENERAL_ERROR)?;
            let exchanged = memory.exchange_entry(slot, cx.domain.id, replacement, names_it);
            Some(exchanged.map_err(|_| GNTST_GENERAL_ERROR)?)
        }
    };
    let undone = uses.any().then(|| Undone {
        _entry: entry,
        _for_devices: uses.device.then(|| memory.adopt_held(mfn, write)),
        _pin: Pin::adopt(cx.hv, mapping, uses),
    });
    mapping.uses.host &= !uses.host;
    mapping.uses.device &= !uses.device;
    if !mapping.uses.any() {
        mappings.release(wanted.handle);
    }
    Ok(undone)
}

/// The entry that takes the place of a mapping's: an empty one, or one that is taken out of the tables elsewhere.
fn replacement<'h>(
    cx: &Current<'h>,
    wanted: &Wanted,
    flags: u32,
) -> Result<LooseEntry<'h>, Status> {
    let memory = &cx.hv.memory;
    let empty = memory.empty_entry();
    if wanted.new_addr == 0 {
        return Ok(empty);
    }
    if flags & GNTMAP_CONTAINS_PTE != 0 {
        return Err(GNTST_GENERAL_ERROR);
    }
    let slot = place_of(cx, wanted.new_addr, 0).ok_or(GNTST_GENERAL_ERROR)?;
    let exchanged = memory.exchange_entry(slot, cx.domain.id, empty, |_| true);
    exchanged.map_err(|_| GNTST_GENERAL_ERROR)
}
