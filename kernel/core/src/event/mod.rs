//! Event channels.

/// The event channels of a domain.
pub struct EventChannels;
