//! What the backends of all devices have in common: their nodes in the store, their life from the offer to the
//! end, and the list of those that there are.
//!
//! A device's driver is what differs: what it offers, and the connection to a frontend.

mod grants;
mod list;
mod paths;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use split_drivers::xenbus::State;
use split_drivers::xenbus::backend::{Backend, Step};

use crate::store::Store;
use crate::xen::Xen;

pub use grants::GuestGrants;
pub use list::{Devices, RETRY};
pub use paths::Paths;

/// A kind of device, as the store calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A disk.
    Vbd,
    /// A network interface.
    Vif,
}

impl Class {
    /// Its name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Vif => "vif",
        }
    }

    /// What one of it is called.
    fn noun(self) -> &'static str {
        match self {
            Self::Vbd => "a disk",
            Self::Vif => "an interface",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A device's own part.
pub trait Driver<X: Xen> {
    /// What kind of device it is.
    const CLASS: Class;

    /// What the log calls the device of that number.
    fn name(&self, devid: u32) -> String;

    /// What it tells a frontend before there is a connection.
    fn offer(&self) -> Vec<(String, String)>;

    /// Makes the connection to the frontend whose nodes are at `paths`.
    ///
    /// # Errors
    ///
    /// Says why it cannot be made; nothing of it is left then.
    fn connect(
        &mut self,
        paths: &Paths,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
    ) -> Result<(), String>;

    /// Takes no more requests; whether all that were taken are answered.
    fn drain(&mut self) -> bool {
        true
    }

    /// Lets go of all that is the guest's, whatever it says.
    fn disconnect(&mut self, xen: &mut X);

    /// Whether one of its event-channel ports is this.
    fn has_port(&self, port: Port) -> bool;
}

/// What a device's turn leaves to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// There is more at once.
    pub more: bool,
    /// It waits for room somewhere.
    pub starved: bool,
}

/// A device of a guest.
pub struct Device<D> {
    /// Where its nodes are.
    pub paths: Paths,
    /// What it is.
    pub driver: D,
    life: Backend,
    /// As the store has it.
    written: State,
    online: bool,
    /// The nodes may have changed.
    pub look: bool,
    /// There may be something for its turn.
    pub signalled: bool,
    /// It waits for room somewhere.
    pub starved: bool,
}

impl<D> Device<D> {
    /// A device whose nodes the toolstack has made.
    fn new(paths: Paths, driver: D) -> Self {
        Self {
            paths,
            driver,
            life: Backend::new(),
            written: State::Initialising,
            online: true,
            look: true,
            signalled: false,
            starved: false,
        }
    }

    /// Whether it is the device of that number of a domain.
    pub fn is(&self, domid: Domid, devid: u32) -> bool {
        self.paths.domid == domid && self.paths.devid == devid
    }

    /// Asks the frontend to let the device go.
    fn close<X: Xen>(&mut self, store: &mut Store<X::Mapping>, xen: &mut X) -> Result<(), Errno> {
        self.online = false;
        self.look = true;
        self.life.close();
        let path = format!("{}/online", self.paths.back);
        store.nodes(xen).write(&path, "0")?;
        self.write_state(store, xen)
    }

    fn write_state<X: Xen>(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
    ) -> Result<(), Errno> {
        if self.written == self.life.state() {
            return Ok(());
        }
        self.written = self.life.state();
        let path = format!("{}/state", self.paths.back);
        store.nodes(xen).write(&path, &self.written.to_string())
    }

    fn disconnect<X: Xen>(&mut self, xen: &mut X)
    where
        D: Driver<X>,
    {
        self.driver.disconnect(xen);
        self.signalled = false;
        self.starved = false;
    }

    /// Does what the states of the two ends ask for; whether the device is over. Nothing is offered until
    /// `may_offer`.
    ///
    /// # Errors
    ///
    /// The store's.
    fn follow<X: Xen>(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        may_offer: bool,
    ) -> Result<bool, Errno>
    where
        D: Driver<X>,
    {
        self.look = false;
        loop {
            let front = self.paths.read_front(store, xen, "state");
            let front = State::parse(front.as_deref());
            match self.life.advance(front, self.online) {
                step @ (Step::Wait | Step::Remove) => {
                    self.write_state(store, xen)?;
                    return Ok(step == Step::Remove);
                }
                Step::Offer if !may_offer => {
                    self.look = true;
                    return Ok(false);
                }
                Step::Offer => {
                    let mut store = store.nodes(xen);
                    for (name, value) in self.driver.offer() {
                        store.write(&format!("{}/{name}", self.paths.back), &value)?;
                    }
                    self.life.offered();
                }
                Step::Connect => match self.driver.connect(&self.paths, store, xen) {
                    Ok(()) => {
                        self.signalled = true;
                        self.life.connected();
                    }
                    Err(why) => {
                        self.complain(store, xen, &why);
                        self.life.fail();
                    }
                },
                Step::Disconnect => {
                    if !self.driver.drain() {
                        self.signalled = true;
                        self.look = true;
                        return Ok(false);
                    }
                    self.disconnect(xen);
                    self.life.disconnected();
                }
            }
            self.write_state(store, xen)?;
        }
    }

    /// Notes what its turn came to. A frontend that breaks the protocol, as the error says, is given up.
    pub fn after_turn<X: Xen>(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        result: Result<Turn, String>,
    ) where
        D: Driver<X>,
    {
        match result {
            Ok(turn) => {
                self.signalled = turn.more;
                self.starved = turn.starved;
            }
            Err(why) => {
                self.complain(store, xen, &why);
                self.disconnect(xen);
                self.life.fail();
                self.look = true;
            }
        }
    }

    /// Says why the frontend is given up: in the log, and where libxl's users look for it.
    fn complain<X: Xen>(&self, store: &mut Store<X::Mapping>, xen: &mut X, why: &str)
    where
        D: Driver<X>,
    {
        let (domid, name) = (self.paths.domid, self.driver.name(self.paths.devid));
        xen.log(&format!("domain {domid}: {name}: {why}; given up"));
        let path = format!("{}/error", self.paths.back);
        // It is in the log in any case.
        let _ = store.nodes(xen).write(&path, why);
    }
}
