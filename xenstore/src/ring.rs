//! The page that a domain shares with the store: two rings of bytes, and a few words about the
//! connection (`xen/io/xs_wire.h`, `docs/misc/xenstore-ring.txt`).
//!
//! Each end moves what it can when the other has notified it, a bounded amount at a time, and says
//! whether to notify the other.

use core::mem::offset_of;

use hypercall_abi::io::xs_wire::*;
use split_drivers::SharedMemory;
use split_drivers::byte_ring::{Consumer, Layout, Producer};

use crate::client::Client;
use crate::server::{ClientId, Server};

const REQUESTS: Layout = Layout {
    data: offset_of!(XenstoreDomainInterface, req),
    size: XENSTORE_RING_SIZE as u32,
    cons: offset_of!(XenstoreDomainInterface, req_cons),
    prod: offset_of!(XenstoreDomainInterface, req_prod),
};
const RESPONSES: Layout = Layout {
    data: offset_of!(XenstoreDomainInterface, rsp),
    size: XENSTORE_RING_SIZE as u32,
    cons: offset_of!(XenstoreDomainInterface, rsp_cons),
    prod: offset_of!(XenstoreDomainInterface, rsp_prod),
};
const FEATURES: usize = offset_of!(XenstoreDomainInterface, server_features);
const CONNECTION: usize = offset_of!(XenstoreDomainInterface, connection);
const ERROR: usize = offset_of!(XenstoreDomainInterface, error);

/// A connection has ended by itself; the number is one of `XENSTORE_ERROR_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure(pub u32);

/// The store's end.
///
/// A peer that breaks the rules is not listened to any more, until it asks for a new connection.
#[derive(Debug)]
pub struct Backend<M> {
    memory: M,
    requests: Consumer,
    responses: Producer,
    features: u32,
    failed: bool,
}

impl<M: SharedMemory> Backend<M> {
    /// Sets a page up, with both rings empty. The domain is to be notified.
    ///
    /// # Panics
    ///
    /// If `memory` is smaller than the page's struct.
    pub fn connect(memory: M, features: u32) -> Self {
        assert!(memory.size() >= size_of::<XenstoreDomainInterface>());
        memory.store_index(FEATURES, features);
        let (requests, responses) = begin_anew(&memory);
        Self {
            memory,
            requests,
            responses,
            features,
            failed: false,
        }
    }

    /// Moves output to the domain, as much as there is room for, and input to the server, up to the
    /// end of one request; whether to notify the domain.
    pub fn exchange(&mut self, server: &mut Server, client: ClientId) -> bool {
        let mut notify = false;
        if self.features & XENSTORE_SERVER_FEATURE_RECONNECTION != 0
            && self.memory.load_index(CONNECTION) == XENSTORE_RECONNECT
        {
            server.reset(client);
            (self.requests, self.responses) = begin_anew(&self.memory);
            self.failed = false;
            notify = true;
        }
        if self.failed {
            return notify;
        }
        match self.move_bytes(server, client) {
            Ok(moved) => notify | moved,
            Err(Failure(error)) => {
                server.reset(client);
                self.failed = true;
                if self.features & XENSTORE_SERVER_FEATURE_ERROR != 0 {
                    self.memory.store_index(ERROR, error);
                }
                true
            }
        }
    }

    /// The page, for which there is no more use here.
    pub fn into_memory(self) -> M {
        self.memory
    }

    fn move_bytes(&mut self, server: &mut Server, client: ClientId) -> Result<bool, Failure> {
        let index = |_| Failure(XENSTORE_ERROR_RINGIDX);
        // A domain that reads as fast as this writes is not served for ever.
        let mut room = XENSTORE_RING_SIZE;
        let mut moved = false;
        loop {
            let bytes = server.output(client);
            let bytes = &bytes[..bytes.len().min(room)];
            let count = self.responses.write(&self.memory, bytes).map_err(index)?;
            if count == 0 {
                break;
            }
            server.sent(client, count);
            room -= count;
            moved = true;
        }
        loop {
            let bytes = server.room(client);
            if bytes.is_empty() {
                break;
            }
            let count = self.requests.read(&self.memory, bytes).map_err(index)?;
            if count == 0 {
                break;
            }
            moved = true;
            server
                .fill(client, count)
                .map_err(|_| Failure(XENSTORE_ERROR_PROTO))?;
        }
        Ok(moved)
    }
}

fn begin_anew(memory: &impl SharedMemory) -> (Consumer, Producer) {
    for index in [REQUESTS.cons, REQUESTS.prod, RESPONSES.cons, RESPONSES.prod] {
        memory.store_index(index, 0);
    }
    memory.store_index(ERROR, XENSTORE_ERROR_NONE);
    let ends = (
        Consumer::attach(memory, REQUESTS),
        Producer::attach(memory, RESPONSES),
    );
    memory.store_index(CONNECTION, XENSTORE_CONNECTED);
    ends
}

/// The domain's end.
#[derive(Debug)]
pub struct Frontend<M> {
    memory: M,
    /// The rings, unless the store has still to set them up.
    rings: Option<(Producer, Consumer)>,
}

impl<M: SharedMemory> Frontend<M> {
    /// Takes up the connection where its page says.
    ///
    /// # Panics
    ///
    /// If `memory` is smaller than the page's struct.
    pub fn attach(memory: M) -> Self {
        assert!(memory.size() >= size_of::<XenstoreDomainInterface>());
        Self {
            memory,
            rings: None,
        }
    }

    /// The features that the store offers: `XENSTORE_SERVER_FEATURE_*`.
    pub fn features(&self) -> u32 {
        self.memory.load_index(FEATURES)
    }

    /// Asks for a new connection; false if the store does not offer that. Watches, transactions and
    /// requests under way are lost, so the client has to be a new one too. The store is to be
    /// notified.
    pub fn reconnect(&mut self) -> bool {
        let offered = self.features() & XENSTORE_SERVER_FEATURE_RECONNECTION != 0;
        if offered {
            self.rings = None;
            self.memory.store_index(CONNECTION, XENSTORE_RECONNECT);
        }
        offered
    }

    /// Moves what the client has to say and what the store says, as much as there is room for and at
    /// most a ring's size each; whether anything moved. The store is to be notified then, and there
    /// may be more to move at once.
    ///
    /// # Errors
    ///
    /// If the connection has failed.
    pub fn exchange(&mut self, client: &mut Client) -> Result<bool, Failure> {
        if self.features() & XENSTORE_SERVER_FEATURE_RECONNECTION != 0
            && self.memory.load_index(CONNECTION) != XENSTORE_CONNECTED
        {
            return Ok(false);
        }
        if self.features() & XENSTORE_SERVER_FEATURE_ERROR != 0 {
            match self.memory.load_index(ERROR) {
                XENSTORE_ERROR_NONE => {}
                error => return Err(Failure(error)),
            }
        }
        let index = |_| Failure(XENSTORE_ERROR_RINGIDX);
        let memory = &self.memory;
        let (requests, responses) = self.rings.get_or_insert_with(|| {
            (
                Producer::attach(memory, REQUESTS),
                Consumer::attach(memory, RESPONSES),
            )
        });
        // A store that is as fast as this is not listened to for ever.
        let (mut out, mut incoming) = (XENSTORE_RING_SIZE, XENSTORE_RING_SIZE);
        loop {
            let bytes = client.output();
            let bytes = &bytes[..bytes.len().min(out)];
            let count = requests.write(memory, bytes).map_err(index)?;
            if count == 0 {
                break;
            }
            client.sent(count);
            out -= count;
        }
        loop {
            let room = client.room();
            let length = room.len().min(incoming);
            let count = responses.read(memory, &mut room[..length]).map_err(index)?;
            if count == 0 {
                break;
            }
            incoming -= count;
            client
                .fill(count)
                .map_err(|_| Failure(XENSTORE_ERROR_PROTO))?;
        }
        Ok(out.min(incoming) < XENSTORE_RING_SIZE)
    }
}
