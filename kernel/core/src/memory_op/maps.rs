//! What a domain may know of memory: the machine-to-phys table's place, and memory maps in E820's form.

use alloc::vec::Vec;

use hv_machine::Platform;
use hypercall_abi::errno::Errno;
use hypercall_abi::memory::*;
use hypercall_abi::types::GuestHandle;

use super::permitted_domain;
use crate::current::Current;
use crate::hypercall::HypercallResult;

/// `XENMEM_machphys_mfn_list`: where the machine-to-phys table is in machine memory.
///
/// # Errors
/// `EFAULT`.
pub(super) fn machphys_mfn_list(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    let mut list: MachphysMfnList = cx.read(argument)?;
    let extents = cx.machine().m2p_extents();
    let count = extents.len().min(list.max_extents as usize);
    for (index, mfn) in extents.iter().take(count).enumerate() {
        cx.write_element(list.extent_start.address(), index as u64, mfn)?;
    }
    list.nr_extents = count as u32;
    cx.write(argument, &list)?;
    Ok(0)
}

/// `XENMEM_machphys_mapping`: where guests see the machine-to-phys table. Only the control domain is told where the
/// machine's memory ends: others may be moved to a larger machine.
///
/// # Errors
/// `EFAULT`.
pub(super) fn machphys_mapping(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    use hypercall_abi::arch_x86::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
    let entries = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) / 8;
    let frames = match cx.domain.privileged {
        true => cx.machine().frame_limit(),
        false => entries,
    };
    let mapping = MachphysMapping {
        v_start: MACH2PHYS_VIRT_START,
        v_end: MACH2PHYS_VIRT_END,
        max_mfn: frames - 1,
    };
    cx.write(argument, &mapping)?;
    Ok(0)
}

/// An entry of an E820 map, as the BIOS packs it.
const E820_ENTRY: usize = 20;

/// Writes the first entries that the caller has room for, and their number.
fn write_e820(
    cx: &Current<'_>,
    argument: u64,
    mut map: MemoryMap,
    entries: impl ExactSizeIterator<Item = (u64, u64, u32)>,
) -> HypercallResult {
    let count = entries.len().min(map.nr_entries as usize);
    for (index, (base, size, kind)) in (0..).zip(entries.take(count)) {
        let mut packed = [0_u8; E820_ENTRY];
        packed[..8].copy_from_slice(&base.to_le_bytes());
        packed[8..16].copy_from_slice(&size.to_le_bytes());
        packed[16..].copy_from_slice(&kind.to_le_bytes());
        cx.write_element(map.buffer.address(), index, &packed)?;
    }
    map.nr_entries = count as u32;
    cx.write(argument, &map)?;
    Ok(0)
}

/// `XENMEM_memory_map`: the map that the toolstack gave the domain, as far as there is room for it.
///
/// # Errors
/// `EFAULT`, `ENOSYS` where it was given none.
pub(super) fn memory_map(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    let map: MemoryMap = cx.read(argument)?;
    let entries = cx.domain.memory_map.lock();
    if entries.is_empty() {
        return Err(Errno::ENOSYS.into());
    }
    write_e820(cx, argument, map, entries.iter().copied())
}

/// `XENMEM_machine_memory_map`: the machine's own map, or without a buffer the number of its entries; for the control
/// domain.
///
/// # Errors
/// `EPERM`, `EFAULT`, `EINVAL` where there is not room for one entry more than there are.
pub(super) fn machine_memory_map(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let mut map: MemoryMap = cx.read(argument)?;
    let regions = cx.machine().memory_map();
    if map.buffer == GuestHandle::NULL {
        map.nr_entries = regions.len() as u32;
        cx.write(argument, &map)?;
        return Ok(0);
    }
    if (map.nr_entries as usize) <= regions.len() {
        return Err(Errno::EINVAL.into());
    }
    let entries = regions
        .iter()
        .map(|region| (region.base, region.size, region.kind.e820_type()));
    write_e820(cx, argument, map, entries)
}

/// Most entries of a map that a toolstack gives a domain (`E820MAX`).
const MAX_MAP_ENTRIES: u32 = 1024;

/// `XENMEM_set_memory_map`: gives a domain its map; the control domain does for others.
///
/// # Errors
/// `EFAULT`, `EINVAL` for too many entries, `ESRCH`, `EPERM`, `ENOMEM`.
pub(super) fn set_memory_map(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    let foreign: ForeignMemoryMap = cx.read(argument)?;
    if foreign.map.nr_entries > MAX_MAP_ENTRIES {
        return Err(Errno::EINVAL.into());
    }
    let domain = permitted_domain(cx, foreign.domid)?;
    let bytes = cx.read_array::<u8>(
        foreign.map.buffer.address(),
        foreign.map.nr_entries as usize * E820_ENTRY,
    )?;
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0_u64, |word, &byte| word << 8 | u64::from(byte))
    };
    let mut entries = Vec::new();
    entries
        .try_reserve_exact(foreign.map.nr_entries as usize)
        .map_err(|_| Errno::ENOMEM)?;
    entries.extend(bytes.chunks_exact(E820_ENTRY).map(|entry| {
        let (base, rest) = entry.split_at(8);
        let (size, kind) = rest.split_at(8);
        (word(base), word(size), word(kind) as u32)
    }));
    *domain.memory_map.lock() = entries;
    Ok(0)
}
