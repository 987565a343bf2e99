//! Stores to page tables by guests that have the assistance `writable_pagetables`.
//!
//! A guest maps its page tables read-only, so that such a store faults. Where its target is an entry of an L1 table,
//! the new entry is checked and written as by `mmu_update`, and the guest goes on as if it had written it itself.
//! Nothing is taken from the instruction but what to do with the word that faulted: neither an address that was
//! changed since, nor other code, reaches anything that `mmu_update` would not. A table to which it goes on storing is
//! then its own to write for a while ([`super::unhook`]).

use hypercall_abi::xen::VMASST_TYPE_WRITABLE_PAGETABLES;

use super::decode::{CodeSize, MAX_LENGTH};
use super::{code_segment, fetch, finish, store};
use crate::counters::Counter;
use crate::memory::{FrameType, Level, Pte};
use crate::traps::error_code::{FETCH, PRESENT, RESERVED, WRITE};
use crate::{Current, trace};

/// #PF: carries out a store to an L1 table; `false` where it is not that, and the #PF is the guest's.
#[must_use]
pub fn store_to_page_table(cx: &mut Current<'_>, va: u64, error_code: u32) -> bool {
    let refused = error_code & (PRESENT | WRITE | RESERVED | FETCH) == PRESENT | WRITE;
    if !refused || !cx.state.kernel_mode || !cx.domain.assisted(VMASST_TYPE_WRITABLE_PAGETABLES) {
        return false;
    }
    let memory = &cx.hv.memory;
    let Some(mapping) = cx
        .state
        .kernel_root
        .and_then(|root| memory.translate(root, va))
    else {
        return false;
    };
    let (table, kind) = (mapping.mfn(), FrameType::Table(Level::L1));
    if mapping.writable() || memory.type_in_use(table) != kind {
        return false;
    }
    // Held, so that it stays an L1 table while it is written.
    let Ok(_held) = memory.get_typed(table, cx.domain.id, kind) else {
        return false;
    };
    cx.hv.count(Counter::TableFaults);
    let mut bytes = [0; MAX_LENGTH];
    let read = fetch(cx, cx.state.context.regs.rip, &mut bytes);
    let is_64_bit = code_segment(cx).is_some_and(|code| code.size == CodeSize::Bits64);
    let Some(store) = store::decode(bytes.get(..read).unwrap_or(&[])).filter(|_| is_64_bit) else {
        return false;
    };
    let shift = 8 * (va & 7);
    if shift + u64::from(store.width.bits()) > 64 {
        return false;
    }
    let mask = store.width.mask() << shift;
    let index = (va & 0xfff) as usize / 8;
    loop {
        let old = hv_machine::Platform::load_u64(cx.machine(), table, index);
        let effect = store.apply(&cx.state.context.regs, (old & mask) >> shift);
        let new = Pte(old & !mask | effect.value << shift & mask);
        match memory.compare_exchange_entry(table, index, Pte(old), new, cx.domain.id) {
            Some(true) => {
                cx.hv.count(Counter::TableStores);
                if cx.hv.tracer.is_on() {
                    trace::table_store(cx, va, new);
                }
                store.finish(&mut cx.state.context.regs, &effect);
                if cx.hv.options.unhook {
                    cx.state.table_stores.note(table, va);
                }
                finish(cx, CodeSize::Bits64, store.length.into(), 0);
                return true;
            }
            // Another vCPU, or the processor's accessed and dirty bits, came first.
            Some(false) => {}
            None => return false,
        }
    }
}
