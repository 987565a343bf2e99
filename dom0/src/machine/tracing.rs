//! Tracing as the hypervisor does it.

use dom0::trace::{TraceInfo, Tracing};
use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::*;
use hypercall_abi::types::{Domid, Mfn};
use pv_guest::memory::{Access, Mapping};

use super::hypervisor::{GuestFrames, Hypervisor, errno};
use super::scheduling::sysctl;

fn operate(cmd: u32, size: u32, evt_mask: u32) -> Result<SysctlTbufOp, Errno> {
    let arm = SysctlTbufOp {
        cmd,
        size,
        evt_mask,
        ..Default::default()
    };
    let mut op = Sysctl::with(XEN_SYSCTL_TBUF_OP, &arm);
    sysctl(&mut op)?;
    Ok(op.u.get())
}

impl Tracing for Hypervisor {
    type TracePages = GuestFrames;

    fn make_trace_buffers(&mut self, pages: u32) -> Result<(), Errno> {
        operate(XEN_SYSCTL_TBUFOP_SET_SIZE, pages, 0).map(drop)
    }

    fn trace_info(&mut self) -> Result<TraceInfo, Errno> {
        let info = operate(XEN_SYSCTL_TBUFOP_GET_INFO, 0, 0)?;
        Ok(TraceInfo {
            frame: Mfn(info.buffer_mfn),
            size: info.size as usize,
        })
    }

    fn map_trace(&mut self, frames: &[Mfn], writable: bool) -> Result<GuestFrames, Errno> {
        let access = match writable {
            true => Access::ReadWrite,
            false => Access::ReadOnly,
        };
        Mapping::foreign(Domid::XEN, frames, access)
            .map(GuestFrames)
            .map_err(errno)
    }

    fn set_traced_events(&mut self, events: u32) -> Result<(), Errno> {
        operate(XEN_SYSCTL_TBUFOP_SET_EVT_MASK, 0, events).map(drop)
    }

    fn set_tracing(&mut self, on: bool) -> Result<(), Errno> {
        let cmd = match on {
            true => XEN_SYSCTL_TBUFOP_ENABLE,
            false => XEN_SYSCTL_TBUFOP_DISABLE,
        };
        operate(cmd, 0, 0).map(drop)
    }
}
