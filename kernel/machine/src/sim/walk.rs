//! The page walk of the simulated processor: 4 levels, 4 KiB and 2 MiB pages, ring 3.

use hypercall_abi::types::Mfn;

use super::Machine;
use crate::{PAGE_SIZE, Platform};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The frame and offset that `va` names under `root`, if ring 3 may access it so.
pub(super) fn translate(
    machine: &Machine,
    root: Mfn,
    va: u64,
    write: bool,
) -> Option<(Mfn, usize)> {
    let mut table = root;
    for level in (1..=4_u32).rev() {
        let index = (va >> (12 + 9 * (level - 1))) as usize & 0x1ff;
        if machine.is_private(table) {
            return None;
        }
        let entry = machine.load_u64(table, index);
        if entry & PRESENT == 0 || entry & USER == 0 || (write && entry & WRITABLE == 0) {
            return None;
        }
        let frame = Mfn((entry & ADDRESS) >> 12);
        if level == 1 || (level == 2 && entry & LARGE != 0) {
            let inside = if level == 2 { (va >> 12) & 0x1ff } else { 0 };
            let mfn = Mfn(frame.0 + inside);
            return (!machine.is_private(mfn)).then_some((mfn, va as usize & (PAGE_SIZE - 1)));
        }
        table = frame;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;

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
}
