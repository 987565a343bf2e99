//! The ring of requests and responses (`xen/io/ring.h`), for every protocol that has one.
//!
//! The frontend writes requests, the backend takes them out and writes responses into the places of
//! those that it has taken. Indices count for ever, modulo 2^32; an entry's place is its index modulo
//! the number of entries, a power of two. A ring may have several pages, which follow each other.
//!
//! What either end does goes in three steps: entries are written or taken by its own index, which the
//! peer does not see; what was written is published at once for all, which also says whether the peer
//! wants to be notified; and before an end goes to sleep it says from which entry on it wants to be
//! notified, and looks once more.
//!
//! An entry is copied before anyone looks at it. The peer's index is believed only as far as the ring
//! goes: a response that nothing was asked for, or a request beyond the ring, is an [`Overrun`].

use core::fmt;
use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};

use hypercall_abi::io::ring::{SRING_ENTRIES, SringHeader, ring_entries};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::SharedMemory;

#[cfg(test)]
mod tests;

const REQ_PROD: usize = offset_of!(SringHeader, req_prod);
const REQ_EVENT: usize = offset_of!(SringHeader, req_event);
const RSP_PROD: usize = offset_of!(SringHeader, rsp_prod);
const RSP_EVENT: usize = offset_of!(SringHeader, rsp_event);

/// The peer's index makes no sense: it claims entries that cannot be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// The index of the first entry that the peer could have written.
    pub from: u32,
    /// The index that it claims.
    pub to: u32,
    /// How many entries it could have written at most.
    pub most: u32,
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, most } = self;
        write!(
            f,
            "the ring's index is {to:#x}, which is not within {most} of {from:#x}"
        )
    }
}

impl core::error::Error for Overrun {}

impl Overrun {
    /// How many entries there are from `from` on when the peer says `to`.
    fn check(from: u32, to: u32, most: u32) -> Result<u32, Self> {
        let count = to.wrapping_sub(from);
        if count > most {
            return Err(Self { from, to, most });
        }
        Ok(count)
    }
}

/// The pages, and where an entry is in them.
#[derive(Debug)]
struct Entries<M> {
    memory: M,
    entry: usize,
    count: u32,
}

impl<M: SharedMemory> Entries<M> {
    fn new(memory: M, entry: usize) -> Self {
        let count = ring_entries(memory.size(), entry);
        assert!(
            count > 0,
            "a ring of {} bytes has no room for an entry of {entry}",
            memory.size()
        );
        Self {
            memory,
            entry,
            count: count as u32,
        }
    }

    fn place(&self, index: u32) -> usize {
        SRING_ENTRIES + (index & (self.count - 1)) as usize * self.entry
    }

    fn write(&self, index: u32, value: &(impl IntoBytes + Immutable)) {
        let bytes = value.as_bytes();
        assert!(bytes.len() <= self.entry, "it fits an entry");
        self.memory.write(self.place(index), bytes);
    }

    fn read<T: FromBytes + IntoBytes>(&self, index: u32) -> T {
        assert!(size_of::<T>() <= self.entry, "an entry has as much");
        let mut value = T::new_zeroed();
        self.memory.read(self.place(index), value.as_mut_bytes());
        value
    }

    /// Makes an index of ours known; whether the peer wants to be notified of what is new since `old`.
    fn publish(&self, index: usize, event: usize, old: u32, new: u32) -> bool {
        self.memory.store_index(index, new);
        // The peer says what it waits for and then looks at the index; we do it the other way round,
        // and one of the two must see what the other did.
        fence(Ordering::SeqCst);
        let event = self.memory.load_index(event);
        new.wrapping_sub(event) < new.wrapping_sub(old)
    }

    /// Says from which entry on we want to be notified.
    fn wait_for(&self, event: usize, index: u32) {
        self.memory.store_index(event, index);
        fence(Ordering::SeqCst);
    }
}

/// The frontend's end: it writes requests and takes responses.
#[derive(Debug)]
pub struct Front<M> {
    entries: Entries<M>,
    /// Requests written.
    written: u32,
    /// Requests that the backend may see.
    published: u32,
    /// Responses taken.
    taken: u32,
    /// Responses that the backend has written, as last seen.
    seen: u32,
}

impl<M: SharedMemory> Front<M> {
    /// Makes a new ring of zeroed pages, with entries of `entry` bytes.
    ///
    /// # Panics
    ///
    /// If not even one entry fits.
    pub fn new(memory: M, entry: usize) -> Self {
        for (index, value) in [(REQ_PROD, 0), (RSP_PROD, 0), (REQ_EVENT, 1), (RSP_EVENT, 1)] {
            memory.store_index(index, value);
        }
        Self {
            entries: Entries::new(memory, entry),
            written: 0,
            published: 0,
            taken: 0,
            seen: 0,
        }
    }

    /// How many entries the ring has.
    pub fn capacity(&self) -> u32 {
        self.entries.count
    }

    /// How many requests there is room for.
    pub fn room(&self) -> u32 {
        self.entries.count - self.written.wrapping_sub(self.taken)
    }

    /// Requests that have no response yet, as far as responses were taken.
    pub fn outstanding(&self) -> u32 {
        self.written.wrapping_sub(self.taken)
    }

    /// Writes a request, whole or the first part of an entry; false if there is no room.
    ///
    /// # Panics
    ///
    /// If it is larger than an entry.
    #[must_use]
    pub fn push(&mut self, request: &(impl IntoBytes + Immutable)) -> bool {
        if self.room() == 0 {
            return false;
        }
        self.entries.write(self.written, request);
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Has the backend see what was written; whether it is to be notified.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let old = core::mem::replace(&mut self.published, self.written);
        old != self.written && self.entries.publish(REQ_PROD, REQ_EVENT, old, self.written)
    }

    /// How many responses there are to take.
    ///
    /// # Errors
    ///
    /// If the backend claims to have answered what it was not asked.
    pub fn available(&mut self) -> Result<u32, Overrun> {
        if self.seen == self.taken {
            let seen = self.entries.memory.load_index(RSP_PROD);
            Overrun::check(self.taken, seen, self.published.wrapping_sub(self.taken))?;
            self.seen = seen;
        }
        Ok(self.seen.wrapping_sub(self.taken))
    }

    /// Takes the next response, whole or the first part of an entry.
    ///
    /// # Errors
    ///
    /// As [`Self::available`].
    ///
    /// # Panics
    ///
    /// If it is larger than an entry.
    pub fn pop<T: FromBytes + IntoBytes>(&mut self) -> Result<Option<T>, Overrun> {
        if self.available()? == 0 {
            return Ok(None);
        }
        let response = self.entries.read(self.taken);
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(response))
    }

    /// To be called when there is no response left, before going to sleep: asks to be notified of the
    /// next one. Whether there is one already.
    ///
    /// # Errors
    ///
    /// As [`Self::available`].
    pub fn sleep(&mut self) -> Result<bool, Overrun> {
        self.entries.wait_for(RSP_EVENT, self.taken.wrapping_add(1));
        self.available().map(|count| count > 0)
    }

    /// The pages.
    pub fn memory(&self) -> &M {
        &self.entries.memory
    }
}

/// The backend's end: it takes requests and writes responses.
#[derive(Debug)]
pub struct Back<M> {
    entries: Entries<M>,
    /// Requests taken.
    taken: u32,
    /// Requests that the frontend has written, as last seen.
    seen: u32,
    /// Responses written.
    written: u32,
    /// Responses that the frontend may see.
    published: u32,
}

impl<M: SharedMemory> Back<M> {
    /// Takes up the ring that a frontend has made, where it says: at its beginning, or, after another
    /// backend, behind the last response. Requests that this other one has taken and not answered are
    /// taken again.
    ///
    /// # Errors
    ///
    /// If the indices make no sense.
    ///
    /// # Panics
    ///
    /// If not even one entry of `entry` bytes fits.
    pub fn attach(memory: M, entry: usize) -> Result<Self, Overrun> {
        let written = memory.load_index(RSP_PROD);
        let entries = Entries::new(memory, entry);
        let seen = entries.memory.load_index(REQ_PROD);
        Overrun::check(written, seen, entries.count)?;
        Ok(Self {
            entries,
            taken: written,
            seen,
            written,
            published: written,
        })
    }

    /// How many entries the ring has.
    pub fn capacity(&self) -> u32 {
        self.entries.count
    }

    /// Requests that were taken and have no response yet.
    pub fn outstanding(&self) -> u32 {
        self.taken.wrapping_sub(self.written)
    }

    /// How many requests there are to take.
    ///
    /// # Errors
    ///
    /// If the frontend claims more requests than the ring holds.
    pub fn available(&mut self) -> Result<u32, Overrun> {
        if self.seen == self.taken {
            let seen = self.entries.memory.load_index(REQ_PROD);
            let most = self.entries.count - self.outstanding();
            Overrun::check(self.taken, seen, most)?;
            self.seen = seen;
        }
        Ok(self.seen.wrapping_sub(self.taken))
    }

    /// Takes the next request, whole or the first part of an entry.
    ///
    /// # Errors
    ///
    /// As [`Self::available`].
    ///
    /// # Panics
    ///
    /// If it is larger than an entry.
    pub fn pop<T: FromBytes + IntoBytes>(&mut self) -> Result<Option<T>, Overrun> {
        if self.available()? == 0 {
            return Ok(None);
        }
        let request = self.entries.read(self.taken);
        self.taken = self.taken.wrapping_add(1);
        Ok(Some(request))
    }

    /// Writes the response to one of the requests taken.
    ///
    /// # Panics
    ///
    /// If every request taken has its response, or it is larger than an entry.
    pub fn push(&mut self, response: &(impl IntoBytes + Immutable)) {
        assert!(self.outstanding() > 0, "a response is to a request");
        self.entries.write(self.written, response);
        self.written = self.written.wrapping_add(1);
    }

    /// Has the frontend see what was written; whether it is to be notified.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let old = core::mem::replace(&mut self.published, self.written);
        old != self.written && self.entries.publish(RSP_PROD, RSP_EVENT, old, self.written)
    }

    /// To be called when fewer than `count` requests are left, before going to sleep: asks to be
    /// notified when there are so many. Whether there are already.
    ///
    /// # Errors
    ///
    /// As [`Self::available`].
    pub fn sleep(&mut self, count: u32) -> Result<bool, Overrun> {
        self.entries
            .wait_for(REQ_EVENT, self.taken.wrapping_add(count));
        // What was seen before may be less than what there is.
        let seen = self.entries.memory.load_index(REQ_PROD);
        let most = self.entries.count - self.outstanding();
        Overrun::check(self.taken, seen, most)?;
        self.seen = seen;
        Ok(self.seen.wrapping_sub(self.taken) >= count)
    }

    /// The pages.
    pub fn memory(&self) -> &M {
        &self.entries.memory
    }
}
