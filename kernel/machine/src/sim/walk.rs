//! The page walk of the simulated processor: 4 levels, 4 KiB and 2 MiB pages, ring 3.

use std::collections::BTreeMap;
use std::sync::Arc;

use hypercall_abi::types::Mfn;

use super::Machine;
use crate::{Platform, TABLE_ENTRIES};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What an entry that ring 3 may use names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// The table or page; of a large page the first frame.
    pub mfn: Mfn,
    /// Whether it is a page.
    pub page: bool,
    /// Whether the entry allows writes.
    pub writable: bool,
}

/// Entry `index` of a table of this level, if it is one that ring 3 may use.
pub(super) fn entry(machine: &Machine, table: Mfn, level: u32, index: usize) -> Option<Found> {
    let entry = machine.peek(table, index)?;
    (entry & PRESENT != 0 && entry & USER != 0).then_some(Found {
        mfn: Mfn((entry & ADDRESS) >> 12),
        page: level == 1 || level == 2 && entry & LARGE != 0,
        writable: entry & WRITABLE != 0,
    })
}

/// What the entries of tables name, by frame and level, as long as the frame is written to no oftener than so.
pub(super) type Scans = BTreeMap<(Mfn, u32), (u32, Arc<[Found]>)>;

/// As [`entry`], of all entries of a table.
pub(super) fn entries(machine: &Machine, table: Mfn, level: u32) -> Arc<[Found]> {
    let writes = machine.writes(table);
    let mut scans = machine.scans();
    if let Some((at, found)) = scans.get(&(table, level))
        && *at == writes
    {
        return found.clone();
    }
    let found: Arc<[Found]> = (0..TABLE_ENTRIES)
        .filter_map(|index| entry(machine, table, level, index))
        .collect();
    scans.insert((table, level), (writes, found.clone()));
    found
}

/// As [`entry`], for the one that translates `va`.
pub(super) fn look_up(machine: &Machine, table: Mfn, level: u32, va: u64) -> Option<Found> {
    let index = (va >> (12 + 9 * (level - 1))) as usize % TABLE_ENTRIES;
    let mut found = entry(machine, table, level, index)?;
    if found.page {
        if level == 2 {
            found.mfn.0 += (va >> 12) & 0x1ff;
        }
        if machine.is_private(found.mfn) {
            return None;
        }
    }
    Some(found)
}

/// The L1 table that translates `va` under `root`.
pub(super) fn l1_table(machine: &Machine, root: Mfn, va: u64) -> Option<Mfn> {
    let mut table = root;
    for level in [4, 3, 2] {
        table = look_up(machine, table, level, va)?.mfn;
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;
    use crate::sim::Remembered;

    /// A machine whose CPU maps frame 400 at `VA`, writable or not.
    const VA: u64 = 0xffff_8800_0040_3000;

    fn machine(l1_flags: u64) -> Machine {
        let machine = Machine::new(512);
        for (table, level) in [(300_u64, 4), (301, 3), (302, 2)] {
            let index = (VA >> (12 + 9 * (level - 1))) as usize & 0x1ff;
            machine.store_u64(
                Mfn(table),
                index,
                (table + 1) << 12 | PRESENT | WRITABLE | USER,
            );
        }
        machine.store_u64(Mfn(303), 3, 400 << 12 | l1_flags);
        for (slot, &entry) in machine.hypervisor_slots().iter().enumerate() {
            machine.store_u64(Mfn(300), 256 + slot, entry);
        }
        machine.load_root(Mfn(300));
        machine
    }

    #[test]
    fn copies_follow_the_tables_and_fault_like_ring_3() {
        let machine = machine(PRESENT | USER);
        machine.write_frame(Mfn(400), 5, b"xen");
        let mut out = [0; 3];
        assert_eq!(machine.copy_from_guest(VA + 5, &mut out), Ok(()));
        assert_eq!(&out, b"xen");
        assert_eq!(machine.copy_to_guest(VA, b"x"), Err(Fault));
        assert_eq!(machine.copy_from_guest(VA + 4094, &mut out), Err(Fault));
        assert_eq!(
            machine.copy_from_guest(crate::HYPERVISOR_VIRT_START, &mut out),
            Err(Fault)
        );
    }

    #[test]
    fn supervisor_pages_are_out_of_reach() {
        let machine = machine(PRESENT | WRITABLE);
        assert_eq!(machine.copy_to_guest(VA, b"x"), Err(Fault));
    }

    /// Reads the byte at `VA`.
    fn read(machine: &Machine) -> u8 {
        let mut out = [0];
        machine.copy_from_guest(VA, &mut out).expect("mapped");
        out[0]
    }

    #[test]
    fn an_old_translation_is_used_until_a_flush_that_covers_it() {
        let machine = machine(PRESENT | USER);
        machine.write_frame(Mfn(401), 0, b"n");
        machine.write_frame(Mfn(400), 0, b"o");
        let flushes: [&dyn Fn(); 4] = [
            &|| machine.flush_tlb(),
            &|| machine.flush_tlb_page(VA + 7),
            &|| machine.flush_tlb_on(1),
            &|| machine.load_root(Mfn(300)),
        ];
        for flush in flushes {
            machine.store_u64(Mfn(303), 3, 400 << 12 | PRESENT | USER);
            flush();
            assert_eq!(read(&machine), b'o');
            machine.store_u64(Mfn(303), 3, 401 << 12 | PRESENT | USER);
            machine.flush_tlb_page(VA + 4096);
            assert_eq!(read(&machine), b'o');
            flush();
            assert_eq!(read(&machine), b'n');
        }
    }

    #[test]
    fn a_table_that_was_passed_is_walked_until_a_flush() {
        let machine = machine(PRESENT | USER);
        machine.write_frame(Mfn(400), 0, b"o");
        assert_eq!(read(&machine), b'o');
        let index = (VA >> 21) as usize % 512;
        machine.store_u64(Mfn(302), index, 0);
        machine.store_u64(Mfn(303), 4, 400 << 12 | PRESENT | USER);
        let mut out = [0];
        assert_eq!(machine.copy_from_guest(VA + 4096, &mut out), Ok(()));
        machine.flush_tlb();
        assert_eq!(machine.copy_from_guest(VA + 4096, &mut out), Err(Fault));
    }

    #[test]
    fn rights_that_were_widened_need_no_flush() {
        let machine = machine(PRESENT | USER);
        assert_eq!(read(&machine), 0);
        machine.store_u64(Mfn(303), 3, 400 << 12 | PRESENT | USER | WRITABLE);
        assert_eq!(machine.copy_to_guest(VA, b"x"), Ok(()));
    }

    #[test]
    fn a_processor_may_walk_everywhere_ahead() {
        let machine = machine(PRESENT | USER | WRITABLE);
        machine.remember_all();
        let table = |level| Remembered::Table {
            level,
            writable: true,
        };
        let expected = [
            (Mfn(300), table(4)),
            (Mfn(301), table(3)),
            (Mfn(302), table(2)),
            (Mfn(303), table(1)),
            (Mfn(400), Remembered::WritablePage),
        ];
        assert_eq!(machine.remembered(0), expected);
        machine.store_u64(Mfn(302), (VA >> 21) as usize % 512, 0);
        machine.store_u64(Mfn(303), 9, 401 << 12 | PRESENT | USER);
        machine.remember_all();
        assert!(
            machine
                .remembered(0)
                .contains(&(Mfn(401), Remembered::Page))
        );
        machine.load_idle_root();
        assert_eq!(machine.remembered(0), []);
    }
}
