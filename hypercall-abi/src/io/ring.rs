//! The ring of requests and responses that a frontend and a backend share (`xen/io/ring.h`).
//!
//! A ring's page begins with a [`SringHeader`]; then follow its entries, each of which is a request
//! or, in the place of one that was taken, a response. There are as many as fit, rounded down to a
//! power of two. Indices count for ever, modulo 2^32.

use crate::layout::{constants, structs};

constants! {
    /// Offset of the first entry in the ring's page, in bytes.
    pub const SRING_ENTRIES: usize = 64 => "offsetof(struct nothing_sring, ring)";
    /// Bits of an offset in a page.
    pub const XEN_PAGE_SHIFT: u32 = 12;
}

structs! {
    /// The start of a ring's page.
    pub struct SringHeader[64] = "struct nothing_sring" {
        /// Index up to which the frontend has written requests.
        pub req_prod: u32,
        /// Index of requests at which the backend wants an event.
        pub req_event: u32,
        /// Index up to which the backend has written responses.
        pub rsp_prod: u32,
        /// Index of responses at which the frontend wants an event.
        pub rsp_event: u32,
        /// The protocol's own.
        pub pvt: [u8; 4],
        /// Zero.
        pub __pad: [u8; 44],
    }
}

/// The number of entries of `entry_size` bytes in a ring of `ring_size` bytes
/// (`__CONST_RING_SIZE`), 0 if there is no room for any.
pub const fn ring_entries(ring_size: usize, entry_size: usize) -> usize {
    match ring_size
        .saturating_sub(SRING_ENTRIES)
        .checked_div(entry_size)
    {
        None | Some(0) => 0,
        Some(entries) => 1 << entries.ilog2(),
    }
}
