//! The operations on a table as a whole, and on its entries, by the domain that has it, or its toolstack.

use alloc::sync::Arc;
use core::mem::offset_of;

use hv_machine::{Platform, is_guest_range};
use hypercall_abi::errno::Errno;
use hypercall_abi::grant_table::*;
use hypercall_abi::types::{Domid, Mfn};
use zerocopy::{FromBytes, IntoBytes};

use super::{Batch, Status, status_of};
use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::{HypercallResult, should_preempt};

/// Grants that a cache flush looks through between two looks at the clock; a number of them is where it goes on.
const FLUSH_STEP: u32 = super::COMMAND + 1;

/// The domain whose table a call is about: the caller's own, or for the control domain any.
///
/// # Errors
/// `GNTST_bad_domain`, `GNTST_permission_denied`.
fn subject(cx: &Current<'_>, id: Domid) -> Result<Arc<Domain>, Status> {
    let domain = cx.any_domain(id).map_err(|_| GNTST_BAD_DOMAIN)?;
    match domain.id == cx.domain.id || cx.domain.privileged {
        true => Ok(domain),
        false => Err(GNTST_PERMISSION_DENIED),
    }
}

/// The one element of a list that may have no more.
///
/// # Errors
/// `EINVAL`, `EFAULT`.
fn only<T: FromBytes + IntoBytes>(cx: &Current<'_>, at: u64, count: u32) -> Result<T, Errno> {
    match count {
        1 => cx.read(at),
        _ => Err(Errno::EINVAL),
    }
}

/// Writes frame numbers to a list of the caller's.
fn tell(cx: &Current<'_>, list: u64, frames: &[Mfn]) -> Result<(), Status> {
    let mut told = Ok(());
    for (index, mfn) in (0..).zip(frames) {
        let written = cx.write_element(list, index, &mfn.0);
        told = written.map_err(|_| GNTST_BAD_VIRT_ADDR).and(told);
    }
    told
}

fn require_range(list: u64, frames: u32) -> Result<(), Errno> {
    let good = is_guest_range(list, u64::from(frames) * 8);
    good.then_some(()).ok_or(Errno::EFAULT)
}

/// `GNTTABOP_setup_table`.
///
/// # Errors
/// `EINVAL` for more than one, `EFAULT`.
pub(super) fn setup_table(cx: &Current<'_>, at: u64, count: u32) -> HypercallResult {
    let op: GnttabSetupTable = only(cx, at, count)?;
    let list = op.frame_list.address();
    require_range(list, op.nr_frames)?;
    let set_up = || {
        let domain = subject(cx, op.dom)?;
        let mut table = domain.grants.table.lock();
        let wanted = op.nr_frames as usize;
        table
            .grow(cx.hv, &domain.owner, &domain.grants.limits, wanted)
            .ok_or(GNTST_GENERAL_ERROR)?;
        tell(cx, list, table.frames().get(..wanted).unwrap_or_default())
    };
    let status_at = offset_of!(GnttabSetupTable, status) as u64;
    cx.write(at.wrapping_add(status_at), &status_of(set_up()))?;
    Ok(0)
}

/// `GNTTABOP_get_status_frames`.
///
/// # Errors
/// As [`setup_table`].
pub(super) fn get_status_frames(cx: &Current<'_>, at: u64, count: u32) -> HypercallResult {
    let op: GnttabGetStatusFrames = only(cx, at, count)?;
    let list = op.frame_list.address();
    require_range(list, op.nr_frames)?;
    let get = || {
        let domain = subject(cx, op.dom)?;
        let table = domain.grants.table.lock();
        let frames = table.statuses().get(..op.nr_frames as usize);
        tell(cx, list, frames.ok_or(GNTST_GENERAL_ERROR)?)
    };
    let status_at = offset_of!(GnttabGetStatusFrames, status) as u64;
    cx.write(at.wrapping_add(status_at), &status_of(get()))?;
    Ok(0)
}

/// `GNTTABOP_query_size`.
///
/// # Errors
/// As [`setup_table`].
pub(super) fn query_size(cx: &Current<'_>, at: u64, count: u32) -> HypercallResult {
    let mut op: GnttabQuerySize = only(cx, at, count)?;
    op.status = match subject(cx, op.dom) {
        Ok(domain) => {
            op.nr_frames = domain.grants.table.lock().frames().len() as u32;
            op.max_nr_frames = domain.grants.limits.max_frames;
            GNTST_OKAY
        }
        Err(status) => status,
    };
    cx.write(at, &op)?;
    Ok(0)
}

/// `GNTTABOP_get_version`.
///
/// # Errors
/// `EFAULT`, `ESRCH`, `EPERM`.
pub(super) fn get_version(cx: &Current<'_>, at: u64) -> HypercallResult {
    let op: GnttabGetVersion = cx.read(at)?;
    let domain = subject(cx, op.dom).map_err(|status| match status {
        GNTST_BAD_DOMAIN => Errno::ESRCH,
        _ => Errno::EPERM,
    })?;
    let version = domain.grants.table.lock().version();
    let version_at = offset_of!(GnttabGetVersion, version) as u64;
    cx.write(at.wrapping_add(version_at), &version)?;
    Ok(0)
}

/// `GNTTABOP_set_version`: of the caller's table. The version that it has then is told in any case.
///
/// # Errors
/// `EFAULT`; `EINVAL` for versions that there are not, `ENOSYS` for one that the caller may not have; others as
/// [`super::table::Table::set_version`].
pub(super) fn set_version(cx: &Current<'_>, at: u64) -> HypercallResult {
    let op: GnttabSetVersion = cx.read(at)?;
    let grants = &cx.domain.grants;
    let mut table = grants.table.lock();
    let result = match op.version {
        1 | 2 if op.version == table.version() => Ok(()),
        2 if grants.limits.max_version < 2 => Err(Errno::ENOSYS),
        1 | 2 => table.set_version(cx.hv, &cx.domain.owner, op.version),
        _ => Err(Errno::EINVAL),
    };
    let version = table.version();
    cx.write(at, &GnttabSetVersion { version })?;
    result?;
    Ok(0)
}

/// `GNTTABOP_swap_grant_ref`, of the caller's table.
///
/// # Errors
/// `EFAULT`.
pub(super) fn swap_all(cx: &Current<'_>, batch: &Batch) -> HypercallResult {
    batch.each(
        cx,
        offset_of!(GnttabSwapGrantRef, status),
        |op: &GnttabSwapGrantRef| {
            let table = cx.domain.grants.table.lock();
            table.swap(cx.machine(), op.ref_a, op.ref_b)
        },
    )
}

/// `GNTTABOP_cache_flush`, of parts of frames that are the caller's or in its use by a grant; `start` is the grant from
/// which the first goes on.
///
/// # Errors
/// `EFAULT`; `EINVAL` for more than a frame, unknown operations, what is no RAM, and another's frame that is not
/// granted; `EILSEQ`, `EPERM` for nobody's; `EOPNOTSUPP` for throwing away what was written.
pub(super) fn cache_flush_all(cx: &Current<'_>, batch: &Batch, start: u32) -> HypercallResult {
    let mut start = start;
    for index in 0..batch.count {
        if index > 0
            && let Some(stop) = batch.pause(cx, index)
        {
            return Err(stop);
        }
        let op: GnttabCacheFlush = cx.read_element(batch.at, index)?;
        while let Some(next) = flush_cache(cx, &op, start)? {
            start = next;
            if should_preempt(cx) {
                return Err(batch.again(cx, index, start));
            }
        }
        start = 0;
    }
    Ok(0)
}

/// Flushes a part of a frame; where it was not found among the grants that were looked through, from which to go on.
fn flush_cache(cx: &Current<'_>, op: &GnttabCacheFlush, start: u32) -> Result<Option<u32>, Errno> {
    let end = u32::from(op.offset) + u32::from(op.length);
    let page = hv_machine::PAGE_SIZE as u32;
    let known = GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL;
    if u32::from(op.offset) >= page || end > page || op.op & !known != 0 {
        return Err(Errno::EINVAL);
    }
    if op.length == 0 || op.op == 0 {
        return if start == 0 {
            Ok(None)
        } else {
            Err(Errno::EILSEQ)
        };
    }
    let memory = &cx.hv.memory;
    let mfn = Mfn(op.a.get::<u64>() >> 12);
    if !memory.is_ram(mfn) {
        return Err(Errno::EINVAL);
    }
    let frame = memory.get_any(mfn);
    let owner = frame.as_ref().and_then(|it| memory.owner_of(it.mfn()));
    let domain = owner.and_then(|id| cx.hv.domain(id).ok());
    let domain = domain.ok_or(Errno::EPERM)?;
    if domain.id != cx.domain.id {
        let table = domain.grants.table.lock();
        let mut looked = table
            .active_from(start)
            .take(FLUSH_STEP as usize)
            .peekable();
        if looked.peek().is_none() {
            return Err(Errno::EINVAL);
        }
        if !looked.any(|(_, active)| active.is_of(mfn, cx.domain.id)) {
            return Ok(Some(start.saturating_add(FLUSH_STEP)));
        }
    }
    if op.op == GNTTAB_CACHE_INVAL {
        return Err(Errno::EOPNOTSUPP);
    }
    // Processors see each other's caches, so that only somebody with a device could tell the difference.
    if cx.domain.may_flush_caches() {
        cx.machine().flush_caches();
    }
    Ok(None)
}
