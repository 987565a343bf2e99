//! The boot page tables of a [`Layout`], entry by entry.

use crate::{Layout, PAGE_SHIFT, Pfn};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

/// One page-table page.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    layout: &'a Layout,
    /// 4 for the root, 1 for the tables that map pages.
    pub level: u8,
    /// The page's own frame.
    pub pfn: Pfn,
    /// The virtual addresses it covers, less the bits that its entries tell apart.
    prefix: u64,
}

/// A present entry of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the table, 0 to 511.
    pub index: u16,
    /// The frame it points to.
    pub pfn: Pfn,
    /// Its low bits as a guest would write them: present, writable, accessed and so on.
    pub flags: u64,
}

impl Entry {
    /// Whether the flags allow writing.
    pub fn is_writable(&self) -> bool {
        self.flags & WRITABLE != 0
    }
}

/// What the addresses that a table of `level` covers have in common; at level 0, the page number.
/// The sign extension above bit 47 is cut off.
pub(crate) fn prefix(va: u64, level: u8) -> u64 {
    const ADDRESS_BITS: u64 = (1 << 48) - 1;
    (va & ADDRESS_BITS) >> (PAGE_SHIFT + 9 * u32::from(level))
}

impl Layout {
    /// All page-table pages, the root first, and each before those that it points to.
    pub fn tables(&self) -> impl Iterator<Item = Table<'_>> {
        [4, 3, 2, 1].into_iter().flat_map(move |level| {
            self.spans().flat_map(move |span| {
                span.own(level).filter_map(move |prefix| {
                    let pfn = span.table(level, prefix)?;
                    Some(Table {
                        layout: self,
                        level,
                        pfn,
                        prefix,
                    })
                })
            })
        })
    }

    /// Whether a frame is a page table.
    pub fn is_table(&self, pfn: Pfn) -> bool {
        self.spans().any(|span| span.has_table(pfn))
    }
}

impl<'a> Table<'a> {
    /// The entries that are present, each once. Page tables are mapped read-only, all else
    /// writable.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + use<'a> {
        let Self {
            layout,
            level,
            prefix,
            ..
        } = *self;
        layout.spans().flat_map(move |span| {
            let children = span.children(level - 1);
            let first = children.start.max(prefix << 9);
            let end = children.end.min((prefix + 1) << 9);
            (first..end).filter_map(move |child| {
                let index = (child & 0x1ff) as u16;
                if level > 1 {
                    let pfn = span.table(level - 1, child)?;
                    let flags = PRESENT | WRITABLE | USER | ACCESSED | DIRTY;
                    return Some(Entry { index, pfn, flags });
                }
                let pfn = span.page(child);
                let writable = if layout.is_table(pfn) { 0 } else { WRITABLE };
                Some(Entry {
                    index,
                    pfn,
                    flags: PRESENT | ACCESSED | writable,
                })
            })
        })
    }
}
