//! Grant tables.

use zerocopy::{FromBytes, IntoBytes};

use crate::caller::{Result, address_of_mut, check, count_of, hypercall3};
use crate::grant_table::*;
use crate::types::{Domid, GrantRef, GuestHandle};
use crate::xen::HYPERVISOR_GRANT_TABLE_OP;

/// A batch of operations, each of which has its own status. An error is one of the batch itself.
///
/// # Safety
///
/// `T` is the struct of `cmd` (`GNTTABOP_*`), and its handles are addresses of what the operation
/// writes through them. The operations take nothing away that is referenced, and give no second
/// access to what is.
#[inline]
pub unsafe fn grant_table_op<T: FromBytes + IntoBytes>(cmd: u32, batch: &mut [T]) -> Result<()> {
    let (count, batch) = (count_of(batch), address_of_mut(batch));
    // SAFETY: the caller's promise.
    check(unsafe { hypercall3::<HYPERVISOR_GRANT_TABLE_OP>(u64::from(cmd), batch, count) })?;
    Ok(())
}

/// Maps grants of other domains.
///
/// # Safety
///
/// Nothing refers to what was mapped at the addresses.
#[inline]
pub unsafe fn map(batch: &mut [GnttabMapGrantRef]) -> Result<()> {
    // SAFETY: the structs have no handles; the rest is the caller's promise.
    unsafe { grant_table_op(GNTTABOP_MAP_GRANT_REF, batch) }
}

/// Unmaps grants of other domains.
///
/// # Safety
///
/// Nothing refers to them.
#[inline]
pub unsafe fn unmap(batch: &mut [GnttabUnmapGrantRef]) -> Result<()> {
    // SAFETY: the structs have no handles; the rest is the caller's promise.
    unsafe { grant_table_op(GNTTABOP_UNMAP_GRANT_REF, batch) }
}

/// Copies between frames, granted or the caller's own.
///
/// # Safety
///
/// Nothing refers to the caller's own frames that are written, nor to what it granted for writing.
#[inline]
pub unsafe fn copy(batch: &mut [GnttabCopy]) -> Result<()> {
    // SAFETY: the structs have no handles; the rest is the caller's promise.
    unsafe { grant_table_op(GNTTABOP_COPY, batch) }
}

/// Sets the size of a domain's table to that of `frames`, if it is smaller, and puts its frames
/// there. The status is `GNTST_*`.
#[inline]
pub fn setup_table(dom: Domid, frames: &mut [u64]) -> Result<i16> {
    let mut batch = [GnttabSetupTable {
        dom,
        nr_frames: count_of(frames) as u32,
        frame_list: GuestHandle::from_mut_ptr(frames.as_mut_ptr()),
        ..Default::default()
    }];
    // SAFETY: the operation writes no more than `nr_frames` elements of `frames`.
    unsafe { grant_table_op(GNTTABOP_SETUP_TABLE, &mut batch)? };
    Ok(batch[0].status)
}

/// Size and limit of a domain's table, in frames.
#[inline]
pub fn query_size(dom: Domid) -> Result<GnttabQuerySize> {
    let mut batch = [GnttabQuerySize {
        dom,
        ..Default::default()
    }];
    // SAFETY: the struct has no handles, and the operation changes nothing.
    unsafe { grant_table_op(GNTTABOP_QUERY_SIZE, &mut batch)? };
    Ok(batch[0])
}

/// Sets the version of the caller's table, 1 or 2, and returns the one that it has.
///
/// # Safety
///
/// Nothing refers to the entries, whose layout changes.
#[inline]
pub unsafe fn set_version(version: u32) -> Result<u32> {
    let mut batch = [GnttabSetVersion { version }];
    // SAFETY: the struct has no handles; the rest is the caller's promise.
    unsafe { grant_table_op(GNTTABOP_SET_VERSION, &mut batch)? };
    Ok(batch[0].version)
}

/// The version of a domain's table.
#[inline]
pub fn version(dom: Domid) -> Result<u32> {
    let mut batch = [GnttabGetVersion {
        dom,
        ..Default::default()
    }];
    // SAFETY: the struct has no handles, and the operation changes nothing.
    unsafe { grant_table_op(GNTTABOP_GET_VERSION, &mut batch)? };
    Ok(batch[0].version)
}

/// Swaps two entries of the caller's table. The status is `GNTST_*`.
#[inline]
pub fn swap(ref_a: GrantRef, ref_b: GrantRef) -> Result<i16> {
    let mut batch = [GnttabSwapGrantRef {
        ref_a,
        ref_b,
        ..Default::default()
    }];
    // SAFETY: the struct has no handles, and a swap grants nothing that was not granted.
    unsafe { grant_table_op(GNTTABOP_SWAP_GRANT_REF, &mut batch)? };
    Ok(batch[0].status)
}
