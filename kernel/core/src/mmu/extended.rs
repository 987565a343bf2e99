//! `mmuext_op` (`xen/xen.h`): pins, roots, flushes, descriptor tables.

use hv_machine::{FIRST_HYPERVISOR_SLOT, Platform, is_guest_range};
use hypercall_abi::arch_x86::cr3_to_mfn;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};
use hypercall_abi::xen::*;

use super::{
    PREEMPTED, begin, flush_bitmap, flush_domain, frame_owner, hold_tables, require_control, settle,
};
use crate::current::Current;
use crate::descriptor;
use crate::hypercall::{Args, HypercallResult, begin_clock, should_preempt};
use crate::hypervisor::Hypervisor;
use crate::memory::{FrameType, Level};

/// `HYPERVISOR_mmuext_op(operations, count, done, foreigndom)`.
///
/// # Errors
/// `EFAULT`, `ESRCH`, `EPERM`, `EINVAL`, `EBUSY` where a table names a frame that is in use as something else, `EACCES`
/// for a flush of the caches without devices (`EINVAL` if it is to be all CPUs'), `EOPNOTSUPP` for superpages, `ENOSYS`
/// for an unknown operation. Operations before the failing one are carried out.
pub fn do_mmuext_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let [operations, raw_count, done_at, foreign, ..] = *args;
    let (count, done) = begin(cx, operations, raw_count, done_at)?;
    let owner = frame_owner(cx, Domid(foreign as u16))?;
    require_control(cx, owner)?;
    let _hold = hold_tables(cx, owner);
    let mut index = 0;
    let again = |cx: &Current<'_>, index| {
        let at = operations.wrapping_add(index * size_of::<MmuextOp>() as u64);
        let at = if index < count { at } else { operations };
        Err(cx.again([at, (count - index) | PREEMPTED, done_at, foreign, 0, 0]))
    };
    let result = loop {
        // What an operation let go of may be wanted by the next as something else.
        if !settle(cx, owner) || index > 0 && index < count && should_preempt(cx) {
            break again(cx, index);
        }
        if index >= count {
            break Ok(0);
        }
        let outcome = cx
            .read_element::<MmuextOp>(operations, index)
            .and_then(|op| apply(cx, owner, &op));
        match outcome {
            Ok(()) => {}
            Err(Errno::ERESTART) => break again(cx, index),
            Err(errno) => {
                settle(cx, owner);
                break Err(errno.into());
            }
        }
        index += 1;
    };
    if done_at != 0 {
        // The caller's loss if it cannot be written: what was done is done.
        let _ = cx.write(done_at, &done.wrapping_add(index as u32));
    }
    result
}

/// Carries out one operation.
#[inline]
fn apply(cx: &mut Current<'_>, owner: Domid, op: &MmuextOp) -> Result<(), Errno> {
    let own = owner == cx.domain.id;
    match op.cmd {
        MMUEXT_NEW_BASEPTR if own => new_kernel_root(cx, Mfn(op.arg1)),
        MMUEXT_TLB_FLUSH_LOCAL if own => {
            cx.machine().flush_tlb();
            Ok(())
        }
        MMUEXT_INVLPG_LOCAL if own => {
            if is_guest_range(op.arg1, 1) {
                cx.machine().flush_tlb_page(op.arg1);
            }
            Ok(())
        }
        _ => apply_other(cx, owner, op),
    }
}

/// Carries out one that is less frequent, or refused.
#[inline(never)]
fn apply_other(cx: &mut Current<'_>, owner: Domid, op: &MmuextOp) -> Result<(), Errno> {
    let own = owner == cx.domain.id;
    let require_own = || if own { Ok(()) } else { Err(Errno::EPERM) };
    let memory = &cx.hv.memory;
    let mfn = Mfn(op.arg1);
    let pin = |level| {
        begin_clock(cx);
        memory.pin(mfn, owner, level, &mut || should_preempt(cx))
    };
    match op.cmd {
        MMUEXT_PIN_L1_TABLE => pin(Level::L1),
        MMUEXT_PIN_L2_TABLE => pin(Level::L2),
        MMUEXT_PIN_L3_TABLE => pin(Level::L3),
        MMUEXT_PIN_L4_TABLE => pin(Level::L4),
        MMUEXT_UNPIN_TABLE => {
            let _frame = memory.get(mfn, owner).ok_or(Errno::EINVAL)?;
            if memory.unpin(mfn) {
                Ok(())
            } else {
                Err(Errno::EINVAL)
            }
        }
        // Its own are seen to.
        MMUEXT_NEW_BASEPTR | MMUEXT_TLB_FLUSH_LOCAL | MMUEXT_INVLPG_LOCAL => Err(Errno::EPERM),
        MMUEXT_NEW_USER_BASEPTR => {
            require_own()?;
            new_user_root(cx, mfn)
        }
        MMUEXT_TLB_FLUSH_MULTI | MMUEXT_INVLPG_MULTI => {
            require_own()?;
            flush_bitmap(cx, op.arg2).map_err(|_| Errno::EINVAL)
        }
        MMUEXT_TLB_FLUSH_ALL | MMUEXT_INVLPG_ALL => {
            require_own()?;
            flush_domain(cx.hv, cx.domain);
            Ok(())
        }
        MMUEXT_FLUSH_CACHE => {
            require_own()?;
            flush_caches(cx, Errno::EACCES)
        }
        MMUEXT_FLUSH_CACHE_GLOBAL => {
            require_own()?;
            flush_caches(cx, Errno::EINVAL)
        }
        MMUEXT_SET_LDT => {
            require_own()?;
            descriptor::set_ldt(cx, op.arg1, op.nr_ents())
        }
        MMUEXT_CLEAR_PAGE => {
            let page = memory.get_typed(mfn, owner, FrameType::Writable)?;
            cx.machine().zero_frame(page.mfn());
            Ok(())
        }
        MMUEXT_COPY_PAGE => {
            let source = memory.get(Mfn(op.arg2), owner).ok_or(Errno::EINVAL)?;
            let page = memory.get_typed(mfn, owner, FrameType::Writable)?;
            cx.machine().copy_frame(page.mfn(), source.mfn());
            Ok(())
        }
        MMUEXT_MARK_SUPER | MMUEXT_UNMARK_SUPER => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOSYS),
    }
}

/// `mov` to CR3 by the guest's kernel: as `MMUEXT_NEW_BASEPTR`.
///
/// # Errors
/// `EINVAL` where it names no frame of the domain that can be an L4 table, `ERESTART` where the time was up before it
/// was one.
pub fn write_cr3(cx: &mut Current<'_>, value: u64) -> Result<(), Errno> {
    new_kernel_root(cx, cr3_to_mfn(value))
}

#[inline(never)]
fn new_kernel_root(cx: &mut Current<'_>, mfn: Mfn) -> Result<(), Errno> {
    if cx.state.kernel_root != Some(mfn) {
        let memory = &cx.hv.memory;
        let root = match memory.get_valid(mfn, cx.domain.id, Level::L4) {
            Some(root) => root,
            None => {
                begin_clock(cx);
                memory.get_table(mfn, cx.domain.id, Level::L4, &mut || should_preempt(cx))?
            }
        };
        // It may have been a user root, which has no machine-to-phys table.
        cx.machine().store_u64(
            mfn,
            FIRST_HYPERVISOR_SLOT,
            cx.machine().hypervisor_slots()[0],
        );
        let new = root.into_bits();
        // The pages of the LDT were found by the old tables.
        descriptor::forget_ldt(cx);
        let old = cx.state.kernel_root.replace(new);
        cx.machine().load_root(mfn);
        // Only now that the processor has left the old root may it be taken apart.
        drop(old.map(|old| cx.hv.memory.adopt_typed(old, FrameType::Table(Level::L4))));
    } else {
        cx.machine().load_root(mfn);
    }
    Ok(())
}

fn new_user_root(cx: &mut Current<'_>, mfn: Mfn) -> Result<(), Errno> {
    begin_clock(cx);
    let new = match mfn.0 {
        0 => None,
        _ if cx.state.user_root == Some(mfn) => return Ok(()),
        _ => Some(
            cx.hv
                .memory
                .get_table(mfn, cx.domain.id, Level::L4, &mut || should_preempt(cx))?
                .into_bits(),
        ),
    };
    if let Some(root) = new {
        hide_m2p(cx.hv, root);
    }
    let old = core::mem::replace(&mut cx.state.user_root, new);
    drop(old.map(|old| cx.hv.memory.adopt_typed(old, FrameType::Table(Level::L4))));
    Ok(())
}

/// Takes the machine-to-phys table out of a user root: user mode is not to see it.
pub(crate) fn hide_m2p(hv: &Hypervisor, root: Mfn) {
    hv.machine.store_u64(root, FIRST_HYPERVISOR_SLOT, 0);
}

/// Who has no devices need not flush caches, which is slow for everybody: it gets `refusal`.
fn flush_caches(cx: &Current<'_>, refusal: Errno) -> Result<(), Errno> {
    if !cx.domain.may_flush_caches() {
        return Err(refusal);
    }
    cx.machine().flush_caches();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle;
    use crate::memory::Pte;
    use crate::testing::{DOM0, DOMU, Host, RO, RW, SCRATCH, UNMAPPED};

    const SELF: u64 = Domid::SELF.0 as u64;

    fn errno(errno: Errno) -> i64 {
        errno.to_return()
    }

    fn operate(host: &Host, id: Domid, cmd: u32, arg1: u64, arg2: u64, foreign: u64) -> i64 {
        let op = host.put(
            id,
            &MmuextOp {
                cmd,
                _pad0: 0,
                arg1,
                arg2,
            },
        );
        host.hypercall(id, HYPERVISOR_MMUEXT_OP, &[op, 1, 0, foreign])
    }

    /// Unmaps scratch page `page` of a domain, so that its frame may get another type; gives the frame.
    fn unmapped_frame(host: &Host, id: Domid, page: usize) -> Mfn {
        let va = SCRATCH + page as u64 * 4096;
        assert_eq!(
            host.hypercall(id, HYPERVISOR_UPDATE_VA_MAPPING, &[va, 0, UVMF_INVLPG]),
            0
        );
        host.layout(id).scratch[page]
    }

    #[test]
    fn a_pin_keeps_a_table_and_is_taken_away_once() {
        let host = Host::new();
        let table = unmapped_frame(&host, DOMU, 20);
        assert_eq!(
            operate(&host, DOMU, MMUEXT_PIN_L2_TABLE, table.0, 0, SELF),
            0
        );
        assert_eq!(
            host.hv.memory.type_in_use(table),
            FrameType::Table(Level::L2)
        );
        assert_eq!(
            operate(&host, DOMU, MMUEXT_PIN_L2_TABLE, table.0, 0, SELF),
            errno(Errno::EINVAL)
        );
        assert_eq!(
            operate(&host, DOMU, MMUEXT_PIN_L1_TABLE, table.0, 0, SELF),
            errno(Errno::EINVAL)
        );
        assert_eq!(
            operate(&host, DOMU, MMUEXT_UNPIN_TABLE, table.0, 0, SELF),
            0
        );
        assert_eq!(host.hv.memory.type_in_use(table), FrameType::None);
        assert_eq!(
            operate(&host, DOMU, MMUEXT_UNPIN_TABLE, table.0, 0, SELF),
            errno(Errno::EINVAL)
        );
    }

    #[test]
    fn nothing_of_a_dying_domain_is_pinned() {
        let host = Host::new();
        let domain = host.domain(DOMU);
        let held = host.hv.memory.get(host.layout(DOMU).scratch[20], DOMU);
        assert!(lifecycle::destroy(&host.hv, &domain, &mut || false));
        let (mfn, domu) = (host.layout(DOMU).scratch[20].0, DOMU.0.into());
        assert_eq!(
            operate(&host, DOM0, MMUEXT_PIN_L2_TABLE, mfn, 0, domu),
            errno(Errno::EINVAL)
        );
        drop(held);
        lifecycle::reap(&host.hv);
        assert!(host.hv.domain(DOMU).is_err());
    }

    #[test]
    fn a_failed_pin_leaves_no_counts() {
        let host = Host::new();
        let table = unmapped_frame(&host, DOMU, 20);
        let good = host.layout(DOMU).scratch[3];
        host.hv.machine.store_u64(table, 0, Pte::new(good, RO).0);
        host.hv
            .machine
            .store_u64(table, 1, Pte::new(host.layout(DOM0).scratch[0], RO).0);
        let before = host.hv.memory.state(good);
        assert_eq!(
            operate(&host, DOMU, MMUEXT_PIN_L1_TABLE, table.0, 0, SELF),
            errno(Errno::EBUSY)
        );
        assert_eq!(host.hv.memory.state(good), before);
        assert_eq!(
            host.hv
                .memory
                .state(table)
                .map(|state| (state.references, state.types)),
            Some((1, 0))
        );
    }

    #[test]
    fn a_page_that_is_mapped_writable_cannot_be_pinned() {
        let host = Host::new();
        let page = host.layout(DOMU).scratch[20];
        for command in [
            MMUEXT_PIN_L1_TABLE,
            MMUEXT_PIN_L2_TABLE,
            MMUEXT_PIN_L3_TABLE,
            MMUEXT_PIN_L4_TABLE,
        ] {
            assert_eq!(
                operate(&host, DOMU, command, page.0, 0, SELF),
                errno(Errno::EINVAL)
            );
        }
        let shared = host.domain(DOMU).shared_info;
        assert_eq!(
            operate(&host, DOMU, MMUEXT_PIN_L1_TABLE, shared.0, 0, SELF),
            errno(Errno::EINVAL)
        );
    }

    #[test]
    fn roots_change_and_the_old_one_is_let_go() {
        let host = Host::new();
        let [old, l3, ..] = host.layout(DOMU).tables;
        let new = unmapped_frame(&host, DOMU, 20);
        host.hv
            .machine
            .store_u64(new, Level::L4.index(SCRATCH), Pte::new(l3, RW).0);
        assert_eq!(
            operate(&host, DOMU, MMUEXT_NEW_USER_BASEPTR, new.0, 0, SELF),
            0
        );
        assert_eq!(operate(&host, DOMU, MMUEXT_NEW_BASEPTR, new.0, 0, SELF), 0);
        assert_eq!(host.hv.machine.current_root(), new);
        let m2p = || host.hv.machine.load_u64(new, FIRST_HYPERVISOR_SLOT);
        assert_ne!(m2p(), 0, "the kernel sees the machine-to-phys table");
        assert_eq!(operate(&host, DOMU, MMUEXT_NEW_USER_BASEPTR, 0, 0, SELF), 0);
        assert_eq!(
            operate(&host, DOMU, MMUEXT_NEW_USER_BASEPTR, new.0, 0, SELF),
            0
        );
        assert_eq!(m2p(), 0, "user mode does not");
        assert_eq!(host.hv.memory.state(new).map(|state| state.types), Some(2));
        assert_eq!(host.hv.memory.type_in_use(old), FrameType::None);
        assert_eq!(operate(&host, DOMU, MMUEXT_NEW_USER_BASEPTR, 0, 0, SELF), 0);
        assert_eq!(host.hv.memory.state(new).map(|state| state.types), Some(1));
        assert_eq!(
            operate(&host, DOMU, MMUEXT_NEW_BASEPTR, l3.0, 0, SELF),
            errno(Errno::EINVAL)
        );
        assert_eq!(host.hv.machine.current_root(), new);
    }

    #[test]
    fn pages_are_cleared_and_copied_unless_they_are_tables() {
        let host = Host::new();
        let layout = host.layout(DOMU);
        let (from, to) = (layout.scratch[10], layout.scratch[11]);
        host.put_at(DOMU, SCRATCH + 10 * 4096, &99_u64);
        assert_eq!(
            operate(&host, DOMU, MMUEXT_COPY_PAGE, to.0, from.0, SELF),
            0
        );
        assert_eq!(host.get::<u64>(DOMU, SCRATCH + 11 * 4096), 99);
        assert_eq!(operate(&host, DOMU, MMUEXT_CLEAR_PAGE, to.0, 0, SELF), 0);
        assert_eq!(host.get::<u64>(DOMU, SCRATCH + 11 * 4096), 0);
        let table = layout.tables[3];
        assert_eq!(
            operate(&host, DOMU, MMUEXT_CLEAR_PAGE, table.0, 0, SELF),
            errno(Errno::EINVAL)
        );
        assert_eq!(
            operate(&host, DOMU, MMUEXT_COPY_PAGE, table.0, from.0, SELF),
            errno(Errno::EINVAL)
        );
    }

    #[test]
    fn the_ldt_is_bounded() {
        let host = Host::new();
        assert_eq!(operate(&host, DOMU, MMUEXT_SET_LDT, SCRATCH, 8192, SELF), 0);
        assert_eq!(host.hv.machine.cpu(0).ldt_entries, 8192);
        assert_eq!(
            operate(&host, DOMU, MMUEXT_SET_LDT, SCRATCH, 8193, SELF),
            errno(Errno::EINVAL)
        );
        assert_eq!(
            operate(&host, DOMU, MMUEXT_SET_LDT, SCRATCH + 8, 1, SELF),
            errno(Errno::EINVAL)
        );
        let end = hv_machine::HYPERVISOR_VIRT_START;
        assert_eq!(
            operate(&host, DOMU, MMUEXT_SET_LDT, end, 1, SELF),
            errno(Errno::EINVAL)
        );
        assert_eq!(operate(&host, DOMU, MMUEXT_SET_LDT, 0, 0, SELF), 0);
    }

    #[test]
    fn strangers_and_unknown_operations_are_turned_away() {
        let host = Host::new();
        let theirs = host.layout(DOM0).scratch[0];
        assert_eq!(
            operate(&host, DOMU, MMUEXT_PIN_L1_TABLE, theirs.0, 0, 0),
            errno(Errno::EPERM)
        );
        assert_eq!(
            operate(&host, DOM0, MMUEXT_NEW_BASEPTR, theirs.0, 0, 1),
            errno(Errno::EPERM)
        );
        assert_eq!(
            operate(&host, DOM0, MMUEXT_PIN_L1_TABLE, theirs.0, 0, 55),
            errno(Errno::ESRCH)
        );
        assert_eq!(
            operate(&host, DOMU, MMUEXT_MARK_SUPER, 0, 0, SELF),
            errno(Errno::EOPNOTSUPP)
        );
        assert_eq!(operate(&host, DOMU, 14, 0, 0, SELF), errno(Errno::ENOSYS));
        assert_eq!(operate(&host, DOMU, 999, 0, 0, SELF), errno(Errno::ENOSYS));
        assert_eq!(
            operate(&host, DOMU, MMUEXT_FLUSH_CACHE, 0, 0, SELF),
            errno(Errno::EACCES)
        );
        assert_eq!(
            operate(&host, DOMU, MMUEXT_TLB_FLUSH_MULTI, 0, UNMAPPED, SELF),
            errno(Errno::EINVAL)
        );
        assert_eq!(
            host.hypercall(DOMU, HYPERVISOR_MMUEXT_OP, &[UNMAPPED, 1, 0, SELF]),
            errno(Errno::EFAULT)
        );
    }
}
