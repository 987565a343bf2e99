//! A client's end: the request that comes in, the messages that go out, the open transactions.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::XENSTORE_PAYLOAD_MAX;

use super::pace::Meter;
use crate::server::ClientId;
use crate::transaction::Transaction;
use crate::watch::Watch;
use crate::wire::{self, Assembler, Kind, Message};

#[derive(Debug)]
pub(super) struct Connection {
    pub input: Assembler,
    pub output: Output,
    pub transactions: BTreeMap<u32, Transaction>,
    pub last_transaction: u32,
    /// Among those that are ready or wait.
    pub queued: bool,
    /// Among those with output.
    pub announced: bool,
    /// What it had of the store's time.
    pub meter: Meter,
}

impl Connection {
    pub fn new(client: ClientId) -> Self {
        Self {
            input: Assembler::default(),
            output: Output::new(match client.is_privileged() {
                true => Output::PRIVILEGED_ROOM,
                false => Output::ROOM,
            }),
            transactions: BTreeMap::new(),
            last_transaction: 0,
            queued: false,
            announced: false,
            meter: Meter::default(),
        }
    }

    pub fn clear(&mut self) {
        self.input = Assembler::default();
        self.output = Output::new(self.output.room);
    }

    /// Whether the request could make another client's transaction fail.
    pub fn may_interfere(&self) -> bool {
        match self.input.kind() {
            Some(Kind::Write | Kind::Mkdir | Kind::Remove | Kind::SetPermissions) => {
                self.input.transaction() == Some(0)
            }
            kind => kind == Some(Kind::TransactionEnd),
        }
    }
}

/// An event, by the number of its watch and the path that it names.
type EventKey = (u64, Arc<str>);

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    event: Option<EventKey>,
}

/// Messages to a client, not yet taken.
///
/// An event that waits already is not queued again. Beyond a certain room events name no single
/// path any more but that of the watch, so that a client that never reads has a bounded number of
/// them, and one that reads late still learns where to look.
#[derive(Debug)]
pub(super) struct Output {
    queue: VecDeque<Outgoing>,
    /// Bytes of the first that went out.
    sent: usize,
    replies: usize,
    events: BTreeSet<EventKey>,
    event_bytes: usize,
    room: usize,
}

impl Output {
    const ROOM: usize = 64 << 10;
    const PRIVILEGED_ROOM: usize = 4 << 20;

    fn new(room: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            sent: 0,
            replies: 0,
            events: BTreeSet::new(),
            event_bytes: 0,
            room,
        }
    }

    pub fn front(&self) -> &[u8] {
        self.queue
            .front()
            .map_or(&[], |message| &message.bytes[self.sent..])
    }

    pub fn sent(&mut self, count: usize) {
        let Some(message) = self.queue.front() else {
            return;
        };
        // What the client has begun to read cannot stand for a later event.
        if let (Some(key), 0, 1..) = (&message.event, self.sent, count) {
            self.events.remove(key);
        }
        self.sent += count;
        if self.sent < message.bytes.len() {
            return;
        }
        match message.event {
            Some(_) => self.event_bytes -= message.bytes.len(),
            None => self.replies -= 1,
        }
        self.queue.pop_front();
        self.sent = 0;
    }

    pub fn replies(&self) -> usize {
        self.replies
    }

    pub fn reply(&mut self, request: &Message, answer: Result<Vec<u8>, Errno>) {
        let kind = Kind::from_number(request.kind);
        let bytes = match (kind, answer) {
            (Some(kind), Ok(payload)) => {
                wire::encode(kind, request.request, request.transaction, &payload)
            }
            (_, answer) => {
                let error = answer.err().unwrap_or(Errno::ENOSYS);
                let payload = super::text(wire::error_name(error));
                wire::encode(Kind::Error, request.request, request.transaction, &payload)
            }
        };
        self.replies += 1;
        self.queue.push_back(Outgoing { bytes, event: None });
    }

    /// Queues an event of a watch about `path`, as the watch's client calls it; whether anything
    /// was queued.
    pub fn event(&mut self, watch: &Watch, path: &str) -> bool {
        let own = watch.target.own_name();
        let fits = |path: &str| path.len() + watch.token.len() + 2 <= XENSTORE_PAYLOAD_MAX;
        let path = if self.event_bytes < self.room && fits(path) {
            path
        } else {
            own
        };
        let key: EventKey = (watch.number, path.into());
        if self.events.contains(&key) {
            return false;
        }
        let payload = [path.as_bytes(), b"\0", &watch.token, b"\0"].concat();
        let bytes = wire::encode(Kind::WatchEvent, 0, 0, &payload);
        self.event_bytes += bytes.len();
        self.events.insert(key.clone());
        self.queue.push_back(Outgoing {
            bytes,
            event: Some(key),
        });
        true
    }
}
