//! Mappings of device registers and firmware tables.

use super::frames::direct;
use super::lock::Lock;
use super::paging::{Builder, Flags, PRESENT, Purpose};
use super::{layout, processor};
use crate::PAGE_SIZE;

const PAGE: u64 = PAGE_SIZE as u64;
/// Level-1 tables that there are for this.
const TABLES: usize = 4;
const ENTRIES: u64 = 512;

/// Pages of the device slot, handed out from the bottom.
pub struct Devices {
    flags: Flags,
    tables: [u64; TABLES],
    next: u64,
}

static DEVICES: Lock<Option<Devices>> = Lock::new(None);

/// Makes the tables for device mappings.
pub fn build(tables: &mut Builder, flags: Flags) {
    let mut addresses = [0; TABLES];
    for (i, address) in (0..).zip(addresses.iter_mut()) {
        let entry = tables.entry(layout::DEVICES + i * ENTRIES * PAGE, 1, false);
        *address = super::frames::machine_address(entry.cast());
    }
    *DEVICES.lock() = Some(Devices {
        flags,
        tables: addresses,
        next: 0,
    });
}

/// Maps `size` bytes at a machine address: registers of a device, or (`constant`) tables that the firmware left.
pub fn map(address: u64, size: u64, constant: bool) -> *mut u8 {
    let mut devices = DEVICES.lock();
    let devices = devices
        .as_mut()
        .expect("device mappings come after the page tables");
    let purpose = if constant {
        Purpose::Constants
    } else {
        Purpose::Device
    };
    let offset = address % PAGE;
    let pages = (offset + size).div_ceil(PAGE);
    let first = devices.next;
    for i in 0..pages {
        let leaf = devices.flags.leaf(address - offset + i * PAGE, purpose);
        devices.set(first + i, leaf);
    }
    devices.next += pages;
    core::ptr::with_exposed_provenance_mut((layout::DEVICES + first * PAGE + offset) as usize)
}

/// Forgets the mapping of `size` bytes at `pointer` if it is the last one made; others stay.
pub fn unmap(pointer: *mut u8, size: u64) {
    let mut devices = DEVICES.lock();
    let Some(devices) = devices.as_mut() else {
        return;
    };
    let start = pointer.expose_provenance() as u64 - layout::DEVICES;
    let first = start / PAGE;
    let end = (start + size).div_ceil(PAGE);
    if end == devices.next {
        for page in first..end {
            devices.set(page, 0);
        }
        devices.next = first;
    }
}

impl Devices {
    fn set(&mut self, page: u64, entry: u64) {
        let table = self.tables.get((page / ENTRIES) as usize);
        let table = *table.expect("no room for device mappings");
        // SAFETY: the table is this slot's, and nobody uses the page: it is new, or its mapping has ended.
        unsafe {
            direct(table)
                .cast::<u64>()
                .add((page % ENTRIES) as usize)
                .write_volatile(entry);
        }
        if entry & PRESENT == 0 {
            processor::flush_tlb_page(layout::DEVICES + page * PAGE);
        }
    }
}
