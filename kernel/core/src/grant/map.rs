//! `GNTTABOP_map_grant_ref`.

use alloc::sync::Arc;

use hypercall_abi::grant_table::*;
use hypercall_abi::types::{GrantHandle, Mfn};

use super::active::Uses;
use super::entry::Demand;
use super::pin::{Pin, frame_of};
use super::{Status, place_of};
use crate::current::Current;
use crate::domain::Domain;
use crate::memory::{Held, Pte};

/// Maps one grant, as its struct says, and writes into that what it came to.
pub(super) fn map(cx: &Current<'_>, op: &mut GnttabMapGrantRef) {
    op.status = match try_map(cx, op) {
        Ok((handle, mfn)) => {
            op.handle = handle;
            op.dev_bus_addr = mfn.0 << 12;
            GNTST_OKAY
        }
        Err(status) => status,
    };
}

fn try_map(cx: &Current<'_>, op: &GnttabMapGrantRef) -> Result<(GrantHandle, Mfn), Status> {
    let uses = Uses::mapping(op.flags);
    if !uses.any() {
        return Err(GNTST_BAD_GNTREF);
    }
    let granter = cx.hv.domain(op.dom).map_err(|_| GNTST_BAD_DOMAIN)?;
    let grants = &cx.domain.grants;
    let handle = {
        let mut mappings = grants.mappings.lock();
        let reserved = mappings.reserve(cx.hv, grants.limits.max_maptrack_frames);
        reserved.ok_or(GNTST_NO_SPACE)?
    };
    match map_reserved(cx, &granter, op, uses) {
        Ok((pin, mfn)) => {
            let mapping = pin.into_mapping(mfn, op.flags);
            grants.mappings.lock().put(handle, mapping);
            Ok((handle, mfn))
        }
        Err(status) => {
            grants.mappings.lock().release(handle);
            Err(status)
        }
    }
}

/// Maps a grant, with a place to note that. What is taken before something is refused, is a value and goes back.
fn map_reserved<'h>(
    cx: &Current<'h>,
    granter: &Arc<Domain>,
    op: &GnttabMapGrantRef,
    uses: Uses,
) -> Result<(Pin<'h>, Mfn), Status> {
    let memory = &cx.hv.memory;
    let demand = Demand {
        domid: cx.domain.id,
        write: uses.write,
        map: true,
        pinned: false,
    };
    let (pin, pinned) = Pin::new(cx.hv, granter, op.ref_, uses, demand)?;
    let mfn = frame_of(pinned.target).ok_or(GNTST_GENERAL_ERROR)?;
    let hold = |missing: Status| {
        let frame = memory.get(mfn, granter.id).ok_or(missing)?;
        Held::new(frame, uses.write).ok_or(GNTST_GENERAL_ERROR)
    };
    // What a grant in use was of may have gone since.
    let missing = match pinned.first {
        true => GNTST_BAD_PAGE,
        false => GNTST_GENERAL_ERROR,
    };
    let for_devices = uses.device.then(|| hold(missing)).transpose()?;
    if uses.host {
        let slot = place_of(cx, op.host_addr, op.flags).ok_or(GNTST_GENERAL_ERROR)?;
        let entry = hold(missing)?.into_entry(memory, entry_flags(op.flags));
        let exchanged = memory.exchange_entry(slot, cx.domain.id, entry, |_| true);
        // What was mapped there is the guest's to forget, as where it overwrites an entry itself.
        drop(exchanged.map_err(|_| GNTST_GENERAL_ERROR)?);
    }
    if let Some(held) = for_devices {
        held.into_bits();
    }
    Ok((pin, mfn))
}

/// The flags of the entry for a mapping, but for [`Pte::WRITABLE`].
fn entry_flags(flags: u32) -> u64 {
    let user = match flags & GNTMAP_APPLICATION_MAP {
        0 => 0,
        _ => Pte::USER,
    };
    let guests = u64::from(flags >> GNTMAP_GUEST_AVAIL0) << 9 & Pte::AVAILABLE;
    user | guests | Pte::ACCESSED | Pte::DIRTY | Pte::NO_EXECUTE
}
