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

/// `XENMEM_machphys_mapping`: where guests see the machine-to-phys table.
pub(super) fn machphys_mapping(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    use hypercall_abi::arch_x86::{MACH2PHYS_VIRT_END, MACH2PHYS_VIRT_START};
    let entries = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) / 8;
    let mapping = MachphysMapping {
        v_start: MACH2PHYS_VIRT_START,
        v_end: MACH2PHYS_VIRT_END,
        max_mfn: entries - 1,
    };
    cx.write(argument, &mapping)?;
    Ok(0)
}

/// An entry of an E820 map, as the BIOS packs it.
const E820_ENTRY: usize = 20;

fn write_e820(cx: &Current<'_>, argument: u64, entries: &[(u64, u64, u32)]) -> HypercallResult {
    let mut map: MemoryMap = cx.read(argument)?;
    if map.buffer == GuestHandle::NULL {
        map.nr_entries = entries.len() as u32;
        cx.write(argument, &map)?;
        return Ok(0);
    }
    let count = entries.len().min(map.nr_entries as usize);
    for (index, &(base, size, kind)) in entries.iter().take(count).enumerate() {
        let mut packed = [0; E820_ENTRY];
        packed[..8].copy_from_slice(&base.to_le_bytes());
        packed[8..16].copy_from_slice(&size.to_le_bytes());
        packed[16..].copy_from_slice(&kind.to_le_bytes());
        let at = map
            .buffer
            .address()
            .checked_add((index * E820_ENTRY) as u64)
            .ok_or(Errno::EFAULT)?;
        cx.write_bytes(at, &packed)?;
    }
    map.nr_entries = count as u32;
    cx.write(argument, &map)?;
    Ok(0)
}

/// `XENMEM_memory_map`: the map that the toolstack gave the domain.
pub(super) fn memory_map(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    let map = cx.domain.memory_map.lock().clone();
    if map.is_empty() {
        return Err(Errno::ENOSYS.into());
    }
    write_e820(cx, argument, &map)
}

/// `XENMEM_machine_memory_map`: the machine's own map; for the control domain.
pub(super) fn machine_memory_map(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let regions = cx.machine().memory_map();
    let map: Vec<_> = regions
        .iter()
        .map(|region| (region.base, region.size, region.kind.e820_type()))
        .collect();
    write_e820(cx, argument, &map)
}

/// Most entries of a map that a toolstack gives a domain (`E820MAX`).
const MAX_MAP_ENTRIES: u32 = 1024;

/// `XENMEM_set_memory_map`: gives a domain its map.
pub(super) fn set_memory_map(cx: &mut Current<'_>, argument: u64) -> HypercallResult {
    let foreign: ForeignMemoryMap = cx.read(argument)?;
    if foreign.map.nr_entries > MAX_MAP_ENTRIES {
        return Err(Errno::EINVAL.into());
    }
    let domain = permitted_domain(cx, foreign.domid)?;
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
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
    let entries = bytes.chunks_exact(E820_ENTRY);
    *domain.memory_map.lock() = entries
        .map(|entry| {
            (
                word(&entry[..8]),
                word(&entry[8..16]),
                word(&entry[16..]) as u32,
            )
        })
        .collect();
    Ok(0)
}
