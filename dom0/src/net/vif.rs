//! A network interface of a guest: its connection to the frontend.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use control::VifConfig;
use control::net::Traffic;
use hypercall_abi::types::{Domid, GrantRef, Port};
use split_drivers::net::back::{Back, Policy};
use split_drivers::net::credit::Rate;
use split_drivers::net::sources::Sources;
use split_drivers::net::{Connection, Counters, Features, Frame, Mac, Ports, Transport};

use super::bridge::PortId;
use super::snoop::{self, Address};
use crate::device::{Class, Driver, GuestGrants, Paths, Turn};
use crate::store::Store;
use crate::xen::Xen;

/// What is offered to every guest.
const TRANSPORT: Transport = Transport {
    max_queues: 4,
    split_ports: true,
};
/// Frames that an interface takes from its guest at a time, before others have their turn.
const BUDGET: usize = 64;

/// The connection to a frontend.
struct Link<X: Xen> {
    back: Back<X::Granted>,
    /// By queue: that for what the guest sends, that for what it receives, which may be the same.
    ports: Vec<(Port, Port)>,
}

/// A network interface of a guest.
pub struct Vif<X: Xen> {
    /// Its port of the bridge, a number of its own among all there have ever been.
    pub port: PortId,
    /// As it is configured.
    pub config: VifConfig,
    /// The IPv4 address that the guest was last seen to use.
    pub address: Option<Address>,
    link: Option<Link<X>>,
    /// Of the connections before.
    before: (Counters, Counters),
    /// When the guest may send again, in nanoseconds.
    pub wake_at: Option<u64>,
}

impl<X: Xen> Vif<X> {
    /// An interface without a connection.
    pub fn new(port: PortId, config: VifConfig) -> Self {
        Self {
            port,
            config,
            address: None,
            link: None,
            before: Default::default(),
            wake_at: None,
        }
    }

    /// What the guest has sent, and what it was given.
    pub fn traffic(&self) -> (Traffic, Traffic) {
        let (sent, received) = match &self.link {
            None => Default::default(),
            Some(link) => (link.back.sent(), link.back.received()),
        };
        (sum(&self.before.0, &sent), sum(&self.before.1, &received))
    }

    /// Queues a frame for the guest, if it is there; whether any waits.
    pub fn deliver(&mut self, frame: Frame) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        self.address = snoop::given(&frame, Mac(self.config.mac)).or(self.address);
        link.back.deliver(frame);
        link.back.has_queued()
    }

    /// Takes what the guest sends, which goes to `out`, and gives it what waits for it.
    ///
    /// # Errors
    ///
    /// Says how the frontend breaks the protocol.
    pub fn turn(
        &mut self,
        domid: Domid,
        xen: &mut X,
        out: &mut Vec<Frame>,
    ) -> Result<Turn, String> {
        self.wake_at = None;
        let Some(link) = &mut self.link else {
            return Ok(Turn::default());
        };
        let first = out.len();
        let now = xen.now();
        let shared = RefCell::new(&mut *xen);
        let mut grants = GuestGrants {
            xen: &shared,
            domid,
        };
        let turn = link.back.turn(&mut grants, now, BUDGET, out);
        for frame in out.iter().skip(first) {
            self.address = snoop::senders(frame).or(self.address);
        }
        let turn = turn.map_err(|violation| violation.to_string())?;
        let port = |queue: &usize| link.ports.get(*queue);
        let tx = turn.notify_tx.iter().filter_map(port).map(|it| it.0);
        let rx = turn.notify_rx.iter().filter_map(port).map(|it| it.1);
        for port in tx.chain(rx) {
            // Should the guest be gone already, nobody waits.
            let _ = xen.notify(port);
        }
        self.wake_at = turn.wake_at;
        Ok(Turn {
            more: turn.more,
            starved: turn.starved,
        })
    }
}

impl<X: Xen> Driver<X> for Vif<X> {
    const CLASS: Class = Class::Vif;

    fn name(&self, devid: u32) -> String {
        format!("vif {devid}")
    }

    fn offer(&self) -> Vec<(String, String)> {
        let mut nodes = TRANSPORT.nodes();
        nodes.extend(Features::ALL.nodes());
        nodes
    }

    fn connect(
        &mut self,
        paths: &Paths,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
    ) -> Result<(), String> {
        let domid = paths.domid;
        let read = |name: &str| paths.read_front(store, xen, name);
        let connection = Connection::read(&TRANSPORT, &Features::ALL, read)
            .map_err(|node| format!("{}/{node}", paths.front))?;
        let addresses = self.config.ip.as_deref().map(Sources::parse).transpose();
        let addresses = addresses.map_err(|word| format!("{word:?} is no IP address"))?;
        let policy = Policy {
            source: Some(Mac(self.config.mac)),
            addresses,
            rate: self.config.rate.map(|rate| Rate {
                bytes: rate.bytes,
                interval_us: rate.interval_us,
            }),
        };
        let mut bound = Vec::new();
        let connect = || {
            let mut rings = Vec::new();
            let mut ports = Vec::new();
            for queue in &connection.queues {
                let ring = |gref: GrantRef| {
                    xen.map_ring(domid, &[gref])
                        .map_err(|errno| format!("its ring cannot be mapped: {errno:?}"))
                };
                let [tx, rx] = [queue.tx, queue.rx].map(ring);
                rings.push((tx?, rx?));
                let mut bind = |port: Port| {
                    let port = xen
                        .bind_interdomain(domid, port)
                        .map_err(|errno| format!("its port cannot be bound: {errno:?}"))?;
                    bound.push(port);
                    Ok::<_, String>(port)
                };
                ports.push(match queue.ports {
                    Ports::One(port) => bind(port).map(|port| (port, port))?,
                    Ports::Split { tx, rx } => (bind(tx)?, bind(rx)?),
                });
            }
            let now = xen.now();
            let back = Back::attach(rings, connection.features, policy, now)
                .map_err(|violation| violation.to_string())?;
            Ok(Link { back, ports })
        };
        match connect() {
            Ok(link) => {
                self.link = Some(link);
                Ok(())
            }
            Err(why) => {
                for port in bound {
                    let _ = xen.close_port(port);
                }
                Err(why)
            }
        }
    }

    fn disconnect(&mut self, xen: &mut X) {
        if let Some(link) = self.link.take() {
            for (before, now) in [
                (&mut self.before.0, link.back.sent()),
                (&mut self.before.1, link.back.received()),
            ] {
                before.frames += now.frames;
                before.bytes += now.bytes;
                before.dropped += now.dropped;
            }
            for (tx, rx) in link.ports {
                // Should the domain be gone already, so are the ports.
                let _ = xen.close_port(tx);
                if rx != tx {
                    let _ = xen.close_port(rx);
                }
            }
        }
        self.wake_at = None;
    }

    fn has_port(&self, port: Port) -> bool {
        self.link
            .as_ref()
            .is_some_and(|link| link.ports.iter().any(|(tx, rx)| [*tx, *rx].contains(&port)))
    }
}

fn sum(before: &Counters, now: &Counters) -> Traffic {
    Traffic {
        frames: before.frames + now.frames,
        bytes: before.bytes + now.bytes,
        dropped: before.dropped + now.dropped,
    }
}
