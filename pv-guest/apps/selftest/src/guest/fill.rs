//! Page tables filled by ordinary stores, as kernels fill them that keep their tables mapped
//! read-only: what the stores come to, and, where the hypervisor counts that, how many were traps.

extern crate alloc;

use alloc::vec::Vec;

use pv_guest::counters::Counters;
use pv_guest::memory;
use pv_guest::pte::{Flags, Pte};

use super::mmu::{Page, update};
use super::tap::{OK, Tap};

/// The slot of the root under which the tables are.
const SLOT: u64 = 302;
/// Entries of a table.
const ENTRIES: u64 = 512;

/// All values of a counter together.
fn value(counters: &Counters, name: &str) -> u32 {
    let values = counters.values(name).iter().copied();
    values.fold(0, u32::wrapping_add)
}

fn store(table: &Page, index: u64, entry: Pte) {
    let place = core::ptr::with_exposed_provenance_mut::<u64>((table.va + index * 8) as usize);
    // SAFETY: the table is the test's own, and what it maps is as well.
    unsafe { place.write_volatile(entry.0) };
}

fn address(table: u64, index: u64) -> u64 {
    0xffff << 48 | SLOT << 39 | table << 21 | index << 12
}

pub fn run(tap: &mut Tap) {
    let before = Counters::read().ok();
    // Without counters there is nothing to be seen but that it works: a hypervisor that does all
    // stores one by one takes its time.
    let count = if before.is_some() { 512 } else { 8 };
    let targets = [(); 2].map(|()| Page::new());
    let [level3, level2] = [(); 2].map(|()| Page::new());
    let tables: Vec<Page> = (0..count).map(|_| Page::new()).collect();
    let all = || tables.iter().chain([&level3, &level2]);
    let protected = all().try_for_each(|page| page.protect(Flags::READ));
    tap.call("tables become read-only", protected, OK);
    let entry = |page: &Page| Pte::new(page.mfn, Flags::TABLE);
    let hooked = (0..count)
        .zip(&tables)
        .try_for_each(|(index, table)| update((level2.mfn.0 << 12) | (index * 8), entry(table)))
        .and_then(|()| update(level3.mfn.0 << 12, entry(&level2)))
        .and_then(|()| update((memory::root().0 << 12) | (SLOT * 8), entry(&level3)));
    tap.call("and are hooked", hooked, OK);

    let before = before.and_then(|_| Counters::read().ok());
    for table in &tables {
        for index in 0..ENTRIES {
            let target = &targets[index as usize % 2];
            store(table, index, Pte::new(target.mfn, Flags::READ_WRITE));
        }
    }
    let after = before.as_ref().and_then(|_| Counters::read().ok());

    let mut seen = 0;
    for table in 0..count {
        for index in [0, 1, 6, 510, 511] {
            let word =
                core::ptr::with_exposed_provenance_mut::<u64>(address(table, index) as usize + 64);
            let target = targets[index as usize % 2].va + 64;
            let target = core::ptr::with_exposed_provenance_mut::<u64>(target as usize);
            // SAFETY: both are mappings of the same page of the test's own.
            unsafe {
                target.write_volatile(address(table, index));
                seen += u64::from(word.read_volatile() == address(table, index));
            }
        }
    }
    tap.is("what was stored is mapped", seen, count * 5);
    match before.zip(after) {
        Some((before, after)) => {
            let counted = |name| u64::from(value(&after, name).wrapping_sub(value(&before, name)));
            let faults = counted("writable pt faults");
            pv_guest::println!(
                "# {count} tables: {faults} stores were traps, {} other faults; {} of {} entries by themselves",
                counted("page faults") - faults,
                counted("writable pt changed entries"),
                count * ENTRIES,
            );
            tap.holds(
                "with hardly more than a trap for each table",
                faults >= count && faults * 10 <= count * 12,
            );
        }
        None => tap.skip("with hardly more than a trap for each table", "no counters"),
    }

    for table in &tables {
        for index in 0..ENTRIES {
            store(table, index, Pte(0));
        }
    }
    let unhooked = update((memory::root().0 << 12) | (SLOT * 8), Pte(0));
    tap.call("the tables are empty and unhooked", unhooked, OK);
    let writable = all().try_for_each(|page| page.protect(Flags::READ_WRITE));
    tap.call("and ordinary pages again", writable, OK);
}
