//! `HYPERVISOR_platform_op` (`xen/platform.h`): the hardware as the control domain's drivers manage it together with
//! the hypervisor.
//!
//! What the hypervisor leaves alone (frequencies, MTRRs, microcode, EFI's runtime services) answers as a Xen that has
//! no driver for it.

use hv_machine::{IoWidth, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::platform::*;
use hypercall_abi::types::GuestHandle;
use hypercall_abi::xen::XenctlBitmap;

use crate::current::Current;
use crate::hypercall::{Args, HypercallResult};
use crate::{bitmap, sched, time};

/// SLP_EN in a power-management control register.
const SLEEP_ENABLE: u16 = 1 << 13;
/// `XenpfEnterAcpiSleep::sleep_state`.
const SUSPEND_TO_MEMORY: u32 = 3;
/// `XenpfEnterAcpiSleep::sleep_state`.
const SOFT_OFF: u32 = 5;

/// `HYPERVISOR_platform_op(operation)`.
///
/// # Errors
/// `EFAULT`, `EACCES` for another interface version, `EPERM` for any caller but the control domain, `ENOSYS` for an
/// unknown operation; others by operation.
pub fn do_platform_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let at = args[0];
    let mut op: PlatformOp = cx.read(at)?;
    if op.interface_version != XENPF_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    if apply(cx, &mut op)? {
        cx.write(at, &op)?;
    }
    Ok(0)
}

/// Returns whether the caller's struct is to be written back.
fn apply(cx: &Current<'_>, op: &mut PlatformOp) -> Result<bool, Errno> {
    match op.cmd {
        XENPF_SETTIME32 => {
            let arm: XenpfSettime32 = op.u.get();
            time::set_wall_clock(cx.hv, arm.secs.into(), arm.nsecs, arm.system_time);
            Ok(false)
        }
        XENPF_SETTIME64 => {
            let arm: XenpfSettime64 = op.u.get();
            if arm.mbz != 0 {
                return Err(Errno::EINVAL);
            }
            time::set_wall_clock(cx.hv, arm.secs, arm.nsecs, arm.system_time);
            Ok(false)
        }
        XENPF_GET_CPUINFO => Ok(cpu_info(cx, op)),
        XENPF_GET_CPU_VERSION => Ok(cpu_version(cx, op)),
        XENPF_CPU_ONLINE => {
            let arm: XenpfCpuOl = op.u.get();
            match arm.cpuid < cx.machine().cpu_count() {
                true => Ok(false),
                false => Err(Errno::EINVAL),
            }
        }
        XENPF_CPU_OFFLINE => {
            let arm: XenpfCpuOl = op.u.get();
            match arm.cpuid < cx.machine().cpu_count() {
                true => Err(Errno::EOPNOTSUPP),
                false => Err(Errno::EINVAL),
            }
        }
        XENPF_GETIDLETIME => idle_times(cx, op),
        XENPF_ENTER_ACPI_SLEEP => sleep(cx, op),
        XENPF_FIRMWARE_INFO => Err(firmware(op)),
        XENPF_PLATFORM_QUIRK => match op.u.get::<XenpfPlatformQuirk>().quirk_id {
            // Interrupts stay where they are routed, and the I/O APIC's index is written each time.
            QUIRK_NOIRQBALANCING | QUIRK_IOAPIC_BAD_REGSEL | QUIRK_IOAPIC_GOOD_REGSEL => Ok(false),
            _ => Err(Errno::EINVAL),
        },
        XENPF_SET_PROCESSOR_PMINFO => match op.u.get::<XenpfSetProcessorPminfo>().type_ {
            XEN_PM_CX | XEN_PM_PX | XEN_PM_TX | XEN_PM_PDC => Err(Errno::ENOSYS),
            _ => Err(Errno::EINVAL),
        },
        XENPF_CORE_PARKING => core_parking(op),
        XENPF_ADD_MEMTYPE => Err(Errno::ENXIO),
        XENPF_DEL_MEMTYPE => match op.u.get::<XenpfDelMemtype>().handle {
            0 => Err(Errno::ENXIO),
            _ => Err(Errno::EINVAL),
        },
        XENPF_READ_MEMTYPE | XENPF_MICROCODE_UPDATE => Err(Errno::EINVAL),
        _ => Err(Errno::ENOSYS),
    }
}

/// `XENPF_get_cpuinfo`. The firmware's identifiers are those by which CPUs are numbered here.
fn cpu_info(cx: &Current<'_>, op: &mut PlatformOp) -> bool {
    let mut arm: XenpfPcpuinfo = op.u.get();
    let cpus = cx.machine().cpu_count();
    if arm.xen_cpuid < cpus {
        (arm.apic_id, arm.acpi_id) = (arm.xen_cpuid, arm.xen_cpuid);
        arm.flags = XEN_PCPU_FLAGS_ONLINE;
    } else {
        arm.flags = XEN_PCPU_FLAGS_INVALID;
    }
    arm.max_present = cpus.saturating_sub(1);
    op.u.set(&arm);
    true
}

/// `XENPF_get_cpu_version`: all CPUs are of the same make.
fn cpu_version(cx: &Current<'_>, op: &mut PlatformOp) -> bool {
    let asked: XenpfPcpuVersion = op.u.get();
    let machine = cx.machine();
    let cpus = machine.cpu_count();
    let mut arm = XenpfPcpuVersion {
        xen_cpuid: asked.xen_cpuid,
        max_present: cpus.saturating_sub(1),
        ..Default::default()
    };
    if asked.xen_cpuid < cpus {
        let [_, ebx, ecx, edx] = machine.cpuid(0, 0);
        for (slot, word) in arm.vendor_id.chunks_exact_mut(4).zip([ebx, edx, ecx]) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let [signature, ..] = machine.cpuid(1, 0);
        (arm.family, arm.model, arm.stepping) = decode(signature);
    }
    op.u.set(&arm);
    true
}

/// Family, model and stepping in leaf 1 EAX.
fn decode(signature: u32) -> (u32, u32, u32) {
    let field = |shift: u32, mask: u32| signature >> shift & mask;
    let family = match field(8, 0xf) {
        0xf => 0xf + field(20, 0xff),
        family => family,
    };
    let model = match family {
        6 | 0xf.. => field(16, 0xf) << 4 | field(4, 0xf),
        _ => field(4, 0xf),
    };
    (family, model, field(0, 0xf))
}

/// `XENPF_getidletime`: of the CPUs in the caller's bitmap, which is told which of them there are.
///
/// # Errors
/// `EFAULT`, `E2BIG`.
fn idle_times(cx: &Current<'_>, op: &mut PlatformOp) -> Result<bool, Errno> {
    let mut arm: XenpfGetidletime = op.u.get();
    let map = XenctlBitmap {
        bitmap: GuestHandle::new(arm.cpumap_bitmap.address()),
        nr_bits: arm.cpumap_nr_cpus,
        ..Default::default()
    };
    let mut found = 0;
    let wanted = bitmap::read(cx, &map)?;
    for cpu in (0..cx.machine().cpu_count().min(u64::BITS)).filter(|cpu| wanted >> cpu & 1 != 0) {
        let idle = sched::idle_time(cx.hv, cpu);
        cx.write_element(arm.idletime.address(), cpu.into(), &idle)?;
        found |= 1 << cpu;
    }
    arm.now = time::now(cx.hv);
    bitmap::write(cx, &map, found)?;
    op.u.set(&arm);
    Ok(true)
}

/// `XENPF_enter_acpi_sleep`: switches the machine off, by the values that the control domain found in ACPI's code.
/// Where it returns, the machine goes off soon.
///
/// # Errors
/// `EPERM` where the firmware names no register for it, `EINVAL` for flags and values that do not go together and for
/// an unknown state, `EOPNOTSUPP` for a state that there would be a return from.
fn sleep(cx: &Current<'_>, op: &PlatformOp) -> Result<bool, Errno> {
    let arm: XenpfEnterAcpiSleep = op.u.get();
    if arm.sleep_state == SUSPEND_TO_MEMORY {
        return Err(Errno::EOPNOTSUPP);
    }
    let [first, second] = cx.machine().sleep_ports();
    let first = first.filter(|_| arm.flags & XENPF_ACPI_SLEEP_EXTENDED == 0);
    let first = first.ok_or(Errno::EPERM)?;
    let mismatch = arm.val_b != 0 && (arm.val_a ^ arm.val_b) & SLEEP_ENABLE != 0;
    if mismatch || arm.flags != 0 {
        return Err(Errno::EINVAL);
    }
    match arm.sleep_state {
        SOFT_OFF => {}
        1..SOFT_OFF => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    }
    cx.hv.print(b"(XEN) Switching the machine off by ACPI\n");
    let machine = cx.machine();
    machine.flush_caches();
    machine.port_out(first, IoWidth::Word, arm.val_a.into());
    if let Some(second) = second {
        machine.port_out(second, IoWidth::Word, arm.val_b.into());
    }
    Ok(false)
}

/// `XENPF_firmware_info`: nothing was asked of the BIOS, and EFI's services have been left.
fn firmware(op: &PlatformOp) -> Errno {
    match op.u.get::<XenpfFirmwareInfo>().type_ {
        XEN_FW_DISK_INFO
        | XEN_FW_DISK_MBR_SIGNATURE
        | XEN_FW_VBEDDC_INFO
        | XEN_FW_KBD_SHIFT_FLAGS => Errno::ESRCH,
        XEN_FW_EFI_INFO => Errno::ENOSYS,
        _ => Errno::EINVAL,
    }
}

/// `XENPF_core_parking`: no CPU is ever parked.
///
/// # Errors
/// `EINVAL` for an unknown operation, `ENOSYS` for a CPU to be parked.
fn core_parking(op: &mut PlatformOp) -> Result<bool, Errno> {
    let mut arm: XenpfCoreParking = op.u.get();
    match arm.type_ {
        XEN_CORE_PARKING_GET => {
            arm.idle_nums = 0;
            op.u.set(&arm);
            Ok(true)
        }
        XEN_CORE_PARKING_SET if arm.idle_nums == 0 => Ok(false),
        XEN_CORE_PARKING_SET => Err(Errno::ENOSYS),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests;
