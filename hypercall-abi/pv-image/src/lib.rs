//! PV kernel images: ELF notes and the start-of-day memory layout.
#![cfg_attr(not(test), no_std)]
