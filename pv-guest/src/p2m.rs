//! The guest's list of its frames: which machine frame is behind each pseudo-physical one.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use hypercall_abi::types::{Mfn, Pfn};

/// What the list holds where there is no frame.
pub const INVALID: u64 = u64::MAX;

/// The list that the domain builder made (`mfn_list` of the start info), kept up to date by the
/// guest.
#[derive(Clone, Copy, Debug)]
pub struct P2m<'a>(&'a [AtomicU64]);

impl<'a> P2m<'a> {
    /// Over the list.
    pub const fn new(list: &'a [AtomicU64]) -> Self {
        Self(list)
    }

    /// How many frames it has room for.
    pub const fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether it has no room at all.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The machine frame behind `pfn`.
    pub fn mfn(&self, pfn: Pfn) -> Option<Mfn> {
        let entry = self.0.get(usize::try_from(pfn.0).ok()?)?.load(Relaxed);
        (entry != INVALID).then_some(Mfn(entry))
    }

    /// Says which machine frame, if any, is behind `pfn`. One beyond the list is ignored.
    pub fn set(&self, pfn: Pfn, mfn: Option<Mfn>) {
        if let Some(entry) = usize::try_from(pfn.0)
            .ok()
            .and_then(|index| self.0.get(index))
        {
            entry.store(mfn.map_or(INVALID, |mfn| mfn.0), Relaxed);
        }
    }

    /// The pseudo-physical frame of `mfn`, if it is this guest's: `claimed` is what the
    /// machine-to-physical table says, which for a foreign frame is somebody else's number.
    pub fn confirm(&self, mfn: Mfn, claimed: Pfn) -> Option<Pfn> {
        (self.mfn(claimed) == Some(mfn)).then_some(claimed)
    }

    /// Whether the machine frames behind `count` frames from `pfn` on follow each other.
    pub fn is_contiguous(&self, pfn: Pfn, count: u64) -> bool {
        let Some(first) = self.mfn(pfn) else {
            return count == 0;
        };
        (0..count).all(|offset| self.mfn(Pfn(pfn.0 + offset)) == Some(Mfn(first.0 + offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[u64]) -> Vec<AtomicU64> {
        entries.iter().copied().map(AtomicU64::new).collect()
    }

    #[test]
    fn a_hole_or_a_frame_beyond_the_list_has_no_machine_frame() {
        let list = list(&[7, INVALID]);
        let p2m = P2m::new(&list);
        assert_eq!(
            [0, 1, 2, u64::MAX].map(|pfn| p2m.mfn(Pfn(pfn))),
            [Some(Mfn(7)), None, None, None]
        );
        p2m.set(Pfn(1), Some(Mfn(9)));
        p2m.set(Pfn(0), None);
        p2m.set(Pfn(2), Some(Mfn(1)));
        assert_eq!([0, 1].map(|pfn| p2m.mfn(Pfn(pfn))), [None, Some(Mfn(9))]);
    }

    #[test]
    fn a_foreign_frame_is_not_taken_for_one_of_ours() {
        let list = list(&[7, 8]);
        let p2m = P2m::new(&list);
        assert_eq!(p2m.confirm(Mfn(8), Pfn(1)), Some(Pfn(1)));
        assert_eq!(p2m.confirm(Mfn(99), Pfn(1)), None);
        assert_eq!(p2m.confirm(Mfn(8), Pfn(1000)), None);
    }

    #[test]
    fn contiguity_is_about_machine_frames() {
        let list = list(&[10, 11, 12, 20, 21, INVALID]);
        let p2m = P2m::new(&list);
        assert!(p2m.is_contiguous(Pfn(0), 3));
        assert!(!p2m.is_contiguous(Pfn(0), 4));
        assert!(p2m.is_contiguous(Pfn(3), 2));
        assert!(!p2m.is_contiguous(Pfn(4), 2));
        assert!(!p2m.is_contiguous(Pfn(5), 1));
    }
}
