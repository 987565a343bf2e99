//! Filling page tables of level 1, by each of the ways there are: plain stores, lists of updates, and
//! an update for each address.

use hypercall_abi::types::Domid;
use hypercall_abi::xen::{
    MMU_NORMAL_PT_UPDATE, MmuUpdate, UVMF_NONE, VMASST_TYPE_WRITABLE_PAGETABLES,
};
use pv_guest::hypercall::{mmu, system};
use pv_guest::memory::{self, Frames, translate};
use pv_guest::println;
use pv_guest::pte::{ENTRIES, Flags, PAGE_SIZE, Pte, index};

use super::meter::{option, report, ticks};
use super::page::{BATCH, address, mfn};
use super::roots::tables;

/// Where the range to be filled begins; it has an L4 slot to itself.
const BASE: u64 = 0xffff_e000_0000_0000;

/// A range whose tables are there and empty.
struct Range {
    /// The tables of level 1.
    tables: Frames,
    count: usize,
}

fn update(machine_address: u64, entry: u64) {
    let update = MmuUpdate {
        ptr: machine_address | MMU_NORMAL_PT_UPDATE,
        val: entry,
    };
    // SAFETY: the range is in use by nothing.
    unsafe { mmu::mmu_update(&[update], None, Domid::SELF) }.expect("an update");
}

fn root_slot() -> u64 {
    memory::root().0 << 12 | (index(BASE, 4) as u64 * 8)
}

impl Range {
    fn new(count: usize) -> Self {
        let block = |order| Frames::zeroed(order).expect("there is memory");
        let mut l1 = block(count.next_power_of_two().trailing_zeros());
        tables(&mut l1, |_, _| 0);
        let (mut l2, mut l3) = (block(0), block(0));
        let table = |frames: &Frames, index| Pte::new(mfn(frames, index), Flags::TABLE).0;
        tables(
            &mut l2,
            |_, place| if place < count { table(&l1, place) } else { 0 },
        );
        tables(
            &mut l3,
            |_, place| if place == 0 { table(&l2, 0) } else { 0 },
        );
        update(root_slot(), table(&l3, 0));
        // They stay read-only, so they are not given back.
        core::mem::forget((l2, l3));
        Self { tables: l1, count }
    }

    /// Fills it and takes it away.
    fn measure(self, name: &str, entry: Pte, fill: impl FnOnce(&Self)) {
        let entries = (self.count * ENTRIES) as u64;
        let ticks = ticks(|| fill(&self));
        for page in [0, entries - 1] {
            let found = translate(BASE + page * PAGE_SIZE as u64).and_then(Pte::frame);
            assert_eq!(found, entry.frame(), "page {page} is mapped");
        }
        report(name, ticks / entries);
        update(root_slot(), 0);
        core::mem::forget(self.tables);
    }
}

pub fn run() {
    let count = option("tables").unwrap_or(512).clamp(1, 512) as usize;
    let data = Frames::zeroed(0).expect("there is memory");
    let entry = Pte::new(mfn(&data, 0), Flags::READ);
    println!("# filling {} entries in each way", count * ENTRIES);
    // Without it, a store to a page table is the guest's own fault.
    system::vm_assist(VMASST_TYPE_WRITABLE_PAGETABLES, true).expect("the assistance");
    Range::new(count).measure("fill-stores", entry, |range| {
        for table in 0..range.count {
            let table = address(&range.tables, table) as usize;
            let table = core::ptr::with_exposed_provenance_mut::<u64>(table);
            for place in 0..ENTRIES {
                // SAFETY: the place is in the table; the hypervisor makes the store an update.
                unsafe { table.add(place).write_volatile(entry.0) };
            }
        }
    });
    Range::new(count).measure("fill-mmu-update", entry, |range| {
        for table in 0..range.count {
            let table = mfn(&range.tables, table).0 << 12;
            for first in (0..ENTRIES).step_by(BATCH) {
                let updates = core::array::from_fn::<_, BATCH, _>(|place| MmuUpdate {
                    ptr: table | ((first + place) as u64 * 8),
                    val: entry.0,
                });
                // SAFETY: the range is in use by nothing.
                unsafe { mmu::mmu_update(&updates, None, Domid::SELF) }.expect("updates");
            }
        }
    });
    Range::new(count).measure("fill-update-va", entry, |range| {
        for page in 0..(range.count * ENTRIES) as u64 {
            let va = BASE + page * PAGE_SIZE as u64;
            // SAFETY: the range is in use by nothing.
            unsafe { mmu::update_va_mapping(va, entry.0, UVMF_NONE) }.expect("an update");
        }
    });
}
