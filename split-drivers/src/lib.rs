//! Shared rings and split-driver protocols, front and back, as state machines that do no I/O of
//! their own.
//!
//! Each is a struct over [`SharedMemory`], the pages that both ends see. Calls move bytes or
//! requests and say how many; to notify the peer, and to call again when it notifies, is the
//! business of the caller.
//!
//! What keeps a hostile peer out:
//!
//! - An end keeps the index that it owns itself and never reads it back.
//! - The peer's index is read once per call. One that claims more than the ring holds is a
//!   [`RingError`], and nothing of the ring is touched.
//! - Contents are copied out before anyone looks at them.
#![cfg_attr(not(any(test, fuzzing)), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod block;
pub mod byte_ring;
pub mod console;
pub mod grants;
mod memory;
pub mod net;
pub mod nodes;
pub mod ring;
pub mod xenbus;

#[cfg(test)]
mod test_memory;
#[cfg(any(test, fuzzing))]
pub mod world;

pub use byte_ring::RingError;
pub use memory::SharedMemory;
