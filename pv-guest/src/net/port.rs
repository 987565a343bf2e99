//! The connection to the backend, as a device of the TCP/IP stack.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroUsize;
use core::task::Context;

use smoltcp::phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use split_drivers::net::front::Front;
use split_drivers::net::{Checksum, ETHERNET_HEADER, Features, Frame, Gso, GsoKind, offload};

use crate::events::EventChannel;
use crate::frontend::{GuestPage, Ring, Source};

/// Bytes of an IP packet on the wire.
const MTU: usize = 1500;
/// Bytes of a packet that the backend cuts into segments, at most.
const LARGE: NonZeroUsize = NonZeroUsize::new(0xf000).expect("not zero");

/// A connection to the backend.
pub(super) struct Link {
    pub front: Front<Ring, GuestPage>,
    pub source: Source,
    /// By queue.
    pub channels: Vec<EventChannel>,
}

impl Link {
    /// Tells the backend of what is new.
    pub fn publish(&mut self) {
        self.front.fill(&mut self.source);
        for (queue, channel) in self.channels.iter().enumerate() {
            let (tx, rx) = self.front.publish(queue);
            if tx || rx {
                // A backend that is gone is noticed by its state.
                _ = channel.notify();
            }
        }
    }

    /// Whether the backend has told of something. Each channel that has not is waited for.
    pub fn poll(&self, context: &mut Context<'_>) -> bool {
        let fired = |channel: &&EventChannel| channel.poll(context).is_ready();
        self.channels.iter().filter(fired).count() > 0
    }
}

/// What the stack sends and receives by, at this moment; without a connection nothing.
pub(super) struct Port<'a> {
    pub link: Option<&'a mut Link>,
    /// What has come in.
    pub incoming: &'a mut VecDeque<Frame>,
}

impl Port<'_> {
    fn features(&self) -> Features {
        self.link
            .as_ref()
            .map_or_else(Features::default, |link| *link.front.features())
    }
}

impl phy::Device for Port<'_> {
    type RxToken<'a>
        = Received
    where
        Self: 'a;
    type TxToken<'a>
        = ToSend<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Received, ToSend<'_>)> {
        let link = self.link.as_deref_mut()?;
        // Each may have an answer.
        if !link.front.has_room() {
            return None;
        }
        loop {
            let frame = self.incoming.pop_front()?;
            let good =
                frame.checksum != Checksum::Unchecked || offload::is_checksum_right(&frame.bytes);
            if good {
                let meta = PacketMeta::default();
                return Some((Received(frame.bytes), ToSend { link, meta }));
            }
        }
    }

    fn transmit(&mut self, _: Instant) -> Option<ToSend<'_>> {
        let link = self.link.as_deref_mut()?;
        let meta = PacketMeta::default();
        link.front.has_room().then_some(ToSend { link, meta })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        // They are checked, and filled in or left to the backend, here.
        checksum.tcp = phy::Checksum::None;
        checksum.udp = phy::Checksum::None;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU + ETHERNET_HEADER;
        capabilities.checksum = checksum;
        let features = self.features();
        if features.gso_tcp4 && features.checksum4 {
            capabilities.segmentation.tcpv4 = Some(LARGE);
        }
        capabilities
    }
}

/// A frame that has come in.
pub(super) struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a frame.
pub(super) struct ToSend<'a> {
    link: &'a mut Link,
    meta: PacketMeta,
}

impl phy::TxToken for ToSend<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut bytes = vec![0; length];
        let result = f(&mut bytes);
        let mut frame = Frame::new(bytes);
        frame.gso = self.meta.segmentation_offload_size.map(|size| Gso {
            kind: GsoKind::Tcp4,
            size: size.get(),
        });
        offload::leave(&mut frame);
        for frame in offload::fit(frame, self.link.front.features()) {
            // What there is no room for is lost, as on any wire.
            _ = self.link.front.send(&mut self.link.source, &frame);
        }
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}
