//! Memory that two domains share, over which they find each other: the one with the lower number grants it, and says so
//! in the store. The toolstack writes the other's number to `data/peer` of each.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use hypercall_abi::types::{Domid, GrantRef, Port};
use pv_guest::clock;
use pv_guest::events::own_domid;
use pv_guest::grants::{Grant, GrantMapping};
use pv_guest::memory::{Access, DmaMemory, Window};
use pv_guest::store::Store;

use super::{LIMIT, fail};

const PAGE: usize = 4096;
/// Bytes of a line: its port on the first side, then for each side how often it rang, and what it saw of the other's.
const LINE: usize = 32;
const IN_PAGE: usize = PAGE / LINE;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Makes the ports and grants the memory.
    First,
    /// Connects and maps.
    Second,
}

enum Memory {
    /// The pages, and that they are granted.
    Own(Vec<(Arc<DmaMemory>, Grant)>),
    Other(GrantMapping),
}

/// Where two domains meet. The first page says how far each is; the others have the lines.
pub struct Meeting {
    own: Domid,
    peer: Domid,
    side: Side,
    lines: usize,
    memory: Memory,
}

impl Meeting {
    /// Meets the other domain for this many lines.
    pub async fn new(store: &Store, lines: usize) -> Self {
        let own = match own_domid() {
            Ok(own) => own,
            Err(error) => fail(format_args!("no number: {error}")),
        };
        let peer = Domid(read(store, "data/peer").await);
        let pages = 1 + lines.div_ceil(IN_PAGE);
        let side = if own < peer {
            Side::First
        } else {
            Side::Second
        };
        let memory = match side {
            Side::First => Memory::Own((0..pages).map(|_| grant(peer)).collect()),
            Side::Second => {
                let first: u32 = read(store, &format!("/local/domain/{}/data/ring", peer.0)).await;
                let references: Vec<GrantRef> = (first..).take(pages).map(GrantRef).collect();
                match GrantMapping::new(peer, &references, Access::ReadWrite) {
                    Ok(mapping) => Memory::Other(mapping),
                    Err(error) => fail(format_args!("the memory cannot be mapped: {error}")),
                }
            }
        };
        Self {
            own,
            peer,
            side,
            lines,
            memory,
        }
    }

    /// The first side: lets the other find the memory. The grants are numbered one after the other.
    pub async fn publish(&self, store: &Store) {
        let Memory::Own(pages) = &self.memory else {
            return;
        };
        let references: Vec<u32> = pages.iter().map(|(_, grant)| grant.reference().0).collect();
        let first = references.iter().copied().min().unwrap_or(0);
        if !(first..).zip(&references).all(|(number, &it)| number == it) {
            fail(format_args!("the grants are not in order"));
        }
        let (own, peer) = (format!("n{}", self.own.0), format!("r{}", self.peer.0));
        let written = store.write("data/ring", format!("{first}")).await;
        let done = match written {
            Ok(()) => store.set_permissions("data/ring", &[&own, &peer]).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            fail(format_args!("the store refuses: {error}"));
        }
    }

    pub fn peer(&self) -> Domid {
        self.peer
    }

    pub fn side(&self) -> Side {
        self.side
    }

    pub fn lines(&self) -> usize {
        self.lines
    }

    fn page(&self, page: usize) -> &Window {
        match &self.memory {
            Memory::Own(pages) => &pages[page].0,
            Memory::Other(mapping) => mapping,
        }
    }

    /// A page, and the offset of it in what it is a part of.
    fn at(&self, page: usize, offset: usize) -> (&Window, usize) {
        let before = match &self.memory {
            Memory::Own(_) => 0,
            Memory::Other(_) => page * PAGE,
        };
        (self.page(page), before + offset)
    }

    fn get(&self, number: usize, word: usize) -> u32 {
        let (window, offset) = self.at(1 + number / IN_PAGE, number % IN_PAGE * LINE + 4 * word);
        window.get(offset)
    }

    fn set(&self, number: usize, word: usize, value: u32) {
        let (window, offset) = self.at(1 + number / IN_PAGE, number % IN_PAGE * LINE + 4 * word);
        window.set(offset, value);
    }

    /// The first word of this side's in a line.
    fn own_words(&self) -> usize {
        match self.side {
            Side::First => 1,
            Side::Second => 3,
        }
    }

    /// The first word of the other side's.
    fn other_words(&self) -> usize {
        4 - self.own_words()
    }

    /// The port of a line on the first side.
    pub fn port(&self, number: usize) -> Port {
        Port(self.get(number, 0))
    }

    pub fn set_port(&self, number: usize, port: Port) {
        self.set(number, 0, port.0);
    }

    /// How often the other side rang.
    pub fn rung(&self, number: usize) -> u32 {
        self.get(number, self.other_words())
    }

    /// Says how often this side rang.
    pub fn set_rung(&self, number: usize, count: u32) {
        self.set(number, self.own_words(), count);
    }

    /// What the other side saw of what this one rang.
    pub fn seen(&self, number: usize) -> u32 {
        self.get(number, self.other_words() + 1)
    }

    /// Says what this side saw.
    pub fn set_seen(&self, number: usize, count: u32) {
        self.set(number, self.own_words() + 1, count);
    }

    /// Says how far this side is.
    pub fn reach(&self, stage: u32) {
        let (window, _) = self.at(0, 0);
        window.set(4 * self.own_words(), stage);
    }

    /// Whether the other side is as far.
    pub fn met(&self, stage: u32) -> bool {
        let (window, _) = self.at(0, 0);
        window.get::<u32>(4 * self.other_words()) >= stage
    }
}

/// A page, granted to a domain.
fn grant(peer: Domid) -> (Arc<DmaMemory>, Grant) {
    let page = match DmaMemory::new(PAGE, 64) {
        Ok(page) => Arc::new(page),
        Err(error) => fail(format_args!("no memory: {error}")),
    };
    match Grant::new(peer, page.clone(), 0, Access::ReadWrite) {
        Ok(grant) => (page, grant),
        Err(error) => fail(format_args!("no grant: {error}")),
    }
}

/// Reads a number that somebody else writes to the store, once it is there.
async fn read<T: core::str::FromStr>(store: &Store, path: &str) -> T {
    let deadline = clock::now() + LIMIT;
    loop {
        match store.parse(path).await {
            Ok(number) => return number,
            Err(error) if clock::now() > deadline => fail(format_args!("{path}: {error}")),
            Err(_) => clock::sleep(Duration::from_millis(5)).await,
        }
    }
}
