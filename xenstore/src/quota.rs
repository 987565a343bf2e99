//! What domains use, and how much of it they may.

use alloc::collections::{BTreeMap, BTreeSet};

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use crate::path::Path;
use crate::view::Change;

/// Something of which a domain has a limited amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Nodes that it owns.
    Nodes,
    /// Watches.
    Watches,
    /// Transactions open at a time.
    Transactions,
    /// Replies that it has not taken; with so many, its requests wait.
    Outstanding,
    /// Nodes that one transaction touches.
    TransactionNodes,
    /// Bytes of its nodes, watches and transactions.
    Memory,
    /// Bytes of a node's value.
    NodeSize,
    /// Permissions of a node.
    Permissions,
}

impl Resource {
    /// All of them, with the name, Xen's default and a description each.
    pub const ALL: [(Self, &str, u32, &str); 8] = [
        (Self::Nodes, "nodes", 1000, "Nodes per domain"),
        (Self::Watches, "watches", 128, "Watches per domain"),
        (
            Self::Transactions,
            "transactions",
            10,
            "Transactions per domain",
        ),
        (
            Self::Outstanding,
            "outstanding",
            20,
            "Unread replies per domain",
        ),
        (
            Self::TransactionNodes,
            "transaction-nodes",
            1024,
            "Nodes accessed per transaction",
        ),
        (
            Self::Memory,
            "memory",
            (2 << 20) + (512 << 10),
            "Bytes of nodes, watches and transactions per domain",
        ),
        (Self::NodeSize, "node-size", 2048, "Bytes of a node's value"),
        (Self::Permissions, "permissions", 5, "Permissions per node"),
    ];

    /// The resource of this name.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is none.
    pub fn from_name(name: &[u8]) -> Result<Self, Errno> {
        Self::ALL
            .iter()
            .find(|(_, known, ..)| known.as_bytes() == name)
            .map(|(resource, ..)| *resource)
            .ok_or(Errno::EINVAL)
    }
}

/// What one domain has.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// The nodes that it owns.
    pub nodes: BTreeSet<Path>,
    /// The bytes of these, and of its watches.
    pub bytes: usize,
    /// How many watches it has.
    pub watches: usize,
    limits: [Option<u32>; 8],
}

impl Account {
    /// Whether another domain's use is the same, whatever the limits.
    pub fn has_the_same_as(&self, other: &Self) -> bool {
        let Self {
            nodes,
            bytes,
            watches,
            limits: _,
        } = self;
        (nodes, bytes, watches) == (&other.nodes, &other.bytes, &other.watches)
    }
}

/// What all domains have.
#[derive(Clone, Debug)]
pub struct Accounts {
    defaults: [u32; 8],
    accounts: BTreeMap<Domid, Account>,
}

impl Accounts {
    /// Nobody has anything, and Xen's quotas hold.
    pub fn new() -> Self {
        Self {
            defaults: Resource::ALL.map(|(_, _, default, _)| default),
            accounts: BTreeMap::new(),
        }
    }

    /// What a domain has, if it ever had something.
    pub fn of(&self, domain: Domid) -> Option<&Account> {
        self.accounts.get(&domain)
    }

    /// The same, to change it.
    pub fn of_mut(&mut self, domain: Domid) -> &mut Account {
        self.accounts.entry(domain).or_default()
    }

    /// All that have an account.
    pub fn domains(&self) -> impl Iterator<Item = Domid> {
        self.accounts.keys().copied()
    }

    /// Number of nodes that a domain owns.
    pub fn nodes(&self, domain: Domid) -> usize {
        self.of(domain).map_or(0, |account| account.nodes.len())
    }

    /// Bytes for which a domain is charged.
    pub fn bytes(&self, domain: Domid) -> usize {
        self.of(domain).map_or(0, |account| account.bytes)
    }

    /// Forgets a domain and its quotas; how much it had.
    pub fn close(&mut self, domain: Domid) -> Account {
        self.accounts.remove(&domain).unwrap_or_default()
    }

    /// The quota that was set for a domain, or else for all; 0 for none.
    pub fn quota(&self, domain: Option<Domid>, resource: Resource) -> u32 {
        domain
            .and_then(|domain| self.of(domain)?.limits[resource as usize])
            .unwrap_or(self.defaults[resource as usize])
    }

    /// Sets a quota of a domain, or of all that have none of their own; 0 for none.
    pub fn set_quota(&mut self, domain: Option<Domid>, resource: Resource, value: u32) {
        match domain {
            Some(domain) => self.of_mut(domain).limits[resource as usize] = Some(value),
            None => self.defaults[resource as usize] = value,
        }
    }

    /// How much of something a domain may have.
    pub fn limit(&self, domain: Domid, resource: Resource) -> usize {
        match self.quota(Some(domain), resource) {
            _ if domain == Domid(0) => usize::MAX,
            0 => usize::MAX,
            limit => limit as usize,
        }
    }

    /// Charges the owners of a changed node.
    pub fn apply(&mut self, change: &Change) {
        if let Some(node) = &change.before {
            let account = self.of_mut(node.permissions.owner);
            account.nodes.remove(&change.path);
            account.bytes -= node.size(&change.path);
        }
        if let Some(node) = &change.after {
            let account = self.of_mut(node.permissions.owner);
            account.nodes.insert(change.path.clone());
            account.bytes += node.size(&change.path);
        }
    }

    /// Whether changes leave every owner within its quotas, or at least have none use more.
    ///
    /// # Errors
    ///
    /// `ENOSPC` for nodes, `ENOMEM` for bytes.
    pub fn permit(&self, changes: &[Change]) -> Result<(), Errno> {
        let mut growth: BTreeMap<Domid, (isize, isize)> = BTreeMap::new();
        for change in changes {
            for (node, sign) in [(&change.before, -1), (&change.after, 1)] {
                if let Some(node) = node {
                    let (nodes, bytes) = growth.entry(node.permissions.owner).or_default();
                    *nodes += sign;
                    *bytes += sign * node.size(&change.path) as isize;
                }
            }
        }
        for (owner, (nodes, bytes)) in growth {
            let exceeds = |used: usize, more: isize, resource| {
                more > 0 && used.saturating_add_signed(more) > self.limit(owner, resource)
            };
            if exceeds(self.nodes(owner), nodes, Resource::Nodes) {
                return Err(Errno::ENOSPC);
            }
            if exceeds(self.bytes(owner), bytes, Resource::Memory) {
                return Err(Errno::ENOMEM);
            }
        }
        Ok(())
    }
}

impl Default for Accounts {
    fn default() -> Self {
        Self::new()
    }
}
