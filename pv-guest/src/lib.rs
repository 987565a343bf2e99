//! A PV guest kernel as a library.
#![cfg_attr(not(test), no_std)]
