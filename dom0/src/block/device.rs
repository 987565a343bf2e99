//! A disk of a guest: its connection, and what it has the volume do.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use control::DiskConfig;
use hypercall_abi::types::{Domid, Port};
use split_drivers::block::back::{Back, Disk, Finished, Operation};
use split_drivers::block::{Connection, Device as Description, Transport};

use super::volume::{Place, VolumeId, Volumes};
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

/// Operations under way: the device, and its own number for it.
pub type Tags = BTreeMap<u64, (u64, u64)>;

/// The connection to a frontend.
struct Link<X: Xen> {
    back: Back<X::Granted, X::Buffer, X::Granted>,
    /// Our ports, by queue.
    ports: Vec<Port>,
}

/// A disk of a guest.
pub struct Vbd<X: Xen> {
    /// Its number among all there have ever been.
    pub key: u64,
    /// As it is configured.
    pub config: DiskConfig,
    /// What it is.
    pub volume: VolumeId,
    description: Description,
    link: Option<Link<X>>,
    finished: VecDeque<Finished<X::Buffer>>,
    /// Operations of the volume that are under way.
    pub under_way: usize,
}

impl<X: Xen> Vbd<X> {
    /// A disk without a connection.
    pub fn new(key: u64, config: DiskConfig, volume: VolumeId, description: Description) -> Self {
        Self {
            key,
            config,
            volume,
            description,
            link: None,
            finished: VecDeque::new(),
            under_way: 0,
        }
    }

    /// Takes what the volume has finished; whether there is somebody to be told.
    pub fn take_finished(&mut self, finished: Finished<X::Buffer>) -> bool {
        self.under_way = self.under_way.saturating_sub(1);
        if self.link.is_some() {
            self.finished.push_back(finished);
        }
        self.link.is_some()
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
        let mut disk = VolumeDisk {
            xen: &shared,
            volumes,
            volume: self.volume,
            tags,
            key: self.key,
            finished: &mut self.finished,
            under_way: &mut self.under_way,
        };
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
            more: turn.more || !self.finished.is_empty(),
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
        if let Some(link) = self.link.take() {
            for port in link.ports {
                // Should the domain be gone already, so is the port.
                let _ = xen.close_port(port);
            }
        }
        self.finished.clear();
    }

    fn has_port(&self, port: Port) -> bool {
        self.link
            .as_ref()
            .is_some_and(|link| link.ports.contains(&port))
    }
}

/// A volume, as one device uses it.
struct VolumeDisk<'a, 'x, X: Xen> {
    xen: &'a RefCell<&'x mut X>,
    volumes: &'a mut Volumes,
    volume: VolumeId,
    tags: &'a mut Tags,
    key: u64,
    finished: &'a mut VecDeque<Finished<X::Buffer>>,
    under_way: &'a mut usize,
}

impl<X: Xen> Disk for VolumeDisk<'_, '_, X> {
    type Buffer = X::Buffer;

    fn start(
        &mut self,
        tag: u64,
        operation: Operation<X::Buffer>,
    ) -> Result<(), Operation<X::Buffer>> {
        let Some(volume) = self.volumes.get(self.volume) else {
            return Err(operation);
        };
        match volume.place() {
            Place::Ram(ram) => {
                let buffer = ram.run(operation);
                self.finished.push_back(Finished {
                    tag,
                    done: true,
                    buffer,
                });
            }
            Place::Disk { disk, first } => {
                let operation = moved(operation, *first);
                // Numbers go up, so the next one is free.
                let number = self.tags.last_key_value().map_or(0, |(last, _)| last + 1);
                let first = *first;
                if let Err(back) = self.xen.borrow_mut().start(*disk, number, operation) {
                    return Err(moved(back, first.wrapping_neg()));
                }
                self.tags.insert(number, (self.key, tag));
                *self.under_way += 1;
            }
        }
        Ok(())
    }

    fn finished(&mut self) -> Option<Finished<X::Buffer>> {
        self.finished.pop_front()
    }
}

/// An operation so many sectors further on.
fn moved<B>(mut operation: Operation<B>, by: u64) -> Operation<B> {
    match &mut operation {
        Operation::Read { sector, .. }
        | Operation::Write { sector, .. }
        | Operation::Discard { sector, .. } => *sector = sector.wrapping_add(by),
        Operation::Flush => {}
    }
    operation
}
