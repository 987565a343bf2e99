//! [`Table`]: a domain as the one who grants: its entries, and which of them are in use.

use alloc::vec::Vec;

use hv_machine::{Machine, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::grant_table::*;
use hypercall_abi::types::{GrantRef, Mfn};

use super::active::{Active, Uses};
use super::entry::{Demand, Entry, Place, STATUSES, Target, V1_ENTRIES, V2_ENTRIES};
use super::{Limits, Status};
use crate::hypervisor::Hypervisor;
use crate::memory::Owner;

/// Frames that a table begins with.
const FIRST_FRAMES: usize = 1;
/// Bytes of the hypervisor's heap for each frame of a table, and some more.
const HEAP_PER_FRAME: usize = V1_ENTRIES * size_of::<Active>() + 256;

/// A domain's grant table.
pub struct Table {
    version: u32,
    /// The domain is being taken apart: its entries are gone, while what is in use stays so.
    closed: bool,
    /// Frames with entries; writable pages of the domain's.
    frames: Vec<Mfn>,
    /// Frames with the statuses of entries of version 2.
    statuses: Vec<Mfn>,
    /// For each frame as many as it can have entries.
    active: Vec<Vec<Active>>,
}

/// What [`Table::pin`] came to.
pub(super) struct Pinned {
    /// What the grant is of.
    pub(super) target: Target,
    /// Nobody used it before.
    pub(super) first: bool,
}

/// Frames with statuses for so many frames with entries.
pub(super) fn status_frames(frames: usize) -> usize {
    frames.saturating_mul(V2_ENTRIES).div_ceil(STATUSES)
}

/// Frames with entries for which it takes so many with statuses.
pub(super) fn entry_frames(statuses: usize) -> usize {
    statuses.saturating_mul(STATUSES) / V2_ENTRIES
}

impl Table {
    /// A table without frames.
    pub(super) fn new() -> Self {
        Self {
            version: 1,
            closed: false,
            frames: Vec::new(),
            statuses: Vec::new(),
            active: Vec::new(),
        }
    }

    /// Its version, 1 or 2.
    pub(super) fn version(&self) -> u32 {
        self.version
    }

    /// Frames with entries.
    pub(super) fn frames(&self) -> &[Mfn] {
        &self.frames
    }

    /// Frames with statuses.
    pub(super) fn statuses(&self) -> &[Mfn] {
        &self.statuses
    }

    fn entries_in_frame(&self) -> usize {
        if self.version == 1 {
            V1_ENTRIES
        } else {
            V2_ENTRIES
        }
    }

    /// Where an entry is.
    ///
    /// # Errors
    /// `GNTST_bad_gntref` where there is none, `GNTST_bad_domain` where they are gone.
    pub(super) fn place(&self, reference: GrantRef) -> Result<Place, Status> {
        if self.closed {
            return Err(GNTST_BAD_DOMAIN);
        }
        self.find(reference).ok_or(GNTST_BAD_GNTREF)
    }

    fn find(&self, reference: GrantRef) -> Option<Place> {
        let (index, in_frame) = (reference.0 as usize, self.entries_in_frame());
        let frame = self.frames.get(index / in_frame)?;
        let status = match self.version {
            1 => None,
            _ => {
                let frame = self.statuses.get(index / STATUSES)?;
                let place = index % STATUSES;
                let shift = 16 * (place as u32 % 4);
                Some((*frame, place / 4, shift))
            }
        };
        Some(Place {
            frame: *frame,
            word: index % in_frame * (V1_ENTRIES / in_frame),
            status,
        })
    }

    fn active_mut(&mut self, reference: GrantRef) -> Option<&mut Active> {
        let index = reference.0 as usize;
        let chunk = self.active.get_mut(index / V1_ENTRIES)?;
        chunk.get_mut(index % V1_ENTRIES)
    }

    /// Whether a grant is in use.
    pub(super) fn is_pinned(&self, reference: GrantRef) -> bool {
        let index = reference.0 as usize;
        let chunk = self.active.get(index / V1_ENTRIES);
        let active = chunk.and_then(|chunk| chunk.get(index % V1_ENTRIES));
        active.is_some_and(Active::pinned)
    }

    /// Grants in use, from `first` on.
    pub(super) fn active_from(&self, first: u32) -> impl Iterator<Item = (u32, &Active)> {
        let all = (0..).zip(self.active.iter().flatten());
        all.skip(first as usize)
    }

    /// Counts uses of a grant, if it is one to `domid` and for that, and marks it as used.
    ///
    /// # Errors
    /// `GNTST_*`.
    pub(super) fn pin(
        &mut self,
        hv: &Hypervisor,
        reference: GrantRef,
        uses: Uses,
        mut demand: Demand,
    ) -> Result<Pinned, Status> {
        let (place, version) = (self.place(reference)?, self.version);
        let active = self.active_mut(reference).ok_or(GNTST_BAD_GNTREF)?;
        active.admits(uses, demand.domid, demand.map)?;
        let first = !active.pinned();
        if first || demand.write && !active.written() {
            demand.pinned = !first;
            let machine = &hv.machine;
            let entry = place.take(machine, demand)?;
            if first {
                active.domid = demand.domid;
                active.target = entry.target(version);
            }
        }
        active.add(uses);
        let target = active.target;
        Ok(Pinned { target, first })
    }

    /// Takes uses of a grant away.
    pub(super) fn unpin(&mut self, hv: &Hypervisor, reference: GrantRef, uses: Uses) {
        let Some(active) = self.active_mut(reference) else {
            return;
        };
        let marks = active.remove(uses);
        if marks != 0
            && let Ok(place) = self.place(reference)
        {
            let machine = &hv.machine;
            place.give_back(machine, marks);
        }
    }

    /// Gives it `wanted` frames, if it has less. `None`, with nothing changed, where that is beyond its limit, the domain
    /// is being taken apart, or there is no memory.
    #[must_use]
    pub(super) fn grow(
        &mut self,
        hv: &Hypervisor,
        owner: &Owner,
        limits: &Limits,
        wanted: usize,
    ) -> Option<()> {
        if self.closed || wanted > limits.max_frames as usize {
            return None;
        }
        let wanted = wanted.max(FIRST_FRAMES).max(self.frames.len());
        let mut new = Vec::new();
        let more = wanted - self.frames.len();
        hv.reserve_heap(more.saturating_mul(HEAP_PER_FRAME)).ok()?;
        for _ in 0..more {
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(V1_ENTRIES).ok()?;
            chunk.resize(V1_ENTRIES, Active::NONE);
            new.try_reserve(1).ok()?;
            new.push(chunk);
        }
        let statuses = match self.version {
            1 => Vec::new(),
            _ => share(hv, owner, self.statuses.len()..status_frames(wanted))?,
        };
        let Some(frames) = share(hv, owner, self.frames.len()..wanted) else {
            let release = |&mfn: &Mfn| hv.memory.release_shared(mfn);
            statuses.iter().for_each(release);
            return None;
        };
        self.statuses.extend(statuses);
        self.frames.extend(frames);
        self.active.extend(new);
        Some(())
    }

    /// Gives its frames back, and grants no more.
    pub(super) fn close(&mut self, hv: &Hypervisor) {
        self.closed = true;
        for mfn in self.frames.drain(..).chain(self.statuses.drain(..)) {
            hv.memory.release_shared(mfn);
        }
    }

    /// Changes its version. The first few entries stay, which a toolstack may have made and mapped.
    ///
    /// # Errors
    /// `EBUSY` where another entry is in use, or a status frame is still mapped; `ERANGE` where one of the first entries
    /// cannot be told in version 1; `ENOMEM`.
    pub(super) fn set_version(
        &mut self,
        hv: &Hypervisor,
        owner: &Owner,
        version: u32,
    ) -> Result<(), Errno> {
        let in_use = |(_, active): (u32, &Active)| active.pinned();
        if self.active_from(GNTTAB_NR_RESERVED_ENTRIES).any(in_use) {
            return Err(Errno::EBUSY);
        }
        let machine = &hv.machine;
        let mut kept = [(Entry::default(), 0); GNTTAB_NR_RESERVED_ENTRIES as usize];
        for (number, kept) in (0..).zip(&mut kept) {
            let Ok(place) = self.place(GrantRef(number)) else {
                continue;
            };
            let entry = place.read(machine);
            let next = match self.version {
                1 => in_version_2(entry),
                _ => in_version_1(entry)?,
            };
            *kept = (next, place.marks(machine));
        }
        if version == 1 {
            self.drop_statuses(hv, owner)?;
        } else {
            let statuses = share(hv, owner, 0..status_frames(self.frames.len()));
            self.statuses = statuses.ok_or(Errno::ENOMEM)?;
        }
        self.version = version;
        for &mfn in &self.frames {
            hv.machine.zero_frame(mfn);
        }
        for (number, (entry, marks)) in (0..).zip(kept) {
            if let Ok(place) = self.place(GrantRef(number)) {
                place.write(machine, entry);
                if entry.flags() & GTF_TYPE_MASK == GTF_PERMIT_ACCESS || version == 2 {
                    place.set_marks(machine, marks);
                }
            }
        }
        Ok(())
    }

    /// Gives the status frames back, which nobody may still have a mapping of: it would be one of whatever they become,
    /// or, as long as they remain, memory beyond the domain's limit.
    fn drop_statuses(&mut self, hv: &Hypervisor, owner: &Owner) -> Result<(), Errno> {
        while let Some(&mfn) = self.statuses.last() {
            if let Err(errno) = hv.memory.release_unused_shared(mfn) {
                let missing = status_frames(self.frames.len()) - self.statuses.len();
                // Should others have taken what was given back, entries without a status can grant nothing.
                let again = share(hv, owner, 0..missing);
                self.statuses.extend(again.unwrap_or_default());
                return Err(errno);
            }
            self.statuses.pop();
        }
        Ok(())
    }

    /// Exchanges two entries that are not in use.
    ///
    /// # Errors
    /// `GNTST_bad_gntref`, `GNTST_eagain`.
    pub(super) fn swap(&self, machine: &Machine, a: GrantRef, b: GrantRef) -> Result<(), Status> {
        let (at_a, at_b) = (self.place(a)?, self.place(b)?);
        if a == b {
            return Ok(());
        }
        if self.is_pinned(a) || self.is_pinned(b) {
            return Err(GNTST_EAGAIN);
        }
        let both = [at_a, at_b].map(|place| (place.read(machine), place.marks(machine)));
        for (place, (entry, marks)) in [at_b, at_a].into_iter().zip(both) {
            place.write(machine, entry);
            if self.version == 2 {
                place.set_marks(machine, marks);
            }
        }
        Ok(())
    }
}

/// New pages of a domain's, for the hypervisor's use and its own; `None` where there is no memory.
fn share(hv: &Hypervisor, owner: &Owner, numbers: core::ops::Range<usize>) -> Option<Vec<Mfn>> {
    let mut frames = Vec::new();
    frames.try_reserve_exact(numbers.len()).ok()?;
    for _ in numbers {
        match hv.memory.allocate_shared(owner) {
            Ok(mfn) => frames.push(mfn),
            Err(_) => {
                frames.iter().for_each(|&mfn| hv.memory.release_shared(mfn));
                return None;
            }
        }
    }
    Some(frames)
}

/// An entry of version 1 as one of version 2.
fn in_version_2(entry: Entry) -> Entry {
    let marks = u64::from(GTF_READING | GTF_WRITING);
    Entry {
        first: entry.first & u64::from(u32::MAX) & !marks,
        second: entry.first >> 32,
    }
}

/// An entry of version 2 as one of version 1; an empty one for what that has not.
fn in_version_1(entry: Entry) -> Result<Entry, Errno> {
    match entry.kind() {
        GTF_PERMIT_ACCESS if entry.second >> 32 != 0 => Err(Errno::ERANGE),
        GTF_TRANSITIVE => Err(Errno::ERANGE),
        GTF_PERMIT_ACCESS => Ok(Entry {
            first: entry.first & u64::from(u32::MAX) | entry.second << 32,
            second: 0,
        }),
        _ => Ok(Entry::default()),
    }
}
