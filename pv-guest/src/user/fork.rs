//! Fork: a second address space with the same pages, which neither can write before it has a copy.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering::SeqCst;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;

use super::pages::Page;
use super::space::{Space, Tree, new_roots, put_entry, user_entries};
use crate::hypercall::Result;
use crate::memory::{Batch, Frames, tables};
use crate::pte::{Flags, Pte};

impl Space {
    /// A copy, by sharing: one multicall takes the right to write away from this space, and makes
    /// page tables of the copy's.
    ///
    /// # Errors
    ///
    /// `ENOMEM` without memory for the tables, or what the hypervisor says of them.
    pub fn fork(&self) -> Result<Arc<Self>> {
        let tree = self.tree.lock();
        let [mut kernel_root, mut user_root] = new_roots()?;
        let spare: Option<Vec<_>> = tree.tables.iter().map(|_| Frames::zeroed(0)).collect();
        let mut copier = Copier {
            spare: spare.ok_or(Errno::ENOMEM)?,
            tables: Vec::with_capacity(tree.tables.len()),
            batch: Batch::default(),
        };
        let (_, root) = self.roots();
        for (place, table) in user_entries(root) {
            let entry = copier.entry(root, place, table, 4);
            put_entry(&mut user_root, place, entry);
            put_entry(&mut kernel_root, place, entry);
        }
        let Copier {
            tables, mut batch, ..
        } = copier;
        batch.flush(self.loaded.load(SeqCst));
        let copied = Tree {
            tables,
            areas: tree.areas.clone(),
        };
        Self::adopt(kernel_root, user_root, copied, batch)
    }
}

/// What a copy takes.
struct Copier {
    /// Frames for the copy's tables.
    spare: Vec<Frames>,
    /// Those that are filled.
    tables: Vec<Frames>,
    /// The changes of the original.
    batch: Batch,
}

impl Copier {
    /// The copy's counterpart of an entry that is in a table of `level`, at `place`.
    fn entry(&mut self, table: Mfn, place: usize, entry: Pte, level: u32) -> Pte {
        let frame = entry.frame().expect("the entry is present");
        if level == 1 {
            // SAFETY: the entry goes on holding it.
            let page = ManuallyDrop::new(unsafe { Page::from_entry(frame) });
            let read_only = entry.without(Flags::WRITABLE);
            if entry.is_writable() {
                self.batch
                    .set(tables::entry_address(table, place), read_only);
            }
            page.share().into_entry();
            return read_only;
        }
        let mut copy = self.spare.pop().expect("there is one for each table");
        for (place, below) in tables::present(frame) {
            let entry = self.entry(frame, place, below, level - 1);
            put_entry(&mut copy, place, entry);
        }
        let entry = Pte::new(copy.mfn(), Flags::TABLE);
        self.tables.push(copy);
        entry
    }
}
