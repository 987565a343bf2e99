//! `HYPERVISOR_vm_assist`: optional behaviours that a guest switches on (`xen/xen.h`, `VMASST_*`).
//!
//! A 64-bit guest may switch on what only means something to 32-bit ones, as it always could.

use core::sync::atomic::Ordering;

use hypercall_abi::errno::Errno;
use hypercall_abi::xen::{
    VMASST_CMD_DISABLE, VMASST_CMD_ENABLE, VMASST_TYPE_4GB_SEGMENTS,
    VMASST_TYPE_4GB_SEGMENTS_NOTIFY, VMASST_TYPE_ARCHITECTURAL_IOPL, VMASST_TYPE_M2P_STRICT,
    VMASST_TYPE_PAE_EXTENDED_CR3, VMASST_TYPE_RUNSTATE_UPDATE_FLAG,
    VMASST_TYPE_WRITABLE_PAGETABLES,
};

use crate::Current;
use crate::hypercall::{Args, HypercallResult};

/// The behaviours that a PV guest may choose, as a bitmap of `VMASST_TYPE_*`
/// (also for `VcpuGuestContext::vm_assist`).
pub const VALID: u64 = 1 << VMASST_TYPE_4GB_SEGMENTS
    | 1 << VMASST_TYPE_4GB_SEGMENTS_NOTIFY
    | 1 << VMASST_TYPE_WRITABLE_PAGETABLES
    | 1 << VMASST_TYPE_PAE_EXTENDED_CR3
    | 1 << VMASST_TYPE_ARCHITECTURAL_IOPL
    | 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG
    | 1 << VMASST_TYPE_M2P_STRICT;

/// `vm_assist(cmd, type)`.
///
/// # Errors
/// `EINVAL` for an unknown type, `ENOSYS` for an unknown command.
pub fn do_vm_assist(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let (command, kind) = (args[0] as u32, args[1] as u32);
    if kind >= u64::BITS || VALID & 1 << kind == 0 {
        return Err(Errno::EINVAL.into());
    }
    match command {
        VMASST_CMD_ENABLE => cx.domain.vm_assist.fetch_or(1 << kind, Ordering::Relaxed),
        VMASST_CMD_DISABLE => cx
            .domain
            .vm_assist
            .fetch_and(!(1 << kind), Ordering::Relaxed),
        _ => return Err(Errno::ENOSYS.into()),
    };
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    use hypercall_abi::xen::HYPERVISOR_VM_ASSIST;

    use crate::testing::{DOMU, Host};

    #[test]
    fn an_assistance_is_on_from_enable_to_disable() {
        let host = Host::new();
        let kind = VMASST_TYPE_RUNSTATE_UPDATE_FLAG;
        let call = |command| host.hypercall(DOMU, HYPERVISOR_VM_ASSIST, &[command, kind.into()]);
        assert_eq!(call(VMASST_CMD_ENABLE.into()), 0);
        assert!(host.domain(DOMU).assisted(kind));
        assert_eq!(call(VMASST_CMD_DISABLE.into()), 0);
        assert!(!host.domain(DOMU).assisted(kind));
    }

    #[test]
    fn unknown_types_and_commands_are_refused() {
        let host = Host::new();
        for (command, kind, errno) in [
            (0, 6, Errno::EINVAL),
            (0, 31, Errno::EINVAL),
            (0, 63, Errno::EINVAL),
            (0, 64, Errno::EINVAL),
            (0, u64::from(u32::MAX), Errno::EINVAL),
            (2, 4, Errno::ENOSYS),
            (u64::from(u32::MAX), 4, Errno::ENOSYS),
        ] {
            let result = host.hypercall(DOMU, HYPERVISOR_VM_ASSIST, &[command, kind]);
            assert_eq!(result, errno.to_return(), "{command} {kind}");
        }
        assert_eq!(host.domain(DOMU).vm_assist.load(Ordering::Relaxed), 0);
    }
}
