//! Building page tables, through the direct map.

use super::frames::{direct, raw_zero};
use super::layout;
use super::memory::FreeMemory;
use super::processor::Features;
use crate::{FIRST_HYPERVISOR_SLOT, HYPERVISOR_SLOTS, MemoryKind, MemoryRegion, PAGE_SIZE};

/// Present.
pub const PRESENT: u64 = 1;
/// Writable.
pub const WRITABLE: u64 = 1 << 1;
/// Accessible to ring 3.
pub const USER: u64 = 1 << 2;
/// Write-through: with [`UNCACHED`], uncacheable by the page attribute table.
const WRITE_THROUGH: u64 = 1 << 3;
/// Uncacheable.
const UNCACHED: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
/// Kept in the TLB when CR3 is loaded.
pub const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// The frame that an entry names.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const PAGE: u64 = PAGE_SIZE as u64;
const LARGE_PAGE: u64 = 2 << 20;
const HUGE_PAGE: u64 = 1 << 30;

/// What a mapping of the hypervisor's is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Code: read and execute.
    Code,
    /// Constants: read.
    Constants,
    /// Variables: read and write.
    Data,
    /// Device registers: read and write, not cached.
    Device,
    /// Readable by ring 3 too.
    GuestReadable,
}

/// Makes entries as this CPU wants them.
#[derive(Clone, Copy, Debug)]
pub struct Flags {
    no_execute: u64,
    global: u64,
}

impl Flags {
    /// By what the processor has.
    pub fn new(features: &Features) -> Self {
        Self {
            no_execute: if features.nx { NO_EXECUTE } else { 0 },
            global: if features.pge { GLOBAL } else { 0 },
        }
    }

    /// Entry for a page at a machine address.
    pub fn leaf(&self, address: u64, purpose: Purpose) -> u64 {
        let common = address | PRESENT | ACCESSED | self.global;
        match purpose {
            Purpose::Code => common,
            Purpose::Constants => common | self.no_execute,
            Purpose::Data => common | WRITABLE | DIRTY | self.no_execute,
            Purpose::Device => {
                common | WRITABLE | DIRTY | UNCACHED | WRITE_THROUGH | self.no_execute
            }
            // Not global: a guest's user mode may have tables that lack it.
            Purpose::GuestReadable => common & !GLOBAL | USER | self.no_execute,
        }
    }
}

/// Tables under construction; frames for them come from free memory below 4 GiB, which the boot tables map.
pub struct Builder<'a> {
    free: &'a mut FreeMemory,
    flags: Flags,
    gib_pages: bool,
    root: u64,
}

impl<'a> Builder<'a> {
    /// An empty root.
    pub fn new(features: &Features, free: &'a mut FreeMemory) -> Self {
        let root = new_table(free);
        Self {
            free,
            flags: Flags::new(features),
            gib_pages: features.gib_pages,
            root,
        }
    }

    /// Goes on with tables that a builder made.
    pub fn resume(features: &Features, free: &'a mut FreeMemory, root: u64) -> Self {
        Self {
            free,
            flags: Flags::new(features),
            gib_pages: features.gib_pages,
            root,
        }
    }

    /// Machine address of the root.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Frames for what else boot needs.
    pub fn free(&mut self) -> &mut FreeMemory {
        self.free
    }

    /// Maps `size` bytes; all three are multiples of the page size. Larger pages are used where they fit.
    pub fn map(&mut self, va: u64, address: u64, size: u64, purpose: Purpose) {
        let mut done = 0;
        while done < size {
            let (va, address, left) = (va + done, address + done, size - done);
            let fits = |page: u64| va % page == 0 && address % page == 0 && left >= page;
            let (page, level) = if self.gib_pages && fits(HUGE_PAGE) {
                (HUGE_PAGE, 3)
            } else if fits(LARGE_PAGE) {
                (LARGE_PAGE, 2)
            } else {
                (PAGE, 1)
            };
            let large = if level > 1 { LARGE } else { 0 };
            let entry = self.entry(va, level, purpose == Purpose::GuestReadable);
            // SAFETY: `entry` is in a table of this builder.
            unsafe { entry.write(self.flags.leaf(address, purpose) | large) };
            done += page;
        }
    }

    /// The entry of `va` at `level` (1 to 4); the tables above it are made where they are missing. `user` opens
    /// them to ring 3.
    pub fn entry(&mut self, va: u64, level: u32, user: bool) -> *mut u64 {
        let user = if user { USER } else { 0 };
        let mut table = self.root;
        let mut at = 4;
        loop {
            let index = va >> (3 + 9 * at) & 0x1ff;
            let entry = direct(table + index * 8).cast::<u64>();
            if at == level {
                return entry;
            }
            // SAFETY: `table` is a table of this builder, which the boot tables' direct map reaches.
            unsafe {
                if entry.read() & PRESENT == 0 {
                    entry.write(new_table(self.free) | PRESENT | WRITABLE | ACCESSED | user);
                }
                assert!(
                    entry.read() & LARGE == 0,
                    "{va:#x} is mapped by a larger page"
                );
                table = entry.read() & ADDRESS;
            }
            at -= 1;
        }
    }

    /// Maps RAM in the direct map.
    pub fn map_ram(&mut self, map: &[MemoryRegion]) {
        for region in map.iter().filter(|r| r.kind == MemoryKind::Ram) {
            let start = region.base.next_multiple_of(PAGE);
            let end = (region.base + region.size).min(layout::DIRECT_MAP_SIZE) / PAGE * PAGE;
            if start < end {
                self.map(
                    layout::DIRECT_MAP + start,
                    start,
                    end - start,
                    Purpose::Data,
                );
            }
        }
    }

    /// Maps the image, which is at machine address `address`.
    pub fn map_image(&mut self, address: u64) {
        let image = layout::image();
        for ((start, end), purpose) in [
            (image.text, Purpose::Code),
            (image.rodata, Purpose::Constants),
            (image.data, Purpose::Data),
        ] {
            self.map(
                start,
                address + (start - layout::IMAGE),
                end - start,
                purpose,
            );
        }
    }

    /// The hypervisor's slots of the root.
    pub fn slots(&self) -> [u64; HYPERVISOR_SLOTS] {
        let mut slots = [0; HYPERVISOR_SLOTS];
        for (i, slot) in slots.iter_mut().enumerate() {
            let index = FIRST_HYPERVISOR_SLOT + i;
            // SAFETY: the root is a table of this builder.
            *slot = unsafe { direct(self.root).cast::<u64>().add(index).read() };
        }
        slots
    }
}

fn new_table(free: &mut FreeMemory) -> u64 {
    let table = free
        .take(PAGE, PAGE, 1 << 32)
        .expect("no memory for page tables");
    // SAFETY: the frame was free, and the boot tables' direct map reaches it.
    unsafe { raw_zero(direct(table), PAGE_SIZE) };
    table
}
