//! System time and timers.
use hv_machine::Platform;

/// System time.
pub struct Clock;

impl Clock {
    /// Starts at the machine's boot.
    pub fn new(_machine: &impl Platform) -> Self {
        Self
    }
}

/// What is to happen at which time.
pub struct Timers;

impl Timers {
    /// No timers.
    pub fn new(_cpus: u32) -> Self {
        Self
    }
}
