//! Shared rings and split-driver protocols.
#![cfg_attr(not(test), no_std)]
