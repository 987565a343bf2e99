//! The store nodes of a network interface, as libxl makes them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use control::VifConfig;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;
use split_drivers::net::Mac;
use split_drivers::xenbus::State;

use crate::nodes::home;
use crate::store::Nodes;
use crate::xen::Xen;

/// All backends of network interfaces.
const BACKENDS: &str = "/local/domain/0/backend/vif";

/// Where an interface has its nodes.
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
    /// Those of a guest's interface.
    pub fn new(domid: Domid, devid: u32) -> Self {
        Self {
            front: format!("{}/device/vif/{devid}", home(domid)),
            back: format!("{BACKENDS}/{domid}/{devid}"),
            notes: format!("/libxl/{domid}/device/vif/{devid}"),
            domid,
            devid,
        }
    }

    /// Makes the nodes of both ends.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn add<X: Xen>(&self, store: &mut Nodes<'_, X>, vif: &VifConfig) -> Result<(), Errno> {
        let (guest, reads) = (format!("n{}", self.domid), format!("r{}", self.domid));
        for path in [&self.front, &self.back, &self.notes] {
            store.remove(path)?;
        }
        let initialising = State::Initialising.to_string();
        let (domid, handle) = (self.domid.to_string(), self.devid.to_string());
        let mac = Mac(vif.mac).to_string();
        // The guest, which may be waiting for this, writes there as soon as it sees the backend.
        store.write(&self.front, "")?;
        store.set_permissions(&self.front, &[&guest, "r0"])?;
        for (name, value) in [
            ("backend", self.back.as_str()),
            ("backend-id", "0"),
            ("handle", &handle),
            ("mac", &mac),
            ("mtu", "1500"),
        ] {
            store.write(&format!("{}/{name}", self.front), value)?;
        }
        let mut nodes = Vec::from([
            ("frontend", self.front.clone()),
            ("frontend-id", domid),
            ("online", "1".into()),
            ("script", "/etc/xen/scripts/vif-bridge".into()),
            ("mac", mac),
            ("bridge", vif.bridge.clone()),
            ("handle", handle),
            ("type", "vif".into()),
            // There is no script that would say so.
            ("hotplug-status", "connected".into()),
            ("state", initialising.clone()),
        ]);
        if let Some(name) = &vif.name {
            nodes.push(("vifname", name.clone()));
        }
        if let Some(rate) = &vif.rate {
            nodes.push(("rate", format!("{},{}", rate.bytes, rate.interval_us)));
        }
        for (place, permissions) in [
            (&self.back, ["n0", &reads].as_slice()),
            (&self.notes, ["n0"].as_slice()),
        ] {
            store.write(place, "")?;
            store.set_permissions(place, permissions)?;
            for (name, value) in &nodes {
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
        let private = format!("/libxl/{}/device/vif", self.domid);
        let device = format!("{}/device/vif", home(self.domid));
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
