//! The tree as the request of one client sees it: with permissions and quotas, and in a transaction
//! with a record of what was looked at.
//!
//! A request either fails and changes nothing, or leaves a list of [`Change`]s.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bitflags::bitflags;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use crate::path::{self, Path};
use crate::permissions::{Access, Caller, Permissions};
use crate::quota::{Accounts, Resource};
use crate::tree::{Node, Tree};

bitflags! {
    /// Aspects of a node. That it is there or not is part of each.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Aspects: u8 {
        /// Its permissions.
        const PERMISSIONS = 1;
        /// Its value, and its permissions.
        const VALUE = 2;
        /// Which children it has.
        const CHILDREN = 4;
    }
}

/// Which watches a change fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// None: a parent that came into being with its child.
    None,
    /// Those of the node itself: it was removed with its parent.
    Exact,
    /// Those of the node and of all above it.
    Upward,
}

/// What became of a node.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which.
    pub path: Path,
    /// What it was.
    pub before: Option<Node>,
    /// What it is.
    pub after: Option<Node>,
    /// The permissions of its parent if the node was created or removed: who may list the parent's
    /// children may know.
    pub parent: Option<Arc<Permissions>>,
    /// Which watches fire.
    pub event: Event,
}

/// A transaction's account of itself.
#[derive(Debug, Default)]
pub struct Record {
    /// What of which paths was looked at.
    pub accesses: BTreeMap<Path, Aspects>,
    /// Bytes that its own versions of nodes take, and this record.
    pub bytes: usize,
    /// Nodes that its client has more of in it.
    pub nodes: isize,
    /// The node that was there above one that was missing, as it is now, with its permissions: what is created is
    /// often created beside what was.
    nearest: Option<(Path, Arc<Permissions>)>,
}

impl Record {
    /// About the bytes for a path that was looked at, besides its own.
    const ACCESS: usize = 64;
}

/// A tree, and who looks at it.
pub struct View<'a> {
    /// The store's tree or a transaction's.
    pub tree: &'a mut Tree,
    /// A transaction's record.
    pub record: Option<&'a mut Record>,
    /// Who asks.
    pub caller: Caller<'a>,
    /// What everyone has.
    pub accounts: &'a Accounts,
    /// Bytes that the caller's other transactions take.
    pub elsewhere: usize,
    /// The store's count of changes.
    pub generation: &'a mut u64,
    /// The store's count of what it looked at.
    pub work: &'a mut u64,
}

/// How much of a path is not there.
struct Gap {
    /// Nodes that are missing: the last and some above it.
    levels: usize,
    /// The permissions of the nearest that is there.
    above: Arc<Permissions>,
}

impl View<'_> {
    /// A node's value.
    pub fn read(&mut self, path: &Path) -> Result<Arc<[u8]>, Errno> {
        let node = self.existing(path, Access::READ, Aspects::VALUE)?;
        Ok(node.value)
    }

    /// A node's permissions, without those that are void.
    pub fn permissions(&mut self, path: &Path) -> Result<Permissions, Errno> {
        let node = self.existing(path, Access::READ, Aspects::PERMISSIONS)?;
        Ok(node.permissions.valid(self.caller.departures))
    }

    /// A number that is another whenever the node or the list of its children is another.
    pub fn state(&mut self, path: &Path) -> Result<u64, Errno> {
        let aspects = Aspects::VALUE | Aspects::CHILDREN;
        let node = self.existing(path, Access::READ, aspects)?;
        Ok(node.generation.max(self.tree.listed(path)))
    }

    /// The names of a node's children.
    pub fn children(&mut self, path: &Path) -> Result<Vec<&str>, Errno> {
        self.existing(path, Access::READ, Aspects::CHILDREN)?;
        let names = self.tree.children(path);
        *self.work += names.len() as u64;
        Ok(names)
    }

    /// Sets a node's value, and creates what is missing above it.
    pub fn write(&mut self, path: &Path, value: &[u8]) -> Result<Vec<Change>, Errno> {
        if value.len() > self.limit(Resource::NodeSize) {
            return Err(Errno::ENOSPC);
        }
        match self.find(path, Access::WRITE, Aspects::VALUE)? {
            Ok(node) => self.replace(path, &node, value.into(), node.permissions.clone()),
            Err(gap) => self.create(path, value, gap),
        }
    }

    /// Creates a node, and what is missing above it, unless it is there.
    pub fn make(&mut self, path: &Path) -> Result<Vec<Change>, Errno> {
        match self.find(path, Access::WRITE, Aspects::PERMISSIONS)? {
            Ok(_) => Ok(Vec::new()),
            Err(gap) => self.create(path, &[], gap),
        }
    }

    /// Sets a node's permissions.
    pub fn set_permissions(
        &mut self,
        path: &Path,
        permissions: Permissions,
    ) -> Result<Vec<Change>, Errno> {
        let node = self.existing(path, Access::WRITE | Access::OWN, Aspects::VALUE)?;
        if !self.caller.is_privileged() && permissions.owner != node.permissions.owner {
            return Err(Errno::EPERM);
        }
        self.replace(path, &node, node.value.clone(), Arc::new(permissions))
    }

    /// Removes a node with all below it. That it is not there is no error if its parent is.
    pub fn remove(&mut self, path: &Path) -> Result<Vec<Change>, Errno> {
        if let Err(gap) = self.find(path, Access::WRITE, Aspects::VALUE)? {
            return (gap.levels == 1).then(Vec::new).ok_or(Errno::ENOENT);
        }
        if &**path == "/" {
            return Err(Errno::EINVAL);
        }
        self.remove_all(path)
    }

    /// Removes what is at and below a path, whoever may.
    pub fn remove_all(&mut self, path: &Path) -> Result<Vec<Change>, Errno> {
        let mut paths: Vec<Path> = self.tree.below(path).into_iter().cloned().collect();
        paths.insert(0, path.clone());
        let mut changes = Vec::with_capacity(paths.len());
        // A node comes before what is below it, so the other way round none is left an orphan.
        for path in paths.into_iter().rev() {
            let before = self.look(&path, Aspects::VALUE | Aspects::CHILDREN)?;
            changes.push(Change {
                before,
                after: None,
                parent: self.parent_permissions(&path),
                event: Event::Exact,
                path,
            });
        }
        if let Some(top) = changes.last_mut() {
            top.event = Event::Upward;
        }
        *self.generation += 1;
        for change in &changes {
            self.tree.remove(&change.path, *self.generation);
            self.book(change);
        }
        Ok(changes)
    }

    /// Takes a node from its owner, who is gone: it is removed, or dom0's if it is the root.
    pub fn disown(&mut self, path: &Path) -> Vec<Change> {
        let changes = match self.tree.get(path).cloned() {
            Some(node) if &**path == "/" => {
                *self.generation += 1;
                let permissions = Permissions {
                    owner: self.caller.domain,
                    generation: *self.generation,
                    ..node.permissions.valid(self.caller.departures)
                };
                self.replace(path, &node, node.value.clone(), Arc::new(permissions))
            }
            _ => self.remove_all(path),
        };
        // Only quotas and transactions know errors.
        changes.unwrap_or_default()
    }

    /// The caller's limit of something.
    pub fn limit(&self, resource: Resource) -> usize {
        self.accounts.limit(self.caller.domain, resource)
    }

    fn create(&mut self, path: &Path, value: &[u8], gap: Gap) -> Result<Vec<Change>, Errno> {
        let missing: Vec<_> = path::and_above(path)
            .take(gap.levels)
            .map(Path::of_node)
            .collect();
        let mut permissions = gap.above.clone();
        *self.generation += 1;
        let (caller, generation) = (self.caller, *self.generation);
        // Who has no privilege owns what it creates.
        if !caller.is_privileged() && permissions.owner != caller.domain {
            permissions = Arc::new(Permissions {
                owner: caller.domain,
                generation,
                ..permissions.valid(caller.departures)
            });
        }
        let mut changes: Vec<_> = missing
            .into_iter()
            .rev()
            .map(|path| Change {
                path,
                before: None,
                after: Some(Node {
                    value: Arc::default(),
                    permissions: permissions.clone(),
                    generation,
                    created: generation,
                }),
                parent: Some(permissions.clone()),
                event: Event::None,
            })
            .collect();
        if let Some(first) = changes.first_mut() {
            first.parent = Some(gap.above);
        }
        if let Some(Change {
            after: Some(node),
            event,
            ..
        }) = changes.last_mut()
        {
            node.value = value.into();
            *event = Event::Upward;
        }
        self.charge(&changes)?;
        for change in &changes {
            self.apply(change);
        }
        Ok(changes)
    }

    fn replace(
        &mut self,
        path: &Path,
        before: &Node,
        value: Arc<[u8]>,
        permissions: Arc<Permissions>,
    ) -> Result<Vec<Change>, Errno> {
        *self.generation += 1;
        let change = Change {
            path: path.clone(),
            before: Some(before.clone()),
            after: Some(Node {
                value,
                permissions,
                generation: *self.generation,
                created: before.created,
            }),
            parent: None,
            event: Event::Upward,
        };
        self.charge(core::slice::from_ref(&change))?;
        self.apply(&change);
        Ok(Vec::from([change]))
    }

    fn apply(&mut self, change: &Change) {
        if let Some(node) = &change.after {
            self.tree
                .set(&change.path, node.clone(), change.before.is_none());
        }
        self.book(change);
    }

    /// Whether quotas let the caller make changes. A transaction's own copies are the caller's;
    /// once committed, nodes are their owners'.
    fn charge(&mut self, changes: &[Change]) -> Result<(), Errno> {
        if self.caller.is_privileged() {
            return Ok(());
        }
        let Some(record) = &mut self.record else {
            return self.accounts.permit(changes);
        };
        let domain = self.caller.domain;
        let created = changes
            .iter()
            .filter(|change| change.before.is_none())
            .count();
        let nodes = self
            .accounts
            .nodes(domain)
            .saturating_add_signed(record.nodes)
            + created;
        if created > 0 && nodes > self.accounts.limit(domain, Resource::Nodes) {
            return Err(Errno::ENOSPC);
        }
        let bytes: usize = changes
            .iter()
            .filter_map(|change| Some(change.after.as_ref()?.size(&change.path) + Tree::COPY))
            .sum();
        self.charge_transaction(bytes)
    }

    /// Notes in the transaction's record what became of a node.
    fn book(&mut self, change: &Change) {
        let owns = |node: &Option<Node>| {
            let owner = node.as_ref().map(|node| node.permissions.owner);
            isize::from(owner == Some(self.caller.domain))
        };
        let more = owns(&change.after) - owns(&change.before);
        if let Some(record) = &mut self.record {
            record.nodes += more;
            record.nearest.take_if(|(path, _)| *path == change.path);
        }
    }

    fn parent_permissions(&self, path: &str) -> Option<Arc<Permissions>> {
        let parent = self.tree.get(path::parent(path)?)?;
        Some(parent.permissions.clone())
    }

    fn existing(&mut self, path: &Path, access: Access, aspects: Aspects) -> Result<Node, Errno> {
        self.find(path, access, aspects)?.map_err(|_| Errno::ENOENT)
    }

    /// Looks for a node on which the caller has all of `access`. To be told that it is not there,
    /// it must have some of that on the nearest node above.
    fn find(
        &mut self,
        path: &Path,
        access: Access,
        aspects: Aspects,
    ) -> Result<Result<Node, Gap>, Errno> {
        if let Some(node) = self.look(path, aspects | Aspects::PERMISSIONS)? {
            return match node.permissions.allow(self.caller, access) {
                true => Ok(Ok(node)),
                false => Err(Errno::EACCES),
            };
        }
        for (levels, above) in path::and_above(path).enumerate().skip(1) {
            if let Some(above) = self.nearest(above)? {
                return match above.access(self.caller).intersects(access) {
                    true => Ok(Err(Gap { levels, above })),
                    false => Err(Errno::EACCES),
                };
            }
        }
        Err(Errno::EACCES)
    }

    /// The permissions of a node, if it is there, above one that is not.
    fn nearest(&mut self, path: &str) -> Result<Option<Arc<Permissions>>, Errno> {
        if let Some(record) = &self.record
            && let Some((known, permissions)) = &record.nearest
            && **known == *path
        {
            return Ok(Some(permissions.clone()));
        }
        let node = self.look(path, Aspects::PERMISSIONS)?;
        let permissions = node.map(|node| node.permissions);
        if let (Some(record), Some(permissions)) = (&mut self.record, &permissions) {
            record.nearest = Some((Path::of_node(path), permissions.clone()));
        }
        Ok(permissions)
    }

    fn look(&mut self, path: &str, aspects: Aspects) -> Result<Option<Node>, Errno> {
        *self.work += 1;
        match self.record.as_mut() {
            None => {}
            Some(record) => match record.accesses.get_mut(path) {
                Some(known) => *known |= aspects,
                None => {
                    if record.accesses.len() >= self.limit(Resource::TransactionNodes) {
                        return Err(Errno::ENOSPC);
                    }
                    self.charge_transaction(path.len() + Record::ACCESS)?;
                    if let Some(record) = &mut self.record {
                        record.accesses.insert(Path::of_node(path), aspects);
                    }
                }
            },
        }
        Ok(self.tree.get(path).cloned())
    }

    /// Charges the caller for memory that its transaction takes.
    fn charge_transaction(&mut self, bytes: usize) -> Result<(), Errno> {
        let limit = self.limit(Resource::Memory);
        let used = self.accounts.bytes(self.caller.domain) + self.elsewhere;
        if let Some(record) = &mut self.record {
            if used + record.bytes + bytes > limit {
                return Err(Errno::ENOMEM);
            }
            record.bytes += bytes;
        }
        Ok(())
    }
}

/// A view that only dom0's own clean-up uses: no permissions, no quotas, no transaction.
pub fn privileged<'a>(
    tree: &'a mut Tree,
    accounts: &'a Accounts,
    departures: &'a crate::permissions::Departures,
    generation: &'a mut u64,
    work: &'a mut u64,
) -> View<'a> {
    View {
        tree,
        record: None,
        caller: Caller {
            domain: Domid(0),
            target: None,
            departures,
        },
        accounts,
        elsewhere: 0,
        generation,
        work,
    }
}
