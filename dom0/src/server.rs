//! The toolstack server: requests of `xl` in, replies out.
//!
//! Each channel of the session has one request in progress. What it is waiting for, a domain's end
//! or room for more output, is kept with the channel, so that none holds up the others. Credit for
//! a request is given back only when it is dealt with, which bounds what a client can pile up.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use control::message::{MAX_CHUNK, MAX_DOMAINS};
use control::{
    CloseReason, ConsoleEnd, DomainRef, Error, Event, HostAction, Reply, Request, SendError,
    Session,
};
use hypercall_abi::types::Domid;

use crate::images::Upload;
use crate::scrollback::Scrollback;
use crate::toolstack::{Notice, Toolstack};
use crate::xen::{Context, Xen};

/// What the server calls itself.
const NAME: &str = concat!("xenolith-dom0 ", env!("CARGO_PKG_VERSION"));
/// How long a client waits for a destroyed domain to be gone, in nanoseconds.
const PATIENCE: u64 = 5_000_000_000;

/// The server's end of the connection from `xl`.
pub struct Server {
    session: Session,
    channels: BTreeMap<u32, Channel>,
    stop: Option<HostAction>,
}

#[derive(Default)]
struct Channel {
    state: State,
    /// Requests that have come, with their lengths.
    inbox: VecDeque<(Request, usize)>,
    /// Replies that found no room yet.
    outbox: VecDeque<Vec<u8>>,
}

#[derive(Default)]
enum State {
    /// The next request may be dealt with.
    #[default]
    Ready,
    /// Chunks of an image come.
    Uploading(Box<Upload>),
    /// A destroyed domain is to be gone, until the time given.
    AwaitingGone(Domid, u64),
    /// A domain is to shut down.
    AwaitingShutdown(Domid),
    /// A console is attached.
    Console(Attachment),
}

struct Attachment {
    domid: Domid,
    scrollback: Rc<RefCell<Scrollback>>,
    position: u64,
    /// Typed bytes that found no room in the ring, and the length of their request.
    typed: Option<(Vec<u8>, usize)>,
    end: Option<ConsoleEnd>,
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
            while let Some(event) = self.session.next_event() {
                idle = false;
                self.on_event(event);
            }
            let channels: Vec<u32> = self.channels.keys().copied().collect();
            for channel in channels {
                self.advance_channel(toolstack, channel);
            }
            while let Some(notice) = toolstack.next_notice() {
                idle = false;
                self.on_notice(toolstack, notice);
            }
            if idle {
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
                State::AwaitingGone(_, until) => Some(until),
                _ => None,
            })
            .min()
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Synced | Event::Writable { .. } => {}
            Event::Opened { channel } => {
                self.channels.insert(channel, Channel::default());
            }
            Event::Closed { channel, .. } => {
                self.channels.remove(&channel);
            }
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
            match channel.flush(&mut self.session, number) {
                Flush::Done => {}
                Flush::Blocked => return,
                Flush::Closed => {
                    self.channels.remove(&number);
                    return;
                }
            }
            let more = match &mut channel.state {
                State::Console(_) => channel.print(),
                State::AwaitingShutdown(_) => false,
                State::AwaitingGone(domid, until) => {
                    if toolstack.xen().now() < *until {
                        false
                    } else {
                        let error = Error::BadState {
                            domid: domid.0,
                            why: String::from("is dying: not all of its memory is free yet"),
                        };
                        channel.finish(Reply::Error(error));
                        true
                    }
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

enum Flush {
    Done,
    Blocked,
    Closed,
}

impl Channel {
    fn reply(&mut self, reply: Reply) {
        self.outbox.push_back(reply.encode());
    }

    /// Answers what was waited for.
    fn finish(&mut self, reply: Reply) {
        self.state = State::Ready;
        self.reply(reply);
    }

    fn flush(&mut self, session: &mut Session, number: u32) -> Flush {
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
    fn take_typed<X: Xen>(
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
    fn print(&mut self) -> bool {
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

    /// Deals with a request. The host is to stop if it says so.
    fn handle<X: Xen>(
        &mut self,
        toolstack: &mut Toolstack<X>,
        request: Request,
    ) -> Option<HostAction> {
        if let Request::ImageChunk(bytes) = request {
            self.on_chunk(toolstack, &bytes);
            return None;
        }
        if let State::Uploading(_) = self.state {
            self.finish(Reply::Error(Error::BadRequest(String::from(
                "the upload was not finished",
            ))));
            return None;
        }
        match self.answer(toolstack, request) {
            Ok(stop) => stop,
            Err(error) => {
                self.finish(Reply::Error(error));
                None
            }
        }
    }

    fn on_chunk<X: Xen>(&mut self, toolstack: &mut Toolstack<X>, bytes: &[u8]) {
        let State::Uploading(mut upload) = core::mem::take(&mut self.state) else {
            // Chunks of an upload that failed are still on their way.
            return;
        };
        let result = upload.push(bytes);
        if result.is_ok() && !upload.is_complete() {
            self.state = State::Uploading(upload);
            return;
        }
        self.finish(reply_of(
            result.and_then(|()| toolstack.images().finish(*upload)),
        ));
    }

    fn answer<X: Xen>(
        &mut self,
        toolstack: &mut Toolstack<X>,
        request: Request,
    ) -> Result<Option<HostAction>, Error> {
        let reply = match request {
            Request::Hello => Reply::Hello {
                server: NAME.to_string(),
            },
            Request::HasImage(hash) => Reply::ImageCached(toolstack.images().has(&hash)),
            Request::UploadImage { hash, size } => {
                let upload = toolstack.images().upload(hash, size)?;
                self.reply(Reply::Done);
                if upload.is_complete() {
                    toolstack.images().finish(upload)?;
                    Reply::Done
                } else {
                    self.state = State::Uploading(Box::new(upload));
                    return Ok(None);
                }
            }
            Request::CreateDomain { config, paused } => {
                Reply::Domid(toolstack.create(*config, paused)?.0)
            }
            Request::ListDomains(only) => return self.list(toolstack, only).map(|()| None),
            Request::DomainConfig(domain) => {
                let domid = toolstack.resolve(&domain)?;
                let config = toolstack.config(domid).cloned().map(Box::new);
                Reply::Config {
                    domid: domid.0,
                    config,
                }
            }
            Request::Domid(domain) => Reply::Domid(toolstack.resolve(&domain)?.0),
            Request::DomainName(domain) => {
                let domid = toolstack.resolve(&domain)?;
                Reply::Name(toolstack.name(domid).to_string())
            }
            Request::Rename { domain, name } => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.rename(domid, &name)?;
                Reply::Done
            }
            Request::Pause(domain) => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.pause(domid)?;
                Reply::Done
            }
            Request::Unpause(domain) => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.unpause(domid)?;
                Reply::Done
            }
            Request::Shutdown(domain) | Request::Reboot(domain) => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.ask_to_stop(domid)?;
                Reply::Done
            }
            Request::Destroy(domain) => {
                let domid = toolstack.resolve(&domain)?;
                let until = toolstack.xen().now().saturating_add(PATIENCE);
                // The notice that it is gone is on its way, if it is.
                self.state = State::AwaitingGone(domid, until);
                toolstack.destroy(domid)?;
                return Ok(None);
            }
            Request::WaitShutdown(domain) => {
                let domid = toolstack.resolve(&domain)?;
                match toolstack.shutdown_reason(domid) {
                    Some(reason) => Reply::ShutDown(Some(reason)),
                    None => {
                        self.state = State::AwaitingShutdown(domid);
                        return Ok(None);
                    }
                }
            }
            Request::AttachConsole { domain, scrollback } => {
                let domid = toolstack.resolve(&domain)?;
                let output = toolstack.scrollback(domid)?;
                let position = if scrollback { 0 } else { output.borrow().end() };
                self.state = State::Console(Attachment {
                    domid,
                    scrollback: output,
                    position,
                    typed: None,
                    end: None,
                });
                Reply::Domid(domid.0)
            }
            Request::ConsoleInput(_) => {
                // Typed when the console had ended already.
                return Ok(None);
            }
            Request::ImageChunk(_) => return Ok(None),
            Request::HostInfo => {
                let info = toolstack.xen().host_info().context("physinfo")?;
                Reply::HostInfo(Box::new(info))
            }
            Request::Dmesg { clear } => {
                let log = toolstack.xen().read_log(clear).context("readconsole")?;
                self.text(&log);
                return Ok(None);
            }
            Request::StopHost(action) => {
                self.reply(Reply::Done);
                return Ok(Some(action));
            }
        };
        self.reply(reply);
        Ok(None)
    }

    fn list<X: Xen>(
        &mut self,
        toolstack: &mut Toolstack<X>,
        only: Option<DomainRef>,
    ) -> Result<(), Error> {
        let only = match &only {
            Some(domain) => Some((toolstack.resolve(domain)?, domain)),
            None => None,
        };
        let mut domains = toolstack.list(only.map(|(domid, _)| domid))?;
        if let Some((_, domain)) = only
            && domains.is_empty()
        {
            return Err(Error::NoSuchDomain(domain.clone()));
        }
        loop {
            let rest = domains.split_off(domains.len().min(MAX_DOMAINS));
            let more = !rest.is_empty();
            self.reply(Reply::Domains { domains, more });
            if !more {
                return Ok(());
            }
            domains = rest;
        }
    }

    fn text(&mut self, text: &[u8]) {
        let mut rest = text;
        loop {
            let (bytes, after) = rest.split_at(rest.len().min(MAX_CHUNK));
            let more = !after.is_empty();
            self.reply(Reply::Text {
                bytes: bytes.to_vec(),
                more,
            });
            if !more {
                return;
            }
            rest = after;
        }
    }
}

fn reply_of(result: Result<(), Error>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Error(error),
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
