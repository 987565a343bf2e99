//! Which client's channel is which of dom0's.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};
use std::vec::Vec;

use crate::frame::{self, Decoder, Frame, Kind};
use crate::session::{self, CloseReason, MAX_CHANNELS, OUTPUT_LIMIT, WINDOW};

/// What may wait for a client: all that the credit of all its channels allows, and some control
/// frames.
const CLIENT_LIMIT: usize = MAX_CHANNELS * WINDOW + 256 * 1024;

/// A connected client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(u64);

struct Client {
    decoder: Decoder,
    output: Vec<u8>,
    /// The nonce of the client's sync, while dom0 is not there.
    waiting: Option<[u8; 8]>,
    /// From the client's channel to dom0's.
    channels: BTreeMap<u32, u32>,
}

/// The bookkeeping of the multiplexer, without I/O.
pub struct Router {
    decoder: Decoder,
    output: Vec<u8>,
    nonce: u64,
    synced: bool,
    /// How often dom0 was called.
    attempts: u32,
    clients: BTreeMap<ClientId, Client>,
    /// From dom0's channel to the client and its channel.
    channels: BTreeMap<u32, (ClientId, u32)>,
    last_client: u64,
    last_channel: u32,
}

impl Router {
    pub fn new() -> Router {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Router {
            decoder: Decoder::new(),
            output: Vec::new(),
            nonce: now.as_nanos() as u64,
            synced: false,
            attempts: 0,
            clients: BTreeMap::new(),
            channels: BTreeMap::new(),
            last_client: 0,
            last_channel: 0,
        }
    }

    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Calls dom0, unless an earlier call is not even written yet.
    pub fn sync(&mut self) {
        if self.output.is_empty() {
            self.attempts = self.attempts.saturating_add(1);
            if session::is_padded(self.attempts) {
                self.output.resize(session::PADDING, 0);
            }
            emit(&mut self.output, Kind::Sync, 0, &self.nonce.to_le_bytes());
        }
    }

    pub fn connect(&mut self) -> ClientId {
        self.last_client += 1;
        let id = ClientId(self.last_client);
        let client = Client {
            decoder: Decoder::new(),
            output: Vec::new(),
            waiting: None,
            channels: BTreeMap::new(),
        };
        self.clients.insert(id, client);
        id
    }

    pub fn disconnect(&mut self, id: ClientId) {
        self.close_channels(id, CloseReason::Lost);
        self.clients.remove(&id);
    }

    /// Whether clients may be read from: dom0 takes what they send.
    pub fn takes_client_input(&self) -> bool {
        self.output.len() < OUTPUT_LIMIT
    }

    /// Whether more waits for the client than can be by the rules.
    pub fn is_overdue(&self, id: ClientId) -> bool {
        self.clients
            .get(&id)
            .is_some_and(|client| client.output.len() > CLIENT_LIMIT)
    }

    pub fn take_dom0_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    pub fn take_client_output(&mut self, id: ClientId) -> Vec<u8> {
        self.clients
            .get_mut(&id)
            .map(|client| std::mem::take(&mut client.output))
            .unwrap_or_default()
    }

    pub fn on_client_bytes(&mut self, id: ClientId, bytes: &[u8]) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        client.decoder.push(bytes);
        while let Some(frame) = self
            .clients
            .get_mut(&id)
            .and_then(|it| it.decoder.next_frame())
        {
            self.on_client_frame(id, frame);
        }
    }

    pub fn on_dom0_bytes(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        while let Some(frame) = self.decoder.next_frame() {
            self.on_dom0_frame(frame);
        }
    }

    fn on_client_frame(&mut self, id: ClientId, frame: Frame) {
        let Frame {
            kind,
            channel,
            payload,
        } = frame;
        if kind == Kind::Sync {
            let Ok(nonce) = <[u8; 8]>::try_from(payload.as_slice()) else {
                return;
            };
            self.close_channels(id, CloseReason::Lost);
            let Some(client) = self.clients.get_mut(&id) else {
                return;
            };
            if self.synced {
                emit(&mut client.output, Kind::SyncAck, 0, &nonce);
            } else {
                client.waiting = Some(nonce);
            }
            return;
        }
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        match (kind, client.channels.get(&channel).copied()) {
            (Kind::Sync | Kind::SyncAck, _) => {}
            (_, _) if channel == 0 => {}
            (Kind::Open, None) if self.synced => {
                // Ends, for there are more numbers than channels.
                loop {
                    self.last_channel = self.last_channel.checked_add(1).unwrap_or(1);
                    if !self.channels.contains_key(&self.last_channel) {
                        break;
                    }
                }
                client.channels.insert(channel, self.last_channel);
                self.channels.insert(self.last_channel, (id, channel));
                emit(&mut self.output, kind, self.last_channel, &payload);
            }
            (Kind::Open, None) => {
                emit(
                    &mut client.output,
                    Kind::Close,
                    channel,
                    &CloseReason::Lost.encode(),
                );
            }
            (Kind::Data, None) => {
                emit(
                    &mut client.output,
                    Kind::Close,
                    channel,
                    &CloseReason::NoSuchChannel.encode(),
                );
            }
            (Kind::Credit | Kind::Close, None) => {}
            (Kind::Open | Kind::Data | Kind::Credit, Some(theirs)) => {
                emit(&mut self.output, kind, theirs, &payload);
            }
            (Kind::Close, Some(theirs)) => {
                client.channels.remove(&channel);
                self.channels.remove(&theirs);
                emit(&mut self.output, kind, theirs, &payload);
            }
        }
    }

    fn on_dom0_frame(&mut self, frame: Frame) {
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
                self.drop_all_channels();
                emit(&mut self.output, Kind::SyncAck, 0, &nonce);
                if !self.synced {
                    self.sync_now();
                }
            }
            Kind::SyncAck => {
                if payload == self.nonce.to_le_bytes() && !self.synced {
                    self.synced = true;
                    for client in self.clients.values_mut() {
                        if let Some(nonce) = client.waiting.take() {
                            emit(&mut client.output, Kind::SyncAck, 0, &nonce);
                        }
                    }
                }
            }
            _ if !self.synced || channel == 0 => {}
            // dom0 opens no channels.
            Kind::Open => {
                emit(
                    &mut self.output,
                    Kind::Close,
                    channel,
                    &CloseReason::Broken.encode(),
                );
            }
            Kind::Data | Kind::Credit | Kind::Close => {
                let Some(&(id, ours)) = self.channels.get(&channel) else {
                    if kind == Kind::Data {
                        let reason = CloseReason::NoSuchChannel.encode();
                        emit(&mut self.output, Kind::Close, channel, &reason);
                    }
                    return;
                };
                let Some(client) = self.clients.get_mut(&id) else {
                    return;
                };
                emit(&mut client.output, kind, ours, &payload);
                if kind == Kind::Close {
                    client.channels.remove(&ours);
                    self.channels.remove(&channel);
                }
            }
        }
    }

    fn sync_now(&mut self) {
        emit(&mut self.output, Kind::Sync, 0, &self.nonce.to_le_bytes());
    }

    /// Closes a client's channels towards dom0.
    fn close_channels(&mut self, id: ClientId, reason: CloseReason) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        for theirs in std::mem::take(&mut client.channels).into_values() {
            self.channels.remove(&theirs);
            emit(&mut self.output, Kind::Close, theirs, &reason.encode());
        }
    }

    /// Closes all channels towards the clients: dom0 has forgotten them.
    fn drop_all_channels(&mut self) {
        self.channels.clear();
        for client in self.clients.values_mut() {
            for ours in std::mem::take(&mut client.channels).into_keys() {
                emit(
                    &mut client.output,
                    Kind::Close,
                    ours,
                    &CloseReason::Lost.encode(),
                );
            }
        }
    }
}

/// Appends a frame. Its payload came in a frame, or is short, so it fits.
fn emit(output: &mut Vec<u8>, kind: Kind, channel: u32, payload: &[u8]) {
    let fits = frame::encode(kind, channel, payload, output);
    debug_assert!(fits.is_ok());
}
