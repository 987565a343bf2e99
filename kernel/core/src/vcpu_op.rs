//! The hypercall `vcpu_op` (`xen/vcpu.h`): a domain's vCPUs come up and go down, tell their run states
//! and timers, and get places of their own for what the hypervisor writes for them.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hv_machine::{PAGE_SIZE, Platform, is_guest_range};
use hypercall_abi::arch_x86::VcpuGuestContext;
use hypercall_abi::errno::Errno;
use hypercall_abi::sched::SHUTDOWN_POWEROFF;
use hypercall_abi::vcpu::*;
use hypercall_abi::xen::{VcpuInfo, VcpuTimeInfo};
use zerocopy::{FromZeros, IntoBytes};

use crate::hypercall::{Args, HypercallResult, begin_clock, should_preempt};
use crate::memory::FrameType;
use crate::time::{self, MILLISECOND};
use crate::vcpu::InfoPlace;
use crate::{Current, Vcpu, event, lifecycle, runstate, sched, vcpu_context};

/// Longest period that a periodic timer may have (`STIME_DELTA_MAX`).
const MAX_PERIOD: u64 = (1 << 60) - 1;

/// `HYPERVISOR_vcpu_op`: a command, the number of a vCPU of the caller's domain, and the address of the
/// command's struct.
pub fn do_vcpu_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    begin_clock(cx);
    let at = args[2];
    let vcpu = cx.domain.vcpu(args[1] as u32).ok_or(Errno::ENOENT)?;
    let own = Arc::ptr_eq(&vcpu, cx.vcpu_arc);
    match args[0] as u32 {
        VCPUOP_INITIALISE => initialise(cx, &vcpu, at)?,
        VCPUOP_UP => up(cx, &vcpu)?,
        VCPUOP_DOWN => down(cx, &vcpu),
        VCPUOP_IS_UP => return Ok(u64::from(!vcpu.down.load(Ordering::Acquire))),
        VCPUOP_GET_RUNSTATE_INFO => cx.write(at, &runstate::get(cx.hv, &vcpu))?,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA => {
            let area: VcpuRegisterRunstateMemoryArea = cx.read(at)?;
            if !is_guest_range(area.addr, size_of::<VcpuRunstateInfo>() as u64) {
                return Err(Errno::EFAULT.into());
            }
            vcpu.areas.set_runstate(area.addr);
            // Where the area is not there yet, it is written later.
            let _ = cx.write(area.addr, &runstate::get(cx.hv, &vcpu));
        }
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA => {
            let area: VcpuRegisterTimeMemoryArea = cx.read(at)?;
            if !is_guest_range(area.addr, size_of::<VcpuTimeInfo>() as u64) {
                return Err(Errno::EFAULT.into());
            }
            vcpu.areas.set_time(area.addr);
            publish(cx, &vcpu);
        }
        VCPUOP_SET_PERIODIC_TIMER => {
            let op: VcpuSetPeriodicTimer = cx.read(at)?;
            if !(MILLISECOND..=MAX_PERIOD).contains(&op.period_ns) {
                return Err(Errno::EINVAL.into());
            }
            time::set_period(cx.hv, &vcpu, op.period_ns);
        }
        VCPUOP_STOP_PERIODIC_TIMER => time::set_period(cx.hv, &vcpu, 0),
        VCPUOP_SET_SINGLESHOT_TIMER => {
            if !own {
                return Err(Errno::EINVAL.into());
            }
            let op: VcpuSetSingleshotTimer = cx.read(at)?;
            // `VCPU_SSHOTTMR_future` may be ignored, and is: a guest that is refused its timer has no way to
            // get its tick, one that gets it late has.
            let deadline = time::signed_deadline(op.timeout_abs_ns);
            time::set_singleshot(cx.hv, &vcpu, deadline);
        }
        VCPUOP_STOP_SINGLESHOT_TIMER => {
            if !own {
                return Err(Errno::EINVAL.into());
            }
            time::stop_singleshot(cx.hv, &vcpu);
        }
        VCPUOP_REGISTER_VCPU_INFO => {
            let op: VcpuRegisterVcpuInfo = cx.read(at)?;
            let result = register_info(cx, &vcpu, own, &op);
            publish(cx, &vcpu);
            result?;
        }
        VCPUOP_SEND_NMI => {
            if at != 0 {
                return Err(Errno::EINVAL.into());
            }
            if !vcpu.nmi_requested.swap(true, Ordering::SeqCst) {
                sched::kick(cx.hv, &vcpu);
            }
        }
        // Only a vCPU that is pinned to a processor has the processor's identifiers, and none is.
        VCPUOP_GET_PHYSID => return Err(Errno::EINVAL.into()),
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// Gives a vCPU that never ran its context. Up to then nobody else holds its state for long, so that a
/// state that is locked is that of a vCPU which runs.
fn initialise(cx: &mut Current<'_>, vcpu: &Arc<Vcpu>, at: u64) -> Result<(), Errno> {
    if lifecycle::has_no_info_place(cx.domain, vcpu) {
        return Err(Errno::EINVAL);
    }
    let context: VcpuGuestContext = cx.read(at)?;
    if Arc::ptr_eq(vcpu, cx.vcpu_arc) {
        return Err(Errno::EEXIST);
    }
    let mut state = vcpu.state.try_lock().ok_or(Errno::EEXIST)?;
    if state.initialised {
        return Err(Errno::EEXIST);
    }
    let out_of_time = &mut || should_preempt(cx);
    vcpu_context::apply(cx.hv, cx.domain, vcpu, &mut state, &context, out_of_time)?;
    drop(state);
    sched::wake(cx.hv, vcpu);
    Ok(())
}

fn up(cx: &mut Current<'_>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
    let own = Arc::ptr_eq(vcpu, cx.vcpu_arc);
    let initialised = own || vcpu.state.try_lock().is_none_or(|state| state.initialised);
    if !initialised {
        return Err(Errno::EINVAL);
    }
    if vcpu.down.swap(false, Ordering::SeqCst) {
        sched::wake(cx.hv, vcpu);
    }
    Ok(())
}

/// The last vCPU that goes down takes the domain with it.
fn down(cx: &mut Current<'_>, vcpu: &Arc<Vcpu>) {
    let others = cx.domain.vcpus();
    let last = others
        .iter()
        .all(|other| other.id == vcpu.id || other.down.load(Ordering::Acquire));
    if last {
        lifecycle::shutdown(cx.hv, cx.domain, SHUTDOWN_POWEROFF);
    } else if !vcpu.down.swap(true, Ordering::SeqCst) {
        sched::sleep(cx.hv, vcpu);
    }
}

/// Gives a vCPU time stamps at once, at every place that it has for them.
fn publish(cx: &mut Current<'_>, vcpu: &Arc<Vcpu>) {
    time::republish(cx.hv, vcpu);
    if Arc::ptr_eq(vcpu, cx.vcpu_arc) {
        runstate::refresh_areas(cx.hv, vcpu);
    }
}

/// Moves a vCPU's information to a page of the guest's choice, once.
fn register_info(
    cx: &mut Current<'_>,
    vcpu: &Arc<Vcpu>,
    own: bool,
    op: &VcpuRegisterVcpuInfo,
) -> Result<(), Errno> {
    let hv = cx.hv;
    let offset = op.offset as usize;
    if offset > PAGE_SIZE - size_of::<VcpuInfo>() || !offset.is_multiple_of(align_of::<VcpuInfo>())
    {
        return Err(Errno::ENXIO);
    }
    // Two vCPUs of the domain must not move the information of one at once.
    let _life = cx.domain.life.lock();
    if !lifecycle::has_first_info_place(cx.domain, vcpu) {
        return Err(Errno::EINVAL);
    }
    if !own && !vcpu.down.load(Ordering::Acquire) {
        return Err(Errno::EINVAL);
    }
    let frame = hv
        .memory
        .get_typed(op.mfn, cx.domain.id, FrameType::Writable)
        .map_err(|_| Errno::EINVAL)?;
    let mut info = VcpuInfo::new_zeroed();
    if lifecycle::has_no_info_place(cx.domain, vcpu) {
        info.evtchn_upcall_mask = 1;
    } else {
        let old = vcpu.info();
        hv.machine
            .read_frame(old.mfn, old.offset, info.as_mut_bytes());
    }
    hv.machine.write_frame(op.mfn, offset, info.as_bytes());
    vcpu.set_info(InfoPlace {
        mfn: op.mfn,
        offset,
    });
    // The place that it began with is held by the domain, and not by the vCPU as well: nobody would give that back.
    if !lifecycle::has_first_info_place(cx.domain, vcpu) {
        frame.into_bits();
    }
    event::mark_all_pending(hv, vcpu);
    Ok(())
}

#[cfg(test)]
mod tests;
