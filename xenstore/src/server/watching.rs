//! WATCH and UNWATCH, and the events.

use alloc::vec::Vec;

use hypercall_abi::errno::Errno;

use super::{ClientId, Firing, Server, caller, ok};
use crate::permissions::{Access, Caller, Permissions};
use crate::quota::Resource;
use crate::view::{Change, Event};
use crate::watch::{self, Target, Watch};
use crate::wire;

impl Server {
    pub(super) fn watch(&mut self, client: ClientId, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let strings = wire::strings(payload);
        let (path, token, depth) = match strings[..] {
            [path, token] => (path, token, None),
            [path, token, depth] => (path, token, Some(wire::number(depth)?)),
            _ => return Err(Errno::EINVAL),
        };
        let domain = client.domain();
        let target = Target::parse(path, domain)?;
        // Of a special event the depth says whether the domain is named.
        if target.is_special() && depth.is_some_and(|depth| depth != 1) {
            return Err(Errno::EINVAL);
        }
        if self.watches.contains(client, &target, token) {
            return Err(Errno::EEXIST);
        }
        let watch = self.watches.next(client, target, token, depth);
        if self.watches.count_of(client) >= self.accounts.limit(domain, Resource::Watches) {
            return Err(Errno::E2BIG);
        }
        let bytes = self.accounts.bytes(domain) + watch.size();
        if bytes > self.accounts.limit(domain, Resource::Memory) {
            return Err(Errno::ENOMEM);
        }
        let account = self.accounts.of_mut(domain);
        account.bytes = bytes;
        account.watches += 1;
        self.firings.push(Firing::Set(watch.clone()));
        self.watches.add(watch);
        Ok(ok())
    }

    pub(super) fn unwatch(&mut self, client: ClientId, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let [path, token] = wire::strings(payload)[..] else {
            return Err(Errno::EINVAL);
        };
        let target = Target::parse(path, client.domain())?;
        let watch = self.watches.remove(client, &target, token)?;
        self.refund(client, &watch);
        Ok(ok())
    }

    pub(super) fn drop_watches(&mut self, client: ClientId) {
        for watch in self.watches.remove_all(client) {
            self.refund(client, &watch);
        }
    }

    fn refund(&mut self, client: ClientId, watch: &Watch) {
        let account = self.accounts.of_mut(client.domain());
        account.bytes -= watch.size();
        account.watches -= 1;
    }

    /// Queues the events of all that has happened.
    pub(super) fn fire(&mut self) {
        for firing in core::mem::take(&mut self.firings) {
            for client in self.fire_one(&firing) {
                self.announce(client);
            }
        }
    }

    /// Queues the events of one thing that has happened; who has got any.
    fn fire_one(&mut self, firing: &Firing) -> Vec<ClientId> {
        let who = |client| caller(client, &self.domains, &self.departures);
        let clients = &mut self.clients;
        let mut queue = |watch: &Watch, path: &str| {
            let connection = clients.get_mut(watch.client)?;
            connection.output.event(watch, path).then_some(watch.client)
        };
        match firing {
            Firing::Changed(Change {
                event: Event::None, ..
            }) => Vec::new(),
            Firing::Changed(change) => {
                let exact = change.event == Event::Exact;
                let may = |client| may_know(change, who(client));
                self.watches
                    .matching(&change.path, exact, &mut self.work, may)
                    .into_iter()
                    .filter_map(|watch| queue(watch, watch.target.name(&change.path)))
                    .collect()
            }
            Firing::OfDomain(event, domain) => {
                let permissions = match *event {
                    watch::INTRODUCE => &self.introduce,
                    _ => &self.release,
                };
                let may = |client| permissions.allow(who(client), Access::READ);
                self.watches
                    .of_domain(event, *domain, may)
                    .into_iter()
                    .filter_map(|(watch, path)| queue(watch, &path))
                    .collect()
            }
            Firing::Set(watch) => queue(watch, watch.target.own_name()).into_iter().collect(),
        }
    }
}

/// Who can read the node, or could, may know of a change; of its creation and removal also who can
/// list the parent.
fn may_know(change: &Change, who: Caller) -> bool {
    let reads = |permissions: &Permissions| permissions.allow(who, Access::READ);
    let sides = [&change.before, &change.after];
    sides
        .into_iter()
        .flatten()
        .any(|node| reads(&node.permissions))
        || change.parent.as_deref().is_some_and(reads)
}
