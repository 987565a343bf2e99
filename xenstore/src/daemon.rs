//! The store with the pages of all domains: what dom0 runs.

use alloc::collections::{BTreeMap, BTreeSet};
use core::time::Duration;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use split_drivers::SharedMemory;

use crate::ring::Backend;
use crate::server::{ClientId, Links, Server};

/// What the daemon needs of the domain that it runs in.
pub trait Host {
    /// A domain's page.
    type Page: SharedMemory;

    /// Maps the page `gfn` of a domain, and binds to its unbound event channel `port`.
    ///
    /// # Errors
    ///
    /// What the client of INTRODUCE is told.
    fn map(&mut self, domain: Domid, gfn: u64, port: Port) -> Result<Self::Page, Errno>;

    /// Undoes [`map`](Self::map).
    fn unmap(&mut self, domain: Domid, page: Self::Page);

    /// Notifies a domain on the event channel that [`map`](Self::map) bound.
    fn notify(&mut self, domain: Domid);

    /// Prints a line to the log.
    fn print(&mut self, text: &str);

    /// The time, by any clock that only goes forward.
    fn now(&self) -> Duration;
}

/// The rings, with the host for as long as a call of the daemon's.
struct Rings<'a, H: Host> {
    host: &'a mut H,
    rings: &'a mut BTreeMap<Domid, Backend<H::Page>>,
}

impl<H: Host> Rings<'_, H> {
    fn exchange(&mut self, server: &mut Server, domain: Domid) {
        if let Some(ring) = self.rings.get_mut(&domain)
            && ring.exchange(server, ClientId::Domain(domain))
        {
            self.host.notify(domain);
        }
    }

    /// Has the time since `since` booked for a client; what time it is.
    fn charge(&self, server: &mut Server, client: ClientId, since: Duration) -> Duration {
        let now = self.host.now();
        server.charge(client, now, now.saturating_sub(since));
        now
    }
}

impl<H: Host> Links for Rings<'_, H> {
    /// A domain that is introduced again has no page if that fails.
    fn introduce(
        &mut self,
        domain: Domid,
        gfn: u64,
        port: Port,
        features: u32,
    ) -> Result<(), Errno> {
        self.release(domain);
        let page = self.host.map(domain, gfn, port)?;
        self.rings.insert(domain, Backend::connect(page, features));
        self.host.notify(domain);
        Ok(())
    }

    fn release(&mut self, domain: Domid) {
        if let Some(ring) = self.rings.remove(&domain) {
            self.host.unmap(domain, ring.into_memory());
        }
    }

    fn print(&mut self, text: &str) {
        self.host.print(text);
    }
}

/// The store and the domains' pages.
///
/// What acts on other domains is lent the host for that: dom0 needs it for other things as well.
#[derive(Debug)]
pub struct Daemon<P> {
    server: Server,
    rings: BTreeMap<Domid, Backend<P>>,
    signalled: BTreeSet<Domid>,
}

impl<P: SharedMemory> Daemon<P> {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            server: Server::new(),
            rings: BTreeMap::new(),
            signalled: BTreeSet::new(),
        }
    }

    /// The server, for dom0's own clients.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// A domain notified the store.
    pub fn signal(&mut self, domain: Domid) {
        self.signalled.insert(domain);
    }

    /// A domain shut down or crashed.
    pub fn domain_stopped(&mut self, domain: Domid) {
        self.server.domain_stopped(domain);
    }

    /// A domain is destroyed.
    pub fn domain_destroyed<H: Host<Page = P>>(&mut self, host: &mut H, domain: Domid) {
        let rings = &mut self.rings;
        let mut rings = Rings { host, rings };
        self.server.domain_destroyed(domain, &mut rings);
    }

    /// Whether [`poll`](Self::poll) has something to do at once.
    pub fn is_ready(&self) -> bool {
        !self.signalled.is_empty() || self.server.is_ready() || self.server.has_output()
    }

    /// Serves the request of a client of dom0's own before its turn; whether it had one. Others hear
    /// of what that changes by the next [`poll`](Self::poll).
    pub fn serve_now<H: Host<Page = P>>(
        &mut self,
        host: &mut H,
        now: Duration,
        client: ClientId,
    ) -> bool {
        let rings = &mut self.rings;
        let mut rings = Rings { host, rings };
        self.server.serve_now(client, now, &mut rings)
    }

    /// Serves requests, of each domain in turn, until they have cost `budget` (see
    /// [`Server::work`]); whether there is more to do at once. If not, the next call is due when a
    /// domain signals, when a client of dom0's own sends something, or when [`Server::deadline`]
    /// says.
    ///
    /// What the server has for dom0's own clients afterwards is the caller's to fetch.
    pub fn poll<H: Host<Page = P>>(&mut self, host: &mut H, budget: u64) -> bool {
        let rings = &mut self.rings;
        let mut rings = Rings { host, rings };
        let server = &mut self.server;
        let mut now = rings.host.now();
        for domain in core::mem::take(&mut self.signalled) {
            rings.exchange(server, domain);
            now = rings.charge(server, ClientId::Domain(domain), now);
        }
        let end = server.work().saturating_add(budget);
        while server.work() < end
            && let Some(client) = server.serve(now, &mut rings)
        {
            // The reply goes out and the next request comes in, to wait for its turn.
            if let ClientId::Domain(domain) = client {
                rings.exchange(server, domain);
            }
            now = rings.charge(server, client, now);
        }
        while let Some(client) = server.next_with_output() {
            if let ClientId::Domain(domain) = client {
                rings.exchange(server, domain);
                now = rings.charge(server, client, now);
            }
        }
        server.is_ready()
    }
}

impl<P: SharedMemory> Default for Daemon<P> {
    fn default() -> Self {
        Self::new()
    }
}
