//! Descriptor tables of guests: what may be in a GDT or LDT, `HYPERVISOR_set_gdt` and `update_descriptor`, and the
//! window through which the processor reads the current vCPU's LDT.
//!
//! A guest's GDT is the lower 14 pages of the CPU's own, so that a frame is part of one only as a descriptor table
//! ([`FrameType::Descriptors`]): none of its entries gives more than ring 3, and the guest cannot write to it. The
//! LDT is mapped page by page as the processor asks for it, at the guest's linear address as its kernel's tables
//! translate it at that moment.

use alloc::vec::Vec;

use hv_machine::{Machine, Platform};
use hypercall_abi::arch_x86::{
    FIRST_RESERVED_GDT_ENTRY, FLAT_KERNEL_CS, FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_DS32,
};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use crate::hypercall::{Args, HypercallResult};
use crate::memory::{FrameType, TypedRef};
use crate::vcpu::VcpuState;
use crate::{Current, Hypervisor};

/// Descriptors in a page.
const PER_PAGE: usize = 512;
/// Most entries of an LDT.
const MAX_LDT_ENTRIES: u32 = 8192;
/// A selector of the LDT.
const SELECTOR_LDT: u16 = 1 << 2;

/// Bits of a descriptor.
pub mod bits {
    /// Type field of a system descriptor.
    pub const TYPE: u64 = 0xf << 40;
    /// Writable data, readable code.
    pub const READ_WRITE: u64 = 1 << 41;
    /// Code.
    pub const CODE: u64 = 1 << 43;
    /// A code or data segment, as opposed to a system descriptor.
    pub const SEGMENT: u64 = 1 << 44;
    /// Privilege level.
    pub const DPL: u64 = 3 << 45;
    /// Present.
    pub const PRESENT: u64 = 1 << 47;
    /// 64-bit code.
    pub const LONG: u64 = 1 << 53;
    /// 32-bit code, data or stack.
    pub const BIG: u64 = 1 << 54;
    /// The limit counts pages.
    pub const PAGES: u64 = 1 << 55;
    /// Type field of a call gate.
    pub const CALL_GATE: u64 = 0xc << 40;
}

/// The descriptor as the hypervisor stores it, if a guest may have it.
///
/// A descriptor that is not present may be anything. A segment is raised to privilege level 3. Of the system
/// descriptors a call gate alone is let through, with privilege level 0, so that using it faults: the processor
/// would not switch stacks as a guest's kernel expects.
pub fn check(descriptor: u64) -> Option<u64> {
    if descriptor & bits::PRESENT == 0 {
        return Some(descriptor);
    }
    if descriptor & bits::SEGMENT != 0 {
        return Some(descriptor | bits::DPL);
    }
    match descriptor & bits::TYPE {
        // Harmless: it is the second half of a call gate.
        0 => Some(descriptor),
        bits::CALL_GATE => {
            let selector = (descriptor >> 16) as u16;
            // Selectors in a gate are used without regard to their privilege level: none may be the hypervisor's.
            let guests = usize::from(selector >> 3) < FIRST_RESERVED_GDT_ENTRY
                || selector == FLAT_KERNEL_CS
                || selector & SELECTOR_LDT != 0;
            let reserved = descriptor >> 32 & 0xff;
            (guests && reserved == 0).then_some(descriptor & !bits::DPL | 3 << 16)
        }
        _ => None,
    }
}

/// `set_gdt(frames, entries)`.
///
/// # Errors
/// `EFAULT`; `EINVAL` for too many entries, or a frame that is not the domain's or cannot be a descriptor table.
pub fn do_set_gdt(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let entries = args[1] as u32;
    if entries as usize > FIRST_RESERVED_GDT_ENTRY {
        return Err(Errno::EINVAL.into());
    }
    let count = (entries as usize).div_ceil(PER_PAGE);
    let frames: Vec<Mfn> = cx.read_array(args[0], count)?;
    set_gdt(cx.hv, cx.domain.id, cx.state, &frames, entries)?;
    cx.machine().load_gdt(&cx.state.gdt);
    Ok(0)
}

/// Replaces a vCPU's GDT; a vCPU that runs has it loaded by the caller.
///
/// # Errors
/// `EINVAL` where a frame is not the domain's or cannot be a descriptor table; the old one then stays.
pub fn set_gdt(
    hv: &Hypervisor,
    domain: Domid,
    state: &mut VcpuState,
    frames: &[Mfn],
    entries: u32,
) -> Result<(), Errno> {
    let held = frames
        .iter()
        .map(|&mfn| hv.memory.get_typed(mfn, domain, FrameType::Descriptors))
        .collect::<Result<Vec<_>, _>>()?;
    let frames = held.into_iter().map(TypedRef::into_bits).collect();
    let old = core::mem::replace(&mut state.gdt, frames);
    state.gdt_entries = entries;
    for mfn in old {
        drop(hv.memory.adopt_typed(mfn, FrameType::Descriptors));
    }
    Ok(())
}

/// `update_descriptor(address, descriptor)`: writes an entry of a descriptor table, or of any frame that the domain
/// may write to.
///
/// # Errors
/// `EINVAL` for an address that is not aligned or not in a frame of the domain, a frame of another kind, or a
/// descriptor that a guest may not have.
pub fn do_update_descriptor(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let [address, descriptor, ..] = *args;
    if address % 8 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let descriptor = check(descriptor).ok_or(Errno::EINVAL)?;
    let mfn = Mfn(address >> 12);
    let memory = &cx.hv.memory;
    let frame = memory.get(mfn, cx.domain.id).ok_or(Errno::EINVAL)?;
    let kind = match memory.type_in_use(mfn) {
        FrameType::Descriptors => FrameType::Descriptors,
        _ => FrameType::Writable,
    };
    let _held = frame.with_type(kind)?;
    cx.machine()
        .store_u64(mfn, (address & 0xfff) as usize / 8, descriptor);
    Ok(0)
}

/// Sets the LDT of the current vCPU (`MMUEXT_SET_LDT`).
///
/// # Errors
/// `EINVAL` for an address that is not page-aligned or not the guest's, or too many entries.
pub fn set_ldt(cx: &mut Current<'_>, base: u64, entries: u32) -> Result<(), Errno> {
    let base = if entries == 0 { 0 } else { base };
    if base & 0xfff != 0 || !hv_machine::is_guest_range(base, 1) || entries > MAX_LDT_ENTRIES {
        return Err(Errno::EINVAL);
    }
    if cx.state.ldt_base != base || cx.state.ldt_entries != entries {
        forget_ldt(cx);
        cx.state.ldt_base = base;
        cx.state.ldt_entries = entries;
        cx.machine().load_ldt(entries);
    }
    Ok(())
}

/// Empties the window of the current vCPU's LDT, so that changed mappings of the LDT's pages take effect.
#[inline]
pub fn forget_ldt(cx: &mut Current<'_>) {
    if cx.state.ldt_entries != 0 {
        empty_ldt_window(cx);
    }
}

#[inline(never)]
fn empty_ldt_window(cx: &mut Current<'_>) {
    let frames = core::mem::take(&mut cx.state.ldt_frames);
    if frames.iter().any(Option::is_some) {
        cx.machine().load_ldt(cx.state.ldt_entries);
    }
    for mfn in frames.into_iter().flatten() {
        drop(cx.hv.memory.adopt_typed(mfn, FrameType::Descriptors));
    }
}

/// Loads GDT and LDT of a vCPU that begins to run.
pub fn load(machine: &Machine, state: &VcpuState) {
    machine.load_gdt(&state.gdt);
    machine.load_ldt(state.ldt_entries);
    for (index, mfn) in state.ldt_frames.iter().enumerate() {
        if let Some(mfn) = *mfn {
            machine.map_ldt_page(index, mfn);
        }
    }
}

/// Maps the page of the window that has byte `offset` of the LDT, if the guest has one there that can be a
/// descriptor table.
#[must_use]
pub fn map_ldt_page(cx: &mut Current<'_>, offset: u32) -> bool {
    if offset / 8 >= cx.state.ldt_entries {
        return false;
    }
    let index = (offset >> 12) as usize;
    let (Some(root), Some(&slot)) = (cx.state.kernel_root, cx.state.ldt_frames.get(index)) else {
        return false;
    };
    let mfn = match slot {
        Some(mfn) => mfn,
        None => {
            let va = cx.state.ldt_base.wrapping_add(u64::from(offset));
            let memory = &cx.hv.memory;
            let Some(entry) = memory.translate(root, va) else {
                return false;
            };
            let Ok(frame) = memory.get_typed(entry.mfn(), cx.domain.id, FrameType::Descriptors)
            else {
                return false;
            };
            frame.into_bits()
        }
    };
    if let Some(slot) = cx.state.ldt_frames.get_mut(index) {
        *slot = Some(mfn);
    }
    cx.machine().map_ldt_page(index, mfn);
    true
}

/// The descriptor that `selector` names; 0 for a null selector, one beyond the tables, and one of the hypervisor's
/// own that no guest uses. `None` where the LDT cannot be read.
pub fn read(cx: &mut Current<'_>, selector: u16) -> Option<u64> {
    match selector | 3 {
        3 => return Some(0),
        FLAT_RING3_CS64 => return Some(0x00af_fa00_0000_ffff),
        FLAT_RING3_CS32 => return Some(0x00cf_fa00_0000_ffff),
        FLAT_RING3_DS32 => return Some(0x00cf_f200_0000_ffff),
        _ => {}
    }
    let index = usize::from(selector >> 3);
    let frame = if selector & SELECTOR_LDT != 0 {
        if index as u64 >= u64::from(cx.state.ldt_entries) {
            return Some(0);
        }
        if !map_ldt_page(cx, u32::from(selector & !7)) {
            return None;
        }
        cx.state.ldt_frames.get(index / PER_PAGE).copied().flatten()
    } else {
        cx.state.gdt.get(index / PER_PAGE).copied()
    };
    Some(frame.map_or(0, |mfn| cx.machine().load_u64(mfn, index % PER_PAGE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    use hypercall_abi::xen::{
        HYPERVISOR_SET_GDT, HYPERVISOR_UPDATE_DESCRIPTOR, HYPERVISOR_UPDATE_VA_MAPPING,
    };

    use crate::testing::{DOM0, DOMU, Host, SCRATCH, UNMAPPED};

    /// Flat 64-bit code of level 0.
    const CODE_0: u64 = 0x00af_9a00_0000_ffff;
    /// A task-state segment.
    const TSS: u64 = 0x0000_8900_0000_0067;

    #[test]
    fn segments_are_raised_to_level_3_and_nothing_else_changes() {
        assert_eq!(check(CODE_0), Some(0x00af_fa00_0000_ffff));
        assert_eq!(check(0x00cf_b200_1234_ffff), Some(0x00cf_f200_1234_ffff));
        assert_eq!(check(0x00cf_f200_0000_ffff), Some(0x00cf_f200_0000_ffff));
    }

    #[test]
    fn what_is_not_present_may_be_anything() {
        assert_eq!(check(0), Some(0));
        assert_eq!(check(0x1234_0900_5678_9abc), Some(0x1234_0900_5678_9abc));
    }

    #[test]
    fn system_descriptors_are_refused_except_call_gates() {
        for kind in 1..16_u64 {
            let descriptor = bits::PRESENT | kind << 40 | 0x33 << 16;
            let expected = (kind == 0xc).then_some(descriptor | 3 << 16);
            assert_eq!(check(descriptor), expected, "type {kind}");
        }
        assert_eq!(check(bits::PRESENT | 0x55), Some(bits::PRESENT | 0x55));
    }

    #[test]
    fn a_call_gate_faults_when_used_and_leads_to_no_segment_of_the_hypervisors() {
        let gate = |selector: u64| bits::PRESENT | bits::CALL_GATE | bits::DPL | selector << 16;
        let unprivileged = |selector: u64| bits::PRESENT | bits::CALL_GATE | selector << 16;
        assert_eq!(check(gate(0x10)), Some(unprivileged(0x13)));
        assert_eq!(check(gate(0xe033)), Some(unprivileged(0xe033)));
        assert_eq!(
            check(gate(0xffff)),
            Some(unprivileged(0xffff)),
            "in the LDT"
        );
        assert_eq!(check(gate(0xdff8)), Some(unprivileged(0xdffb)));
        assert_eq!(check(gate(0xe000)), None);
        assert_eq!(check(gate(0xe008)), None);
        assert_eq!(check(gate(0xe030)), None);
        // Parameters and reserved bits.
        assert_eq!(check(gate(0x10) | 1 << 32), None);
        assert_eq!(check(gate(0x10) | 1 << 37), None);
    }

    /// Takes a scratch page's writable mapping away, so that the page can become a descriptor table.
    fn set_gdt_by_call(host: &Host, frames: &[Mfn], entries: u64) -> i64 {
        let list = host.put_slice(DOMU, frames);
        host.hypercall(DOMU, HYPERVISOR_SET_GDT, &[list, entries])
    }

    #[test]
    fn a_gdt_is_checked_held_and_loaded() {
        let host = Host::new();
        host.put_at(DOMU, SCRATCH + 63 * 4096 + 8, &CODE_0);
        let mfn = host.make_read_only(DOMU, 63);
        assert_eq!(set_gdt_by_call(&host, &[mfn], 512), 0);
        assert_eq!(host.hv.machine.cpu(0).gdt, [mfn]);
        assert_eq!(host.hv.memory.type_in_use(mfn), FrameType::Descriptors);
        let stored = host.hv.machine.load_u64(mfn, 1);
        assert_eq!(stored, CODE_0 | bits::DPL);
        host.as_guest(DOMU, |cx| {
            assert_eq!(cx.state.gdt_entries, 512);
            assert_eq!(read(cx, 0x0b), Some(CODE_0 | bits::DPL));
            assert_eq!(read(cx, 0x1003), Some(0), "beyond the table");
            assert_eq!(read(cx, 0), Some(0));
        });
        assert_eq!(set_gdt_by_call(&host, &[mfn; 14], 7168), 0, "the largest");
        assert_eq!(set_gdt_by_call(&host, &[], 0), 0);
        assert_eq!(host.hv.memory.type_in_use(mfn), FrameType::None);
        assert!(host.hv.machine.cpu(0).gdt.is_empty());
    }

    #[test]
    fn a_gdt_that_is_refused_leaves_the_old_one() {
        let host = Host::new();
        let good = host.make_read_only(DOMU, 62);
        assert_eq!(set_gdt_by_call(&host, &[good], 8), 0);
        host.put_at(DOMU, SCRATCH + 61 * 4096, &TSS);
        let with_tss = host.make_read_only(DOMU, 61);
        let writable = host.layout(DOMU).scratch[0];
        let table = host.layout(DOMU).tables[3];
        let foreign = host.layout(DOM0).scratch[0];
        let nowhere = Mfn(u64::MAX);
        for bad in [with_tss, writable, table, foreign, nowhere, Mfn(0)] {
            assert_eq!(
                set_gdt_by_call(&host, &[good, bad], 1024),
                Errno::EINVAL.to_return(),
                "{bad}"
            );
        }
        let list = host.put_slice(DOMU, &[good; 15]);
        let call = |va, entries| host.hypercall(DOMU, HYPERVISOR_SET_GDT, &[va, entries]);
        assert_eq!(call(list, 7169), Errno::EINVAL.to_return());
        assert_eq!(call(list, u32::MAX.into()), Errno::EINVAL.to_return());
        assert_eq!(call(UNMAPPED, 1), Errno::EFAULT.to_return());
        host.as_guest(DOMU, |cx| assert_eq!(cx.state.gdt, [good]));
        let state = host.hv.memory.state(good).expect("a frame");
        assert_eq!(state.types, 1, "what was refused holds nothing");
    }

    #[test]
    fn a_descriptor_is_written_after_its_check() {
        let host = Host::new();
        let mfn = host.make_read_only(DOMU, 63);
        assert_eq!(set_gdt_by_call(&host, &[mfn], 512), 0);
        let call = |address, descriptor| {
            host.hypercall(DOMU, HYPERVISOR_UPDATE_DESCRIPTOR, &[address, descriptor])
        };
        let entry = mfn.0 << 12 | 0x10;
        assert_eq!(call(entry, CODE_0), 0);
        assert_eq!(host.hv.machine.load_u64(mfn, 2), CODE_0 | bits::DPL);
        // A page that is no table yet takes descriptors as well.
        let plain = host.layout(DOMU).scratch[5];
        assert_eq!(call(plain.0 << 12, CODE_0), 0);
        assert_eq!(host.hv.machine.load_u64(plain, 0), CODE_0 | bits::DPL);

        let foreign = host.layout(DOM0).scratch[0].0 << 12;
        let table = host.layout(DOMU).tables[3].0 << 12;
        for (address, descriptor) in [
            (entry | 4, CODE_0),
            (entry, TSS),
            (foreign, CODE_0),
            (table, CODE_0),
            (!7, CODE_0),
            (0, CODE_0),
        ] {
            assert_eq!(
                call(address, descriptor),
                Errno::EINVAL.to_return(),
                "{address:#x} {descriptor:#x}"
            );
        }
        assert_eq!(host.hv.machine.load_u64(mfn, 2), CODE_0 | bits::DPL);
    }

    #[test]
    fn pages_of_the_ldt_are_mapped_when_they_are_used_and_forgotten_with_it() {
        let host = Host::new();
        host.put_at(DOMU, SCRATCH + 63 * 4096 + 8, &CODE_0);
        let mfn = host.make_read_only(DOMU, 63);
        host.as_guest(DOMU, |cx| {
            assert_eq!(set_ldt(cx, SCRATCH + 63 * 4096, 512), Ok(()));
            assert_eq!(cx.machine().cpu(0).ldt_entries, 512);
            assert_eq!(read(cx, 0x0f), Some(CODE_0 | bits::DPL));
            assert_eq!(cx.machine().cpu(0).ldt[0], Some(mfn));
            assert_eq!(read(cx, 0x1007), Some(0), "beyond the table");
            assert!(map_ldt_page(cx, 0x10), "a fault on a page that is there");
            assert_eq!(set_ldt(cx, SCRATCH + 63 * 4096, 512), Ok(()));
            assert_eq!(cx.machine().cpu(0).ldt[0], Some(mfn), "the same table");
        });
        host.as_guest(DOM0, |cx| assert_eq!(cx.machine().cpu(0).ldt[0], None));
        host.as_guest(DOMU, |cx| {
            assert_eq!(cx.machine().cpu(0).ldt[0], Some(mfn), "it comes back");
        });
        assert_eq!(host.hv.memory.type_in_use(mfn), FrameType::Descriptors);
        host.as_guest(DOMU, |cx| {
            assert_eq!(set_ldt(cx, SCRATCH + 63 * 4096, 8), Ok(()));
            assert!(map_ldt_page(cx, 7 * 8));
            assert!(!map_ldt_page(cx, 8 * 8), "a fault behind the table");
            assert_eq!(set_ldt(cx, SCRATCH + 62 * 4096, 8), Ok(()));
            assert_eq!(cx.machine().cpu(0).ldt[0], None, "another table");
            assert_eq!(set_ldt(cx, SCRATCH + 63 * 4096, 8), Ok(()));
            assert!(map_ldt_page(cx, 0));
            assert_eq!(set_ldt(cx, UNMAPPED, 8), Ok(()));
            assert_eq!(read(cx, 0x0f), None, "no page is there");
        });
        let absent = [
            SCRATCH + 61 * 4096,
            host.layout(DOMU).scratch[62].0 << 12,
            0,
        ];
        let unmapped = host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &absent);
        assert_eq!(unmapped, 0);
        host.make_read_only(DOMU, 62);
        host.as_guest(DOMU, |cx| {
            assert_eq!(set_ldt(cx, absent[0], 8), Ok(()));
            assert_eq!(read(cx, 0x0f), None, "nor one that an absent entry names");
        });
        host.as_guest(DOMU, |cx| {
            assert_eq!(set_ldt(cx, 0x1234_5678, 0), Ok(()));
            assert_eq!(cx.machine().cpu(0).ldt[0], None);
        });
        assert_eq!(host.hv.memory.type_in_use(mfn), FrameType::None);
    }

    #[test]
    fn an_ldt_must_be_a_whole_number_of_the_guests_pages() {
        let host = Host::new();
        host.as_guest(DOMU, |cx| {
            assert_eq!(set_ldt(cx, SCRATCH + 8, 1), Err(Errno::EINVAL));
            assert_eq!(set_ldt(cx, SCRATCH, 8193), Err(Errno::EINVAL));
            let hypervisors = hv_machine::HYPERVISOR_VIRT_START;
            assert_eq!(set_ldt(cx, hypervisors, 1), Err(Errno::EINVAL));
            assert_eq!(cx.state.ldt_entries, 0);
        });
    }
}
