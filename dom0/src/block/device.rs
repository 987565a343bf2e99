//! A disk of a guest: the backend's life, its connection, and what it has the volume do.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use control::DiskConfig;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, GrantRef, Port};
use split_drivers::block::back::{Back, Disk, Finished, Operation};
use split_drivers::block::{Connection, Device as Description, Transport};
use split_drivers::grants::{Copy, Grants};
use split_drivers::xenbus::State;
use split_drivers::xenbus::backend::{Backend, Step};

use super::nodes::Paths;
use super::volume::{Place, VolumeId, Volumes};
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
pub struct Device<X: Xen> {
    /// Its number among all there have ever been.
    pub key: u64,
    /// Whose it is.
    pub domid: Domid,
    /// Its number in the domain.
    pub devid: u32,
    /// As it is configured.
    pub config: DiskConfig,
    /// What it is.
    pub volume: VolumeId,
    /// Where its nodes are.
    pub paths: Paths,
    description: Description,
    life: Backend,
    /// As the store has it.
    written: State,
    online: bool,
    link: Option<Link<X>>,
    finished: VecDeque<Finished<X::Buffer>>,
    /// Operations of the volume that are under way.
    pub under_way: usize,
    /// The nodes may have changed.
    pub look: bool,
    /// There may be requests, or answers to pass on.
    pub signalled: bool,
    /// It waits for room somewhere.
    pub starved: bool,
    /// It takes no part in anything any more, but for what is under way.
    pub dropped: bool,
}

impl<X: Xen> Device<X> {
    /// A device whose nodes the toolstack has made.
    pub fn new(
        key: u64,
        (domid, devid): (Domid, u32),
        config: DiskConfig,
        volume: VolumeId,
        description: Description,
    ) -> Self {
        Self {
            key,
            domid,
            devid,
            config,
            volume,
            paths: Paths::new(domid, devid),
            description,
            life: Backend::new(),
            written: State::Initialising,
            online: true,
            link: None,
            finished: VecDeque::new(),
            under_way: 0,
            look: true,
            signalled: false,
            starved: false,
            dropped: false,
        }
    }

    /// Whether one of its ports is this.
    pub fn has_port(&self, port: Port) -> bool {
        self.link
            .as_ref()
            .is_some_and(|link| link.ports.contains(&port))
    }

    /// Takes what the volume has finished.
    pub fn take_finished(&mut self, finished: Finished<X::Buffer>) {
        self.under_way = self.under_way.saturating_sub(1);
        if self.link.is_some() {
            self.finished.push_back(finished);
            self.signalled = true;
        }
    }

    /// Asks the frontend to let the device go.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn close(&mut self, store: &mut Store<X::Mapping>, xen: &mut X) -> Result<(), Errno> {
        self.online = false;
        self.look = true;
        self.life.close();
        let path = format!("{}/online", self.paths.back);
        store.nodes(xen).write(&path, "0")?;
        self.write_state(store, xen)
    }

    /// Lets go of all that is the guest's, whatever it says.
    pub fn disconnect(&mut self, xen: &mut X) {
        if let Some(link) = self.link.take() {
            for port in link.ports {
                // Should the domain be gone already, so is the port.
                let _ = xen.close_port(port);
            }
        }
        self.finished.clear();
        self.signalled = false;
        self.starved = false;
    }

    fn write_state(&mut self, store: &mut Store<X::Mapping>, xen: &mut X) -> Result<(), Errno> {
        if self.written == self.life.state() {
            return Ok(());
        }
        self.written = self.life.state();
        let path = format!("{}/state", self.paths.back);
        store.nodes(xen).write(&path, &self.written.to_string())
    }

    /// Does what the states of the two ends ask for; whether the device is over.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn follow(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        draining: bool,
    ) -> Result<bool, Errno> {
        self.look = false;
        loop {
            let path = format!("{}/state", self.paths.front);
            // What is no text is no state.
            let value = store.nodes(xen).read(&path).unwrap_or_default();
            let front = State::parse(value.as_deref());
            match self.life.advance(front, self.online) {
                Step::Wait => {
                    self.write_state(store, xen)?;
                    return Ok(false);
                }
                Step::Remove => {
                    self.write_state(store, xen)?;
                    return Ok(true);
                }
                Step::Offer if draining => {
                    self.look = true;
                    return Ok(false);
                }
                Step::Offer => {
                    // Most of a device can be told at once.
                    let nodes = TRANSPORT.nodes().into_iter();
                    self.write_nodes(store, xen, nodes.chain(self.description.nodes()))?;
                    self.life.offered();
                }
                Step::Connect => match self.connect(store, xen) {
                    Ok(link) => {
                        self.link = Some(link);
                        self.signalled = true;
                        self.life.connected();
                    }
                    Err(why) => {
                        self.complain(store, xen, &why);
                        self.life.fail();
                    }
                },
                Step::Disconnect => {
                    if let Some(link) = &mut self.link {
                        link.back.close();
                        if !link.back.is_idle() {
                            self.signalled = true;
                            self.look = true;
                            return Ok(false);
                        }
                    }
                    self.disconnect(xen);
                    self.life.disconnected();
                }
            }
            self.write_state(store, xen)?;
        }
    }

    fn write_nodes(
        &self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        nodes: impl Iterator<Item = (String, String)>,
    ) -> Result<(), Errno> {
        let mut store = store.nodes(xen);
        for (name, value) in nodes {
            store.write(&format!("{}/{name}", self.paths.back), &value)?;
        }
        Ok(())
    }

    /// Maps the frontend's rings and binds its ports.
    fn connect(&self, store: &mut Store<X::Mapping>, xen: &mut X) -> Result<Link<X>, String> {
        let front = &self.paths.front;
        let connection = Connection::read(&TRANSPORT, |name| {
            let path = format!("{front}/{name}");
            store.nodes(xen).read(&path).unwrap_or_default()
        })
        .map_err(|node| format!("{front}/{node}"))?;
        let mut rings = Vec::new();
        let mut ports = Vec::new();
        let mut connect = || {
            for queue in &connection.queues {
                let ring = xen
                    .map_ring(self.domid, &queue.ring)
                    .map_err(|errno| format!("its ring cannot be mapped: {errno:?}"))?;
                rings.push(ring);
                let port = xen
                    .bind_interdomain(self.domid, queue.port)
                    .map_err(|errno| format!("its port cannot be bound: {errno:?}"))?;
                ports.push(port);
            }
            let rings = core::mem::take(&mut rings);
            Back::attach(self.description, rings, connection.persistent)
                .map_err(|overrun| overrun.to_string())
        };
        match connect() {
            Ok(back) => Ok(Link { back, ports }),
            Err(why) => {
                for port in ports {
                    let _ = xen.close_port(port);
                }
                Err(why)
            }
        }
    }

    /// Says why the frontend is given up: in the log, and where libxl's users look for it.
    fn complain(&self, store: &mut Store<X::Mapping>, xen: &mut X, why: &str) {
        let (domid, vdev) = (self.domid, &self.config.vdev);
        xen.log(&format!("domain {domid}: disk {vdev}: {why}; given up"));
        let path = format!("{}/error", self.paths.back);
        // It is in the log in any case.
        let _ = store.nodes(xen).write(&path, why);
    }

    /// Takes requests and passes on answers.
    pub fn turn(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        volumes: &mut Volumes,
        tags: &mut Tags,
    ) {
        self.signalled = false;
        self.starved = false;
        let Some(link) = &mut self.link else {
            return;
        };
        let shared = RefCell::new(&mut *xen);
        let mut grants = GuestGrants {
            xen: &shared,
            domid: self.domid,
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
        let turn = link.back.turn(&mut grants, &mut disk, BUDGET);
        match turn {
            Ok(turn) => {
                for queue in turn.notify {
                    if let Some(port) = link.ports.get(queue) {
                        // Should the guest be gone already, nobody waits.
                        let _ = xen.notify(*port);
                    }
                }
                self.signalled = turn.more || !self.finished.is_empty();
                self.starved = turn.starved;
            }
            Err(overrun) => {
                self.complain(store, xen, &overrun.to_string());
                self.disconnect(xen);
                self.life.fail();
                self.look = true;
            }
        }
    }
}

/// The grants of a guest.
struct GuestGrants<'a, 'x, X> {
    xen: &'a RefCell<&'x mut X>,
    domid: Domid,
}

impl<X: Xen> Grants for GuestGrants<'_, '_, X> {
    type Buffer = X::Buffer;
    type Page = X::Granted;

    fn buffer(&mut self, bytes: usize) -> Option<X::Buffer> {
        self.xen.borrow_mut().buffer(bytes)
    }

    fn copy(&mut self, copies: &[Copy<'_, X::Buffer, X::Granted>]) -> Vec<bool> {
        self.xen.borrow_mut().copy(self.domid, copies)
    }

    fn map(&mut self, grants: &[GrantRef]) -> Vec<Option<X::Granted>> {
        self.xen.borrow_mut().map_pages(self.domid, grants)
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
