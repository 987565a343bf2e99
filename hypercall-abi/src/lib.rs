//! Xen's public interface as Rust types.
#![cfg_attr(not(test), no_std)]
