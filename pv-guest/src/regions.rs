//! Which pages of the address range for mappings are free.

use alloc::collections::BTreeMap;

/// Free runs of pages: first page and length. Runs that touch are one.
#[derive(Clone, Debug, Default)]
pub struct Regions(BTreeMap<u64, u64>);

impl Regions {
    /// With nothing free.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Takes a run of `pages` out, from the lowest place it fits.
    pub fn take(&mut self, pages: u64) -> Option<u64> {
        let (&start, &length) = self.0.iter().find(|&(_, &length)| length >= pages)?;
        self.0.remove(&start);
        if length > pages {
            self.0.insert(start + pages, length - pages);
        }
        Some(start)
    }

    /// Takes out up to `pages`, from the lowest place there is: the first, and how many.
    pub fn take_some(&mut self, pages: u64) -> Option<(u64, u64)> {
        let (_, &length) = self.0.first_key_value()?;
        let count = length.min(pages);
        Some((self.take(count)?, count))
    }

    /// Whether a page is free.
    pub fn contains(&self, page: u64) -> bool {
        self.0
            .range(..=page)
            .next_back()
            .is_some_and(|(start, length)| page - start < *length)
    }

    /// Gives a run back, or adds one.
    pub fn give(&mut self, mut start: u64, mut pages: u64) {
        if let Some((&before, &length)) = self.0.range(..start).next_back()
            && before + length == start
        {
            self.0.remove(&before);
            start = before;
            pages += length;
        }
        if let Some(length) = self.0.remove(&(start + pages)) {
            pages += length;
        }
        self.0.insert(start, pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_given_back_joins_its_neighbours() {
        let mut regions = Regions::new();
        regions.give(100, 10);
        let [a, b, c] = [3, 3, 4].map(|pages| regions.take(pages).unwrap());
        assert_eq!(regions.take(1), None);
        regions.give(a, 3);
        regions.give(c, 4);
        let free: Vec<u64> = (98..112).filter(|page| regions.contains(*page)).collect();
        assert_eq!(free, [100, 101, 102, 106, 107, 108, 109]);
        assert_eq!(regions.take(5), None);
        regions.give(b, 3);
        assert_eq!(regions.take(10), Some(100));
    }

    #[test]
    fn what_is_wanted_in_pieces_comes_from_the_lowest_place() {
        let mut regions = Regions::new();
        regions.give(10, 2);
        regions.give(20, 8);
        let taken: Vec<_> = core::iter::from_fn(|| regions.take_some(5)).collect();
        assert_eq!(taken, [(10, 2), (20, 5), (25, 3)]);
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_come_back(
            steps in proptest::collection::vec((any::<bool>(), 1_u64..9), 0..100),
        ) {
            let mut regions = Regions::new();
            regions.give(7, 64);
            let mut taken: Vec<(u64, u64)> = Vec::new();
            for (take, pages) in steps {
                if take {
                    let Some(start) = regions.take(pages) else { continue };
                    prop_assert!(start >= 7 && start + pages <= 71);
                    for (other, length) in &taken {
                        prop_assert!(start + pages <= *other || other + length <= start);
                    }
                    taken.push((start, pages));
                } else if let Some((start, pages)) = taken.pop() {
                    regions.give(start, pages);
                }
            }
            for (start, pages) in taken {
                regions.give(start, pages);
            }
            prop_assert_eq!(regions.take(64), Some(7));
        }
    }
}
