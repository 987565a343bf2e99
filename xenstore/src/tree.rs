//! The nodes: a persistent map from path to node, in parts.
//!
//! A copy of the tree is a copy of a few pointers. A change afterwards copies what leads to the node
//! that it changes, some two dozen small pieces, and shares the rest.
//!
//! The children of a node are together in a [`Directory`], and the directory that was changed last
//! is at hand. Who creates a domain's nodes writes many in a row into few directories, so that how
//! many other domains there are does not matter to it. The map of directories is flat: no path is so
//! deep that walking or dropping the tree recurses far.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound::{Excluded, Included};

use hypercall_abi::types::Domid;

use rpds::RedBlackTreeMapSync;

use crate::path::{self, Path};
use crate::permissions::Permissions;

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it says.
    pub value: Arc<[u8]>,
    /// Who may do what with it.
    pub permissions: Arc<Permissions>,
    /// When value or permissions were last set. No two nodes, nor two states of one, share it.
    pub generation: u64,
    /// When it came into being.
    pub created: u64,
}

impl Node {
    /// Bytes for which its owner is charged, the path's included.
    pub fn size(&self, path: &str) -> usize {
        path.len() + self.value.len() + self.permissions.entries() * 8 + Self::OVERHEAD
    }

    /// About what the maps take for a node.
    const OVERHEAD: usize = 128;
}

/// The children of a node that has, or had, some.
#[derive(Clone, Debug)]
struct Directory {
    /// The node's path.
    path: Path,
    nodes: RedBlackTreeMapSync<Path, Node>,
    /// When one was last created or removed.
    generation: u64,
}

impl Directory {
    fn of(path: Path) -> Self {
        Self {
            path,
            nodes: RedBlackTreeMapSync::new_sync(),
            generation: 0,
        }
    }
}

/// All nodes. If one is there, so are those above it.
#[derive(Clone, Debug)]
pub struct Tree {
    root: (Path, Node),
    directories: RedBlackTreeMapSync<Path, Directory>,
    /// The directory that was changed last. In its place there is an empty one.
    open: Option<Directory>,
}

impl Tree {
    /// About the bytes of the pieces that a change after a copy copies.
    pub const COPY: usize = 1024;

    /// A root that dom0 owns, and nothing below it.
    pub fn new() -> Self {
        let root = Node {
            value: Arc::default(),
            permissions: Arc::new(Permissions::private(Domid(0), 0)),
            generation: 0,
            created: 0,
        };
        Self {
            root: (Path::root(), root),
            directories: RedBlackTreeMapSync::new_sync(),
            open: None,
        }
    }

    /// The node at a path.
    pub fn get(&self, path: &str) -> Option<&Node> {
        match path::parent(path) {
            Some(parent) => self.directory(parent)?.nodes.get(path),
            None => Some(&self.root.1),
        }
    }

    /// When a child of the node was last created or removed; 0 if never.
    pub fn listed(&self, path: &str) -> u64 {
        self.directory(path)
            .map_or(0, |directory| directory.generation)
    }

    /// All nodes, in some order.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        let (path, root) = &self.root;
        let directories = self.directories.keys();
        let below = directories.filter_map(|path| Some(self.directory(path)?.nodes.iter()));
        core::iter::once((path, root)).chain(below.flatten())
    }

    /// The paths of all that is below a path, in order.
    pub fn below(&self, path: &str) -> Vec<&Path> {
        // What is below "/a" begins with "/a/", and '0' follows '/'.
        let stem = stem(path);
        let (first, end) = (format!("{stem}/"), format!("{stem}0"));
        let deeper = self
            .directories
            .range::<str, _>((Included(&*first), Excluded(&*end)))
            .map(|(path, _)| &**path);
        let mut paths: Vec<_> = core::iter::once(path)
            .chain(deeper.filter(|deeper| *deeper != path))
            .filter_map(|path| Some(self.directory(path)?.nodes.keys()))
            .flatten()
            .collect();
        paths.sort_unstable();
        paths
    }

    /// The names of a path's children, in order.
    pub fn children(&self, path: &str) -> Vec<&str> {
        let from = stem(path).len() + 1;
        let nodes = self.directory(path).map(|directory| directory.nodes.keys());
        nodes
            .into_iter()
            .flatten()
            .map(|path| &path[from..])
            .collect()
    }

    /// Sets a node, which `is_new` or is there. The parent is there, or will be.
    pub fn set(&mut self, path: &Path, node: Node, is_new: bool) {
        let Some(parent) = path::parent(path) else {
            self.root.1 = node;
            return;
        };
        let directory = self.open(parent);
        if is_new {
            directory.generation = node.generation;
        }
        directory.nodes.insert_mut(path.clone(), node);
    }

    /// Removes a node below which there is nothing, or nothing that is not removed as well. The root
    /// stays.
    pub fn remove(&mut self, path: &str, generation: u64) {
        let Some(parent) = path::parent(path) else {
            return;
        };
        if self.get(path).is_some() {
            let directory = self.open(parent);
            directory.nodes.remove_mut(path);
            directory.generation = generation;
        }
        if self.directory(path).is_some() {
            self.open.take_if(|open| *open.path == *path);
            self.directories.remove_mut(path);
        }
    }

    fn directory(&self, path: &str) -> Option<&Directory> {
        match &self.open {
            Some(open) if *open.path == *path => Some(open),
            _ => self.directories.get(path),
        }
    }

    /// The directory of a node's children, to change it.
    fn open(&mut self, path: &str) -> &mut Directory {
        let directories = &mut self.directories;
        if let Some(other) = self.open.take_if(|open| *open.path != *path)
            && let Some(place) = directories.get_mut(&other.path)
        {
            *place = other;
        }
        self.open
            .get_or_insert_with(|| match directories.get_mut(path) {
                Some(place) => {
                    let empty = Directory::of(place.path.clone());
                    core::mem::replace(place, empty)
                }
                None => {
                    let directory = Directory::of(Path::of_node(path));
                    directories.insert_mut(directory.path.clone(), directory.clone());
                    directory
                }
            })
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

fn stem(path: &str) -> &str {
    if path == "/" { "" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    /// One of that generation, with the permissions of the root.
    fn node(tree: &Tree, generation: u64) -> Node {
        Node {
            generation,
            ..tree.get("/").unwrap().clone()
        }
    }

    fn tree_of<'a>(paths: impl IntoIterator<Item = &'a String>) -> Tree {
        let mut tree = Tree::new();
        for path in paths {
            let mut above: Vec<_> = path::and_above(path).collect();
            above.reverse();
            for path in above {
                let path = Path::of_node(path);
                let is_new = tree.get(&path).is_none();
                tree.set(&path, node(&tree, 1), is_new);
            }
        }
        tree
    }

    proptest! {
        #[test]
        fn children_and_descendants_are_found_whatever_their_names(
            paths in btree_set("(/[-/09AZ_az@]{1,3}){1,4}", 1..30)
        ) {
            let valid = |path: &&String| {
                Path::resolve(path.as_bytes(), Domid(0)).is_ok()
            };
            let tree = tree_of(paths.iter().filter(valid));
            for (path, _) in tree.iter() {
                let mut below: Vec<_> = tree
                    .iter()
                    .map(|(other, _)| other)
                    .filter(|other| path::depth_below(other, path).is_some_and(|depth| depth > 0))
                    .collect();
                below.sort();
                let children: BTreeSet<_> = below
                    .iter()
                    .filter(|other| path::depth_below(other, path) == Some(1))
                    .map(|other| &other[other.rfind('/').unwrap() + 1..])
                    .collect();
                prop_assert_eq!(tree.below(path), below);
                let found = tree.children(path);
                prop_assert_eq!(found.len(), children.len());
                prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), children);
            }
        }
    }

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut tree = tree_of(&["/a/b".into()]);
        let copy = tree.clone();
        let node = node(&tree, 2);
        tree.set(&Path::of_node("/a/c"), node, true);
        tree.remove("/a/b", 3);
        assert_eq!(tree.children("/a"), ["c"]);
        assert_eq!(copy.children("/a"), ["b"]);
        assert_eq!(tree.listed("/a"), 3);
        assert_eq!(copy.listed("/a"), 1);
        assert_eq!(tree.get("/a").unwrap().generation, 1);
    }

    #[test]
    fn the_root_stays() {
        let mut tree = Tree::new();
        tree.remove("/", 1);
        assert!(tree.get("/").is_some());
    }
}
