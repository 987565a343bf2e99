//! The network of the guests: the backends of their interfaces, and the bridge that connects them with each
//! other and with the host's network card.
//!
//! An interface has its turn when its guest or the bridge has something for it, and takes a bounded number of
//! frames then. What a guest does not take is dropped, so that none waits for another.

pub mod bridge;
mod nodes;
mod snoop;
mod vif;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use control::net::VifInfo;
use control::{Error, VifConfig};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use split_drivers::net::{Features, Frame, Mac, offload};

use crate::store::Store;
use crate::xen::Xen;
use bridge::{Bridge, PortId};
use nodes::Paths;
use vif::Vif;

/// How often whoever waits for memory is looked at, in nanoseconds.
const RETRY: u64 = 10_000_000;
/// What the tokens of our watches begin with.
const TOKEN: &str = "vif/";
/// The bridge's port for the host's network card.
const NIC: PortId = 0;
/// Frames that are taken from the network card before others have their turn.
const BUDGET: usize = 64;
/// The largest frame that goes out of the host.
const MAX_OUT: usize = 1514;

/// All interfaces of guests, and the bridge.
pub struct Network<X: Xen> {
    bridge: Bridge,
    vifs: Vec<Vif<X>>,
    next_port: PortId,
    /// Interfaces that have come to their end since the last time.
    gone: VecDeque<(Domid, u32, Mac)>,
}

impl<X: Xen> Network<X> {
    /// A bridge with the network card, if there is one.
    pub fn new(xen: &X) -> Self {
        let mut bridge = Bridge::default();
        if xen.nic_address().is_some() {
            bridge.add(NIC);
        }
        Self {
            bridge,
            vifs: Vec::new(),
            next_port: NIC + 1,
            gone: VecDeque::new(),
        }
    }

    /// Whether a domain can have these interfaces.
    ///
    /// # Errors
    ///
    /// Says of the first which cannot be had why not.
    pub fn check(vifs: &[VifConfig]) -> Result<(), Error> {
        let bad = |why| Error::BadConfig {
            field: "vif".to_string(),
            why,
        };
        if vifs.len() > VifConfig::MAX_VIFS {
            let why = format!("more than {} interfaces", VifConfig::MAX_VIFS);
            return Err(bad(why));
        }
        for vif in vifs {
            let (name, only) = (&vif.bridge, VifConfig::BRIDGE);
            if name != only {
                return Err(bad(format!(
                    "there is no bridge {name:?}, the only one is {only}"
                )));
            }
            if Mac(vif.mac).is_group() {
                let mac = Mac(vif.mac);
                return Err(bad(format!("{mac} is the address of a group")));
            }
            let name = vif.name.as_deref().unwrap_or("vif");
            let good = |c: char| !c.is_control() && !c.is_whitespace() && c != '/';
            if name.is_empty() || name.len() > VifConfig::MAX_NAME || !name.chars().all(good) {
                return Err(bad(format!("{name:?} is no name of an interface")));
            }
            if vif
                .rate
                .is_some_and(|it| it.bytes == 0 || it.interval_us == 0)
            {
                return Err(bad("a rate of nothing".to_string()));
            }
        }
        Ok(())
    }

    /// Gives a domain an interface; its number.
    ///
    /// # Errors
    ///
    /// Says why not; nothing of it is left then.
    pub fn attach(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        domid: Domid,
        config: &VifConfig,
    ) -> Result<u32, Error> {
        Self::check(core::slice::from_ref(config))?;
        let used = |devid: &u32| {
            self.vifs
                .iter()
                .any(|it| it.domid == domid && it.devid == *devid)
        };
        let Some(devid) = (0..VifConfig::MAX_VIFS as u32).find(|devid| !used(devid)) else {
            return Err(Error::BadState {
                domid: domid.0,
                why: format!("has {} interfaces already", VifConfig::MAX_VIFS),
            });
        };
        let paths = Paths::new(domid, devid);
        let made = paths
            .add(&mut store.nodes(xen), config)
            .and_then(|()| watch(store, xen, &paths, domid, devid, true));
        if let Err(errno) = made {
            // The error that led here is the one to tell.
            let _ = watch(store, xen, &paths, domid, devid, false);
            let _ = paths.remove(&mut store.nodes(xen));
            return Err(refused("to add an interface", errno));
        }
        let port = self.next_port;
        self.next_port += 1;
        self.bridge.add(port);
        self.vifs
            .push(Vif::new(port, (domid, devid), config.clone()));
        Ok(devid)
    }

    fn find(&mut self, domid: Domid, devid: u32) -> Option<&mut Vif<X>> {
        self.vifs
            .iter_mut()
            .find(|it| it.domid == domid && it.devid == devid)
    }

    /// The number of an interface by its number or address.
    ///
    /// # Errors
    ///
    /// If the domain has no such interface.
    pub fn number(&self, domid: Domid, name: &str) -> Result<u32, Error> {
        let mac = Mac::parse(name);
        self.vifs
            .iter()
            .filter(|it| it.domid == domid)
            .find(|it| name.parse() == Ok(it.devid) || mac == Some(Mac(it.config.mac)))
            .map(|it| it.devid)
            .ok_or_else(|| Error::BadState {
                domid: domid.0,
                why: format!("has no network interface {name:?}"),
            })
    }

    /// Asks a guest to let an interface go, which [`Self::next_gone`] will tell; with `force` it is not
    /// asked.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn detach(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        (domid, devid): (Domid, u32),
        force: bool,
    ) -> Result<(), Error> {
        if force {
            return self
                .remove(store, xen, |it| it.domid == domid && it.devid == devid)
                .map_err(|errno| refused("to remove an interface", errno));
        }
        match self.find(domid, devid) {
            Some(vif) => vif
                .close(store, xen)
                .map_err(|errno| refused("to close an interface", errno)),
            None => Ok(()),
        }
    }

    /// A domain is over: lets go of all that it has.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn remove_domain(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        domid: Domid,
    ) -> Result<(), Errno> {
        self.remove(store, xen, |it| it.domid == domid)
    }

    fn remove(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        which: impl Fn(&Vif<X>) -> bool,
    ) -> Result<(), Errno> {
        let mut result = Ok(());
        for vif in self.vifs.iter_mut().filter(|vif| which(vif)) {
            vif.disconnect(xen);
            self.bridge.remove(vif.port);
            let (domid, devid) = (vif.domid, vif.devid);
            self.gone.push_back((domid, devid, Mac(vif.config.mac)));
            let watched = watch(store, xen, &vif.paths, domid, devid, false);
            let removed = vif.paths.remove(&mut store.nodes(xen));
            result = result.and(watched).and(removed);
        }
        self.vifs.retain(|vif| !which(vif));
        result
    }

    /// An interface that has come to its end, with its address.
    pub fn next_gone(&mut self) -> Option<(Domid, u32, Mac)> {
        self.gone.pop_front()
    }

    /// An event came on a port; whether it is one of ours.
    pub fn signal(&mut self, port: Port) -> bool {
        let vif = self.vifs.iter_mut().find(|it| it.has_port(port));
        vif.map(|vif| vif.signalled = true).is_some()
    }

    /// A watch of the toolstack's fired; whether it is one of ours.
    pub fn on_watch(&mut self, token: &str) -> bool {
        let Some(rest) = token.strip_prefix(TOKEN) else {
            return false;
        };
        let ids = rest.split_once('/').and_then(|(domid, devid)| {
            let domid = Domid(domid.parse().ok()?);
            Some((domid, devid.parse().ok()?))
        });
        if let Some(vif) = ids.and_then(|(domid, devid)| self.find(domid, devid)) {
            vif.look = true;
        }
        true
    }

    /// Passes frames on; whether there is more to do at once.
    pub fn serve(&mut self, store: &mut Store<X::Mapping>, xen: &mut X) -> bool {
        let mut more = false;
        for nth in 0.. {
            let Some(frame) = xen.receive_frame() else {
                break;
            };
            self.forward(xen, NIC, frame);
            if nth >= BUDGET {
                more = true;
                break;
            }
        }
        let mut out = Vec::new();
        for nth in 0..self.vifs.len() {
            let Some(vif) = self.vifs.get_mut(nth) else {
                break;
            };
            if vif.signalled {
                vif.turn(store, xen, &mut out);
            }
            let (port, look) = (vif.port, vif.look);
            for frame in out.drain(..) {
                self.forward(xen, port, frame);
            }
            if look {
                self.follow(store, xen, port);
            }
        }
        // Whoever has had more than a turn's worth goes behind the others.
        if self.vifs.len() > 1 {
            self.vifs.rotate_left(1);
        }
        more || self.vifs.iter().any(|vif| vif.signalled)
    }

    fn forward(&mut self, xen: &mut X, from: PortId, frame: Frame) {
        let targets = self.bridge.forward(from, &frame, xen.now());
        let Some((last, others)) = targets.split_last() else {
            return;
        };
        for port in others {
            self.deliver(xen, *port, frame.clone());
        }
        self.deliver(xen, *last, frame);
    }

    fn deliver(&mut self, xen: &mut X, port: PortId, frame: Frame) {
        if port != NIC {
            if let Some(vif) = self.vifs.iter_mut().find(|vif| vif.port == port) {
                vif.deliver(frame);
            }
            return;
        }
        // The card does nothing by itself.
        for frame in offload::fit(frame, &Features::default()) {
            if frame.bytes.len() <= MAX_OUT {
                // What there is no room for is lost, as on any wire.
                let _ = xen.send_frame(&frame.bytes);
            }
        }
    }

    fn follow(&mut self, store: &mut Store<X::Mapping>, xen: &mut X, port: PortId) {
        let Some(vif) = self.vifs.iter_mut().find(|vif| vif.port == port) else {
            return;
        };
        match vif.follow(store, xen) {
            Ok(false) => {}
            Ok(true) => {
                if let Err(errno) = self.remove(store, xen, |it| it.port == port) {
                    xen.log(&format!(
                        "an interface's nodes cannot be removed: {errno:?}"
                    ));
                }
            }
            Err(errno) => {
                let path = &vif.paths.back;
                xen.log(&format!("{path}: the store refuses: {errno:?}"));
            }
        }
    }

    /// When [`Self::serve`] is to be called although nothing came, in nanoseconds of system time.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        let retry = self
            .vifs
            .iter()
            .any(|vif| vif.starved || vif.look)
            .then(|| now.saturating_add(RETRY));
        let wakes = self.vifs.iter().filter_map(|vif| vif.wake_at);
        wakes.chain(retry).min()
    }

    /// Has those who wait for memory or for credit looked at.
    pub fn tick(&mut self, now: u64) {
        for vif in &mut self.vifs {
            vif.signalled |= vif.starved || vif.wake_at.is_some_and(|at| at <= now);
        }
    }

    /// A domain's interfaces as they are.
    pub fn list(&self, store: &mut Store<X::Mapping>, xen: &mut X, domid: Domid) -> Vec<VifInfo> {
        let mut list = Vec::new();
        for vif in self.vifs.iter().filter(|it| it.domid == domid) {
            let front = &vif.paths.front;
            let mut number = |name: &str| {
                let path = format!("{front}/{name}");
                let value = store.nodes(xen).read(&path).ok().flatten();
                value.and_then(|value| value.trim().parse().ok())
            };
            let (sent, received) = vif.traffic();
            list.push(VifInfo {
                devid: vif.devid,
                mac: vif.config.mac,
                address: vif.address,
                state: number("state").unwrap_or(0),
                event_channel: number("event-channel").or_else(|| number("event-channel-tx")),
                tx_ring: number("tx-ring-ref"),
                rx_ring: number("rx-ring-ref"),
                path: vif.paths.back.clone(),
                sent,
                received,
            });
        }
        list.sort_by_key(|vif| vif.devid);
        list
    }
}

fn refused(what: &str, errno: Errno) -> Error {
    Error::Store {
        what: what.to_string(),
        errno: errno as i32,
    }
}

/// Watches a frontend's state, or stops to.
fn watch<X: Xen>(
    store: &mut Store<X::Mapping>,
    xen: &mut X,
    paths: &Paths,
    domid: Domid,
    devid: u32,
    on: bool,
) -> Result<(), Errno> {
    let path = format!("{}/state", paths.front);
    let token = format!("{TOKEN}{domid}/{devid}");
    store.watch(xen, &path, &token, on)
}
