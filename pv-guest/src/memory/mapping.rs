//! Mappings of frames that are not this guest's own memory: those of another domain, and device
//! registers.

use core::cell::RefCell;
use core::ops::Deref;
use core::ptr::NonNull;

use critical_section::Mutex;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use super::window::Window;
use super::{MAP_BASE, MAP_PAGES, pfn_of, tables};
use crate::hypercall::Result;
use crate::pte::{Flags, PAGE_SIZE};
use crate::regions::Regions;

/// Free pages of the map range.
static FREE: Mutex<RefCell<Regions>> = Mutex::new(RefCell::new(Regions::new()));

pub(super) fn init() {
    critical_section::with(|cs| FREE.borrow_ref_mut(cs).give(0, MAP_PAGES));
}

/// What a mapping can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only; a write faults.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// Addresses of the map range that are its holder's, with nothing mapped where it does not say so.
/// They are given back when it is dropped, by when nothing may be mapped any more.
#[derive(Debug)]
pub(crate) struct Room {
    window: Window,
}

impl Room {
    /// Room for so many pages.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        if pages == 0 {
            return Err(Errno::EINVAL.into());
        }
        let page = critical_section::with(|cs| FREE.borrow_ref_mut(cs).take(pages as u64))
            .ok_or(Errno::ENOMEM)?;
        let address = MAP_BASE + page * PAGE_SIZE as u64;
        let base = NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize))
            .expect("the range is not at address 0");
        // SAFETY: nothing makes a reference into the map range, and what is mapped here goes when
        // the room does.
        let window = unsafe { Window::new(base, pages * PAGE_SIZE) };
        Ok(Self { window })
    }

    /// How many pages.
    pub(crate) fn pages(&self) -> usize {
        self.window.size() / PAGE_SIZE
    }

    /// What is mapped there.
    pub(crate) fn window(&self) -> &Window {
        &self.window
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let page = (self.window.address() - MAP_BASE) / PAGE_SIZE as u64;
        let pages = self.pages() as u64;
        critical_section::with(|cs| FREE.borrow_ref_mut(cs).give(page, pages));
    }
}

/// Frames mapped at consecutive addresses until it is dropped. It dereferences to a [`Window`], by
/// which they are used.
#[derive(Debug)]
pub struct Mapping {
    room: Room,
}

impl Mapping {
    /// Maps frames of another domain.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where no table can be had; `EINVAL` for a frame of this guest; else what the
    /// hypervisor says about the first frame that it refuses. Nothing stays mapped.
    pub fn foreign(domain: Domid, frames: &[Mfn], access: Access) -> Result<Self> {
        // This guest's own frames are memory that Rust code has references to.
        if frames.iter().any(|frame| pfn_of(*frame).is_some()) {
            return Err(Errno::EINVAL.into());
        }
        let flags = match access {
            Access::ReadOnly => Flags::READ,
            Access::ReadWrite => Flags::READ_WRITE,
        };
        Self::map(frames.iter().copied(), frames.len(), flags, domain)
    }

    /// Maps device registers: `pages` consecutive machine frames outside memory, uncached. The guest
    /// needs I/O permission for them.
    ///
    /// # Errors
    ///
    /// As [`Self::foreign`]; memory of any domain is refused.
    ///
    /// # Safety
    ///
    /// What the device is told by way of its registers must not make it touch memory that Rust code
    /// relies on.
    pub unsafe fn device(first: Mfn, pages: usize) -> Result<Self> {
        let frames = (first.0..).take(pages).map(Mfn);
        Self::map(frames, pages, Flags::DEVICE, Domid::IO)
    }

    /// Maps, read-only and cached, firmware tables and the like: as [`Self::device`], for what is
    /// memory to the machine but belongs to no domain.
    pub fn firmware(first: Mfn, pages: usize) -> Result<Self> {
        let frames = (first.0..).take(pages).map(Mfn);
        Self::map(frames, pages, Flags::READ, Domid::IO)
    }

    fn map(
        frames: impl Iterator<Item = Mfn>,
        pages: usize,
        flags: Flags,
        domain: Domid,
    ) -> Result<Self> {
        let room = Room::new(pages)?;
        let address = room.window().address();
        // From here on, dropping it unmaps what is mapped.
        let mapping = Self { room };
        // SAFETY: the addresses were free; the frames are not this guest's, as the callers saw to.
        unsafe { tables::map(address, frames, flags, domain) }?;
        Ok(mapping)
    }
}

impl Deref for Mapping {
    type Target = Window;

    fn deref(&self) -> &Window {
        self.room.window()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the window is the only way to the mapping.
        unsafe { tables::unmap(self.room.window().address(), self.room.pages()) }
            .expect("what was mapped can be unmapped");
    }
}
