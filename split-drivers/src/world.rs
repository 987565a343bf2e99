//! Two domains for tests and fuzzing: memory, grants that can be looked at, and bytes that say what a peer
//! does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use hypercall_abi::types::GrantRef;

use crate::grants::{Copy, GrantedPage, Grants, Pages, Place};
use crate::{SharedMemory, shared_memory_by};

/// Bytes of a page.
const PAGE: usize = 4096;

/// Memory that several have.
#[derive(Clone, Debug)]
pub struct Memory(pub Rc<RefCell<Vec<u8>>>);

impl Memory {
    /// So many zeroes.
    pub fn new(bytes: usize) -> Self {
        Self(Rc::new(RefCell::new(vec![0; bytes])))
    }
}

impl SharedMemory for Memory {
    fn size(&self) -> usize {
        self.0.borrow().len()
    }

    fn load_index(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn store_index(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0.borrow()[offset..offset + bytes.len()]);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// The guest's grants: the memory of each, and whether it is to be read only.
pub type Table = Rc<RefCell<BTreeMap<GrantRef, (Memory, bool)>>>;

/// The guest's side.
#[derive(Clone, Debug, Default)]
pub struct Guest {
    /// What it grants.
    pub table: Table,
    next: Rc<Cell<u32>>,
    /// How many more pages there are, if that is limited.
    pub left: Rc<Cell<Option<usize>>>,
}

/// A page that the guest grants.
#[derive(Debug)]
pub struct GuestPage {
    memory: Memory,
    /// Its grant.
    pub gref: GrantRef,
    table: Table,
}

impl Guest {
    /// How many grants there are.
    pub fn grants(&self) -> usize {
        self.table.borrow().len()
    }

    /// The memory of a grant, as the other domain reaches it.
    pub fn granted(&self, gref: GrantRef) -> Option<(Memory, bool)> {
        self.table.borrow().get(&gref).cloned()
    }
}

impl Pages for Guest {
    type Page = GuestPage;

    fn page(&mut self, read_only: bool) -> Option<GuestPage> {
        if let Some(left) = self.left.get() {
            self.left.set(Some(left.checked_sub(1)?));
        }
        // Some numbers are not used, as with a real table.
        let gref = GrantRef(self.next.get() * 3 + 8);
        self.next.set(self.next.get() + 1);
        let memory = Memory::new(PAGE);
        self.table
            .borrow_mut()
            .insert(gref, (memory.clone(), read_only));
        let table = self.table.clone();
        Some(GuestPage {
            memory,
            gref,
            table,
        })
    }
}

impl GrantedPage for GuestPage {
    fn reference(&self) -> GrantRef {
        self.gref
    }
}

impl Drop for GuestPage {
    fn drop(&mut self) {
        self.table.borrow_mut().remove(&self.gref);
    }
}

shared_memory_by!(GuestPage, page => page.memory);

/// The backend's domain: it reaches of the guest what is granted.
#[derive(Debug)]
pub struct Host {
    guest: Guest,
    /// Bytes that buffers may have in all.
    pub room: Rc<Cell<usize>>,
    /// Batches that were carried out.
    pub batches: usize,
}

/// Memory of the backend's.
#[derive(Debug)]
pub struct Buffer {
    memory: Memory,
    room: Rc<Cell<usize>>,
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.memory.0, &other.memory.0)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.room.set(self.room.get() + self.memory.size());
    }
}

shared_memory_by!(Buffer, buffer => buffer.memory);

impl Host {
    /// A domain that uses the grants of a guest, and has 2 MiB for buffers.
    pub fn new(guest: &Guest) -> Self {
        Self {
            guest: guest.clone(),
            room: Rc::new(Cell::new(2 << 20)),
            batches: 0,
        }
    }
}

impl Grants for Host {
    type Buffer = Buffer;
    type Page = Memory;

    fn buffer(&mut self, bytes: usize) -> Option<Buffer> {
        self.room.set(self.room.get().checked_sub(bytes)?);
        let memory = Memory::new(bytes);
        // What others have left.
        memory.0.borrow_mut().fill(0xee);
        let room = self.room.clone();
        Some(Buffer { memory, room })
    }

    fn copy(&mut self, copies: &[Copy<'_, Buffer, Memory>]) -> Vec<bool> {
        self.batches += 1;
        copies
            .iter()
            .map(|copy| {
                assert!(copy.offset + copy.bytes <= PAGE, "a copy beyond its page");
                let page = match copy.page {
                    Place::Mapped(page) => page.clone(),
                    Place::Grant(gref) => match self.guest.granted(gref) {
                        Some((page, read_only)) if !(read_only && copy.to_guest) => page,
                        _ => return false,
                    },
                };
                let mut bytes = vec![0; copy.bytes];
                match copy.to_guest {
                    true => {
                        copy.buffer.read(copy.at, &mut bytes);
                        page.write(copy.offset, &bytes);
                    }
                    false => {
                        page.read(copy.offset, &mut bytes);
                        copy.buffer.write(copy.at, &bytes);
                    }
                }
                true
            })
            .collect()
    }

    fn map(&mut self, grants: &[GrantRef]) -> Vec<Option<Memory>> {
        self.batches += 1;
        let page = |gref: &GrantRef| match self.guest.granted(*gref) {
            Some((page, false)) => Some(page),
            _ => None,
        };
        grants.iter().map(page).collect()
    }
}

/// Bytes that say what happens.
#[derive(Debug)]
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    /// The next ones.
    pub fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next one.
    pub fn byte(&mut self) -> Option<u8> {
        self.bytes().map(|[byte]| byte)
    }

    /// A number below another.
    pub fn index(&mut self, count: usize) -> Option<usize> {
        self.byte().map(|byte| usize::from(byte) % count)
    }

    /// Four bytes.
    pub fn word(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_le_bytes)
    }
}

/// Offsets of the indices in a ring.
pub const INDICES: [usize; 4] = [0, 4, 8, 12];
/// Where a ring's entries begin.
pub const ENTRIES: usize = 64;
