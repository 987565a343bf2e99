//! RAM as the boot loader reports it: a sorted map without overlap, and what of it is still free during boot.

use alloc::vec::Vec;

use crate::{MemoryKind, MemoryRegion, PAGE_SIZE};

const PAGE: u64 = PAGE_SIZE as u64;

/// Sorts a memory map and resolves overlaps: of two kinds for a byte, the less usable one wins. Adjacent regions of
/// a kind become one.
pub fn sanitize(raw: &[MemoryRegion]) -> Vec<MemoryRegion> {
    fn severity(kind: MemoryKind) -> u8 {
        match kind {
            MemoryKind::Ram => 0,
            MemoryKind::AcpiReclaimable => 1,
            MemoryKind::AcpiNvs => 2,
            MemoryKind::Reserved => 3,
            MemoryKind::Unusable => 4,
        }
    }
    let mut edges: Vec<u64> = Vec::new();
    for region in raw {
        for edge in [region.base, region.base.saturating_add(region.size)] {
            if let Err(place) = edges.binary_search(&edge) {
                edges.insert(place, edge);
            }
        }
    }

    let mut map: Vec<MemoryRegion> = Vec::new();
    for (&base, &end) in edges.iter().zip(edges.iter().skip(1)) {
        let kind = raw
            .iter()
            .filter(|r| r.base <= base && end <= r.base.saturating_add(r.size))
            .map(|r| r.kind)
            .max_by_key(|&kind| severity(kind));
        let Some(kind) = kind else { continue };
        match map.last_mut() {
            Some(last) if last.kind == kind && last.base + last.size == base => {
                last.size += end - base;
            }
            _ => map.push(MemoryRegion {
                base,
                size: end - base,
                kind,
            }),
        }
    }
    map
}

/// RAM that nothing has taken yet, in whole frames; and what was taken.
#[derive(Debug, Default)]
pub struct FreeMemory {
    free: Vec<(u64, u64)>,
    taken: Vec<(u64, u64)>,
}

impl FreeMemory {
    /// All whole frames of RAM in `map` below `limit`.
    pub fn new(map: &[MemoryRegion], limit: u64) -> Self {
        let mut free = Vec::new();
        for region in map.iter().filter(|r| r.kind == MemoryKind::Ram) {
            let start = region.base.next_multiple_of(PAGE);
            let end = (region.base + region.size).min(limit) / PAGE * PAGE;
            if start < end {
                free.push((start, end));
            }
        }
        Self {
            free,
            taken: Vec::new(),
        }
    }

    /// Takes out every frame that `start..end` touches, without counting it as taken.
    pub fn exclude(&mut self, start: u64, end: u64) {
        let start = start / PAGE * PAGE;
        let end = end.next_multiple_of(PAGE);
        if start >= end {
            return;
        }
        let mut rest = Vec::new();
        for &(a, b) in &self.free {
            if b <= start || end <= a {
                rest.push((a, b));
                continue;
            }
            if a < start {
                rest.push((a, start));
            }
            if end < b {
                rest.push((end, b));
            }
        }
        self.free = rest;
    }

    /// Takes out every frame that `start..end` touches, as taken.
    pub fn reserve(&mut self, start: u64, end: u64) {
        self.exclude(start, end);
        self.taken
            .push((start / PAGE * PAGE, end.next_multiple_of(PAGE)));
    }

    /// Takes `size` bytes, at a multiple of `align`, as high as possible below `limit`. Both `size` and `align`
    /// are multiples of a page.
    pub fn take(&mut self, size: u64, align: u64, limit: u64) -> Option<u64> {
        let start = self.find(size, align, limit)?;
        self.reserve(start, start + size);
        Some(start)
    }

    /// As [`Self::take`], but the memory is not counted as the machine's own.
    pub fn take_for_others(&mut self, size: u64, align: u64, limit: u64) -> Option<u64> {
        let start = self.find(size, align, limit)?;
        self.exclude(start, start + size);
        Some(start)
    }

    fn find(&self, size: u64, align: u64, limit: u64) -> Option<u64> {
        self.free
            .iter()
            .filter_map(|&(a, b)| {
                let start = b.min(limit).checked_sub(size)? / align * align;
                (start >= a).then_some(start)
            })
            .max()
    }

    /// What [`Self::take`] and [`Self::reserve`] took.
    pub fn taken(&self) -> &[(u64, u64)] {
        &self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryKind::{AcpiNvs, Ram, Reserved};

    fn region(base: u64, size: u64, kind: MemoryKind) -> MemoryRegion {
        MemoryRegion { base, size, kind }
    }

    #[test]
    fn where_kinds_overlap_the_less_usable_wins() {
        let raw = [
            region(0x10_0000, 0x10_0000, Ram),
            region(0, 0x9_fc00, Ram),
            region(0x18_0000, 0x1000, Reserved),
            region(0x18_0800, 0x1000, AcpiNvs),
        ];
        assert_eq!(
            sanitize(&raw),
            [
                region(0, 0x9_fc00, Ram),
                region(0x10_0000, 0x8_0000, Ram),
                region(0x18_0000, 0x1000, Reserved),
                region(0x18_1000, 0x800, AcpiNvs),
                region(0x18_1800, 0x7_e800, Ram),
            ]
        );
    }

    #[test]
    fn a_region_up_to_the_end_of_the_address_space_does_not_overflow() {
        let raw = [
            region(u64::MAX - 0xfff, 0x1000, Reserved),
            region(0, 0x1000, Ram),
        ];
        assert_eq!(sanitize(&raw).len(), 2);
    }

    #[test]
    fn memory_is_taken_from_the_top_below_the_limit_and_only_once() {
        let map = [
            region(0x800, 0x1_0000, Ram),
            region(0x10_0000, 0x40_0000, Ram),
        ];
        let mut free = FreeMemory::new(&map, u64::MAX);
        assert_eq!(free.take(0x20_0000, 0x20_0000, u64::MAX), Some(0x20_0000));
        assert_eq!(free.take(0x20_0000, 0x20_0000, u64::MAX), None);
        assert_eq!(free.take(0x1000, 0x1000, 0x10_0000), Some(0xf000));
        free.reserve(0x40_0000, 0x50_0000);
        assert_eq!(free.take(0x10_0000, 0x1000, u64::MAX), Some(0x10_0000));
        assert_eq!(free.take(0x1000, 0x1000, u64::MAX), Some(0xe000));
        assert_eq!(free.taken().len(), 5);
        assert_eq!(free.take_for_others(0x1000, 0x1000, u64::MAX), Some(0xd000));
        assert_eq!(free.taken().len(), 5);
    }
}
