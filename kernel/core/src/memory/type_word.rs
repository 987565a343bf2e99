//! [`TypeWord`]: what a frame is at this moment, and how far it is that, in one word that is changed as a whole.
//!
//! ```text
//!                 take                    take, all entries in order
//!   Idle ───────────────────────▶ Busy ──────────────────────────────▶ Valid, one use
//!    ▲                            │  ▲ │
//!    │               out of time  │  │ │  an entry is bad
//!    │                            ▼  │ │
//!    │                     Partial   │ │
//!    │                      │ └──────┘ │
//!    │         owner's end  │   take   │
//!    │                      ▼          ▼            last use given back
//!    └───────────────────── Leaving ◀──────────────────────────────── Valid, one use
//!      entries given back
//! ```
//!
//! That is the way of page tables above L1, which can have many tables below them. The contents of everything else
//! are checked in one go, and given back in one go, so that there is neither [`Stage::Partial`] nor
//! [`Stage::Leaving`]. The rules:
//!
//! - The entries of a table that count are those before a position: all of a valid one, none of an idle one, and in
//!   between what the stage says. They are taken in order and given back from the position down.
//! - Who makes a frame busy is the only one to change its word until it is not.
//! - Partial and leaving tables are nobody's: the one use that is counted, and one reference to the frame, belong to
//!   the stage itself. An entry that names a partial table does not count yet, one that names a leaving table not any
//!   more. So whoever stopped may come back or not, and somebody else may come instead.
//! - In no stage but idle does the frame become anything else, so that no guest writes to its entries meanwhile.

use super::{FrameType, Level};

/// How far a frame is what its type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nobody depends on what it is.
    Idle,
    /// A CPU looks through its contents at this moment.
    Busy,
    /// It is what its type says, for as many as the type count says.
    Valid,
    /// So many of its entries were looked at when the time was up: who next wants the type goes on from there.
    Partial(usize),
    /// Nobody wants it: it is on its owner's list of tables to be taken apart, and so many entries still count.
    Leaving(usize),
}

/// A decoded type word.
///
/// | bits | |
/// |---|---|
/// | 0 to 31 | type count; of a leaving table the number of the next on the list |
/// | 32 to 34 | type |
/// | 40 to 43 | valid, pinned, partial, leaving |
/// | 48 to 57 | position of a partial or leaving table |
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TypeWord(pub(super) u64);

impl TypeWord {
    /// The low half; a type count is at most this.
    pub(super) const COUNT: u64 = 0xffff_ffff;
    /// One of the uses is a pin.
    pub(super) const PINNED: u64 = 1 << 41;
    const VALID: u64 = 1 << 40;
    const PARTIAL: u64 = 1 << 42;
    const LEAVING: u64 = 1 << 43;
    const POSITION: u64 = 0x3ff;
    const POSITION_SHIFT: u32 = 48;

    /// A frame that nobody uses; `kind` is what it was used as.
    #[inline]
    pub(super) fn idle(kind: FrameType) -> Self {
        let number = match kind {
            FrameType::None => 0,
            FrameType::Table(level) => level as u64,
            FrameType::Descriptors => 5,
            FrameType::Writable => 7,
        };
        Self(number << 32)
    }

    /// A frame of which a CPU looks through the contents.
    #[inline]
    pub(super) fn busy(kind: FrameType) -> Self {
        Self(Self::idle(kind).0 | 1)
    }

    /// A frame with one use.
    #[inline]
    pub(super) fn valid(kind: FrameType) -> Self {
        Self(Self::busy(kind).0 | Self::VALID)
    }

    /// A table whose first `done` entries count.
    pub(super) fn partial(kind: FrameType, done: usize) -> Self {
        Self(Self::busy(kind).0 | Self::PARTIAL | Self::at(done))
    }

    /// A table on its owner's list, before `next`, whose first `left` entries count.
    pub(super) fn leaving(kind: FrameType, left: usize, next: u32) -> Self {
        Self(Self::idle(kind).0 | Self::LEAVING | Self::at(left) | u64::from(next))
    }

    fn at(position: usize) -> u64 {
        (position as u64 & Self::POSITION) << Self::POSITION_SHIFT
    }

    /// With one use more of a frame that is a `kind` already, or with the first of one that was a `kind` last, whose
    /// contents do not matter; `None` where that takes a closer look.
    #[inline]
    pub(super) fn used_again(self, kind: FrameType) -> Option<Self> {
        let valid = Self::valid(kind);
        let count = self.0 & Self::COUNT;
        if (self.0 ^ valid.0) & !(Self::COUNT | Self::PINNED) == 0 && count != Self::COUNT {
            Some(Self(self.0 + 1))
        } else if kind == FrameType::Writable && self == Self::idle(kind) {
            Some(valid)
        } else {
            None
        }
    }

    /// With one use less of several; `None` where that takes a closer look.
    #[inline]
    pub(super) fn used_less(self) -> Option<Self> {
        let several = self.0 & Self::VALID != 0 && self.0 & Self::COUNT > 1;
        several.then(|| Self(self.0 - 1))
    }

    /// What it is, or was last.
    pub(super) fn kind(self) -> FrameType {
        match self.0 >> 32 & 7 {
            1 => FrameType::Table(Level::L1),
            2 => FrameType::Table(Level::L2),
            3 => FrameType::Table(Level::L3),
            4 => FrameType::Table(Level::L4),
            5 => FrameType::Descriptors,
            7 => FrameType::Writable,
            _ => FrameType::None,
        }
    }

    pub(super) fn stage(self) -> Stage {
        let position = (self.0 >> Self::POSITION_SHIFT & Self::POSITION) as usize;
        if self.0 & Self::VALID != 0 {
            Stage::Valid
        } else if self.0 & Self::LEAVING != 0 {
            Stage::Leaving(position)
        } else if self.0 & Self::PARTIAL != 0 {
            Stage::Partial(position)
        } else if self.0 & Self::COUNT != 0 {
            Stage::Busy
        } else {
            Stage::Idle
        }
    }

    /// Uses of the type, that of the stage itself included.
    pub(super) fn count(self) -> u64 {
        match self.stage() {
            Stage::Leaving(_) => 1,
            _ => self.0 & Self::COUNT,
        }
    }

    /// Of a leaving table, the next on the list.
    pub(super) fn next(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn pinned(self) -> bool {
        self.0 & Self::PINNED != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use alloc::vec::Vec;

    #[test]
    fn a_word_tells_what_it_was_made_of() {
        let kinds = [
            FrameType::None,
            FrameType::Table(Level::L1),
            FrameType::Table(Level::L2),
            FrameType::Table(Level::L3),
            FrameType::Table(Level::L4),
            FrameType::Descriptors,
            FrameType::Writable,
        ];
        for kind in kinds {
            for position in [0, 1, 511, 512] {
                let stages = [
                    (TypeWord::idle(kind), Stage::Idle, 0),
                    (TypeWord::busy(kind), Stage::Busy, 1),
                    (TypeWord::valid(kind), Stage::Valid, 1),
                    (
                        TypeWord::partial(kind, position),
                        Stage::Partial(position),
                        1,
                    ),
                    (
                        TypeWord::leaving(kind, position, 0),
                        Stage::Leaving(position),
                        1,
                    ),
                    (
                        TypeWord::leaving(kind, position, u32::MAX),
                        Stage::Leaving(position),
                        1,
                    ),
                ];
                for (word, stage, count) in stages {
                    assert_eq!(
                        (word.kind(), word.stage(), word.count()),
                        (kind, stage, count)
                    );
                    assert!(!word.pinned());
                }
            }
        }
        assert_eq!(TypeWord::leaving(FrameType::None, 0, 77).next(), 77);
        assert!(TypeWord(TypeWord::valid(FrameType::Writable).0 | TypeWord::PINNED).pinned());
    }

    #[test]
    fn only_what_is_no_decision_is_counted_without_a_closer_look() {
        let tables = [Level::L1, Level::L2, Level::L3, Level::L4].map(FrameType::Table);
        let others = [FrameType::Descriptors, FrameType::Writable];
        let kinds: Vec<FrameType> = tables.into_iter().chain(others).collect();
        for &kind in &kinds {
            let valid = TypeWord::valid(kind);
            let pinned = TypeWord(valid.0 | TypeWord::PINNED);
            let most = TypeWord(valid.0 | TypeWord::COUNT);
            for &wanted in &kinds {
                let next = |word: TypeWord| word.used_again(wanted).map(|word| word.0);
                let same = |word: TypeWord| (wanted == kind).then_some(word.0 + 1);
                assert_eq!(next(valid), same(valid));
                assert_eq!(next(pinned), same(pinned));
                assert_eq!(next(most), None);
                for stage in [
                    TypeWord::busy(kind),
                    TypeWord::partial(kind, 3),
                    TypeWord::leaving(kind, 3, 5),
                ] {
                    assert_eq!(next(stage), None);
                    assert!(stage.used_less().is_none());
                }
                let writable = kind == wanted && kind == FrameType::Writable;
                assert_eq!(next(TypeWord::idle(kind)), writable.then_some(valid.0));
            }
            assert!(valid.used_less().is_none() && TypeWord::idle(kind).used_less().is_none());
            let two = TypeWord(valid.0 + 1);
            assert_eq!(two.used_less().map(|word| word.0), Some(valid.0));
        }
    }
}
