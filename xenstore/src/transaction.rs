//! A transaction: a copy of the tree, made in no time, that takes its client's changes until they
//! are committed or dropped.
//!
//! The commit fails if something that the transaction looked at, in the aspect that it looked at,
//! is not any more what it was when the transaction began. A node's children are an aspect of their
//! own, so two clients may create different nodes in one place at the same time.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hypercall_abi::errno::Errno;

use crate::path::{self, Path};
use crate::permissions::{Departures, Permissions};
use crate::tree::{Node, Tree};
use crate::view::{Aspects, Change, Event, Record};

/// An open transaction.
#[derive(Debug)]
pub struct Transaction {
    /// The tree when it began.
    base: Tree,
    /// The tree as the client sees and changes it.
    pub work: Tree,
    /// What it looked at and what it takes.
    pub record: Record,
    /// Paths that it changed.
    changed: BTreeMap<Path, Changed>,
    fired: usize,
    /// How much of the store's old contents there was when the base was taken.
    pub since: u64,
    /// It cannot be committed any more.
    doomed: bool,
}

/// What became of a path.
#[derive(Debug)]
struct Changed {
    /// Which watches to fire.
    event: Event,
    /// When to fire them, among all of the transaction.
    number: usize,
    /// What it was when the transaction began.
    before: Option<Node>,
    /// What it is.
    after: Option<Node>,
}

impl Transaction {
    /// Begins on a tree.
    pub fn begin(tree: &Tree, since: u64) -> Self {
        Self {
            base: tree.clone(),
            work: tree.clone(),
            record: Record::default(),
            changed: BTreeMap::new(),
            fired: 0,
            since,
            doomed: false,
        }
    }

    /// Gives up the copy, which keeps too much of the past in memory, for the present. The
    /// transaction goes on for its client, who will learn at its end that it failed.
    pub fn expire(&mut self, tree: &Tree, since: u64) {
        *self = Self::begin(tree, since);
        self.doomed = true;
    }

    /// Notes the changes of a request.
    pub fn note(&mut self, changes: &[Change]) {
        for change in changes {
            let path = change.path.clone();
            let changed = self.changed.entry(path).or_insert_with(|| Changed {
                event: Event::None,
                number: 0,
                before: change.before.clone(),
                after: None,
            });
            changed.after = change.after.clone();
            if changed.event == Event::None && change.event != Event::None {
                self.fired += 1;
                changed.number = self.fired;
            }
            changed.event = match (changed.event, change.event) {
                (Event::Upward, _) | (_, Event::Upward) => Event::Upward,
                (Event::Exact, _) | (_, Event::Exact) => Event::Exact,
                (Event::None, Event::None) => Event::None,
            };
        }
    }

    /// How many paths it looked at or changed.
    pub fn size(&self) -> usize {
        self.record.accesses.len() + self.changed.len()
    }

    /// What a commit to `tree` changes there, in the order in which watches fire. Where it is `as_it_was` when the
    /// transaction began, nobody else can be in its way.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if others changed what this transaction relies on.
    pub fn changes(
        &self,
        tree: &Tree,
        as_it_was: bool,
        departures: &Departures,
    ) -> Result<Vec<Change>, Errno> {
        if self.doomed || !as_it_was && self.conflicts(tree) {
            return Err(Errno::EAGAIN);
        }
        let mut changes = Vec::with_capacity(self.changed.len());
        let (mut parents_now, mut parents_before) = (Parents::of(&self.work), Parents::of(tree));
        for (path, changed) in &self.changed {
            let before = match as_it_was {
                true => changed.before.clone(),
                false => tree.get(path).cloned(),
            };
            let after = changed.after.clone();
            let parent = match (&before, &after) {
                (None, None) => continue,
                (None, Some(_)) => parents_now.permissions(path),
                (Some(_), None) => parents_before.permissions(path),
                (Some(_), Some(_)) => None,
            };
            // The owner may be gone, and its number another's by the next request.
            if after.as_ref().is_some_and(|node| {
                departures.since(node.permissions.owner, node.permissions.generation)
            }) {
                return Err(Errno::EAGAIN);
            }
            let change = Change {
                path: path.clone(),
                before,
                after,
                parent,
                event: changed.event,
            };
            changes.push((changed.number, change));
        }
        changes.sort_by_key(|(number, _)| *number);
        Ok(changes.into_iter().map(|(_, change)| change).collect())
    }

    /// Whether these are all that it changed: no node is absent after all, or there again, which to others is as if
    /// it had stayed.
    pub fn is_all(&self, changes: &[Change]) -> bool {
        let is_there_again = |change: &Change| match (&change.before, &change.after) {
            (Some(before), Some(after)) => before.created != after.created,
            _ => false,
        };
        changes.len() == self.changed.len() && !changes.iter().any(is_there_again)
    }

    fn conflicts(&self, tree: &Tree) -> bool {
        self.record.accesses.iter().any(|(path, aspects)| {
            match (self.base.get(path), tree.get(path)) {
                (None, None) => false,
                (Some(before), Some(after)) => {
                    differ(before, after, *aspects)
                        || aspects.contains(Aspects::CHILDREN)
                            && self.base.listed(path) != tree.listed(path)
                }
                _ => true,
            }
        })
    }
}

/// The parents of paths in a tree. Many in a row have the same.
struct Parents<'a> {
    tree: &'a Tree,
    last: Option<(&'a str, Option<Arc<Permissions>>)>,
}

impl<'a> Parents<'a> {
    fn of(tree: &'a Tree) -> Self {
        Self { tree, last: None }
    }

    /// The permissions of a path's parent.
    fn permissions(&mut self, path: &'a str) -> Option<Arc<Permissions>> {
        let parent = path::parent(path)?;
        let known = self.last.take().filter(|(last, _)| *last == parent);
        let (_, permissions) = self.last.insert(known.unwrap_or_else(|| {
            let node = self.tree.get(parent);
            (parent, node.map(|node| node.permissions.clone()))
        }));
        permissions.clone()
    }
}

fn differ(before: &Node, after: &Node, aspects: Aspects) -> bool {
    let permissions = |node: &Node| node.permissions.generation;
    (aspects.contains(Aspects::VALUE) && before.generation != after.generation)
        || (aspects.contains(Aspects::PERMISSIONS) && permissions(before) != permissions(after))
        || (aspects.contains(Aspects::CHILDREN) && before.created != after.created)
}

/// Makes changes to a tree. All of them made, it does not matter in which order.
pub fn apply(tree: &mut Tree, changes: &mut [Change], generation: u64) {
    for change in changes {
        match &mut change.after {
            Some(node) => {
                let old = tree.get(&change.path);
                node.generation = generation;
                node.created = old.map_or(generation, |old| old.created);
                let is_new = old.is_none();
                tree.set(&change.path, node.clone(), is_new);
            }
            None => tree.remove(&change.path, generation),
        }
    }
}
