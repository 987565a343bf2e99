//! The network of the guests: the backends of their interfaces, and the bridge that connects them with each
//! other and with the host's network card.
//!
//! An interface has its turn when its guest or the bridge has something for it, and takes a bounded number of
//! frames then. What a guest does not take is dropped, so that none waits for another. This domain is a station on the
//! bridge, too ([`stack`]).

pub mod addressing;
pub mod bridge;
pub mod sink;
mod snoop;
pub mod stack;
mod vif;
#[cfg(any(test, fuzzing))]
pub mod world;

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use control::net::VifInfo;
use control::{DeviceUse, Error, VifConfig};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use split_drivers::net::sources::Sources;
use split_drivers::net::{Features, Frame, Mac, offload};

use crate::device::Devices;
use crate::store::Store;
use crate::xen::Xen;
use addressing::Addressing;
use bridge::{Bridge, PortId};
use stack::Stack;
use vif::Vif;

/// The bridge's port for the host's network card.
const NIC: PortId = 0;
/// The bridge's port for this domain itself.
const OWN: PortId = 1;
/// This domain's address on the wire where there is no network card, whose it has else.
const OWN_MAC: Mac = Mac([0x02, 0x16, 0x3e, 0, 0, 1]);
/// Frames that are taken from the network card before others have their turn.
const BUDGET: usize = 64;
/// The largest frame that goes out of the host.
const MAX_OUT: usize = 1514;

/// All interfaces of guests, and the bridge.
pub struct Network<X: Xen> {
    bridge: Bridge,
    vifs: Devices<Vif<X>>,
    next_port: PortId,
    /// This domain itself.
    own: Option<Stack>,
}

impl<X: Xen> Network<X> {
    /// A bridge with the network card, if there is one, and this domain, if it is to have an address.
    pub fn new(xen: &X, addressing: Addressing) -> Self {
        let mut bridge = Bridge::default();
        let card = xen.nic_address();
        if card.is_some() {
            bridge.add(NIC);
        }
        let now = xen.now();
        let seed = now ^ xen.wall_clock() << 32;
        let own = Stack::new(card.unwrap_or(OWN_MAC), addressing, seed, now);
        if let Some(own) = &own {
            bridge.add_own(OWN, own.mac());
        }
        Self {
            bridge,
            vifs: Devices::new(),
            next_port: OWN + 1,
            own,
        }
    }

    /// This domain's own stack, if it takes part in the network.
    pub fn own(&mut self) -> Option<&mut Stack> {
        self.own.as_mut()
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
            if let Some(Err(word)) = vif.ip.as_deref().map(Sources::parse) {
                return Err(bad(format!("{word:?} is no IP address")));
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
        if self
            .own
            .as_ref()
            .is_some_and(|own| own.mac() == Mac(config.mac))
        {
            return Err(Error::BadConfig {
                field: "vif".to_string(),
                why: format!("{} is the host's own address", Mac(config.mac)),
            });
        }
        let free = |devid: &u32| self.vifs.find(domid, *devid).is_none();
        let Some(devid) = (0..VifConfig::MAX_VIFS as u32).find(free) else {
            return Err(Error::BadState {
                domid: domid.0,
                why: format!("has {} interfaces already", VifConfig::MAX_VIFS),
            });
        };
        let (handle, mac) = (devid.to_string(), Mac(config.mac).to_string());
        let front = [
            ("handle", handle.clone()),
            ("mac", mac.clone()),
            ("trusted", "1".to_string()),
            ("mtu", "1500".to_string()),
        ];
        let mut back = Vec::from([
            ("script", "/etc/xen/scripts/vif-bridge".to_string()),
            ("mac", mac),
            ("bridge", config.bridge.clone()),
            ("handle", handle),
            ("type", "vif".to_string()),
            ("hotplug-status", "".to_string()),
        ]);
        if let Some(name) = &config.name {
            back.push(("vifname", name.clone()));
        }
        if let Some(ip) = &config.ip {
            back.push(("ip", ip.clone()));
        }
        if let Some(rate) = &config.rate {
            back.push(("rate", format!("{},{}", rate.bytes, rate.interval_us)));
        }
        let port = self.next_port;
        let vif = Vif::new(port, config.clone());
        self.vifs
            .add(store, xen, (domid, devid), vif, (&front, &back))?;
        self.next_port += 1;
        self.bridge.add(port);
        Ok(devid)
    }

    /// The number of an interface by its number or address.
    ///
    /// # Errors
    ///
    /// If the domain has no such interface.
    pub fn number(&self, domid: Domid, name: &str) -> Result<u32, Error> {
        let mac = Mac::parse(name);
        self.vifs
            .of(domid)
            .iter()
            .find(|it| name.parse() == Ok(it.paths.devid) || mac == Some(Mac(it.driver.config.mac)))
            .map(|it| it.paths.devid)
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
        vif: (Domid, u32),
        force: bool,
    ) -> Result<(), Error> {
        self.vifs.detach(store, xen, vif, force)
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
        self.vifs.remove(store, xen, |it| it.paths.domid == domid)
    }

    /// An interface that has come to its end, with its address.
    pub fn next_gone(&mut self) -> Option<(Domid, u32, Mac)> {
        let gone = self.vifs.next_gone()?;
        self.bridge.remove(gone.driver.port);
        let mac = Mac(gone.driver.config.mac);
        Some((gone.paths.domid, gone.paths.devid, mac))
    }

    /// An event came on a port; whether it is one of ours.
    pub fn signal(&mut self, port: Port) -> bool {
        self.vifs.signal(port)
    }

    /// A watch of the toolstack's fired; whether it is one of ours.
    pub fn on_watch(&mut self, token: &str) -> bool {
        self.vifs.on_watch(token)
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
        let mut nth = 0;
        while let Some(vif) = self.vifs.nth(nth) {
            nth += 1;
            if vif.signalled {
                let turn = vif.driver.turn(vif.paths.domid, xen, &mut out);
                vif.after_turn(store, xen, turn);
            }
            let port = vif.driver.port;
            for frame in out.drain(..) {
                self.forward(xen, port, frame);
            }
        }
        more |= self.serve_own(xen);
        self.vifs.follow(store, xen, |_| true);
        let waits = self.vifs.end_round();
        more || waits
    }

    /// Gives this domain its turn; whether it has more to do at once.
    fn serve_own(&mut self, xen: &mut X) -> bool {
        let now = xen.now();
        let Some(own) = self.own.as_mut().filter(|own| own.is_ready(now)) else {
            return false;
        };
        let out = own.turn(now);
        if let Some(line) = own.take_news() {
            xen.log(&line);
        }
        for frame in out {
            self.forward(xen, OWN, frame);
        }
        self.own.as_ref().is_some_and(Stack::is_busy)
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
        if port == OWN {
            if let Some(own) = &mut self.own {
                own.deliver(frame);
            }
            return;
        }
        if port != NIC {
            if let Some(vif) = self.vifs.iter_mut().find(|it| it.driver.port == port) {
                vif.signalled |= vif.driver.deliver(frame);
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

    /// When [`Self::serve`] is to be called although nothing came, in nanoseconds of system time.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        let wakes = self.vifs.iter().filter_map(|vif| vif.driver.wake_at);
        let own = self.own.as_ref().and_then(Stack::due);
        wakes.chain(self.vifs.deadline(now)).chain(own).min()
    }

    /// Has those who wait for memory or for credit looked at.
    pub fn tick(&mut self, now: u64) {
        self.vifs.tick();
        for vif in self.vifs.iter_mut() {
            vif.signalled |= vif.driver.wake_at.is_some_and(|at| at <= now);
        }
    }

    /// Adds what a domain's interfaces have passed on.
    pub fn count(&self, domid: Domid, all: &mut DeviceUse) {
        for vif in self.vifs.iter().filter(|it| it.paths.domid == domid) {
            let (sent, received) = vif.driver.traffic();
            all.vifs += 1;
            all.sent = all.sent.wrapping_add(sent.bytes);
            all.received = all.received.wrapping_add(received.bytes);
        }
    }

    /// A domain's interfaces as they are.
    pub fn list(&self, store: &mut Store<X::Mapping>, xen: &mut X, domid: Domid) -> Vec<VifInfo> {
        let vifs = self.vifs.of(domid).into_iter();
        let info = vifs.map(|vif| {
            let paths = &vif.paths;
            // Of several queues, the first one's.
            let mut number = |name: &str| {
                let first = format!("queue-0/{name}");
                let one = paths.front_number(store, xen, name);
                one.or_else(|| paths.front_number(store, xen, &first))
            };
            let event_channel = number("event-channel").or_else(|| number("event-channel-tx"));
            let (tx_ring, rx_ring) = (number("tx-ring-ref"), number("rx-ring-ref"));
            let (sent, received) = vif.driver.traffic();
            VifInfo {
                devid: paths.devid,
                mac: vif.driver.config.mac,
                address: vif.driver.address,
                state: paths.front_number(store, xen, "state").unwrap_or(0),
                event_channel,
                tx_ring,
                rx_ring,
                path: paths.back.clone(),
                sent,
                received,
            }
        });
        info.collect()
    }
}
