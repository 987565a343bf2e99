//! The store's client over a real ring, at whose other end is the real store or a hostile one.
#![forbid(unsafe_code)]

mod connection;
mod harness;
mod hostile;
mod orders;
mod requests;
mod watches;
