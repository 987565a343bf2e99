//! Who runs next.
mod credit;

pub use credit::Credit;

/// A scheduling policy.
pub trait Scheduler {}
