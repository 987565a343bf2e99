//! CONTROL, quotas and features: for dom0 alone.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use super::{ClientId, FEATURES, Links, Server, guest, ok, text};
use crate::quota::{Account, Accounts, Resource};
use crate::view::{Change, Event};
use crate::wire;

const HELP: &str =
    "check\t\nlog\ton|off\nprint\t<string>\nquota\t[set <name> <val>|<domid>]\nhelp\t\n";

impl Server {
    pub(super) fn control(
        &mut self,
        payload: &[u8],
        links: &mut dyn Links,
    ) -> Result<Vec<u8>, Errno> {
        match &wire::strings(payload)[..] {
            [b"check"] => match self.check() {
                Ok(()) => Ok(ok()),
                Err(problem) => {
                    links.print(&problem);
                    Err(Errno::EIO)
                }
            },
            [b"log", b"on"] => {
                self.log = true;
                Ok(ok())
            }
            [b"log", b"off"] => {
                self.log = false;
                Ok(ok())
            }
            [b"print", string] => {
                links.print(&String::from_utf8_lossy(string));
                Ok(ok())
            }
            [b"quota"] => Ok(self.quotas()),
            [b"quota", b"set", name, value] => {
                let resource = Resource::from_name(name)?;
                match wire::number(value)? {
                    0 => return Err(Errno::EINVAL),
                    value => self.accounts.set_quota(None, resource, value),
                }
                Ok(ok())
            }
            [b"quota", domain] => self.usage(Domid(wire::number(domain)?)),
            [b"help"] => Ok(text(HELP)),
            _ => Err(Errno::EINVAL),
        }
    }

    fn quotas(&self) -> Vec<u8> {
        let mut lines = String::from("Quota settings:\n");
        for (resource, name, _, description) in Resource::ALL {
            let value = self.accounts.quota(None, resource);
            lines += &format!("{name:<17}: {value:8} {description}\n");
        }
        text(&lines)
    }

    fn usage(&self, domain: Domid) -> Result<Vec<u8>, Errno> {
        let connection = self.clients.get(ClientId::Domain(domain));
        let account = self.accounts.of(domain);
        if connection.is_none() && account.is_none() {
            return Err(Errno::ENOENT);
        }
        let numbers = [
            ("nodes", account.map_or(0, |account| account.nodes.len())),
            ("watches", account.map_or(0, |account| account.watches)),
            (
                "transactions",
                connection.map_or(0, |it| it.transactions.len()),
            ),
            (
                "outstanding",
                connection.map_or(0, |it| it.output.replies()),
            ),
            ("memory", account.map_or(0, |account| account.bytes)),
        ];
        let mut lines = format!("Domain {domain}:\n");
        for (name, number) in numbers {
            lines += &format!("{name:<16}: {number:8}\n");
        }
        Ok(text(&lines))
    }

    pub(super) fn get_feature(&self, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let features = match wire::strings(payload)[..] {
            [] => FEATURES,
            [domain] => self.features(guest(domain)?),
            _ => return Err(Errno::EINVAL),
        };
        Ok(text(&format!("{features}")))
    }

    pub(super) fn set_feature(&mut self, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let [domain, features] = wire::strings(payload)[..] else {
            return Err(Errno::EINVAL);
        };
        let (domain, features) = (guest(domain)?, wire::number(features)?);
        if self.is_introduced(domain) {
            return Err(Errno::EBUSY);
        }
        if features & !FEATURES != 0 {
            return Err(Errno::EINVAL);
        }
        self.domains.entry(domain).or_default().features = Some(features);
        Ok(ok())
    }

    pub(super) fn get_quota(&self, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let (domain, name) = match wire::strings(payload)[..] {
            [] => {
                let names = Resource::ALL.map(|(_, name, ..)| name);
                return Ok(text(&names.join(" ")));
            }
            [name] => (None, name),
            [domain, name] => (Some(guest(domain)?), name),
            _ => return Err(Errno::EINVAL),
        };
        let value = self.accounts.quota(domain, Resource::from_name(name)?);
        Ok(text(&format!("{value}")))
    }

    pub(super) fn set_quota(&mut self, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let (domain, name, value) = match wire::strings(payload)[..] {
            [name, value] => (None, name, value),
            [domain, name, value] => (Some(guest(domain)?), name, value),
            _ => return Err(Errno::EINVAL),
        };
        let resource = Resource::from_name(name)?;
        self.accounts
            .set_quota(domain, resource, wire::number(value)?);
        Ok(ok())
    }

    /// Counts everything anew.
    ///
    /// # Errors
    ///
    /// What does not add up.
    pub fn check(&self) -> Result<(), String> {
        let mut counted = Accounts::new();
        for (path, node) in self.tree.iter() {
            if let Some(parent) = crate::path::parent(path)
                && self.tree.get(parent).is_none()
            {
                return Err(format!("{path} has no parent"));
            }
            counted.apply(&Change {
                path: path.clone(),
                before: None,
                after: Some(node.clone()),
                parent: None,
                event: Event::None,
            });
        }
        for watch in self.watches.iter() {
            if !self.clients.contains(watch.client) {
                return Err(format!("{:?} is gone and watches", watch.client));
            }
            let account = counted.of_mut(watch.client.domain());
            account.watches += 1;
            account.bytes += watch.size();
        }
        let nothing = Account::default();
        let domains = self.accounts.domains().chain(counted.domains());
        for domain in domains {
            let (booked, found) = (self.accounts.of(domain), counted.of(domain));
            let (booked, found) = (booked.unwrap_or(&nothing), found.unwrap_or(&nothing));
            if !booked.has_the_same_as(found) {
                return Err(format!("domain {domain} has {found:?}, not {booked:?}"));
            }
        }
        Ok(())
    }
}
