//! The console ring: a page that a guest shares with its console backend (`xen/io/console.h`).
//!
//! Indices count bytes for ever, modulo 2^32; masked with a ring's size less one, they are
//! positions in it. The producer writes the bytes before its index, the consumer reads them before
//! its own.

use crate::layout::structs;

structs! {
    /// The shared page's contents.
    pub struct XenconsInterface[3088] = "struct xencons_interface" {
        /// Bytes to the guest.
        pub in_: [u8; 1024],
        /// Bytes from the guest.
        pub out: [u8; 2048],
        /// Index up to which the guest has read `in_`.
        pub in_cons: u32,
        /// Index up to which the backend has written `in_`.
        pub in_prod: u32,
        /// Index up to which the backend has read `out`.
        pub out_cons: u32,
        /// Index up to which the guest has written `out`.
        pub out_prod: u32,
    }
}
