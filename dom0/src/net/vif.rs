//! A network interface of a guest: the backend's life and its connection.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use control::VifConfig;
use control::net::Traffic;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, GrantRef, Port};
use split_drivers::grants::{Copy, Grants};
use split_drivers::net::back::{Back, Policy};
use split_drivers::net::credit::Rate;
use split_drivers::net::{Connection, Counters, Features, Frame, Mac, Ports};
use split_drivers::xenbus::State;
use split_drivers::xenbus::backend::{Backend, Step};

use super::bridge::PortId;
use super::nodes::Paths;
use super::snoop::{self, Address};
use crate::store::Store;
use crate::xen::Xen;

/// Frames that an interface takes from its guest at a time, before others have their turn.
const BUDGET: usize = 64;

/// The connection to a frontend.
struct Link<X: Xen> {
    back: Back<X::Granted>,
    tx: Port,
    /// The other one, if there are two.
    rx: Option<Port>,
}

/// A network interface of a guest.
pub struct Vif<X: Xen> {
    /// Its port of the bridge, a number of its own among all there have ever been.
    pub port: PortId,
    /// Whose it is.
    pub domid: Domid,
    /// Its number in the domain.
    pub devid: u32,
    /// As it is configured.
    pub config: VifConfig,
    /// Where its nodes are.
    pub paths: Paths,
    /// The IPv4 address that the guest was last seen to use.
    pub address: Option<Address>,
    life: Backend,
    /// As the store has it.
    written: State,
    online: bool,
    link: Option<Link<X>>,
    /// Of the connections before.
    before: (Counters, Counters),
    /// The nodes may have changed.
    pub look: bool,
    /// There may be frames either way.
    pub signalled: bool,
    /// It waits for memory.
    pub starved: bool,
    /// When the guest may send again, in nanoseconds.
    pub wake_at: Option<u64>,
}

impl<X: Xen> Vif<X> {
    /// An interface whose nodes the toolstack has made.
    pub fn new(port: PortId, (domid, devid): (Domid, u32), config: VifConfig) -> Self {
        Self {
            port,
            domid,
            devid,
            config,
            paths: Paths::new(domid, devid),
            address: None,
            life: Backend::new(),
            written: State::Initialising,
            online: true,
            link: None,
            before: Default::default(),
            look: true,
            signalled: false,
            starved: false,
            wake_at: None,
        }
    }

    /// Whether one of its event-channel ports is this.
    pub fn has_port(&self, port: Port) -> bool {
        self.link
            .as_ref()
            .is_some_and(|link| link.tx == port || link.rx == Some(port))
    }

    /// What the guest has sent, and what it was given.
    pub fn traffic(&self) -> (Traffic, Traffic) {
        let (sent, received) = match &self.link {
            None => Default::default(),
            Some(link) => (link.back.sent(), link.back.received()),
        };
        (sum(&self.before.0, &sent), sum(&self.before.1, &received))
    }

    /// Queues a frame for the guest, if it is there.
    pub fn deliver(&mut self, frame: Frame) {
        if let Some(link) = &mut self.link {
            self.address = snoop::given(&frame, Mac(self.config.mac)).or(self.address);
            link.back.deliver(frame);
            self.signalled |= link.back.has_queued();
        }
    }

    /// Asks the frontend to let the interface go.
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
            for (before, now) in [
                (&mut self.before.0, link.back.sent()),
                (&mut self.before.1, link.back.received()),
            ] {
                before.frames += now.frames;
                before.bytes += now.bytes;
                before.dropped += now.dropped;
            }
            for port in [Some(link.tx), link.rx].into_iter().flatten() {
                // Should the domain be gone already, so is the port.
                let _ = xen.close_port(port);
            }
        }
        self.signalled = false;
        self.starved = false;
        self.wake_at = None;
    }

    fn write_state(&mut self, store: &mut Store<X::Mapping>, xen: &mut X) -> Result<(), Errno> {
        if self.written == self.life.state() {
            return Ok(());
        }
        self.written = self.life.state();
        let path = format!("{}/state", self.paths.back);
        store.nodes(xen).write(&path, &self.written.to_string())
    }

    /// Does what the states of the two ends ask for; whether the interface is over.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn follow(&mut self, store: &mut Store<X::Mapping>, xen: &mut X) -> Result<bool, Errno> {
        self.look = false;
        loop {
            let path = format!("{}/state", self.paths.front);
            // What is no text is no state.
            let value = store.nodes(xen).read(&path).unwrap_or_default();
            let step = self
                .life
                .advance(State::parse(value.as_deref()), self.online);
            match step {
                Step::Wait | Step::Remove => {
                    self.write_state(store, xen)?;
                    return Ok(step == Step::Remove);
                }
                Step::Offer => {
                    let mut store = store.nodes(xen);
                    for (name, value) in Features::ALL.nodes() {
                        store.write(&format!("{}/{name}", self.paths.back), &value)?;
                    }
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
                    self.disconnect(xen);
                    self.life.disconnected();
                }
            }
            self.write_state(store, xen)?;
        }
    }

    /// Maps the frontend's rings and binds its ports.
    fn connect(&self, store: &mut Store<X::Mapping>, xen: &mut X) -> Result<Link<X>, String> {
        let front = &self.paths.front;
        let connection = Connection::read(&Features::ALL, |name| {
            let path = format!("{front}/{name}");
            store.nodes(xen).read(&path).unwrap_or_default()
        })
        .map_err(|node| format!("{front}/{node}"))?;
        let mut ring = |gref: GrantRef| {
            xen.map_ring(self.domid, &[gref])
                .map_err(|errno| format!("its ring cannot be mapped: {errno:?}"))
        };
        let (tx, rx) = (ring(connection.tx)?, ring(connection.rx)?);
        let policy = Policy {
            source: Some(Mac(self.config.mac)),
            rate: self.config.rate.map(|rate| Rate {
                bytes: rate.bytes,
                interval_us: rate.interval_us,
            }),
        };
        let now = xen.now();
        let back = Back::attach(tx, rx, connection.features, policy, now)
            .map_err(|violation| violation.to_string())?;
        let mut bind = |port: Port| {
            xen.bind_interdomain(self.domid, port)
                .map_err(|errno| format!("its port cannot be bound: {errno:?}"))
        };
        let (tx, rx) = match connection.ports {
            Ports::One(port) => (bind(port)?, None),
            Ports::Split { tx, rx } => {
                let tx = bind(tx)?;
                match bind(rx) {
                    Ok(rx) => (tx, Some(rx)),
                    Err(why) => {
                        let _ = xen.close_port(tx);
                        return Err(why);
                    }
                }
            }
        };
        Ok(Link { back, tx, rx })
    }

    /// Says why the frontend is given up: in the log, and where libxl's users look for it.
    fn complain(&self, store: &mut Store<X::Mapping>, xen: &mut X, why: &str) {
        let (domid, devid) = (self.domid, self.devid);
        xen.log(&format!("domain {domid}: vif {devid}: {why}; given up"));
        let path = format!("{}/error", self.paths.back);
        // It is in the log in any case.
        let _ = store.nodes(xen).write(&path, why);
    }

    /// Takes what the guest sends, which goes to `out`, and gives it what waits for it.
    pub fn turn(&mut self, store: &mut Store<X::Mapping>, xen: &mut X, out: &mut Vec<Frame>) {
        self.signalled = false;
        self.starved = false;
        self.wake_at = None;
        let Some(link) = &mut self.link else {
            return;
        };
        let first = out.len();
        let now = xen.now();
        let mut grants = GuestGrants {
            xen,
            domid: self.domid,
        };
        match link.back.turn(&mut grants, now, BUDGET, out) {
            Ok(turn) => {
                let rx = link.rx.unwrap_or(link.tx);
                for (notify, port) in [(turn.notify_tx, link.tx), (turn.notify_rx, rx)] {
                    if notify {
                        // Should the guest be gone already, nobody waits.
                        let _ = xen.notify(port);
                    }
                }
                self.signalled = turn.more;
                self.starved = turn.starved;
                self.wake_at = turn.wake_at;
            }
            Err(violation) => {
                self.complain(store, xen, &violation.to_string());
                self.disconnect(xen);
                self.life.fail();
                self.look = true;
            }
        }
        for frame in out.iter().skip(first) {
            self.address = snoop::senders(frame).or(self.address);
        }
    }
}

fn sum(before: &Counters, now: &Counters) -> Traffic {
    Traffic {
        frames: before.frames + now.frames,
        bytes: before.bytes + now.bytes,
        dropped: before.dropped + now.dropped,
    }
}

/// The grants of a guest.
struct GuestGrants<'a, X> {
    xen: &'a mut X,
    domid: Domid,
}

impl<X: Xen> Grants for GuestGrants<'_, X> {
    type Buffer = X::Buffer;
    type Page = X::Granted;

    fn buffer(&mut self, bytes: usize) -> Option<X::Buffer> {
        self.xen.buffer(bytes)
    }

    fn copy(&mut self, copies: &[Copy<'_, X::Buffer, X::Granted>]) -> Vec<bool> {
        self.xen.copy(self.domid, copies)
    }

    fn map(&mut self, grants: &[GrantRef]) -> Vec<Option<X::Granted>> {
        self.xen.map_pages(self.domid, grants)
    }
}
