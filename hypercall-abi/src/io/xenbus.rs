//! States of a device's two ends, in their store nodes `state` (`xen/io/xenbus.h`).

use crate::layout::constants;

constants! {
    /// None yet, or gone.
    pub const XENBUS_STATE_UNKNOWN: u32 = 0 => "XenbusStateUnknown";
    /// Starting.
    pub const XENBUS_STATE_INITIALISING: u32 = 1 => "XenbusStateInitialising";
    /// Started, waiting for the other end.
    pub const XENBUS_STATE_INIT_WAIT: u32 = 2 => "XenbusStateInitWait";
    /// Started, waiting for a connection.
    pub const XENBUS_STATE_INITIALISED: u32 = 3 => "XenbusStateInitialised";
    /// Connected.
    pub const XENBUS_STATE_CONNECTED: u32 = 4 => "XenbusStateConnected";
    /// Wants to close.
    pub const XENBUS_STATE_CLOSING: u32 = 5 => "XenbusStateClosing";
    /// Closed.
    pub const XENBUS_STATE_CLOSED: u32 = 6 => "XenbusStateClosed";
    /// Changing its devices.
    pub const XENBUS_STATE_RECONFIGURING: u32 = 7 => "XenbusStateReconfiguring";
    /// Has changed its devices.
    pub const XENBUS_STATE_RECONFIGURED: u32 = 8 => "XenbusStateReconfigured";
}
