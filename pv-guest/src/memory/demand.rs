//! Memory that exists when it is touched: pages of zeroes, mapped by the page-fault handler.
//!
//! Its frames are in the linear map as well, where nothing refers to them while they are here.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;
use core::ptr::NonNull;

use critical_section::Mutex;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;
use hypercall_abi::xen::UVMF_NONE;

use super::batch::Batch;
use super::frames::Frames;
use super::{DEMAND_BASE, DEMAND_PAGES, pfn_of, root, tables};
use crate::hypercall::{Result, mmu};
use crate::pte::{Flags, PAGE_SIZE, Pte, index};
use crate::regions::Regions;
use crate::sync;

const PAGE: u64 = PAGE_SIZE as u64;

/// Free pages of the demand range.
static FREE: Mutex<RefCell<Regions>> = Mutex::new(RefCell::new(Regions::new()));

/// Held while a page is mapped, so that two vCPUs that touch it do not map one each.
static MAPPING: sync::Mutex<()> = sync::Mutex::new(());

pub(super) fn init() {
    critical_section::with(|cs| FREE.borrow_ref_mut(cs).give(0, DEMAND_PAGES));
}

/// Addresses whose pages get memory when they are touched, and are zeroes then. Without memory for a
/// page the guest panics.
///
/// A hypercall touches nothing: what is handed to one must have been touched before.
#[derive(Debug)]
pub struct DemandMemory {
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: it owns the memory as a `Vec` would; the page-fault handler serves every vCPU.
unsafe impl Send for DemandMemory {}
// SAFETY: as above.
unsafe impl Sync for DemandMemory {}

impl DemandMemory {
    /// So many pages, none of which is there yet.
    ///
    /// # Errors
    ///
    /// `EINVAL` for no pages, `ENOMEM` where so many addresses are not free.
    pub fn new(pages: usize) -> Result<Self> {
        if pages == 0 {
            return Err(Errno::EINVAL.into());
        }
        let page = critical_section::with(|cs| FREE.borrow_ref_mut(cs).take(pages as u64))
            .ok_or(Errno::ENOMEM)?;
        let address = DEMAND_BASE + page * PAGE;
        let base = NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize))
            .expect("the range is not at address 0");
        Ok(Self { base, pages })
    }

    /// The memory.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: owned, borrowed as the holder is, and zeroes where it was not written.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr(), self.pages * PAGE_SIZE) }
    }

    /// The memory, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and exclusively borrowed.
        unsafe { core::slice::from_raw_parts_mut(self.base.as_ptr(), self.pages * PAGE_SIZE) }
    }

    /// How many of the pages have memory.
    pub fn resident(&self) -> usize {
        self.mapped(0..self.pages).count()
    }

    /// Gives the memory of these pages back: they are zeroes again, until they are touched.
    ///
    /// # Panics
    ///
    /// Where there are no such pages.
    pub fn release(&mut self, pages: Range<usize>) {
        assert!(pages.start <= pages.end && pages.end <= self.pages);
        let mut batch = Batch::default();
        let mut frames: Vec<Mfn> = Vec::new();
        for (place, frame) in self.mapped(pages) {
            batch.set(place, Pte::EMPTY);
            frames.push(frame);
        }
        if frames.is_empty() {
            return;
        }
        batch.flush_all();
        // SAFETY: the memory is exclusively borrowed, and promises nothing but zeroes.
        unsafe { batch.send() }.expect("what was mapped can be unmapped");
        for frame in frames {
            let pfn = pfn_of(frame).expect("the memory is the guest's own");
            // SAFETY: the fault handler leaked it as a block of one, and it is mapped nowhere else.
            drop(unsafe { Frames::reclaim_frame(pfn) });
        }
    }

    /// The machine addresses of the entries of those pages that have memory, and its frames.
    fn mapped(&self, pages: Range<usize>) -> impl Iterator<Item = (u64, Mfn)> {
        let base = self.base.as_ptr().expose_provenance() as u64;
        pages.filter_map(move |page| {
            let address = base + page as u64 * PAGE;
            let (table, entry) = tables::walk(root(), address, 1)?;
            let place = tables::entry_address(table, index(address, 1));
            Some((place, entry.frame()?))
        })
    }
}

impl Drop for DemandMemory {
    fn drop(&mut self) {
        self.release(0..self.pages);
        let page = (self.base.as_ptr().expose_provenance() as u64 - DEMAND_BASE) / PAGE;
        critical_section::with(|cs| FREE.borrow_ref_mut(cs).give(page, self.pages as u64));
    }
}

/// Serves a page fault of the kernel, if it is the touch of a page that is to get memory. It uses no
/// heap, which the code that faulted may be using.
pub(crate) fn serve(address: u64, error_code: u64) -> bool {
    const PRESENT: u64 = 1;
    if error_code & PRESENT != 0
        || !(DEMAND_BASE..DEMAND_BASE + DEMAND_PAGES * PAGE).contains(&address)
    {
        return false;
    }
    let page = (address - DEMAND_BASE) / PAGE;
    if critical_section::with(|cs| FREE.borrow_ref(cs).contains(page)) {
        return false;
    }
    let _mapping = MAPPING.lock();
    let table = tables::table_for(address).expect("a table for touched memory");
    if tables::read(table, index(address, 1)).is_present() {
        // Another vCPU touched it too.
        return true;
    }
    let frame = Frames::zeroed(0).expect("memory for a page that is touched");
    let entry = tables::entry(frame.mfn(), Flags::READ_WRITE);
    // SAFETY: nothing was there, and the address is the owner's alone.
    unsafe { mmu::update_va_mapping(address, entry.0, UVMF_NONE) }.expect("a page can be mapped");
    frame.leak();
    true
}
