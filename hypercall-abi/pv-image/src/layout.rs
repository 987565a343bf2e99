//! Where everything lies when a PV kernel takes its first breath.
//!
//! Specification: "Start-of-day memory layout" above `struct start_info` in Xen's public `xen.h`.
//! One contiguous virtual region, which begins at the kernel's `VIRT_BASE`, maps pseudo-physical
//! memory from frame 0 on. In it, each on pages of its own: kernel, ramdisk, phys-to-machine list,
//! start info, for a domU the rings of xenstore and console, page tables (the root first), boot
//! stack. It ends on a 4 MiB boundary with at least 512 KiB to spare.
//!
//! A kernel may ask for two things to be elsewhere: the ramdisk in frames behind the region, not
//! mapped at all (`MOD_START_PFN`), and the phys-to-machine list at an address of its own
//! (`INIT_P2M`), in frames behind the region together with the tables that map it.

use crate::tables::prefix;
use crate::{LayoutError, PAGE_SHIFT, PAGE_SIZE, Pfn, PvImage, Role, page_align_up};
use core::ops::Range;

/// The region ends at a multiple of this.
const END_ALIGNMENT: u64 = 4 << 20;
/// The least that the region has behind its last element.
const PADDING: u64 = 512 << 10;
/// More pages than any x86-64 machine has; keeps the arithmetic below from overflowing.
const MAX_PAGES: u64 = 1 << 40;
/// The first address that is no longer in the lower half.
const LOWER_END: u64 = 1 << 47;
/// The first address above the hypervisor's own.
const UPPER_START: u64 = 0xffff_8800_0000_0000;

/// What is to be laid out besides the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the domain is to be.
    pub role: Role,
    /// The domain's memory in pages; the length of the phys-to-machine list.
    pub nr_pages: u64,
    /// Size of the ramdisk in bytes, 0 for none.
    pub ramdisk: u64,
}

/// Consecutive frames that are mapped at consecutive addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first frame.
    pub pfn: Pfn,
    /// How many frames.
    pub pages: u64,
    /// The address of the first byte.
    pub va: u64,
}

impl Region {
    /// The address behind the last byte.
    pub fn end(&self) -> u64 {
        self.va + (self.pages << PAGE_SHIFT)
    }
}

/// The ramdisk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramdisk {
    /// The first frame.
    pub pfn: Pfn,
    /// How many frames.
    pub pages: u64,
    /// Its size.
    pub bytes: u64,
    /// Where it is mapped; `None` if the kernel takes its frame number instead
    /// (`SIF_MOD_START_PFN`).
    pub va: Option<u64>,
}

/// The phys-to-machine list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P2m {
    /// Its frames and address.
    pub region: Region,
    /// If it is outside the boot region: the number of page-table pages that only it needs. They
    /// follow its own frames.
    pub outside: Option<u64>,
}

/// The finished plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The whole boot region: frame 0 and on, at `virt_base`.
    pub region: Region,
    /// The kernel: from `virt_base` to the end of its last page.
    pub kernel: Region,
    /// The ramdisk, if there is one.
    pub ramdisk: Option<Ramdisk>,
    /// The phys-to-machine list.
    pub p2m: P2m,
    /// The page of `struct start_info`.
    pub start_info: Region,
    /// The ring to xenstore; dom0 has none.
    pub xenstore: Option<Region>,
    /// The console's ring; dom0 has none.
    pub console: Option<Region>,
    /// The page tables of the boot region, the root in the first page.
    pub page_tables: Region,
    /// The boot vCPU's stack: its pointer starts at `end()`.
    pub boot_stack: Region,
    /// Frames that the plan uses. They are the first ones of the domain.
    pub used_pages: u64,
    boot_span: Span,
    p2m_span: Option<Span>,
}

impl Layout {
    /// Lays out `image` in a domain.
    pub fn plan(image: &PvImage, request: &Request) -> Result<Self, LayoutError> {
        // A list that would overlap the boot region or the hypervisor goes where kernels without
        // the note have it: start_info says where it is.
        let outside = image
            .init_p2m
            .and_then(|base| Self::place(image, request, Some(base)));
        let layout = outside
            .or_else(|| Self::place(image, request, None))
            .ok_or(LayoutError::OutOfAddressSpace {
                start: image.virt_base,
            })?;
        if layout.used_pages > request.nr_pages {
            return Err(LayoutError::OutOfMemory {
                needed: layout.used_pages,
                available: request.nr_pages,
            });
        }
        Ok(layout)
    }

    /// The frame that is mapped at an address of the boot region.
    pub fn pfn_of(&self, va: u64) -> Option<Pfn> {
        let offset = va.checked_sub(self.region.va)? >> PAGE_SHIFT;
        (offset < self.region.pages).then_some(Pfn(offset))
    }

    pub(crate) fn spans(&self) -> impl Iterator<Item = &Span> {
        core::iter::once(&self.boot_span).chain(&self.p2m_span)
    }

    fn place(image: &PvImage, request: &Request, p2m_base: Option<u64>) -> Option<Self> {
        if request.nr_pages > MAX_PAGES {
            return None;
        }
        let start = image.virt_base;
        let mut cursor = Cursor { start, pages: 0 };
        let kernel = cursor.take(pages(image.kernel.end.checked_sub(start)?)?)?;

        let ramdisk_pages = pages(request.ramdisk)?;
        let map_ramdisk = ramdisk_pages > 0 && !image.mod_start_pfn;
        let ramdisk = if map_ramdisk {
            Some(cursor.take(ramdisk_pages)?)
        } else {
            None
        };

        let p2m_pages = pages(request.nr_pages * 8)?;
        let p2m = if p2m_base.is_none() {
            Some(cursor.take(p2m_pages)?)
        } else {
            None
        };

        let start_info = cursor.take(1)?;
        let (xenstore, console) = match request.role {
            Role::Dom0 => (None, None),
            Role::DomU => (Some(cursor.take(1)?), Some(cursor.take(1)?)),
        };

        // More tables make the region longer, and a longer region takes more tables. Each round
        // adds at most a 512th of the one before, so that this ends soon.
        let mut table_pages = 1;
        let (boot_span, page_tables, boot_stack) = loop {
            let mut rest = cursor;
            let page_tables = rest.take(table_pages)?;
            let boot_stack = rest.take(1)?;
            let end = boot_stack
                .end()
                .checked_add(PADDING)?
                .checked_next_multiple_of(END_ALIGNMENT)?;
            let span = Span::new(start..end, Pfn(0), page_tables.pfn, None);
            if span.table_count() <= table_pages {
                break (span, page_tables, boot_stack);
            }
            table_pages = span.table_count();
        };
        let region = Region {
            pfn: Pfn(0),
            pages: boot_span.pages,
            va: start,
        };
        if !is_guest_range(start, region.end()) {
            return None;
        }

        let mut used_pages = region.pages;
        let ramdisk = (ramdisk_pages > 0).then(|| {
            let pfn = ramdisk.map_or(Pfn(used_pages), |r| r.pfn);
            if ramdisk.is_none() {
                used_pages += ramdisk_pages;
            }
            let va = ramdisk.map(|r| r.va);
            Ramdisk {
                pfn,
                pages: ramdisk_pages,
                bytes: request.ramdisk,
                va,
            }
        });

        let mut p2m_span = None;
        let p2m = match (p2m, p2m_base) {
            (Some(region), _) => P2m {
                region,
                outside: None,
            },
            (None, base) => {
                let va = base?;
                let p2m = Region {
                    pfn: Pfn(used_pages),
                    pages: p2m_pages,
                    va,
                };
                let end = va.checked_add(p2m_pages << PAGE_SHIFT)?;
                let free = end <= start || va >= region.end();
                if !va.is_multiple_of(PAGE_SIZE) || !free || !is_guest_range(va, end) {
                    return None;
                }
                let tables = Pfn(used_pages + p2m_pages);
                let span = Span::new(va..end, p2m.pfn, tables, Some(&boot_span));
                used_pages += p2m_pages + span.table_count();
                let outside = Some(span.table_count());
                p2m_span = Some(span);
                P2m {
                    region: p2m,
                    outside,
                }
            }
        };
        Some(Self {
            region,
            kernel,
            ramdisk,
            p2m,
            start_info,
            xenstore,
            console,
            page_tables,
            boot_stack,
            used_pages,
            boot_span,
            p2m_span,
        })
    }
}

fn pages(bytes: u64) -> Option<u64> {
    Some(page_align_up(bytes)? >> PAGE_SHIFT)
}

/// Whether a guest may map all of `start..end`.
fn is_guest_range(start: u64, end: u64) -> bool {
    start < end && (end <= LOWER_END || start >= UPPER_START)
}

/// Hands out consecutive pages of the boot region.
#[derive(Clone, Copy)]
struct Cursor {
    start: u64,
    pages: u64,
}

impl Cursor {
    fn take(&mut self, pages: u64) -> Option<Region> {
        let va = self.start.checked_add(self.pages.checked_mul(PAGE_SIZE)?)?;
        let region = Region {
            pfn: Pfn(self.pages),
            pages,
            va,
        };
        va.checked_add(pages.checked_mul(PAGE_SIZE)?)?;
        self.pages += pages;
        Some(region)
    }
}

/// A contiguous mapping, and the page tables that it has to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Number of the first page in the 48-bit address space.
    first_page: u64,
    pages: u64,
    /// The frame of the first page.
    pfn: Pfn,
    /// The frame of the first table.
    tables: Pfn,
    /// For each level from 1 to 4, which tables are this mapping's own, by prefix.
    own: [Range<u64>; 4],
}

impl Span {
    /// A mapping of `vas`, which must not be empty. Tables that `other` has already are not made
    /// twice; nor is the root.
    fn new(vas: Range<u64>, pfn: Pfn, tables: Pfn, other: Option<&Self>) -> Self {
        let own = [1, 2, 3, 4].map(|level| {
            let mut own = prefix(vas.start, level)..prefix(vas.end - 1, level) + 1;
            if let Some(other) = other.map(|o| o.own(level)) {
                // The mappings do not overlap, so that they share tables at one end only.
                if other.contains(&own.start) {
                    own.start = other.end.min(own.end);
                } else if other.contains(&(own.end - 1)) {
                    own.end = other.start;
                }
            }
            own
        });
        Self {
            first_page: prefix(vas.start, 0),
            pages: (vas.end - vas.start) >> PAGE_SHIFT,
            pfn,
            tables,
            own,
        }
    }

    fn table_count(&self) -> u64 {
        self.own.iter().map(|own| own.end - own.start).sum()
    }

    /// The prefixes of this mapping's own tables of `level`, 1 to 4.
    pub(crate) fn own(&self, level: u8) -> Range<u64> {
        self.own
            .get(usize::from(level).wrapping_sub(1))
            .cloned()
            .unwrap_or(0..0)
    }

    /// The frame of its first own table of `level`; the higher levels come first.
    pub(crate) fn first_table(&self, level: u8) -> Pfn {
        let above: u64 = self
            .own
            .iter()
            .skip(usize::from(level))
            .map(|o| o.end - o.start)
            .sum();
        Pfn(self.tables.0 + above)
    }

    /// The frame of an own table.
    pub(crate) fn table(&self, level: u8, prefix: u64) -> Option<Pfn> {
        let own = self.own(level);
        own.contains(&prefix)
            .then(|| Pfn(self.first_table(level).0 + (prefix - own.start)))
    }

    /// Whether `pfn` is one of its own tables.
    pub(crate) fn has_table(&self, pfn: Pfn) -> bool {
        (self.tables.0..self.tables.0 + self.table_count()).contains(&pfn.0)
    }

    /// The pages that the mapping maps or, above level 0, the tables of `level` that it owns.
    pub(crate) fn children(&self, level: u8) -> Range<u64> {
        match level {
            0 => self.first_page..self.first_page + self.pages,
            level => self.own(level),
        }
    }

    /// The frame of page number `page`, which is among `children(0)`.
    pub(crate) fn page(&self, page: u64) -> Pfn {
        Pfn(self.pfn.0 + (page - self.first_page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Kernel;
    use crate::{Entry, ImageError};
    use hypercall_abi::elfnote::{
        XEN_ELFNOTE_ENTRY as ENTRY, XEN_ELFNOTE_HYPERCALL_PAGE as HYPERCALL_PAGE,
        XEN_ELFNOTE_INIT_P2M as INIT_P2M, XEN_ELFNOTE_MOD_START_PFN as MOD_START_PFN,
        XEN_ELFNOTE_VIRT_BASE as VIRT_BASE,
    };
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const BASE: u64 = 0xffff_ffff_8000_0000;

    fn image(kernel: Kernel) -> PvImage {
        PvImage::parse(&kernel.write()).unwrap_or_else(|e: ImageError| panic!("{e}"))
    }

    fn small() -> Kernel {
        Kernel::small(&[0x90; 0x3000], 0x1800)
    }

    fn domu(mib: u64) -> Request {
        Request {
            role: Role::DomU,
            nr_pages: mib << 8,
            ramdisk: 0,
        }
    }

    #[test]
    fn a_domu_has_its_elements_in_the_order_of_the_abi() {
        let request = Request {
            ramdisk: 0x1001,
            ..domu(64)
        };
        let layout = Layout::plan(&image(small()), &request).unwrap();
        assert_eq!(
            layout.kernel,
            Region {
                pfn: Pfn(0),
                pages: 0x405,
                va: BASE
            }
        );
        let ramdisk = layout.ramdisk.unwrap();
        assert_eq!(
            (ramdisk.pfn, ramdisk.pages, ramdisk.bytes),
            (Pfn(0x405), 2, 0x1001)
        );
        assert_eq!(ramdisk.va, Some(BASE + 0x40_5000));
        let p2m = Region {
            pfn: Pfn(0x407),
            pages: 32,
            va: BASE + 0x40_7000,
        };
        assert_eq!(
            layout.p2m,
            P2m {
                region: p2m,
                outside: None
            }
        );
        assert_eq!(layout.start_info.pfn, Pfn(0x427));
        assert_eq!(layout.xenstore.unwrap().pfn, Pfn(0x428));
        assert_eq!(layout.console.unwrap().pfn, Pfn(0x429));
        // Root, L3, L2, and an L1 for each 2 MiB of the region's eight.
        assert_eq!(
            (layout.page_tables.pfn, layout.page_tables.pages),
            (Pfn(0x42a), 7)
        );
        assert_eq!(layout.boot_stack.pfn, Pfn(0x431));
        assert_eq!(layout.region.end(), BASE + (8 << 20));
        assert_eq!(layout.used_pages, 2048);
    }

    #[test]
    fn dom0_has_no_rings() {
        let request = Request {
            role: Role::Dom0,
            ..domu(64)
        };
        let layout = Layout::plan(&image(small()), &request).unwrap();
        assert_eq!((layout.xenstore, layout.console), (None, None));
        assert_eq!(layout.page_tables.pfn.0, layout.start_info.pfn.0 + 1);
    }

    #[test]
    fn the_region_grows_by_4_mib_when_the_padding_would_be_too_small() {
        // Kernel, list, start info, rings, tables and stack end 128 pages before a boundary.
        let pages_before = |bss| {
            let kernel = Kernel::small(&[0x90; 0x2000], bss);
            let layout = Layout::plan(&image(kernel), &domu(64)).unwrap();
            (layout.region.end() - layout.boot_stack.end()) >> 12
        };
        let bss = (0x800 - 128 - 0x402 - 32 - 3 - 7 - 1) << 12;
        assert_eq!(pages_before(bss), 128);
        // One more page, and two more tables for the added 4 MiB.
        assert_eq!(pages_before(bss + 1), 127 + 1024 - 2);
    }

    #[test]
    fn a_ramdisk_that_need_not_be_mapped_lies_behind_the_region() {
        let request = Request {
            ramdisk: 5 << 20,
            ..domu(64)
        };
        let layout = Layout::plan(&image(small().note(MOD_START_PFN, 1)), &request).unwrap();
        let ramdisk = layout.ramdisk.unwrap();
        assert_eq!(
            (ramdisk.pfn, ramdisk.pages, ramdisk.va),
            (Pfn(2048), 1280, None)
        );
        assert_eq!(layout.used_pages, 2048 + 1280);
    }

    #[test]
    fn a_list_at_its_own_address_brings_its_own_tables() {
        let kernel = small().note(INIT_P2M, 0x80_0000_0000);
        let layout = Layout::plan(&image(kernel), &domu(64)).unwrap();
        let region = Region {
            pfn: Pfn(2048),
            pages: 32,
            va: 0x80_0000_0000,
        };
        assert_eq!(
            layout.p2m,
            P2m {
                region,
                outside: Some(3)
            }
        );
        assert_eq!(layout.used_pages, 2048 + 32 + 3);
    }

    #[test]
    fn a_list_that_would_be_in_the_way_goes_into_the_region() {
        for base in [BASE + 0x10_0000, BASE + 0x50_0000, 0xffff_8000_0000_0000] {
            let kernel = small().note(INIT_P2M, base);
            let layout = Layout::plan(&image(kernel), &domu(64)).unwrap();
            assert_eq!(layout.p2m.outside, None, "{base:#x}");
        }
    }

    #[test]
    fn too_little_memory_is_told_with_what_is_needed() {
        let error = Layout::plan(&image(small()), &domu(4)).unwrap_err();
        assert_eq!(
            error,
            LayoutError::OutOfMemory {
                needed: 2048,
                available: 1024
            }
        );
        assert_eq!(
            error.to_string(),
            "the kernel and its boot data need 8192 KiB of memory, the domain has 4096 KiB"
        );
    }

    #[test]
    fn a_region_in_the_hypervisor_or_a_non_canonical_one_is_refused() {
        for base in [
            0xffff_8000_0000_0000u64,
            0x7fff_ffc0_0000,
            0x1234_0000_0000_0000,
        ] {
            let kernel = small()
                .note(VIRT_BASE, base)
                .note(ENTRY, base.wrapping_add(0x40_0000))
                .note(HYPERCALL_PAGE, base.wrapping_add(0x40_1000));
            let error = Layout::plan(&image(kernel), &domu(64)).unwrap_err();
            assert_eq!(error, LayoutError::OutOfAddressSpace { start: base });
        }
    }

    /// Walks the tables as a CPU would: address of each page -> entry that maps it.
    fn walk(layout: &Layout) -> BTreeMap<u64, Entry> {
        let mut tables = BTreeMap::new();
        for table in layout.tables() {
            let mut slots = BTreeMap::new();
            for entry in table.entries() {
                assert!(slots.insert(entry.index, entry).is_none(), "an entry twice");
            }
            assert!(
                tables.insert(table.pfn, (table.level, slots)).is_none(),
                "a table twice"
            );
        }
        let mut level = vec![(0u64, layout.page_tables.pfn)];
        for depth in [4u8, 3, 2] {
            let mut next = Vec::new();
            for (prefix, pfn) in level {
                let (found, slots) = tables.remove(&pfn).expect("table is listed once");
                assert_eq!(found, depth);
                next.extend(
                    slots
                        .values()
                        .map(|e| (prefix << 9 | u64::from(e.index), e.pfn)),
                );
            }
            level = next;
        }
        let mut pages = BTreeMap::new();
        for (prefix, pfn) in level {
            let (found, slots) = tables.remove(&pfn).expect("table is listed once");
            assert_eq!(found, 1);
            for (index, entry) in slots {
                let page = prefix << 9 | u64::from(index);
                pages.insert(((page << 28) as i64 >> 16) as u64, entry);
            }
        }
        assert!(tables.is_empty(), "tables that nothing points to");
        pages
    }

    fn check(layout: &Layout, request: &Request) {
        let mut frames = BTreeSet::new();
        let mut take = |pfn: Pfn, pages: u64| {
            for frame in pfn.0..pfn.0 + pages {
                assert!(frame < layout.used_pages);
                assert!(frames.insert(frame), "frame {frame:#x} is used twice");
            }
        };
        let mut mapped = vec![
            layout.kernel,
            layout.start_info,
            layout.page_tables,
            layout.boot_stack,
            layout.p2m.region,
        ];
        mapped.extend(layout.xenstore);
        mapped.extend(layout.console);
        mapped.iter().for_each(|r| take(r.pfn, r.pages));
        if let Some(ramdisk) = layout.ramdisk {
            take(ramdisk.pfn, ramdisk.pages);
            assert!(ramdisk.pages << 12 >= request.ramdisk);
        }
        if let Some(tables) = layout.p2m.outside {
            take(
                Pfn(layout.p2m.region.pfn.0 + layout.p2m.region.pages),
                tables,
            );
        }
        assert_eq!(layout.region.end() % END_ALIGNMENT, 0);
        assert!(layout.region.end() - layout.boot_stack.end() >= PADDING);
        assert!(layout.p2m.region.pages << 12 >= request.nr_pages * 8);
        assert!(layout.used_pages <= request.nr_pages);

        let mut pages = walk(layout);
        let mut spans = vec![layout.region];
        if layout.p2m.outside.is_some() {
            spans.push(layout.p2m.region);
        }
        for span in spans {
            for index in 0..span.pages {
                let entry = pages.remove(&(span.va + (index << 12))).expect("is mapped");
                assert_eq!(entry.pfn, Pfn(span.pfn.0 + index));
                assert_eq!(entry.is_writable(), !layout.is_table(entry.pfn));
            }
        }
        assert!(pages.is_empty(), "mapped without need: {pages:x?}");
        let tables: BTreeSet<_> = layout.tables().map(|t| t.pfn).collect();
        assert!(tables.iter().all(|pfn| layout.is_table(*pfn)));
        assert!(tables.contains(&layout.page_tables.pfn));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_plan_maps_each_page_once_and_page_tables_read_only(
            base in prop::sample::select(vec![
                0, BASE, 0xffff_8800_0000_0000, 0x20_0000, 0x7fc0_1000, 0xff_ffff_f000, BASE + 0x5000,
            ]),
            bss in 0u64..24 << 20,
            ramdisk in prop_oneof![Just(0), 1u64..6 << 20],
            nr_pages in 256u64..40_000,
            dom0: bool,
            unmapped: bool,
            p2m in prop_oneof![
                Just(None),
                Just(Some(0x80_0000_0000)),
                // Right before and behind the region, where tables are shared.
                (-40i64..40).prop_map(Some),
                (-12000i64..12000).prop_map(Some),
            ],
        ) {
            let mut kernel = Kernel::small(&[0x90; 0x3000], bss)
                .note(VIRT_BASE, base)
                .note(ENTRY, base + 0x40_0000)
                .note(HYPERCALL_PAGE, base + 0x40_1000);
            if unmapped {
                kernel = kernel.note(MOD_START_PFN, 1);
            }
            if let Some(p2m) = p2m {
                let near = base.wrapping_add((p2m << 12) as u64);
                kernel = kernel.note(INIT_P2M, if p2m > 1 << 32 { p2m as u64 } else { near });
            }
            let role = if dom0 { Role::Dom0 } else { Role::DomU };
            let request = Request { role, nr_pages, ramdisk };
            if let Ok(image) = PvImage::parse(&kernel.write()) {
                match Layout::plan(&image, &request) {
                    Ok(layout) => check(&layout, &request),
                    Err(LayoutError::OutOfMemory { needed, available }) => {
                        prop_assert!(needed > available);
                    }
                    Err(error) => prop_assert!(false, "{}", error),
                }
            }
        }

        #[test]
        fn absurd_sizes_are_refused_without_overflow(
            memsz: u64, ramdisk: u64, nr_pages: u64, base: u64, p2m: u64,
        ) {
            let mut kernel = small().note(VIRT_BASE, base & !0xfff).without(ENTRY).without(HYPERCALL_PAGE).note(INIT_P2M, p2m);
            kernel.segments[0].2 = memsz;
            if let Ok(image) = PvImage::parse(&kernel.write()) {
                let _ = Layout::plan(&image, &Request { role: Role::DomU, nr_pages, ramdisk });
            }
        }
    }
}
