//! The store nodes of a disk, as libxl makes them.

use alloc::format;
use alloc::string::{String, ToString};

use control::DiskConfig;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;
use split_drivers::xenbus::State;

use crate::nodes::home;
use crate::store::Nodes;
use crate::xen::Xen;

/// All backends of disks.
const BACKENDS: &str = "/local/domain/0/backend/vbd";

/// Where a disk has its nodes.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The guest's end.
    pub front: String,
    /// This end.
    pub back: String,
    /// The toolstack's notes.
    notes: String,
    domid: Domid,
    devid: u32,
}

impl Paths {
    /// Those of a guest's disk.
    pub fn new(domid: Domid, devid: u32) -> Self {
        Self {
            front: format!("{}/device/vbd/{devid}", home(domid)),
            back: format!("{BACKENDS}/{domid}/{devid}"),
            notes: format!("/libxl/{domid}/device/vbd/{devid}"),
            domid,
            devid,
        }
    }

    /// Makes the nodes of both ends.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn add<X: Xen>(
        &self,
        store: &mut Nodes<'_, X>,
        disk: &DiskConfig,
        read_only: bool,
    ) -> Result<(), Errno> {
        let (guest, reads) = (format!("n{}", self.domid), format!("r{}", self.domid));
        for path in [&self.front, &self.back, &self.notes] {
            store.remove(path)?;
        }
        let initialising = State::Initialising.to_string();
        let domid = self.domid.to_string();
        let params = format!("/dev/{}", disk.volume);
        let mode = if read_only { "r" } else { "w" };
        // The guest, which may be waiting for this, writes there as soon as it sees the backend.
        store.write(&self.front, "")?;
        store.set_permissions(&self.front, &[&guest, "r0"])?;
        for (name, value) in [
            ("backend", self.back.as_str()),
            ("backend-id", "0"),
            ("virtual-device", &self.devid.to_string()),
            ("device-type", "disk"),
        ] {
            store.write(&format!("{}/{name}", self.front), value)?;
        }
        for (place, permissions) in [
            (&self.back, ["n0", &reads].as_slice()),
            (&self.notes, ["n0"].as_slice()),
        ] {
            store.write(place, "")?;
            store.set_permissions(place, permissions)?;
            for (name, value) in [
                ("frontend", self.front.as_str()),
                ("params", &params),
                ("frontend-id", &domid),
                ("online", "1"),
                ("removable", "0"),
                ("bootable", "1"),
                ("dev", &disk.vdev),
                ("type", "phy"),
                ("mode", mode),
                ("device-type", "disk"),
                ("discard-enable", if disk.discard { "1" } else { "0" }),
                ("state", &initialising),
            ] {
                store.write(&format!("{place}/{name}"), value)?;
            }
        }
        store.write(&format!("{}/backend", self.notes), &self.back)?;
        store.write(&format!("{}/state", self.front), &initialising)
    }

    /// Removes them, and directories that are empty then.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn remove<X: Xen>(&self, store: &mut Nodes<'_, X>) -> Result<(), Errno> {
        for path in [&self.front, &self.back, &self.notes] {
            store.remove(path)?;
        }
        let private = format!("/libxl/{}/device/vbd", self.domid);
        let device = format!("{}/device/vbd", home(self.domid));
        let of_domain = format!("{BACKENDS}/{}", self.domid);
        let parents = [
            private.as_str(),
            &device,
            &of_domain,
            BACKENDS,
            "/local/domain/0/backend",
        ];
        for parent in parents {
            if store.directory(parent)?.is_empty() {
                store.remove(parent)?;
            }
        }
        Ok(())
    }
}
