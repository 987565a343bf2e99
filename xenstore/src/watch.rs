//! Watches: who wants to hear of changes where.
//!
//! They are found by path, so a change costs as much as its path is long, however many watches
//! there are elsewhere.

use alloc::collections::BTreeMap;
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

/// All watches.
#[derive(Debug, Default)]
pub struct Watches {
    by_path: BTreeMap<String, BTreeMap<ClientId, Vec<Watch>>>,
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
        self.by_path
            .get(&target.path)
            .and_then(|here| here.get(&client))
            .is_some_and(|theirs| theirs.iter().any(|watch| watch.token == token))
    }

    /// Adds a watch that the client does not have.
    pub fn add(&mut self, watch: Watch) {
        let (client, path) = (watch.client, watch.target.path.clone());
        self.by_client.entry(client).or_default().push(path.clone());
        if !self.by_path.contains_key(&path) {
            if self.lengths.len() <= path.len() {
                self.lengths.resize(path.len() + 1, 0);
            }
            self.lengths[path.len()] += 1;
        }
        let here = self.by_path.entry(path).or_default();
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
            .by_path
            .get_mut(&target.path)
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
        let Some(here) = self.by_path.get_mut(path) else {
            return Vec::new();
        };
        let theirs = here.remove(&client).unwrap_or_default();
        if here.is_empty() {
            self.by_path.remove(path);
            self.lengths[path.len()] -= 1;
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

    fn on(&self, path: &str) -> Option<&BTreeMap<ClientId, Vec<Watch>>> {
        match self.lengths.get(path.len()) {
            None | Some(0) => None,
            Some(_) => self.by_path.get(path),
        }
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
            .filter_map(|path| self.by_path.get(path))
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
        self.by_path.values().flat_map(BTreeMap::values).flatten()
    }

    /// How many a client has.
    pub fn count_of(&self, client: ClientId) -> usize {
        self.by_client.get(&client).map_or(0, Vec::len)
    }
}
