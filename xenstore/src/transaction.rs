//! A transaction: a copy of the tree, made in no time, that takes its client's changes until they
//! are committed or dropped.
//!
//! The commit fails if something that the transaction looked at, in the aspect that it looked at,
//! is not any more what it was when the transaction began. A node's children are an aspect of their
//! own, so two clients may create different nodes in one place at the same time.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use hypercall_abi::errno::Errno;

use crate::path::{self, Path};
use crate::permissions::Departures;
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
    /// Paths that it changed, with the watches to fire. The number says in which order.
    changed: BTreeMap<Path, (usize, Event)>,
    fired: usize,
    /// How much of the store's old contents there was when the base was taken.
    pub since: u64,
    /// It cannot be committed any more.
    doomed: bool,
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
            let unfired = (0, Event::None);
            let path = change.path.clone();
            let (number, event) = self.changed.entry(path).or_insert(unfired);
            if *event == Event::None && change.event != Event::None {
                self.fired += 1;
                *number = self.fired;
            }
            *event = match (*event, change.event) {
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

    /// What a commit to `tree` changes there, in the order in which watches fire.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if others changed what this transaction relies on.
    pub fn changes(&self, tree: &Tree, departures: &Departures) -> Result<Vec<Change>, Errno> {
        if self.doomed || self.conflicts(tree) {
            return Err(Errno::EAGAIN);
        }
        let mut changes = Vec::with_capacity(self.changed.len());
        for (path, (number, event)) in &self.changed {
            let (before, after) = (tree.get(path).cloned(), self.work.get(path).cloned());
            let parent_in = match (&before, &after) {
                (None, None) => continue,
                (None, Some(_)) => Some(&self.work),
                (Some(_), None) => Some(tree),
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
                parent: parent_in.and_then(|tree| {
                    let parent = tree.get(path::parent(path)?)?;
                    Some(parent.permissions.clone())
                }),
                event: *event,
            };
            changes.push((*number, change));
        }
        changes.sort_by_key(|(number, _)| *number);
        Ok(changes.into_iter().map(|(_, change)| change).collect())
    }

    fn conflicts(&self, tree: &Tree) -> bool {
        self.record.accesses.iter().any(|(path, aspects)| {
            match (self.base.get(path), tree.get(path)) {
                (None, None) => false,
                (Some(before), Some(after)) => differ(before, after, *aspects),
                _ => true,
            }
        })
    }
}

fn differ(before: &Node, after: &Node, aspects: Aspects) -> bool {
    let permissions = |node: &Node| node.permissions.generation;
    (aspects.contains(Aspects::VALUE) && before.generation != after.generation)
        || (aspects.contains(Aspects::PERMISSIONS) && permissions(before) != permissions(after))
        || (aspects.contains(Aspects::CHILDREN) && before.children != after.children)
}

/// Makes changes to a tree. All of them made, it does not matter in which order.
pub fn apply(tree: &mut Tree, changes: &mut [Change], generation: u64) {
    for change in changes {
        match &mut change.after {
            Some(node) => {
                let (value, permissions) = (node.value.clone(), node.permissions.clone());
                tree.set(&change.path, value, permissions, generation);
                node.generation = generation;
            }
            None => tree.remove(&change.path, generation),
        }
    }
}
