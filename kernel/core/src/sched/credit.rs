//! The credit scheduler.

/// The credit scheduler's state.
pub struct Credit;

impl Credit {
    /// A scheduler for `cpus` CPUs without vCPUs.
    pub fn new(_cpus: u32) -> Self {
        Self
    }
}

impl super::Scheduler for Credit {}
