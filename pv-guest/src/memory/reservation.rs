//! This domain's reservation: frames that go back to the hypervisor, and come from it.
//!
//! A frame that is given away is one of the free ones; the list of frames has a hole there, and the
//! linear map another, until the hypervisor gives another frame for it.

use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::AcqRel;

use hypercall_abi::types::{Domid, Mfn, Pfn};

use super::batch::Batch;
use super::frames::{self, Frames};
use super::{address_of, layout, mfn_of, tables};
use crate::balloon::Reservation;
use crate::hypercall::{Result, memory};
use crate::pte::{Flags, PAGE_SIZE, Pte};
use crate::regions::Regions;

/// The one way to change how many frames there are.
#[derive(Debug)]
pub struct OwnReservation {
    /// Pseudo-physical frames without a machine frame.
    holes: Regions,
    /// Frames from here on never were.
    known: u64,
    limit: u64,
}

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The memory that this domain has, in pages.
pub fn pages() -> Result<u64> {
    memory::current_reservation(Domid::SELF)
}

impl OwnReservation {
    /// Takes charge of it; `None` if somebody else did.
    pub fn take() -> Option<Self> {
        if TAKEN.swap(true, AcqRel) {
            return None;
        }
        let (known, limit) = (layout().boot_frames, layout().p2m.len());
        let mut holes = Regions::new();
        if known < limit {
            holes.give(known, limit - known);
        }
        Some(Self {
            holes,
            known,
            limit,
        })
    }

    /// Has no more than `limit` pages from here on.
    pub fn restrict(&mut self, limit: u64) {
        self.limit = self.limit.min(limit);
    }

    /// Gets machine frames for these pseudo-physical ones; how many.
    fn fill(&mut self, first: u64, count: u64) -> Result<u64> {
        for pfn in first..first + count {
            tables::table_for(address_of(Pfn(pfn)))?;
        }
        let mut extents: Vec<u64> = (first..first + count).collect();
        let done = memory::populate_physmap(Domid::SELF, &mut extents, 0, 0)?;
        let end = first + extents.len().min(done) as u64;
        let got = (first..end).map(Pfn).zip(extents.into_iter().map(Mfn));
        for (pfn, mfn) in got.clone() {
            layout().p2m.set(pfn, Some(mfn));
        }
        remap(got.map(|(pfn, mfn)| (pfn, Some(mfn))));
        for pfn in first..end.min(self.known) {
            // SAFETY: it was leaked when it was given away, and is mapped again.
            drop(unsafe { Frames::reclaim_frame(Pfn(pfn)) });
        }
        let new = first.max(self.known)..end.max(self.known);
        self.known = new.end;
        // SAFETY: they are mapped, and nothing knows of them yet.
        unsafe { frames::add(new) };
        Ok(end - first)
    }
}

/// Puts other machine frames, or none, behind frames of the linear map that nothing uses.
fn remap(frames: impl Iterator<Item = (Pfn, Option<Mfn>)>) {
    let mut batch = Batch::default();
    for (pfn, mfn) in frames {
        let place = tables::machine_entry(address_of(pfn)).expect("the linear map has a table");
        let entry = mfn.map_or(Pte::EMPTY, |mfn| tables::entry(mfn, Flags::READ_WRITE));
        batch.set(place, entry);
    }
    batch.flush_all();
    // SAFETY: the callers' frames are free, or not known to anything yet.
    unsafe { batch.send() }.expect("free frames can be mapped and unmapped");
}

impl Reservation for OwnReservation {
    fn pages(&self) -> u64 {
        // A domain may always ask for its own.
        pages().unwrap_or(0)
    }

    fn limit(&self) -> u64 {
        self.limit
    }

    fn free(&self) -> u64 {
        (frames::free_bytes() / PAGE_SIZE) as u64
    }

    fn give(&mut self, pages: u64) -> u64 {
        // Xen does not scrub what a domain gives away while it lives, before others get it.
        let frames: Vec<Frames> = (0..pages).map_while(|_| Frames::zeroed(0)).collect();
        let mut machine: Vec<u64> = frames.iter().map(|frame| frame.mfn().0).collect();
        let frames: Vec<Pfn> = frames.into_iter().map(Frames::leak_frame).collect();
        remap(frames.iter().map(|pfn| (*pfn, None)));
        // SAFETY: the frames were free, and are mapped nowhere.
        let given = unsafe { memory::decrease_reservation(Domid::SELF, &mut machine, 0) };
        let (gone, kept) = frames.split_at(given.unwrap_or(0).min(frames.len()));
        for pfn in gone {
            layout().p2m.set(*pfn, None);
            self.holes.give(pfn.0, 1);
        }
        remap(kept.iter().map(|pfn| (*pfn, mfn_of(*pfn))));
        for pfn in kept {
            // SAFETY: it was leaked above, and is mapped again.
            drop(unsafe { Frames::reclaim_frame(*pfn) });
        }
        gone.len() as u64
    }

    fn take(&mut self, pages: u64) -> u64 {
        let Some((first, count)) = self.holes.take_some(pages) else {
            return 0;
        };
        let done = self.fill(first, count).unwrap_or(0);
        if done < count {
            self.holes.give(first + done, count - done);
        }
        done
    }
}
