//! Pages of user memory: frames with a count of the entries that map them, over all address spaces.

use alloc::boxed::Box;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use hypercall_abi::types::{Mfn, Pfn};
use spin::Once;

use crate::memory::{self, Frames, address_of};
use crate::pte::PAGE_SIZE;

/// How many references there are to each of the guest's frames, by number.
static COUNTS: Once<Box<[AtomicU32]>> = Once::new();

/// A reference to a page of user memory; the page is free when the last one is gone. An entry of a
/// user page table that maps the page holds one, as its machine frame.
pub(super) struct Page(Pfn);

impl Page {
    /// A page of zeroes.
    pub(super) fn zeroed() -> Option<Self> {
        let frame = Frames::zeroed(0)?;
        let pfn = frame.pfn();
        frame.leak();
        let page = Self(pfn);
        page.count().store(1, Relaxed);
        Some(page)
    }

    /// Another page with the same contents.
    pub(super) fn copied(&self) -> Option<Self> {
        let copy = Self::zeroed()?;
        // SAFETY: both are whole frames; the new one is used by nothing, and whoever writes to the
        // old one meanwhile has to expect that either value is copied.
        unsafe { memory::copy(copy.memory().as_ptr(), self.memory().as_ptr(), PAGE_SIZE) };
        Some(copy)
    }

    /// Another reference.
    pub(super) fn share(&self) -> Self {
        self.count().fetch_add(1, Relaxed);
        Self(self.0)
    }

    /// Whether this is the only reference. Who holds it, in a table that he has locked, can rely on
    /// that: nobody else has one to share.
    pub(super) fn is_unique(&self) -> bool {
        self.count().load(Acquire) == 1
    }

    /// The page's contents, in the linear map.
    pub(super) fn memory(&self) -> NonNull<u8> {
        let address = core::ptr::with_exposed_provenance_mut(address_of(self.0) as usize);
        NonNull::new(address).expect("the linear map is not at address 0")
    }

    /// Its machine frame.
    pub(super) fn mfn(&self) -> Mfn {
        memory::mfn_of(self.0).expect("pages have machine frames")
    }

    /// The reference as an entry holds it.
    pub(super) fn into_entry(self) -> Mfn {
        let mfn = self.mfn();
        core::mem::forget(self);
        mfn
    }

    /// The reference that an entry holds.
    ///
    /// # Safety
    ///
    /// The frame came from [`Self::into_entry`], and the entry is not used as holder any more,
    /// unless the page is given back to it.
    pub(super) unsafe fn from_entry(mfn: Mfn) -> Self {
        Self(memory::pfn_of(mfn).expect("user memory is the guest's own"))
    }

    fn count(&self) -> &'static AtomicU32 {
        let counts = COUNTS.call_once(|| {
            let frames = memory::frame_count() as usize;
            (0..frames).map(|_| AtomicU32::new(0)).collect()
        });
        &counts[self.0.0 as usize]
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if self.count().fetch_sub(1, AcqRel) == 1 {
            // SAFETY: the frame was leaked as a block of one, and nothing maps or uses it.
            drop(unsafe { Frames::reclaim(self.memory(), 0) });
        }
    }
}
