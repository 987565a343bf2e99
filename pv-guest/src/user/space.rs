//! An address space of user mode: its tables, the areas that a process may touch, and the faults
//! that fill them.
//!
//! An entry is writable only where its page belongs to this space alone and the area may be
//! written. So a write to a page that fork shared faults: it gets a copy, or the page itself once
//! nobody else has it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicU64, AtomicUsize};

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;
use hypercall_abi::xen::{MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE, UVMF_INVLPG, UVMF_NONE};

use super::pages::Page;
use super::{END, this_vcpu};
use crate::hypercall::{Result, mmu};
use crate::memory::{self, Batch, Frames, tables};
use crate::pte::{Flags, PAGE_SIZE, Pte, index};
use crate::sync::Mutex;

const PAGE: u64 = PAGE_SIZE as u64;

/// What a process may do with an area of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    Write,
    /// Read and execute it.
    Execute,
}

/// Why memory is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No area is there.
    Unmapped,
    /// The area is for something else.
    Denied,
    /// The guest has no memory left.
    NoMemory,
}

/// A purpose for which a page is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Read,
    Write,
    Execute,
    /// The kernel puts something there, whatever the process may do.
    Load,
}

impl Purpose {
    /// That of a page fault.
    const fn of(error_code: u64) -> Self {
        const WRITE: u64 = 1 << 1;
        const FETCH: u64 = 1 << 4;
        if error_code & WRITE != 0 {
            Self::Write
        } else if error_code & FETCH != 0 {
            Self::Execute
        } else {
            Self::Read
        }
    }

    const fn is_allowed(self, access: Access) -> bool {
        match self {
            Self::Read | Self::Load => true,
            Self::Write => matches!(access, Access::Write),
            Self::Execute => matches!(access, Access::Execute),
        }
    }

    const fn changes_it(self) -> bool {
        matches!(self, Self::Write | Self::Load)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    end: u64,
    access: Access,
}

/// What the lock of a space is for: its tables, as they are and as a list, and its areas.
#[derive(Default)]
pub(super) struct Tree {
    /// The tables below the roots.
    pub(super) tables: Vec<Frames>,
    /// By first address.
    pub(super) areas: BTreeMap<u64, Area>,
}

static LIVING: AtomicUsize = AtomicUsize::new(0);

/// The memory of a process. Dropping the last reference gives all of it back.
pub struct Space {
    kernel_root: Frames,
    user_root: Frames,
    /// A bit for each vCPU whose roots these are, and whose TLB may hold entries of them.
    pub(super) loaded: AtomicU64,
    pub(super) tree: Mutex<Tree>,
}

impl Space {
    /// An address space with nothing in it.
    ///
    /// # Errors
    ///
    /// `ENOMEM` without memory for the roots, or what the hypervisor says of them.
    pub fn new() -> Result<Arc<Self>> {
        let [kernel_root, user_root] = new_roots()?;
        Self::adopt(kernel_root, user_root, Tree::default(), Batch::default())
    }

    /// Makes a space of tables that nothing has used yet: they become page tables together with what
    /// else the batch does.
    pub(super) fn adopt(
        kernel_root: Frames,
        user_root: Frames,
        tree: Tree,
        mut batch: Batch,
    ) -> Result<Arc<Self>> {
        for table in tree.tables.iter().chain([&kernel_root, &user_root]) {
            batch.protect(table, Flags::READ);
        }
        batch.table(MMUEXT_PIN_L4_TABLE, kernel_root.mfn());
        batch.table(MMUEXT_PIN_L4_TABLE, user_root.mfn());
        let space = ManuallyDrop::new(Self {
            kernel_root,
            user_root,
            loaded: AtomicU64::new(0),
            tree: Mutex::new(tree),
        });
        // Where it fails, nobody knows which of the frames are tables: they stay where they are.
        //
        // SAFETY: nothing but this function refers to the tables, which stay readable; no Rust
        // reference goes by way of user memory, which a fork's changes are about.
        unsafe { batch.send() }?;
        LIVING.fetch_add(1, Relaxed);
        Ok(Arc::new(ManuallyDrop::into_inner(space)))
    }

    /// How many there are.
    pub fn count() -> usize {
        LIVING.load(Acquire)
    }

    /// The root tables of kernel and user mode.
    pub(super) fn roots(&self) -> (Mfn, Mfn) {
        (self.kernel_root.mfn(), self.user_root.mfn())
    }

    /// Gives the process an area of memory, zeroes at first: whole pages below [`END`].
    ///
    /// # Errors
    ///
    /// `EINVAL` where the range is none of these, `EEXIST` where part of it is taken.
    pub fn map(&self, range: Range<u64>, access: Access) -> Result<()> {
        let Range { start, end } = range;
        if !start.is_multiple_of(PAGE) || !end.is_multiple_of(PAGE) || start >= end || end > END {
            return Err(Errno::EINVAL.into());
        }
        let mut tree = self.tree.lock();
        if let Some((_, below)) = tree.areas.range(..end).next_back()
            && below.end > start
        {
            return Err(Errno::EEXIST.into());
        }
        tree.areas.insert(start, Area { end, access });
        Ok(())
    }

    /// Copies what the process has at `address`.
    ///
    /// # Errors
    ///
    /// As the process itself would have had it; then part may have been copied.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> core::result::Result<(), Fault> {
        self.pieces(address, bytes.len(), Purpose::Read, |at, offset, size| {
            let to = bytes[offset..][..size].as_mut_ptr();
            // SAFETY: both are this long, and the destination is exclusively borrowed.
            unsafe { memory::copy(to, at.as_ptr(), size) };
        })
    }

    /// Writes to the process' memory.
    ///
    /// # Errors
    ///
    /// As the process itself would have had it; then part may have been written.
    pub fn write(&self, address: u64, bytes: &[u8]) -> core::result::Result<(), Fault> {
        self.put(address, bytes, Purpose::Write)
    }

    /// Writes to the process' memory, whether the process itself may or not: its code, for example.
    ///
    /// # Errors
    ///
    /// Without an area there, or without memory.
    pub fn load(&self, address: u64, bytes: &[u8]) -> core::result::Result<(), Fault> {
        self.put(address, bytes, Purpose::Load)
    }

    fn put(&self, address: u64, bytes: &[u8], purpose: Purpose) -> core::result::Result<(), Fault> {
        self.pieces(address, bytes.len(), purpose, |at, offset, size| {
            let from = bytes[offset..][..size].as_ptr();
            // SAFETY: both are this long, and no reference is made into user memory.
            unsafe { memory::copy(at.as_ptr(), from, size) };
        })
    }

    /// Has `action` done for the part of a range that is in each page: where it is in the linear
    /// map, its offset in the range, and its size.
    fn pieces(
        &self,
        address: u64,
        size: usize,
        purpose: Purpose,
        mut action: impl FnMut(NonNull<u8>, usize, usize),
    ) -> core::result::Result<(), Fault> {
        let mut tree = self.tree.lock();
        let mut done = 0;
        while done < size {
            let at = address.checked_add(done as u64).ok_or(Fault::Unmapped)?;
            let page = self.touch(&mut tree, at, purpose)?;
            let offset = (at % PAGE) as usize;
            let length = (PAGE_SIZE - offset).min(size - done);
            // SAFETY: the offset is within the page.
            action(unsafe { page.add(offset) }, done, length);
            done += length;
        }
        Ok(())
    }

    /// Serves a page fault of user mode. Where it succeeds, the access can be made again.
    pub(super) fn fault(&self, address: u64, error_code: u64) -> core::result::Result<(), Fault> {
        let mut tree = self.tree.lock();
        // The fault itself made the processor forget the entry, so one that another vCPU has just
        // changed for the better needs no flush.
        self.touch(&mut tree, address, Purpose::of(error_code))
            .map(drop)
    }

    /// Makes the page at an address fit for a purpose; its memory in the linear map.
    fn touch(
        &self,
        tree: &mut Tree,
        address: u64,
        purpose: Purpose,
    ) -> core::result::Result<NonNull<u8>, Fault> {
        let (_, area) = tree
            .areas
            .range(..=address)
            .next_back()
            .ok_or(Fault::Unmapped)?;
        let Area { end, access } = *area;
        if address >= end {
            return Err(Fault::Unmapped);
        }
        if !purpose.is_allowed(access) {
            return Err(Fault::Denied);
        }
        let no_memory = |_| Fault::NoMemory;
        let table = self.table_for(tree, address).map_err(no_memory)?;
        let entry = tables::read(table, index(address, 1));
        let Some(frame) = entry.frame() else {
            let page = Page::zeroed().ok_or(Fault::NoMemory)?;
            self.set(address, table, of(page.mfn(), access), false)
                .map_err(no_memory)?;
            let memory = page.memory();
            page.into_entry();
            return Ok(memory);
        };
        // SAFETY: the entry goes on holding it, unless it is replaced below.
        let page = ManuallyDrop::new(unsafe { Page::from_entry(frame) });
        if !purpose.changes_it() || entry.is_writable() {
            return Ok(page.memory());
        }
        if page.is_unique() {
            self.set(address, table, of(frame, access), false)
                .map_err(no_memory)?;
            return Ok(page.memory());
        }
        let copy = page.copied().ok_or(Fault::NoMemory)?;
        self.set(address, table, of(copy.mfn(), access), true)
            .map_err(no_memory)?;
        let memory = copy.memory();
        copy.into_entry();
        drop(ManuallyDrop::into_inner(page));
        Ok(memory)
    }

    /// Gives an address another entry, in the table that has it. `flush` where vCPUs may have used
    /// the old one.
    fn set(&self, address: u64, table: Mfn, entry: Pte, flush: bool) -> Result<()> {
        let vcpus = self.loaded.load(SeqCst);
        if vcpus & this_vcpu() == 0 {
            let mut batch = Batch::default();
            batch.set(tables::entry_address(table, index(address, 1)), entry);
            if flush {
                batch.flush(vcpus);
            }
            // SAFETY: no Rust reference goes by way of user memory.
            return unsafe { batch.send() };
        }
        let flags = if flush {
            // The address of the mask is aligned, and leaves room for the flag.
            UVMF_INVLPG | (&raw const vcpus).expose_provenance() as u64
        } else {
            UVMF_NONE
        };
        // SAFETY: as above.
        unsafe { mmu::update_va_mapping(address, entry.0, flags) }
    }

    /// The table of level 1 for an address, made where there is none.
    fn table_for(&self, tree: &mut Tree, address: u64) -> Result<Mfn> {
        let (kernel_root, user_root) = self.roots();
        let mut table = user_root;
        let mut level = 4;
        while level > 1 {
            let Some(next) = tables::read(table, index(address, level)).frame() else {
                break;
            };
            table = next;
            level -= 1;
        }
        if level == 1 {
            return Ok(table);
        }
        // From level 1 up to the one below the entry that is empty.
        let mut new = Vec::new();
        for below in 1..level {
            let mut frame = Frames::zeroed(0).ok_or(Errno::ENOMEM)?;
            if let Some(lower) = new.last() {
                put_entry(&mut frame, index(address, below), to_table(lower));
            }
            new.push(frame);
        }
        let mut batch = Batch::default();
        for frame in &new {
            batch.protect(frame, Flags::READ);
        }
        let top = to_table(new.last().expect("the level is above 1"));
        batch.set(tables::entry_address(table, index(address, level)), top);
        if level == 4 {
            batch.set(tables::entry_address(kernel_root, index(address, 4)), top);
        }
        let lowest = new[0].mfn();
        let new = ManuallyDrop::new(new);
        // Where it fails, nobody knows which of the frames are tables: they stay where they are.
        //
        // SAFETY: the entries were empty, and so are the tables.
        unsafe { batch.send() }?;
        tree.tables.extend(ManuallyDrop::into_inner(new));
        Ok(lowest)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // No vCPU has the roots loaded: it would have a reference.
        let mut batch = Batch::default();
        batch.table(MMUEXT_UNPIN_TABLE, self.kernel_root.mfn());
        batch.table(MMUEXT_UNPIN_TABLE, self.user_root.mfn());
        // SAFETY: no Rust reference goes by way of user memory.
        unsafe { batch.send() }.expect("what was pinned can be unpinned");
        for (_, table) in user_entries(self.user_root.mfn()) {
            drop_pages(table.frame().expect("the entry is present"), 3);
        }
        let mut batch = Batch::default();
        let tree = self.tree.get_mut();
        for table in tree
            .tables
            .iter()
            .chain([&self.kernel_root, &self.user_root])
        {
            batch.protect(table, Flags::READ_WRITE);
        }
        // Who gets the frames next is to find no entry that says they cannot be written.
        batch.flush_all();
        // SAFETY: the frames are tables no more, and nothing refers to them.
        unsafe { batch.send() }.expect("what is no table can be written");
        LIVING.fetch_sub(1, Release);
    }
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Space({})", self.user_root.mfn())
    }
}

/// The entries of a root that are for user memory.
pub(super) fn user_entries(root: Mfn) -> impl Iterator<Item = (usize, Pte)> {
    tables::present(root).take_while(|(place, _)| *place <= index(END, 4))
}

/// Lets go of all pages below a table.
fn drop_pages(table: Mfn, level: u32) {
    for (_, entry) in tables::present(table) {
        let frame = entry.frame().expect("the entry is present");
        if level > 1 {
            drop_pages(frame, level - 1);
        } else {
            // SAFETY: the tables are not used any more.
            drop(unsafe { Page::from_entry(frame) });
        }
    }
}

/// Roots without user memory: that of the kernel, with what all kernel roots have, and that of user
/// mode.
pub(super) fn new_roots() -> Result<[Frames; 2]> {
    memory::share_kernel_tables()?;
    let mut kernel_root = Frames::zeroed(0).ok_or(Errno::ENOMEM)?;
    let user_root = Frames::zeroed(0).ok_or(Errno::ENOMEM)?;
    let shared = tables::present(memory::root()).filter(|(place, _)| *place >= FIRST_KERNEL_SLOT);
    for (place, entry) in shared {
        let table = entry.frame().expect("the entry is present");
        put_entry(&mut kernel_root, place, Pte::new(table, Flags::TABLE));
    }
    Ok([kernel_root, user_root])
}

/// The first slot of a root that is the kernel's.
const FIRST_KERNEL_SLOT: usize = index(memory::LINEAR_BASE, 4);

/// An entry that points to a table.
pub(super) fn to_table(table: &Frames) -> Pte {
    Pte::new(table.mfn(), Flags::TABLE)
}

/// An entry for a page of an area, writable if the area is.
fn of(frame: Mfn, access: Access) -> Pte {
    let flags = Flags::READ | Flags::USER;
    let flags = match access {
        Access::Read => flags,
        Access::Write => flags | Flags::WRITABLE | Flags::DIRTY,
        Access::Execute => flags - Flags::NO_EXECUTE,
    };
    tables::entry(frame, flags)
}

/// Writes an entry of a frame that is to become a table.
pub(super) fn put_entry(table: &mut Frames, place: usize, entry: Pte) {
    let place = place * size_of::<Pte>();
    table.as_mut_slice()[place..place + size_of::<Pte>()].copy_from_slice(&entry.0.to_ne_bytes());
}
