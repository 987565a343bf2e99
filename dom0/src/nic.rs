//! The host's network card, as the bridge uses it.

use split_drivers::net::{Frame, Mac};

/// The network card, if there is one.
pub trait Nic {
    /// Its address.
    fn nic_address(&self) -> Option<Mac>;

    /// A frame that has come in.
    fn receive_frame(&mut self) -> Option<Frame>;

    /// Sends a frame, whole and with its checksum; false if there is no room for it.
    fn send_frame(&mut self, bytes: &[u8]) -> bool;
}
