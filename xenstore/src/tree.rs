//! The nodes: a persistent map from path to node.
//!
//! A copy of the tree is a copy of one pointer. A change afterwards copies what leads to the node
//! that it changes, some two dozen small pieces, and shares the rest. The map is flat: a node's
//! children are found by their paths, which follow its own in order. So no path is so deep that
//! walking or dropping the tree recurses far.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound::{self, Excluded, Included};

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
    /// When a child was last created or removed.
    pub children: u64,
}

impl Node {
    /// Bytes for which its owner is charged, the path's included.
    pub fn size(&self, path: &str) -> usize {
        path.len() + self.value.len() + self.permissions.entries() * 8 + Self::OVERHEAD
    }

    /// About what the maps take for a node.
    const OVERHEAD: usize = 128;
}

/// All nodes. If one is there, so are those above it.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: RedBlackTreeMapSync<Path, Node>,
}

impl Tree {
    /// About the bytes of the pieces that a change after a copy copies.
    pub const COPY: usize = 1024;

    /// A root that dom0 owns, and nothing below it.
    pub fn new() -> Self {
        let mut nodes = RedBlackTreeMapSync::new_sync();
        nodes.insert_mut(
            Path::root(),
            Node {
                value: Arc::default(),
                permissions: Arc::new(Permissions::private(Domid(0), 0)),
                generation: 0,
                children: 0,
            },
        );
        Self { nodes }
    }

    /// The node at a path.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// All nodes in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Node)> {
        self.nodes.iter()
    }

    /// The paths of all that is below a path, in order.
    pub fn below(&self, path: &str) -> Vec<&Path> {
        // What is below "/a" begins with "/a/", and '0' follows '/'.
        let stem = stem(path);
        let (first, end) = (format!("{stem}/"), format!("{stem}0"));
        self.nodes
            .range::<str, _>((Excluded(&*first), Excluded(&*end)))
            .map(|(path, _)| path)
            .collect()
    }

    /// The names of a path's children, in order.
    pub fn children(&self, path: &str) -> Vec<&str> {
        let stem = stem(path);
        let mut names = Vec::new();
        let (mut from, end) = (Excluded(format!("{stem}/")), format!("{stem}0"));
        'seek: loop {
            let bounds = (as_str(&from), Excluded(&*end));
            for (path, _) in self.nodes.range::<str, _>(bounds) {
                let name = &path[stem.len() + 1..];
                // A grandchild is passed over together with its cousins.
                if let Some(end) = name.find('/') {
                    from = Included(format!("{}0", &path[..stem.len() + 1 + end]));
                    continue 'seek;
                }
                names.push(name);
            }
            return names;
        }
    }

    /// Sets a node, which `is_new` or is there. The parent is there, or will be.
    pub fn set(&mut self, path: &Path, node: Node, is_new: bool) {
        let generation = node.generation;
        self.nodes.insert_mut(path.clone(), node);
        if is_new {
            self.touch_parent(path, generation);
        }
    }

    /// Removes a node, but not what is below it. The root stays.
    pub fn remove(&mut self, path: &str, generation: u64) {
        if path != "/" && self.nodes.contains_key(path) {
            self.nodes.remove_mut(path);
            self.touch_parent(path, generation);
        }
    }

    fn touch_parent(&mut self, path: &str, generation: u64) {
        if let Some(parent) = path::parent(path).and_then(|parent| self.nodes.get_mut(parent)) {
            parent.children = generation;
        }
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

fn as_str(bound: &Bound<String>) -> Bound<&str> {
    bound.as_ref().map(String::as_str)
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
            children: generation,
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
                let below: Vec<_> = tree
                    .iter()
                    .map(|(other, _)| other)
                    .filter(|other| path::depth_below(other, path).is_some_and(|depth| depth > 0))
                    .collect();
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
        assert_eq!(tree.get("/a").unwrap().children, 3);
        assert_eq!(copy.get("/a").unwrap().children, 1);
        assert_eq!(tree.get("/a").unwrap().generation, 1);
    }

    #[test]
    fn the_root_stays() {
        let mut tree = Tree::new();
        tree.remove("/", 1);
        assert!(tree.get("/").is_some());
    }
}
