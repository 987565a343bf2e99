//! The network card of the model.

use std::collections::VecDeque;

use split_drivers::net::{Frame, Mac};

use super::Fake;
use crate::nic::Nic;

/// The card, if there is one.
#[derive(Debug, Default)]
pub struct FakeNic {
    pub address: Option<Mac>,
    /// What comes in.
    pub incoming: VecDeque<Frame>,
    /// What went out.
    pub sent: Vec<Vec<u8>>,
}

impl Nic for Fake {
    fn nic_address(&self) -> Option<Mac> {
        self.nic.address
    }

    fn receive_frame(&mut self) -> Option<Frame> {
        self.nic.incoming.pop_front()
    }

    fn send_frame(&mut self, bytes: &[u8]) -> bool {
        self.nic.sent.push(bytes.to_vec());
        true
    }
}
