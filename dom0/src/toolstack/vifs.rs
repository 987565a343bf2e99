//! Network interfaces of domains, given and taken.

use alloc::string::String;

use control::{Error, NetworkReply, NetworkRequest, Reply, VifConfig};
use hypercall_abi::types::Domid;
use split_drivers::net::Mac;

use super::{Device, DeviceKind, Notice, Phase, Toolstack};
use crate::net::stack::Stack;
use crate::xen::Xen;

impl<X: Xen> Toolstack<X> {
    /// Answers a request about network interfaces; none if it is answered by [`Notice::DeviceGone`].
    ///
    /// # Errors
    ///
    /// Says why it is not done.
    pub fn answer_network(
        &mut self,
        request: NetworkRequest,
    ) -> Result<Result<Reply, Device>, Error> {
        match request {
            NetworkRequest::Attach { domain, vif } => {
                let domid = self.resolve(&domain)?;
                self.managed(domid)?;
                let (store, xen) = (&mut self.store, &mut self.xen);
                self.network.attach(store, xen, domid, &vif)?;
                // It has it after a restart, too.
                self.managed(domid)?.config.vifs.push(vif);
                Ok(Ok(Reply::Done))
            }
            NetworkRequest::Detach { domain, vif } => {
                let domid = self.resolve(&domain)?;
                let phase = self.managed(domid)?.phase;
                let devid = self.network.number(domid, &vif)?;
                // One that has shut down lets nothing go by itself.
                let force = phase != Phase::Alive;
                let (store, xen) = (&mut self.store, &mut self.xen);
                self.network.detach(store, xen, (domid, devid), force)?;
                Ok(Err(Device {
                    domid,
                    kind: DeviceKind::Vif,
                    devid,
                }))
            }
            NetworkRequest::Interfaces(domain) => {
                let domid = self.resolve(&domain)?;
                let vifs = self.network.list(&mut self.store, &mut self.xen, domid);
                Ok(Ok(Reply::Network(NetworkReply::Interfaces(vifs))))
            }
            // The server's, for as long as the channel lasts.
            NetworkRequest::Receive { .. } => Err(Error::BadRequest(String::from("where it came"))),
        }
    }

    /// Gives a new domain its interfaces.
    pub(super) fn attach_vifs(&mut self, domid: Domid, vifs: &[VifConfig]) -> Result<(), Error> {
        vifs.iter().try_for_each(|vif| {
            let (store, xen) = (&mut self.store, &mut self.xen);
            self.network.attach(store, xen, domid, vif).map(drop)
        })
    }

    /// Takes all interfaces of a domain away.
    pub(super) fn drop_vifs(&mut self, domid: Domid) {
        let (store, xen) = (&mut self.store, &mut self.xen);
        if let Err(error) = self.network.remove_domain(store, xen, domid) {
            let line = alloc::format!("domain {domid}: the store keeps its vifs: {error:?}");
            self.xen.log(&line);
        }
        self.hear_of_vifs();
    }

    /// Serves the network for a while; whether there is more to do at once.
    pub fn serve_network(&mut self) -> bool {
        let more = self.network.serve(&mut self.store, &mut self.xen);
        self.hear_of_vifs();
        more
    }

    /// This domain's own stack, and the time.
    ///
    /// # Errors
    ///
    /// If it takes no part in the network.
    pub fn own_stack(&mut self) -> Result<(&mut Stack, u64), Error> {
        let now = self.xen.now();
        let stack = self.network.own().ok_or(Error::NoAddress)?;
        Ok((stack, now))
    }

    /// Whether a connection of this domain's own was used, so that [`Self::serve_network`] has something to do.
    pub fn is_network_ready(&mut self) -> bool {
        self.network.own().is_some_and(|own| own.is_kicked())
    }

    fn hear_of_vifs(&mut self) {
        while let Some((domid, devid, mac)) = self.network.next_gone() {
            if let Some(domain) = self.domains.get_mut(&domid)
                && domain.phase == Phase::Alive
            {
                let vifs = &mut domain.config.vifs;
                if let Some(nth) = vifs.iter().position(|vif| Mac(vif.mac) == mac) {
                    vifs.remove(nth);
                }
            }
            self.notices.push_back(Notice::DeviceGone(Device {
                domid,
                kind: DeviceKind::Vif,
                devid,
            }));
        }
    }
}
