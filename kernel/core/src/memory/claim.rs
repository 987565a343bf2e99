//! Giving frames to owners, and setting free frames aside for them (`XENMEM_claim_pages`).
//!
//! A claim is a number: so many of the free frames, whichever, are kept from everybody else until their owner takes
//! them or the claim is given up. It lets a toolstack know at once whether a domain that it builds will fit.

use core::sync::atomic::Ordering;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;

use super::{Memory, Owner, SCRUB_BATCH};

/// A block of frames that an owner asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Size, as a power of two of frames.
    pub order: u32,
    /// It is to lie below this frame.
    pub limit: u64,
    /// Whether the owner gives as many frames for it, so that neither its limit nor its claim is touched.
    pub exchange: bool,
}

impl Memory {
    /// Takes 2^`order` zeroed frames below frame `limit` for an owner, within what it may own.
    ///
    /// # Errors
    /// As [`Self::allocate_in_time`].
    pub fn allocate(&self, owner: &Owner, order: u32, limit: u64) -> Result<Mfn, Errno> {
        let wanted = Wanted {
            order,
            limit,
            exchange: false,
        };
        loop {
            if let Some(first) = self.allocate_in_time(owner, &wanted, &mut || false)? {
                return Ok(first);
            }
        }
    }

    /// Takes a block of zeroed frames for an owner; `None` where free frames had to be scrubbed for it first, and
    /// `out_of_time` said that it was enough for now.
    ///
    /// # Errors
    /// `ENOMEM` where the heap has no such block but what others claim, or the owner's limit would be passed; `EINVAL`
    /// for an owner that gets no more frames.
    pub fn allocate_in_time(
        &self,
        owner: &Owner,
        wanted: &Wanted,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Mfn>, Errno> {
        loop {
            if let Some(first) = self.try_allocate(owner, wanted)? {
                return Ok(Some(first));
            }
            if self.scrub(SCRUB_BATCH) == 0 {
                return Err(Errno::ENOMEM);
            }
            if out_of_time() {
                return Ok(None);
            }
        }
    }

    /// Takes a block of scrubbed frames, if there is one. What is asked of the owner holds until it has them.
    fn try_allocate(&self, owner: &Owner, wanted: &Wanted) -> Result<Option<Mfn>, Errno> {
        let frames = 1_u64.checked_shl(wanted.order).unwrap_or(u64::MAX);
        let mut claimed = self.claimed.lock();
        if owner.is_closed() {
            return Err(Errno::EINVAL);
        }
        let own = owner.claim.load(Ordering::Relaxed);
        let too_many =
            !wanted.exchange && owner.frames().saturating_add(frames) > owner.max_frames();
        let others = own < frames && self.free_frames() < claimed.saturating_add(frames);
        if too_many || others {
            return Err(Errno::ENOMEM);
        }
        let Some(first) = self.heap.lock().allocate(wanted.order, wanted.limit) else {
            return Ok(None);
        };
        if !wanted.exchange {
            let used = own.min(frames);
            owner.claim.store(own - used, Ordering::Relaxed);
            *claimed -= used;
        }
        self.assign(first, frames, owner);
        Ok(Some(first))
    }

    /// Sets frames aside so that an owner can come to own `frames` of them; 0 gives its claim up.
    ///
    /// # Errors
    /// `EINVAL` where it has a claim already, owns as many, or may not own as many; `ENOMEM` where they are not free.
    pub fn claim(&self, owner: &Owner, frames: u64) -> Result<(), Errno> {
        let mut claimed = self.claimed.lock();
        let before = owner.claim.load(Ordering::Relaxed);
        if frames == 0 {
            *claimed -= before;
            owner.claim.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let owned = owner.frames();
        let allowed = owned + 1..=owner.max_frames();
        if before > 0 || !allowed.contains(&frames) || owner.is_closed() {
            return Err(Errno::EINVAL);
        }
        let more = frames - owned;
        if more > self.free_frames().saturating_sub(*claimed) {
            return Err(Errno::ENOMEM);
        }
        owner.claim.store(more, Ordering::Relaxed);
        *claimed += more;
        Ok(())
    }

    /// Gives an owner no more frames from here on, and its claim up.
    pub fn close(&self, owner: &Owner) {
        let mut claimed = self.claimed.lock();
        owner.close();
        *claimed -= owner.claim.swap(0, Ordering::Relaxed);
    }

    /// Free frames that are set aside.
    pub fn claimed_frames(&self) -> u64 {
        *self.claimed.lock()
    }
}
