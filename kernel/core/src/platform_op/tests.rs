use super::*;

use hv_machine::MachineRef;
use hypercall_abi::xen::HYPERVISOR_PLATFORM_OP;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::testing::{DOM0, DOMU, Host, UNMAPPED};

/// Makes a call as the control domain; gives the result and the arm as it is afterwards.
fn call<A: FromBytes + IntoBytes + Immutable>(host: &Host, cmd: u32, arm: &A) -> (i64, A) {
    let at = host.put(DOM0, &PlatformOp::with(cmd, arm));
    let result = host.hypercall(DOM0, HYPERVISOR_PLATFORM_OP, &[at]);
    (result, host.get::<PlatformOp>(DOM0, at).u.get())
}

#[track_caller]
fn succeed<A: FromBytes + IntoBytes + Immutable>(host: &Host, cmd: u32, arm: &A) -> A {
    let (result, arm) = call(host, cmd, arm);
    assert_eq!(result, 0, "operation {cmd}");
    arm
}

#[track_caller]
fn fail<A: FromBytes + IntoBytes + Immutable>(host: &Host, cmd: u32, arm: &A, errno: Errno) {
    assert_eq!(call(host, cmd, arm).0, errno.to_return(), "operation {cmd}");
}

#[test]
fn only_the_control_domain_is_answered() {
    let host = Host::new();
    for cmd in 0..70 {
        let at = host.put(DOMU, &PlatformOp::with(cmd, &[0_u64; 16]));
        assert_eq!(
            host.hypercall(DOMU, HYPERVISOR_PLATFORM_OP, &[at]),
            Errno::EPERM.to_return()
        );
    }
}

#[test]
fn the_argument_and_its_version_come_before_the_right_to_ask() {
    let host = Host::new();
    for domain in [DOM0, DOMU] {
        for address in [0, UNMAPPED, u64::MAX] {
            assert_eq!(
                host.hypercall(domain, HYPERVISOR_PLATFORM_OP, &[address]),
                Errno::EFAULT.to_return()
            );
        }
        let mut op = PlatformOp::with(XENPF_SETTIME64, &[0_u64; 16]);
        op.interface_version += 1;
        let at = host.put(domain, &op);
        assert_eq!(
            host.hypercall(domain, HYPERVISOR_PLATFORM_OP, &[at]),
            Errno::EACCES.to_return()
        );
    }
}

#[test]
fn the_wall_clock_is_set_for_every_domain() {
    let host = Host::new();
    let wall = |id| {
        let offset = core::mem::offset_of!(hypercall_abi::xen::SharedInfo, wc_sec);
        host.shared::<u32>(id, offset)
    };
    let arm = XenpfSettime64 {
        secs: 1_000_010,
        nsecs: 0,
        mbz: 0,
        system_time: 10_000_000_000,
    };
    succeed(&host, XENPF_SETTIME64, &arm);
    assert_eq!((wall(DOM0), wall(DOMU)), (1_000_000, 1_000_000));
    let arm = XenpfSettime32 {
        secs: 2_000_000,
        nsecs: 0,
        system_time: 0,
    };
    succeed(&host, XENPF_SETTIME32, &arm);
    assert_eq!((wall(DOM0), wall(DOMU)), (2_000_000, 2_000_000));
    let odd = XenpfSettime64 {
        secs: 0,
        nsecs: 0,
        mbz: 1,
        system_time: 0,
    };
    fail(&host, XENPF_SETTIME64, &odd, Errno::EINVAL);
    // Before 1970, and further than any clock goes: nonsense, but nobody's harm.
    for (secs, nsecs, system_time) in [
        (0, 0, u64::MAX),
        (u64::MAX, u32::MAX, 0),
        (u64::MAX, u32::MAX, u64::MAX),
    ] {
        let arm = XenpfSettime64 {
            secs,
            nsecs,
            mbz: 0,
            system_time,
        };
        succeed(&host, XENPF_SETTIME64, &arm);
    }
}

#[test]
fn processors_are_described() {
    let machine = hv_machine::sim::Machine::with_cpus(4096, 2);
    machine.set_cpuid(0, 0, [1, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
    machine.set_cpuid(1, 0, [0x0005_0654, 0, 0, 0]);
    let host = Host::with_machine(MachineRef::new(machine));
    let info = |xen_cpuid| {
        let arm = XenpfPcpuinfo {
            xen_cpuid,
            ..Default::default()
        };
        succeed(&host, XENPF_GET_CPUINFO, &arm)
    };
    let second = info(1);
    assert_eq!((second.max_present, second.apic_id), (1, 1));
    assert_eq!(second.flags, XEN_PCPU_FLAGS_ONLINE);
    for absent in [2, u32::MAX] {
        assert_eq!(info(absent).flags, XEN_PCPU_FLAGS_INVALID);
    }
    let version = |xen_cpuid| {
        let arm = XenpfPcpuVersion {
            xen_cpuid,
            ..Default::default()
        };
        succeed(&host, XENPF_GET_CPU_VERSION, &arm)
    };
    let first = version(0);
    assert_eq!(&first.vendor_id, b"GenuineIntel");
    assert_eq!((first.family, first.model, first.stepping), (6, 0x55, 4));
    assert_eq!(version(2).vendor_id, [0; 12]);
}

#[test]
fn families_and_models_are_put_together_from_their_parts() {
    assert_eq!(decode(0x0005_0654), (6, 0x55, 4));
    assert_eq!(decode(0x00a2_0f12), (0x19, 0x21, 2));
    assert_eq!(decode(0x0000_0543), (5, 4, 3));
}

#[test]
fn processors_stay_up() {
    let host = Host::new();
    let arm = |cpuid| XenpfCpuOl { cpuid };
    succeed(&host, XENPF_CPU_ONLINE, &arm(0));
    fail(&host, XENPF_CPU_ONLINE, &arm(1), Errno::EINVAL);
    fail(&host, XENPF_CPU_OFFLINE, &arm(0), Errno::EOPNOTSUPP);
    fail(&host, XENPF_CPU_OFFLINE, &arm(1), Errno::EINVAL);
    let parking = |type_, idle_nums| XenpfCoreParking { type_, idle_nums };
    let cmd = XENPF_CORE_PARKING;
    let got = succeed(&host, cmd, &parking(XEN_CORE_PARKING_GET, 5));
    assert_eq!(got.idle_nums, 0);
    succeed(&host, cmd, &parking(XEN_CORE_PARKING_SET, 0));
    fail(&host, cmd, &parking(XEN_CORE_PARKING_SET, 1), Errno::ENOSYS);
    fail(&host, cmd, &parking(9, 0), Errno::EINVAL);
}

#[test]
fn idle_times_are_told_of_the_processors_that_there_are() {
    let host = Host::new();
    host.hv.machine.pass_time(5_000_000);
    let map = host.put(DOM0, &0x5_u64);
    let times = host.put(DOM0, &[0_u64; 4]);
    let arm = XenpfGetidletime {
        cpumap_bitmap: GuestHandle::new(map),
        cpumap_nr_cpus: 64,
        idletime: GuestHandle::new(times),
        ..Default::default()
    };
    let got = succeed(&host, XENPF_GETIDLETIME, &arm);
    assert_eq!(host.get::<u64>(DOM0, map), 1);
    let [idle, _, absent, _] = host.get::<[u64; 4]>(DOM0, times);
    assert!(idle >= 5_000_000 && got.now >= idle);
    assert_eq!(absent, 0);
    for bad in [
        XenpfGetidletime {
            cpumap_bitmap: GuestHandle::new(UNMAPPED),
            ..arm
        },
        XenpfGetidletime {
            idletime: GuestHandle::new(UNMAPPED),
            ..arm
        },
    ] {
        fail(&host, XENPF_GETIDLETIME, &bad, Errno::EFAULT);
    }
    let fixed = XenpfGetidletime {
        cpumap_bitmap: GuestHandle::new(host.put_read_only(DOM0, &[1; 8])),
        ..arm
    };
    fail(&host, XENPF_GETIDLETIME, &fixed, Errno::EFAULT);
}

/// Values that QEMU's ACPI code has for the state S5.
const OFF: XenpfEnterAcpiSleep = XenpfEnterAcpiSleep {
    val_a: 0x2000,
    val_b: 0,
    sleep_state: 5,
    flags: 0,
};

#[test]
fn the_machine_is_switched_off_by_its_registers() {
    let host = Host::new();
    host.hv.machine.set_sleep_ports([Some(0x604), None]);
    host.hv.machine.take_port_writes();
    succeed(&host, XENPF_ENTER_ACPI_SLEEP, &OFF);
    assert_eq!(host.hv.machine.take_port_writes(), [(0x604, 2, 0x2000)]);
    host.hv.machine.set_sleep_ports([Some(0x604), Some(0x608)]);
    let both = XenpfEnterAcpiSleep {
        val_b: 0x3c00,
        ..OFF
    };
    succeed(&host, XENPF_ENTER_ACPI_SLEEP, &both);
    assert_eq!(
        host.hv.machine.take_port_writes(),
        [(0x604, 2, 0x2000), (0x608, 2, 0x3c00)]
    );
}

#[test]
fn no_other_sleep_is_entered() {
    let host = Host::new();
    let cmd = XENPF_ENTER_ACPI_SLEEP;
    fail(&host, cmd, &OFF, Errno::EPERM);
    host.hv.machine.set_sleep_ports([Some(0x604), None]);
    host.hv.machine.take_port_writes();
    let state = |sleep_state| XenpfEnterAcpiSleep { sleep_state, ..OFF };
    let extended = XenpfEnterAcpiSleep {
        flags: XENPF_ACPI_SLEEP_EXTENDED,
        ..OFF
    };
    let flags = XenpfEnterAcpiSleep { flags: 2, ..OFF };
    let mismatch = XenpfEnterAcpiSleep { val_b: 1, ..OFF };
    for (arm, errno) in [
        (state(0), Errno::EINVAL),
        (state(1), Errno::EOPNOTSUPP),
        (state(3), Errno::EOPNOTSUPP),
        (state(4), Errno::EOPNOTSUPP),
        (state(6), Errno::EINVAL),
        (state(u32::MAX), Errno::EINVAL),
        (extended, Errno::EPERM),
        (flags, Errno::EINVAL),
        (mismatch, Errno::EINVAL),
    ] {
        fail(&host, cmd, &arm, errno);
    }
    assert_eq!(host.hv.machine.take_port_writes(), []);
}

#[test]
fn what_is_left_alone_is_refused_as_by_a_xen_without_a_driver() {
    let host = Host::new();
    for (cmd, errno) in [
        (XENPF_ADD_MEMTYPE, Errno::ENXIO),
        (XENPF_DEL_MEMTYPE, Errno::ENXIO),
        (XENPF_READ_MEMTYPE, Errno::EINVAL),
        (XENPF_MICROCODE_UPDATE, Errno::EINVAL),
        (XENPF_EFI_RUNTIME_CALL, Errno::ENOSYS),
        (XENPF_CHANGE_FREQ, Errno::ENOSYS),
        (XENPF_CPU_HOTADD, Errno::ENOSYS),
        (XENPF_MEM_HOTADD, Errno::ENOSYS),
        (XENPF_RESOURCE_OP, Errno::ENOSYS),
        (XENPF_GET_SYMBOL, Errno::ENOSYS),
        (0, Errno::ENOSYS),
        (u32::MAX, Errno::ENOSYS),
    ] {
        fail(&host, cmd, &[0_u64; 16], errno);
    }
    let handle = XenpfDelMemtype { handle: 1, reg: 0 };
    fail(&host, XENPF_DEL_MEMTYPE, &handle, Errno::EINVAL);
    for quirk_id in [
        QUIRK_NOIRQBALANCING,
        QUIRK_IOAPIC_BAD_REGSEL,
        QUIRK_IOAPIC_GOOD_REGSEL,
    ] {
        let arm = XenpfPlatformQuirk { quirk_id };
        succeed(&host, XENPF_PLATFORM_QUIRK, &arm);
    }
    let arm = XenpfPlatformQuirk { quirk_id: 0 };
    fail(&host, XENPF_PLATFORM_QUIRK, &arm, Errno::EINVAL);
    for (type_, errno) in [
        (XEN_FW_DISK_INFO, Errno::ESRCH),
        (XEN_FW_DISK_MBR_SIGNATURE, Errno::ESRCH),
        (XEN_FW_VBEDDC_INFO, Errno::ESRCH),
        (XEN_FW_KBD_SHIFT_FLAGS, Errno::ESRCH),
        (XEN_FW_EFI_INFO, Errno::ENOSYS),
        (0, Errno::EINVAL),
        (u32::MAX, Errno::EINVAL),
    ] {
        let arm = XenpfFirmwareInfo {
            type_,
            ..Default::default()
        };
        fail(&host, XENPF_FIRMWARE_INFO, &arm, errno);
    }
    for (type_, errno) in [
        (XEN_PM_CX, Errno::ENOSYS),
        (XEN_PM_PX, Errno::ENOSYS),
        (XEN_PM_TX, Errno::ENOSYS),
        (XEN_PM_PDC, Errno::ENOSYS),
        (9, Errno::EINVAL),
    ] {
        let arm = XenpfSetProcessorPminfo {
            type_,
            ..Default::default()
        };
        fail(&host, XENPF_SET_PROCESSOR_PMINFO, &arm, errno);
    }
}
