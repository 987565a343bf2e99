//! `XEN_SYSCTL_tbuf_op`: the tracer.

use hv_machine::PAGE_SIZE;
use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::*;

use crate::current::Current;
use crate::{bitmap, trace};

/// Tells of the buffers, makes them, or chooses what is traced.
///
/// # Errors
/// `EINVAL` for an unknown command; `EFAULT`; as [`trace::make_buffers`] and [`trace::Tracer::enable`].
pub(super) fn operate(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlTbufOp = op.u.get();
    let tracer = &cx.hv.tracer;
    match arm.cmd {
        XEN_SYSCTL_TBUFOP_GET_INFO => {
            let info = tracer.info();
            arm.evt_mask = tracer.events();
            arm.buffer_mfn = info.map_or(0, |mfn| mfn.0);
            arm.size = info.map_or(0, |_| PAGE_SIZE as u32);
            op.u.set(&arm);
        }
        XEN_SYSCTL_TBUFOP_SET_CPU_MASK => tracer.set_cpus(bitmap::read(cx, &arm.cpu_mask)?),
        XEN_SYSCTL_TBUFOP_SET_EVT_MASK => tracer.set_events(arm.evt_mask),
        XEN_SYSCTL_TBUFOP_SET_SIZE => trace::make_buffers(cx.hv, arm.size)?,
        XEN_SYSCTL_TBUFOP_ENABLE => tracer.enable()?,
        XEN_SYSCTL_TBUFOP_DISABLE => tracer.disable(),
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}
