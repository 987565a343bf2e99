//! A vCPU's whole state in the ABI's form (`vcpu_guest_context`): taken by `VCPUOP_initialise` and
//! `XEN_DOMCTL_setvcpucontext`, given by `XEN_DOMCTL_getvcpucontext`.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use hv_machine::{GUEST_GDT_FRAMES, Platform};
use hypercall_abi::arch_x86::{
    FIRST_RESERVED_GDT_ENTRY, VGCF_FAILSAFE_DISABLES_EVENTS, VGCF_I387_VALID, VGCF_IN_KERNEL,
    VGCF_ONLINE, VGCF_SYSCALL_DISABLES_EVENTS, VcpuGuestContext,
};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;
use zerocopy::FromZeros;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::lifecycle;
use crate::memory::{FrameType, Level, TypedRef};
use crate::vcpu::{Callbacks, Vcpu, VcpuState};

/// RFLAGS bits that the hypervisor chooses for a guest.
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_IOPL: u64 = 3 << 12;
const RFLAGS_RESERVED_ONE: u64 = 1 << 1;
/// RFLAGS bits that a guest's context may have: arithmetic flags, TF, DF, NT, RF, AC, ID.
const RFLAGS_GUEST: u64 = 0x0025_4dd5;
/// Entries of a full LDT.
const MAX_LDT_ENTRIES: u64 = 8192;

/// Whether an address has the form that the processor demands.
pub fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

/// A selector as a guest may load it: ring 3, as everything of a PV guest.
pub fn ring3_selector(selector: u16) -> u16 {
    if selector & 0xfffc == 0 {
        0
    } else {
        selector | 3
    }
}

/// RFLAGS as they are loaded for a guest that asks for `rflags`.
pub fn guest_rflags(rflags: u64) -> u64 {
    rflags & RFLAGS_GUEST | RFLAGS_IF | RFLAGS_RESERVED_ONE
}

/// Gives a vCPU a context.
///
/// A vCPU that has one already keeps its page tables and descriptor tables; the new context must name the same.
///
/// # Errors
/// `EINVAL` for an address that is not canonical, a table that is none, or too many descriptors; `EOPNOTSUPP`
/// where tables of an initialised vCPU would change; `ERESTART` where `out_of_time` said so before all tables were
/// validated.
pub fn apply(
    hv: &Hypervisor,
    domain: &Domain,
    vcpu: &Vcpu,
    state: &mut VcpuState,
    context: &VcpuGuestContext,
    out_of_time: &mut dyn FnMut() -> bool,
) -> Result<(), Errno> {
    check(vcpu, context)?;
    if state.initialised {
        check_unchanged(state, context)?;
    } else {
        if context.flags & VGCF_IN_KERNEL == 0 && context.ctrlreg[1] == 0 {
            return Err(Errno::EINVAL);
        }
        let gdt = descriptor_frames(hv, domain, context)?;
        let kernel = Mfn(context.ctrlreg[3] >> 12);
        let user = Some(Mfn(context.ctrlreg[1] >> 12)).filter(|_| context.ctrlreg[1] != 0);
        let taken = take_root(
            hv,
            domain,
            &mut state.kernel_root,
            Some(kernel),
            out_of_time,
        )
        .and_then(|()| take_root(hv, domain, &mut state.user_root, user, out_of_time));
        if let Err(errno) = taken {
            if errno != Errno::ERESTART {
                lifecycle::release_tables(hv, state);
            }
            return Err(errno);
        }
        state.gdt = gdt.into_iter().map(TypedRef::into_bits).collect();
        state.gdt_entries = context.gdt_ents as u32;
        state.ldt_base = context.ldt_base;
        state.ldt_entries = context.ldt_ents as u32;
        if let Some(root) = state.user_root {
            crate::mmu::hide_m2p(hv, root);
        }
        if vcpu.id == 0 {
            domain.vm_assist.store(context.vm_assist, Ordering::Relaxed);
            crate::time::publish_wall_clock(hv, domain);
        }
        state.initialised = true;
    }
    // Which debug registers a guest may have depends on it.
    state.cr4 = crate::cpuid::guest_cr4(hv, domain, context.ctrlreg[4]);
    set_registers(state, context);
    vcpu.down
        .store(context.flags & VGCF_ONLINE == 0, Ordering::Release);
    Ok(())
}

fn check(vcpu: &Vcpu, context: &VcpuGuestContext) -> Result<(), Errno> {
    let regs = &context.user_regs;
    let addresses = [
        regs.rip,
        regs.rsp,
        context.kernel_sp,
        context.ldt_base,
        context.fs_base,
        context.gs_base_kernel,
        context.gs_base_user,
        context.event_callback_eip,
        context.syscall_callback_eip,
        context.failsafe_callback_eip,
    ];
    let traps = context.trap_ctxt.iter().map(|trap| trap.address);
    if !addresses.into_iter().chain(traps).all(is_canonical) {
        return Err(Errno::EINVAL);
    }
    let ldt_reachable = hv_machine::is_guest_range(context.ldt_base, 1);
    if context.ldt_base & 0xfff != 0 || !ldt_reachable || context.ldt_ents > MAX_LDT_ENTRIES {
        return Err(Errno::EINVAL);
    }
    if context.gdt_ents > FIRST_RESERVED_GDT_ENTRY as u64 {
        return Err(Errno::EINVAL);
    }
    if vcpu.id == 0 && context.vm_assist & !crate::vm_assist::VALID != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn check_unchanged(state: &VcpuState, context: &VcpuGuestContext) -> Result<(), Errno> {
    let cr3 = |root: Option<Mfn>| root.map_or(0, |mfn| mfn.0 << 12);
    let frames = &context.gdt_frames[..state.gdt.len().min(GUEST_GDT_FRAMES)];
    let same = cr3(state.kernel_root) == context.ctrlreg[3]
        && cr3(state.user_root) == context.ctrlreg[1]
        && (state.user_root.is_some() || context.flags & VGCF_IN_KERNEL != 0)
        && u64::from(state.gdt_entries) == context.gdt_ents
        && frames == state.gdt.as_slice()
        && u64::from(state.ldt_entries) == context.ldt_ents
        && (state.ldt_entries == 0 || state.ldt_base == context.ldt_base);
    if same { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

fn descriptor_frames<'h>(
    hv: &'h Hypervisor,
    domain: &Domain,
    context: &VcpuGuestContext,
) -> Result<Vec<TypedRef<'h>>, Errno> {
    let count = (context.gdt_ents as usize).div_ceil(512);
    let frames = context.gdt_frames.iter().take(count);
    frames
        .map(|&mfn| hv.memory.get_typed(mfn, domain.id, FrameType::Descriptors))
        .collect()
}

/// Makes a root table that of a vCPU which never ran. One that it has already from a call that was not finished stays.
fn take_root(
    hv: &Hypervisor,
    domain: &Domain,
    slot: &mut Option<Mfn>,
    root: Option<Mfn>,
    out_of_time: &mut dyn FnMut() -> bool,
) -> Result<(), Errno> {
    if *slot == root {
        return Ok(());
    }
    let new = match root {
        Some(mfn) => {
            let table = hv
                .memory
                .get_table(mfn, domain.id, Level::L4, out_of_time)?;
            Some(table.into_bits())
        }
        None => None,
    };
    let old = core::mem::replace(slot, new);
    drop(old.map(|old| hv.memory.adopt_typed(old, FrameType::Table(Level::L4))));
    Ok(())
}

fn set_registers(state: &mut VcpuState, context: &VcpuGuestContext) {
    state.kernel_mode = context.flags & VGCF_IN_KERNEL != 0;
    state.fpu.reset();
    if context.flags & VGCF_I387_VALID != 0 {
        state.fpu.set_legacy(&context.fpu_ctxt);
    }
    let regs = &mut state.context.regs;
    *regs = context.user_regs;
    state.iopl = ((regs.rflags & RFLAGS_IOPL) >> 12) as u32;
    regs.rflags = guest_rflags(regs.rflags);
    regs.cs = ring3_selector(regs.cs);
    regs.ss = ring3_selector(regs.ss);
    *state.traps = context.trap_ctxt;
    for trap in state.traps.iter_mut() {
        trap.cs = ring3_selector(trap.cs);
    }
    state.kernel_sp = context.kernel_sp;
    state.kernel_ss = ring3_selector(context.kernel_ss as u16);
    state.callbacks = Callbacks {
        event: context.event_callback_eip,
        failsafe: context.failsafe_callback_eip,
        failsafe_masks_events: context.flags & VGCF_FAILSAFE_DISABLES_EVENTS != 0,
        syscall: context.syscall_callback_eip,
        syscall_masks_events: context.flags & VGCF_SYSCALL_DISABLES_EVENTS != 0,
        ..Callbacks::default()
    };
    let (gs_base, gs_base_shadow) = if state.kernel_mode {
        (context.gs_base_kernel, context.gs_base_user)
    } else {
        (context.gs_base_user, context.gs_base_kernel)
    };
    state.segments = hv_machine::Segments {
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
        fs_base: context.fs_base,
        gs_base,
        gs_base_shadow,
    };
    state.task_switched = context.ctrlreg[0] & CR0_TS != 0;
    crate::debugreg::load_all(state, &context.debugreg);
}

/// CR0.TS.
const CR0_TS: u64 = 1 << 3;

/// The context of a vCPU that does not run.
///
/// # Errors
/// `ENOMEM`.
pub fn read(
    hv: &Hypervisor,
    domain: &Domain,
    vcpu: &Vcpu,
    state: &VcpuState,
) -> Result<Box<VcpuGuestContext>, Errno> {
    let mut context = VcpuGuestContext::new_box_zeroed().map_err(|_| Errno::ENOMEM)?;
    context.fpu_ctxt.copy_from_slice(state.fpu.legacy());
    context.flags = VGCF_I387_VALID;
    let online = !vcpu.down.load(Ordering::Acquire);
    for (flag, on) in [
        (VGCF_IN_KERNEL, state.kernel_mode),
        (
            VGCF_FAILSAFE_DISABLES_EVENTS,
            state.callbacks.failsafe_masks_events,
        ),
        (
            VGCF_SYSCALL_DISABLES_EVENTS,
            state.callbacks.syscall_masks_events,
        ),
        (VGCF_ONLINE, online),
    ] {
        context.flags |= if on { flag } else { 0 };
    }
    let segments = &state.segments;
    let regs = &mut context.user_regs;
    *regs = state.context.regs;
    regs.rflags = regs.rflags & !RFLAGS_IOPL | u64::from(state.iopl) << 12;
    (regs.ds, regs.es, regs.fs, regs.gs) = (segments.ds, segments.es, segments.fs, segments.gs);
    context.trap_ctxt = *state.traps;
    context.ldt_base = state.ldt_base;
    context.ldt_ents = u64::from(state.ldt_entries);
    for (slot, &mfn) in context.gdt_frames.iter_mut().zip(&state.gdt) {
        *slot = mfn;
    }
    context.gdt_ents = u64::from(state.gdt_entries);
    context.kernel_ss = u64::from(state.kernel_ss);
    context.kernel_sp = state.kernel_sp;
    let (cr0, _) = hv.machine.control_registers();
    context.ctrlreg[0] = cr0 & !CR0_TS | if state.task_switched { CR0_TS } else { 0 };
    context.ctrlreg[1] = state.user_root.map_or(0, |mfn| mfn.0 << 12);
    context.ctrlreg[3] = state.kernel_root.map_or(0, |mfn| mfn.0 << 12);
    context.ctrlreg[4] = state.cr4;
    context.debugreg = state.debug;
    context.debugreg[7] |= state.io_breakpoints;
    context.event_callback_eip = state.callbacks.event;
    context.failsafe_callback_eip = state.callbacks.failsafe;
    context.syscall_callback_eip = state.callbacks.syscall;
    context.vm_assist = domain.vm_assist.load(Ordering::Relaxed);
    context.fs_base = segments.fs_base;
    (context.gs_base_kernel, context.gs_base_user) = if state.kernel_mode {
        (segments.gs_base, segments.gs_base_shadow)
    } else {
        (segments.gs_base_shadow, segments.gs_base)
    };
    Ok(context)
}
