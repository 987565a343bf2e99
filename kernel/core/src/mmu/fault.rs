//! Page faults that are the hypervisor's own business, before the guest hears of them.

use hv_machine::{Platform, is_guest_range};

use crate::current::Current;

/// Page-fault error code: the page is there, and its rights forbid the access.
const PRESENT: u32 = 1 << 0;
/// Page-fault error code: a write.
const WRITE: u32 = 1 << 1;
/// Page-fault error code: a reserved bit was set.
const RESERVED: u32 = 1 << 3;
/// Page-fault error code: an instruction fetch.
const FETCH: u32 = 1 << 4;

/// Looks at a page fault of the current vCPU; `true` where the instruction is to be tried again.
///
/// A guest may widen the rights of a mapping without a flush, as on hardware. Where the tables allow what the
/// processor refused, the stale translation is dropped. No processor remembers that a page is not there.
pub fn fixup_fault(cx: &mut Current<'_>, va: u64, error_code: u32) -> bool {
    if !is_guest_range(va, 1) || error_code & (PRESENT | RESERVED) != PRESENT {
        return false;
    }
    let Some(root) = cx.state.root() else {
        return false;
    };
    if !cx
        .hv
        .memory
        .allows(root, va, error_code & WRITE != 0, error_code & FETCH != 0)
    {
        return false;
    }
    cx.machine().flush_tlb_page(va);
    true
}
