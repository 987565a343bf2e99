//! Channels with credit over frames.
//!
//! One side, xl, opens channels; the other, dom0, accepts them. Data frames carry one message each.
//! Each side may send on a channel what the other allowed: [`WINDOW`] bytes at first, and then what
//! the other consumed and gave back. A frame costs its whole size, header included, so that empty
//! messages are not free. A side that sends more than it may has its channel closed.
//!
//! So a reader that stops reading stops its own channel, costs [`WINDOW`] bytes at most, and nobody
//! waits for it.
//!
//! The two sides agree on a beginning by [`frame::Kind::Sync`]: whoever joins an old stream sends
//! it, both forget all channels, and the sender takes no notice of anything older than the answer.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::PROTOCOL_VERSION;
use crate::frame::{self, Decoder, Frame, HEADER, Kind, MAX_PAYLOAD};

/// How many bytes of frames may be on their way, or waiting to be consumed, on one channel in one
/// direction.
pub const WINDOW: usize = 128 * 1024;
/// How many channels there can be at once.
pub const MAX_CHANNELS: usize = 64;
/// With so many bytes of output waiting, [`Session::send`] takes no more.
pub const OUTPUT_LIMIT: usize = 256 * 1024;
/// With so many bytes of output waiting, the owner should take no more input: the peer makes us
/// answer and does not read.
const INPUT_LIMIT: usize = 2 * OUTPUT_LIMIT;
/// Enough to complete any frame that the peer waits for.
pub const PADDING: usize = HEADER + MAX_PAYLOAD;

/// Whether a client's sync that is sent for the `attempt`th time (from 1 on) has padding before it:
/// ever more seldom, for a peer that still boots must read it all.
pub(crate) fn is_padded(attempt: u32) -> bool {
    attempt > 1 && attempt.is_power_of_two()
}

/// Why a channel was closed. The encoding is the same in all versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer has no more to say.
    Done,
    /// The peer speaks this version, another than ours.
    Version(u16),
    /// The peer has too many channels already.
    TooManyChannels,
    /// The peer does not know the channel.
    NoSuchChannel,
    /// The peer sent what the rules forbid, or says that we did.
    Broken,
    /// The peer, or the connection to it, was lost or began anew.
    Lost,
}

impl CloseReason {
    pub(crate) fn encode(self) -> [u8; 3] {
        let (code, [low, high]) = match self {
            CloseReason::Done => (0, [0; 2]),
            CloseReason::Version(version) => (1, version.to_le_bytes()),
            CloseReason::TooManyChannels => (2, [0; 2]),
            CloseReason::NoSuchChannel => (3, [0; 2]),
            CloseReason::Broken => (4, [0; 2]),
            CloseReason::Lost => (5, [0; 2]),
        };
        [code, low, high]
    }

    fn decode(payload: &[u8]) -> CloseReason {
        match *payload {
            [0, ..] => CloseReason::Done,
            [1, low, high] => CloseReason::Version(u16::from_le_bytes([low, high])),
            [2, ..] => CloseReason::TooManyChannels,
            [3, ..] => CloseReason::NoSuchChannel,
            [5, ..] => CloseReason::Lost,
            _ => CloseReason::Broken,
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both sides begin anew; each channel that was open had its [`Event::Closed`] before.
    Synced,
    /// The peer opened a channel.
    Opened {
        /// Which.
        channel: u32,
    },
    /// A message came. When it is dealt with, [`Session::consumed`] lets the peer send as much
    /// again.
    Message {
        /// On which channel.
        channel: u32,
        /// The message.
        payload: Vec<u8>,
    },
    /// There is room for the message that [`Session::send`] last refused on this channel.
    Writable {
        /// Which.
        channel: u32,
    },
    /// The channel is no more. Not reported for a channel that our side closed.
    Closed {
        /// Which.
        channel: u32,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Not now: keep the message and send it after [`Event::Writable`].
    #[error("the peer is not ready for more")]
    Blocked,
    /// There is no such channel, any longer at least.
    #[error("the channel is closed")]
    Closed,
    /// It will never fit a frame.
    #[error("the message is too long")]
    TooLong,
}

/// Why no channel was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Only xl's side opens channels.
    #[error("only clients open channels")]
    NotClient,
    /// The peer has not answered yet.
    #[error("the peer has not answered yet")]
    NotSynced,
    /// There are [`MAX_CHANNELS`] already.
    #[error("too many channels")]
    TooMany,
}

#[derive(Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

#[derive(Debug)]
struct Channel {
    /// What we may send.
    send_credit: usize,
    /// What the peer may send.
    receive_credit: usize,
    /// What was consumed and not given back yet.
    owed: usize,
    /// The size of the frame that had no room.
    blocked: Option<usize>,
}

/// One side of the protocol, without I/O: bytes in, events out; messages in, bytes out.
#[derive(Debug)]
pub struct Session {
    role: Role,
    decoder: Decoder,
    channels: BTreeMap<u32, Channel>,
    events: VecDeque<Event>,
    output: Vec<u8>,
    last_channel: u32,
    /// The nonce of our own sync that has no answer yet.
    awaited: Option<u64>,
    /// How often it was sent.
    attempts: u32,
    synced: bool,
}

impl Session {
    fn new(role: Role) -> Session {
        Session {
            role,
            decoder: Decoder::new(),
            channels: BTreeMap::new(),
            events: VecDeque::new(),
            output: Vec::new(),
            last_channel: 0,
            awaited: None,
            attempts: 0,
            synced: false,
        }
    }

    /// xl's side. Needs [`Session::sync`] before anything else.
    pub fn client() -> Session {
        Session::new(Role::Client)
    }

    /// dom0's side. [`Session::sync`] at the start tells clients that are connected already that
    /// all is new.
    pub fn server() -> Session {
        Session::new(Role::Server)
    }

    /// Begins anew: all channels are forgotten, with an [`Event::Closed`] each. May be repeated
    /// while no answer comes. The nonce should differ from earlier ones on the same stream: a clock
    /// or a random number will do.
    pub fn sync(&mut self, nonce: u64) {
        self.forget_channels();
        self.awaited = Some(nonce);
        self.attempts = self.attempts.saturating_add(1);
        if self.role == Role::Client {
            self.synced = false;
        }
        if self.role == Role::Server || is_padded(self.attempts) {
            self.output.resize(self.output.len() + PADDING, 0);
        }
        self.emit(Kind::Sync, 0, &nonce.to_le_bytes());
    }

    /// Whether the peer is there and channels can be opened.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Whether the owner should read more from the stream. It is false while the peer makes us
    /// answer and does not read the answers.
    pub fn wants_input(&self) -> bool {
        self.output.len() < INPUT_LIMIT
    }

    /// Takes bytes of the stream in. Take the events out before the next call.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        while let Some(frame) = self.decoder.next_frame() {
            self.on_frame(frame);
        }
    }

    /// The next thing that happened.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The bytes to be written to the stream. Take them only when those taken before are written,
    /// so that what waits is known here.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        let output = core::mem::take(&mut self.output);
        let mut room = OUTPUT_LIMIT;
        for (&channel, state) in &mut self.channels {
            wake(channel, state, &mut room, &mut self.events);
        }
        output
    }

    /// Whether there are bytes to be written.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Opens a channel. The peer's refusal comes as [`Event::Closed`].
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&mut self) -> Result<u32, OpenError> {
        if self.role != Role::Client {
            return Err(OpenError::NotClient);
        }
        if !self.synced {
            return Err(OpenError::NotSynced);
        }
        if self.channels.len() >= MAX_CHANNELS {
            return Err(OpenError::TooMany);
        }
        // Ends, for there are more numbers than channels.
        loop {
            self.last_channel = self.last_channel.checked_add(1).unwrap_or(1);
            if !self.channels.contains_key(&self.last_channel) {
                break;
            }
        }
        let channel = self.last_channel;
        self.channels.insert(channel, Channel::new());
        self.emit(Kind::Open, channel, &PROTOCOL_VERSION.to_le_bytes());
        Ok(channel)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`SendError`]; the message is not sent, not even in part.
    pub fn send(&mut self, channel: u32, message: &[u8]) -> Result<(), SendError> {
        if message.len() > MAX_PAYLOAD {
            return Err(SendError::TooLong);
        }
        let state = self.channels.get_mut(&channel).ok_or(SendError::Closed)?;
        let cost = HEADER + message.len();
        if state.send_credit < cost || self.output.len() + cost > OUTPUT_LIMIT {
            state.blocked = Some(cost);
            return Err(SendError::Blocked);
        }
        state.blocked = None;
        state.send_credit -= cost;
        self.emit(Kind::Data, channel, message);
        Ok(())
    }

    /// A message of that length, got by [`Event::Message`], is dealt with: the peer may send as
    /// much again. Does nothing on a channel that is closed.
    pub fn consumed(&mut self, channel: u32, length: usize) {
        let Some(state) = self.channels.get_mut(&channel) else {
            return;
        };
        // Never more than the peer has used, whatever the caller counts.
        let used = WINDOW - state.receive_credit - state.owed;
        state.owed += (HEADER + length).min(used);
        if state.owed >= WINDOW / 4 {
            let credit = core::mem::take(&mut state.owed);
            state.receive_credit += credit;
            // The window fits four bytes.
            self.emit(Kind::Credit, channel, &(credit as u32).to_le_bytes());
        }
    }

    /// Closes a channel. What was sent on it before still arrives. Does nothing on a channel that
    /// is closed.
    pub fn close(&mut self, channel: u32, reason: CloseReason) {
        if self.channels.remove(&channel).is_some() {
            self.emit(Kind::Close, channel, &reason.encode());
        }
    }

    /// The channels that are open.
    pub fn channels(&self) -> impl Iterator<Item = u32> + '_ {
        self.channels.keys().copied()
    }

    fn on_frame(&mut self, frame: Frame) {
        let Frame {
            kind,
            channel,
            payload,
        } = frame;
        match kind {
            Kind::Sync => {
                let Ok(nonce) = <[u8; 8]>::try_from(payload.as_slice()) else {
                    return;
                };
                self.forget_channels();
                self.emit(Kind::SyncAck, 0, &nonce);
                if self.role == Role::Server {
                    // A client that syncs has forgotten all, so nothing old comes after its sync.
                    self.awaited = None;
                    self.synced = true;
                }
                if self.synced {
                    self.events.push_back(Event::Synced);
                }
            }
            Kind::SyncAck => {
                let nonce = <[u8; 8]>::try_from(payload.as_slice())
                    .map(u64::from_le_bytes)
                    .ok();
                if nonce.is_some() && nonce == self.awaited {
                    self.awaited = None;
                    self.attempts = 0;
                    self.synced = true;
                    self.events.push_back(Event::Synced);
                }
            }
            _ if self.awaited.is_some() || channel == 0 => {}
            Kind::Open => self.on_open(channel, &payload),
            Kind::Data => self.on_data(channel, payload),
            Kind::Credit => self.on_credit(channel, &payload),
            Kind::Close => {
                if self.channels.remove(&channel).is_some() {
                    let reason = CloseReason::decode(&payload);
                    self.events.push_back(Event::Closed { channel, reason });
                }
            }
        }
    }

    fn on_open(&mut self, channel: u32, payload: &[u8]) {
        let refusal = if self.role != Role::Server {
            Some(CloseReason::Broken)
        } else if self.channels.contains_key(&channel) {
            return self.fail(channel);
        } else if payload != PROTOCOL_VERSION.to_le_bytes() {
            Some(CloseReason::Version(PROTOCOL_VERSION))
        } else if self.channels.len() >= MAX_CHANNELS {
            Some(CloseReason::TooManyChannels)
        } else {
            None
        };
        if let Some(reason) = refusal {
            return self.emit(Kind::Close, channel, &reason.encode());
        }
        self.channels.insert(channel, Channel::new());
        self.events.push_back(Event::Opened { channel });
    }

    fn on_data(&mut self, channel: u32, payload: Vec<u8>) {
        let Some(state) = self.channels.get_mut(&channel) else {
            let reason = CloseReason::NoSuchChannel;
            return self.emit(Kind::Close, channel, &reason.encode());
        };
        match state.receive_credit.checked_sub(HEADER + payload.len()) {
            Some(left) => {
                state.receive_credit = left;
                self.events.push_back(Event::Message { channel, payload });
            }
            None => self.fail(channel),
        }
    }

    fn on_credit(&mut self, channel: u32, payload: &[u8]) {
        let Some(state) = self.channels.get_mut(&channel) else {
            return;
        };
        let credit = <[u8; 4]>::try_from(payload).ok().map(u32::from_le_bytes);
        let sum = credit
            .and_then(|credit| usize::try_from(credit).ok())
            .and_then(|credit| state.send_credit.checked_add(credit));
        match sum {
            Some(sum) if sum <= WINDOW => {
                state.send_credit = sum;
                let mut room = OUTPUT_LIMIT.saturating_sub(self.output.len());
                wake(channel, state, &mut room, &mut self.events);
            }
            _ => self.fail(channel),
        }
    }

    /// Closes a channel on which the peer broke the rules.
    fn fail(&mut self, channel: u32) {
        self.close(channel, CloseReason::Broken);
        self.events.push_back(Event::Closed {
            channel,
            reason: CloseReason::Broken,
        });
    }

    fn forget_channels(&mut self) {
        for channel in core::mem::take(&mut self.channels).into_keys() {
            self.events.push_back(Event::Closed {
                channel,
                reason: CloseReason::Lost,
            });
        }
    }

    /// Appends a frame whose payload is known to fit.
    fn emit(&mut self, kind: Kind, channel: u32, payload: &[u8]) {
        let fits = frame::encode(kind, channel, payload, &mut self.output);
        debug_assert!(fits.is_ok());
    }
}

impl Channel {
    fn new() -> Channel {
        Channel {
            send_credit: WINDOW,
            receive_credit: WINDOW,
            owed: 0,
            blocked: None,
        }
    }
}

/// Reports a channel writable if the frame that had no room has some now.
fn wake(channel: u32, state: &mut Channel, room: &mut usize, events: &mut VecDeque<Event>) {
    if let Some(cost) = state.blocked
        && cost <= state.send_credit
        && cost <= *room
    {
        state.blocked = None;
        *room -= cost;
        events.push_back(Event::Writable { channel });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::vec;

    use proptest::prelude::*;

    use super::*;

    fn carry(from: &mut Session, to: &mut Session) {
        while from.has_output() {
            to.receive(&from.take_output());
        }
    }

    fn events(session: &mut Session) -> Vec<Event> {
        core::iter::from_fn(|| session.next_event()).collect()
    }

    fn pair() -> (Session, Session) {
        let (mut client, mut server) = (Session::client(), Session::server());
        client.sync(1);
        carry(&mut client, &mut server);
        carry(&mut server, &mut client);
        assert_eq!(events(&mut client), [Event::Synced]);
        assert_eq!(events(&mut server), [Event::Synced]);
        (client, server)
    }

    fn opened(client: &mut Session, server: &mut Session) -> u32 {
        let channel = client.open().unwrap();
        carry(client, server);
        assert_eq!(events(server), [Event::Opened { channel }]);
        channel
    }

    #[test]
    fn a_message_crosses_and_the_close_comes_after_it() {
        let (mut client, mut server) = pair();
        let channel = opened(&mut client, &mut server);
        client.send(channel, b"question").unwrap();
        client.close(channel, CloseReason::Done);
        carry(&mut client, &mut server);
        let message = Event::Message {
            channel,
            payload: b"question".to_vec(),
        };
        let closed = Event::Closed {
            channel,
            reason: CloseReason::Done,
        };
        assert_eq!(events(&mut server), [message, closed]);
        assert_eq!(server.send(channel, b"answer"), Err(SendError::Closed));
    }

    #[test]
    fn no_channel_opens_before_the_peer_answered() {
        let mut client = Session::client();
        client.sync(5);
        assert_eq!(client.open(), Err(OpenError::NotSynced));
        assert_eq!(Session::server().open(), Err(OpenError::NotClient));
    }

    #[test]
    fn a_sender_stops_at_the_window_and_goes_on_after_the_reader() {
        let (mut client, mut server) = pair();
        let channel = opened(&mut client, &mut server);
        let message = [7; 1000];
        let mut sent = 0;
        while client.send(channel, &message) == Ok(()) {
            sent += 1;
            carry(&mut client, &mut server);
        }
        assert_eq!(sent, WINDOW / (HEADER + message.len()));
        for event in events(&mut server) {
            let Event::Message { payload, .. } = event else {
                panic!("{event:?}")
            };
            server.consumed(channel, payload.len());
        }
        carry(&mut server, &mut client);
        assert_eq!(events(&mut client), [Event::Writable { channel }]);
        client.send(channel, &message).unwrap();
    }

    #[test]
    fn a_blocked_channel_does_not_block_another() {
        let (mut client, mut server) = pair();
        let (slow, fast) = (
            opened(&mut client, &mut server),
            opened(&mut client, &mut server),
        );
        while server.send(slow, &[0; 4000]).is_ok() {
            carry(&mut server, &mut client);
        }
        for _ in 0..100 {
            server.send(fast, &[1; 4000]).unwrap();
            carry(&mut server, &mut client);
            client.consumed(fast, 4000);
            carry(&mut client, &mut server);
        }
    }

    #[test]
    fn empty_messages_are_not_free() {
        let (mut client, mut server) = pair();
        let channel = opened(&mut client, &mut server);
        let mut sent = 0;
        while client.send(channel, &[]).is_ok() {
            sent += 1;
            let _ = client.take_output();
        }
        assert_eq!(sent, WINDOW / HEADER);
    }

    #[test]
    fn who_sends_beyond_the_credit_loses_the_channel_and_no_other() {
        let (mut client, mut server) = pair();
        let (bad, good) = (
            opened(&mut client, &mut server),
            opened(&mut client, &mut server),
        );
        let mut stream = Vec::new();
        for _ in 0..5 {
            frame::encode(Kind::Data, bad, &[0; MAX_PAYLOAD], &mut stream).unwrap();
        }
        server.receive(&stream);
        let seen = events(&mut server);
        let closed = Event::Closed {
            channel: bad,
            reason: CloseReason::Broken,
        };
        assert_eq!(seen.last(), Some(&closed));
        assert_eq!(seen.len(), 4);
        server.send(good, b"still here").unwrap();
    }

    #[test]
    fn credit_that_was_never_used_up_is_refused() {
        let (mut client, mut server) = pair();
        let channel = opened(&mut client, &mut server);
        let mut stream = Vec::new();
        frame::encode(Kind::Credit, channel, &u32::MAX.to_le_bytes(), &mut stream).unwrap();
        server.receive(&stream);
        let closed = Event::Closed {
            channel,
            reason: CloseReason::Broken,
        };
        assert_eq!(events(&mut server), [closed]);
    }

    #[test]
    fn consuming_more_than_came_gives_no_more_credit() {
        let (mut client, mut server) = pair();
        let channel = opened(&mut client, &mut server);
        server.consumed(channel, 10 * WINDOW);
        carry(&mut server, &mut client);
        assert_eq!(events(&mut client), []);
        client.send(channel, b"x").unwrap();
    }

    #[test]
    fn another_version_is_refused_and_told_ours() {
        let (mut client, mut server) = pair();
        let mut stream = Vec::new();
        let other = (PROTOCOL_VERSION + 1).to_le_bytes();
        frame::encode(Kind::Open, 9, &other, &mut stream).unwrap();
        server.receive(&stream);
        assert_eq!(events(&mut server), []);
        client.channels.insert(9, Channel::new());
        carry(&mut server, &mut client);
        let reason = CloseReason::Version(PROTOCOL_VERSION);
        assert_eq!(events(&mut client), [Event::Closed { channel: 9, reason }]);
    }

    #[test]
    fn one_channel_too_many_is_refused_and_the_others_live() {
        let (mut client, mut server) = pair();
        for _ in 0..MAX_CHANNELS {
            opened(&mut client, &mut server);
        }
        assert_eq!(client.open(), Err(OpenError::TooMany));
        let mut stream = Vec::new();
        let version = PROTOCOL_VERSION.to_le_bytes();
        frame::encode(Kind::Open, 1000, &version, &mut stream).unwrap();
        server.receive(&stream);
        assert_eq!(events(&mut server), []);
        assert_eq!(server.channels().count(), MAX_CHANNELS);
    }

    #[test]
    fn a_client_that_joins_an_old_stream_sees_nothing_of_the_past() {
        let (mut old, mut server) = pair();
        let channel = opened(&mut old, &mut server);
        server.send(channel, b"stale answer").unwrap();
        // The old client died; its successor finds a torn frame and the stale answer first.
        let mut stream = server.take_output();
        stream.drain(..5);
        let mut client = Session::client();
        client.receive(&stream);
        client.sync(2);
        client.receive(&stream);
        carry(&mut client, &mut server);
        let lost = Event::Closed {
            channel,
            reason: CloseReason::Lost,
        };
        assert_eq!(events(&mut server), [lost, Event::Synced]);
        carry(&mut server, &mut client);
        assert_eq!(events(&mut client), [Event::Synced]);
        opened(&mut client, &mut server);
    }

    #[test]
    fn a_restarted_server_closes_the_channels_of_its_clients() {
        let (mut client, mut server) = pair();
        let channel = opened(&mut client, &mut server);
        let mut server = Session::server();
        server.sync(77);
        carry(&mut server, &mut client);
        let lost = Event::Closed {
            channel,
            reason: CloseReason::Lost,
        };
        assert_eq!(events(&mut client), [lost, Event::Synced]);
        carry(&mut client, &mut server);
        assert_eq!(events(&mut server), [Event::Synced]);
        opened(&mut client, &mut server);
    }

    #[test]
    fn a_torn_frame_with_nothing_behind_it_keeps_neither_side_from_beginning_anew() {
        let mut torn = Vec::new();
        frame::encode(Kind::Data, 1, &[0; MAX_PAYLOAD], &mut torn).unwrap();
        let (mut client, _) = pair();
        client.receive(&torn[..100]);
        let mut server = Session::server();
        server.receive(&torn[..100]);
        server.sync(3);
        carry(&mut server, &mut client);
        assert_eq!(events(&mut client), [Event::Synced]);

        let (mut client, mut server) = (Session::client(), Session::server());
        server.receive(&torn[..100]);
        for _ in 0..2 {
            client.sync(4);
            carry(&mut client, &mut server);
        }
        carry(&mut server, &mut client);
        assert!(client.is_synced());
    }

    #[test]
    fn a_peer_that_asks_and_does_not_read_is_not_to_be_read_from() {
        let (_, mut server) = pair();
        let mut stream = Vec::new();
        frame::encode(Kind::Data, 5, b"nobody there", &mut stream).unwrap();
        let mut rounds = 0;
        while server.wants_input() {
            server.receive(&stream);
            rounds += 1;
        }
        assert!(rounds > 1000);
        let _ = server.take_output();
        assert!(server.wants_input());
    }

    /// What a random peer does.
    #[derive(Clone, Debug)]
    enum Step {
        Open,
        Send(usize, usize),
        Consume(usize),
        Close(usize),
        Carry,
        Resync,
        Noise(Kind, u32, Vec<u8>),
    }

    fn steps() -> impl Strategy<Value = Step> {
        let kinds = proptest::sample::select(vec![
            Kind::Sync,
            Kind::SyncAck,
            Kind::Open,
            Kind::Data,
            Kind::Credit,
            Kind::Close,
        ]);
        let noise = (
            kinds,
            0u32..6,
            proptest::collection::vec(any::<u8>(), 0..10),
        );
        prop_oneof![
            2 => Just(Step::Open),
            8 => (0usize..5, 0usize..20_000).prop_map(|(at, length)| Step::Send(at, length)),
            4 => (0usize..8).prop_map(Step::Consume),
            1 => (0usize..5).prop_map(Step::Close),
            8 => Just(Step::Carry),
            1 => Just(Step::Resync),
            2 => noise.prop_map(|(kind, channel, payload)| Step::Noise(kind, channel, payload)),
        ]
    }

    proptest! {
        #[test]
        fn whatever_a_client_does_the_server_keeps_its_bounds(
            steps in proptest::collection::vec(steps(), 0..200)
        ) {
            let (mut client, mut server) = pair();
            let mut pending: VecDeque<(u32, usize)> = VecDeque::new();
            let mut open = BTreeSet::new();
            for step in steps {
                let channels: Vec<u32> = client.channels().collect();
                match step {
                    Step::Open => { let _ = client.open(); }
                    Step::Send(at, length) => {
                        if let Some(&channel) = channels.get(at) {
                            let _ = client.send(channel, &vec![0; length]);
                        }
                    }
                    Step::Close(at) => {
                        if let Some(&channel) = channels.get(at) {
                            client.close(channel, CloseReason::Done);
                        }
                    }
                    Step::Consume(count) => {
                        for (channel, length) in pending.drain(..count.min(pending.len())) {
                            server.consumed(channel, length);
                        }
                    }
                    Step::Resync => client.sync(99),
                    Step::Noise(kind, channel, payload) => {
                        frame::encode(kind, channel, &payload, &mut client.output).unwrap();
                    }
                    Step::Carry => {
                        carry(&mut client, &mut server);
                        carry(&mut server, &mut client);
                    }
                }
                for event in events(&mut server) {
                    match event {
                        Event::Opened { channel } => prop_assert!(open.insert(channel)),
                        Event::Closed { channel, .. } => {
                            prop_assert!(open.remove(&channel));
                            pending.retain(|&(of, _)| of != channel);
                        }
                        Event::Message { channel, payload } => {
                            prop_assert!(open.contains(&channel));
                            pending.push_back((channel, payload.len()));
                        }
                        Event::Writable { .. } | Event::Synced => {}
                    }
                }
                events(&mut client);
                prop_assert_eq!(&open, &server.channels().collect::<BTreeSet<_>>());
                for &channel in &open {
                    let held: usize = pending
                        .iter()
                        .filter(|&&(of, _)| of == channel)
                        .map(|&(_, length)| length + HEADER)
                        .sum();
                    prop_assert!(held <= WINDOW);
                }
            }
        }

        #[test]
        fn arbitrary_bytes_do_a_session_no_harm(
            stream in proptest::collection::vec(any::<u8>(), 0..2048)
        ) {
            let (mut client, mut server) = pair();
            client.receive(&stream);
            server.receive(&stream);
        }
    }
}
