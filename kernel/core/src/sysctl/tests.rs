use super::*;

use hv_machine::{LogLevel, MachineRef, Platform};
use hypercall_abi::arch_x86::{CpuidLeaf, MsrEntry, XEN_CPUID_NO_SUBLEAF};
use hypercall_abi::domctl::{DomctlGetdomaininfo, XEN_DOMINF_BLOCKED, XEN_SCHEDULER_CREDIT};
use hypercall_abi::physdev::PhysdevPciDevice;
use hypercall_abi::types::{Domid, GuestHandle};
use hypercall_abi::xen::{HYPERVISOR_SYSCTL, XenctlBitmap};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::cpuid;
use crate::testing::{DOM0, DOMU, Host, UNMAPPED};

/// Makes a call as the control domain; gives the result and the arm as it is afterwards.
fn call<A: FromBytes + IntoBytes + Immutable>(host: &Host, cmd: u32, arm: &A) -> (i64, A) {
    let at = host.put(DOM0, &Sysctl::with(cmd, arm));
    let result = host.hypercall(DOM0, HYPERVISOR_SYSCTL, &[at]);
    (result, host.get::<Sysctl>(DOM0, at).u.get())
}

fn succeed<A: FromBytes + IntoBytes + Immutable>(host: &Host, cmd: u32, arm: &A) -> A {
    let (result, arm) = call(host, cmd, arm);
    assert_eq!(result, 0, "operation {cmd}");
    arm
}

#[track_caller]
fn fail<A: FromBytes + IntoBytes + Immutable>(host: &Host, cmd: u32, arm: &A, errno: Errno) {
    assert_eq!(call(host, cmd, arm).0, errno.to_return(), "operation {cmd}");
}

fn bitmap(address: u64, nr_bits: u32) -> XenctlBitmap {
    XenctlBitmap {
        bitmap: GuestHandle::new(address),
        nr_bits,
        ..Default::default()
    }
}

#[test]
fn only_the_control_domain_is_answered() {
    let host = Host::new();
    for cmd in 0..40 {
        let at = host.put(DOMU, &Sysctl::new(cmd));
        assert_eq!(
            host.hypercall(DOMU, HYPERVISOR_SYSCTL, &[at]),
            Errno::EPERM.to_return()
        );
    }
}

#[test]
fn the_argument_and_its_version_come_before_the_right_to_ask() {
    let host = Host::new();
    for domain in [DOM0, DOMU] {
        for address in [0, UNMAPPED, 0xffff_8000_0000_0000, u64::MAX] {
            assert_eq!(
                host.hypercall(domain, HYPERVISOR_SYSCTL, &[address]),
                Errno::EFAULT.to_return()
            );
        }
        let mut op = Sysctl::new(XEN_SYSCTL_PHYSINFO);
        op.interface_version -= 1;
        let at = host.put(domain, &op);
        assert_eq!(
            host.hypercall(domain, HYPERVISOR_SYSCTL, &[at]),
            Errno::EACCES.to_return()
        );
    }
}

#[test]
fn what_is_not_there_answers_as_a_xen_without_it() {
    let host = Host::new();
    for (cmd, errno) in [
        (0, Errno::ENOSYS),
        (XEN_SYSCTL_TBUF_OP, Errno::ENOSYS),
        (XEN_SYSCTL_PERFC_OP, Errno::ENOSYS),
        (XEN_SYSCTL_LOCKPROF_OP, Errno::ENOSYS),
        (XEN_SYSCTL_PAGE_OFFLINE_OP, Errno::ENOSYS),
        (XEN_SYSCTL_LIVEPATCH_OP, Errno::ENOSYS),
        (XEN_SYSCTL_COVERAGE_OP, Errno::EOPNOTSUPP),
        (XEN_SYSCTL_CPU_HOTPLUG, Errno::EOPNOTSUPP),
        (XEN_SYSCTL_GET_PMSTAT, Errno::ENODEV),
        (XEN_SYSCTL_PM_OP, Errno::ENODEV),
        (XEN_SYSCTL_PSR_CMT_OP, Errno::ENODEV),
        (XEN_SYSCTL_PSR_ALLOC, Errno::ENODEV),
        (u32::MAX, Errno::ENOSYS),
    ] {
        fail(&host, cmd, &[0_u64; 16], errno);
    }
}

#[test]
fn physinfo_counts_processors_and_memory() {
    let host = Host::new();
    let info = succeed(
        &host,
        XEN_SYSCTL_PHYSINFO,
        &SysctlPhysinfo::read_from_bytes(&[0xff; 112]).expect("its size"),
    );
    assert_eq!((info.nr_cpus, info.max_cpu_id), (1, 0));
    assert_eq!((info.threads_per_core, info.cores_per_socket), (1, 1));
    assert_eq!((info.nr_nodes, info.max_node_id), (1, 0));
    assert_eq!(info.capabilities, XEN_SYSCTL_PHYSCAP_PV);
    assert_eq!((info.arch_capabilities, info.pad), (0, 0));
    assert_eq!(u64::from(info.cpu_khz), host.hv.machine.tsc_info().khz);
    assert_eq!(info.total_pages, host.hv.memory.total_frames());
    assert_eq!(info.free_pages, host.hv.memory.free_frames());
    assert_eq!((info.scrub_pages, info.outstanding_pages), (0, 0));
    assert_eq!(info.max_mfn, host.hv.machine.frame_limit() - 1);
    assert_eq!(info.hw_cap, host.hv.cpuid.hardware_features());
}

#[test]
fn domains_are_listed_in_order_within_the_room_there_is() {
    let mut host = Host::new();
    host.add_domain(Domid(7), false);
    let buffer = host.room(DOM0, 4 * size_of::<DomctlGetdomaininfo>());
    let list = |first, max| {
        let arm = SysctlGetdomaininfolist {
            first_domain: Domid(first),
            max_domains: max,
            buffer: GuestHandle::new(buffer),
            ..Default::default()
        };
        let count = succeed(&host, XEN_SYSCTL_GETDOMAININFOLIST, &arm).num_domains;
        let infos: [DomctlGetdomaininfo; 4] = host.get(DOM0, buffer);
        infos
            .iter()
            .take(count as usize)
            .map(|info| info.domain.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(0, 4), [0, 1, 7]);
    assert_eq!(list(0, u32::MAX), [0, 1, 7]);
    assert_eq!(list(0, 2), [0, 1]);
    assert_eq!(list(2, 4), [7]);
    assert_eq!(list(8, 4), [0_u16; 0]);
    assert_eq!(list(u16::MAX, 4), [0_u16; 0]);
    assert_eq!(list(0, 0), [0_u16; 0]);
    let info: DomctlGetdomaininfo = {
        list(1, 1);
        host.get(DOM0, buffer)
    };
    assert_eq!(info.tot_pages, host.domain(DOMU).owner.frames());
    assert_eq!(info.max_pages, host.domain(DOMU).owner.max_frames());
    assert_eq!(info.nr_online_vcpus, 1);
    assert_eq!(info.flags & XEN_DOMINF_BLOCKED, 0);
    assert_eq!(info.handle, [1; 16]);
    let bad = SysctlGetdomaininfolist {
        max_domains: 4,
        buffer: GuestHandle::new(UNMAPPED),
        ..Default::default()
    };
    fail(&host, XEN_SYSCTL_GETDOMAININFOLIST, &bad, Errno::EFAULT);
}

fn read_console(host: &Host, arm: SysctlReadconsole) -> (String, SysctlReadconsole) {
    let arm = succeed(host, XEN_SYSCTL_READCONSOLE, &arm);
    let text: [u8; 2048] = host.get(DOM0, arm.buffer.address());
    let text = &text[..arm.count as usize];
    (String::from_utf8_lossy(text).into_owned(), arm)
}

#[test]
fn the_log_is_read_whole_in_pieces_and_from_where_one_left_off() {
    let host = Host::new();
    let arm = SysctlReadconsole {
        buffer: GuestHandle::new(host.room(DOM0, 2048)),
        count: 2048,
        ..Default::default()
    };
    let line = "x".repeat(500);
    host.hv.log(LogLevel::Error, format_args!("{line}"));
    let whole = format!("(XEN) {line}\n");
    let (text, after) = read_console(&host, arm);
    assert_eq!(text, whole);
    let piece = SysctlReadconsole { count: 100, ..arm };
    let (text, middle) = read_console(&host, piece);
    assert_eq!(text, whole[..100]);
    let incremental = |index| SysctlReadconsole {
        incremental: 1,
        index,
        ..arm
    };
    assert_eq!(
        read_console(&host, incremental(middle.index)).0,
        whole[100..]
    );
    assert_eq!(read_console(&host, incremental(after.index)).0, "");
    host.hv.log(LogLevel::Error, format_args!("more"));
    assert_eq!(
        read_console(&host, incremental(after.index)).0,
        "(XEN) more\n"
    );
    // A position that never was begins with the oldest byte.
    assert!(
        read_console(&host, incremental(after.index + 5000))
            .0
            .starts_with(&whole)
    );
}

#[test]
fn clearing_forgets_what_was_read_and_no_more() {
    let host = Host::new();
    let arm = SysctlReadconsole {
        buffer: GuestHandle::new(host.room(DOM0, 2048)),
        count: 2048,
        ..Default::default()
    };
    host.hv.log(LogLevel::Error, format_args!("one"));
    let part = SysctlReadconsole {
        clear: 1,
        count: 6,
        ..arm
    };
    assert_eq!(read_console(&host, part).0, "(XEN) ");
    assert_eq!(read_console(&host, arm).0, "one\n");
    read_console(&host, SysctlReadconsole { clear: 1, ..arm });
    assert_eq!(read_console(&host, arm).0, "");
}

#[test]
fn a_log_that_cannot_be_written_is_not_cleared() {
    let host = Host::new();
    host.hv.log(LogLevel::Error, format_args!("one"));
    let bad = SysctlReadconsole {
        clear: 1,
        buffer: GuestHandle::new(UNMAPPED),
        count: u32::MAX,
        ..Default::default()
    };
    fail(&host, XEN_SYSCTL_READCONSOLE, &bad, Errno::EFAULT);
    let wrapping = SysctlReadconsole {
        buffer: GuestHandle::new(u64::MAX - 1),
        ..bad
    };
    fail(&host, XEN_SYSCTL_READCONSOLE, &wrapping, Errno::EFAULT);
    let good = SysctlReadconsole {
        buffer: GuestHandle::new(host.room(DOM0, 2048)),
        count: 2048,
        ..Default::default()
    };
    assert_eq!(read_console(&host, good).0, "(XEN) one\n");
}

#[test]
fn idle_time_is_what_vcpus_did_not_use() {
    let host = Host::new();
    let buffer = host.room(DOM0, 16);
    let arm = SysctlGetcpuinfo {
        max_cpus: 8,
        info: GuestHandle::new(buffer),
        ..Default::default()
    };
    let idle = || {
        assert_eq!(succeed(&host, XEN_SYSCTL_GETCPUINFO, &arm).nr_cpus, 1);
        host.get::<SysctlCpuinfo>(DOM0, buffer).idletime
    };
    let before = idle();
    host.hv.machine.pass_time(1_000_000);
    let after = idle();
    assert!(after > before);
    crate::sched::switched_in(&host.hv, &host.vcpu(DOMU));
    let start = idle();
    host.hv.machine.pass_time(1_000_000);
    assert_eq!(idle(), start);
    let none = SysctlGetcpuinfo {
        max_cpus: 0,
        info: GuestHandle::new(UNMAPPED),
        ..Default::default()
    };
    assert_eq!(succeed(&host, XEN_SYSCTL_GETCPUINFO, &none).nr_cpus, 0);
    let bad = SysctlGetcpuinfo {
        max_cpus: 1,
        ..none
    };
    fail(&host, XEN_SYSCTL_GETCPUINFO, &bad, Errno::EFAULT);
}

#[test]
fn free_memory_is_told_by_width_and_node() {
    let host = Host::new();
    let available = |min_bitwidth, max_bitwidth, node| {
        let arm = SysctlAvailheap {
            min_bitwidth,
            max_bitwidth,
            node,
            ..Default::default()
        };
        succeed(&host, XEN_SYSCTL_AVAILHEAP, &arm).avail_bytes
    };
    let all = host.hv.memory.free_frames() * 4096;
    assert_eq!(available(0, 0, -1), all);
    assert_eq!(available(0, 0, 0), all);
    assert_eq!(available(0, 0, 1), 0);
    // The machine has 16 MiB: 24 bits.
    assert_eq!(available(0, 24, -1), all);
    assert_eq!(available(25, 0, -1), 0);
    assert_eq!(available(0, 23, -1) + available(24, 24, -1), all);
    assert_eq!(available(u32::MAX, u32::MAX, -1), 0);
}

fn machine_with_topology(cpus: u32) -> hv_machine::sim::Machine {
    let machine = hv_machine::sim::Machine::with_cpus(4096, cpus);
    machine.set_cpuid(0, 0, [0xb, 0, 0, 0]);
    machine.set_cpuid(0xb, 0, [1, 2, 0x100, 0]);
    machine.set_cpuid(0xb, 1, [2, 4, 0x201, 0]);
    machine
}

#[test]
fn topology_counts_no_more_than_the_processors_that_are_up() {
    for (cpus, threads, cores) in [(1, 1, 1), (2, 2, 1), (4, 2, 2), (8, 2, 2)] {
        let topology = topology::Topology::of(&machine_with_topology(cpus));
        assert_eq!(
            (topology.threads_per_core, topology.cores_per_socket),
            (threads, cores),
            "{cpus}"
        );
    }
    let silent = hv_machine::sim::Machine::with_cpus(4096, 4);
    let topology = topology::Topology::of(&silent);
    assert_eq!(
        (topology.threads_per_core, topology.cores_per_socket),
        (1, 1)
    );
}

#[test]
fn processors_are_placed_by_thread_core_and_socket() {
    let host = Host::with_machine(MachineRef::new(machine_with_topology(8)));
    let buffer = host.room(DOM0, 8 * size_of::<SysctlCputopo>());
    let arm = SysctlCputopoinfo {
        num_cpus: 99,
        cputopo: GuestHandle::new(buffer),
        ..Default::default()
    };
    assert_eq!(succeed(&host, XEN_SYSCTL_CPUTOPOINFO, &arm).num_cpus, 8);
    let places = host.get::<[SysctlCputopo; 8]>(DOM0, buffer);
    assert_eq!(
        places.map(|place| (place.socket, place.core, place.node)),
        [
            (0, 0, 0),
            (0, 0, 0),
            (0, 1, 0),
            (0, 1, 0),
            (1, 0, 0),
            (1, 0, 0),
            (1, 1, 0),
            (1, 1, 0)
        ]
    );
    let fewer = SysctlCputopoinfo { num_cpus: 3, ..arm };
    assert_eq!(succeed(&host, XEN_SYSCTL_CPUTOPOINFO, &fewer).num_cpus, 3);
    let count = SysctlCputopoinfo::new_zeroed();
    assert_eq!(succeed(&host, XEN_SYSCTL_CPUTOPOINFO, &count).num_cpus, 8);
    let bad = SysctlCputopoinfo {
        num_cpus: 1,
        cputopo: GuestHandle::new(UNMAPPED),
        ..Default::default()
    };
    fail(&host, XEN_SYSCTL_CPUTOPOINFO, &bad, Errno::EFAULT);
}

#[test]
fn one_node_has_all_memory() {
    let host = Host::new();
    let (memory, distance) = (host.room(DOM0, 16), host.room(DOM0, 8));
    let arm = SysctlNumainfo {
        num_nodes: 5,
        meminfo: GuestHandle::new(memory),
        distance: GuestHandle::new(distance),
        ..Default::default()
    };
    assert_eq!(succeed(&host, XEN_SYSCTL_NUMAINFO, &arm).num_nodes, 1);
    let info: SysctlMeminfo = host.get(DOM0, memory);
    assert_eq!(info.memsize, host.hv.machine.frame_limit() * 4096);
    assert_eq!(info.memfree, host.hv.memory.free_frames() * 4096);
    assert_eq!(host.get::<u32>(DOM0, distance), 10);
    let none = SysctlNumainfo::new_zeroed();
    assert_eq!(succeed(&host, XEN_SYSCTL_NUMAINFO, &none).num_nodes, 1);
    let no_room = SysctlNumainfo {
        num_nodes: 0,
        meminfo: GuestHandle::new(UNMAPPED),
        ..Default::default()
    };
    assert_eq!(succeed(&host, XEN_SYSCTL_NUMAINFO, &no_room).num_nodes, 0);
    let bad_memory = SysctlNumainfo {
        num_nodes: 1,
        ..no_room
    };
    fail(&host, XEN_SYSCTL_NUMAINFO, &bad_memory, Errno::EFAULT);
    let bad_distance = SysctlNumainfo {
        num_nodes: 1,
        distance: GuestHandle::new(UNMAPPED),
        ..Default::default()
    };
    fail(&host, XEN_SYSCTL_NUMAINFO, &bad_distance, Errno::EFAULT);
}

#[test]
fn no_node_is_known_of_any_device() {
    let host = Host::new();
    let device = |devfn| PhysdevPciDevice {
        seg: 0,
        bus: 1,
        devfn,
    };
    host.hv.pirqs.lock().pci_devices.insert((0, 1, 8));
    let devices = host.put_slice(DOM0, &[device(8), device(9)]);
    let nodes = host.put(DOM0, &[0_u32; 3]);
    let arm = |num_devs, devs, nodes| SysctlPcitopoinfo {
        num_devs,
        devs: GuestHandle::new(devs),
        nodes: GuestHandle::new(nodes),
        ..Default::default()
    };
    let cmd = XEN_SYSCTL_PCITOPOINFO;
    assert_eq!(succeed(&host, cmd, &arm(2, devices, nodes)).num_devs, 2);
    assert_eq!(
        host.get::<[u32; 3]>(DOM0, nodes),
        [XEN_INVALID_NODE_ID, XEN_INVALID_DEV, 0]
    );
    assert_eq!(succeed(&host, cmd, &arm(0, UNMAPPED, nodes)).num_devs, 0);
    for (devs, nodes, errno) in [
        (0, nodes, Errno::EINVAL),
        (devices, 0, Errno::EINVAL),
        (UNMAPPED, nodes, Errno::EFAULT),
        (devices, UNMAPPED, Errno::EFAULT),
    ] {
        fail(&host, cmd, &arm(u32::MAX, devs, nodes), errno);
    }
    // Out of time: as many as were done.
    let at = host.put(DOM0, &Sysctl::with(cmd, &arm(2, devices, nodes)));
    host.as_guest(DOM0, |cx| {
        cx.deadline = 0;
        assert_eq!(do_sysctl(cx, &[at, 0, 0, 0, 0, 0]), Ok(0));
    });
    let told: SysctlPcitopoinfo = host.get::<Sysctl>(DOM0, at).u.get();
    assert_eq!(told.num_devs, 1);
}

fn scheduler_op(cmd: u32, parameters: SysctlCreditSchedule) -> SysctlSchedulerOp {
    let mut arm = SysctlSchedulerOp {
        sched_id: XEN_SCHEDULER_CREDIT,
        cmd,
        ..Default::default()
    };
    arm.u.set(&parameters);
    arm
}

#[test]
fn the_credit_schedulers_slice_is_read_and_set() {
    let host = Host::new();
    let id = succeed(&host, XEN_SYSCTL_SCHED_ID, &SysctlSchedId { sched_id: 0 });
    assert_eq!(id.sched_id, XEN_SCHEDULER_CREDIT);
    let get = || {
        let arm = scheduler_op(XEN_SYSCTL_SCHEDOP_GETINFO, Default::default());
        let parameters: SysctlCreditSchedule =
            succeed(&host, XEN_SYSCTL_SCHEDULER_OP, &arm).u.get();
        (parameters.tslice_ms, parameters.ratelimit_us)
    };
    assert_eq!(get(), (30, 1000));
    let put = |tslice_ms, ratelimit_us, vcpu_migr_delay_us| {
        let wanted = SysctlCreditSchedule {
            tslice_ms,
            ratelimit_us,
            vcpu_migr_delay_us,
        };
        let arm = scheduler_op(XEN_SYSCTL_SCHEDOP_PUTINFO, wanted);
        let (result, arm) = call(&host, XEN_SYSCTL_SCHEDULER_OP, &arm);
        (result, arm.u.get::<SysctlCreditSchedule>())
    };
    let (result, effective) = put(5, 0, 70);
    assert_eq!(result, 0);
    assert_eq!(effective.vcpu_migr_delay_us, 0);
    assert_eq!(get(), (5, 0));
    for (slice, limit, delay) in [
        (0, 0, 0),
        (1001, 0, 0),
        (10, 99, 0),
        (1000, 500_001, 0),
        (1, 1001, 0),
        (10, 0, 100_001),
        (u32::MAX, u32::MAX, u32::MAX),
    ] {
        assert_eq!(put(slice, limit, delay).0, Errno::EINVAL.to_return());
    }
    assert_eq!(get(), (5, 0));
}

#[test]
fn another_scheduler_or_pool_is_refused() {
    let host = Host::new();
    let good = scheduler_op(XEN_SYSCTL_SCHEDOP_GETINFO, Default::default());
    for (arm, errno) in [
        (SysctlSchedulerOp { cmd: 2, ..good }, Errno::EINVAL),
        (
            SysctlSchedulerOp {
                sched_id: XEN_SCHEDULER_CREDIT + 1,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            SysctlSchedulerOp {
                cpupool_id: 1,
                ..good
            },
            Errno::ESRCH,
        ),
    ] {
        fail(&host, XEN_SYSCTL_SCHEDULER_OP, &arm, errno);
    }
}

#[test]
fn there_is_one_pool_and_it_has_all_processors_and_domains() {
    let host = Host::new();
    let map = host.put(DOM0, &u64::MAX);
    let arm = SysctlCpupoolOp {
        op: XEN_SYSCTL_CPUPOOL_OP_INFO,
        cpumap: bitmap(map, 64),
        ..Default::default()
    };
    let info = succeed(&host, XEN_SYSCTL_CPUPOOL_OP, &arm);
    assert_eq!((info.cpupool_id, info.n_dom), (0, 2));
    assert_eq!(info.sched_id, XEN_SCHEDULER_CREDIT);
    assert_eq!(host.get::<u64>(DOM0, map), 1);
    let free = SysctlCpupoolOp {
        op: XEN_SYSCTL_CPUPOOL_OP_FREEINFO,
        ..arm
    };
    succeed(&host, XEN_SYSCTL_CPUPOOL_OP, &free);
    assert_eq!(host.get::<u64>(DOM0, map), 0);
    let bad = SysctlCpupoolOp {
        cpumap: bitmap(UNMAPPED, 64),
        ..arm
    };
    fail(&host, XEN_SYSCTL_CPUPOOL_OP, &bad, Errno::EFAULT);
}

#[test]
fn the_pool_cannot_be_changed() {
    let host = Host::new();
    let any = XEN_SYSCTL_CPUPOOL_PAR_ANY;
    let u32_of = |domain: Domid| u32::from(domain.0);
    // Operation, pool, CPU, domain.
    for (op, cpupool_id, cpu, domid, errno) in [
        (XEN_SYSCTL_CPUPOOL_OP_CREATE, 0, 0, 0, Some(Errno::EEXIST)),
        (XEN_SYSCTL_CPUPOOL_OP_CREATE, any, 0, 0, Some(Errno::EINVAL)),
        (XEN_SYSCTL_CPUPOOL_OP_DESTROY, 0, 0, 0, Some(Errno::EBUSY)),
        (XEN_SYSCTL_CPUPOOL_OP_DESTROY, 1, 0, 0, Some(Errno::ENOENT)),
        (XEN_SYSCTL_CPUPOOL_OP_INFO, 1, 0, 0, Some(Errno::ENOENT)),
        (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 1, 0, 0, Some(Errno::ENOENT)),
        (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 0, any, 0, Some(Errno::ENODEV)),
        (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 0, 0, 0, Some(Errno::ENODEV)),
        (XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 0, 64, 0, Some(Errno::EINVAL)),
        (XEN_SYSCTL_CPUPOOL_OP_RMCPU, 1, 0, 0, Some(Errno::ENOENT)),
        (XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, any, 0, Some(Errno::EBUSY)),
        (XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, 0, 0, Some(Errno::EBUSY)),
        (XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, 64, 0, Some(Errno::EINVAL)),
        (
            XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
            0,
            0,
            u32_of(DOM0),
            Some(Errno::EPERM),
        ),
        (
            XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
            0,
            0,
            9,
            Some(Errno::ESRCH),
        ),
        (
            XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
            0,
            0,
            0x1_0001,
            Some(Errno::ESRCH),
        ),
        (
            XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
            1,
            0,
            u32_of(DOMU),
            Some(Errno::ENOENT),
        ),
        (XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 0, 0, u32_of(DOMU), None),
        (99, 0, 0, 0, Some(Errno::ENOSYS)),
    ] {
        let arm = SysctlCpupoolOp {
            op,
            cpupool_id,
            cpu,
            domid,
            ..Default::default()
        };
        let expected = errno.map_or(0, Errno::to_return);
        let (result, _) = call(&host, XEN_SYSCTL_CPUPOOL_OP, &arm);
        assert_eq!(result, expected, "{op} {cpupool_id} {cpu} {domid}");
    }
}

#[test]
fn keys_are_read_and_passed_over() {
    let host = Host::new();
    let keys = host.put(DOM0, b"hq");
    let press = |address, nr_keys| SysctlDebugKeys {
        keys: GuestHandle::new(address),
        nr_keys,
        ..Default::default()
    };
    succeed(&host, XEN_SYSCTL_DEBUG_KEYS, &press(keys, 2));
    fail(
        &host,
        XEN_SYSCTL_DEBUG_KEYS,
        &press(UNMAPPED, 1),
        Errno::EFAULT,
    );
    fail(
        &host,
        XEN_SYSCTL_DEBUG_KEYS,
        &press(keys, u32::MAX),
        Errno::E2BIG,
    );
}

/// A host whose processor has some leaves.
fn host_with_leaves() -> Host {
    let machine = hv_machine::sim::Machine::new(4096);
    machine.set_cpuid(0, 0, [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
    machine.set_cpuid(1, 0, [0x306c3, 0x0800, 0x7ffa_fbff, 0xbfeb_fbff]);
    machine.set_cpuid(4, 0, [0x121, 1, 2, 3]);
    machine.set_cpuid(7, 0, [0, 0x27ab, 0, 0]);
    machine.set_cpuid(0xd, 0, [7, 832, 832, 0]);
    machine.set_cpuid(0xd, 2, [256, 576, 0, 0]);
    machine.set_cpuid(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]);
    machine.set_cpuid(0x8000_0001, 0, [0, 0, 0x21, 0x2c10_0800]);
    Host::with_machine(MachineRef::new(machine))
}

#[test]
fn feature_sets_are_copied_as_far_as_there_is_room() {
    let host = host_with_leaves();
    let count = cpuid::WORD_COUNT as u32;
    let arm = SysctlCpuFeatureset::new_zeroed();
    assert_eq!(
        succeed(&host, XEN_SYSCTL_GET_CPU_FEATURESET, &arm).nr_features,
        count
    );
    let buffer = host.room(DOM0, 4 * cpuid::WORD_COUNT);
    let get = |index, nr_features| SysctlCpuFeatureset {
        index,
        nr_features,
        features: GuestHandle::new(buffer),
    };
    let words = |index| {
        let got = succeed(&host, XEN_SYSCTL_GET_CPU_FEATURESET, &get(index, 99));
        assert_eq!(got.nr_features, count);
        host.get::<[u32; cpuid::WORD_COUNT]>(DOM0, buffer)
    };
    let raw = words(XEN_SYSCTL_CPU_FEATURESET_RAW);
    assert_eq!(raw[..2], [0xbfeb_fbff, 0x7ffa_fbff]);
    let pv = words(XEN_SYSCTL_CPU_FEATURESET_PV);
    assert_ne!(pv[0], raw[0]);
    let (result, got) = call(&host, XEN_SYSCTL_GET_CPU_FEATURESET, &get(0, 2));
    assert_eq!(result, Errno::ENOBUFS.to_return());
    assert_eq!(got.nr_features, 2);
    for (index, errno) in [
        (XEN_SYSCTL_CPU_FEATURESET_HVM, Errno::EOPNOTSUPP),
        (4, Errno::EINVAL),
        (u32::MAX, Errno::EINVAL),
    ] {
        fail(&host, XEN_SYSCTL_GET_CPU_FEATURESET, &get(index, 99), errno);
    }
    let bad = SysctlCpuFeatureset {
        features: GuestHandle::new(UNMAPPED),
        ..get(0, 99)
    };
    fail(&host, XEN_SYSCTL_GET_CPU_FEATURESET, &bad, Errno::EFAULT);
    let caps = SysctlCpuLevellingCaps { caps: 9 };
    let caps = succeed(&host, XEN_SYSCTL_GET_CPU_LEVELLING_CAPS, &caps);
    assert_eq!(caps.caps, 0);
}

#[test]
fn policies_are_lists_of_leaves_and_registers() {
    let host = host_with_leaves();
    let sizes = succeed(
        &host,
        XEN_SYSCTL_GET_CPU_POLICY,
        &SysctlCpuPolicy::new_zeroed(),
    );
    assert_eq!((sizes.nr_leaves, sizes.nr_msrs), (120, 2));
    let leaves = host.room(DOM0, 120 * size_of::<CpuidLeaf>());
    let msrs = host.room(DOM0, 2 * size_of::<MsrEntry>());
    let get = |index| SysctlCpuPolicy {
        index,
        nr_leaves: sizes.nr_leaves,
        nr_msrs: sizes.nr_msrs,
        leaves: GuestHandle::new(leaves),
        msrs: GuestHandle::new(msrs),
        ..Default::default()
    };
    for index in [
        XEN_SYSCTL_CPU_POLICY_RAW,
        XEN_SYSCTL_CPU_POLICY_HOST,
        XEN_SYSCTL_CPU_POLICY_PV_MAX,
        XEN_SYSCTL_CPU_POLICY_PV_DEFAULT,
    ] {
        let got = succeed(&host, XEN_SYSCTL_GET_CPU_POLICY, &get(index));
        assert!((20..=120).contains(&got.nr_leaves), "{}", got.nr_leaves);
        assert_eq!(got.nr_msrs, 2);
        let list: [CpuidLeaf; 120] = host.get(DOM0, leaves);
        let list = &list[..got.nr_leaves as usize];
        assert!(list.is_sorted_by_key(|leaf| (leaf.leaf, leaf.subleaf)));
        assert!(list.iter().all(cpuid::is_listed));
        let first = list[0];
        assert_eq!(
            (first.leaf, first.subleaf, first.b),
            (0, XEN_CPUID_NO_SUBLEAF, 0x756e_6547)
        );
    }
    let few = SysctlCpuPolicy {
        nr_leaves: 3,
        ..get(0)
    };
    let one = SysctlCpuPolicy {
        nr_msrs: 1,
        ..get(0)
    };
    let reserved = SysctlCpuPolicy { _rsvd: 1, ..get(0) };
    let bad_leaves = SysctlCpuPolicy {
        leaves: GuestHandle::new(UNMAPPED),
        ..get(0)
    };
    let bad_msrs = SysctlCpuPolicy {
        msrs: GuestHandle::new(UNMAPPED),
        ..get(0)
    };
    for (arm, errno) in [
        (few, Errno::ENOBUFS),
        (one, Errno::ENOBUFS),
        (reserved, Errno::EINVAL),
        (bad_leaves, Errno::EFAULT),
        (bad_msrs, Errno::EFAULT),
        (get(XEN_SYSCTL_CPU_POLICY_HVM_MAX), Errno::EOPNOTSUPP),
        (get(XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT), Errno::EOPNOTSUPP),
        (get(6), Errno::EINVAL),
    ] {
        fail(&host, XEN_SYSCTL_GET_CPU_POLICY, &arm, errno);
    }
}
