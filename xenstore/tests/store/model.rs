//! The store, as simply as it can be said: a map of nodes, a list of what happened, and a list of
//! watches. A transaction has a copy of the map, remembers what it relied on, and is carried out
//! again when it is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use hypercall_abi::errno::Errno;
use xenstore::wire::Kind;

/// A client: its domain, and which of the domain's.
pub type Who = (u16, u32);

#[derive(Clone, Debug)]
struct Perms {
    /// Another for each time that permissions were set.
    id: u64,
    owner: u16,
    others: char,
    list: Vec<(u16, char)>,
}

#[derive(Clone, Debug)]
struct Node {
    value: Vec<u8>,
    perms: Perms,
}

type Nodes = BTreeMap<Rc<str>, Rc<Node>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Perms,
    Value,
    Children,
}

#[derive(Clone, Debug)]
struct Transaction {
    nodes: Nodes,
    start: usize,
    /// What it relied on, and the permissions or absence that it saw.
    relied: BTreeMap<(String, What), Option<u64>>,
    requests: Vec<(Kind, String, Vec<u8>, Option<Perms>)>,
    doomed: bool,
}

#[derive(Clone, Debug)]
struct Watch {
    id: u64,
    who: Who,
    path: String,
    strip: usize,
    token: String,
    depth: Option<usize>,
}

/// A path and whether only its own watches fire.
type Fired = (String, bool);

/// What a client hears from one of its watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub who: Who,
    pub watch: u64,
    pub path: String,
    pub token: String,
}

#[derive(Default)]
pub struct Model {
    nodes: Nodes,
    happened: Vec<(String, What)>,
    watches: Vec<Watch>,
    transactions: BTreeMap<(Who, u32), Transaction>,
    targets: BTreeMap<u16, u16>,
    introduced: BTreeSet<u16>,
    /// Permissions whose owner is gone.
    dead: BTreeSet<u64>,
    ids: u64,
    events: Vec<Event>,
}

fn parent(path: &str) -> Option<String> {
    if path == "/" {
        return None;
    }
    let end = path.rfind('/').unwrap();
    Some(path[..end.max(1)].into())
}

fn is_below(path: &str, top: &str) -> bool {
    match path.strip_prefix(top) {
        _ if top == "/" => path != "/",
        rest => rest.is_some_and(|rest| rest.starts_with('/')),
    }
}

fn is_child(path: &str, above: &str) -> bool {
    let names = &path[above.len().min(path.len())..];
    is_below(path, above) && !names[usize::from(above != "/")..].contains('/')
}

fn resolve(who: Who, text: &str) -> Result<String, Errno> {
    let path = match text.starts_with('/') {
        true => text.into(),
        false => format!("/local/domain/{}/{text}", who.0),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-/_@".contains(c);
    let fine = path.len() <= 3072 && path.chars().all(allowed) && !path.contains("//");
    if fine && (path == "/" || !path.ends_with('/')) {
        Ok(path)
    } else {
        Err(Errno::EINVAL)
    }
}

impl Model {
    pub fn new() -> Self {
        let mut model = Self::default();
        let perms = model.perms(&["n0"]).unwrap();
        model.nodes.insert(
            "/".into(),
            Rc::new(Node {
                value: Vec::new(),
                perms,
            }),
        );
        model
    }

    fn perms(&mut self, entries: &[&str]) -> Result<Perms, Errno> {
        let mut list = Vec::new();
        for entry in entries {
            let letter = entry.chars().next().ok_or(Errno::EINVAL)?;
            let domain = entry[1..].parse().map_err(|_| Errno::EINVAL)?;
            if !"rwbn".contains(letter) {
                return Err(Errno::EINVAL);
            }
            list.push((domain, letter));
        }
        if list.is_empty() {
            return Err(Errno::EINVAL);
        }
        let (owner, others) = list.remove(0);
        self.ids += 1;
        Ok(Perms {
            id: self.ids,
            owner,
            others,
            list,
        })
    }

    /// What a client may: some of "rwo".
    fn rights(&self, who: Who, perms: &Perms) -> &'static str {
        let target = self.targets.get(&who.0);
        let is = |domain: u16| domain == who.0 || target == Some(&domain);
        if who.0 == 0 || is(perms.owner) {
            return "rwo";
        }
        let entry = perms.list.iter().find(|(domain, _)| is(*domain));
        match entry.map_or(perms.others, |(_, letter)| *letter) {
            'b' => "rw",
            'r' => "r",
            'w' => "w",
            _ => "",
        }
    }

    fn reads(&self, who: Who, perms: &Perms) -> bool {
        self.rights(who, perms).contains('r')
    }

    fn nodes(&self, who: Who, tx: u32) -> &Nodes {
        match tx {
            0 => &self.nodes,
            id => &self.transactions[&(who, id)].nodes,
        }
    }

    fn rely(&mut self, who: Who, tx: u32, path: &str, what: &[What]) {
        if let Some(transaction) = self.transactions.get_mut(&(who, tx)) {
            for what in what {
                // The copy may have changed since: what was seen first is what counts.
                let seen = transaction.nodes.get(path).map(|node| node.perms.id);
                let key = (path.to_string(), *what);
                let known = transaction.relied.iter().find(|((p, _), _)| p == path);
                let seen = match known {
                    Some((_, first)) => *first,
                    None => seen,
                };
                transaction.relied.entry(key).or_insert(seen);
            }
        }
    }

    fn find(
        &mut self,
        who: Who,
        tx: u32,
        path: &str,
        rights: &str,
        what: What,
    ) -> Result<Option<Rc<Node>>, Errno> {
        self.rely(who, tx, path, &[what, What::Perms]);
        if let Some(node) = self.nodes(who, tx).get(path).cloned() {
            let has = self.rights(who, &node.perms);
            return match rights.chars().all(|right| has.contains(right)) {
                true => Ok(Some(node)),
                false => Err(Errno::EACCES),
            };
        }
        let mut path = path.to_string();
        loop {
            path = parent(&path).unwrap();
            self.rely(who, tx, &path, &[What::Perms]);
            if let Some(node) = self.nodes(who, tx).get(&*path) {
                let has = self.rights(who, &node.perms);
                return match rights.chars().any(|right| has.contains(right)) {
                    true => Ok(None),
                    false => Err(Errno::EACCES),
                };
            }
        }
    }

    fn existing(
        &mut self,
        who: Who,
        tx: u32,
        path: &str,
        rights: &str,
        what: What,
    ) -> Result<Rc<Node>, Errno> {
        self.find(who, tx, path, rights, what)?.ok_or(Errno::ENOENT)
    }

    pub fn read(&mut self, who: Who, tx: u32, path: &str) -> Result<Vec<u8>, Errno> {
        let path = resolve(who, path)?;
        Ok(self
            .existing(who, tx, &path, "r", What::Value)?
            .value
            .clone())
    }

    pub fn get_perms(&mut self, who: Who, tx: u32, path: &str) -> Result<Vec<u8>, Errno> {
        let path = resolve(who, path)?;
        let node = self.existing(who, tx, &path, "r", What::Perms)?;
        let perms = &node.perms;
        let mut text = format!("{}{}\0", perms.others, perms.owner);
        for (domain, letter) in &perms.list {
            text += &format!("{letter}{domain}\0");
        }
        Ok(text.into_bytes())
    }

    pub fn directory(&mut self, who: Who, tx: u32, path: &str) -> Result<Vec<u8>, Errno> {
        let path = resolve(who, path)?;
        self.existing(who, tx, &path, "r", What::Children)?;
        let mut names: Vec<_> = self
            .nodes(who, tx)
            .keys()
            .filter(|other| is_child(other, &path))
            .map(|other| &other[other.rfind('/').unwrap() + 1..])
            .collect();
        names.sort();
        Ok(names
            .iter()
            .flat_map(|name| format!("{name}\0").into_bytes())
            .collect())
    }

    /// The part from the beginning, in a list that is short.
    pub fn directory_part(&mut self, who: Who, tx: u32, path: &str) -> Result<Vec<u8>, Errno> {
        self.rely(who, tx, &resolve(who, path)?, &[What::Value]);
        let mut list = self.directory(who, tx, path)?;
        list.push(0);
        Ok(list)
    }

    /// WRITE, MKDIR, RM and SET_PERMS.
    pub fn change(
        &mut self,
        who: Who,
        tx: u32,
        kind: Kind,
        path: &str,
        value: &[u8],
        perms: &[&str],
    ) -> Result<Vec<u8>, Errno> {
        let perms = match kind {
            Kind::SetPermissions => Some(self.perms(perms)?),
            _ => None,
        };
        let path = resolve(who, path)?;
        let request = (kind, path, value.to_vec(), perms);
        if tx == 0 {
            let before = self.nodes.clone();
            let mut nodes = before.clone();
            let mut fired = Vec::new();
            self.carry_out(who, 0, &mut nodes, &request, &mut fired)?;
            self.nodes = nodes;
            self.note(&before);
            for fired in fired {
                self.fire(&before, &fired);
            }
        } else {
            let mut nodes = self.nodes(who, tx).clone();
            self.carry_out(who, tx, &mut nodes, &request, &mut Vec::new())?;
            let transaction = self.transactions.get_mut(&(who, tx)).unwrap();
            transaction.nodes = nodes;
            transaction.requests.push(request);
        }
        Ok(b"OK\0".to_vec())
    }

    fn carry_out(
        &mut self,
        who: Who,
        tx: u32,
        nodes: &mut Nodes,
        (kind, path, value, perms): &(Kind, String, Vec<u8>, Option<Perms>),
        fired: &mut Vec<Fired>,
    ) -> Result<(), Errno> {
        match kind {
            Kind::Write | Kind::Mkdir => {
                let what = match kind {
                    Kind::Write => What::Value,
                    _ => What::Perms,
                };
                let there = self.find(who, tx, path, "w", what)?.is_some();
                if there && *kind == Kind::Mkdir {
                    return Ok(());
                }
                if !there {
                    self.create(who, nodes, path);
                }
                Rc::make_mut(nodes.get_mut(&**path).unwrap()).value = value.clone();
                fired.push((path.clone(), false));
            }
            Kind::SetPermissions => {
                let perms = perms.clone().unwrap();
                let node = self.existing(who, tx, path, "wo", What::Value)?;
                if who.0 != 0 && perms.owner != node.perms.owner {
                    return Err(Errno::EPERM);
                }
                Rc::make_mut(nodes.get_mut(&**path).unwrap()).perms = perms;
                fired.push((path.clone(), false));
            }
            _ => {
                if self.find(who, tx, path, "w", What::Value)?.is_none() {
                    let above = parent(path).unwrap();
                    self.rely(who, tx, &above, &[What::Perms]);
                    return match nodes.contains_key(&*above) {
                        true => Ok(()),
                        false => Err(Errno::ENOENT),
                    };
                }
                if path == "/" {
                    return Err(Errno::EINVAL);
                }
                let gone: Vec<_> = nodes
                    .keys()
                    .filter(|other| ***other == **path || is_below(other, path))
                    .cloned()
                    .collect();
                for other in gone.iter().rev() {
                    self.rely(who, tx, other, &[What::Value, What::Children]);
                    nodes.remove(other);
                    fired.push((other.to_string(), **other != **path));
                }
            }
        }
        Ok(())
    }

    fn create(&mut self, who: Who, nodes: &mut Nodes, path: &str) {
        if nodes.contains_key(path) {
            return;
        }
        let above = parent(path).unwrap();
        self.create(who, nodes, &above);
        let mut perms = nodes[&*above].perms.clone();
        if who.0 != 0 && perms.owner != who.0 {
            self.ids += 1;
            perms.id = self.ids;
            perms.owner = who.0;
        }
        let value = Vec::new();
        nodes.insert(path.into(), Rc::new(Node { value, perms }));
    }

    /// Writes down what came into being and what went.
    fn note(&mut self, before: &Nodes) {
        let gone = before.keys().filter(|path| !self.nodes.contains_key(*path));
        let new = self.nodes.keys().filter(|path| !before.contains_key(*path));
        let paths: Vec<_> = gone.chain(new).cloned().collect();
        for path in paths {
            self.note_existence(&path);
        }
    }

    fn note_existence(&mut self, path: &str) {
        for what in [What::Value, What::Children] {
            self.happened.push((path.into(), what));
        }
        if let Some(above) = parent(path) {
            self.happened.push((above, What::Children));
        }
    }

    /// Watches hear of a change from `before` to the nodes as they are.
    fn fire(&mut self, before: &Nodes, (path, exact): &Fired) {
        self.happened.push((path.clone(), What::Value));
        let (old, new) = (before.get(&**path), self.nodes.get(&**path));
        let came_or_went = old.is_some() != new.is_some();
        let above = parent(path);
        let above = above.as_ref();
        let above = above.and_then(|above| match old {
            Some(_) => before.get(&**above),
            None => self.nodes.get(&**above),
        });
        let mut events = Vec::new();
        for watch in &self.watches {
            let depth = match path == &watch.path {
                true => 0,
                false if *exact || !is_below(path, &watch.path) => continue,
                false => {
                    let names = |path: &str| match path {
                        "/" => 0,
                        path => path.matches('/').count(),
                    };
                    names(path) - names(&watch.path)
                }
            };
            let may =
                |node: Option<&Rc<Node>>| node.is_some_and(|it| self.reads(watch.who, &it.perms));
            if watch.depth.is_none_or(|limit| depth <= limit)
                && (may(old) || may(new) || came_or_went && may(above))
            {
                events.push(Event {
                    who: watch.who,
                    watch: watch.id,
                    path: path[watch.strip..].into(),
                    token: watch.token.clone(),
                });
            }
        }
        self.events.extend(events);
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub fn watch(
        &mut self,
        who: Who,
        path: &str,
        token: &str,
        depth: Option<usize>,
    ) -> Result<Vec<u8>, Errno> {
        let full = resolve(who, path)?;
        if self
            .watches
            .iter()
            .any(|watch| (watch.who, &*watch.path, &*watch.token) == (who, &*full, token))
        {
            return Err(Errno::EEXIST);
        }
        self.ids += 1;
        self.watches.push(Watch {
            id: self.ids,
            who,
            strip: full.len() - path.len(),
            path: full,
            token: token.into(),
            depth,
        });
        self.events.push(Event {
            who,
            watch: self.ids,
            path: path.into(),
            token: token.into(),
        });
        Ok(b"OK\0".to_vec())
    }

    pub fn unwatch(&mut self, who: Who, path: &str, token: &str) -> Result<Vec<u8>, Errno> {
        let full = resolve(who, path)?;
        let found = self
            .watches
            .iter()
            .position(|watch| (watch.who, &*watch.path, &*watch.token) == (who, &*full, token));
        self.watches.remove(found.ok_or(Errno::ENOENT)?);
        Ok(b"OK\0".to_vec())
    }

    pub fn reset(&mut self, who: Who) {
        self.watches.retain(|watch| watch.who != who);
        self.transactions.retain(|(other, _), _| *other != who);
    }

    pub fn start(&mut self, who: Who, id: u32) {
        let transaction = Transaction {
            nodes: self.nodes.clone(),
            start: self.happened.len(),
            relied: BTreeMap::new(),
            requests: Vec::new(),
            doomed: false,
        };
        assert!(self.transactions.insert((who, id), transaction).is_none());
    }

    /// The transactions that a client has open.
    pub fn open(&self, who: Who) -> Vec<u32> {
        let open = self.transactions.keys().filter(|(other, _)| *other == who);
        open.map(|(_, id)| *id).collect()
    }

    pub fn end(&mut self, who: Who, id: u32, commit: bool) -> Result<Vec<u8>, Errno> {
        let transaction = self.transactions.remove(&(who, id)).ok_or(Errno::ENOENT)?;
        if commit {
            self.commit(who, transaction)?;
        }
        Ok(b"OK\0".to_vec())
    }

    fn commit(&mut self, who: Who, transaction: Transaction) -> Result<(), Errno> {
        if transaction.doomed {
            return Err(Errno::EAGAIN);
        }
        for ((path, what), seen) in &transaction.relied {
            let now = self.nodes.get(&**path).map(|node| node.perms.id);
            let since = &self.happened[transaction.start..];
            let changed = match (what, seen, now) {
                (_, None, None) => false,
                (What::Perms, ..) => *seen != now,
                (_, Some(_), Some(_)) => since.contains(&(path.clone(), *what)),
                _ => true,
            };
            if changed {
                return Err(Errno::EAGAIN);
            }
        }
        let before = self.nodes.clone();
        let happened = self.happened.len();
        let mut fired: Vec<Fired> = Vec::new();
        for request in &transaction.requests {
            let mut nodes = self.nodes.clone();
            let mut more = Vec::new();
            self.carry_out(who, 0, &mut nodes, request, &mut more)
                .expect("what worked in the transaction works again");
            self.nodes = nodes;
            for (path, exact) in more {
                match fired.iter_mut().find(|(other, _)| *other == path) {
                    Some((_, known)) => *known &= exact,
                    None => fired.push((path, exact)),
                }
            }
        }
        let owners = fired.iter().filter_map(|(path, _)| self.nodes.get(&**path));
        let implied = self
            .nodes
            .iter()
            .filter(|(path, _)| !before.contains_key(*path));
        if owners
            .chain(implied.map(|(_, node)| node))
            .any(|node| self.dead.contains(&node.perms.id))
        {
            self.nodes = before;
            self.happened.truncate(happened);
            return Err(Errno::EAGAIN);
        }
        self.note(&before);
        for fired in fired {
            if before.contains_key(&*fired.0) || self.nodes.contains_key(&*fired.0) {
                self.fire(&before, &fired);
            }
        }
        Ok(())
    }

    pub fn introduce(&mut self, domain: u16) {
        self.introduced.insert(domain);
    }

    pub fn is_introduced(&self, domain: u16) -> bool {
        self.introduced.contains(&domain)
    }

    pub fn set_target(&mut self, domain: u16, target: u16) {
        self.targets.insert(domain, target);
        self.doom(domain);
    }

    pub fn release(&mut self, domain: u16) {
        self.introduced.remove(&domain);
        self.reset((domain, 0));
        self.targets.remove(&domain);
        let targeting = self.targets.extract_if(.., |_, target| *target == domain);
        let targeting: Vec<_> = targeting.map(|(other, _)| other).collect();
        let mut dead = BTreeSet::new();
        let copies = self.transactions.values_mut().map(|it| &mut it.nodes);
        for node in copies
            .chain([&mut self.nodes])
            .flat_map(BTreeMap::values_mut)
        {
            Rc::make_mut(node)
                .perms
                .list
                .retain(|(other, _)| *other != domain);
            if node.perms.owner == domain {
                dead.insert(node.perms.id);
            }
        }
        let requests = self
            .transactions
            .values_mut()
            .flat_map(|it| &mut it.requests);
        for perms in requests.filter_map(|(.., perms)| perms.as_mut()) {
            perms.list.retain(|(other, _)| *other != domain);
            if perms.owner == domain {
                dead.insert(perms.id);
            }
        }
        self.dead.append(&mut dead);
        while let Some(path) = self
            .nodes
            .iter()
            .find(|(_, node)| node.perms.owner == domain)
            .map(|(path, _)| path.to_string())
        {
            let before = self.nodes.clone();
            let mut fired = Vec::new();
            if path == "/" {
                self.ids += 1;
                let root = Rc::make_mut(self.nodes.get_mut(&*path).unwrap());
                let perms = &mut root.perms;
                (perms.owner, perms.id) = (0, self.ids);
                fired.push((path, false));
            } else {
                let mut nodes = before.clone();
                let request = (Kind::Remove, path, Vec::new(), None);
                self.carry_out((0, 0), 0, &mut nodes, &request, &mut fired)
                    .unwrap();
                self.nodes = nodes;
                self.note(&before);
            }
            for fired in fired {
                self.fire(&before, &fired);
            }
        }
        for other in targeting {
            self.doom(other);
        }
    }

    fn doom(&mut self, domain: u16) {
        for ((who, _), transaction) in &mut self.transactions {
            if who.0 == domain {
                transaction.nodes = self.nodes.clone();
                transaction.relied.clear();
                transaction.requests.clear();
                transaction.doomed = true;
            }
        }
    }
}
