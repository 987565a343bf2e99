//! Domains come and go: INTRODUCE, RELEASE, RESUME, SET_TARGET, GET_DOMAIN_PATH,
//! IS_DOMAIN_INTRODUCED.

use alloc::vec::Vec;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};

use super::{ClientId, Domain, FEATURES, Firing, Links, Server, guest, ok, text};
use crate::path::Path;
use crate::view;
use crate::watch;
use crate::wire;

impl Server {
    pub(super) fn introduce(
        &mut self,
        payload: &[u8],
        links: &mut dyn Links,
    ) -> Result<Vec<u8>, Errno> {
        let strings = wire::strings(payload);
        let [domain, gfn, port, ..] = strings[..] else {
            return Err(Errno::EINVAL);
        };
        let (domain, gfn) = (guest(domain)?, signed(gfn)?);
        let port = match wire::number(port)? {
            0 => return Err(Errno::EINVAL),
            port => Port(port),
        };
        let features = self.features(domain);
        links.introduce(domain, gfn, port, features)?;
        let client = ClientId::Domain(domain);
        self.reset(client);
        if !self.clients.contains(client) {
            self.clients.insert(client);
            self.domains.entry(domain).or_default().stopped = false;
            self.firings
                .push(Firing::OfDomain(watch::INTRODUCE, domain));
        }
        Ok(ok())
    }

    pub(super) fn release(
        &mut self,
        payload: &[u8],
        links: &mut dyn Links,
    ) -> Result<Vec<u8>, Errno> {
        let domain = self.introduced(wire::one_string(payload)?)?;
        self.depart(domain, links);
        Ok(ok())
    }

    /// A domain is destroyed: what it has in the store goes with it, whether it was introduced or
    /// not.
    pub fn domain_destroyed(&mut self, domain: Domid, links: &mut dyn Links) {
        if domain != Domid(0) {
            self.depart(domain, links);
            self.fire();
        }
    }

    /// A domain shut down or crashed. Watches hear of it once, until RESUME.
    pub fn domain_stopped(&mut self, domain: Domid) {
        if self.is_introduced(domain)
            && let Some(state) = self.domains.get_mut(&domain)
            && !state.stopped
        {
            state.stopped = true;
            self.firings.push(Firing::OfDomain(watch::RELEASE, domain));
            self.fire();
        }
    }

    /// The features of a domain's page.
    pub(super) fn features(&self, domain: Domid) -> u32 {
        let features = self.domains.get(&domain).and_then(|domain| domain.features);
        features.unwrap_or(FEATURES)
    }

    pub(super) fn is_introduced(&self, domain: Domid) -> bool {
        domain == Domid(0) || self.clients.contains(ClientId::Domain(domain))
    }

    pub(super) fn domain_path(&self, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let domain = Domid(wire::number(wire::one_string(payload)?)?);
        Ok(text(&Path::of_domain(domain)))
    }

    pub(super) fn is_domain_introduced(&self, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let domain = Domid(wire::number(wire::one_string(payload)?)?);
        let introduced = domain == Domid::SELF || self.is_introduced(domain);
        Ok(text(if introduced { "T" } else { "F" }))
    }

    pub(super) fn resume(&mut self, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let domain = self.introduced(wire::one_string(payload)?)?;
        self.domains.entry(domain).or_default().stopped = false;
        Ok(ok())
    }

    pub(super) fn set_target(&mut self, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let strings = wire::strings(payload);
        let [domain, target, ..] = strings[..] else {
            return Err(Errno::EINVAL);
        };
        let domain = self.introduced(domain)?;
        let target = self.introduced(target)?;
        self.domains.entry(domain).or_default().target = Some(target);
        self.doom_transactions(domain);
        Ok(ok())
    }

    fn introduced(&self, string: &[u8]) -> Result<Domid, Errno> {
        let domain = guest(string)?;
        match self.is_introduced(domain) {
            true => Ok(domain),
            false => Err(Errno::ENOENT),
        }
    }

    fn depart(&mut self, domain: Domid, links: &mut dyn Links) {
        let client = ClientId::Domain(domain);
        let was_introduced = self.is_introduced(domain);
        self.disconnect(client);
        self.generation += 1;
        self.departures.record(domain, self.generation);
        while let Some(path) = self
            .accounts
            .of(domain)
            .and_then(|account| account.nodes.first().cloned())
        {
            let mut view = view::privileged(
                &mut self.tree,
                &self.accounts,
                &self.departures,
                &mut self.generation,
                &mut self.work,
            );
            let changes = view.disown(&path);
            self.settle(changes);
        }
        self.accounts.close(domain);
        for special in [&mut self.introduce, &mut self.release] {
            if special.owner == domain {
                special.owner = Domid(0);
            }
        }
        self.domains.remove(&domain);
        let targeting = |(other, state): (&Domid, &mut Domain)| {
            state.target.take_if(|target| *target == domain)?;
            Some(*other)
        };
        let targeting: Vec<_> = self.domains.iter_mut().filter_map(targeting).collect();
        for other in targeting {
            self.doom_transactions(other);
        }
        if was_introduced {
            links.release(domain);
            self.firings.push(Firing::OfDomain(watch::RELEASE, domain));
        }
    }
}

/// A frame number, which some write as a signed number.
fn signed(string: &[u8]) -> Result<u64, Errno> {
    match string.strip_prefix(b"-") {
        Some(digits) => Ok(wire::number::<u64>(digits)?.wrapping_neg()),
        None => wire::number(string),
    }
}
