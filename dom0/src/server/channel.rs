//! A channel: one request in progress, and what it is waiting for.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use control::message::MAX_CHUNK;
use control::{
    CloseReason, ConsoleEnd, Error, Reply, Request, SendError, Session, Stop, TraceReply,
    TraceRequest,
};
use hypercall_abi::types::Domid;
use xenstore::server::ClientId;
use xenstore::wire::TooLong;

use crate::block::Step;
use crate::images::Upload;
use crate::net::sink::Sink;
use crate::scrollback::Scrollback;
use crate::toolstack::{Device, Toolstack};
use crate::trace::Piece;
use crate::xen::Xen;

#[derive(Default)]
pub(super) struct Channel {
    pub state: State,
    /// Requests that have come, with their lengths.
    pub inbox: VecDeque<(Request, usize)>,
    /// Replies that found no room yet.
    pub outbox: VecDeque<Vec<u8>>,
}

#[derive(Default)]
pub(super) enum State {
    /// The next request may be dealt with.
    #[default]
    Ready,
    /// Chunks of an image come.
    Uploading(Box<Upload>),
    /// A destroyed domain is to be gone, until the time given.
    AwaitingGone(Domid, u64),
    /// A domain is to shut down.
    AwaitingShutdown(Domid),
    /// A domain is to acknowledge what it was asked, until the time given.
    AwaitingAcknowledgement(Domid, Stop, u64),
    /// A device of a domain is to be gone, until the time given.
    AwaitingDeviceGone(Device, u64),
    /// A console is attached.
    Console(Attachment),
    /// The store is attached.
    Store(StoreLink),
    /// The hypervisor's trace is read.
    Trace,
    /// A volume is written or read: the key of that.
    Transfer(u64),
    /// What a guest sends is counted.
    Receiving(Sink),
}

pub(super) struct Attachment {
    pub domid: Domid,
    pub scrollback: Rc<RefCell<Scrollback>>,
    pub position: u64,
    /// Typed bytes that found no room in the ring, and the length of their request.
    pub typed: Option<(Vec<u8>, usize)>,
    pub end: Option<ConsoleEnd>,
}

/// A connection of the client's to the store.
pub(super) struct StoreLink {
    pub client: ClientId,
    /// Bytes that found no room yet, and the length of their request.
    pub waiting: Option<(Vec<u8>, usize)>,
}

pub(super) enum Flush {
    Done,
    Blocked,
    Closed,
}

impl Channel {
    pub fn reply(&mut self, reply: Reply) {
        self.outbox.push_back(reply.encode());
    }

    /// Answers what was waited for.
    pub fn finish(&mut self, reply: Reply) {
        self.state = State::Ready;
        self.reply(reply);
    }

    pub fn flush(&mut self, session: &mut Session, number: u32) -> Flush {
        while let Some(message) = self.outbox.front() {
            match session.send(number, message) {
                Ok(()) => {
                    self.outbox.pop_front();
                }
                Err(SendError::Blocked) => return Flush::Blocked,
                Err(SendError::Closed) => return Flush::Closed,
                // No reply is built as long as that, and without it the client would wait on.
                Err(SendError::TooLong) => {
                    session.close(number, CloseReason::Broken);
                    return Flush::Closed;
                }
            }
        }
        Flush::Done
    }

    /// Passes on what was typed, as far as the guest takes it.
    pub fn take_typed<X: Xen>(
        &mut self,
        toolstack: &mut Toolstack<X>,
        session: &mut Session,
        number: u32,
    ) {
        let State::Console(console) = &mut self.state else {
            return;
        };
        loop {
            let (mut bytes, length) = match console.typed.take() {
                Some(typed) => typed,
                None => match self.inbox.pop_front() {
                    Some((Request::ConsoleInput(bytes), length)) => (bytes, length),
                    Some(other) => return self.inbox.push_front(other),
                    None => return,
                },
            };
            let taken = toolstack.input(console.domid, &bytes);
            if taken < bytes.len() {
                bytes.drain(..taken);
                console.typed = Some((bytes, length));
                return;
            }
            session.consumed(number, length);
        }
    }

    /// Queues the next piece of the console's output, or its end; whether there was any.
    pub fn print(&mut self) -> bool {
        let State::Console(console) = &mut self.state else {
            return false;
        };
        let bytes = console
            .scrollback
            .borrow()
            .read(&mut console.position, MAX_CHUNK);
        if !bytes.is_empty() {
            self.reply(Reply::ConsoleOutput(bytes));
        } else if let Some(end) = console.end {
            self.finish(Reply::ConsoleEnd(end));
        } else {
            return false;
        }
        true
    }

    /// Passes on what is for the store, as far as it has room.
    pub fn take_store_input<X: Xen>(
        &mut self,
        toolstack: &mut Toolstack<X>,
        session: &mut Session,
        number: u32,
    ) {
        let State::Store(link) = &mut self.state else {
            return;
        };
        loop {
            let (mut bytes, length) = match link.waiting.take() {
                Some(waiting) => waiting,
                None => match self.inbox.pop_front() {
                    Some((Request::StoreInput(bytes), length)) => (bytes, length),
                    Some(other) => return self.inbox.push_front(other),
                    None => return,
                },
            };
            match toolstack.store().0.receive(link.client, &bytes) {
                Ok(taken) if taken < bytes.len() => {
                    bytes.drain(..taken);
                    link.waiting = Some((bytes, length));
                    return;
                }
                Ok(_) => session.consumed(number, length),
                Err(TooLong) => {
                    session.consumed(number, length);
                    self.detach(toolstack);
                    let why = String::from("too long a message for the store");
                    return self.finish(Reply::Error(Error::BadRequest(why)));
                }
            }
        }
    }

    /// Queues the next piece of what the store says; whether there was any.
    pub fn take_store_output<X: Xen>(&mut self, toolstack: &mut Toolstack<X>) -> bool {
        let State::Store(link) = &self.state else {
            return false;
        };
        let bytes = toolstack.store().0.take_output(link.client, MAX_CHUNK);
        let any = !bytes.is_empty();
        if any {
            self.reply(Reply::StoreOutput(bytes));
        }
        any
    }

    /// Queues the next piece of the trace, or its end; whether there was any.
    pub fn take_trace<X: Xen>(
        &mut self,
        toolstack: &mut Toolstack<X>,
        session: &mut Session,
        number: u32,
    ) -> bool {
        let now = toolstack.xen().now();
        let (trace, xen) = toolstack.trace();
        if let Some((Request::Trace(TraceRequest::End), length)) = self.inbox.front() {
            session.consumed(number, *length);
            self.inbox.pop_front();
            trace.end();
        }
        match trace.read(xen, now, MAX_CHUNK) {
            Piece::Records(cpu, bytes) => {
                self.reply(Reply::Trace(TraceReply::Records { cpu, bytes }));
            }
            Piece::Nothing => return false,
            Piece::End => self.finish(Reply::Trace(TraceReply::Ended)),
        }
        true
    }

    /// Goes on writing or reading a volume; whether that led to anything.
    pub fn transfer<X: Xen>(
        &mut self,
        toolstack: &mut Toolstack<X>,
        session: &mut Session,
        number: u32,
    ) -> bool {
        let State::Transfer(key) = self.state else {
            return false;
        };
        let (blocks, xen) = toolstack.blocks();
        let next = self.inbox.front().map(|(request, _)| request);
        match blocks.transfer(xen, key, next) {
            Ok(Step::Wait | Step::Starved) => return false,
            Ok(Step::Taken) => {
                if let Some((_, length)) = self.inbox.pop_front() {
                    session.consumed(number, length);
                }
            }
            Ok(Step::Say(reply)) => self.reply(Reply::Volume(reply)),
            Ok(Step::End) => {
                self.detach(toolstack);
                self.reply(Reply::Done);
            }
            Err(error) => {
                self.detach(toolstack);
                self.reply(Reply::Error(error));
            }
        }
        true
    }

    /// Goes on counting what a guest sends; whether that led to anything.
    pub fn count_received<X: Xen>(&mut self, toolstack: &mut Toolstack<X>) -> bool {
        let State::Receiving(sink) = &mut self.state else {
            return false;
        };
        let step = toolstack
            .own_stack()
            .and_then(|(stack, now)| sink.step(stack, now));
        let reply = match step {
            Ok(None) => return false,
            Ok(Some(reply)) => Reply::Network(reply),
            Err(error) => Reply::Error(error),
        };
        self.detach(toolstack);
        self.reply(reply);
        true
    }

    /// Ends what the channel has with others.
    pub fn detach<X: Xen>(&mut self, toolstack: &mut Toolstack<X>) {
        match core::mem::take(&mut self.state) {
            State::Store(link) => toolstack.store().0.disconnect(link.client),
            State::Trace => {
                let (trace, xen) = toolstack.trace();
                trace.abandon(xen);
            }
            State::Transfer(key) => toolstack.blocks().0.end_transfer(key),
            State::Receiving(sink) => {
                if let Ok((stack, now)) = toolstack.own_stack() {
                    sink.close(stack, now);
                }
            }
            _ => {}
        }
    }
}
