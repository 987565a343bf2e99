//! A disk of a guest: its connection, and what it has the volume do.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use control::DiskConfig;
use hypercall_abi::types::{Domid, Port};
use split_drivers::block::back::{Back, Counters, Finished};
use split_drivers::block::{Connection, Device as Description, Transport};

use super::access::{Access, Tags};
use super::volume::Volumes;
use crate::device::{Class, Driver, GuestGrants, Paths, Turn};
use crate::store::Store;
use crate::xen::Xen;

/// What is offered to every guest.
const TRANSPORT: Transport = Transport {
    max_queues: 4,
    max_ring_order: 2,
};
/// Requests that a device takes at a time, before others have their turn.
const BUDGET: usize = 32;

/// The connection to a frontend.
struct Link<X: Xen> {
    back: Back<X::Granted, X::Buffer, X::Granted>,
    /// Our ports, by queue.
    ports: Vec<Port>,
}

/// A disk of a guest.
pub struct Vbd<X: Xen> {
    /// As it is configured.
    pub config: DiskConfig,
    /// Its use of the volume.
    pub access: Access<X::Buffer>,
    description: Description,
    link: Option<Link<X>>,
    /// What the connections before were asked for.
    before: Counters,
}

impl<X: Xen> Vbd<X> {
    /// A disk without a connection.
    pub fn new(config: DiskConfig, access: Access<X::Buffer>, description: Description) -> Self {
        Self {
            config,
            access,
            description,
            link: None,
            before: Counters::default(),
        }
    }

    /// What its guest has asked for.
    pub fn counters(&self) -> Counters {
        let mut all = self.before;
        if let Some(link) = &self.link {
            all += link.back.counters();
        }
        all
    }

    /// Takes what the volume has finished; whether there is somebody to be told.
    pub fn take_finished(&mut self, finished: Finished<X::Buffer>) -> bool {
        let connected = self.link.is_some();
        self.access.take(finished, connected);
        connected
    }

    /// Takes requests and passes on answers.
    ///
    /// # Errors
    ///
    /// Says how the frontend breaks the protocol.
    pub fn turn(
        &mut self,
        domid: Domid,
        xen: &mut X,
        volumes: &mut Volumes,
        tags: &mut Tags,
    ) -> Result<Turn, String> {
        let Some(link) = &mut self.link else {
            return Ok(Turn::default());
        };
        let shared = RefCell::new(&mut *xen);
        let mut grants = GuestGrants {
            xen: &shared,
            domid,
        };
        let mut disk = self.access.disk(&shared, volumes, tags);
        let turn = link
            .back
            .turn(&mut grants, &mut disk, BUDGET)
            .map_err(|overrun| overrun.to_string())?;
        for queue in turn.notify {
            if let Some(port) = link.ports.get(queue) {
                // Should the guest be gone already, nobody waits.
                let _ = xen.notify(*port);
            }
        }
        Ok(Turn {
            more: turn.more || self.access.has_finished(),
            starved: turn.starved,
        })
    }
}

impl<X: Xen> Driver<X> for Vbd<X> {
    const CLASS: Class = Class::Vbd;

    fn name(&self, _: u32) -> String {
        format!("disk {}", self.config.vdev)
    }

    fn offer(&self) -> Vec<(String, String)> {
        // Most of a device can be told at once.
        let mut nodes: Vec<_> = TRANSPORT.nodes().into_iter().collect();
        nodes.extend(self.description.nodes());
        nodes
    }

    fn connect(
        &mut self,
        paths: &Paths,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
    ) -> Result<(), String> {
        let connection = Connection::read(&TRANSPORT, |name| paths.read_front(store, xen, name))
            .map_err(|node| format!("{}/{node}", paths.front))?;
        let mut rings = Vec::new();
        let mut ports = Vec::new();
        let mut connect = || {
            for queue in &connection.queues {
                let ring = xen
                    .map_ring(paths.domid, &queue.ring)
                    .map_err(|errno| format!("its ring cannot be mapped: {errno:?}"))?;
                rings.push(ring);
                let port = xen
                    .bind_interdomain(paths.domid, queue.port)
                    .map_err(|errno| format!("its port cannot be bound: {errno:?}"))?;
                ports.push(port);
            }
            let rings = core::mem::take(&mut rings);
            Back::attach(self.description, rings, connection.persistent)
                .map_err(|overrun| overrun.to_string())
        };
        match connect() {
            Ok(back) => {
                self.link = Some(Link { back, ports });
                Ok(())
            }
            Err(why) => {
                for port in ports {
                    let _ = xen.close_port(port);
                }
                Err(why)
            }
        }
    }

    fn drain(&mut self) -> bool {
        self.link.as_mut().is_none_or(|link| {
            link.back.close();
            link.back.is_idle()
        })
    }

    fn disconnect(&mut self, xen: &mut X) {
        self.before = self.counters();
        if let Some(link) = self.link.take() {
            for port in link.ports {
                // Should the domain be gone already, so is the port.
                let _ = xen.close_port(port);
            }
        }
        self.access.forget();
    }

    fn has_port(&self, port: Port) -> bool {
        self.link
            .as_ref()
            .is_some_and(|link| link.ports.contains(&port))
    }
}
