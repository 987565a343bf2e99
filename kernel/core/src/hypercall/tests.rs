//! What holds for every hypercall: who may not call at all, and what becomes of addresses that are no good.

mod heap;
mod pieces;

use super::*;

use hypercall_abi::domctl::{Domctl, XEN_DOMCTL_GETDOMAININFO};
use hypercall_abi::event_channel::*;
use hypercall_abi::physdev::*;
use hypercall_abi::platform::{PlatformOp, XENPF_GET_CPUINFO, XenpfPcpuinfo};
use hypercall_abi::sched::*;
use hypercall_abi::sysctl::{Sysctl, XEN_SYSCTL_SCHED_ID};
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::vcpu::*;
use hypercall_abi::version::*;
use zerocopy::{FromBytes, IntoBytes};

use crate::testing::{BAD_ADDRESSES, DOM0, DOMU, Host};

#[test]
fn a_call_that_goes_on_keeps_the_registers_that_are_not_its_arguments() {
    let mut regs = CpuUserRegs::default();
    set_arguments(&mut regs, &[1, 2, 3, 4, 5, 6]);
    set_arguments(&mut regs, &[10, 20, 0, 0, 0, 0]);
    assert_eq!(arguments(&regs), [10, 20, 3, 4, 5, 6]);
}

#[test]
fn what_is_not_there_answers_enosys_to_everybody() {
    let host = Host::new();
    let absent = [
        11,
        HYPERVISOR_XSM_OP,
        HYPERVISOR_XENOPROF_OP,
        HYPERVISOR_HVM_OP,
        HYPERVISOR_KEXEC_OP,
        HYPERVISOR_TMEM_OP,
        HYPERVISOR_ARGO_OP,
        HYPERVISOR_XENPMU_OP,
        HYPERVISOR_DM_OP,
        HYPERVISOR_HYPFS_OP,
    ];
    let unknown = (43..=64).chain([1 << 31, u32::MAX]);
    for number in absent.into_iter().chain(unknown) {
        for domain in [DOM0, DOMU] {
            for args in [[0; 6], [u64::MAX; 6]] {
                let result = host.hypercall(domain, number, &args);
                assert_eq!(result, Errno::ENOSYS.to_return(), "{number}");
            }
        }
    }
}

#[test]
fn a_number_counts_with_all_its_bits() {
    let host = Host::new();
    host.as_guest(DOMU, |cx| {
        cx.state.context.regs.rax = 1 << 32 | u64::from(HYPERVISOR_XEN_VERSION);
        enter(cx);
        assert_eq!(cx.state.context.regs.rax as i64, Errno::ENOSYS.to_return());
    });
}

#[test]
fn a_domain_that_is_taken_apart_gets_nothing_done() {
    let host = Host::new();
    let domain = host.domain(DOMU);
    assert!(!lifecycle::destroy(&host.hv, &domain, &mut || true));
    for number in [
        HYPERVISOR_XEN_VERSION,
        HYPERVISOR_EVENT_CHANNEL_OP,
        HYPERVISOR_SCHED_OP,
        HYPERVISOR_MULTICALL,
    ] {
        assert_eq!(
            host.hypercall(DOMU, number, &[0; 2]),
            Errno::EINVAL.to_return()
        );
    }
}

/// Every call with an argument in memory: its number, and what comes before the argument's address.
fn calls_with_an_argument() -> Vec<(u32, Vec<u64>)> {
    let mut calls: Vec<(u32, Vec<u64>)> = [
        HYPERVISOR_SET_TRAP_TABLE,
        HYPERVISOR_EVENT_CHANNEL_OP_COMPAT,
        HYPERVISOR_PHYSDEV_OP_COMPAT,
        HYPERVISOR_DOMCTL,
        HYPERVISOR_SYSCTL,
        HYPERVISOR_PLATFORM_OP,
    ]
    .map(|number| (number, vec![]))
    .into();
    calls.push((HYPERVISOR_CONSOLE_IO, vec![CONSOLEIO_WRITE.into(), 8]));
    let mut add = |number, commands: &[u32], then: &[u64]| {
        for &command in commands {
            calls.push((number, [&[command.into()], then].concat()));
        }
    };
    add(HYPERVISOR_CALLBACK_OP, &[0, 1], &[]);
    add(HYPERVISOR_NMI_OP, &[0], &[]);
    let versions = [
        XENVER_EXTRAVERSION,
        XENVER_COMPILE_INFO,
        XENVER_CAPABILITIES,
        XENVER_CHANGESET,
        XENVER_PLATFORM_PARAMETERS,
        XENVER_GET_FEATURES,
        XENVER_GUEST_HANDLE,
        XENVER_COMMANDLINE,
        XENVER_BUILD_ID,
    ];
    add(HYPERVISOR_XEN_VERSION, &versions, &[]);
    let events: Vec<u32> = (EVTCHNOP_BIND_INTERDOMAIN..=EVTCHNOP_RESET)
        .chain([EVTCHNOP_SET_PRIORITY, 14])
        .collect();
    add(HYPERVISOR_EVENT_CHANNEL_OP, &events, &[]);
    let sched: Vec<u32> = (SCHEDOP_SHUTDOWN..=SCHEDOP_PIN_OVERRIDE).collect();
    add(HYPERVISOR_SCHED_OP, &sched, &[]);
    let vcpu = [
        VCPUOP_INITIALISE,
        VCPUOP_GET_RUNSTATE_INFO,
        VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
        VCPUOP_SET_PERIODIC_TIMER,
        VCPUOP_SET_SINGLESHOT_TIMER,
        VCPUOP_REGISTER_VCPU_INFO,
        VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
    ];
    add(HYPERVISOR_VCPU_OP, &vcpu, &[0]);
    let physdev: Vec<u32> = (PHYSDEVOP_IRQ_STATUS_QUERY..=PHYSDEVOP_RELEASE_MSIX)
        .filter(|command| !matches!(command, 11 | 18 | 22))
        .collect();
    add(HYPERVISOR_PHYSDEV_OP, &physdev, &[]);
    calls
}

#[test]
fn an_argument_that_cannot_be_read_is_a_fault() {
    let host = Host::new();
    for (number, before) in calls_with_an_argument() {
        for bad in BAD_ADDRESSES {
            let args = [before.as_slice(), &[bad]].concat();
            assert_eq!(
                host.hypercall(DOM0, number, &args),
                Errno::EFAULT.to_return(),
                "{number} {args:x?}"
            );
        }
    }
    for bad in BAD_ADDRESSES {
        for number in [HYPERVISOR_SET_GDT, HYPERVISOR_MULTICALL] {
            assert_eq!(
                host.hypercall(DOMU, number, &[bad, 1]),
                Errno::EFAULT.to_return(),
                "{number} {bad:#x}"
            );
        }
    }
}

/// Calls that answer in their argument, each of which succeeds after those before it.
fn calls_with_an_answer() -> Vec<(u32, Vec<u64>, Vec<u8>)> {
    let (port, dom) = (Port(1), Domid::SELF);
    let event = |command: u32, op: &[u8]| {
        let number = HYPERVISOR_EVENT_CHANNEL_OP;
        (number, vec![u64::from(command)], op.to_vec())
    };
    let physdev = |command: u32, op: &[u32]| {
        let number = HYPERVISOR_PHYSDEV_OP;
        (number, vec![u64::from(command)], op.as_bytes().to_vec())
    };
    // Whose port it is, who may connect, and the port.
    let alloc = [dom, dom, Domid(0), Domid(0)];
    let connect = [u32::from(dom.0), port.0, 0];
    let status = [u32::from(dom.0), port.0, 0, 0, 0, 0];
    let map = [
        u32::from(dom.0),
        MAP_PIRQ_TYPE_GSI as u32,
        17,
        17,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let call = MulticallEntry {
        op: HYPERVISOR_XEN_VERSION.into(),
        ..Default::default()
    };
    let cpu = XenpfPcpuinfo::default();
    let platform = PlatformOp::with(XENPF_GET_CPUINFO, &cpu);
    let domctl = Domctl::new(XEN_DOMCTL_GETDOMAININFO, DOMU);
    vec![
        event(EVTCHNOP_ALLOC_UNBOUND, alloc.as_bytes()),
        event(EVTCHNOP_BIND_INTERDOMAIN, connect.as_bytes()),
        event(EVTCHNOP_STATUS, status.as_bytes()),
        event(EVTCHNOP_BIND_VIRQ, [VIRQ_TIMER, 0, 0].as_bytes()),
        event(EVTCHNOP_BIND_IPI, [0; 8].as_slice()),
        physdev(PHYSDEVOP_MAP_PIRQ, &map),
        event(EVTCHNOP_BIND_PIRQ, [17_u32, 0, 0].as_bytes()),
        physdev(PHYSDEVOP_IRQ_STATUS_QUERY, &[17, 0]),
        physdev(PHYSDEVOP_APIC_READ, &[0xfec0_0000, 0, 1, 0]),
        physdev(PHYSDEVOP_ALLOC_IRQ_VECTOR, &[17, 0]),
        physdev(PHYSDEVOP_GET_FREE_PIRQ, &[MAP_PIRQ_TYPE_MSI as u32, 0]),
        (
            HYPERVISOR_XEN_VERSION,
            vec![XENVER_GET_FEATURES.into()],
            vec![0; 8],
        ),
        (
            HYPERVISOR_VCPU_OP,
            vec![VCPUOP_GET_RUNSTATE_INFO.into(), 0],
            vec![],
        ),
        (HYPERVISOR_PLATFORM_OP, vec![], platform.as_bytes().to_vec()),
        (HYPERVISOR_DOMCTL, vec![], domctl.as_bytes().to_vec()),
        (
            HYPERVISOR_SYSCTL,
            vec![],
            Sysctl::new(XEN_SYSCTL_SCHED_ID).as_bytes().to_vec(),
        ),
        (HYPERVISOR_MULTICALL, vec![], call.as_bytes().to_vec()),
    ]
}

#[test]
fn an_answer_that_cannot_be_written_is_a_fault() {
    let host = Host::new();
    for (number, before, argument) in calls_with_an_answer() {
        let at = host.put_read_only(DOM0, &argument);
        // A multicall has its length behind the address.
        let args = [before.as_slice(), &[at, 1]].concat();
        assert_eq!(
            host.hypercall(DOM0, number, &args),
            Errno::EFAULT.to_return(),
            "{number} {before:?}"
        );
    }
}
