//! Stacks for further vCPUs.

use core::ops::Range;

use hypercall_abi::errno::Errno;

use super::frames::Frames;
use super::{address_of, tables};
use crate::hypercall::Result;
use crate::pte::PAGE_SIZE;

/// Frames of a stack, as a power of two: 128 KiB.
const ORDER: u32 = 5;

/// A stack whose lowest page is not mapped, so that running beyond it faults.
pub(crate) struct Stack(Frames);

impl Stack {
    /// # Errors
    ///
    /// `ENOMEM`, or what the hypervisor says about the page to unmap.
    pub(crate) fn new() -> Result<Self> {
        let frames = Frames::zeroed(ORDER).ok_or(Errno::ENOMEM)?;
        // SAFETY: the frames are this function's, and nothing refers to them.
        unsafe { tables::set_linear(frames.pfn(), None) }?;
        Ok(Self(frames))
    }

    /// Its addresses without the guard page, for ever.
    pub(crate) fn leak(self) -> Range<u64> {
        let bottom = address_of(self.0.pfn());
        let size = self.0.count() as u64 * PAGE_SIZE as u64;
        self.0.leak();
        bottom + PAGE_SIZE as u64..bottom + size
    }
}
