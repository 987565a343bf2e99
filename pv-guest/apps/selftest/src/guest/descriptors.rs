//! Descriptor tables: which frames may be one, and what can be loaded from them.

use hypercall_abi::errno::Errno;
use hypercall_abi::xen::MMUEXT_SET_LDT;
use pv_guest::hypercall::trap;
use pv_guest::pte::Flags;

use super::mmu::{Page, extended};
use super::probe::probe;
use super::tap::{OK, Tap};

/// A flat data segment of user level.
const DATA: u64 = 0x00cf_f300_0000_ffff;

/// The same, of the hypervisor's level.
const SYSTEM_DATA: u64 = 0x00cf_9300_0000_ffff;

/// A call gate of user level, to the hypervisor's code segment.
const CALL_GATE: u64 = 0x0000_ec00_e008_0000;

/// What loading a selector into es traps with.
fn load(selector: u16) -> Option<(u64, u64)> {
    // SAFETY: nothing uses es.
    let trap = unsafe { probe!("mov es, {s:e}"; s = in(reg) u32::from(selector)) };
    trap.map(|trap| (trap.vector, trap.error_code))
}

/// A page that holds these descriptors, read-only.
fn table(descriptors: [u64; 4]) -> Page {
    let mut page = Page::new();
    for (place, descriptor) in page
        .frames
        .as_mut_slice()
        .chunks_exact_mut(8)
        .zip(descriptors)
    {
        place.copy_from_slice(&descriptor.to_ne_bytes());
    }
    page.protect(Flags::READ)
        .expect("a page can be made read-only");
    page
}

pub fn run(tap: &mut Tap) {
    local(tap);
    global(tap);
    // SAFETY: nothing uses es.
    unsafe { probe!("mov es, {s:e}"; s = in(reg) 0_u32) };
}

fn local(tap: &mut Tap) {
    let busy = Err(Errno::EBUSY);
    let ldt = table([0, DATA, SYSTEM_DATA, 0]);
    tap.call("an LDT", extended(MMUEXT_SET_LDT, ldt.va, 512), OK);
    tap.is("its data segment can be loaded", load(1 << 3 | 7), None);
    tap.is("not its null segment", load(7), Some((13, 4)));
    tap.is(
        "so can one of the hypervisor's level, which became ours",
        load(2 << 3 | 7),
        None,
    );
    tap.is(
        "nor one that is not present",
        load(3 << 3 | 7),
        Some((13, 3 << 3 | 4)),
    );
    tap.is(
        "nor one beyond it",
        load(512 << 3 | 7),
        Some((13, 512 << 3 | 4)),
    );
    tap.call(
        "it cannot be mapped writable",
        ldt.protect(Flags::READ_WRITE),
        busy,
    );
    let entry = ldt.mfn.0 << 12 | 3 << 3;
    // SAFETY: the descriptor is of a table that only the test uses.
    unsafe {
        tap.call(
            "a descriptor can be set",
            trap::update_descriptor(entry, DATA),
            OK,
        );
        tap.call(
            "not a gate into the hypervisor",
            trap::update_descriptor(entry, CALL_GATE),
            Err(Errno::EINVAL),
        );
    }
    tap.is("and loaded", load(3 << 3 | 7), None);
    // SAFETY: nothing uses es.
    unsafe { probe!("mov es, {s:e}"; s = in(reg) 0_u32) };
    tap.call("no LDT", extended(MMUEXT_SET_LDT, 0, 0), OK);
    tap.is(
        "then nothing can be loaded",
        load(1 << 3 | 7),
        Some((13, 1 << 3 | 4)),
    );
    tap.call("and it is a page again", ldt.protect(Flags::READ_WRITE), OK);
}

fn global(tap: &mut Tap) {
    let gdt = table([0, DATA, SYSTEM_DATA, 0]);
    // SAFETY: the segments in use are the hypervisor's, which are in every GDT.
    unsafe { tap.call("a GDT", trap::set_gdt(&[gdt.mfn], 512), OK) };
    tap.is("its data segment can be loaded", load(1 << 3 | 3), None);
    tap.is(
        "one that is not present cannot",
        load(3 << 3 | 3),
        Some((13, 3 << 3)),
    );
    tap.is(
        "nor one beyond it",
        load(600 << 3 | 3),
        Some((13, 600 << 3)),
    );
    tap.call(
        "it cannot be mapped writable",
        gdt.protect(Flags::READ_WRITE),
        Err(Errno::EBUSY),
    );
    // SAFETY: nothing uses es.
    unsafe { probe!("mov es, {s:e}"; s = in(reg) 0_u32) };
    // SAFETY: as above.
    unsafe { tap.call("no GDT", trap::set_gdt(&[], 0), OK) };
    tap.is(
        "then nothing can be loaded",
        load(1 << 3 | 3),
        Some((13, 1 << 3)),
    );
    tap.call("and it is a page again", gdt.protect(Flags::READ_WRITE), OK);

    let bad = table([0, CALL_GATE, 0, 0]);
    // SAFETY: it is refused.
    let refused = unsafe { trap::set_gdt(&[bad.mfn], 512) };
    tap.call(
        "a GDT with a gate into the hypervisor",
        refused,
        Err(Errno::EINVAL),
    );
    bad.protect(Flags::READ_WRITE)
        .expect("a page can be made writable");
}
