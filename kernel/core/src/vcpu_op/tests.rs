//! `vcpu_op` on the simulated machine.

use super::*;

use core::mem::offset_of;

use hypercall_abi::arch_x86::{VGCF_IN_KERNEL, VGCF_ONLINE};
use hypercall_abi::types::Mfn;
use hypercall_abi::xen::{HYPERVISOR_VCPU_OP, SharedInfo};

use crate::testing::{BAD_ADDRESSES, DOM0, DOMU, Host, UNMAPPED};

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
fn a_vcpu_that_registers_the_place_it_began_with_holds_nothing_more() {
    let host = host();
    let domain = host.domain(DOMU);
    let offset = offset_of!(SharedInfo, vcpu_info) as u32;
    for _ in 0..3 {
        assert_eq!(register(&host, 0, domain.shared_info, offset), Ok(0));
    }
    crate::memory::recount::check(&host.hv).expect("all counts stand");
    assert!(lifecycle::destroy(&host.hv, &domain, &mut || false));
    assert!(host.hv.domain(DOMU).is_err());
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
fn a_place_may_be_anywhere_but_with_the_hypervisor() {
    let host = host();
    for command in [
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
    ] {
        for vcpu in [0, 1] {
            for addr in BAD_ADDRESSES {
                // What is not mapped yet is written once it is.
                let guests = addr < 1 << 47;
                let expected = if guests { Ok(0) } else { Err(Errno::EFAULT) };
                assert_eq!(call(&host, command, vcpu, &addr), expected, "{addr:#x}");
            }
        }
    }
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

#[test]
fn a_context_brings_the_io_breakpoints_that_its_cr4_allows_and_gives_them_back() {
    const DE: u64 = 1 << 3;
    // Breakpoint 0: local, I/O, 1 byte.
    const CONTROL: u64 = 1 | 2 << 16;
    let machine = hv_machine::sim::Machine::new(1024);
    machine.set_cpuid(0, 0, [1, 0, 0, 0]);
    machine.set_cpuid(1, 0, [0x306c3, 0, 0, u32::MAX]);
    let host = Host::with_machine(hv_machine::MachineRef::new(machine));
    let domain = host.domain(DOMU);
    lifecycle::create_vcpus(&host.hv, &domain, 3).unwrap();
    for (id, cr4, kept) in [(1, DE, CONTROL | 0x400), (2, 0, 0x400)] {
        let mut wanted = context(&host, 0);
        wanted.ctrlreg[4] = cr4;
        (wanted.debugreg[0], wanted.debugreg[7]) = (0x3f8, CONTROL);
        assert_eq!(call(&host, VCPUOP_INITIALISE, id, &wanted), Ok(0));
        let vcpu = domain.vcpu(id as u32).unwrap();
        let state = vcpu.state.lock();
        assert_eq!(state.debug[7] & 0xff, 0, "the processor has none");
        let given = vcpu_context::read(&host.hv, &domain, &vcpu, &state).unwrap();
        assert_eq!(given.debugreg[7], kept);
    }
}
