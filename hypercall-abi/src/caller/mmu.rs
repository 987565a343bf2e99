//! Page tables.

use crate::caller::{Result, address_of, address_of_mut, check, count_of, hypercall3, hypercall4};
use crate::types::Domid;
use crate::xen::*;

/// The domains that `mmu_update` works on: the owner of the frames mapped, and, above it, that of
/// the page tables.
#[derive(Clone, Copy, Debug)]
pub struct Foreign(u32);

impl Foreign {
    /// Frames of `frames` in page tables of `tables`.
    pub const fn new(frames: Domid, tables: Domid) -> Self {
        Self(frames.0 as u32 | (tables.0 as u32 + 1) << 16)
    }
}

impl From<Domid> for Foreign {
    /// Frames of `frames` in the caller's own page tables.
    fn from(frames: Domid) -> Self {
        Self(u32::from(frames.0))
    }
}

/// The address of a count of operations done, or 0.
fn counter(done: Option<&mut u32>) -> u64 {
    done.map_or(0, address_of_mut)
}

/// Updates page-table entries and the machine-to-phys table, in order, until one fails. `done` gets
/// how many succeeded.
///
/// # Safety
///
/// The updates take nothing away that is referenced, and give no second access to what is.
#[inline]
pub unsafe fn mmu_update(
    requests: &[MmuUpdate],
    done: Option<&mut u32>,
    foreign: impl Into<Foreign>,
) -> Result<()> {
    let (count, foreign) = (count_of(requests), u64::from(foreign.into().0));
    // SAFETY: the call reads `requests` and writes `done`; the rest is the caller's promise.
    check(unsafe {
        hypercall4::<HYPERVISOR_MMU_UPDATE>(address_of(requests), count, counter(done), foreign)
    })?;
    Ok(())
}

/// Writes the level-1 entry that maps `va`, and flushes as `flags` say (`UVMF_*`).
///
/// # Safety
///
/// The update takes nothing away that is referenced, and gives no second access to what is.
#[inline]
pub unsafe fn update_va_mapping(va: u64, entry: u64, flags: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { hypercall3::<HYPERVISOR_UPDATE_VA_MAPPING>(va, entry, flags) })?;
    Ok(())
}

/// Writes the level-1 entry that maps `va`, to a frame of `domid`, and flushes as `flags` say
/// (`UVMF_*`).
///
/// # Safety
///
/// The update takes nothing away that is referenced, and gives no second access to what is.
#[inline]
pub unsafe fn update_va_mapping_otherdomain(
    va: u64,
    entry: u64,
    flags: u64,
    domid: Domid,
) -> Result<()> {
    let domid = u64::from(domid.0);
    // SAFETY: the caller's promise.
    check(unsafe {
        hypercall4::<HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN>(va, entry, flags, domid)
    })?;
    Ok(())
}

/// Does operations on page tables and TLBs, in order, until one fails. `done` gets how many
/// succeeded. `owner` is the owner of the frames.
///
/// # Safety
///
/// New tables map what is referenced, and frames cleared or copied to are the caller's to write.
#[inline]
pub unsafe fn mmuext_op(
    operations: &[MmuextOp],
    done: Option<&mut u32>,
    owner: Domid,
) -> Result<()> {
    let (count, owner) = (count_of(operations), u64::from(owner.0));
    // SAFETY: the call reads `operations` and writes `done`; the rest is the caller's promise.
    check(unsafe {
        hypercall4::<HYPERVISOR_MMUEXT_OP>(address_of(operations), count, counter(done), owner)
    })?;
    Ok(())
}
