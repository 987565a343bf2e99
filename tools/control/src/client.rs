//! A blocking client over a unix socket: what xl talks to a host with.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::string::String;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::vec::Vec;

use crate::session::{OpenError, SendError};
use crate::{CloseReason, Error, Event, PROTOCOL_VERSION, Reply, Request, Session};

/// How long [`Client::connect`] waits between repetitions of its first call.
const SYNC_INTERVAL: Duration = Duration::from_millis(200);

/// Why a call has no answer of use. Each text is one line, fit to be shown to the user.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("the host is not running")]
    NotRunning,
    /// The host is there but dom0 does not answer: it is booting still, or hangs.
    #[error("the host does not answer")]
    NoAnswer,
    /// The connection ended.
    #[error("the host is gone")]
    Gone,
    /// dom0 closed the channel.
    #[error("{}", closed(*.0))]
    Closed(CloseReason),
    /// dom0 did not do it, and why.
    #[error(transparent)]
    Refused(#[from] Error),
    /// dom0 answered with something else than was asked for.
    #[error("the host gave a wrong answer: {0}")]
    WrongAnswer(String),
    /// A request is too large to be sent.
    #[error("the request is too long")]
    TooLong,
    /// The system's error.
    #[error("the host cannot be reached: {0}")]
    Io(#[from] io::Error),
}

fn closed(reason: CloseReason) -> String {
    match reason {
        CloseReason::Version(theirs) => std::format!(
            "the host speaks version {theirs} of the protocol, and this program version {PROTOCOL_VERSION}"
        ),
        CloseReason::TooManyChannels => "the host serves too many others at present".into(),
        CloseReason::Lost => "the host went down".into(),
        CloseReason::Done => "the host ended the connection".into(),
        CloseReason::NoSuchChannel | CloseReason::Broken => {
            "the connection to the host broke".into()
        }
    }
}

/// A channel of a [`Client`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel(u32);

/// A connection to a host.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    session: Session,
    /// What came on channels and was not asked for yet, with its length on the wire.
    inbox: BTreeMap<u32, VecDeque<(Reply, usize)>>,
    closed: BTreeMap<u32, CloseReason>,
}

impl Client {
    /// Connects to the host behind the socket, and waits until its dom0 answers.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`]; [`ClientError::NoAnswer`] when the time is over.
    pub fn connect(socket: &Path, patience: Duration) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning,
            _ => ClientError::Io(error),
        })?;
        Client::over(stream, patience)
    }

    /// As [`Client::connect`], over a stream that is connected already.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn over(stream: UnixStream, patience: Duration) -> Result<Client, ClientError> {
        let mut client = Client {
            stream,
            session: Session::client(),
            inbox: BTreeMap::new(),
            closed: BTreeMap::new(),
        };
        let deadline = Instant::now() + patience;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let nonce = (now.as_nanos() as u64) ^ (u64::from(std::process::id()) << 32);
        while !client.session.is_synced() {
            client.session.sync(nonce);
            client.flush()?;
            let resend = deadline.min(Instant::now() + SYNC_INTERVAL);
            while !client.session.is_synced() {
                let left = resend.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                client.stream.set_read_timeout(Some(left))?;
                match client.pump() {
                    Err(ClientError::Io(error)) if is_timeout(&error) => {}
                    other => other?,
                }
            }
            if Instant::now() >= deadline && !client.session.is_synced() {
                return Err(ClientError::NoAnswer);
            }
        }
        client.stream.set_read_timeout(None)?;
        Ok(client)
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// When there are too many, or the host is gone.
    pub fn open(&mut self) -> Result<Channel, ClientError> {
        let channel = self.session.open().map_err(|error| match error {
            OpenError::TooMany => ClientError::Closed(CloseReason::TooManyChannels),
            OpenError::NotSynced | OpenError::NotClient => ClientError::Gone,
        })?;
        self.inbox.insert(channel, VecDeque::new());
        self.flush()?;
        Ok(Channel(channel))
    }

    /// Closes a channel.
    ///
    /// # Errors
    /// When the host is gone.
    pub fn close(&mut self, Channel(channel): Channel) -> Result<(), ClientError> {
        self.inbox.remove(&channel);
        self.closed.remove(&channel);
        self.session.close(channel, CloseReason::Done);
        self.flush()
    }

    /// Sends a request, waiting for room as long as it takes.
    ///
    /// # Errors
    /// When the host is gone or the request is too long.
    pub fn send(&mut self, channel: Channel, request: &Request) -> Result<(), ClientError> {
        let message = request.encode();
        loop {
            match self.session.send(channel.0, &message) {
                Ok(()) => return self.flush(),
                Err(SendError::Blocked) => {
                    self.flush()?;
                    self.pump()?;
                }
                Err(SendError::Closed) => return Err(self.why_closed(channel)),
                Err(SendError::TooLong) => return Err(ClientError::TooLong),
            }
        }
    }

    /// Sends a request if there is room for it now; false if there is none. [`Client::pump`] brings
    /// word of room.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn try_send(&mut self, channel: Channel, request: &Request) -> Result<bool, ClientError> {
        match self.session.send(channel.0, &request.encode()) {
            Ok(()) => self.flush().map(|()| true),
            Err(SendError::Blocked) => Ok(false),
            Err(SendError::Closed) => Err(self.why_closed(channel)),
            Err(SendError::TooLong) => Err(ClientError::TooLong),
        }
    }

    /// Waits for the next reply on a channel.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for [`Reply::Error`]; when the host is gone.
    pub fn receive(&mut self, channel: Channel) -> Result<Reply, ClientError> {
        loop {
            if let Some(reply) = self.try_receive(channel)? {
                return Ok(reply);
            }
            self.pump()?;
        }
    }

    /// The next reply on a channel if it is here already. [`Client::pump`] brings more in.
    ///
    /// # Errors
    /// As [`Client::receive`].
    pub fn try_receive(&mut self, channel: Channel) -> Result<Option<Reply>, ClientError> {
        match self.inbox.get_mut(&channel.0).and_then(VecDeque::pop_front) {
            Some((reply, length)) => {
                self.session.consumed(channel.0, length);
                self.flush()?;
                match reply {
                    Reply::Error(error) => Err(ClientError::Refused(error)),
                    reply => Ok(Some(reply)),
                }
            }
            None if self.session.channels().any(|open| open == channel.0) => Ok(None),
            None => Err(self.why_closed(channel)),
        }
    }

    /// Sends a request and waits for its first reply.
    ///
    /// # Errors
    /// As [`Client::receive`].
    pub fn call(&mut self, channel: Channel, request: &Request) -> Result<Reply, ClientError> {
        self.send(channel, request)?;
        self.receive(channel)
    }

    /// Waits for bytes from the host and takes them in. With [`AsFd`] a caller can wait for other
    /// things too.
    ///
    /// # Errors
    /// When the host is gone.
    pub fn pump(&mut self) -> Result<(), ClientError> {
        let mut buffer = [0; 16 * 1024];
        let length = loop {
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(gone)?,
            }
        };
        if length == 0 {
            return Err(ClientError::Gone);
        }
        self.session.receive(&buffer[..length]);
        while let Some(event) = self.session.next_event() {
            match event {
                Event::Message { channel, payload } => {
                    let reply = Reply::decode(&payload)
                        .map_err(|error| ClientError::WrongAnswer(std::format!("{error}")))?;
                    if let Some(inbox) = self.inbox.get_mut(&channel) {
                        inbox.push_back((reply, payload.len()));
                    }
                }
                Event::Closed { channel, reason } => {
                    if self.inbox.contains_key(&channel) {
                        self.closed.insert(channel, reason);
                    }
                }
                Event::Opened { .. } | Event::Synced | Event::Writable { .. } => {}
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), ClientError> {
        while self.session.has_output() {
            let output: Vec<u8> = self.session.take_output();
            self.stream.write_all(&output).map_err(gone)?;
        }
        Ok(())
    }

    fn why_closed(&self, channel: Channel) -> ClientError {
        let reason = self.closed.get(&channel.0).copied();
        ClientError::Closed(reason.unwrap_or(CloseReason::Lost))
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn gone(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted => ClientError::Gone,
        _ => ClientError::Io(error),
    }
}
