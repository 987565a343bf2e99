//! A server with clients at hand.

use std::collections::BTreeMap;
use std::time::Duration;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use xenstore::client::{Client, TransactionId, transaction};
use xenstore::server::{ClientId, Links, PRECEDENCE, Server};
use xenstore::wire::{self, Kind};

/// Dom0's first client.
pub const DOM0: ClientId = ClientId::Local(1);

pub fn guest(number: u16) -> ClientId {
    ClientId::Domain(Domid(number))
}

/// What the server asked of the world.
#[derive(Debug, Default)]
pub struct World {
    pub introduced: Vec<(Domid, u64, Port, u32)>,
    pub released: Vec<Domid>,
    pub printed: Vec<String>,
    pub refuses: Option<Errno>,
}

impl Links for World {
    fn introduce(
        &mut self,
        domain: Domid,
        gfn: u64,
        port: Port,
        features: u32,
    ) -> Result<(), Errno> {
        self.introduced.push((domain, gfn, port, features));
        self.refuses.map_or(Ok(()), Err)
    }

    fn release(&mut self, domain: Domid) {
        self.released.push(domain);
    }

    fn print(&mut self, text: &str) {
        self.printed.push(text.into());
    }
}

pub type Answer = Result<Vec<u8>, Errno>;

pub struct Store {
    pub server: Server,
    pub world: World,
    pub now: Duration,
    clients: BTreeMap<ClientId, Client>,
}

impl Store {
    /// A store with [`DOM0`].
    pub fn new() -> Self {
        let mut store = Self {
            server: Server::new(),
            world: World::default(),
            now: Duration::ZERO,
            clients: BTreeMap::new(),
        };
        assert_eq!(store.connect(), DOM0);
        store
    }

    /// The same, with domains, each with a node of its own.
    pub fn with_guests(domains: &[u16]) -> Self {
        let mut store = Self::new();
        for domain in domains {
            store.introduce(*domain);
        }
        store
    }

    pub fn connect(&mut self) -> ClientId {
        let client = self.server.connect();
        self.clients.insert(client, Client::new());
        client
    }

    pub fn introduce(&mut self, domain: u16) -> ClientId {
        let home = format!("/local/domain/{domain}");
        self.ok(DOM0, Kind::Mkdir, &format!("{home}\0"));
        self.ok(DOM0, Kind::SetPermissions, &format!("{home}\0n{domain}\0"));
        self.adopt(domain)
    }

    /// Introduces a domain without a node.
    pub fn adopt(&mut self, domain: u16) -> ClientId {
        self.ok(DOM0, Kind::Introduce, &format!("{domain}\x001\x001\0"));
        self.clients.insert(guest(domain), Client::new());
        guest(domain)
    }

    /// Sends a request, and serves until it is answered.
    pub fn ask_in(&mut self, who: ClientId, tx: u32, kind: Kind, payload: &[u8]) -> Answer {
        let tx = match tx {
            0 => TransactionId::NONE,
            id => transaction(format!("{id}\0").as_bytes()).unwrap(),
        };
        let client = self.clients.get_mut(&who).unwrap();
        let request = client.request(kind, tx, &[payload]).unwrap();
        loop {
            self.send(who);
            if let Some(reply) = self.clients.get_mut(&who).unwrap().reply(request) {
                return reply;
            }
            if self.server.serve(self.now, &mut self.world).is_none() {
                self.now += PRECEDENCE;
            }
            self.receive(who);
        }
    }

    pub fn ask(&mut self, who: ClientId, kind: Kind, payload: &str) -> Answer {
        self.ask_in(who, 0, kind, payload.as_bytes())
    }

    /// A request that succeeds.
    #[track_caller]
    pub fn ok(&mut self, who: ClientId, kind: Kind, payload: &str) -> Vec<u8> {
        self.ask(who, kind, payload)
            .unwrap_or_else(|error| panic!("{kind:?} {payload:?}: {error:?}"))
    }

    #[track_caller]
    pub fn ok_in(&mut self, who: ClientId, tx: u32, kind: Kind, payload: &str) -> Vec<u8> {
        self.ask_in(who, tx, kind, payload.as_bytes())
            .unwrap_or_else(|error| panic!("{kind:?} {payload:?}: {error:?}"))
    }

    #[track_caller]
    pub fn start(&mut self, who: ClientId) -> u32 {
        let reply = self.ok(who, Kind::TransactionStart, "\0");
        wire::number(wire::one_string(&reply).unwrap()).unwrap()
    }

    pub fn commit(&mut self, who: ClientId, tx: u32) -> Answer {
        self.ask_in(who, tx, Kind::TransactionEnd, b"T\0")
    }

    /// The events that a client has not looked at.
    pub fn events(&mut self, who: ClientId) -> Vec<(String, String)> {
        self.receive(who);
        let client = self.clients.get_mut(&who).unwrap();
        std::iter::from_fn(|| client.event())
            .map(|event| (event.path, String::from_utf8(event.token).unwrap()))
            .collect()
    }

    /// The same, as "path token".
    pub fn event_lines(&mut self, who: ClientId) -> Vec<String> {
        self.events(who)
            .into_iter()
            .map(|(path, token)| format!("{path} {token}"))
            .collect()
    }

    /// Has a client send what it has to say.
    pub fn send(&mut self, who: ClientId) {
        let client = self.clients.get_mut(&who).unwrap();
        let taken = self.server.receive(who, client.output()).unwrap();
        client.sent(taken);
    }

    /// Has a client take what there is for it.
    pub fn receive(&mut self, who: ClientId) {
        let client = self.clients.get_mut(&who).unwrap();
        loop {
            let bytes = self.server.output(who);
            if bytes.is_empty() {
                return;
            }
            let count = bytes.len();
            client.receive(bytes).unwrap();
            self.server.sent(who, count);
        }
    }

    /// A client's end of the connection.
    pub fn client(&mut self, who: ClientId) -> &mut Client {
        self.clients.get_mut(&who).unwrap()
    }

    /// The strings of a successful reply.
    #[track_caller]
    pub fn strings(&mut self, who: ClientId, kind: Kind, payload: &str) -> Vec<String> {
        let reply = self.ok(who, kind, payload);
        xenstore::client::names(&reply)
    }

    #[track_caller]
    pub fn check(&self) {
        self.server.check().unwrap();
    }
}
