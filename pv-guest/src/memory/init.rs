//! From the builder's address space to the guest's own: the linear map, protection of the image,
//! the free frames.
//!
//! The builder maps the image, what it made for the guest (frame list, start info, rings, page
//! tables, stack) and at least 512 KiB more at consecutive addresses. The linear map's tables are
//! made of the frames behind the last of these, filled one by one through a page of the image kept
//! for that, and hooked in as a whole. Then all of the builder's range but the image itself is
//! unmapped.

use core::ops::Range;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use hypercall_abi::types::{Domid, Mfn, Pfn};
use hypercall_abi::xen::{SIF_INITDOMAIN, SIF_MOD_START_PFN, StartInfo, StartInfoConsoleDomU};

use super::tables::{self, Updates, allow_no_execute, entry, entry_address, walk};
use super::{
    BASE, LAYOUT, LINEAR_BASE, Layout, MAP_BASE, demand, frames, machine_to_physical, mapping,
};
use crate::hypercall::memory;
use crate::p2m::{INVALID, P2m};
use crate::pte::{ENTRIES, Flags, PAGE_SIZE, Pte, index};
use crate::start::VIRT_BASE;
use crate::{boot, cpu};

const PAGE: u64 = PAGE_SIZE as u64;

/// Bytes that a table of level 1 maps.
const TABLE_SPAN: u64 = PAGE * ENTRIES as u64;

unsafe extern "C" {
    static __image_start: u8;
    static __rodata_start: u8;
    static __data_start: u8;
    static __shared_info: u8;
    static __scratch_page: u8;
    static __stack_guard: u8;
    static __stack_bottom: u8;
    static __image_end: u8;
}

fn address(symbol: *const u8) -> u64 {
    symbol.addr() as u64
}

/// The frame at an address of the builder's range.
fn boot_pfn(address: u64) -> u64 {
    (address - VIRT_BASE) / PAGE
}

/// Sets up memory; `stack` is the top of the builder's stack.
///
/// # Safety
///
/// Once, at start of day, on the image's own stack.
pub(crate) unsafe fn init(info: &StartInfo, stack: u64) {
    let list = core::ptr::with_exposed_provenance::<AtomicU64>(info.mfn_list as usize);
    // SAFETY: the builder's list of frames is mapped there, and has an entry for each of the
    // guest's frames.
    let list = unsafe { core::slice::from_raw_parts(list, info.nr_pages as usize) };
    let p2m = P2m::new(list);
    let root = p2m
        .mfn(Pfn(boot_pfn(info.pt_base)))
        .expect("the root table has a frame");

    const EXTENDED_FEATURES: u32 = 0x8000_0001;
    const NX: u32 = 1 << 20;
    allow_no_execute(cpu::cpuid(EXTENDED_FEATURES, 0).edx & NX != 0);

    let used_end = used_end(info, stack);
    // SAFETY: start of day; nothing of what is remapped or unmapped is in use, as each step argues.
    let tables = unsafe { build_linear_map(info, p2m, root, used_end) };
    BASE.store(LINEAR_BASE, Relaxed);

    let linear_list = LINEAR_BASE + boot_pfn(info.mfn_list) * PAGE;
    // SAFETY: the same list, at its address in the linear map.
    let list = unsafe { list_at(linear_list, info.nr_pages) };
    let p2m = P2m::new(list);

    // SAFETY: the image is protected as its sections are meant to be used; the rest of the range is
    // used by nothing, now that the list of frames is read in the linear map.
    unsafe {
        protect_image(root);
        unmap_boot_range(root);
    }
    for run in runs(tables.end..p2m.len(), |pfn| p2m.mfn(Pfn(pfn)).is_some()) {
        // SAFETY: nothing is there, neither of the image, nor of the builder, nor a table;
        // `used_end` saw to that.
        unsafe { frames::add(run) };
    }

    let limit = most_frames(info);
    let list = if limit > info.nr_pages {
        longer(list, limit)
    } else {
        list
    };
    LAYOUT.call_once(|| Layout {
        p2m: P2m::new(list),
        boot_frames: info.nr_pages,
        root,
        max_mfn: max_mfn(),
    });
    publish(list, root);
    mapping::init();
    demand::init();
    boot::init(info, LINEAR_BASE.wrapping_sub(VIRT_BASE));
}

/// A list of frames, which is never moved from there.
///
/// # Safety
///
/// It is mapped there, and used as nothing else.
unsafe fn list_at(address: u64, length: u64) -> &'static [AtomicU64] {
    let list = core::ptr::with_exposed_provenance::<AtomicU64>(address as usize);
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(list, length as usize) }
}

/// How many frames the domain may ever have. The initial domain keeps what it has.
fn most_frames(info: &StartInfo) -> u64 {
    /// What toolstacks allow a domain beyond its memory, which is not meant to be used
    /// (`LIBXL_MAXMEM_CONSTANT`).
    const SLACK: u64 = (1 << 20) / PAGE;
    if info.flags & SIF_INITDOMAIN != 0 {
        return info.nr_pages;
    }
    memory::maximum_reservation(Domid::SELF)
        .map_or(0, |pages| pages.saturating_sub(SLACK))
        .clamp(info.nr_pages, MAP_BASE / PAGE - LINEAR_BASE / PAGE)
}

/// A copy of the list of frames with room for more of them; the same list where there is no memory
/// for that.
fn longer(list: &'static [AtomicU64], length: u64) -> &'static [AtomicU64] {
    let frames = (length * 8).div_ceil(PAGE).next_power_of_two();
    let Some(base) = frames::take(frames.trailing_zeros()) else {
        return list;
    };
    // SAFETY: the frames were free, and are the list's from here on.
    let longer = unsafe { list_at(base.as_ptr().expose_provenance() as u64, length) };
    let old = list.iter().map(|entry| entry.load(Relaxed));
    for (entry, frame) in longer.iter().zip(old.chain(core::iter::repeat(INVALID))) {
        entry.store(frame, Relaxed);
    }
    longer
}

/// The end of all that the builder put into its range, as a frame number.
fn used_end(info: &StartInfo, stack: u64) -> u64 {
    let ring = |mfn: Mfn| {
        // SAFETY: a ring that the builder gave this guest is one of its frames.
        let pfn = unsafe { machine_to_physical(mfn) };
        VIRT_BASE + (pfn.0 + 1) * PAGE
    };
    let mut end = [
        address(&raw const __image_end),
        info.mfn_list + info.nr_pages * 8,
        info.pt_base + info.nr_pt_frames * PAGE,
        stack,
    ]
    .into_iter()
    .max()
    .expect("the list is not empty");
    if info.flags & SIF_INITDOMAIN == 0 {
        let console: StartInfoConsoleDomU = info.console.get();
        end = end.max(ring(info.store_mfn)).max(ring(console.mfn));
    }
    if info.mod_len != 0 {
        let start = if info.flags & SIF_MOD_START_PFN == 0 {
            info.mod_start
        } else {
            VIRT_BASE + info.mod_start * PAGE
        };
        end = end.max(start + info.mod_len);
    }
    boot_pfn(end).max(boot_pfn(end + PAGE - 1))
}

/// Makes the linear map; the frames that its tables took.
///
/// # Safety
///
/// Frames from `used_end` on must be in use by nothing.
unsafe fn build_linear_map(info: &StartInfo, p2m: P2m<'_>, root: Mfn, used_end: u64) -> Range<u64> {
    let pages = p2m.len();
    // How many tables there are of level 1, 2 and 3.
    let mut counts = [0; 3];
    let mut mapped = pages;
    for count in &mut counts {
        mapped = mapped.div_ceil(ENTRIES as u64);
        *count = mapped;
    }
    let tables = used_end..used_end + counts.iter().sum::<u64>();
    assert!(tables.end < pages, "{pages} pages are too few to map them");

    for pfn in tables.clone() {
        let address = VIRT_BASE + pfn * PAGE;
        let Some((_, entry)) = walk(root, address, 1) else {
            break;
        };
        if entry.is_present() {
            // SAFETY: the frame is used by nothing, so neither is its mapping.
            unsafe { tables::set(address, Pte::EMPTY) }.expect("a page can be unmapped");
        }
    }

    let builder_tables = boot_pfn(info.pt_base)..boot_pfn(info.pt_base) + info.nr_pt_frames;
    let constant =
        boot_pfn(address(&raw const __image_start))..boot_pfn(address(&raw const __data_start));
    let frame_entry = |pfn: u64| {
        let Some(mfn) = p2m.mfn(Pfn(pfn)) else {
            return Pte::EMPTY;
        };
        let read_only = [&tables, &builder_tables, &constant]
            .iter()
            .any(|r| r.contains(&pfn));
        entry(
            mfn,
            if read_only {
                Flags::READ
            } else {
                Flags::READ_WRITE
            },
        )
    };
    let table_mfn = |pfn: u64| {
        p2m.mfn(Pfn(pfn))
            .expect("each frame at start of day has one")
    };

    let mut next = tables.start;
    let mut lower = 0..pages;
    for (level, count) in counts.into_iter().enumerate() {
        let level_tables = next..next + count;
        for (nth, pfn) in level_tables.clone().enumerate() {
            let first = lower.start + (nth * ENTRIES) as u64;
            // SAFETY: the frame is used by nothing, and mapped nowhere else.
            unsafe {
                fill(table_mfn(pfn), |place| {
                    let child = first + place as u64;
                    match level {
                        _ if child >= lower.end => Pte::EMPTY,
                        0 => frame_entry(child),
                        _ => Pte::new(table_mfn(child), Flags::TABLE),
                    }
                });
            }
        }
        next = level_tables.end;
        lower = level_tables;
    }

    let mut updates = Updates::new(Domid::SELF);
    for (nth, pfn) in lower.enumerate() {
        let place = entry_address(root, index(LINEAR_BASE, 4) + nth);
        // SAFETY: the builder maps nothing at these addresses.
        unsafe { updates.push(place, Pte::new(table_mfn(pfn), Flags::TABLE)) }
            .expect("the linear map is accepted");
    }
    updates.send().expect("the linear map is accepted");
    tables
}

/// Fills a frame with page-table entries.
///
/// # Safety
///
/// The frame must be in use by nothing.
unsafe fn fill(mfn: Mfn, entry_at: impl Fn(usize) -> Pte) {
    let scratch = address(&raw const __scratch_page);
    // SAFETY: the page is kept for this; the frame is the caller's promise.
    unsafe { tables::set(scratch, entry(mfn, Flags::READ_WRITE)) }.expect("a frame can be mapped");
    let table = core::ptr::with_exposed_provenance_mut::<u64>(scratch as usize);
    for place in 0..ENTRIES {
        // SAFETY: the frame is mapped there, writable.
        unsafe { table.add(place).write_volatile(entry_at(place).0) };
    }
    // SAFETY: the page is kept for this.
    unsafe { tables::set(scratch, Pte::EMPTY) }.expect("a page can be unmapped");
}

/// Gives each section of the image the protection it is meant to have, and the stack a guard page.
///
/// # Safety
///
/// At start of day.
unsafe fn protect_image(root: Mfn) {
    let image = address(&raw const __image_start)..address(&raw const __image_end);
    let rodata = address(&raw const __rodata_start);
    let data = address(&raw const __data_start);
    let special = address(&raw const __shared_info)..address(&raw const __stack_bottom);
    let guard = address(&raw const __stack_guard);
    let mut updates = Updates::new(Domid::SELF);
    for page in image.step_by(PAGE_SIZE) {
        let (table, present) = walk(root, page, 1).expect("the image is mapped");
        let wanted = match present.frame() {
            _ if page == guard => Pte::EMPTY,
            Some(_) if special.contains(&page) => continue,
            Some(frame) if page < rodata => entry(frame, Flags::READ_EXECUTE),
            Some(frame) if page < data => entry(frame, Flags::READ),
            Some(frame) => entry(frame, Flags::READ_WRITE),
            None => continue,
        };
        // SAFETY: code is not written, constants neither, and data is not executed; the guard page
        // is used by nothing.
        unsafe { updates.push(entry_address(table, index(page, 1)), wanted) }
            .expect("the image can be protected");
    }
    updates.send().expect("the image can be protected");
}

/// Unmaps what the builder mapped behind the image.
///
/// # Safety
///
/// It must be in use by nothing.
unsafe fn unmap_boot_range(root: Mfn) {
    let mut updates = Updates::new(Domid::SELF);
    let mut page = address(&raw const __image_end);
    while page >= VIRT_BASE {
        let Some((table, present)) = walk(root, page, 2) else {
            break;
        };
        if !present.is_present() {
            break;
        }
        let (place, step) = if page.is_multiple_of(TABLE_SPAN) {
            (entry_address(table, index(page, 2)), TABLE_SPAN)
        } else {
            let (table, _) = walk(root, page, 1).expect("just seen to be there");
            (entry_address(table, index(page, 1)), PAGE)
        };
        // SAFETY: the caller's promise.
        unsafe { updates.push(place, Pte::EMPTY) }.expect("the boot range can be unmapped");
        // The range ends with the address space at the latest.
        page = page.wrapping_add(step);
    }
    updates.send().expect("the boot range can be unmapped");
}

/// Tells tools where the list of frames is, for saving this guest.
fn publish(list: &[AtomicU64], root: Mfn) {
    let shared = cpu::shared();
    let address = list.as_ptr().expose_provenance() as u64;
    shared.p2m_generation.store(0, Relaxed);
    shared.p2m_vaddr.store(address, Relaxed);
    shared.p2m_cr3.store(root.0 << 12, Relaxed);
    shared.pfn_to_mfn_frame_list_list.store(u64::MAX, Relaxed);
    shared.max_pfn.store(list.len() as u64, Relaxed);
}

/// The highest frame that the machine-to-physical table has.
fn max_mfn() -> u64 {
    memory::machphys_mapping()
        .expect("there is a machine-to-physical table")
        .max_mfn
}

/// The longest runs of numbers for which `wanted` holds.
fn runs(range: Range<u64>, wanted: impl Fn(u64) -> bool) -> impl Iterator<Item = Range<u64>> {
    let mut next = range.start;
    core::iter::from_fn(move || {
        let start = (next..range.end).find(|number| wanted(*number))?;
        let end = (start..range.end)
            .find(|number| !wanted(*number))
            .unwrap_or(range.end);
        next = end;
        Some(start..end)
    })
}
