//! What a simulated processor remembers of its page walks.
//!
//! A real one may keep a translation, and the tables that it passed on the way there, for as long as nobody makes it
//! forget them, and it may walk ahead to whatever its root reaches. This one keeps everything: an access goes through
//! what was remembered of an earlier one as long as that allows it. Where [`super::Machine::remember_all`] is called,
//! it has walked everywhere.

use std::collections::{BTreeMap, BTreeSet};

use hypercall_abi::types::Mfn;

use super::{Machine, walk};

/// What a processor may use a frame for without a look at the tables that led it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remembered {
    /// Reads of it as a guest's page.
    Page,
    /// Writes to it as a guest's page.
    WritablePage,
    /// Walks through it as a table.
    Table {
        /// Its level, 1 to 4.
        level: u32,
        /// Whether all entries on the way to it allow writes.
        writable: bool,
    },
}

/// One processor's memory.
#[derive(Debug, Default)]
pub(super) struct Tlb {
    /// Walks that an access made: level of what was found (0 for a page), address bits that the walk went by,
    /// frame, and whether all entries on the way allow writes.
    walks: BTreeSet<(u32, u64, Mfn, bool)>,
    /// Uses of frames, by accesses and by walking ahead.
    uses: BTreeMap<Mfn, BTreeSet<Remembered>>,
}

/// The bits of an address that choose a page (level 0) or a table of this level.
fn prefix(va: u64, level: u32) -> u64 {
    va >> (12 + 9 * level)
}

impl Tlb {
    /// Forgets everything: a flush, or a change of the root.
    pub(super) fn clear(&mut self) {
        self.walks.clear();
        self.uses.clear();
    }

    /// Forgets the page at `va` and the tables on the way to it (`invlpg`). That a processor may have walked to the
    /// same frames by other addresses stays.
    pub(super) fn forget_page(&mut self, va: u64) {
        self.walks
            .retain(|&(level, by, ..)| by != prefix(va, level));
    }

    /// What is remembered.
    pub(super) fn uses(&self) -> impl Iterator<Item = (Mfn, Remembered)> {
        let all = self.uses.iter();
        all.flat_map(|(&mfn, uses)| uses.iter().map(move |&remembered| (mfn, remembered)))
    }

    fn find(&self, level: u32, va: u64, write: bool) -> Option<(Mfn, bool)> {
        let by = prefix(va, level);
        let first = (level, by, Mfn(0), false);
        let last = (level, by, Mfn(u64::MAX), true);
        let mut found = self.walks.range(first..=last);
        found
            .find(|&&(.., writable)| writable || !write)
            .map(|&(_, _, mfn, writable)| (mfn, writable))
    }

    fn enter(&mut self, level: u32, va: u64, mfn: Mfn, writable: bool) {
        self.walks.insert((level, prefix(va, level), mfn, writable));
        let remembered = match level {
            0 if writable => Remembered::WritablePage,
            0 => Remembered::Page,
            level => Remembered::Table { level, writable },
        };
        self.note(mfn, remembered);
    }

    fn note(&mut self, mfn: Mfn, remembered: Remembered) {
        self.uses.entry(mfn).or_default().insert(remembered);
    }

    /// The frame that `va` names under `root`, if ring 3 may access it so, by what is remembered first.
    pub(super) fn translate(
        &mut self,
        machine: &Machine,
        root: Mfn,
        va: u64,
        write: bool,
    ) -> Option<Mfn> {
        if let Some((mfn, _)) = self.find(0, va, write) {
            return Some(mfn);
        }
        let from = (1..4).find_map(|level| {
            let (table, writable) = self.find(level, va, write)?;
            Some((table, level, writable))
        });
        if let Some((table, level, writable)) = from
            && let Some(mfn) = self.walk(machine, (table, level, writable), va, write)
        {
            return Some(mfn);
        }
        // A fault makes the processor forget the address, and the access is tried once more.
        self.forget_page(va);
        self.walk(machine, (root, 4, true), va, write)
    }

    fn walk(
        &mut self,
        machine: &Machine,
        (mut table, mut level, mut writable): (Mfn, u32, bool),
        va: u64,
        write: bool,
    ) -> Option<Mfn> {
        loop {
            let found = walk::look_up(machine, table, level, va)?;
            writable &= found.writable;
            if write && !writable {
                return None;
            }
            if found.page {
                self.enter(0, va, found.mfn, writable);
                return Some(found.mfn);
            }
            (table, level) = (found.mfn, level - 1);
            self.enter(level, va, table, writable);
        }
    }

    /// Walks from the root, and from every remembered table, to whatever they reach, but not through the L1 table that
    /// is left out, if there is one.
    pub(super) fn walk_ahead(&mut self, machine: &Machine, root: Mfn, left_out: Option<Mfn>) {
        let tables = self
            .uses()
            .filter_map(|(mfn, remembered)| match remembered {
                Remembered::Table { level, writable } => Some((mfn, level, writable)),
                _ => None,
            });
        let mut waiting: Vec<_> = tables.collect();
        waiting.push((root, 4, true));
        let mut seen = BTreeSet::new();
        while let Some((table, level, writable)) = waiting.pop() {
            if !seen.insert((table, level, writable)) {
                continue;
            }
            self.note(table, Remembered::Table { level, writable });
            for found in walk::entries(machine, table, level).iter() {
                let writable = writable && found.writable;
                if level == 2 && Some(found.mfn) == left_out {
                    continue;
                }
                if !found.page {
                    waiting.push((found.mfn, level - 1, writable));
                } else if writable {
                    self.note(found.mfn, Remembered::WritablePage);
                } else {
                    self.note(found.mfn, Remembered::Page);
                }
            }
        }
    }
}
