//! The connection to the backend, as what the TCP/IP stack sends and receives by.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::task::Context;

use split_drivers::net::front::Front;
use split_drivers::net::stack::Line;
use split_drivers::net::{Features, Frame, offload};

use crate::events::EventChannel;
use crate::frontend::{GuestPage, Ring, Source};

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
pub(super) struct Wire<'a> {
    pub link: Option<&'a mut Link>,
    /// What has come in.
    pub incoming: &'a mut VecDeque<Frame>,
}

impl Line for Wire<'_> {
    fn features(&self) -> Features {
        self.link
            .as_ref()
            .map_or_else(Features::default, |link| *link.front.features())
    }

    fn has_room(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.front.has_room())
    }

    fn receive(&mut self) -> Option<Frame> {
        self.incoming.pop_front()
    }

    fn send(&mut self, frame: Frame) {
        let Some(link) = &mut self.link else {
            return;
        };
        for frame in offload::fit(frame, link.front.features()) {
            // What there is no room for is lost, as on any wire.
            _ = link.front.send(&mut link.source, &frame);
        }
    }
}
