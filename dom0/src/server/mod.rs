//! The toolstack server: requests of `xl` in, replies out.
//!
//! Each channel of the session has one request in progress. What it is waiting for, a domain's end
//! or room for more output, is kept with the channel, so that none holds up the others. Credit for
//! a request is given back only when it is dealt with, which bounds what a client can pile up.

mod channel;
mod requests;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use control::{ConsoleEnd, Error, Event, HostAction, Reply, Request, Session};

use crate::toolstack::{DeviceKind, Notice, Toolstack};
use crate::xen::Xen;
use channel::{Channel, Flush, State};

/// The server's end of the connection from `xl`.
pub struct Server {
    session: Session,
    channels: BTreeMap<u32, Channel>,
    stop: Option<HostAction>,
}

impl Server {
    /// A server that knows no client. The nonce should differ each time.
    pub fn new(nonce: u64) -> Self {
        let mut session = Session::server();
        session.sync(nonce);
        Self {
            session,
            channels: BTreeMap::new(),
            stop: None,
        }
    }

    /// Whether more bytes may be taken in.
    pub fn wants_input(&self) -> bool {
        self.session.wants_input()
    }

    /// Takes in bytes from the client.
    pub fn receive<X: Xen>(&mut self, toolstack: &mut Toolstack<X>, bytes: &[u8]) {
        self.session.receive(bytes);
        self.advance(toolstack);
    }

    /// Goes on wherever something has changed: in the session, or among the domains.
    pub fn advance<X: Xen>(&mut self, toolstack: &mut Toolstack<X>) {
        // Dealing with a request can give notice to other channels, sending can make room on the
        // session: until neither says anything new.
        loop {
            let mut idle = true;
            let work = toolstack.store().0.work();
            while let Some(event) = self.session.next_event() {
                idle = false;
                self.on_event(toolstack, event);
            }
            let channels: Vec<u32> = self.channels.keys().copied().collect();
            for channel in channels {
                self.advance_channel(toolstack, channel);
            }
            while let Some(notice) = toolstack.next_notice() {
                idle = false;
                self.on_notice(toolstack, notice);
            }
            // Who speaks with the store may hear of what another did.
            if idle && toolstack.store().0.work() == work {
                return;
            }
        }
    }

    /// Bytes for the client. Take them only when those taken before are written.
    pub fn take_output<X: Xen>(&mut self, toolstack: &mut Toolstack<X>) -> Vec<u8> {
        let output = self.session.take_output();
        if !output.is_empty() {
            self.advance(toolstack);
        }
        output
    }

    /// Whether the host is to stop. The last output should be written before it does.
    pub fn stop_requested(&self) -> Option<HostAction> {
        self.stop
    }

    /// When [`Server::advance`] is to be called although nothing has happened.
    pub fn deadline(&self) -> Option<u64> {
        self.channels
            .values()
            .filter_map(|channel| match channel.state {
                State::AwaitingGone(_, until)
                | State::AwaitingDeviceGone(_, until)
                | State::AwaitingAcknowledgement(_, _, until) => Some(until),
                _ => None,
            })
            .min()
    }

    fn on_event<X: Xen>(&mut self, toolstack: &mut Toolstack<X>, event: Event) {
        match event {
            Event::Synced | Event::Writable { .. } => {}
            Event::Opened { channel } => {
                self.channels.insert(channel, Channel::default());
            }
            Event::Closed { channel, .. } => self.remove(toolstack, channel),
            Event::Message { channel, payload } => {
                let Some(state) = self.channels.get_mut(&channel) else {
                    return;
                };
                match Request::decode(&payload) {
                    Ok(request) => state.inbox.push_back((request, payload.len())),
                    Err(error) => {
                        state.outbox.push_back(Reply::Error(error).encode());
                        self.session.consumed(channel, payload.len());
                    }
                }
            }
        }
    }

    fn remove<X: Xen>(&mut self, toolstack: &mut Toolstack<X>, number: u32) {
        if let Some(mut channel) = self.channels.remove(&number) {
            channel.detach(toolstack);
        }
    }

    fn on_notice<X: Xen>(&mut self, toolstack: &mut Toolstack<X>, notice: Notice) {
        for channel in self.channels.values_mut() {
            match (&mut channel.state, notice) {
                (State::AwaitingShutdown(domid), Notice::ShutDown(down, reason))
                    if *domid == down =>
                {
                    channel.finish(Reply::ShutDown(Some(reason)));
                }
                (State::AwaitingShutdown(domid), Notice::Ended(ended, _)) if *domid == ended => {
                    channel.finish(Reply::ShutDown(toolstack.shutdown_reason(ended)));
                }
                (State::AwaitingGone(domid, _), Notice::Gone(gone)) if *domid == gone => {
                    channel.finish(Reply::Done);
                }
                (State::AwaitingDeviceGone(device, _), Notice::DeviceGone(gone))
                    if *device == gone =>
                {
                    channel.finish(Reply::Done);
                }
                (
                    State::AwaitingAcknowledgement(domid, ..),
                    Notice::Acknowledged(other)
                    | Notice::ShutDown(other, _)
                    | Notice::Ended(other, _),
                ) if *domid == other => channel.finish(Reply::Done),
                (State::Console(console), Notice::Ended(ended, successor))
                    if console.domid == ended =>
                {
                    console.end = Some(match successor {
                        Some(successor) => ConsoleEnd::Restarted(successor.0),
                        None => ConsoleEnd::Destroyed,
                    });
                }
                _ => {}
            }
        }
    }

    /// Does all that can be done on a channel.
    fn advance_channel<X: Xen>(&mut self, toolstack: &mut Toolstack<X>, number: u32) {
        while let Some(channel) = self.channels.get_mut(&number) {
            // What is typed does not wait for output to be read: it may stop the output.
            channel.take_typed(toolstack, &mut self.session, number);
            channel.take_store_input(toolstack, &mut self.session, number);
            match channel.flush(&mut self.session, number) {
                Flush::Done => {}
                Flush::Blocked => return,
                Flush::Closed => return self.remove(toolstack, number),
            }
            let more = match &mut channel.state {
                State::Console(_) => channel.print(),
                State::Store(_) => channel.take_store_output(toolstack),
                State::Trace => channel.take_trace(toolstack, &mut self.session, number),
                State::Transfer(_) => channel.transfer(toolstack, &mut self.session, number),
                State::Receiving(_) => channel.count_received(toolstack),
                State::AwaitingGone(_, until)
                | State::AwaitingDeviceGone(_, until)
                | State::AwaitingAcknowledgement(_, _, until)
                    if toolstack.xen().now() < *until =>
                {
                    false
                }
                State::AwaitingShutdown(_) => false,
                State::AwaitingGone(domid, _) => {
                    let error = Error::BadState {
                        domid: domid.0,
                        why: String::from("is dying: not all of its memory is free yet"),
                    };
                    channel.finish(Reply::Error(error));
                    true
                }
                State::AwaitingDeviceGone(device, _) => {
                    let devid = device.devid;
                    let error = Error::BadState {
                        domid: device.domid.0,
                        why: match device.kind {
                            DeviceKind::Disk => {
                                format!("does not let disk {devid} go; --force takes it away")
                            }
                            DeviceKind::Vif => {
                                format!("does not let network interface {devid} go")
                            }
                        },
                    };
                    channel.finish(Reply::Error(error));
                    true
                }
                State::AwaitingAcknowledgement(domid, how, _) => {
                    let error = Error::NotAcknowledged {
                        domid: domid.0,
                        request: String::from(how.name()),
                    };
                    channel.finish(Reply::Error(error));
                    true
                }
                State::Ready | State::Uploading(_) => match channel.inbox.pop_front() {
                    None => false,
                    Some((request, length)) => {
                        if let Some(stop) = channel.handle(toolstack, request) {
                            self.stop = Some(stop);
                        }
                        self.session.consumed(number, length);
                        true
                    }
                },
            };
            if !more {
                return;
            }
        }
    }
}

/// For logs: what the server is doing.
impl core::fmt::Debug for Server {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&format!("Server({} channels)", self.channels.len()))
    }
}

#[cfg(test)]
mod tests;
