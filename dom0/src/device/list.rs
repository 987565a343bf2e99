//! The devices of one class that there are.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;

use control::Error;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};

use super::paths::NewNodes;
use super::{Device, Driver, Paths};
use crate::store::Store;
use crate::xen::Xen;

/// How often whoever waits for memory or for room is looked at, in nanoseconds.
pub const RETRY: u64 = 10_000_000;

/// All devices of a class.
pub struct Devices<D> {
    list: Vec<Device<D>>,
    /// Those that have come to their end, cut off from their guests.
    gone: VecDeque<Device<D>>,
}

impl<D> Devices<D> {
    /// None yet.
    pub fn new() -> Self {
        Self {
            list: Vec::new(),
            gone: VecDeque::new(),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Device<D>> {
        self.list.iter()
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Device<D>> {
        self.list.iter_mut()
    }

    /// The device of that number of a domain.
    pub fn find(&self, domid: Domid, devid: u32) -> Option<&Device<D>> {
        self.list.iter().find(|it| it.is(domid, devid))
    }

    /// A domain's devices, by number.
    pub fn of(&self, domid: Domid) -> Vec<&Device<D>> {
        let mut list: Vec<_> = self.list.iter().collect();
        list.retain(|it| it.paths.domid == domid);
        list.sort_by_key(|it| it.paths.devid);
        list
    }

    /// The device at a place of the list.
    pub fn nth(&mut self, nth: usize) -> Option<&mut Device<D>> {
        self.list.get_mut(nth)
    }

    /// A device that has come to its end since the last time.
    pub fn next_gone(&mut self) -> Option<Device<D>> {
        self.gone.pop_front()
    }

    /// Gives a domain a device, with these nodes of the two ends.
    ///
    /// # Errors
    ///
    /// The store's; nothing of it is left then.
    pub fn add<X: Xen>(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        (domid, devid): (Domid, u32),
        driver: D,
        (front, back): (NewNodes<'_>, NewNodes<'_>),
    ) -> Result<(), Error>
    where
        D: Driver<X>,
    {
        let paths = Paths::new(D::CLASS, domid, devid);
        let made = paths
            .add(&mut store.nodes(xen), front, back)
            .and_then(|()| paths.watch(store, xen, true));
        if let Err(errno) = made {
            // The error that led here is the one to tell.
            let _ = paths.watch(store, xen, false);
            let _ = paths.remove(&mut store.nodes(xen));
            return Err(refused::<X, D>("add", errno));
        }
        self.list.push(Device::new(paths, driver));
        Ok(())
    }

    /// Asks a guest to let a device go, which [`Self::next_gone`] will tell; with `force` it is not asked.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn detach<X: Xen>(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        (domid, devid): (Domid, u32),
        force: bool,
    ) -> Result<(), Error>
    where
        D: Driver<X>,
    {
        if force {
            return self
                .remove(store, xen, |it| it.is(domid, devid))
                .map_err(|errno| refused::<X, D>("remove", errno));
        }
        match self.list.iter_mut().find(|it| it.is(domid, devid)) {
            Some(device) => device
                .close(store, xen)
                .map_err(|errno| refused::<X, D>("close", errno)),
            None => Ok(()),
        }
    }

    /// Takes devices away from their guests, which are not asked.
    ///
    /// # Errors
    ///
    /// The store's; the devices are gone all the same.
    pub fn remove<X: Xen>(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        which: impl Fn(&Device<D>) -> bool,
    ) -> Result<(), Errno>
    where
        D: Driver<X>,
    {
        let mut result = Ok(());
        for mut device in self.list.extract_if(.., |device| which(device)) {
            device.disconnect(xen);
            let watched = device.paths.watch(store, xen, false);
            let removed = device.paths.remove(&mut store.nodes(xen));
            result = result.and(watched).and(removed);
            self.gone.push_back(device);
        }
        result
    }

    /// An event came on a port; whether it is one of these devices'.
    pub fn signal<X: Xen>(&mut self, port: Port) -> bool
    where
        D: Driver<X>,
    {
        let device = self.list.iter_mut().find(|it| it.driver.has_port(port));
        device.map(|device| device.signalled = true).is_some()
    }

    /// A watch of the toolstack's fired; whether it is one of these devices'.
    pub fn on_watch<X: Xen>(&mut self, token: &str) -> bool
    where
        D: Driver<X>,
    {
        let Some((domid, devid)) = Paths::parse_token(D::CLASS, token) else {
            return false;
        };
        if let Some(device) = self.list.iter_mut().find(|it| it.is(domid, devid)) {
            device.look = true;
        }
        true
    }

    /// Does what the states of the two ends of those ask for that may have changed. A device offers itself
    /// only if it `may_offer`.
    pub fn follow<X: Xen>(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        may_offer: impl Fn(&D) -> bool,
    ) where
        D: Driver<X>,
    {
        let mut over = Vec::new();
        for device in self.list.iter_mut().filter(|device| device.look) {
            let may_offer = may_offer(&device.driver);
            match device.follow(store, xen, may_offer) {
                Ok(false) => {}
                Ok(true) => over.push((device.paths.domid, device.paths.devid)),
                Err(errno) => {
                    let path = &device.paths.back;
                    xen.log(&format!("{path}: the store refuses: {errno:?}"));
                }
            }
        }
        for (domid, devid) in over {
            if let Err(errno) = self.remove(store, xen, |it| it.is(domid, devid)) {
                let class = D::CLASS.noun();
                xen.log(&format!("{class}'s nodes cannot be removed: {errno:?}"));
            }
        }
    }

    /// A round is over: whoever has had more than a turn's worth goes behind the others. Whether there is
    /// more to do at once.
    pub fn end_round(&mut self) -> bool {
        if self.list.len() > 1 {
            self.list.rotate_left(1);
        }
        self.list.iter().any(|device| device.signalled)
    }

    /// When the devices are to be looked at although nothing came, in nanoseconds of system time.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        self.list
            .iter()
            .any(|device| device.starved || device.look)
            .then(|| now.saturating_add(RETRY))
    }

    /// Has those who wait for room looked at.
    pub fn tick(&mut self) {
        for device in &mut self.list {
            device.signalled |= device.starved;
        }
    }
}

impl<D> Default for Devices<D> {
    fn default() -> Self {
        Self::new()
    }
}

fn refused<X: Xen, D: Driver<X>>(verb: &str, errno: Errno) -> Error {
    Error::Store {
        what: format!("to {verb} {}", D::CLASS.noun()),
        errno: errno as i32,
    }
}
