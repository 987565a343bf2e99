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

use crate::hypercall::{Args, HypercallResult};
use crate::memory::FrameType;
use crate::time::{self, MILLISECOND};
use crate::vcpu::InfoPlace;
use crate::{Current, Vcpu, event, lifecycle, runstate, sched, vcpu_context};

/// Longest period that a periodic timer may have (`STIME_DELTA_MAX`).
const MAX_PERIOD: u64 = (1 << 60) - 1;

/// `HYPERVISOR_vcpu_op`: a command, the number of a vCPU of the caller's domain, and the address of the
/// command's struct.
pub fn do_vcpu_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let at = args[2];
    let vcpu = cx.domain.vcpu(args[1] as u32).ok_or(Errno::ENOENT)?;
    let own = Arc::ptr_eq(&vcpu, cx.vcpu);
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
            if op.flags & VCPU_SSHOTTMR_FUTURE != 0 && op.timeout_abs_ns < time::now(cx.hv) {
                return Err(Errno::ETIME.into());
            }
            // System time is signed: what is beyond its range is long past.
            let deadline = if op.timeout_abs_ns >> 63 == 0 {
                op.timeout_abs_ns
            } else {
                0
            };
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
    if Arc::ptr_eq(vcpu, cx.vcpu) {
        return Err(Errno::EEXIST);
    }
    let mut state = vcpu.state.try_lock().ok_or(Errno::EEXIST)?;
    if state.initialised {
        return Err(Errno::EEXIST);
    }
    vcpu_context::apply(cx.hv, cx.domain, vcpu, &mut state, &context)?;
    drop(state);
    sched::wake(cx.hv, vcpu);
    Ok(())
}

fn up(cx: &mut Current<'_>, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
    let own = Arc::ptr_eq(vcpu, cx.vcpu);
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
    if Arc::ptr_eq(vcpu, cx.vcpu) {
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
    frame.into_bits();
    vcpu.set_info(InfoPlace {
        mfn: op.mfn,
        offset,
    });
    event::mark_all_pending(hv, vcpu);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use core::mem::offset_of;

    use hypercall_abi::arch_x86::{VGCF_IN_KERNEL, VGCF_ONLINE};
    use hypercall_abi::types::Mfn;
    use hypercall_abi::xen::{HYPERVISOR_VCPU_OP, SharedInfo};

    use crate::testing::{DOM0, DOMU, Host, UNMAPPED};

    fn raw(host: &Host, command: u32, vcpu: u64, at: u64) -> Result<u64, Errno> {
        let result = host.hypercall(DOMU, HYPERVISOR_VCPU_OP, &[command.into(), vcpu, at]);
        u64::try_from(result).map_err(|_| Errno::from_return(result).expect("an errno"))
    }

    fn call<T: IntoBytes + zerocopy::Immutable>(
        host: &Host,
        command: u32,
        vcpu: u64,
        op: &T,
    ) -> Result<u64, Errno> {
        raw(host, command, vcpu, host.put(DOMU, op))
    }

    /// A host whose ordinary domain has two vCPUs, the second down.
    fn host() -> Host {
        let host = Host::new();
        lifecycle::create_vcpus(&host.hv, &host.domain(DOMU), 2).unwrap();
        host
    }

    /// A context that works: the tables are vCPU 0's.
    fn context(host: &Host, flags: u64) -> VcpuGuestContext {
        let mut context = VcpuGuestContext::new_zeroed();
        context.flags = VGCF_IN_KERNEL | flags;
        context.ctrlreg[3] = host.layout(DOMU).tables[0].0 << 12;
        context
    }

    #[test]
    fn a_second_vcpu_is_initialised_once_and_comes_up() {
        let host = host();
        let second = host.domain(DOMU).vcpu(1).unwrap();
        assert_eq!(raw(&host, VCPUOP_UP, 1, 0), Err(Errno::EINVAL));
        assert_eq!(
            raw(&host, VCPUOP_INITIALISE, 1, UNMAPPED),
            Err(Errno::EFAULT)
        );
        let bad = VcpuGuestContext::new_zeroed();
        assert_eq!(call(&host, VCPUOP_INITIALISE, 1, &bad), Err(Errno::EINVAL));
        assert_eq!(call(&host, VCPUOP_INITIALISE, 1, &context(&host, 0)), Ok(0));
        assert_eq!(raw(&host, VCPUOP_IS_UP, 1, 0), Ok(0));
        assert!(!second.is_runnable());
        assert_eq!(
            call(&host, VCPUOP_INITIALISE, 1, &context(&host, 0)),
            Err(Errno::EEXIST)
        );
        assert_eq!(
            call(&host, VCPUOP_INITIALISE, 0, &context(&host, 0)),
            Err(Errno::EEXIST)
        );
        assert_eq!(raw(&host, VCPUOP_UP, 1, 0), Ok(0));
        assert_eq!(raw(&host, VCPUOP_IS_UP, 1, 0), Ok(1));
        assert!(second.is_runnable());
        assert_eq!(raw(&host, VCPUOP_UP, 0, 0), Ok(0));
        assert_eq!(raw(&host, VCPUOP_UP, 2, 0), Err(Errno::ENOENT));
        assert_eq!(
            raw(&host, VCPUOP_UP, u64::from(u32::MAX), 0),
            Err(Errno::ENOENT)
        );
    }

    #[test]
    fn a_context_that_is_online_starts_the_vcpu() {
        let host = host();
        assert_eq!(
            call(&host, VCPUOP_INITIALISE, 1, &context(&host, VGCF_ONLINE)),
            Ok(0)
        );
        assert_eq!(raw(&host, VCPUOP_IS_UP, 1, 0), Ok(1));
        assert!(host.domain(DOMU).vcpu(1).unwrap().is_runnable());
    }

    #[test]
    fn a_running_vcpu_is_neither_initialised_nor_waited_for() {
        let host = host();
        let second = host.domain(DOMU).vcpu(1).unwrap();
        let _runs = second.state.lock();
        assert_eq!(
            call(&host, VCPUOP_INITIALISE, 1, &context(&host, 0)),
            Err(Errno::EEXIST)
        );
        assert_eq!(raw(&host, VCPUOP_UP, 1, 0), Ok(0));
    }

    #[test]
    fn the_last_vcpu_that_goes_down_takes_the_domain_with_it() {
        let host = host();
        call(&host, VCPUOP_INITIALISE, 1, &context(&host, VGCF_ONLINE)).unwrap();
        assert_eq!(raw(&host, VCPUOP_DOWN, 1, 0), Ok(0));
        assert_eq!(raw(&host, VCPUOP_IS_UP, 1, 0), Ok(0));
        assert_eq!(host.domain(DOMU).life.lock().shutdown, None);
        assert_eq!(raw(&host, VCPUOP_DOWN, 0, 0), Ok(0));
        assert_eq!(
            host.domain(DOMU).life.lock().shutdown,
            Some(SHUTDOWN_POWEROFF)
        );
    }

    #[test]
    fn run_states_add_up_to_the_time_that_passed() {
        let host = host();
        let vcpu = host.vcpu(DOMU);
        sched::switched_in(&host.hv, &vcpu);
        host.hv.machine.pass_time(700);
        sched::switched_out(&host.hv, &vcpu);
        host.hv.machine.pass_time(300);
        let at = host.room(DOMU, 48);
        assert_eq!(raw(&host, VCPUOP_GET_RUNSTATE_INFO, 0, at), Ok(0));
        let info: VcpuRunstateInfo = host.get(DOMU, at);
        assert_eq!(info.state, RUNSTATE_RUNNABLE);
        assert_eq!(info.time[RUNSTATE_RUNNING as usize], 700);
        assert_eq!(info.time.iter().sum::<u64>(), time::now(&host.hv));
        assert_eq!(raw(&host, VCPUOP_GET_RUNSTATE_INFO, 1, at), Ok(0));
        assert_eq!(
            host.get::<VcpuRunstateInfo>(DOMU, at).state,
            RUNSTATE_OFFLINE
        );
    }

    fn register(host: &Host, vcpu: u64, mfn: Mfn, offset: u32) -> Result<u64, Errno> {
        call(
            host,
            VCPUOP_REGISTER_VCPU_INFO,
            vcpu,
            &VcpuRegisterVcpuInfo {
                mfn,
                offset,
                rsvd: 0,
            },
        )
    }

    #[test]
    fn a_vcpus_information_moves_once_with_what_it_holds() {
        let host = host();
        let page = host.layout(DOMU).scratch[9];
        let vcpu = host.vcpu(DOMU);
        host.hv
            .machine
            .write_frame(host.domain(DOMU).shared_info, 1, &[1]);
        assert_eq!(register(&host, 0, page, 128), Ok(0));
        assert_eq!(
            vcpu.info(),
            InfoPlace {
                mfn: page,
                offset: 128
            }
        );
        let mut info = VcpuInfo::new_zeroed();
        host.hv.machine.read_frame(page, 128, info.as_mut_bytes());
        assert_eq!(
            (info.evtchn_upcall_mask, info.evtchn_upcall_pending),
            (1, 1)
        );
        assert_eq!(info.evtchn_pending_sel, u64::MAX);
        assert_ne!(info.time.tsc_to_system_mul, 0);
        assert_eq!(register(&host, 0, page, 256), Err(Errno::EINVAL));
        let port = event::bind_ipi(&host.domain(DOMU), 0).unwrap();
        host.hv.machine.store_u64(page, 17, 0);
        event::send(&host.hv, &host.domain(DOMU), port).unwrap();
        assert_eq!(host.hv.machine.load_u64(page, 17), 1);
        assert_eq!(
            host.shared::<u64>(DOMU, offset_of!(SharedInfo, vcpu_info) + 8),
            0
        );
    }

    #[test]
    fn information_moves_to_a_writable_page_of_the_domain_only() {
        let host = host();
        let layout = host.layout(DOMU).clone();
        let page = layout.scratch[9];
        assert_eq!(register(&host, 0, page, 4096 - 63), Err(Errno::ENXIO));
        assert_eq!(register(&host, 0, page, u32::MAX), Err(Errno::ENXIO));
        assert_eq!(register(&host, 0, page, 4), Err(Errno::ENXIO));
        assert_eq!(register(&host, 0, layout.tables[3], 0), Err(Errno::EINVAL));
        assert_eq!(
            register(&host, 0, host.layout(DOM0).scratch[0], 0),
            Err(Errno::EINVAL)
        );
        assert_eq!(register(&host, 0, Mfn(u64::MAX), 0), Err(Errno::EINVAL));
        assert_eq!(register(&host, 1, page, 4096 - 64), Ok(0));
        let second = host.domain(DOMU).vcpu(1).unwrap();
        assert_eq!(
            second.info(),
            InfoPlace {
                mfn: page,
                offset: 4032
            }
        );
    }

    #[test]
    fn the_information_of_another_vcpu_moves_only_while_that_is_down() {
        let host = host();
        call(&host, VCPUOP_INITIALISE, 1, &context(&host, VGCF_ONLINE)).unwrap();
        let page = host.layout(DOMU).scratch[9];
        assert_eq!(register(&host, 1, page, 0), Err(Errno::EINVAL));
        raw(&host, VCPUOP_DOWN, 1, 0).unwrap();
        assert_eq!(register(&host, 1, page, 0), Ok(0));
    }

    #[test]
    fn a_vcpu_beyond_the_shared_page_needs_information_of_its_own_first() {
        let host = Host::new();
        lifecycle::create_vcpus(&host.hv, &host.domain(DOMU), 33).unwrap();
        assert_eq!(
            call(&host, VCPUOP_INITIALISE, 32, &context(&host, 0)),
            Err(Errno::EINVAL)
        );
        let page = host.layout(DOMU).scratch[9];
        assert_eq!(register(&host, 32, page, 64), Ok(0));
        let mut info = VcpuInfo::new_zeroed();
        host.hv.machine.read_frame(page, 64, info.as_mut_bytes());
        assert_eq!(info.evtchn_upcall_mask, 1);
        assert_eq!(
            call(&host, VCPUOP_INITIALISE, 32, &context(&host, 0)),
            Ok(0)
        );
    }

    #[test]
    fn an_nmi_is_requested_and_wakes_the_vcpu() {
        let host = host();
        assert_eq!(raw(&host, VCPUOP_SEND_NMI, 0, 8), Err(Errno::EINVAL));
        let vcpu = host.vcpu(DOMU);
        vcpu.blocked.store(true, Ordering::SeqCst);
        assert_eq!(raw(&host, VCPUOP_SEND_NMI, 0, 0), Ok(0));
        assert!(vcpu.nmi_requested.load(Ordering::SeqCst));
        assert!(!vcpu.blocked.load(Ordering::SeqCst));
    }

    #[test]
    fn what_no_vcpu_can_do_is_refused() {
        let host = host();
        assert_eq!(
            raw(&host, VCPUOP_GET_PHYSID, 0, UNMAPPED),
            Err(Errno::EINVAL)
        );
        assert_eq!(raw(&host, 14, 0, 0), Err(Errno::ENOSYS));
        assert_eq!(raw(&host, u32::MAX, 0, 0), Err(Errno::ENOSYS));
        assert_eq!(raw(&host, u32::MAX, 9, 0), Err(Errno::ENOENT));
    }
}
