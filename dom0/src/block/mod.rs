//! Disks of guests: the block backends, and the volumes that they serve.
//!
//! Each device has its turn when its guest or a disk has something for it, and takes a bounded number of
//! requests then; none waits for another but for room in a disk that both use.

mod device;
pub mod gpt;
mod nodes;
mod ram;
mod volume;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use control::block::{DeviceInfo, VolumeInfo};
use control::{DiskConfig, Error};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use split_drivers::block::back::Finished;
use split_drivers::block::vdev;

use crate::store::Store;
use crate::xen::Xen;
use device::{Device, Tags};
use nodes::Paths;
use volume::{User, Volumes};

/// How often whoever waits for room is looked at, in nanoseconds.
const RETRY: u64 = 10_000_000;
/// What the tokens of our watches begin with.
const TOKEN: &str = "vbd/";

/// All disks of guests.
pub struct Blocks<X: Xen> {
    volumes: Volumes,
    devices: Vec<Device<X>>,
    tags: Tags,
    next_key: u64,
    /// Devices that have come to their end since the last time.
    gone: VecDeque<(Domid, u32)>,
}

impl<X: Xen> Blocks<X> {
    /// No devices yet; `room` is how many bytes of volumes there may be in memory.
    pub fn new(xen: &X, room: u64) -> Self {
        Self {
            volumes: Volumes::new(xen.disks(), room),
            devices: Vec::new(),
            tags: Tags::new(),
            next_key: 0,
            gone: VecDeque::new(),
        }
    }

    /// The volumes.
    pub fn list_volumes(&self) -> Vec<VolumeInfo> {
        self.volumes.list()
    }

    /// Makes a volume of memory.
    ///
    /// # Errors
    ///
    /// As [`Volumes::create`].
    pub fn create_volume(&mut self, name: &str, bytes: u64) -> Result<(), Error> {
        self.volumes.create(name, bytes)
    }

    /// Removes a volume of memory.
    ///
    /// # Errors
    ///
    /// As [`Volumes::remove`].
    pub fn remove_volume(&mut self, name: &str) -> Result<(), Error> {
        self.volumes.remove(name)
    }

    /// Whether a domain can have these disks.
    ///
    /// # Errors
    ///
    /// Says of the first which cannot be had why not.
    pub fn check(&self, disks: &[DiskConfig]) -> Result<(), Error> {
        let bad = |why| Error::BadConfig {
            field: "disk".to_string(),
            why,
        };
        if disks.len() > DiskConfig::MAX_DISKS {
            let why = format!("more than {} disks", DiskConfig::MAX_DISKS);
            return Err(bad(why));
        }
        for (nth, disk) in disks.iter().enumerate() {
            let devid = vdev::number(&disk.vdev);
            if devid.is_none() {
                return Err(bad(format!("{:?} is no vdev", disk.vdev)));
            }
            let volume = self.volumes.check(disk)?;
            for other in disks.iter().take(nth) {
                if vdev::number(&other.vdev) == devid {
                    return Err(bad(format!("there are two disks {}", disk.vdev)));
                }
                let shared = self.volumes.find(&other.volume) == Some(volume);
                if shared && !(disk.read_only && other.read_only) {
                    return Err(bad(format!(
                        "{:?} cannot be two disks, one of which is written to",
                        disk.volume
                    )));
                }
            }
        }
        Ok(())
    }

    /// Gives a domain a disk.
    ///
    /// # Errors
    ///
    /// Says why not; nothing of it is left then.
    pub fn attach(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        domid: Domid,
        disk: &DiskConfig,
    ) -> Result<(), Error> {
        self.check(core::slice::from_ref(disk))?;
        let volume = self.volumes.check(disk)?;
        let devid = vdev::number(&disk.vdev).unwrap_or_default();
        if self.find(domid, devid).is_some() {
            return Err(Error::BadConfig {
                field: "disk".to_string(),
                why: format!("the domain has a disk {} already", disk.vdev),
            });
        }
        let Some(description) = self.volumes.get(volume).map(|it| it.device(disk)) else {
            return Err(Error::NoSuchVolume(disk.volume.clone()));
        };
        let paths = Paths::new(domid, devid);
        let made = paths
            .add(&mut store.nodes(xen), disk, description.read_only)
            .and_then(|()| watch(store, xen, &paths, domid, devid, true));
        if let Err(errno) = made {
            // The error that led here is the one to tell.
            let _ = watch(store, xen, &paths, domid, devid, false);
            let _ = paths.remove(&mut store.nodes(xen));
            return Err(refused("to add a disk", errno));
        }
        let key = self.next_key;
        self.next_key += 1;
        let user = User {
            device: key,
            domid,
            writes: !description.read_only,
            leaving: false,
        };
        self.volumes.claim(volume, user);
        let device = Device::new(key, (domid, devid), disk.clone(), volume, description);
        self.devices.push(device);
        Ok(())
    }

    fn find(&mut self, domid: Domid, devid: u32) -> Option<&mut Device<X>> {
        self.devices
            .iter_mut()
            .find(|it| it.domid == domid && it.devid == devid && !it.dropped)
    }

    /// The number of a disk by its name or number.
    ///
    /// # Errors
    ///
    /// If the domain has no such disk.
    pub fn number(&mut self, domid: Domid, name: &str) -> Result<u32, Error> {
        let devid = name.parse().ok().or_else(|| vdev::number(name));
        devid
            .filter(|devid| self.find(domid, *devid).is_some())
            .ok_or_else(|| Error::BadState {
                domid: domid.0,
                why: format!("has no disk {name:?}"),
            })
    }

    /// Asks a guest to let a disk go, which [`Self::next_gone`] will tell; with `force` it is not asked.
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
                .drop_devices(store, xen, |it| it.domid == domid && it.devid == devid)
                .map_err(|errno| refused("to remove a disk", errno));
        }
        match self.find(domid, devid) {
            Some(device) => device
                .close(store, xen)
                .map_err(|errno| refused("to close a disk", errno)),
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
        self.drop_devices(store, xen, |it| it.domid == domid)
    }

    fn drop_devices(
        &mut self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        which: impl Fn(&Device<X>) -> bool,
    ) -> Result<(), Errno> {
        let mut result = Ok(());
        for device in &mut self.devices {
            if device.dropped || !which(device) {
                continue;
            }
            device.disconnect(xen);
            device.dropped = true;
            self.volumes.leave(device.volume, device.key);
            let (domid, devid) = (device.domid, device.devid);
            self.gone.push_back((domid, devid));
            let watched = watch(store, xen, &device.paths, domid, devid, false);
            let removed = device.paths.remove(&mut store.nodes(xen));
            result = result.and(watched).and(removed);
        }
        self.sweep();
        result
    }

    /// Forgets devices of which nothing is under way any more.
    fn sweep(&mut self) {
        let volumes = &mut self.volumes;
        self.devices.retain(|device| {
            let over = device.dropped && device.under_way == 0;
            if over {
                volumes.release(device.volume, device.key);
            }
            !over
        });
    }

    /// A disk that has come to its end.
    pub fn next_gone(&mut self) -> Option<(Domid, u32)> {
        self.gone.pop_front()
    }

    /// An event came on a port; whether it is one of ours.
    pub fn signal(&mut self, port: Port) -> bool {
        let device = self.devices.iter_mut().find(|it| it.has_port(port));
        device.map(|device| device.signalled = true).is_some()
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
        if let Some(device) = ids.and_then(|(domid, devid)| self.find(domid, devid)) {
            device.look = true;
        }
        true
    }

    /// Gives each device its turn; whether there is more to do at once.
    pub fn serve(&mut self, store: &mut Store<X::Mapping>, xen: &mut X) -> bool {
        let mut any = false;
        while let Some(Finished { tag, done, buffer }) = xen.finished() {
            any = true;
            let Some((key, tag)) = self.tags.remove(&tag) else {
                continue;
            };
            if let Some(device) = self.devices.iter_mut().find(|it| it.key == key) {
                device.take_finished(Finished { tag, done, buffer });
            }
        }
        if any {
            self.sweep();
        }
        for nth in 0..self.devices.len() {
            let Some(device) = self.devices.get_mut(nth) else {
                break;
            };
            if device.dropped {
                continue;
            }
            if device.signalled || any && device.starved {
                device.turn(store, xen, &mut self.volumes, &mut self.tags);
            }
            if device.look {
                self.follow(store, xen, nth);
            }
        }
        // Whoever has had more than a turn's worth goes behind the others.
        if self.devices.len() > 1 {
            self.devices.rotate_left(1);
        }
        self.devices.iter().any(|device| device.signalled)
    }

    fn follow(&mut self, store: &mut Store<X::Mapping>, xen: &mut X, nth: usize) {
        let Some(device) = self.devices.get_mut(nth) else {
            return;
        };
        let draining = self.volumes.is_draining(device.volume);
        match device.follow(store, xen, draining) {
            Ok(false) => {}
            Ok(true) => {
                let key = device.key;
                let dropped = self.drop_devices(store, xen, |it| it.key == key);
                if let Err(errno) = dropped {
                    xen.log(&format!("a disk's nodes cannot be removed: {errno:?}"));
                }
            }
            Err(errno) => {
                let path = &device.paths.back;
                xen.log(&format!("{path}: the store refuses: {errno:?}"));
            }
        }
    }

    /// When [`Self::serve`] is to be called although nothing came, in nanoseconds of system time.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        self.devices
            .iter()
            .any(|device| device.starved || device.look)
            .then(|| now.saturating_add(RETRY))
    }

    /// Has those who wait for room looked at.
    pub fn tick(&mut self) {
        for device in &mut self.devices {
            device.signalled |= device.starved;
        }
    }

    /// A domain's disks as they are.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn list(
        &self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        domid: Domid,
    ) -> Result<Vec<DeviceInfo>, Errno> {
        let mut list = Vec::new();
        for device in &self.devices {
            if device.domid != domid || device.dropped {
                continue;
            }
            let front = &device.paths.front;
            let mut number = |name: &str| {
                let path = format!("{front}/{name}");
                let value = store.nodes(xen).read(&path).ok().flatten();
                value.and_then(|value| value.trim().parse().ok())
            };
            let mut either =
                |name: &str| number(name).or_else(|| number(&format!("queue-0/{name}")));
            let event_channel = either("event-channel");
            let ring_ref = either("ring-ref").or_else(|| either("ring-ref0"));
            list.push(DeviceInfo {
                devid: device.devid,
                domid: domid.0,
                state: number("state").unwrap_or(0),
                event_channel,
                ring_ref,
                path: device.paths.back.clone(),
            });
        }
        list.sort_by_key(|device| device.devid);
        Ok(list)
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
