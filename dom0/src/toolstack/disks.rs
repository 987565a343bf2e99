//! Disks of domains, given and taken.

use alloc::vec::Vec;

use control::block::VolumeInfo;
use control::{BlockReply, BlockRequest, DiskConfig, Error, Reply};
use hypercall_abi::types::Domid;
use split_drivers::block::vdev;

use super::{Device, DeviceKind, Notice, Phase, Toolstack};
use crate::block::Blocks;
use crate::xen::Xen;

impl<X: Xen> Toolstack<X> {
    /// The disks and volumes, and the hypervisor that they need.
    pub fn blocks(&mut self) -> (&mut Blocks<X>, &mut X) {
        (&mut self.blocks, &mut self.xen)
    }

    /// Answers a request about disks; none if it is answered by [`Notice::DeviceGone`].
    ///
    /// # Errors
    ///
    /// Says why it is not done.
    pub fn answer_block(&mut self, request: BlockRequest) -> Result<Result<Reply, Device>, Error> {
        match request {
            BlockRequest::Attach { domain, disk } => {
                let domid = self.resolve(&domain)?;
                self.attach_disk(domid, disk)?;
            }
            BlockRequest::Detach {
                domain,
                vdev,
                force,
            } => {
                let domid = self.resolve(&domain)?;
                let devid = self.detach_disk(domid, &vdev, force)?;
                return Ok(Err(disk(domid, devid)));
            }
            BlockRequest::Devices(domain) => {
                let domid = self.resolve(&domain)?;
                let devices = self.blocks.list(&mut self.store, &mut self.xen, domid);
                return Ok(Ok(Reply::Block(BlockReply::Devices(devices))));
            }
            BlockRequest::Volumes => {
                let volumes: Vec<VolumeInfo> = self.blocks.list_volumes();
                return Ok(Ok(Reply::Block(BlockReply::Volumes(volumes))));
            }
            BlockRequest::CreateVolume { name, bytes } => {
                self.blocks.create_volume(&name, bytes)?;
            }
            BlockRequest::RemoveVolume(name) => self.blocks.remove_volume(&name)?,
        }
        Ok(Ok(Reply::Done))
    }

    /// Gives a domain a disk, which it has after a restart, too.
    fn attach_disk(&mut self, domid: Domid, disk: DiskConfig) -> Result<(), Error> {
        self.managed(domid)?;
        self.blocks
            .attach(&mut self.store, &mut self.xen, domid, &disk)?;
        self.managed(domid)?.config.disks.push(disk);
        Ok(())
    }

    /// Asks a domain to let a disk go; its number.
    fn detach_disk(&mut self, domid: Domid, name: &str, force: bool) -> Result<u32, Error> {
        let phase = self.managed(domid)?.phase;
        let devid = self.blocks.number(domid, name)?;
        // One that has shut down lets nothing go by itself.
        let force = force || phase != Phase::Alive;
        let (store, xen) = (&mut self.store, &mut self.xen);
        self.blocks.detach(store, xen, (domid, devid), force)?;
        Ok(devid)
    }

    /// Gives a new domain its disks.
    pub(super) fn attach_all(&mut self, domid: Domid, disks: &[DiskConfig]) -> Result<(), Error> {
        disks.iter().try_for_each(|disk| {
            self.blocks
                .attach(&mut self.store, &mut self.xen, domid, disk)
        })
    }

    /// Takes all devices of a domain away.
    pub(super) fn drop_devices(&mut self, domid: Domid) {
        self.drop_disks(domid);
        self.drop_vifs(domid);
    }

    fn drop_disks(&mut self, domid: Domid) {
        let (store, xen) = (&mut self.store, &mut self.xen);
        if let Err(error) = self.blocks.remove_domain(store, xen, domid) {
            let line = alloc::format!("domain {domid}: the store keeps its disks: {error:?}");
            self.xen.log(&line);
        }
        // These are no news to anyone.
        self.hear_of_disks();
    }

    /// Serves the disks of guests for a while; whether there is more to do at once.
    pub fn serve_disks(&mut self) -> bool {
        let more = self.blocks.serve(&mut self.store, &mut self.xen);
        self.hear_of_disks();
        more
    }

    fn hear_of_disks(&mut self) {
        while let Some((domid, devid)) = self.blocks.next_gone() {
            if let Some(domain) = self.domains.get_mut(&domid)
                && domain.phase == Phase::Alive
            {
                let other = |disk: &DiskConfig| vdev::number(&disk.vdev) != Some(devid);
                domain.config.disks.retain(other);
            }
            self.notices
                .push_back(Notice::DeviceGone(disk(domid, devid)));
        }
    }
}

fn disk(domid: Domid, devid: u32) -> Device {
    Device {
        domid,
        kind: DeviceKind::Disk,
        devid,
    }
}
