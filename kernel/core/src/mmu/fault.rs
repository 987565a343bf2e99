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

#[cfg(test)]
mod tests {
    use super::*;

    use hv_machine::sim::Flush;

    use crate::memory::Pte;
    use crate::testing::{DOMU, Host, RO, RW, SCRATCH};

    #[test]
    fn a_fault_that_the_tables_do_not_speak_for_is_tried_again_and_no_other() {
        let host = Host::new();
        let va = SCRATCH + 9 * 4096 + 0x123;
        let [.., l1] = host.layout(DOMU).tables;
        let frame = host.layout(DOMU).scratch[9];
        let no_execute = RO | Pte::NO_EXECUTE;
        for (flags, error_code, expected) in [
            (RW, PRESENT | WRITE, true),
            (RW, PRESENT | FETCH, true),
            (RO, PRESENT, true),
            (RO, PRESENT | WRITE, false),
            (no_execute, PRESENT, true),
            (no_execute, PRESENT | FETCH, false),
            (RW & !Pte::PRESENT, PRESENT | WRITE, false),
            (RW & !Pte::USER, PRESENT | WRITE, false),
            (RW, PRESENT | RESERVED, false),
            (RW, WRITE, false),
        ] {
            // As it is, whatever a guest may have there.
            host.hv.machine.store_u64(l1, 9, Pte::new(frame, flags).0);
            host.as_guest(DOMU, |cx| {
                cx.machine().take_flushes();
                let tried = fixup_fault(cx, va, error_code);
                assert_eq!(tried, expected, "{flags:#x} {error_code:#x}");
                let flushes = cx.machine().take_flushes();
                let page = Flush::Page(0, va & !0xfff);
                let due = if expected { &[page][..] } else { &[] };
                assert_eq!(flushes, due);
            });
        }
    }
}
