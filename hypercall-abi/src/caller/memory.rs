//! Memory reservations, physical maps and resources.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::caller::{Result, address_of, address_of_mut, check, hypercall2};
use crate::memory::*;
use crate::types::{Domid, GuestHandle, Mfn};
use crate::xen::HYPERVISOR_MEMORY_OP;

/// An operation with the struct that it reads and writes.
///
/// # Safety
///
/// `T` is the struct of `cmd` (`XENMEM_*`), and its handles are addresses of what the operation
/// reads and writes through them. It takes away no memory that is referenced.
#[inline]
pub unsafe fn memory_op<T: FromBytes + IntoBytes>(cmd: u32, argument: &mut T) -> Result<u64> {
    let argument = address_of_mut(argument);
    // SAFETY: the caller's promise.
    check(unsafe { hypercall2::<HYPERVISOR_MEMORY_OP>(u64::from(cmd), argument) })
}

/// A query about a domain, which returns a number.
fn query<T: IntoBytes + Immutable>(cmd: u32, argument: &T) -> Result<u64> {
    // SAFETY: the query reads `argument`, and nothing else.
    check(unsafe { hypercall2::<HYPERVISOR_MEMORY_OP>(u64::from(cmd), address_of(argument)) })
}

/// The reservation of the extents in `extents`.
fn reservation(domid: Domid, extents: &mut [u64], order: u32, flags: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::from_mut_ptr(extents.as_mut_ptr()),
        nr_extents: extents.len() as u64,
        extent_order: order,
        mem_flags: flags,
        domid,
        ..Default::default()
    }
}

/// Adds extents of `1 << order` pages at the guest-physical frames in `extents`, which it replaces
/// by the machine frames. Returns how many of them.
#[inline]
pub fn populate_physmap(
    domid: Domid,
    extents: &mut [u64],
    order: u32,
    flags: u32,
) -> Result<usize> {
    let mut argument = reservation(domid, extents, order, flags);
    // SAFETY: the operation reads and writes `extents`, and only adds memory.
    Ok(unsafe { memory_op(XENMEM_POPULATE_PHYSMAP, &mut argument)? } as usize)
}

/// Adds extents of `1 << order` pages and puts the machine frames into `extents`. Returns how many
/// of them.
#[inline]
pub fn increase_reservation(
    domid: Domid,
    extents: &mut [u64],
    order: u32,
    flags: u32,
) -> Result<usize> {
    let mut argument = reservation(domid, extents, order, flags);
    // SAFETY: the operation writes `extents`, and only adds memory.
    Ok(unsafe { memory_op(XENMEM_INCREASE_RESERVATION, &mut argument)? } as usize)
}

/// Gives back the extents of `1 << order` pages whose machine frames are in `extents`. Returns how
/// many of them.
///
/// # Safety
///
/// Nothing refers to that memory.
#[inline]
pub unsafe fn decrease_reservation(domid: Domid, extents: &mut [u64], order: u32) -> Result<usize> {
    let mut argument = reservation(domid, extents, order, 0);
    // SAFETY: the operation reads `extents`; the rest is the caller's promise.
    Ok(unsafe { memory_op(XENMEM_DECREASE_RESERVATION, &mut argument)? } as usize)
}

/// Swaps extents for others, and counts in `nr_exchanged` how many of those given are done.
///
/// # Safety
///
/// The handles are those of arrays of as many frames as the reservations say, and nothing refers to
/// the memory given.
#[inline]
pub unsafe fn exchange(exchange: &mut MemoryExchange) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { memory_op(XENMEM_EXCHANGE, exchange)? };
    Ok(())
}

/// The highest machine frame that is RAM, plus one.
#[inline]
pub fn maximum_ram_page() -> Result<u64> {
    query(XENMEM_MAXIMUM_RAM_PAGE, &0_u64)
}

/// A domain's number of pages.
#[inline]
pub fn current_reservation(domid: Domid) -> Result<u64> {
    query(XENMEM_CURRENT_RESERVATION, &MemoryDomain { domid })
}

/// The number of pages that a domain may have.
#[inline]
pub fn maximum_reservation(domid: Domid) -> Result<u64> {
    query(XENMEM_MAXIMUM_RESERVATION, &MemoryDomain { domid })
}

/// A domain's highest guest-physical frame.
#[inline]
pub fn maximum_gpfn(domid: Domid) -> Result<u64> {
    query(XENMEM_MAXIMUM_GPFN, &MemoryDomain { domid })
}

/// Where the machine-to-phys table is.
#[inline]
pub fn machphys_mapping() -> Result<MachphysMapping> {
    let mut mapping = MachphysMapping::default();
    // SAFETY: the operation writes `mapping`.
    unsafe { memory_op(XENMEM_MACHPHYS_MAPPING, &mut mapping)? };
    Ok(mapping)
}

/// Puts the first frames of every 2 MiB of the machine-to-phys table into `frames`, and returns how
/// many.
#[inline]
pub fn machphys_mfn_list(frames: &mut [Mfn]) -> Result<usize> {
    let mut argument = MachphysMfnList {
        max_extents: u32::try_from(frames.len()).unwrap_or(u32::MAX),
        extent_start: GuestHandle::from_mut_ptr(frames.as_mut_ptr()),
        ..Default::default()
    };
    // SAFETY: the operation writes no more than `max_extents` elements of `frames`.
    unsafe { memory_op(XENMEM_MACHPHYS_MFN_LIST, &mut argument)? };
    Ok(argument.nr_extents as usize)
}

/// An entry of a memory map as BIOS function E820 gives it: address, size, type.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, zerocopy::KnownLayout)]
#[repr(C)]
pub struct E820Entry {
    /// Address, low half first.
    pub address: [u32; 2],
    /// Size in bytes, low half first.
    pub size: [u32; 2],
    /// 1 for RAM, 2 for reserved, 3 for ACPI tables, 4 for ACPI non-volatile storage, 5 for
    /// unusable.
    pub type_: u32,
}

impl E820Entry {
    /// The first address.
    pub const fn start(&self) -> u64 {
        self.address[0] as u64 | (self.address[1] as u64) << 32
    }

    /// The size in bytes.
    pub const fn length(&self) -> u64 {
        self.size[0] as u64 | (self.size[1] as u64) << 32
    }
}

fn map(cmd: u32, entries: &mut [E820Entry]) -> Result<usize> {
    let mut argument = MemoryMap {
        nr_entries: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        buffer: GuestHandle::from_mut_ptr(entries.as_mut_ptr()).cast(),
        ..Default::default()
    };
    // SAFETY: the operation writes no more than `nr_entries` elements of `entries`.
    unsafe { memory_op(cmd, &mut argument)? };
    Ok(argument.nr_entries as usize)
}

/// Puts this domain's memory map into `entries`, and returns how many there are.
#[inline]
pub fn memory_map(entries: &mut [E820Entry]) -> Result<usize> {
    map(XENMEM_MEMORY_MAP, entries)
}

/// Puts the machine's memory map into `entries`, and returns how many there are.
#[inline]
pub fn machine_memory_map(entries: &mut [E820Entry]) -> Result<usize> {
    map(XENMEM_MACHINE_MEMORY_MAP, entries)
}

/// Sets a domain's memory map.
#[inline]
pub fn set_memory_map(domid: Domid, entries: &[E820Entry]) -> Result<()> {
    let map = MemoryMap {
        nr_entries: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        buffer: GuestHandle::from_ptr(entries.as_ptr()).cast(),
        ..Default::default()
    };
    let mut argument = ForeignMemoryMap {
        domid,
        map,
        ..Default::default()
    };
    // SAFETY: the operation reads `entries`.
    unsafe { memory_op(XENMEM_SET_MEMORY_MAP, &mut argument)? };
    Ok(())
}

/// Sets `pages` aside for a domain that is going to populate them; 0 gives them back.
#[inline]
pub fn claim_pages(domid: Domid, pages: u64) -> Result<()> {
    let mut argument = MemoryReservation {
        domid,
        nr_extents: pages,
        ..Default::default()
    };
    // SAFETY: the operation reads its argument.
    unsafe { memory_op(XENMEM_CLAIM_PAGES, &mut argument)? };
    Ok(())
}

/// Puts the machine frames of a domain's resource into `frames`, from `first` on.
#[inline]
pub fn acquire_resource(
    domid: Domid,
    type_: u16,
    id: u32,
    first: u64,
    frames: &mut [Mfn],
) -> Result<()> {
    let mut argument = MemAcquireResource {
        domid,
        type_,
        id,
        nr_frames: u32::try_from(frames.len()).unwrap_or(u32::MAX),
        frame: first,
        frame_list: GuestHandle::from_mut_ptr(frames.as_mut_ptr()),
        ..Default::default()
    };
    // SAFETY: the operation writes no more than `nr_frames` elements of `frames`.
    unsafe { memory_op(XENMEM_ACQUIRE_RESOURCE, &mut argument)? };
    Ok(())
}
