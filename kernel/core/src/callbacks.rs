//! Where a guest wants to be entered: `HYPERVISOR_set_trap_table`, `set_callbacks`, `callback_op` and `nmi_op`
//! (`xen/callback.h`, `xen/nmi.h`, `struct trap_info` of `arch-x86/xen.h`).
//!
//! An entry point is kept only if it is canonical: the processor would fault in the hypervisor on a return to any
//! other.

use core::mem::offset_of;

use hv_machine::Platform;
use hypercall_abi::arch_x86::{ArchSharedInfo, FLAT_KERNEL_CS, TrapInfo};
use hypercall_abi::callback::{
    CALLBACKF_MASK_EVENTS, CALLBACKOP_REGISTER, CALLBACKOP_UNREGISTER, CALLBACKTYPE_EVENT,
    CALLBACKTYPE_FAILSAFE, CALLBACKTYPE_NMI, CALLBACKTYPE_SYSCALL, CALLBACKTYPE_SYSCALL32,
    CALLBACKTYPE_SYSENTER, CallbackRegister, CallbackUnregister,
};
use hypercall_abi::errno::Errno;
use hypercall_abi::nmi::{XENNMI_REGISTER_CALLBACK, XENNMI_UNREGISTER_CALLBACK, XennmiCallback};
use hypercall_abi::xen::SharedInfo;

use crate::Current;
use crate::hypercall::{Args, HypercallResult};
use crate::traps::{is_canonical, vector};

/// `set_trap_table(traps)`: entries up to one whose address is 0 replace those of their vectors; no table at all
/// clears every entry.
///
/// # Errors
/// `EFAULT`, and `EINVAL` for an address that is not canonical; earlier entries then stand.
pub fn do_set_trap_table(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let mut table = args[0];
    if table == 0 {
        cx.state.traps.fill(TrapInfo::default());
        return Ok(0);
    }
    loop {
        let mut entry: TrapInfo = cx.read(table)?;
        if entry.address == 0 {
            return Ok(0);
        }
        if !is_canonical(entry.address) {
            return Err(Errno::EINVAL.into());
        }
        entry.cs |= 3;
        if let Some(slot) = cx.state.traps.get_mut(usize::from(entry.vector)) {
            *slot = entry;
        }
        table = table.wrapping_add(size_of::<TrapInfo>() as u64);
        if crate::hypercall::should_preempt(cx) {
            return Err(cx.again([table, 0, 0, 0, 0, 0]));
        }
    }
}

/// `set_callbacks(event, failsafe, syscall)`: the three at once, none of them masking events. An address that is
/// not canonical is passed over.
pub fn do_set_callbacks(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let types = [
        CALLBACKTYPE_EVENT,
        CALLBACKTYPE_FAILSAFE,
        CALLBACKTYPE_SYSCALL,
    ];
    for (type_, &address) in types.into_iter().zip(args) {
        let callback = CallbackRegister {
            type_,
            address,
            ..Default::default()
        };
        // The call has no way to refuse one of three: the entry it had stays.
        let _ = register(cx, &callback);
    }
    Ok(0)
}

/// `callback_op(cmd, arg)`.
///
/// # Errors
/// `EFAULT`; `EINVAL` for an address that is not canonical, or for taking away what cannot be; `ENOSYS` for an
/// unknown command or type.
pub fn do_callback_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    match args[0] as u32 {
        CALLBACKOP_REGISTER => {
            let callback: CallbackRegister = cx.read(args[1])?;
            register(cx, &callback)?;
        }
        CALLBACKOP_UNREGISTER => {
            let callback: CallbackUnregister = cx.read(args[1])?;
            match callback.type_ {
                CALLBACKTYPE_EVENT
                | CALLBACKTYPE_FAILSAFE
                | CALLBACKTYPE_SYSCALL
                | CALLBACKTYPE_SYSCALL32
                | CALLBACKTYPE_SYSENTER => return Err(Errno::EINVAL.into()),
                CALLBACKTYPE_NMI => unregister_nmi(cx),
                _ => return Err(Errno::ENOSYS.into()),
            }
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// `nmi_op(cmd, arg)`, for the calling vCPU.
///
/// # Errors
/// `EFAULT`, `EINVAL` for an address that is not canonical, `ENOSYS` for an unknown command.
pub fn do_nmi_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    match args[0] as u32 {
        XENNMI_REGISTER_CALLBACK => {
            let callback: XennmiCallback = cx.read(args[1])?;
            if !is_canonical(callback.handler_address) {
                return Err(Errno::EINVAL.into());
            }
            register_nmi(cx, callback.handler_address);
        }
        XENNMI_UNREGISTER_CALLBACK => unregister_nmi(cx),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

fn register(cx: &mut Current<'_>, callback: &CallbackRegister) -> Result<(), Errno> {
    let address = callback.address;
    if !is_canonical(address) {
        return Err(Errno::EINVAL);
    }
    let masks_events = callback.flags & CALLBACKF_MASK_EVENTS != 0;
    let callbacks = &mut cx.state.callbacks;
    match callback.type_ {
        CALLBACKTYPE_EVENT => callbacks.event = address,
        CALLBACKTYPE_FAILSAFE => {
            callbacks.failsafe = address;
            callbacks.failsafe_masks_events = masks_events;
        }
        CALLBACKTYPE_SYSCALL => {
            callbacks.syscall = address;
            callbacks.syscall_masks_events = masks_events;
        }
        CALLBACKTYPE_SYSCALL32 => {
            callbacks.syscall32 = address;
            callbacks.syscall32_masks_events = masks_events;
        }
        CALLBACKTYPE_SYSENTER => {
            callbacks.sysenter = address;
            callbacks.sysenter_masks_events = masks_events;
        }
        CALLBACKTYPE_NMI => register_nmi(cx, address),
        _ => return Err(Errno::ENOSYS),
    }
    Ok(())
}

/// The NMI handler is the trap table's entry for vector 2, always entered with events masked.
fn register_nmi(cx: &mut Current<'_>, address: u64) {
    if let Some(slot) = cx.state.traps.get_mut(usize::from(vector::NMI)) {
        *slot = TrapInfo {
            vector: vector::NMI,
            cs: FLAT_KERNEL_CS,
            address,
            ..Default::default()
        }
        .with_masked_events(true);
    }
    // An NMI that came while nobody listened would otherwise be lost.
    if cx.vcpu.id == 0 && nmi_reason(cx) != 0 {
        cx.vcpu
            .nmi_requested
            .store(true, core::sync::atomic::Ordering::Release);
    }
}

fn unregister_nmi(cx: &mut Current<'_>) {
    if let Some(slot) = cx.state.traps.get_mut(usize::from(vector::NMI)) {
        *slot = TrapInfo::default();
    }
}

fn nmi_reason(cx: &Current<'_>) -> u64 {
    let offset = offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, nmi_reason);
    cx.machine().load_u64(cx.domain.shared_info, offset / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    use hypercall_abi::xen::{
        HYPERVISOR_CALLBACK_OP, HYPERVISOR_NMI_OP, HYPERVISOR_SET_CALLBACKS,
        HYPERVISOR_SET_TRAP_TABLE,
    };

    use crate::testing::{DOMU, Host, UNMAPPED};

    const NOT_CANONICAL: u64 = 0x0000_8000_0000_0000;
    const KERNEL: u64 = 0xffff_8880_0000_0000;

    fn trap(vector: u8, address: u64) -> TrapInfo {
        TrapInfo {
            vector,
            flags: 7,
            cs: 0xe030,
            address,
            ..Default::default()
        }
    }

    #[test]
    fn a_trap_table_replaces_the_entries_that_it_has() {
        let host = Host::new();
        let table = [trap(3, KERNEL), trap(255, KERNEL + 8), trap(0, 0)];
        let va = host.put_slice(DOMU, &table);
        assert_eq!(host.hypercall(DOMU, HYPERVISOR_SET_TRAP_TABLE, &[va]), 0);
        let other = host.put_slice(DOMU, &[trap(4, KERNEL + 16), trap(0, 0)]);
        assert_eq!(host.hypercall(DOMU, HYPERVISOR_SET_TRAP_TABLE, &[other]), 0);
        host.as_guest(DOMU, |cx| {
            assert_eq!(cx.state.traps[3].address, KERNEL);
            assert_eq!(cx.state.traps[3].cs, 0xe033, "never less than level 3");
            assert_eq!(cx.state.traps[4].address, KERNEL + 16);
            assert_eq!(cx.state.traps[255].address, KERNEL + 8);
            assert_eq!(cx.state.traps[0].address, 0);
        });
        assert_eq!(host.hypercall(DOMU, HYPERVISOR_SET_TRAP_TABLE, &[0]), 0);
        host.as_guest(DOMU, |cx| {
            assert!(cx.state.traps.iter().all(|trap| trap.address == 0));
        });
    }

    #[test]
    fn a_trap_table_stops_at_what_it_cannot_use() {
        let host = Host::new();
        let table = [trap(3, KERNEL), trap(4, NOT_CANONICAL), trap(5, KERNEL)];
        let va = host.put_slice(DOMU, &table);
        let call = |va| host.hypercall(DOMU, HYPERVISOR_SET_TRAP_TABLE, &[va]);
        assert_eq!(call(va), Errno::EINVAL.to_return());
        assert_eq!(call(UNMAPPED), Errno::EFAULT.to_return());
        assert_eq!(
            call(hv_machine::HYPERVISOR_VIRT_START),
            Errno::EFAULT.to_return()
        );
        host.as_guest(DOMU, |cx| {
            assert_eq!(cx.state.traps[3].address, KERNEL);
            assert_eq!(cx.state.traps[5].address, 0);
        });
    }

    #[test]
    fn set_callbacks_takes_what_it_can() {
        let host = Host::new();
        host.as_guest(DOMU, |cx| cx.state.callbacks.syscall_masks_events = true);
        let args = [KERNEL, NOT_CANONICAL, KERNEL + 2];
        assert_eq!(host.hypercall(DOMU, HYPERVISOR_SET_CALLBACKS, &args), 0);
        host.as_guest(DOMU, |cx| {
            let callbacks = &cx.state.callbacks;
            assert_eq!(callbacks.event, KERNEL);
            assert_eq!(callbacks.failsafe, 0);
            assert_eq!(callbacks.syscall, KERNEL + 2);
            assert!(!callbacks.syscall_masks_events);
        });
    }

    fn register(host: &Host, type_: u16, flags: u16, address: u64) -> i64 {
        let callback = CallbackRegister {
            type_,
            flags,
            address,
            ..Default::default()
        };
        let va = host.put(DOMU, &callback);
        host.hypercall(
            DOMU,
            HYPERVISOR_CALLBACK_OP,
            &[CALLBACKOP_REGISTER.into(), va],
        )
    }

    #[test]
    fn each_callback_is_registered_with_its_mask() {
        let host = Host::new();
        for (type_, address) in [
            (CALLBACKTYPE_EVENT, 1),
            (CALLBACKTYPE_FAILSAFE, 2),
            (CALLBACKTYPE_SYSCALL, 3),
            (CALLBACKTYPE_SYSCALL32, 4),
            (CALLBACKTYPE_SYSENTER, 5),
            (CALLBACKTYPE_NMI, 6),
        ] {
            assert_eq!(register(&host, type_, CALLBACKF_MASK_EVENTS, address), 0);
        }
        host.as_guest(DOMU, |cx| {
            let callbacks = &cx.state.callbacks;
            assert_eq!((callbacks.event, callbacks.failsafe), (1, 2));
            assert_eq!((callbacks.syscall, callbacks.syscall32), (3, 4));
            assert_eq!(callbacks.sysenter, 5);
            assert!(callbacks.failsafe_masks_events && callbacks.syscall_masks_events);
            assert!(callbacks.syscall32_masks_events && callbacks.sysenter_masks_events);
            assert_eq!(cx.state.traps[2].address, 6);
            assert!(cx.state.traps[2].masks_events());
        });
    }

    #[test]
    fn callback_op_refuses_what_it_does_not_know() {
        let host = Host::new();
        let call =
            |command: u32, va| host.hypercall(DOMU, HYPERVISOR_CALLBACK_OP, &[command.into(), va]);
        for type_ in [3, 6, 99, u16::MAX] {
            assert_eq!(register(&host, type_, 0, KERNEL), Errno::ENOSYS.to_return());
        }
        for type_ in [
            CALLBACKTYPE_EVENT,
            CALLBACKTYPE_FAILSAFE,
            CALLBACKTYPE_SYSCALL,
            CALLBACKTYPE_SYSCALL32,
            CALLBACKTYPE_SYSENTER,
            CALLBACKTYPE_NMI,
        ] {
            let refused = register(&host, type_, 0, NOT_CANONICAL);
            assert_eq!(refused, Errno::EINVAL.to_return(), "{type_}");
        }
        assert_eq!(call(0, UNMAPPED), Errno::EFAULT.to_return());
        assert_eq!(call(1, UNMAPPED), Errno::EFAULT.to_return());
        assert_eq!(call(2, UNMAPPED), Errno::ENOSYS.to_return());
        for (type_, errno) in [
            (CALLBACKTYPE_EVENT, Errno::EINVAL),
            (CALLBACKTYPE_FAILSAFE, Errno::EINVAL),
            (CALLBACKTYPE_SYSCALL, Errno::EINVAL),
            (CALLBACKTYPE_SYSCALL32, Errno::EINVAL),
            (CALLBACKTYPE_SYSENTER, Errno::EINVAL),
            (3, Errno::ENOSYS),
            (6, Errno::ENOSYS),
            (u16::MAX, Errno::ENOSYS),
        ] {
            let va = host.put(DOMU, &CallbackUnregister { type_, _unused: 0 });
            assert_eq!(call(1, va), errno.to_return(), "{type_}");
        }
    }

    #[test]
    fn an_nmi_handler_can_be_taken_away() {
        let host = Host::new();
        let call =
            |command: u32, va| host.hypercall(DOMU, HYPERVISOR_NMI_OP, &[command.into(), va]);
        let at = |handler_address| {
            let callback = XennmiCallback {
                handler_address,
                pad: 0,
            };
            host.put(DOMU, &callback)
        };
        assert_eq!(call(0, at(KERNEL)), 0);
        host.as_guest(DOMU, |cx| assert_eq!(cx.state.traps[2].address, KERNEL));
        assert_eq!(call(1, 0), 0);
        host.as_guest(DOMU, |cx| assert_eq!(cx.state.traps[2].address, 0));
        assert_eq!(call(0, at(NOT_CANONICAL)), Errno::EINVAL.to_return());
        assert_eq!(call(0, UNMAPPED), Errno::EFAULT.to_return());
        assert_eq!(call(2, 0), Errno::ENOSYS.to_return());
        let va = host.put(
            DOMU,
            &CallbackUnregister {
                type_: CALLBACKTYPE_NMI,
                _unused: 0,
            },
        );
        assert_eq!(host.hypercall(DOMU, HYPERVISOR_CALLBACK_OP, &[1, va]), 0);
    }

    #[test]
    fn an_nmi_that_nobody_heard_comes_again_when_a_handler_is_registered() {
        let host = Host::new();
        let offset = offset_of!(SharedInfo, arch) + offset_of!(ArchSharedInfo, nmi_reason);
        let shared = host.domain(DOMU).shared_info;
        host.hv.machine.store_u64(shared, offset / 8, 1);
        assert_eq!(register(&host, CALLBACKTYPE_NMI, 0, KERNEL), 0);
        host.as_guest(DOMU, |cx| {
            assert!(
                cx.vcpu
                    .nmi_requested
                    .load(core::sync::atomic::Ordering::Acquire)
            )
        });
    }
}
