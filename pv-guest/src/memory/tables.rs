//! The guest's page tables: reading them through the linear map, and changing them by hypercall.

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn, Pfn};
use hypercall_abi::xen::{
    MMU_NORMAL_PT_UPDATE, MMUEXT_INVLPG_ALL, MMUEXT_INVLPG_LOCAL, MMUEXT_TLB_FLUSH_ALL,
    MMUEXT_TLB_FLUSH_LOCAL, MmuUpdate, MmuextOp, UVMF_ALL, UVMF_INVLPG, UVMF_LOCAL,
};

use super::frames::Frames;
use super::{address_of, layout, machine_to_physical};
use crate::hypercall::{Result, mmu};
use crate::pte::{ENTRIES, Flags, PAGE_SIZE, Pte, index};
use crate::sync::Mutex;
use crate::vcpus;

/// Whether the processor knows the no-execute bit; without it, an entry that has it is refused.
static NO_EXECUTE: AtomicBool = AtomicBool::new(false);

pub(super) fn allow_no_execute(allowed: bool) {
    NO_EXECUTE.store(allowed, Relaxed);
}

/// An entry that this processor accepts.
pub(crate) fn entry(frame: Mfn, flags: Flags) -> Pte {
    let refused = if NO_EXECUTE.load(Relaxed) {
        Flags::empty()
    } else {
        Flags::NO_EXECUTE
    };
    Pte::new(frame, flags - refused)
}

/// Machine address of an entry of a table.
pub(crate) fn entry_address(table: Mfn, index: usize) -> u64 {
    (table.0 << 12) | (index as u64 * 8)
}

/// One of this guest's page tables, in the linear map.
fn table_at(table: Mfn) -> *const u64 {
    // SAFETY: a table in this guest's trees is one of its own frames, which the machine-to-physical
    // table has.
    let pfn = unsafe { machine_to_physical(table) };
    core::ptr::with_exposed_provenance(address_of(pfn) as usize)
}

/// Reads an entry of one of this guest's page tables.
pub(crate) fn read(table: Mfn, index: usize) -> Pte {
    debug_assert!(index < ENTRIES);
    // SAFETY: the frame is mapped there, readable, and its contents change by hypercall or by the
    // processor.
    Pte(unsafe { table_at(table).add(index).read_volatile() })
}

/// The entries of one of this guest's page tables that map something, with their places.
pub(crate) fn present(table: Mfn) -> impl Iterator<Item = (usize, Pte)> {
    let table = table_at(table);
    (0..ENTRIES)
        // SAFETY: as in `read`.
        .map(move |place| (place, Pte(unsafe { table.add(place).read_volatile() })))
        .filter(|(_, entry)| entry.is_present())
}

/// The table of `level` that maps an address, and the address' entry in it.
pub(super) fn walk(root: Mfn, address: u64, level: u32) -> Option<(Mfn, Pte)> {
    let mut table = root;
    for upper in (level + 1..=4).rev() {
        table = read(table, index(address, upper)).frame()?;
    }
    Some((table, read(table, index(address, level))))
}

/// The page-table entry that maps an address of this guest.
pub fn translate(address: u64) -> Option<Pte> {
    walk(layout().root, address, 1)
        .map(|(_, entry)| entry)
        .filter(|entry| entry.is_present())
}

/// The machine address of the page-table entry for an address of this guest, if there is a table
/// for it.
pub fn machine_entry(address: u64) -> Option<u64> {
    walk(layout().root, address, 1).map(|(table, _)| entry_address(table, index(address, 1)))
}

/// Entries to change, sent in batches.
pub(super) struct Updates {
    list: [MmuUpdate; Self::BATCH],
    length: usize,
    domain: Domid,
}

impl Updates {
    const BATCH: usize = 64;

    /// `domain` owns the frames that are to be mapped.
    pub(super) fn new(domain: Domid) -> Self {
        Self {
            list: [MmuUpdate { ptr: 0, val: 0 }; Self::BATCH],
            length: 0,
            domain,
        }
    }

    /// Adds a change of the entry at a machine address.
    ///
    /// # Safety
    ///
    /// As [`mmu::mmu_update`].
    pub(super) unsafe fn push(&mut self, address: u64, entry: Pte) -> Result<()> {
        self.list[self.length] = MmuUpdate {
            ptr: address | MMU_NORMAL_PT_UPDATE,
            val: entry.0,
        };
        self.length += 1;
        if self.length == Self::BATCH {
            self.send()
        } else {
            Ok(())
        }
    }

    /// Sends what was added and not sent.
    pub(super) fn send(&mut self) -> Result<()> {
        let length = core::mem::take(&mut self.length);
        if length == 0 {
            return Ok(());
        }
        // SAFETY: promised for each when it was added.
        unsafe { mmu::mmu_update(&self.list[..length], None, self.domain) }
    }
}

/// Gives an address of this guest another entry; a table for it must be there.
///
/// # Safety
///
/// As [`mmu::mmu_update`].
pub(super) unsafe fn set(address: u64, entry: Pte) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { mmu::update_va_mapping(address, entry.0, UVMF_INVLPG | flush_scope()) }
}

/// Whose TLBs are to forget what this vCPU changed.
fn flush_scope() -> u64 {
    if vcpus::is_alone() {
        UVMF_LOCAL
    } else {
        UVMF_ALL
    }
}

/// A new, empty page table.
fn new_table() -> Result<Mfn> {
    let frame = Frames::zeroed(0).ok_or(Errno::ENOMEM)?;
    let mfn = frame.mfn();
    let address = frame.base().as_ptr().expose_provenance() as u64;
    // SAFETY: the frame is free, and its one mapping stays readable.
    unsafe { set(address, entry(mfn, Flags::READ)) }?;
    frame.leak();
    Ok(mfn)
}

/// Held while tables are added to the kernel's, so that two vCPUs do not add one at the same place.
static GROWING: Mutex<()> = Mutex::new(());

/// The table of level 1 for an address of the kernel, made where there is none.
pub(crate) fn table_for(address: u64) -> Result<Mfn> {
    lowest_table_for(address, 1)
}

/// Makes sure that there is a table of level 3 for each of these addresses, and so that the kernel's
/// part of the root stays as it is.
pub(super) fn settle_root(addresses: impl Iterator<Item = u64>) -> Result<()> {
    for address in addresses {
        lowest_table_for(address, 3)?;
    }
    Ok(())
}

/// The table of `lowest` level for an address of the kernel, made where there is none.
fn lowest_table_for(address: u64, lowest: u32) -> Result<Mfn> {
    let _growing = GROWING.lock();
    let mut table = layout().root;
    for level in (lowest + 1..=4).rev() {
        let place = index(address, level);
        table = match read(table, place).frame() {
            Some(next) => next,
            None => {
                let next = new_table()?;
                let mut updates = Updates::new(Domid::SELF);
                // SAFETY: the entry was empty, and the new table is.
                unsafe { updates.push(entry_address(table, place), Pte::new(next, Flags::TABLE)) }?;
                updates.send()?;
                next
            }
        };
    }
    Ok(table)
}

/// Maps `frames` of `domain` from `address` on. Where one is refused, some of those before it may
/// stay mapped.
///
/// # Safety
///
/// The range must be in use by nothing, and the frames not be memory that Rust code relies on.
pub(super) unsafe fn map(
    address: u64,
    frames: impl Iterator<Item = Mfn>,
    flags: Flags,
    domain: Domid,
) -> Result<()> {
    let mut updates = Updates::new(domain);
    let mut table = None;
    for (page, frame) in frames.enumerate() {
        let address = address + (page * PAGE_SIZE) as u64;
        let place = index(address, 1);
        let table = match table {
            Some(table) if place != 0 => table,
            _ => *table.insert(table_for(address)?),
        };
        // SAFETY: the caller's promise.
        unsafe { updates.push(entry_address(table, place), entry(frame, flags)) }?;
    }
    updates.send()
}

/// Unmaps `pages` pages from `address` on, whether they are mapped or not.
///
/// # Safety
///
/// The range must be in use by nothing.
pub(super) unsafe fn unmap(address: u64, pages: usize) -> Result<()> {
    let root = layout().root;
    let mut updates = Updates::new(Domid::SELF);
    for page in 0..pages {
        let address = address + (page * PAGE_SIZE) as u64;
        if let Some((table, entry)) = walk(root, address, 1)
            && entry.is_present()
        {
            // SAFETY: the caller's promise.
            unsafe { updates.push(entry_address(table, index(address, 1)), Pte::EMPTY) }?;
        }
    }
    updates.send()?;
    let cmd = match (pages == 1, vcpus::is_alone()) {
        (true, true) => MMUEXT_INVLPG_LOCAL,
        (true, false) => MMUEXT_INVLPG_ALL,
        (false, true) => MMUEXT_TLB_FLUSH_LOCAL,
        (false, false) => MMUEXT_TLB_FLUSH_ALL,
    };
    let flush = MmuextOp::address(cmd, if pages == 1 { address } else { 0 });
    // SAFETY: a flush changes no mapping.
    unsafe { mmu::mmuext_op(&[flush], None, Domid::SELF) }
}

/// Gives frames of the linear map other machine frames, or none.
///
/// # Safety
///
/// The frames must be in use by nothing.
pub(super) unsafe fn set_linear(pfn: Pfn, mfn: Option<Mfn>) -> Result<()> {
    let entry = mfn.map_or(Pte::EMPTY, |mfn| entry(mfn, Flags::READ_WRITE));
    // SAFETY: the caller's promise.
    unsafe { set(address_of(pfn), entry) }
}
