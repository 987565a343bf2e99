//! [`Owner`]: a domain as memory knows it: its frames, its limit, and the I/O memory it may map.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use super::frame::List;
use super::teardown::Leaving;
use crate::domain::{covers, set_range};
use crate::lock::{Mutex, RwLock, rank};

/// A domain's memory account.
pub struct Owner {
    /// The domain.
    pub id: Domid,
    /// Most frames that it may own.
    max_frames: AtomicU64,
    /// Frames in its list that do not count against the limit: they serve the hypervisor.
    pub(super) uncounted: AtomicU64,
    /// Free frames that are set aside for it.
    pub(super) claim: AtomicU64,
    /// Its frames, linked through the frame table.
    pub(super) lists: Mutex<Lists, { rank::PAGES }>,
    /// Its page tables that nobody uses any more.
    pub(super) leaving: Leaving,
    /// Its end has begun; see [`Self::close`].
    pub(super) closed: AtomicBool,
    /// Frame ranges, ends included, of I/O memory that it may map.
    io_memory: RwLock<Vec<(u64, u64)>, { rank::SETTINGS }>,
}

/// An owner's frames.
pub(super) struct Lists {
    /// Its reservation.
    pub(super) allocated: List,
    /// Frames that it gave up, or lost by its end, and that are still referred to.
    pub(super) lingering: List,
}

impl Owner {
    /// An account without frames.
    pub(super) fn new(id: Domid, max_frames: u64) -> Self {
        Self {
            id,
            max_frames: AtomicU64::new(max_frames),
            uncounted: AtomicU64::new(0),
            claim: AtomicU64::new(0),
            lists: Mutex::new(Lists {
                allocated: List::EMPTY,
                lingering: List::EMPTY,
            }),
            leaving: Leaving::new(),
            closed: AtomicBool::new(false),
            io_memory: RwLock::new(Vec::new()),
        }
    }

    /// Frames that it owns (`tot_pages`).
    pub fn frames(&self) -> u64 {
        let owned = {
            let lists = self.lists.lock();
            lists.allocated.len + lists.lingering.len
        };
        owned.saturating_sub(self.uncounted.load(Ordering::Relaxed))
    }

    /// Whether it owns as many as it may.
    pub fn is_full(&self) -> bool {
        self.frames() >= self.max_frames()
    }

    /// Counts frames more, or less, that serve the hypervisor.
    pub(super) fn count_shared(&self, more: i64) {
        self.uncounted.fetch_add(more as u64, Ordering::Relaxed);
    }

    /// Most frames that it may own (`max_pages`).
    pub fn max_frames(&self) -> u64 {
        self.max_frames.load(Ordering::Relaxed)
    }

    /// Frames that are set aside for it (`outstanding_pages`).
    pub fn claim(&self) -> u64 {
        self.claim.load(Ordering::Relaxed)
    }

    /// Sets [`Self::max_frames`]; it may be below what it owns, which then can only shrink.
    pub fn set_max_frames(&self, frames: u64) {
        self.max_frames.store(frames, Ordering::Relaxed);
    }

    /// Whether it may map I/O memory from frame `first` to `last`.
    pub fn io_memory_allowed(&self, first: Mfn, last: Mfn) -> bool {
        covers(&self.io_memory.read(), first.0, last.0)
    }

    /// Whether it may map any I/O memory at all.
    pub fn has_io_memory(&self) -> bool {
        !self.io_memory.read().is_empty()
    }

    /// Allows or forbids I/O memory from frame `first` to `last`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn set_io_memory(&self, first: Mfn, last: Mfn, allow: bool) -> Result<(), Errno> {
        set_range(&mut self.io_memory.write(), first.0, last.0, allow)
    }
}
