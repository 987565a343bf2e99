//! The host's disks, and copies to and from guests by grant.
#![allow(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;

use dom0::block::gpt;
use dom0::storage::{HostDisk, Storage};
use hypercall_abi::errno::Errno;
use hypercall_abi::grant_table::*;
use hypercall_abi::types::{Domid, GrantRef, Union};
use pv_guest::grants::GrantMapping;
use pv_guest::hypercall::grant_table;
use pv_guest::memory::Access;
use pv_guest::println;
use split_drivers::block::back::{Finished, Operation};
use split_drivers::grants::{Copy, Place};
use split_drivers::{SharedMemory, shared_memory_by};
use virtio_drivers::PAGE_SIZE;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::PciRoot;
use virtio_drivers::transport::pci::virtio_device_type;

use super::disk::Disk;
use super::dma::Buffer;
use super::hypervisor::{Hypervisor, errno};
use super::pci::Configuration;

/// All virtio disks.
#[derive(Default)]
pub struct Disks {
    all: Vec<Disk>,
    infos: Vec<HostDisk>,
}

impl Disks {
    /// Takes up the disks that there are.
    pub fn find() -> Self {
        let mut disks = Self::default();
        let configuration = match Configuration::acquire() {
            Ok(configuration) => configuration,
            Err(error) => {
                println!("no disks: {error}");
                return disks;
            }
        };
        let mut root = PciRoot::new(configuration);
        let devices: Vec<_> = root
            .enumerate_bus(0)
            .filter(|(_, info)| virtio_device_type(info) == Some(DeviceType::Block))
            .map(|(device, _)| device)
            .collect();
        for device in devices {
            match Disk::start(&mut root, &configuration, device) {
                Ok((mut disk, mut info)) => {
                    info.partitions = gpt::partitions(&info, |sector, bytes| {
                        let read = disk.read_now(sector, bytes.len());
                        read.map(|buffer| buffer.read(0, bytes)).is_some()
                    });
                    println!(
                        "disk {:?}: {} MiB, {} named partitions, {disk}",
                        info.serial,
                        info.sectors / 2048,
                        info.partitions.len()
                    );
                    disks.all.push(disk);
                    disks.infos.push(info);
                }
                Err(error) => println!("disk at PCI {device}: {error}"),
            }
        }
        disks
    }
}

impl Hypervisor {
    /// Has the disks take their interrupts back. What they do from now on makes them interrupt again.
    pub fn acknowledge_disks(&mut self) {
        self.disks.all.iter_mut().for_each(Disk::acknowledge);
    }

    /// Whether a disk has to be asked what it has done.
    pub fn has_silent_disk(&self) -> bool {
        self.disks.all.iter().any(|disk| !disk.has_interrupt())
    }
}

/// Pages that a guest grants.
#[derive(Debug)]
pub struct Granted(GrantMapping);

shared_memory_by!(Granted, granted => *granted.0);

impl Storage for Hypervisor {
    type Buffer = Buffer;
    type Granted = Granted;

    fn disks(&self) -> &[HostDisk] {
        &self.disks.infos
    }

    fn buffer(&mut self, bytes: usize) -> Option<Buffer> {
        Buffer::new(bytes)
    }

    fn start(
        &mut self,
        disk: usize,
        tag: u64,
        operation: Operation<Buffer>,
    ) -> Result<(), Operation<Buffer>> {
        match self.disks.all.get_mut(disk) {
            Some(disk) => disk.begin(tag, operation),
            None => Err(operation),
        }
    }

    fn finished(&mut self) -> Option<Finished<Buffer>> {
        self.disks.all.iter_mut().find_map(Disk::finished)
    }

    fn map_ring(&mut self, domid: Domid, grants: &[GrantRef]) -> Result<Granted, Errno> {
        GrantMapping::new(domid, grants, Access::ReadWrite)
            .map(Granted)
            .map_err(errno)
    }

    fn map_pages(&mut self, domid: Domid, grants: &[GrantRef]) -> Vec<Option<Granted>> {
        grants
            .iter()
            .map(|gref| self.map_ring(domid, core::slice::from_ref(gref)).ok())
            .collect()
    }

    fn copy(&mut self, domid: Domid, copies: &[Copy<'_, Buffer, Granted>]) -> Vec<bool> {
        let mut done = vec![true; copies.len()];
        let mut batch = Vec::new();
        // Of which copy each part of the batch is.
        let mut of = Vec::new();
        for (nth, copy) in copies.iter().enumerate() {
            match copy.page {
                Place::Mapped(page) => by_mapping(copy, page),
                Place::Grant(gref) => {
                    for part in by_grant(domid, copy, gref) {
                        batch.push(part);
                        of.push(nth);
                    }
                }
            }
        }
        if batch.is_empty() {
            return done;
        }
        // SAFETY: what is written is within buffers, which nothing refers to, or the guest's.
        let called = unsafe { grant_table::copy(&mut batch) };
        for (part, nth) in batch.iter().zip(of) {
            if (called.is_err() || part.status != GNTST_OKAY)
                && let Some(done) = done.get_mut(nth)
            {
                *done = false;
            }
        }
        done
    }
}

fn by_mapping(copy: &Copy<'_, Buffer, Granted>, page: &Granted) {
    let (buffer, page) = (copy.buffer.window(), &*page.0);
    if copy.to_guest {
        page.copy_from(copy.offset, buffer, copy.at, copy.bytes);
    } else {
        buffer.copy_from(copy.at, page, copy.offset, copy.bytes);
    }
}

/// A copy in parts, none of which goes over the end of a page of the buffer.
fn by_grant<'a>(
    domid: Domid,
    copy: &'a Copy<'_, Buffer, Granted>,
    gref: GrantRef,
) -> impl Iterator<Item = GnttabCopy> + use<'a> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let left = copy.bytes - done;
        if left == 0 {
            return None;
        }
        let address = copy.buffer.machine_address() + (copy.at + done) as u64;
        let offset = address as usize % PAGE_SIZE;
        let bytes = left.min(PAGE_SIZE - offset);
        let guest = GnttabCopyPtr {
            u: Union::new(&gref.0),
            domid,
            offset: (copy.offset + done) as u16,
            ..Default::default()
        };
        let own = GnttabCopyPtr {
            u: Union::new(&(address / PAGE_SIZE as u64)),
            domid: Domid::SELF,
            offset: offset as u16,
            ..Default::default()
        };
        done += bytes;
        let (source, dest, flags) = match copy.to_guest {
            true => (own, guest, GNTCOPY_DEST_GREF),
            false => (guest, own, GNTCOPY_SOURCE_GREF),
        };
        Some(GnttabCopy {
            source,
            dest,
            len: bytes as u16,
            flags,
            // What is not reached is not copied.
            status: GNTST_GENERAL_ERROR,
            ..Default::default()
        })
    })
}
