//! Free frames: a buddy allocator over the linear map.

use core::alloc::Layout;
use core::cell::RefCell;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

use buddy_system_allocator::Heap;
use critical_section::Mutex;
use hypercall_abi::types::{Mfn, Pfn};

use super::{address_of, mfn_of, pfn_at};
use crate::pte::PAGE_SIZE;

/// Free blocks are of up to 2^(ORDERS - 1) bytes.
const ORDERS: usize = 40;

static FREE: Mutex<RefCell<Heap<ORDERS>>> = Mutex::new(RefCell::new(Heap::empty()));

fn block(order: u32) -> Layout {
    let size = PAGE_SIZE << order;
    Layout::from_size_align(size, size).expect("a power of two")
}

/// Adds frames to the free ones.
///
/// # Safety
///
/// The frames must be mapped writable in the linear map and be used by nothing.
pub(super) unsafe fn add(frames: Range<u64>) {
    let [start, end] = [frames.start, frames.end].map(|pfn| address_of(Pfn(pfn)) as usize);
    // SAFETY: the caller's promise.
    critical_section::with(|cs| unsafe { FREE.borrow_ref_mut(cs).add_to_heap(start, end) });
}

/// Takes out a block of 2^order frames.
pub(super) fn take(order: u32) -> Option<NonNull<u8>> {
    if order as usize + PAGE_SIZE.trailing_zeros() as usize >= ORDERS {
        return None;
    }
    critical_section::with(|cs| FREE.borrow_ref_mut(cs).alloc(block(order)).ok())
}

/// Bytes that are free.
pub(super) fn free_bytes() -> usize {
    critical_section::with(|cs| {
        let free = FREE.borrow_ref(cs);
        free.stats_total_bytes() - free.stats_alloc_actual()
    })
}

/// A block of 2^order frames with consecutive pseudo-physical numbers, aligned to its size. The
/// machine frames behind it are another matter: see [`super::DmaMemory`].
///
/// The memory belongs to the holder alone. What is to be shared with a device or another domain is
/// a [`super::DmaMemory`] from the start. The number of a machine frame gives no access by itself:
/// whatever would map it a second time, or tell it to a device, is unsafe or refuses such frames.
pub struct Frames {
    base: NonNull<u8>,
    order: u32,
}

// SAFETY: it owns the memory as a `Vec` would.
unsafe impl Send for Frames {}
// SAFETY: as above.
unsafe impl Sync for Frames {}

impl Frames {
    /// 2^order frames, all zeroes; `None` where no such block is free.
    pub fn zeroed(order: u32) -> Option<Self> {
        let base = take(order)?;
        // SAFETY: the block is this long, mapped, and nobody else's.
        unsafe { base.write_bytes(0, PAGE_SIZE << order) };
        Some(Self { base, order })
    }

    /// The first frame.
    pub fn pfn(&self) -> Pfn {
        pfn_at(self.base.as_ptr().expose_provenance() as u64)
    }

    /// The first machine frame.
    pub(crate) fn mfn(&self) -> Mfn {
        mfn_of(self.pfn()).expect("free frames have machine frames")
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        1 << self.order
    }

    /// The memory.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: owned, initialised, and borrowed as the holder is.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr(), PAGE_SIZE << self.order) }
    }

    /// The memory, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: owned, initialised, and exclusively borrowed as the holder is.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr(), PAGE_SIZE << self.order) }
    }

    /// Takes back what [`Self::leak`] gave up.
    ///
    /// # Safety
    ///
    /// The block was one of 2^order frames, and is used by nothing else any more.
    pub(crate) unsafe fn reclaim(base: NonNull<u8>, order: u32) -> Self {
        Self { base, order }
    }

    /// Takes one frame back that was given up.
    ///
    /// # Safety
    ///
    /// As for [`Self::reclaim`]; it is mapped.
    pub(super) unsafe fn reclaim_frame(pfn: Pfn) -> Self {
        let base = core::ptr::with_exposed_provenance_mut(address_of(pfn) as usize);
        let base = NonNull::new(base).expect("the linear map is not at address 0");
        // SAFETY: the caller's promise.
        unsafe { Self::reclaim(base, 0) }
    }

    /// Gives up ownership without freeing; the first frame.
    pub(super) fn leak_frame(self) -> Pfn {
        let pfn = self.pfn();
        self.leak();
        pfn
    }

    /// Gives up ownership without freeing; the first byte.
    pub(crate) fn leak(self) -> NonNull<u8> {
        let base = self.base;
        core::mem::forget(self);
        base
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: the block came from `take` with this order and is used by nothing any more.
        critical_section::with(|cs| unsafe {
            FREE.borrow_ref_mut(cs)
                .dealloc(self.base, block(self.order));
        });
    }
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frames({}, order {})", self.pfn(), self.order)
    }
}
