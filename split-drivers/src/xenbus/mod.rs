//! The life of a device's two ends, which they tell each other in their store nodes `state`
//! (`xen/io/xenbus.h`, and the state diagrams in `xen/io/blkif.h`).
//!
//! | frontend | backend | |
//! |---|---|---|
//! | `Initialising` | `Initialising` | as the toolstack makes the nodes |
//! | | `InitWait` | it has written what it offers |
//! | `Initialised` | | it has written its rings (some protocols say `Connected` at once) |
//! | | `Connected` | it uses them, and has written what the device is like |
//! | `Connected` | | it has read that |
//! | `Closing` | `Closing` | either may begin; both stop |
//! | `Closed` | `Closed` | nothing of the rings is used any more |
//!
//! From there on a device that stays `online` begins anew: a frontend that says `Initialising` is
//! offered the device again, and a backend that says `InitWait` is connected to again.
//!
//! Both ends are driven in the same way. Whenever the other's state or one's own nodes may have
//! changed, `advance` says what is to be done; whoever did it says so by the method that the step
//! names, and asks again until there is [nothing](frontend::Step::Wait) to do. The state is written to
//! the store whenever it differs from what was written last, behind the nodes that belong to it.
//!
//! The other end's state is a claim like any other. No order of states, however odd, brings an end to
//! connect twice, or to let go of what the other may still use.

use core::fmt;

use hypercall_abi::io::xenbus::*;

pub mod backend;
pub mod frontend;
#[cfg(test)]
mod tests;

/// A state of an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// None yet, or gone.
    #[default]
    Unknown,
    /// Starting.
    Initialising,
    /// Started, waiting for the other end.
    InitWait,
    /// Started, waiting for a connection.
    Initialised,
    /// Connected.
    Connected,
    /// Wants to close.
    Closing,
    /// Closed.
    Closed,
    /// Changing its devices.
    Reconfiguring,
    /// Has changed its devices.
    Reconfigured,
}

impl State {
    /// All, by number.
    pub const ALL: [Self; 9] = [
        Self::Unknown,
        Self::Initialising,
        Self::InitWait,
        Self::Initialised,
        Self::Connected,
        Self::Closing,
        Self::Closed,
        Self::Reconfiguring,
        Self::Reconfigured,
    ];

    /// What a node's value stands for; [`State::Unknown`] where there is no node, or no such state.
    pub fn parse(value: Option<&str>) -> Self {
        let number = value.and_then(|value| value.trim().parse::<usize>().ok());
        number
            .and_then(|number| Self::ALL.get(number).copied())
            .unwrap_or_default()
    }

    /// Its number, as the node has it.
    pub fn number(self) -> u32 {
        match self {
            Self::Unknown => XENBUS_STATE_UNKNOWN,
            Self::Initialising => XENBUS_STATE_INITIALISING,
            Self::InitWait => XENBUS_STATE_INIT_WAIT,
            Self::Initialised => XENBUS_STATE_INITIALISED,
            Self::Connected => XENBUS_STATE_CONNECTED,
            Self::Closing => XENBUS_STATE_CLOSING,
            Self::Closed => XENBUS_STATE_CLOSED,
            Self::Reconfiguring => XENBUS_STATE_RECONFIGURING,
            Self::Reconfigured => XENBUS_STATE_RECONFIGURED,
        }
    }
}

impl fmt::Display for State {
    /// As the store has it: the number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}
