//! Frames as the TCP/IP stack `smoltcp` takes and gives them.
//!
//! Checksums of TCP and UDP are looked at here, as the stack does not know which of them there is no need to look
//! at, and left to whoever takes the frame where it goes, as cutting large frames is.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;

use super::packet::Ip;
use super::{Checksum, ETHERNET_HEADER, Features, Frame, Gso, offload};

/// Bytes of an IP packet on the wire.
const MTU: usize = 1500;

/// What the stack's frames come from and go to.
pub trait Line {
    /// What is taken from the stack as it is.
    fn features(&self) -> Features;

    /// Whether there is room for a frame.
    fn has_room(&self) -> bool;

    /// A frame that has come in.
    fn receive(&mut self) -> Option<Frame>;

    /// Takes a frame, for which there is room.
    fn send(&mut self, frame: Frame);
}

/// A line as a device of the stack.
#[derive(Debug)]
pub struct Port<L>(pub L);

/// Whether the stack is to see a frame.
fn is_welcome(frame: &Frame) -> bool {
    // Nobody without an address has anything to say to the stack. It would take one for a DHCP server, though,
    // and stop for good when it comes to sending that one something.
    let source = Ip::of(&frame.bytes)
        .filter(|ip| !ip.v6)
        .and_then(|ip| frame.bytes.get(ip.addresses())?.first_chunk::<4>());
    if source == Some(&[0; 4]) {
        return false;
    }
    frame.checksum != Checksum::Unchecked || offload::is_checksum_right(&frame.bytes)
}

impl<L: Line> phy::Device for Port<L> {
    type RxToken<'a>
        = Received
    where
        Self: 'a;
    type TxToken<'a>
        = ToSend<'a, L>
    where
        Self: 'a;

    fn receive(&mut self, now: Instant) -> Option<(Received, ToSend<'_, L>)> {
        // Each may have an answer.
        if !self.0.has_room() {
            return None;
        }
        loop {
            let frame = self.0.receive()?;
            if is_welcome(&frame) {
                return Some((Received(frame.bytes), self.transmit(now)?));
            }
        }
    }

    fn transmit(&mut self, _: Instant) -> Option<ToSend<'_, L>> {
        let meta = PacketMeta::default();
        let line = &mut self.0;
        line.has_room().then_some(ToSend { line, meta })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = phy::Checksum::None;
        checksum.udp = phy::Checksum::None;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + ETHERNET_HEADER;
        capabilities.checksum = checksum;
        large::announce(&mut capabilities, self.0.features());
        capabilities
    }
}

/// Large frames, which are cut into segments later.
#[cfg(feature = "stack-segments")]
mod large {
    use core::num::NonZeroUsize;

    use super::{DeviceCapabilities, Features, Gso, PacketMeta};
    use crate::net::GsoKind;

    /// Bytes of a frame at most.
    const LARGE: NonZeroUsize = NonZeroUsize::new(0xf000).expect("not zero");

    /// Tells the stack whether it may send them.
    pub fn announce(capabilities: &mut DeviceCapabilities, features: Features) {
        if features.gso_tcp4 && features.checksum4 {
            capabilities.segmentation.tcpv4 = Some(LARGE);
        }
    }

    /// What one is to be cut into.
    pub fn segments(meta: PacketMeta) -> Option<Gso> {
        meta.segmentation_offload_size.map(|size| Gso {
            kind: GsoKind::Tcp4,
            size: size.get(),
        })
    }
}

/// Without them.
#[cfg(not(feature = "stack-segments"))]
mod large {
    use super::{DeviceCapabilities, Features, Gso, PacketMeta};

    pub fn announce(_: &mut DeviceCapabilities, _: Features) {}

    pub fn segments(_: PacketMeta) -> Option<Gso> {
        None
    }
}

/// A frame that has come in.
#[derive(Debug)]
pub struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a frame.
#[derive(Debug)]
pub struct ToSend<'a, L> {
    line: &'a mut L,
    meta: PacketMeta,
}

impl<L: Line> phy::TxToken for ToSend<'_, L> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut bytes = vec![0; length];
        let result = f(&mut bytes);
        let mut frame = Frame::new(bytes);
        frame.gso = large::segments(self.meta);
        offload::leave(&mut frame);
        self.line.send(frame);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}
