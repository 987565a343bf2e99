//! The hypervisor proper: domains, hypercalls, page types, events, scheduling.
#![cfg_attr(not(test), no_std)]
