//! Disks of guests: the block backends, and the volumes that they serve.
//!
//! Each device has its turn when its guest or a disk has something for it, and takes a bounded number of
//! requests then; none waits for another but for room in a disk that both use. What this domain itself reads
//! and writes for xl is one more use of a volume.

mod access;
mod device;
pub mod gpt;
mod ram;
mod transfer;
mod volume;
mod workload;

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use control::block::{DeviceInfo, VolumeInfo, VolumeKind};
use control::volume::Workload as Wanted;
use control::{DeviceUse, DiskConfig, Error, Request};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use split_drivers::block::back::{Counters, Finished};
use split_drivers::block::vdev;

use crate::device::{Devices, RETRY};
use crate::store::Store;
use crate::xen::Xen;
use access::{Access, Tags};
use device::Vbd;
pub use transfer::Step;
use transfer::Transfer;
use volume::{User, Volume, VolumeId, Volumes};
use workload::Workload;

/// Whose uses of volumes this domain's own are.
const OWN: Domid = Domid(0);

/// All disks of guests.
pub struct Blocks<X: Xen> {
    volumes: Volumes,
    devices: Devices<Vbd<X>>,
    transfers: Vec<Transfer<X::Buffer>>,
    /// Uses that are over, but have operations under way.
    leaving: Vec<Access<X::Buffer>>,
    tags: Tags,
    next_key: u64,
}

impl<X: Xen> Blocks<X> {
    /// No devices yet; `room` is how many bytes of volumes there may be in memory.
    pub fn new(xen: &X, room: u64) -> Self {
        Self {
            volumes: Volumes::new(xen.disks(), room),
            devices: Devices::new(),
            transfers: Vec::new(),
            leaving: Vec::new(),
            tags: Tags::new(),
            next_key: 0,
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
            let volume = self.volumes.check(&disk.volume, !disk.read_only)?;
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
        let volume = self.volumes.check(&disk.volume, !disk.read_only)?;
        let devid = vdev::number(&disk.vdev).unwrap_or_default();
        if self.devices.find(domid, devid).is_some() {
            return Err(Error::BadConfig {
                field: "disk".to_string(),
                why: format!("the domain has a disk {} already", disk.vdev),
            });
        }
        let Some(description) = self.volumes.get(volume).map(|it| it.device(disk)) else {
            return Err(Error::NoSuchVolume(disk.volume.clone()));
        };
        let writes = !description.read_only;
        let access = Access::new(self.next_key, volume);
        let vbd = Vbd::new(disk.clone(), access, description);
        let front = [
            ("virtual-device", devid.to_string()),
            ("device-type", "disk".to_string()),
            ("trusted", "1".to_string()),
            ("protocol", "x86_64-abi".to_string()),
        ];
        let back = [
            ("params", format!("/dev/{}", disk.volume)),
            ("script", "/etc/xen/scripts/block".to_string()),
            ("removable", "0".to_string()),
            ("bootable", "1".to_string()),
            ("dev", disk.vdev.clone()),
            ("type", "phy".to_string()),
            ("mode", if writes { "w" } else { "r" }.to_string()),
            ("device-type", "disk".to_string()),
            (
                "discard-enable",
                u8::from(disk.discard && writes).to_string(),
            ),
            ("specification", "xen".to_string()),
        ];
        self.devices
            .add(store, xen, (domid, devid), vbd, (&front, &back))?;
        self.claim(volume, domid, writes);
        Ok(())
    }

    /// Notes a use of a volume that was checked; its key.
    fn claim(&mut self, volume: VolumeId, domid: Domid, writes: bool) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        let user = User {
            key,
            domid,
            writes,
            leaving: false,
        };
        self.volumes.claim(volume, user);
        key
    }

    /// A use is over.
    fn let_go(&mut self, access: Access<X::Buffer>) {
        self.volumes.leave(access.volume, access.key);
        self.leaving.push(access);
        self.sweep();
    }

    /// Begins to write so many bytes, which come in [requests](Self::transfer), to a volume; the key of that.
    ///
    /// # Errors
    ///
    /// If the volume cannot be had for that, or has not so many bytes.
    pub fn import(&mut self, name: &str, bytes: u64) -> Result<u64, Error> {
        let (id, volume) = self.own(name, true)?;
        let (room, sector, flush) = (volume.bytes(), volume.sector_size(), volume.flush());
        if bytes > room {
            return Err(Error::VolumeTooSmall {
                volume: name.to_string(),
                bytes,
                room,
            });
        }
        let key = self.claim(id, OWN, true);
        let access = Access::new(key, id);
        let import = Transfer::import(access, name, bytes, sector, flush);
        self.transfers.push(import);
        Ok(key)
    }

    /// Begins to read all of a volume; the key of that, and how many bytes it will be.
    ///
    /// # Errors
    ///
    /// If the volume cannot be had for that.
    pub fn export(&mut self, name: &str) -> Result<(u64, u64), Error> {
        let (id, volume) = self.own(name, false)?;
        let bytes = volume.bytes();
        let key = self.claim(id, OWN, false);
        let access = Access::new(key, id);
        self.transfers.push(Transfer::export(access, name, bytes));
        Ok((key, bytes))
    }

    /// Begins to measure what a volume on a disk can do; the key of that.
    ///
    /// # Errors
    ///
    /// If the volume cannot be had for that, or it is not to be asked for such a thing.
    pub fn measure(&mut self, name: &str, wanted: Wanted) -> Result<u64, Error> {
        if self.transfers.iter().any(Transfer::is_measurement) {
            return Err(Error::NoRoom("another measurement".to_string()));
        }
        let (id, volume) = self.own(name, wanted.write)?;
        if volume.kind() == VolumeKind::Ram {
            return Err(Error::NotSupported("to measure memory".to_string()));
        }
        let workload = Workload::new(wanted, volume.bytes(), volume.sector_size())?;
        let key = self.claim(id, OWN, wanted.write);
        let access = Access::new(key, id);
        self.transfers
            .push(Transfer::measure(access, name, workload));
        Ok(key)
    }

    /// A volume that this domain may use.
    fn own(&mut self, name: &str, writes: bool) -> Result<(VolumeId, &mut Volume), Error> {
        let id = self.volumes.check(name, writes)?;
        let volume = self.volumes.get(id);
        Ok((
            id,
            volume.ok_or_else(|| Error::NoSuchVolume(name.to_string()))?,
        ))
    }

    /// Goes on with what [`Self::import`] or [`Self::export`] began, with the client's `next` request if
    /// one has come.
    ///
    /// # Errors
    ///
    /// As [`Transfer::step`].
    pub fn transfer(
        &mut self,
        xen: &mut X,
        key: u64,
        next: Option<&Request>,
    ) -> Result<Step, Error> {
        match self.transfers.iter_mut().find(|it| it.access.key == key) {
            Some(transfer) => transfer.step(xen, &mut self.volumes, &mut self.tags, next),
            None => Ok(Step::End),
        }
    }

    /// Ends such a thing, finished or not.
    pub fn end_transfer(&mut self, key: u64) {
        let ended = self.transfers.iter().position(|it| it.access.key == key);
        if let Some(nth) = ended {
            let transfer = self.transfers.swap_remove(nth);
            self.let_go(transfer.access);
        }
    }

    /// The number of a disk by its name or number.
    ///
    /// # Errors
    ///
    /// If the domain has no such disk.
    pub fn number(&self, domid: Domid, name: &str) -> Result<u32, Error> {
        let devid = name.parse().ok().or_else(|| vdev::number(name));
        devid
            .filter(|devid| self.devices.find(domid, *devid).is_some())
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
        device: (Domid, u32),
        force: bool,
    ) -> Result<(), Error> {
        self.devices.detach(store, xen, device, force)
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
        self.devices
            .remove(store, xen, |it| it.paths.domid == domid)
    }

    /// A disk that has come to its end.
    pub fn next_gone(&mut self) -> Option<(Domid, u32)> {
        let gone = self.devices.next_gone()?;
        self.let_go(gone.driver.access);
        Some((gone.paths.domid, gone.paths.devid))
    }

    /// Forgets uses by which nothing is under way any more.
    fn sweep(&mut self) {
        let volumes = &mut self.volumes;
        self.leaving.retain(|access| {
            let idle = access.under_way() == 0;
            if idle {
                volumes.release(access.volume, access.key);
            }
            !idle
        });
    }

    /// An event came on a port; whether it is one of ours.
    pub fn signal(&mut self, port: Port) -> bool {
        self.devices.signal(port)
    }

    /// A watch of the toolstack's fired; whether it is one of ours.
    pub fn on_watch(&mut self, token: &str) -> bool {
        self.devices.on_watch(token)
    }

    /// Gives each device its turn; whether there is more to do at once.
    pub fn serve(&mut self, store: &mut Store<X::Mapping>, xen: &mut X) -> bool {
        let mut any = false;
        while let Some(Finished { tag, done, buffer }) = xen.finished() {
            any = true;
            let Some((key, tag)) = self.tags.remove(&tag) else {
                continue;
            };
            let finished = Finished { tag, done, buffer };
            let mut devices = self.devices.iter_mut();
            let mut transfers = self.transfers.iter_mut().map(|it| &mut it.access);
            if let Some(device) = devices.find(|it| it.driver.access.key == key) {
                device.signalled |= device.driver.take_finished(finished);
            } else if let Some(access) = transfers.find(|it| it.key == key) {
                access.take(finished, true);
            } else if let Some(access) = self.leaving.iter_mut().find(|it| it.key == key) {
                access.take(finished, false);
            }
        }
        if any {
            self.sweep();
        }
        for device in self.devices.iter_mut() {
            if device.signalled || any && device.starved {
                let domid = device.paths.domid;
                let (volumes, tags) = (&mut self.volumes, &mut self.tags);
                let turn = device.driver.turn(domid, xen, volumes, tags);
                device.after_turn(store, xen, turn);
            }
        }
        let volumes = &self.volumes;
        // What a frontend before this one has left under way is none of its business.
        self.devices.follow(store, xen, |vbd| {
            vbd.access.under_way() == 0 && !volumes.is_draining(vbd.access.volume)
        });
        self.devices.end_round()
    }

    /// When [`Self::serve`] is to be called although nothing came, in nanoseconds of system time.
    pub fn deadline(&self, now: u64) -> Option<u64> {
        let starved = self.transfers.iter().any(Transfer::is_starved);
        let retry = starved.then(|| now.saturating_add(RETRY));
        self.devices.deadline(now).into_iter().chain(retry).min()
    }

    /// Has those who wait for room looked at.
    pub fn tick(&mut self) {
        self.devices.tick();
    }

    /// Adds what a domain's disks were asked for.
    pub fn count(&self, domid: Domid, all: &mut DeviceUse) {
        let mut sum = Counters::default();
        for device in self.devices.iter().filter(|it| it.paths.domid == domid) {
            sum += device.driver.counters();
            all.vbds += 1;
        }
        all.held = sum.held;
        all.reads = sum.reads;
        all.writes = sum.writes;
        all.sectors_read = sum.sectors_read;
        all.sectors_written = sum.sectors_written;
    }

    /// A domain's disks as they are.
    pub fn list(
        &self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        domid: Domid,
    ) -> Vec<DeviceInfo> {
        let devices = self.devices.of(domid).into_iter();
        let info = devices.map(|device| {
            let paths = &device.paths;
            let mut either = |name: &str| {
                paths
                    .front_number(store, xen, name)
                    .or_else(|| paths.front_number(store, xen, &format!("queue-0/{name}")))
            };
            let event_channel = either("event-channel");
            let ring_ref = either("ring-ref").or_else(|| either("ring-ref0"));
            DeviceInfo {
                devid: paths.devid,
                domid: domid.0,
                state: paths.front_number(store, xen, "state").unwrap_or(0),
                event_channel,
                ring_ref,
                path: paths.back.clone(),
            }
        });
        info.collect()
    }
}
