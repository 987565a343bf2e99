//! The store nodes of a device, as libxl makes them.

use alloc::format;
use alloc::string::{String, ToString};
use core::str::FromStr;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;
use split_drivers::xenbus::State;

use super::Class;
use crate::nodes::home;
use crate::store::{Nodes, Store};
use crate::xen::Xen;

/// All backends of this domain.
const BACKENDS: &str = "/local/domain/0/backend";

/// Nodes of one end, by name.
pub(super) type NewNodes<'a> = &'a [(&'a str, String)];

/// What the guest is told of its end and may not change.
const READ_ONLY: [&str; 1] = ["mtu"];

/// Where a device has its nodes.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The guest's end.
    pub front: String,
    /// This end.
    pub back: String,
    /// The toolstack's notes.
    notes: String,
    class: Class,
    /// Whose it is.
    pub domid: Domid,
    /// Its number in the domain.
    pub devid: u32,
}

impl Paths {
    /// Those of a guest's device.
    pub fn new(class: Class, domid: Domid, devid: u32) -> Self {
        Self {
            front: format!("{}/device/{class}/{devid}", home(domid)),
            back: format!("{BACKENDS}/{class}/{domid}/{devid}"),
            notes: format!("/libxl/{domid}/device/{class}/{devid}"),
            class,
            domid,
            devid,
        }
    }

    /// Makes the nodes of both ends: what every device has, and these.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) fn add<X: Xen>(
        &self,
        store: &mut Nodes<'_, X>,
        front: NewNodes<'_>,
        back: NewNodes<'_>,
    ) -> Result<(), Errno> {
        let (guest, reads) = (format!("n{}", self.domid), format!("r{}", self.domid));
        for path in [&self.front, &self.back, &self.notes] {
            store.remove(path)?;
        }
        let initialising = State::Initialising.to_string();
        // The guest, which may be waiting for this, writes there as soon as it sees the backend.
        store.write(&self.front, "")?;
        store.set_permissions(&self.front, &[&guest, "r0"])?;
        store.write(&format!("{}/backend", self.front), &self.back)?;
        store.write(&format!("{}/backend-id", self.front), "0")?;
        for (name, value) in front {
            let path = format!("{}/{name}", self.front);
            store.write(&path, value)?;
            if READ_ONLY.contains(name) {
                store.set_permissions(&path, &["n0", &reads])?;
            }
        }
        for (place, permissions) in [
            (&self.back, ["n0", &reads].as_slice()),
            (&self.notes, ["n0"].as_slice()),
        ] {
            store.write(place, "")?;
            store.set_permissions(place, permissions)?;
            for (name, value) in [
                ("frontend", self.front.as_str()),
                ("frontend-id", &self.domid.to_string()),
                ("online", "1"),
            ] {
                store.write(&format!("{place}/{name}"), value)?;
            }
            for (name, value) in back {
                store.write(&format!("{place}/{name}"), value)?;
            }
            store.write(&format!("{place}/state"), &initialising)?;
        }
        // There is no script that would say so.
        store.write(&format!("{}/hotplug-status", self.back), "connected")?;
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
        let (class, domid) = (self.class, self.domid);
        for parent in [
            &format!("/libxl/{domid}/device/{class}"),
            &format!("{}/device/{class}", home(domid)),
            &format!("{BACKENDS}/{class}/{domid}"),
            &format!("{BACKENDS}/{class}"),
            BACKENDS,
        ] {
            if store.directory(parent)?.is_empty() {
                store.remove(parent)?;
            }
        }
        Ok(())
    }

    /// A node of the frontend's; what is no text is none.
    pub fn read_front<X: Xen>(
        &self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        name: &str,
    ) -> Option<String> {
        let path = format!("{}/{name}", self.front);
        store.nodes(xen).read(&path).unwrap_or_default()
    }

    /// A number that the frontend has written.
    pub fn front_number<X: Xen, T: FromStr>(
        &self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        name: &str,
    ) -> Option<T> {
        self.read_front(store, xen, name)?.trim().parse().ok()
    }

    /// Watches the frontend's state, or stops to.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn watch<X: Xen>(
        &self,
        store: &mut Store<X::Mapping>,
        xen: &mut X,
        on: bool,
    ) -> Result<(), Errno> {
        let path = format!("{}/state", self.front);
        let token = format!("{}/{}/{}", self.class, self.domid, self.devid);
        store.watch(xen, &path, &token, on)
    }

    /// Whose device a watch's token means, and its number, if it is of this class.
    pub fn parse_token(class: Class, token: &str) -> Option<(Domid, u32)> {
        let rest = token.strip_prefix(class.name())?.strip_prefix('/')?;
        let (domid, devid) = rest.split_once('/')?;
        Some((Domid(domid.parse().ok()?), devid.parse().ok()?))
    }
}
