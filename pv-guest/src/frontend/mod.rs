//! What the frontends of all devices have: where their nodes are, and memory that is granted to backends.

mod pages;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use hypercall_abi::types::Domid;
use split_drivers::xenbus::State;

use crate::store::{Error, Store};
pub(crate) use pages::{GuestPage, Ring, Source};

/// Where the two ends have their nodes.
pub(crate) struct Place {
    pub store: Store,
    /// This end's.
    pub front: String,
    /// The backend's.
    pub back: String,
    /// The backend's domain.
    pub domain: Domid,
}

impl Place {
    /// Waits until the device has its nodes.
    pub async fn find(store: Store, front: String) -> Result<Self, Error> {
        let mut watch = store.watch(&front);
        loop {
            watch.next().await?;
            let back = store.parse::<String>(&format!("{front}/backend")).await;
            let domain = store.parse(&format!("{front}/backend-id")).await;
            if let (Ok(back), Ok(domain)) = (back, domain) {
                let domain = Domid(domain);
                return Ok(Self {
                    store,
                    front,
                    back,
                    domain,
                });
            }
        }
    }

    /// What a node says, if it is text.
    pub async fn value(&self, path: &str) -> Option<String> {
        String::from_utf8(self.store.read(path).await.ok()?).ok()
    }

    /// All that the backend says, by name.
    pub async fn offers(&self) -> BTreeMap<String, String> {
        let mut offers = BTreeMap::new();
        let names = self.store.directory(&self.back).await;
        for name in names.unwrap_or_default() {
            if let Some(value) = self.value(&format!("{}/{name}", self.back)).await {
                offers.insert(name, value);
            }
        }
        offers
    }

    /// The backend's state.
    pub async fn back_state(&self) -> State {
        let value = self.value(&format!("{}/state", self.back)).await;
        State::parse(value.as_deref())
    }
}
