//! The server: clients' bytes in, replies and watch events out.
//!
//! Each client has one message's room for input and a queue for output. [`Server::serve`] answers
//! one request of the client whose turn it is; the next request of that client waits for its next
//! turn. Whoever does not take replies is not served, and what it watches costs a bounded amount of
//! memory.
//!
//! A privileged client whose transaction failed because of others has *precedence*: until it ends
//! its next transaction, or [`PRECEDENCE`] has passed, the requests of guests by which it could fail
//! again wait. So no guest can keep the toolstack from its work by writing where that reads.

mod clients;
mod connection;
mod control;
mod domains;
mod nodes;
mod pace;
mod transactions;
mod watching;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::{
    XENSTORE_PAYLOAD_MAX, XENSTORE_SERVER_FEATURE_ERROR, XENSTORE_SERVER_FEATURE_RECONNECTION,
};
use hypercall_abi::types::{Domid, Port};

use crate::permissions::{Caller, Departures, Permissions};
use crate::quota::{Accounts, Resource};
use crate::tree::Tree;
use crate::view::Change;
use crate::watch::{Watch, Watches};
use crate::wire::{self, Kind, Message, TooLong};
use clients::Clients;
use pace::Pace;

/// Bit of a page's `server_features`: watches take a depth (`docs/misc/xenstore-ring.txt`).
pub const FEATURE_WATCH_DEPTH: u32 = 4;

/// The features that the server has.
pub const FEATURES: u32 =
    XENSTORE_SERVER_FEATURE_RECONNECTION | XENSTORE_SERVER_FEATURE_ERROR | FEATURE_WATCH_DEPTH;

/// How long guests' writes wait at most for a privileged client to try again.
pub const PRECEDENCE: Duration = Duration::from_secs(1);

/// Bytes of old contents that transactions of guests may keep in memory. The oldest transactions
/// expire beyond that.
pub const PAST: u64 = 16 << 20;

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientId {
    /// A domain, by the page that it shares with the server.
    Domain(Domid),
    /// A part of dom0 itself: privileged.
    Local(u32),
}

impl ClientId {
    /// The domain that the client belongs to.
    pub fn domain(self) -> Domid {
        match self {
            Self::Domain(domain) => domain,
            Self::Local(_) => Domid(0),
        }
    }

    fn is_privileged(self) -> bool {
        self.domain() == Domid(0)
    }
}

/// The world around the server.
pub trait Links {
    /// Connects a domain, or connects it again: maps the page `gfn` of its memory and binds to its
    /// event channel `port`. The page is to offer `features`.
    ///
    /// # Errors
    ///
    /// What the client who asked for it is told.
    fn introduce(
        &mut self,
        domain: Domid,
        gfn: u64,
        port: Port,
        features: u32,
    ) -> Result<(), Errno>;

    /// Lets go of a domain's page and event channel.
    fn release(&mut self, domain: Domid);

    /// Prints a line to the log.
    fn print(&mut self, text: &str);
}

#[derive(Debug, Default)]
struct Domain {
    target: Option<Domid>,
    features: Option<u32>,
    stopped: bool,
}

/// Something that watches may hear of.
#[derive(Debug)]
enum Firing {
    Changed(Change),
    OfDomain(&'static str, Domid),
    Set(Watch),
}

/// The store.
#[derive(Debug)]
pub struct Server {
    tree: Tree,
    accounts: Accounts,
    watches: Watches,
    departures: Departures,
    introduce: Permissions,
    release: Permissions,
    clients: Clients,
    domains: BTreeMap<Domid, Domain>,
    /// Clients with a request to serve, in turn.
    ready: VecDeque<ClientId>,
    /// Clients whose request waits for those with precedence.
    waiting: Vec<ClientId>,
    precedence: BTreeMap<ClientId, Duration>,
    pace: Pace,
    /// Clients with output, each once.
    output: VecDeque<ClientId>,
    /// Open transactions of guests, by the age of their copies.
    copies: BTreeSet<(u64, ClientId, u32)>,
    /// Bytes of contents that were replaced, ever.
    past: u64,
    generation: u64,
    work: u64,
    locals: u32,
    firings: Vec<Firing>,
    log: bool,
}

impl Server {
    /// A store with a root, and with no clients.
    pub fn new() -> Self {
        let tree = Tree::new();
        let mut accounts = Accounts::new();
        for (path, node) in tree.iter() {
            accounts.apply(&Change {
                path: path.clone(),
                before: None,
                after: Some(node.clone()),
                parent: None,
                event: crate::view::Event::None,
            });
        }
        Self {
            tree,
            accounts,
            watches: Watches::default(),
            departures: Departures::default(),
            introduce: Permissions::private(Domid(0), 0),
            release: Permissions::private(Domid(0), 0),
            clients: Clients::default(),
            domains: BTreeMap::new(),
            ready: VecDeque::new(),
            waiting: Vec::new(),
            precedence: BTreeMap::new(),
            pace: Pace::default(),
            output: VecDeque::new(),
            copies: BTreeSet::new(),
            past: 0,
            generation: 0,
            work: 0,
            locals: 0,
            firings: Vec::new(),
            log: false,
        }
    }

    /// Connects a part of dom0.
    pub fn connect(&mut self) -> ClientId {
        self.locals += 1;
        let client = ClientId::Local(self.locals);
        self.clients.insert(client);
        client
    }

    /// Ends a client's connection, with its watches and transactions.
    pub fn disconnect(&mut self, client: ClientId) {
        self.reset(client);
        self.clients.remove(client);
    }

    /// Begins a client's connection anew: no watches, no transactions, no message half sent or half
    /// received.
    pub fn reset(&mut self, client: ClientId) {
        self.drop_watches(client);
        self.drop_transactions(client);
        self.precedence.remove(&client);
        if let Some(connection) = self.clients.get_mut(client) {
            connection.clear();
        }
    }

    /// Where a client's next bytes belong: the room for the rest of one header or payload. Empty
    /// while a request waits to be served.
    pub fn room(&mut self, client: ClientId) -> &mut [u8] {
        self.clients
            .get_mut(client)
            .map_or(&mut [], |connection| connection.input.room())
    }

    /// Says that the first `count` bytes of [`room`](Self::room) were filled in.
    ///
    /// # Errors
    ///
    /// If the client announces too long a message. It cannot be understood any more.
    pub fn fill(&mut self, client: ClientId, count: usize) -> Result<(), TooLong> {
        if let Some(connection) = self.clients.get_mut(client) {
            connection.input.fill(count)?;
        }
        self.enqueue(client);
        Ok(())
    }

    /// Takes bytes from a client up to the end of one message; how many it took.
    ///
    /// # Errors
    ///
    /// As [`fill`](Self::fill) has them.
    pub fn receive(&mut self, client: ClientId, bytes: &[u8]) -> Result<usize, TooLong> {
        let taken = match self.clients.get_mut(client) {
            Some(connection) => connection.input.push(bytes)?,
            None => 0,
        };
        self.enqueue(client);
        Ok(taken)
    }

    /// The next bytes for a client, perhaps not all.
    pub fn output(&self, client: ClientId) -> &[u8] {
        self.clients
            .get(client)
            .map_or(&[], |connection| connection.output.front())
    }

    /// Says that `count` bytes of [`output`](Self::output) went to the client.
    pub fn sent(&mut self, client: ClientId, count: usize) {
        if let Some(connection) = self.clients.get_mut(client) {
            connection.output.sent(count);
        }
        self.enqueue(client);
    }

    /// A client that has output since it was last named here.
    pub fn next_with_output(&mut self) -> Option<ClientId> {
        while let Some(client) = self.output.pop_front() {
            if let Some(connection) = self.clients.get_mut(client) {
                connection.announced = false;
                return Some(client);
            }
        }
        None
    }

    /// Serves one request of the client whose turn it is; none if there is nothing to do. `now` is
    /// any clock that only goes forward.
    pub fn serve(&mut self, now: Duration, links: &mut dyn Links) -> Option<ClientId> {
        self.precedence.retain(|_, until| *until > now);
        if self.precedence.is_empty() {
            self.ready.extend(self.waiting.drain(..));
        }
        while let Some(client) = self.pace.release(now) {
            self.ready.push_back(client);
        }
        while let Some(client) = self.ready.pop_front() {
            let Some(connection) = self.clients.get_mut(client) else {
                continue;
            };
            connection.queued = false;
            if !self.precedence.is_empty() && !client.is_privileged() && connection.may_interfere()
            {
                connection.queued = true;
                self.waiting.push(client);
                continue;
            }
            if connection.input.is_complete() && self.pace.hold(client, connection.meter, now) {
                connection.queued = true;
                continue;
            }
            if let Some(message) = connection.input.take() {
                self.pace.note(client, now);
                self.work += 1;
                self.answer(client, &message, now, links);
                return Some(client);
            }
        }
        None
    }

    /// Serves the request of this client before its turn; whether it had one. For the part of dom0
    /// that guests must not keep waiting.
    pub fn serve_now(&mut self, client: ClientId, now: Duration, links: &mut dyn Links) -> bool {
        let Some(connection) = self.clients.get_mut(client) else {
            return false;
        };
        let Some(message) = connection.input.take() else {
            return false;
        };
        connection.queued = false;
        self.ready.retain(|other| *other != client);
        self.work += 1;
        self.answer(client, &message, now, links);
        true
    }

    /// Whether there is output of which nobody was told by
    /// [`next_with_output`](Self::next_with_output).
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether [`serve`](Self::serve) has something to do now.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// What all requests so far have cost: nodes and watches that were looked at, and one each.
    pub fn work(&self) -> u64 {
        self.work
    }

    /// Books time that was spent on a client until `now`, with its next request received if that is
    /// there: one that has had much of it waits while others want some.
    pub fn charge(&mut self, client: ClientId, now: Duration, spent: Duration) {
        if let Some(connection) = self.clients.get_mut(client) {
            let has_more = connection.input.is_complete();
            connection.meter.charge(now, spent, has_more);
        }
    }

    /// When `serve` may have something to do although no client did anything.
    pub fn deadline(&self) -> Option<Duration> {
        let precedence = match self.waiting.is_empty() {
            true => None,
            false => self.precedence.values().max().copied(),
        };
        [precedence, self.pace.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Gives a client its turn if it has a request. With too many replies not taken it waits for
    /// this until one is.
    fn enqueue(&mut self, client: ClientId) {
        let limit = self.accounts.limit(client.domain(), Resource::Outstanding);
        if let Some(connection) = self.clients.get_mut(client)
            && !connection.queued
            && connection.input.is_complete()
            && connection.output.replies() < limit
        {
            connection.queued = true;
            self.ready.push_back(client);
        }
    }

    fn answer(
        &mut self,
        client: ClientId,
        message: &Message,
        now: Duration,
        links: &mut dyn Links,
    ) {
        let answer = match Kind::from_number(message.kind) {
            Some(kind) => self.execute(client, kind, message, now, links),
            None => Err(Errno::ENOSYS),
        };
        if self.log {
            let kind = Kind::from_number(message.kind);
            links.print(&alloc::format!(
                "{client:?} {kind:?} {:?}",
                answer.as_ref().err()
            ));
        }
        let answer = answer.and_then(|payload| match payload.len() {
            0..=XENSTORE_PAYLOAD_MAX => Ok(payload),
            _ => Err(Errno::E2BIG),
        });
        if let Some(connection) = self.clients.get_mut(client) {
            connection.output.reply(message, answer);
            self.announce(client);
        }
        self.fire();
    }

    fn execute(
        &mut self,
        client: ClientId,
        kind: Kind,
        message: &Message,
        now: Duration,
        links: &mut dyn Links,
    ) -> Result<Vec<u8>, Errno> {
        let payload = &message.payload[..];
        if !client.is_privileged() && is_for_the_privileged(kind) {
            return Err(Errno::EACCES);
        }
        let transaction = match kind {
            Kind::Watch | Kind::Unwatch => None,
            _ => self.check_transaction(client, message.transaction)?,
        };
        match kind {
            Kind::Control => self.control(payload, links),
            Kind::Directory => self.directory(client, transaction, payload),
            Kind::DirectoryPart => self.directory_part(client, transaction, payload),
            Kind::Read => self.read(client, transaction, payload),
            Kind::GetPermissions => self.get_permissions(client, transaction, payload),
            Kind::Write => self.write(client, transaction, payload),
            Kind::Mkdir => self.make(client, transaction, payload),
            Kind::Remove => self.remove(client, transaction, payload),
            Kind::SetPermissions => self.set_permissions(client, transaction, payload),
            Kind::Watch => self.watch(client, payload),
            Kind::Unwatch => self.unwatch(client, payload),
            Kind::ResetWatches => {
                self.drop_watches(client);
                self.drop_transactions(client);
                Ok(ok())
            }
            Kind::TransactionStart => self.start_transaction(client, transaction),
            Kind::TransactionEnd => self.end_transaction(client, transaction, payload, now),
            Kind::Introduce => self.introduce(payload, links),
            Kind::Release => self.release(payload, links),
            Kind::GetDomainPath => self.domain_path(payload),
            Kind::IsDomainIntroduced => self.is_domain_introduced(payload),
            Kind::Resume => self.resume(payload),
            Kind::SetTarget => self.set_target(payload),
            Kind::GetFeature => self.get_feature(payload),
            Kind::SetFeature => self.set_feature(payload),
            Kind::GetQuota => self.get_quota(payload),
            Kind::SetQuota => self.set_quota(payload),
            Kind::WatchEvent | Kind::Error => Err(Errno::ENOSYS),
        }
    }

    fn announce(&mut self, client: ClientId) {
        if let Some(connection) = self.clients.get_mut(client)
            && !connection.announced
        {
            connection.announced = true;
            self.output.push_back(client);
        }
    }

    /// Books changes of the tree and has watches hear of them after the reply.
    fn settle(&mut self, changes: Vec<Change>) {
        for change in changes {
            let old = change
                .before
                .as_ref()
                .map_or(0, |node| node.size(&change.path));
            self.past += (old + Tree::COPY) as u64;
            self.accounts.apply(&change);
            self.firings.push(Firing::Changed(change));
        }
        self.expire_copies();
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

fn caller<'a>(
    client: ClientId,
    domains: &BTreeMap<Domid, Domain>,
    departures: &'a Departures,
) -> Caller<'a> {
    let domain = client.domain();
    Caller {
        domain,
        target: domains.get(&domain).and_then(|domain| domain.target),
        departures,
    }
}

fn is_for_the_privileged(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Control
            | Kind::Introduce
            | Kind::Release
            | Kind::IsDomainIntroduced
            | Kind::Resume
            | Kind::SetTarget
            | Kind::GetFeature
            | Kind::SetFeature
            | Kind::GetQuota
            | Kind::SetQuota
    )
}

fn ok() -> Vec<u8> {
    text("OK")
}

fn text(text: &str) -> Vec<u8> {
    let mut payload = Vec::from(text);
    payload.push(0);
    payload
}

/// A domain's number: no special one, and not dom0's.
fn guest(string: &[u8]) -> Result<Domid, Errno> {
    match Domid(wire::number(string)?) {
        domain if domain.is_ordinary() && domain != Domid(0) => Ok(domain),
        _ => Err(Errno::EINVAL),
    }
}
