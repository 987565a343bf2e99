//! Unhooking: a kernel that goes on storing to an L1 table of its own writes it by itself for a while.
//!
//! While a table is *unhooked*, no processor reaches it as a table, and the mapping through which the guest stores to
//! it is writable. The processor that runs the guest has a root in which the L2 entry that names the table is empty
//! ([`Platform::load_root_without`]); the guest's own tables are as they were, and say so to a guest that reads them.
//! All the time the table counts as an L1 table with the entries that it had, of which a copy is kept. It is *hooked
//! back* by taking the write permission away, loading the true root, which forgets every translation, and checking what
//! differs from the copy.
//!
//! One rule makes that safe: a table is unhooked while a vCPU of its domain runs guest code without interruption, and no
//! other one runs. [`enter`] unhooks last and hooks back first, so that nothing else in the hypervisor ever meets an
//! unhooked table of the domain that it works for; what it does for one domain to the page tables of another keeps
//! that one from unhooking ([`Hold`]).
//!
//! Whatever the guest uses in the range that the table maps faults, and is tried again with the table hooked back. Each
//! store that traps is carried out by itself before, so that a guest gets on whatever it stores to.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use hv_machine::{Exit, Guest, GuestContext, Platform, TABLE_ENTRIES};
use hypercall_abi::trace::{TRC_XENOLITH_REHOOK, TRC_XENOLITH_UNHOOK};
use hypercall_abi::types::Mfn;
use zerocopy::IntoBytes;

use crate::counters::Counter;
use crate::memory::{FrameType, L1Slot, Level, Pte, Way};
use crate::traps::{self, error_code, vector};
use crate::{Current, Domain, Hypervisor, lock, trace};

/// Stores to one table in a row, each by a trap, after which it is unhooked, as long as nothing speaks for fewer or more.
const PATIENCE: u32 = 4;
/// The most that it comes to where unhooking never pays.
const MOST_PATIENCE: u32 = 64;
/// Entries that must have changed for unhooking to have been cheaper than as many traps.
const WORTHWHILE: u32 = 4;

/// What a vCPU stores to page tables.
#[derive(Debug)]
pub struct TableStores {
    /// The table that its last store was to, and how many in a row were.
    last: Option<(Mfn, u32)>,
    /// Stores in a row after which the next table is unhooked.
    patience: u32,
    /// The address of a store to the table that is to be unhooked when the guest is next entered.
    next: Option<u64>,
    unhooked: Option<Unhooked>,
    /// The entries of the unhooked table that the counts are of.
    before: Vec<u64>,
}

/// A table that is unhooked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unhooked {
    /// The table.
    pub table: Mfn,
    /// Where the entry is that maps it, which was made writable.
    pub mapping: L1Slot,
    /// That entry as it was.
    pub entry: Pte,
    /// What led to it.
    pub way: Way,
}

/// Whether a domain has an unhooked table, and may have one.
#[derive(Debug, Default)]
pub struct Unhooking {
    /// The CPU where one is, plus 1.
    cpu: AtomicU32,
    holds: AtomicU32,
}

/// Keeps another domain's tables hooked as long as it lives: whoever changes them must find them as the domain's vCPUs
/// do.
#[must_use]
pub struct Hold(Arc<Domain>);

impl Hold {
    /// Waits until all are hooked.
    pub fn new(hv: &Hypervisor, domain: Arc<Domain>) -> Self {
        domain.unhooking.holds.fetch_add(1, Ordering::SeqCst);
        let hold = Self(domain);
        hold.0.unhooking.wait(hv);
        hold
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.unhooking.holds.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Unhooking {
    /// Waits until no table is unhooked. The caller has made sure that none will be again.
    pub fn wait(&self, hv: &Hypervisor) {
        while let Some(cpu) = self.cpu.load(Ordering::SeqCst).checked_sub(1) {
            hv.machine.send_ipi(cpu);
            hv_machine::relax();
        }
    }

    /// Claims the right to have a table unhooked on `cpu`, for the only vCPU that runs.
    fn claim(&self, cpu: u32, runs_alone: impl Fn() -> bool) -> bool {
        // First told, then looked; whoever keeps it from happening holds or runs first, and then looks.
        self.cpu.store(cpu + 1, Ordering::SeqCst);
        let granted = self.holds.load(Ordering::SeqCst) == 0 && runs_alone();
        if !granted {
            self.give_up();
        }
        granted
    }

    fn give_up(&self) {
        self.cpu.store(0, Ordering::SeqCst);
    }
}

impl Default for TableStores {
    fn default() -> Self {
        Self {
            last: None,
            patience: PATIENCE,
            next: None,
            unhooked: None,
            before: Vec::new(),
        }
    }
}

impl TableStores {
    /// The table that is unhooked, and its entries as they count.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn unhooked(&self) -> Option<(Unhooked, &[u64])> {
        Some((self.unhooked?, &self.before))
    }

    /// Has the next store that traps unhook its table.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn make_eager(&mut self) {
        self.patience = 1;
    }

    /// Notes that a store to `table` at this address trapped and was carried out.
    pub(super) fn note(&mut self, table: Mfn, va: u64) {
        let in_a_row = match self.last {
            Some((last, count)) if last == table => count + 1,
            _ => 1,
        };
        self.last = Some((table, in_a_row));
        if in_a_row >= self.patience {
            self.last = None;
            self.next = Some(va);
        }
    }

    /// Learns from how many entries were changed while a table was unhooked: a kernel that fills one table goes on with
    /// the next.
    fn learn(&mut self, changed: u32) {
        self.patience = if changed >= WORTHWHILE {
            1
        } else {
            (self.patience * 2).clamp(PATIENCE, MOST_PATIENCE)
        };
    }
}

/// Runs the guest until it leaves, with the table unhooked to which it stores, if there is one, and has `handler` see to
/// why it left; not where it left because of that, or may not go on because of what it stored.
#[inline(always)]
pub fn enter(cx: &mut Current<'_>, handler: impl ExitHandler) {
    if cx.state.table_stores.next.is_some() {
        unhook(cx);
    }
    lock::check_at_entry();
    cx.machine().enter_guest(Entering { cx, handler });
}

/// What sees to why guests leave.
pub trait ExitHandler {
    /// The guest left.
    fn handle(self, cx: &mut Current<'_>, exit: Exit);
}

/// A vCPU that is entered, and what is to see to why it leaves.
struct Entering<'c, 'a, H> {
    cx: &'c mut Current<'a>,
    handler: H,
}

impl<H: ExitHandler> Guest for Entering<'_, '_, H> {
    #[inline(always)]
    fn context(&mut self) -> &mut GuestContext {
        &mut self.cx.state.context
    }

    #[inline(always)]
    fn left(self, exit: Exit) {
        if self.cx.state.table_stores.unhooked.is_some() {
            // A copy, so that the exit itself stays in registers.
            let seen = exit;
            if !left_unhooked(self.cx, &seen) {
                return;
            }
        }
        self.handler.handle(self.cx, exit);
    }
}

/// Hooks back the table with which unhooked an exit was made; whether there is still a reason to see to.
#[inline(never)]
fn left_unhooked(cx: &mut Current<'_>, exit: &Exit) -> bool {
    let Some((unhooked, good)) = hook_back(cx) else {
        return true;
    };
    match exit {
        // The machine has taken it, whatever becomes of the guest.
        Exit::Interrupt(_) => true,
        _ if !good => false,
        _ if unhooked.way.is_touched(exit) => {
            cx.hv.count(Counter::Touches);
            false
        }
        _ => true,
    }
}

impl Way {
    /// Whether a guest left because it was not there.
    fn is_touched(self, exit: &Exit) -> bool {
        match (self, *exit) {
            (
                Self::Only(range),
                Exit::Exception {
                    vector: vector::PAGE_FAULT,
                    error_code,
                    fault_address,
                },
            ) => error_code & error_code::PRESENT == 0 && fault_address >> 21 == range >> 21,
            _ => false,
        }
    }
}

/// Unhooks the table to which the guest stored, if that can be.
pub(crate) fn unhook(cx: &mut Current<'_>) {
    let Some(va) = cx.state.table_stores.next.take() else {
        return;
    };
    let machine = cx.machine();
    let runs_alone = || cx.domain.runs_alone(cx.vcpu_arc);
    if !cx.domain.unhooking.claim(machine.cpu_id(), runs_alone) {
        return;
    }
    let Some((root, unhooked)) = candidate(cx, va) else {
        cx.domain.unhooking.give_up();
        return;
    };
    let L1Slot { table, index } = unhooked.mapping;
    machine.store_u64(table, index, unhooked.entry.0 | Pte::WRITABLE);
    match unhooked.way {
        Way::Only(va) => machine.load_root_without(root, va),
        Way::None => machine.load_root(root),
    }
    // Nothing but the guest changes the table from here on, because no processor walks it.
    let stores = &mut cx.state.table_stores;
    stores.before.resize(TABLE_ENTRIES, 0);
    let before = stores.before.as_mut_slice().as_mut_bytes();
    cx.hv.machine.read_frame(unhooked.table, 0, before);
    stores.unhooked = Some(unhooked);
    cx.hv.count(Counter::Unhooks);
    if cx.hv.tracer.is_on() {
        trace::hooking(cx, TRC_XENOLITH_UNHOOK, unhooked.table, 0);
    }
}

/// The table that a store to `va` goes to, and the root that the guest runs on, if the table can be unhooked. Nobody
/// else changes the domain's tables at this time.
fn candidate(cx: &Current<'_>, va: u64) -> Option<(Mfn, Unhooked)> {
    let memory = &cx.hv.memory;
    let root = cx.state.kernel_root.filter(|_| cx.state.kernel_mode)?;
    let mapping = memory.l1_slot(root, va)?;
    let entry = Pte(cx.machine().load_u64(mapping.table, mapping.index));
    let table = entry.mfn();
    // A table that is mapped by itself could not be stored to without it, and an entry of a higher table, in a linear
    // page table, is more than a mapping.
    let maps = memory.type_in_use(mapping.table) == FrameType::Table(Level::L1);
    if !maps || !entry.present() || entry.writable() || mapping.table == table {
        return None;
    }
    let way = memory.way_to(root, table, cx.domain.id)?;
    let unhooked = Unhooked {
        table,
        mapping,
        entry,
        way,
    };
    Some((root, unhooked))
}

/// Hooks the unhooked table back, if there is one; gives it, and whether the guest stored nothing that it may not.
/// Else nothing of that takes effect, and the domain crashes: which store it was, and with which registers, nobody
/// knows any more.
pub(crate) fn hook_back(cx: &mut Current<'_>) -> Option<(Unhooked, bool)> {
    let unhooked = cx.state.table_stores.unhooked.take()?;
    let (hv, table) = (cx.hv, unhooked.table);
    let L1Slot { table: maps, index } = unhooked.mapping;
    hv.machine.store_u64(maps, index, unhooked.entry.0);
    // Before the true root is loaded: the processor is not even to look ahead at what was not checked.
    let renewed = hv
        .memory
        .renew(table, &cx.state.table_stores.before, cx.domain.id);
    if let Some(root) = cx.state.kernel_root {
        hv.machine.load_root(root);
    }
    cx.domain.unhooking.give_up();
    cx.state.table_stores.learn(renewed.changed);
    hv.count(Counter::Rehooks);
    if hv.tracer.is_on() {
        trace::hooking(cx, TRC_XENOLITH_REHOOK, table, renewed.changed);
    }
    hv.count_many(Counter::ChangedEntries, renewed.changed);
    if let Some((index, entry)) = renewed.refused {
        let message = format_args!("may not have {entry:?} as entry {index} of L1 table {table}");
        traps::crash(cx, message);
    }
    Some((unhooked, renewed.refused.is_none()))
}

#[cfg(test)]
mod tests;
