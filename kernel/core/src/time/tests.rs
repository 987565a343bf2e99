//! Timers and time stamps as guests meet them, on the simulated machine.

use core::mem::offset_of;
use core::sync::atomic::Ordering;

use hv_machine::sim::Machine;
use hv_machine::{MachineRef, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::sched::SCHEDOP_BLOCK;
use hypercall_abi::types::Port;
use hypercall_abi::vcpu::*;
use hypercall_abi::xen::*;
use zerocopy::{Immutable, IntoBytes};

use super::*;
use crate::testing::{DOM0, DOMU, Host, UNMAPPED};
use crate::{lifecycle, runstate};

fn pass(host: &Host, nanoseconds: u64) {
    host.hv.machine.pass_time(nanoseconds);
    run_expired(&host.hv);
}

fn timer_port(host: &Host) -> Port {
    event::bind_virq(&host.domain(DOMU), VIRQ_TIMER, 0).unwrap()
}

/// Whether the timer's port is pending; takes it back.
fn ticked(host: &Host, port: Port) -> bool {
    let mfn = host.domain(DOMU).shared_info;
    let place = host.vcpu(DOMU).info();
    host.hv
        .machine
        .fetch_and_u64(place.mfn, place.offset / 8, !0xff);
    host.hv
        .machine
        .store_u64(place.mfn, place.offset / 8 + 1, 0);
    let at = offset_of!(SharedInfo, evtchn_pending) / 8;
    host.hv.machine.fetch_and_u64(mfn, at, !(1 << port.0)) & 1 << port.0 != 0
}

fn set_timer(host: &Host, deadline: u64) -> i64 {
    host.hypercall(DOMU, HYPERVISOR_SET_TIMER_OP, &[deadline])
}

fn vcpu_op<T: IntoBytes + Immutable>(
    host: &Host,
    command: u32,
    vcpu: u64,
    op: &T,
) -> Option<Errno> {
    let at = host.put(DOMU, op);
    Errno::from_return(host.hypercall(DOMU, HYPERVISOR_VCPU_OP, &[command.into(), vcpu, at]))
}

/// A host whose domain has no ticks, and the port of its timer.
fn quiet_host() -> (Host, Port) {
    let host = Host::new();
    let port = timer_port(&host);
    assert_eq!(vcpu_op(&host, VCPUOP_STOP_PERIODIC_TIMER, 0, &0_u64), None);
    (host, port)
}

#[test]
fn a_one_shot_timer_fires_once_at_its_time_and_wakes_the_vcpu() {
    let (host, port) = quiet_host();
    assert_eq!(set_timer(&host, now(&host.hv) + 3 * MILLISECOND), 0);
    host.hypercall(DOMU, HYPERVISOR_SCHED_OP, &[SCHEDOP_BLOCK.into(), 0]);
    pass(&host, 2 * MILLISECOND);
    assert!(host.vcpu(DOMU).blocked.load(Ordering::SeqCst));
    pass(&host, MILLISECOND);
    assert!(!host.vcpu(DOMU).blocked.load(Ordering::SeqCst));
    assert!(ticked(&host, port));
    pass(&host, SECOND);
    assert!(!ticked(&host, port));
}

#[test]
fn the_hardware_timer_stands_at_the_earliest_deadline() {
    let (host, _) = quiet_host();
    let tsc = host.hv.machine.tsc();
    set_timer(&host, now(&host.hv) + 7 * MILLISECOND);
    let deadline = host.hv.machine.cpu(0).deadline.unwrap();
    assert!((tsc + 7_000_000..tsc + 7_000_100).contains(&deadline));
    // A later one, or none, leaves it as it is: then nothing is due, and it is set anew.
    let later = now(&host.hv) + 9 * MILLISECOND;
    set_timer(&host, later);
    assert_eq!(host.hv.machine.cpu(0).deadline, Some(deadline));
    pass(&host, 7 * MILLISECOND);
    let deadline = host.hv.machine.cpu(0).deadline.unwrap();
    assert!((tsc + 9_000_000..tsc + 9_000_200).contains(&deadline));
    set_timer(&host, now(&host.hv) + MILLISECOND);
    assert!(host.hv.machine.cpu(0).deadline.unwrap() < deadline);
}

#[test]
fn zero_stops_the_timer_and_the_past_is_now() {
    let (host, port) = quiet_host();
    set_timer(&host, now(&host.hv) + MILLISECOND);
    set_timer(&host, 0);
    pass(&host, SECOND);
    assert!(!ticked(&host, port));
    set_timer(&host, 1);
    pass(&host, 0);
    assert!(ticked(&host, port));
}

#[test]
fn an_absurd_deadline_fires_in_a_tenth_of_a_second() {
    let (host, port) = quiet_host();
    for deadline in [u64::MAX, 1 << 63, now(&host.hv) + (1 << 51)] {
        assert_eq!(set_timer(&host, deadline), 0);
        pass(&host, 99 * MILLISECOND);
        assert!(!ticked(&host, port));
        pass(&host, MILLISECOND);
        assert!(ticked(&host, port));
    }
    set_timer(&host, now(&host.hv) + (1 << 49));
    pass(&host, SECOND);
    assert!(!ticked(&host, port));
}

#[test]
fn a_vcpu_ticks_a_hundred_times_a_second_until_it_says_otherwise() {
    let host = Host::new();
    let port = timer_port(&host);
    let vcpu = host.vcpu(DOMU);
    host.hv.machine.pass_time(20 * MILLISECOND);
    crate::sched::switched_in(&host.hv, &vcpu);
    ticked(&host, port);
    pass(&host, 9 * MILLISECOND);
    assert!(!ticked(&host, port));
    pass(&host, MILLISECOND);
    assert!(ticked(&host, port));
    assert_eq!(
        vcpu_op(&host, VCPUOP_SET_PERIODIC_TIMER, 0, &(2 * MILLISECOND)),
        None
    );
    ticked(&host, port);
    for _ in 0..3 {
        pass(&host, 2 * MILLISECOND);
        assert!(ticked(&host, port));
    }
    assert_eq!(vcpu_op(&host, VCPUOP_STOP_PERIODIC_TIMER, 0, &0_u64), None);
    pass(&host, SECOND);
    assert!(!ticked(&host, port));
}

#[test]
fn ticks_that_a_vcpu_missed_while_it_did_not_run_count_as_one() {
    let host = Host::new();
    let port = timer_port(&host);
    let vcpu = host.vcpu(DOMU);
    crate::sched::switched_in(&host.hv, &vcpu);
    crate::sched::switched_out(&host.hv, &vcpu);
    ticked(&host, port);
    pass(&host, SECOND);
    assert!(!ticked(&host, port));
    crate::sched::switched_in(&host.hv, &vcpu);
    assert!(ticked(&host, port));
    pass(&host, 0);
    assert!(!ticked(&host, port));
}

#[test]
fn periods_have_limits() {
    let host = Host::new();
    for (period, expected) in [
        (MILLISECOND - 1, Some(Errno::EINVAL)),
        (0, Some(Errno::EINVAL)),
        (1 << 60, Some(Errno::EINVAL)),
        (u64::MAX, Some(Errno::EINVAL)),
        (MILLISECOND, None),
        ((1 << 60) - 1, None),
    ] {
        assert_eq!(
            vcpu_op(&host, VCPUOP_SET_PERIODIC_TIMER, 0, &period),
            expected
        );
    }
}

#[test]
fn a_one_shot_by_vcpu_op_in_the_past_fires_at_once_even_if_it_is_to_be_in_the_future() {
    let (host, port) = quiet_host();
    let op = |timeout_abs_ns, flags| VcpuSetSingleshotTimer {
        timeout_abs_ns,
        flags,
        _pad0: 0,
    };
    let set = |op: VcpuSetSingleshotTimer| vcpu_op(&host, VCPUOP_SET_SINGLESHOT_TIMER, 0, &op);
    assert_eq!(set(op(1, VCPU_SSHOTTMR_FUTURE)), None);
    pass(&host, 0);
    assert!(ticked(&host, port));
    assert_eq!(set(op(1, 0)), None);
    pass(&host, 0);
    assert!(ticked(&host, port));
    assert_eq!(set(op(u64::MAX, 0)), None);
    pass(&host, 0);
    assert!(ticked(&host, port));
    assert_eq!(
        set(op(now(&host.hv) + MILLISECOND, VCPU_SSHOTTMR_FUTURE)),
        None
    );
    assert_eq!(
        vcpu_op(&host, VCPUOP_STOP_SINGLESHOT_TIMER, 0, &0_u64),
        None
    );
    pass(&host, SECOND);
    assert!(!ticked(&host, port));
    lifecycle::create_vcpus(&host.hv, &host.domain(DOMU), 2).unwrap();
    for command in [VCPUOP_SET_SINGLESHOT_TIMER, VCPUOP_STOP_SINGLESHOT_TIMER] {
        assert_eq!(vcpu_op(&host, command, 1, &op(1, 0)), Some(Errno::EINVAL));
    }
}

#[test]
fn the_timers_of_a_vcpu_go_with_it() {
    let (host, _) = quiet_host();
    set_timer(&host, now(&host.hv) + MILLISECOND);
    crate::sched::remove(&host.hv, &host.vcpu(DOMU));
    assert_eq!(host.hv.timers.lock().earliest(0), NEVER);
}

fn stamps(host: &Host) -> VcpuTimeInfo {
    host.shared(DOMU, offset_of!(VcpuInfo, time))
}

/// The time that a guest computes.
fn guest_time(host: &Host) -> u64 {
    let time = stamps(host);
    assert_eq!(time.version % 2, 0);
    let scale = Scale {
        mul: time.tsc_to_system_mul,
        shift: time.tsc_shift,
    };
    time.system_time + scale.apply(host.hv.machine.tsc().wrapping_sub(time.tsc_timestamp))
}

#[test]
fn a_guest_computes_the_hypervisors_time_from_its_stamps() {
    let host = Host::new();
    let vcpu = host.vcpu(DOMU);
    publish(&host.hv, &vcpu);
    let first = stamps(&host);
    assert_eq!(guest_time(&host), now(&host.hv));
    host.hv.machine.pass_time(SECOND / 2);
    publish(&host.hv, &vcpu);
    assert_eq!(
        stamps(&host).version,
        first.version,
        "young stamps are left alone"
    );
    assert_eq!(guest_time(&host), now(&host.hv));
    host.hv.machine.pass_time(5 * SECOND);
    publish(&host.hv, &vcpu);
    assert_eq!(stamps(&host).version, first.version + 2);
    assert_eq!(stamps(&host).flags, XEN_PVCLOCK_TSC_STABLE_BIT);
    assert_eq!(guest_time(&host), now(&host.hv));
}

#[test]
fn the_wall_clock_is_the_hosts_and_the_domains_own_offset() {
    let host = Host::new();
    let wall = |host: &Host| {
        let shared = |offset| host.shared::<u32>(DOMU, offset);
        assert_eq!(shared(offset_of!(SharedInfo, wc_version)) % 2, 0);
        let high = u64::from(shared(offset_of!(SharedInfo, wc_sec_hi)));
        let seconds = high << 32 | u64::from(shared(offset_of!(SharedInfo, wc_sec)));
        (seconds, shared(offset_of!(SharedInfo, wc_nsec)))
    };
    let boot = host.hv.machine.boot_wall_clock();
    publish_wall_clock(&host.hv, &host.domain(DOMU));
    assert_eq!(wall(&host), (boot, 0));
    host.domain(DOMU)
        .time_offset
        .store(-5_i64 as u64, Ordering::Relaxed);
    publish_wall_clock(&host.hv, &host.domain(DOMU));
    assert_eq!(wall(&host), (boot - 5, 0));
    set_wall_clock(&host.hv, 1 << 33, 7, 0);
    assert_eq!(wall(&host), ((1 << 33) - 5, 7));
}

#[test]
fn time_and_run_state_are_copied_to_the_areas_of_a_vcpu() {
    let host = Host::new();
    let vcpu = host.vcpu(DOMU);
    crate::sched::switched_in(&host.hv, &vcpu);
    let area = host.room(DOMU, 96);
    let time_area = area + 48;
    let op = VcpuRegisterRunstateMemoryArea { addr: area };
    assert_eq!(
        vcpu_op(&host, VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, &op),
        None
    );
    let op = VcpuRegisterTimeMemoryArea { addr: time_area };
    assert_eq!(
        vcpu_op(&host, VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, 0, &op),
        None
    );
    let time: VcpuTimeInfo = host.get(DOMU, time_area);
    assert_eq!(
        (time.version % 2, time.tsc_timestamp),
        (0, stamps(&host).tsc_timestamp)
    );
    let info: VcpuRunstateInfo = host.get(DOMU, area);
    assert_eq!(info.state, RUNSTATE_RUNNING);
    host.hv.machine.pass_time(1000);
    host.as_guest(DOMU, |cx| crate::sched::switched_out(cx.hv, cx.vcpu_arc));
    let info: VcpuRunstateInfo = host.get(DOMU, area);
    assert_eq!(
        (info.state, info.time[RUNSTATE_RUNNING as usize]),
        (RUNSTATE_RUNNABLE, 1000)
    );
}

#[test]
fn what_cannot_be_written_is_written_once_the_page_is_there() {
    let host = Host::new();
    let vcpu = host.vcpu(DOMU);
    let area = host.room(DOMU, 48);
    vcpu.areas.set_runstate(UNMAPPED);
    host.as_guest(DOMU, |cx| runstate::refresh_areas(cx.hv, cx.vcpu));
    vcpu.areas.set_runstate(area);
    host.hv.machine.load_idle_root();
    runstate::change(&host.hv, &vcpu, RUNSTATE_BLOCKED, now(&host.hv));
    runstate::refresh_areas(&host.hv, &vcpu);
    assert_eq!(
        host.get::<VcpuRunstateInfo>(DOMU, area).state,
        RUNSTATE_RUNNING
    );
    host.as_guest(DOMU, |cx| runstate::refresh_areas(cx.hv, cx.vcpu));
    assert_eq!(
        host.get::<VcpuRunstateInfo>(DOMU, area).state,
        RUNSTATE_BLOCKED
    );
}

#[test]
fn bad_areas_and_pointers_are_refused() {
    let host = Host::new();
    for command in [
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
    ] {
        for addr in [0xffff_8000_0000_0000, 0x0000_8000_0000_0000, u64::MAX - 7] {
            let op = VcpuRegisterTimeMemoryArea { addr };
            assert_eq!(vcpu_op(&host, command, 0, &op), Some(Errno::EFAULT));
        }
    }
    for command in [4, 5, 6, 8, 10, 13] {
        let result = host.hypercall(DOMU, HYPERVISOR_VCPU_OP, &[command, 0, UNMAPPED]);
        assert_eq!(
            Errno::from_return(result),
            Some(Errno::EFAULT),
            "command {command}"
        );
    }
    assert!(host.hv.machine.cpu(0).root.is_some());
    assert_eq!(host.vcpu(DOM0).id, 0);
}

#[test]
fn time_goes_on_alike_on_a_cpu_whose_counter_is_behind() {
    const LAG: u64 = 12_345;
    for lag in [LAG, LAG.wrapping_neg()] {
        let machine = Machine::with_cpus(4096, 2);
        machine.set_cpuid(0x8000_0000, 0, [0x8000_0007, 0, 0, 0]);
        machine.set_cpuid(0x8000_0007, 0, [0, 0, 0, 1 << 8]);
        machine.set_tsc_lag(1, lag);
        let host = Host::with_machine(MachineRef::new(machine));
        let vcpu = host.vcpu(DOMU);
        publish(&host.hv, &vcpu);
        let before = now(&host.hv);
        host.become_cpu(1);
        assert_eq!(now(&host.hv), before);
        publish(&host.hv, &vcpu);
        assert_eq!(guest_time(&host), before);
        assert_eq!(stamps(&host).flags & XEN_PVCLOCK_TSC_STABLE_BIT, 0);
        set_singleshot(&host.hv, &vcpu, before + SECOND);
        let deadline = host.hv.machine.cpu(1).deadline.unwrap();
        let due = before + deadline - host.hv.machine.tsc();
        assert!((before + SECOND..before + SECOND + 1000).contains(&due));
        host.become_cpu(0);
    }
}
