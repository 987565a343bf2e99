//! The frame heap: free frames in naturally aligned blocks of powers of two (a binary buddy allocator).

use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::types::Mfn;

/// Largest block: 2^18 frames, 1 GiB.
pub const MAX_ORDER: u32 = 18;

/// Zones: one for each width of a frame number, and one for frame 0.
const ZONES: usize = 33;

const NONE: u32 = u32::MAX;
/// Marks a frame that does not begin a free block.
const NOT_FREE: u8 = u8::MAX;

/// Free frames.
///
/// Blocks are linked through a table with an entry a frame, so that freeing and merging never allocate. Each zone, of
/// the frames whose numbers have as many bits, has a list of blocks for each order: whoever needs memory below some
/// limit finds it at once, however fragmented the heap is.
pub struct Heap {
    links: Vec<Link>,
    heads: [[u32; MAX_ORDER as usize + 1]; ZONES],
    free: u64,
}

#[derive(Clone, Copy)]
struct Link {
    next: u32,
    prev: u32,
    /// Order of the free block that begins here, or [`NOT_FREE`].
    order: u8,
}

impl Heap {
    /// A heap without frames, for frame numbers below `limit`.
    pub fn new(limit: u64) -> Self {
        let link = Link {
            next: NONE,
            prev: NONE,
            order: NOT_FREE,
        };
        let limit = limit.min(u64::from(NONE) - 1) as usize;
        Self {
            links: vec![link; limit],
            heads: [[NONE; MAX_ORDER as usize + 1]; ZONES],
            free: 0,
        }
    }

    /// Number of free frames.
    pub fn free_frames(&self) -> u64 {
        self.free
    }

    /// Number of free frames from frame `low` up to, not including, frame `high`.
    pub fn free_frames_between(&self, low: u64, high: u64) -> u64 {
        let mut frames = 0;
        for (list, order) in self.heads.iter().flat_map(|zone| zone.iter().zip(0..)) {
            let mut next = *list;
            while let Some(link) = self.links.get(next as usize) {
                let first = u64::from(next);
                let end = first + (1 << order);
                frames += end.min(high).saturating_sub(first.max(low));
                next = link.next;
            }
        }
        frames
    }

    /// Takes a block of 2^`order` frames that lies wholly below frame `limit`, which counts as the power of two that
    /// it is or lies above; low memory is spared for those who need it.
    pub fn allocate(&mut self, order: u32, limit: u64) -> Option<Mfn> {
        if order > MAX_ORDER || 1 << order > limit {
            return None;
        }
        let highest = zone(self.links.len().saturating_sub(1) as u32);
        let allowed = highest.min(limit.ilog2() as usize);
        for zone in (0..=allowed).rev() {
            for have in order..=MAX_ORDER {
                let block = self.heads[zone][have as usize];
                if block != NONE {
                    self.unlink(block, have);
                    self.free -= 1 << have;
                    // Give back the upper halves until the block has the size asked for.
                    for half in (order..have).rev() {
                        self.insert(block + (1 << half), half);
                    }
                    return Some(Mfn(u64::from(block)));
                }
            }
        }
        None
    }

    /// Gives back 2^`order` frames from `first`, which is aligned to that.
    ///
    /// Giving back what is already free is a bug of the caller and stops the hypervisor.
    pub fn free(&mut self, first: Mfn, order: u32) {
        let Ok(mut block) = u32::try_from(first.0) else {
            return;
        };
        let mut order = order;
        assert!(
            self.order_at(block) == NOT_FREE,
            "frame {block:#x} freed twice"
        );
        while order < MAX_ORDER {
            let buddy = block ^ 1 << order;
            if u32::from(self.order_at(buddy)) != order {
                break;
            }
            self.unlink(buddy, order);
            self.free -= 1 << order;
            block &= !(1 << order);
            order += 1;
        }
        self.insert(block, order);
    }

    fn order_at(&self, block: u32) -> u8 {
        self.links
            .get(block as usize)
            .map_or(NOT_FREE, |link| link.order)
    }

    fn insert(&mut self, block: u32, order: u32) {
        let list = &mut self.heads[zone(block)][order as usize];
        let head = *list;
        if let Some(link) = self.links.get_mut(block as usize) {
            *link = Link {
                next: head,
                prev: NONE,
                order: order as u8,
            };
            *list = block;
            if let Some(old) = self.links.get_mut(head as usize) {
                old.prev = block;
            }
            self.free += 1 << order;
        }
    }

    fn unlink(&mut self, block: u32, order: u32) {
        let Some(link) = self.links.get_mut(block as usize) else {
            return;
        };
        let Link { next, prev, .. } = *link;
        *link = Link {
            next: NONE,
            prev: NONE,
            order: NOT_FREE,
        };
        match self.links.get_mut(prev as usize) {
            Some(before) => before.next = next,
            None => self.heads[zone(block)][order as usize] = next,
        }
        if let Some(after) = self.links.get_mut(next as usize) {
            after.prev = prev;
        }
    }
}

/// The zone of a block: all of it, or the block begins at frame 0.
fn zone(block: u32) -> usize {
    (u32::BITS - block.leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_are_aligned_disjoint_and_merge_back(
            steps in prop::collection::vec((0_u32..6, any::<bool>(), any::<prop::sample::Index>()), 1..200)
        ) {
            const FRAMES: u64 = 256;
            let mut heap = Heap::new(FRAMES);
            for frame in 0..FRAMES {
                heap.free(Mfn(frame), 0);
            }
            let mut held: Vec<(u64, u32)> = Vec::new();
            for (order, take, pick) in steps {
                if take {
                    if let Some(first) = heap.allocate(order, FRAMES) {
                        prop_assert_eq!(first.0 % (1 << order), 0);
                        for &(other, size) in &held {
                            prop_assert!(first.0 + (1 << order) <= other || other + (1 << size) <= first.0);
                        }
                        held.push((first.0, order));
                    }
                } else if !held.is_empty() {
                    let (first, order) = held.swap_remove(pick.index(held.len()));
                    heap.free(Mfn(first), order);
                }
                let used: u64 = held.iter().map(|&(_, order)| 1 << order).sum();
                prop_assert_eq!(heap.free_frames(), FRAMES - used);
            }
            for (first, order) in held {
                heap.free(Mfn(first), order);
            }
            prop_assert_eq!(heap.allocate(8, FRAMES), Some(Mfn(0)));
        }
    }

    #[test]
    fn free_frames_are_counted_by_where_they_are() {
        let mut heap = Heap::new(64);
        heap.free(Mfn(0), 4);
        heap.free(Mfn(32), 5);
        assert_eq!(heap.free_frames_between(0, u64::MAX), 48);
        assert_eq!(heap.free_frames_between(8, 40), 16);
        assert_eq!(heap.free_frames_between(16, 32), 0);
        assert_eq!(heap.free_frames_between(40, 8), 0);
    }

    #[test]
    fn a_limit_is_kept() {
        let mut heap = Heap::new(64);
        heap.free(Mfn(0), 4);
        heap.free(Mfn(32), 5);
        assert_eq!(heap.allocate(3, 16).map(|mfn| mfn.0 + 8 <= 16), Some(true));
        assert_eq!(heap.allocate(4, 16), None);
        assert_eq!(heap.allocate(5, u64::MAX), Some(Mfn(32)));
    }

    #[test]
    fn the_largest_block_is_whole_and_none_is_larger() {
        let largest = 1 << MAX_ORDER;
        let mut heap = Heap::new(2 * largest);
        for first in [0, largest] {
            heap.free(Mfn(first), MAX_ORDER);
        }
        for order in [MAX_ORDER + 1, 63, 64, u32::MAX] {
            assert_eq!(heap.allocate(order, u64::MAX), None);
        }
        let both = [(); 2].map(|()| heap.allocate(MAX_ORDER, u64::MAX));
        assert_eq!(both, [Some(Mfn(largest)), Some(Mfn(0))]);
        assert_eq!(heap.free_frames(), 0);
    }

    #[test]
    fn memory_below_a_limit_is_found_in_a_heap_full_of_holes() {
        let mut heap = Heap::new(1 << 12);
        for frame in (0..1 << 12).step_by(2) {
            heap.free(Mfn(frame), 0);
        }
        for limit in (0..12).map(|bits| 1 << bits) {
            let mfn = heap.allocate(0, limit).expect("every other is free");
            assert!(mfn.0 < limit && (limit <= 2 || mfn.0 >= limit / 2), "{mfn}");
            heap.free(mfn, 0);
        }
        assert_eq!(heap.allocate(0, 0), None);
        assert_eq!(heap.allocate(1, u64::MAX), None);
        let high = heap.allocate(0, u64::MAX).expect("there is some");
        assert!(high.0 >= 1 << 11, "low memory is spared");
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_frame_cannot_be_freed_twice() {
        let mut heap = Heap::new(8);
        heap.free(Mfn(3), 0);
        heap.free(Mfn(3), 0);
    }
}
