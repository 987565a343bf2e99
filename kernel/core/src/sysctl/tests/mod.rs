//! The operations through the hypercall, as the toolstack makes them.

mod cpu;
mod perfc;
mod pool;
mod topology;

use super::*;

use hv_machine::{LogLevel, MachineRef, Platform};
use hypercall_abi::domctl::{DomctlGetdomaininfo, XEN_DOMINF_BLOCKED, XEN_SCHEDULER_CREDIT};
use hypercall_abi::types::{Domid, GuestHandle};
use hypercall_abi::xen::{HYPERVISOR_SYSCTL, XenctlBitmap};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

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
    let grants = XEN_SYSCTL_PHYSCAP_GNTTAB_V1 | XEN_SYSCTL_PHYSCAP_GNTTAB_V2;
    assert_eq!(info.capabilities, XEN_SYSCTL_PHYSCAP_PV | grants);
    assert_eq!((info.arch_capabilities, info.pad), (0, 0));
    assert_eq!(u64::from(info.cpu_khz), host.hv.machine.tsc_info().khz());
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
