//! Watches: who wants to hear of changes where.
//!
//! They are found by the hash of a path and then by the path, so a change costs as much as its path
//! is long, however many watches there are elsewhere. Whoever sets watches on paths of one hash has
//! them compared as paths, and gains nothing.

use alloc::collections::{BTreeMap, btree_map};
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::XENSTORE_REL_PATH_MAX;
use hypercall_abi::types::Domid;

use crate::path::{self, Path};
use crate::server::ClientId;

/// A domain is served.
pub const INTRODUCE: &str = "@introduceDomain";
/// A domain stopped or is not served any more.
pub const RELEASE: &str = "@releaseDomain";

/// What to watch, and how to name it in events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The path of a node, or an event's name.
    pub path: String,
    /// Bytes that events leave out from the start of a path: the client gave a relative one.
    relative: usize,
}

impl Target {
    /// What a client means by `text`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is neither a path nor an event.
    pub fn parse(text: &[u8], domain: Domid) -> Result<Self, Errno> {
        if text.starts_with(b"@") {
            let name = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
            if name.len() > XENSTORE_REL_PATH_MAX {
                return Err(Errno::EINVAL);
            }
            return Ok(Self {
                path: name.into(),
                relative: 0,
            });
        }
        let relative = match text.starts_with(b"/") {
            true => 0,
            false => Path::of_domain(domain).len() + 1,
        };
        Ok(Self {
            path: String::from(&*Path::resolve(text, domain)?),
            relative,
        })
    }

    /// Whether it is an event's name.
    pub fn is_special(&self) -> bool {
        self.path.starts_with('@')
    }

    /// How the client calls a path that is at or below the target.
    pub fn name<'a>(&self, path: &'a str) -> &'a str {
        path.get(self.relative..).unwrap_or_default()
    }

    /// How the client calls the target itself.
    pub fn own_name(&self) -> &str {
        self.name(&self.path)
    }
}

/// A watch.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Its number. Later ones have higher numbers.
    pub number: u64,
    /// Whose it is.
    pub client: ClientId,
    /// What is watched.
    pub target: Target,
    /// What the client wants to be told with each event.
    pub token: Vec<u8>,
    /// How many names below the target an event may be.
    pub depth: Option<usize>,
}

impl Watch {
    /// Bytes for which its client is charged.
    pub fn size(&self) -> usize {
        self.target.path.len() * 3 + self.token.len() + 256
    }
}

/// The watches on one path.
type Here = BTreeMap<ClientId, Vec<Watch>>;

/// All watches.
#[derive(Debug, Default)]
pub struct Watches {
    /// By the hash of a path, then in order of paths, of which there is rarely more than one.
    by_path: BTreeMap<u64, Vec<(String, Here)>>,
    by_client: BTreeMap<ClientId, Vec<String>>,
    /// How many paths of each length are watched: most of those above a node are of none.
    lengths: Vec<u32>,
    last: u64,
}

impl Watches {
    /// A watch that is to be added.
    pub fn next(
        &mut self,
        client: ClientId,
        target: Target,
        token: &[u8],
        depth: Option<usize>,
    ) -> Watch {
        self.last += 1;
        Watch {
            number: self.last,
            client,
            target,
            token: token.into(),
            depth,
        }
    }

    /// Whether a client has a watch of this target and token.
    pub fn contains(&self, client: ClientId, target: &Target, token: &[u8]) -> bool {
        self.on(&target.path)
            .and_then(|here| here.get(&client))
            .is_some_and(|theirs| theirs.iter().any(|watch| watch.token == token))
    }

    /// Adds a watch that the client does not have.
    pub fn add(&mut self, watch: Watch) {
        let (client, path) = (watch.client, watch.target.path.clone());
        self.by_client.entry(client).or_default().push(path.clone());
        let of_hash = self.by_path.entry(hash(&path)).or_default();
        let index = position(of_hash, &path).unwrap_or_else(|index| {
            if self.lengths.len() <= path.len() {
                self.lengths.resize(path.len() + 1, 0);
            }
            self.lengths[path.len()] += 1;
            of_hash.reserve_exact(1);
            of_hash.insert(index, (path, Here::new()));
            index
        });
        let (_, here) = &mut of_hash[index];
        here.entry(client).or_default().push(watch);
    }

    /// Removes a watch.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the client has none such.
    pub fn remove(
        &mut self,
        client: ClientId,
        target: &Target,
        token: &[u8],
    ) -> Result<Watch, Errno> {
        let theirs = self
            .on_mut(&target.path)
            .and_then(|here| here.get_mut(&client))
            .ok_or(Errno::ENOENT)?;
        let index = theirs
            .iter()
            .position(|watch| watch.token == token)
            .ok_or(Errno::ENOENT)?;
        let watch = theirs.remove(index);
        if theirs.is_empty() {
            self.forget(client, &target.path);
        }
        if let Some(paths) = self.by_client.get_mut(&client) {
            if let Some(index) = paths.iter().position(|path| *path == target.path) {
                paths.swap_remove(index);
            }
            if paths.is_empty() {
                self.by_client.remove(&client);
            }
        }
        Ok(watch)
    }

    /// Removes all watches of a client.
    pub fn remove_all(&mut self, client: ClientId) -> Vec<Watch> {
        let mut removed = Vec::new();
        for path in self.by_client.remove(&client).unwrap_or_default() {
            removed.extend(self.forget(client, &path));
        }
        removed
    }

    fn forget(&mut self, client: ClientId, path: &str) -> Vec<Watch> {
        let Some(here) = self.on_mut(path) else {
            return Vec::new();
        };
        let theirs = here.remove(&client).unwrap_or_default();
        if here.is_empty() {
            self.lengths[path.len()] -= 1;
            if let btree_map::Entry::Occupied(mut of_hash) = self.by_path.entry(hash(path)) {
                of_hash.get_mut().retain(|(other, _)| other != path);
                if of_hash.get().is_empty() {
                    of_hash.remove();
                }
            }
        }
        theirs
    }

    /// The watches that a change of a node fires, of clients that `may` know of it, in the order in
    /// which they were set. `exact` says that those above the node do not count. `work` grows by
    /// what was looked at.
    pub fn matching(
        &self,
        path: &str,
        exact: bool,
        work: &mut u64,
        may: impl Fn(ClientId) -> bool,
    ) -> Vec<&Watch> {
        let levels = if exact { 1 } else { usize::MAX };
        let mut matching = Vec::new();
        for (depth, path) in path::and_above(path).enumerate().take(levels) {
            *work += 1;
            // However many watches strangers set on the root, each costs one question.
            for (client, theirs) in self.on(path).into_iter().flatten() {
                *work += 1;
                if may(*client) {
                    *work += theirs.len() as u64;
                    let reaches = |watch: &&Watch| watch.depth.is_none_or(|limit| depth <= limit);
                    matching.extend(theirs.iter().filter(reaches));
                }
            }
        }
        matching.sort_by_key(|watch| watch.number);
        matching
    }

    fn on(&self, path: &str) -> Option<&Here> {
        match self.lengths.get(path.len()) {
            None | Some(0) => None,
            Some(_) => {
                let of_hash = self.by_path.get(&hash(path))?;
                position(of_hash, path).ok().map(|index| &of_hash[index].1)
            }
        }
    }

    fn on_mut(&mut self, path: &str) -> Option<&mut Here> {
        let of_hash = self.by_path.get_mut(&hash(path))?;
        let index = position(of_hash, path).ok()?;
        Some(&mut of_hash[index].1)
    }

    /// The watches that a domain's introduction or release fires, of clients that `may` know of it,
    /// each with the path to report.
    pub fn of_domain(
        &self,
        event: &str,
        domain: Domid,
        may: impl Fn(ClientId) -> bool,
    ) -> Vec<(&Watch, String)> {
        let exact = alloc::format!("{event}/{domain}");
        let mut matching = Vec::new();
        for (client, theirs) in [event, &exact]
            .into_iter()
            .filter_map(|path| self.on(path))
            .flatten()
        {
            if may(*client) {
                matching.extend(theirs.iter().map(|watch| {
                    let path = match watch.depth {
                        Some(1) => exact.clone(),
                        _ => watch.target.path.clone(),
                    };
                    (watch, path)
                }));
            }
        }
        matching.sort_by_key(|(watch, _)| watch.number);
        matching
    }

    /// All there are.
    pub fn iter(&self) -> impl Iterator<Item = &Watch> {
        let paths = self.by_path.values().flatten();
        paths.flat_map(|(_, here)| here.values()).flatten()
    }

    /// How many a client has.
    pub fn count_of(&self, client: ClientId) -> usize {
        self.by_client.get(&client).map_or(0, Vec::len)
    }
}

/// Where a path is among those of its hash, or belongs.
fn position(of_hash: &[(String, Here)], path: &str) -> Result<usize, usize> {
    of_hash.binary_search_by(|(other, _)| other.as_str().cmp(path))
}

/// A number that differs for most paths, found by a few instructions for each eight bytes.
fn hash(path: &str) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = path.as_bytes().as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).fold(0, |hash: u64, word| {
        (hash.rotate_left(29) ^ u64::from_le_bytes(*word)).wrapping_mul(ODD)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two paths of one hash, which are not hard to find.
    const OF_ONE_HASH: [&str; 2] = ["/3z0x3a2pz2a74tm", "/93w2m0zpKlfwdwH"];

    #[test]
    fn watches_on_paths_of_one_hash_are_kept_apart() {
        let paths = OF_ONE_HASH;
        assert_eq!(hash(paths[0]), hash(paths[1]));
        let client = ClientId::Domain(Domid(5));
        let mut watches = Watches::default();
        let targets = paths.map(|path| Target::parse(path.as_bytes(), Domid(5)).unwrap());
        for target in &targets {
            let watch = watches.next(client, target.clone(), b"token", None);
            watches.add(watch);
        }
        let fired = |watches: &Watches, path: &str| -> Vec<String> {
            let matching = watches.matching(path, false, &mut 0, |_| true);
            let paths = matching.into_iter().map(|watch| watch.target.path.clone());
            paths.collect()
        };
        for path in paths {
            assert_eq!(fired(&watches, path), [path]);
        }
        assert!(watches.remove(client, &targets[0], b"token").is_ok());
        assert!(watches.remove(client, &targets[0], b"token").is_err());
        assert!(fired(&watches, paths[0]).is_empty());
        assert_eq!(fired(&watches, paths[1]), [paths[1]]);
        assert_eq!(watches.remove_all(client).len(), 1);
        assert_eq!(watches.iter().count(), 0);
    }
}
