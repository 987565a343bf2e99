//! Event channels in the memory that a guest and the hypervisor share: both ends, for both of Xen's interfaces.
//!
//! [`two_level`] has a bit for each port in a page of the domain's, [`fifo`] a word for each port, linked into queues.
//! The hypervisor's functions and the guest's are side by side, because neither order of steps makes sense without the
//! other. The words are behind a trait, [`Word`], so that each end brings its own way to reach them, and a model
//! checker's words can take their place (`tests/model`).
//!
//! A guest writes whatever it likes at any moment. So the hypervisor's functions take nothing that they read for true,
//! have no loop without a bound, and read nothing twice where the second time has to agree with the first. What a guest
//! loses by breaking the rules are events of its own.
#![no_std]
#![forbid(unsafe_code)]

pub mod fifo;
pub mod two_level;
mod word;

pub use word::Word;
