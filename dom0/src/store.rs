//! The store: its daemon, the rings of the guests, and the toolstack's own connection.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn, Port};
use split_drivers::SharedMemory;
use xenstore::client::{self, Client, Event, RequestId, TransactionId};
use xenstore::daemon::{Daemon, Host};
use xenstore::server::ClientId;
use xenstore::wire::TooLong;

use crate::builder::Ring;
use crate::xen::Xen;

/// What serving guests may cost at a time, in units of [`xenstore::server::Server::work`]: some
/// milliseconds. Then others have their turn.
const BUDGET: u64 = 256;
/// How often a transaction is tried. The store lets nobody come between twice in a row but other
/// clients in this domain.
const ATTEMPTS: u32 = 100;

/// The store.
#[derive(Debug)]
pub struct Store<M> {
    daemon: Daemon<M>,
    /// Our port to each domain that has a ring.
    ports: BTreeMap<Domid, Port>,
    own: ClientId,
    client: Client,
}

/// The daemon's view of the hypervisor.
struct Links<'a, X> {
    xen: &'a mut X,
    ports: &'a mut BTreeMap<Domid, Port>,
}

impl<X: Xen> Host for Links<'_, X> {
    type Page = X::Mapping;

    fn map(&mut self, domain: Domid, gfn: u64, port: Port) -> Result<X::Mapping, Errno> {
        // A PV domain's frames are known by their machine frames.
        let page = self.xen.map(domain, &[Mfn(gfn)])?;
        let ours = self.xen.bind_interdomain(domain, port)?;
        self.ports.insert(domain, ours);
        Ok(page)
    }

    fn unmap(&mut self, domain: Domid, page: X::Mapping) {
        drop(page);
        if let Some(port) = self.ports.remove(&domain) {
            let _ = self.xen.close_port(port);
        }
    }

    fn notify(&mut self, domain: Domid) {
        if let Some(port) = self.ports.get(&domain) {
            // Should the domain be gone already, nobody waits.
            let _ = self.xen.notify(*port);
        }
    }

    fn print(&mut self, text: &str) {
        self.xen.log(&format!("store: {text}"));
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.xen.now())
    }
}

impl<M: SharedMemory> Store<M> {
    /// An empty store.
    pub fn new() -> Self {
        let mut daemon = Daemon::new();
        let own = daemon.server().connect();
        Self {
            daemon,
            ports: BTreeMap::new(),
            own,
            client: Client::new(),
        }
    }

    /// Connects another part of dom0.
    pub fn connect(&mut self) -> ClientId {
        self.daemon.server().connect()
    }

    /// Ends such a connection.
    pub fn disconnect(&mut self, client: ClientId) {
        self.daemon.server().disconnect(client);
    }

    /// Takes bytes from such a client, as many as there is room for; how many.
    ///
    /// # Errors
    ///
    /// If it announces too long a message. It cannot be understood any more.
    pub fn receive(&mut self, client: ClientId, bytes: &[u8]) -> Result<usize, TooLong> {
        let mut taken = 0;
        while let Some(rest @ [_, ..]) = bytes.get(taken..) {
            match self.daemon.server().receive(client, rest)? {
                0 => break,
                count => taken += count,
            }
        }
        Ok(taken)
    }

    /// Takes at most `most` bytes of what there is for such a client.
    pub fn take_output(&mut self, client: ClientId, most: usize) -> Vec<u8> {
        let server = self.daemon.server();
        let mut bytes = Vec::new();
        loop {
            let output = server.output(client);
            let count = output.len().min(most - bytes.len());
            if count == 0 {
                return bytes;
            }
            bytes.extend_from_slice(output.get(..count).unwrap_or_default());
            server.sent(client, count);
        }
    }

    /// What requests have cost so far: a number that is another whenever one was served.
    pub fn work(&mut self) -> u64 {
        self.daemon.server().work()
    }

    /// Whether there is something to serve.
    pub fn is_ready(&self) -> bool {
        self.daemon.is_ready()
    }

    /// Counts everything anew, for tests: what does not add up.
    #[cfg(test)]
    pub fn check(&mut self) -> Result<(), String> {
        self.daemon.server().check()
    }

    /// What a watch of the toolstack's own told.
    pub fn next_event(&mut self) -> Option<Event> {
        self.exchange();
        self.client.event()
    }

    /// The domain whose ring has this port of ours.
    pub fn domain_of(&self, port: Port) -> Option<Domid> {
        let mut ports = self.ports.iter();
        ports.find(|(_, ours)| **ours == port).map(|(id, _)| *id)
    }

    /// A domain notified the store.
    pub fn signal(&mut self, domain: Domid) {
        self.daemon.signal(domain);
    }

    /// Serves guests for a while; whether there is more to do at once.
    pub fn serve(&mut self, xen: &mut impl Xen<Mapping = M>) -> bool {
        let ports = &mut self.ports;
        self.daemon.poll(&mut Links { xen, ports }, BUDGET)
    }

    /// When [`serve`](Self::serve) is to be called although nobody notified, in nanoseconds.
    pub fn deadline(&mut self) -> Option<u64> {
        let deadline = self.daemon.server().deadline()?;
        u64::try_from(deadline.as_nanos()).ok()
    }

    /// A domain shut down or crashed: who watches `@releaseDomain` hears of it.
    pub fn domain_stopped(&mut self, domain: Domid) {
        self.daemon.domain_stopped(domain);
    }

    /// A domain is destroyed: lets go of its ring, and removes what it owns.
    pub fn domain_destroyed(&mut self, xen: &mut impl Xen<Mapping = M>, domain: Domid) {
        let ports = &mut self.ports;
        self.daemon
            .domain_destroyed(&mut Links { xen, ports }, domain);
    }

    /// Begins to serve a domain on its ring. It must not have run: the ring is set up anew.
    ///
    /// # Errors
    ///
    /// Those of mapping the page and binding to the port.
    pub fn introduce(
        &mut self,
        xen: &mut impl Xen<Mapping = M>,
        domain: Domid,
        ring: Ring,
    ) -> Result<(), Errno> {
        let request = self.client.introduce(domain, ring.frame.0, ring.port)?;
        self.finish(xen, request).map(drop)
    }

    /// The nodes, for requests each by itself.
    pub fn nodes<'a, X: Xen<Mapping = M>>(&'a mut self, xen: &'a mut X) -> Nodes<'a, X> {
        let transaction = TransactionId::NONE;
        Nodes {
            store: self,
            xen,
            transaction,
        }
    }

    /// Watches a node for the toolstack, or stops to. It fires at once, and whenever the node or
    /// what is below it changes.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn watch(
        &mut self,
        xen: &mut impl Xen<Mapping = M>,
        path: &str,
        token: &str,
        on: bool,
    ) -> Result<(), Errno> {
        let request = if on {
            self.client.watch(path, token.as_bytes())
        } else {
            self.client.unwatch(path, token.as_bytes())
        };
        self.finish(xen, request?).map(drop)
    }

    /// Does what `body` does as one transaction, again if others came between.
    ///
    /// # Errors
    ///
    /// Those of `body`, in which case nothing of it is done, and of the store.
    pub fn transaction<X: Xen<Mapping = M>, T>(
        &mut self,
        xen: &mut X,
        body: impl Fn(&mut Nodes<'_, X>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        for _ in 0..ATTEMPTS {
            let request = self.client.start()?;
            let reply = self.finish(xen, request)?;
            let transaction = client::transaction(&reply)?;
            let result = body(&mut Nodes {
                store: self,
                xen,
                transaction,
            });
            let request = self.client.end(transaction, result.is_ok())?;
            match self.finish(xen, request) {
                Ok(_) => return result,
                Err(Errno::EAGAIN) if result.is_ok() => {}
                Err(error) => return result.and(Err(error)),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Sends what the toolstack asks and has it served, before guests: they must not be able to make
    /// it wait.
    fn finish<X: Xen<Mapping = M>>(
        &mut self,
        xen: &mut X,
        request: RequestId,
    ) -> Result<Vec<u8>, Errno> {
        loop {
            self.exchange();
            if let Some(reply) = self.client.reply(request) {
                return reply;
            }
            let now = Duration::from_nanos(xen.now());
            let ports = &mut self.ports;
            let links = &mut Links { xen, ports };
            if !self.daemon.serve_now(links, now, self.own) {
                return Err(Errno::EIO);
            }
        }
    }

    /// Moves bytes between the toolstack's client and the server.
    fn exchange(&mut self) {
        let server = self.daemon.server();
        loop {
            // A connection in this domain keeps to the protocol: no message is too long.
            let taken = server.receive(self.own, self.client.output()).unwrap_or(0);
            self.client.sent(taken);
            let output = server.output(self.own);
            let count = output.len();
            let _ = self.client.receive(output);
            server.sent(self.own, count);
            if taken == 0 && count == 0 {
                return;
            }
        }
    }
}

impl<M: SharedMemory> Default for Store<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// The nodes as the toolstack sees them, in a transaction or not.
pub struct Nodes<'a, X: Xen> {
    store: &'a mut Store<X::Mapping>,
    xen: &'a mut X,
    transaction: TransactionId,
}

impl<X: Xen> Nodes<'_, X> {
    /// Writes a node's value, and creates it if it is not there.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn write(&mut self, path: &str, value: &str) -> Result<(), Errno> {
        let request = self
            .store
            .client
            .write(self.transaction, path, value.as_bytes())?;
        self.store.finish(self.xen, request).map(drop)
    }

    /// Reads a node's value; none if there is no such node.
    ///
    /// # Errors
    ///
    /// The store's; `EILSEQ` if the value is no text.
    pub fn read(&mut self, path: &str) -> Result<Option<String>, Errno> {
        let request = self.store.client.read(self.transaction, path)?;
        match self.store.finish(self.xen, request) {
            Ok(value) => text(value).map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The names of a node's children; none if there is no such node.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn directory(&mut self, path: &str) -> Result<Vec<String>, Errno> {
        let request = self.store.client.directory(self.transaction, path)?;
        match self.store.finish(self.xen, request) {
            Ok(reply) => Ok(client::names(&reply)),
            Err(Errno::ENOENT) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Removes a node, if it is there, with all below it.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn remove(&mut self, path: &str) -> Result<(), Errno> {
        let request = self.store.client.remove(self.transaction, path)?;
        match self.store.finish(self.xen, request) {
            Err(Errno::ENOENT) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Sets a node's permissions, as `n0`, `r5` and so on.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn set_permissions(&mut self, path: &str, permissions: &[&str]) -> Result<(), Errno> {
        let request = self
            .store
            .client
            .set_permissions(self.transaction, path, permissions)?;
        self.store.finish(self.xen, request).map(drop)
    }
}

fn text(value: Vec<u8>) -> Result<String, Errno> {
    String::from_utf8(value).map_err(|_| Errno::EILSEQ)
}
