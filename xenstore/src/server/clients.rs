//! All connections, each found by whose it is.
//!
//! The parts of dom0 are few and ask for most. What a look for one of them costs does not depend on
//! how many guests there are.

use alloc::collections::BTreeMap;

use hypercall_abi::types::Domid;

use super::ClientId;
use super::connection::Connection;

#[derive(Debug, Default)]
pub(super) struct Clients {
    locals: BTreeMap<u32, Connection>,
    guests: BTreeMap<Domid, Connection>,
}

impl Clients {
    pub fn get(&self, client: ClientId) -> Option<&Connection> {
        match client {
            ClientId::Local(number) => self.locals.get(&number),
            ClientId::Domain(domain) => self.guests.get(&domain),
        }
    }

    pub fn get_mut(&mut self, client: ClientId) -> Option<&mut Connection> {
        match client {
            ClientId::Local(number) => self.locals.get_mut(&number),
            ClientId::Domain(domain) => self.guests.get_mut(&domain),
        }
    }

    pub fn contains(&self, client: ClientId) -> bool {
        self.get(client).is_some()
    }

    /// Has a client begin with a new connection.
    pub fn insert(&mut self, client: ClientId) {
        let connection = Connection::new(client);
        match client {
            ClientId::Local(number) => self.locals.insert(number, connection),
            ClientId::Domain(domain) => self.guests.insert(domain, connection),
        };
    }

    pub fn remove(&mut self, client: ClientId) {
        match client {
            ClientId::Local(number) => self.locals.remove(&number),
            ClientId::Domain(domain) => self.guests.remove(&domain),
        };
    }
}
