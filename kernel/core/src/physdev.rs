//! The hypercall `physdev_op` (`xen/physdev.h`): interrupts, I/O privilege and PCI devices, for domains
//! that have devices.

use core::mem::offset_of;

use hv_machine::{Platform, Polarity, TriggerMode, is_guest_range};
use hypercall_abi::errno::Errno;
use hypercall_abi::physdev::*;
use hypercall_abi::types::Mfn;

use crate::hypercall::{Args, HypercallResult};
use crate::{Current, event, interrupt};

/// Bytes of a bitmap of all I/O ports, and one that the processor wants behind it.
const IO_BITMAP_BYTES: u64 = 65536 / 8 + 1;
/// Machine address of the first I/O APIC, by convention.
const IO_APIC_ADDRESS: u64 = 0xfec0_0000;
/// First register of an I/O APIC's table; two for each line.
const IO_APIC_TABLE: u32 = 0x10;
/// Version 0x20: it has an end-of-interrupt register.
const IO_APIC_VERSION: u32 = 0x20;
const ENTRY_POLARITY_LOW: u32 = 1 << 13;
const ENTRY_LEVEL: u32 = 1 << 15;
const ENTRY_MASKED: u32 = 1 << 16;
/// Highest delivery mode that is an interrupt like any other ("lowest priority").
const LOWEST_PRIORITY: u32 = 1;

/// `HYPERVISOR_physdev_op`: a command and the address of its struct.
pub fn do_physdev_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    run(cx, args[0] as u32, args[1])?;
    Ok(0)
}

/// `HYPERVISOR_physdev_op_compat`: the address of command and struct.
pub fn do_physdev_op_compat(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let op: PhysdevOp = cx.read(args[0])?;
    let at = args[0].wrapping_add(offset_of!(PhysdevOp, u) as u64);
    run(cx, op.cmd, at)?;
    Ok(0)
}

fn run(cx: &mut Current<'_>, command: u32, at: u64) -> Result<(), Errno> {
    let hv = cx.hv;
    match command {
        PHYSDEVOP_EOI => {
            let op: PhysdevEoi = cx.read(at)?;
            if interrupt::end(hv, cx.domain, op.irq)? {
                event::unmask_pirq(hv, cx.domain, op.irq);
            }
        }
        PHYSDEVOP_PIRQ_EOI_GMFN_V1 | PHYSDEVOP_PIRQ_EOI_GMFN_V2 => {
            let op: PhysdevPirqEoiGmfn = cx.read(at)?;
            let unmasks = command == PHYSDEVOP_PIRQ_EOI_GMFN_V1;
            interrupt::set_eoi_map(hv, cx.domain, Mfn(op.gmfn.0), unmasks)?;
        }
        PHYSDEVOP_IRQ_UNMASK_NOTIFY => interrupt::end_unmasked(hv, cx.domain),
        PHYSDEVOP_IRQ_STATUS_QUERY => {
            let mut op: PhysdevIrqStatusQuery = cx.read(at)?;
            if op.irq >= interrupt::pirq_count(hv, cx.domain) {
                return Err(Errno::EINVAL);
            }
            op.flags = XENIRQSTAT_NEEDS_EOI;
            if interrupt::is_shared(hv, cx.domain, op.irq) {
                op.flags |= XENIRQSTAT_SHARED;
            }
            cx.write(at, &op)?;
        }
        PHYSDEVOP_MAP_PIRQ => {
            let mut op: PhysdevMapPirq = cx.read(at)?;
            let result = map_pirq(cx, &mut op);
            cx.write(at, &op)?;
            result?;
        }
        PHYSDEVOP_UNMAP_PIRQ => {
            let op: PhysdevUnmapPirq = cx.read(at)?;
            let domain = cx.any_domain(op.domid)?;
            check_privileged(cx)?;
            interrupt::unmap_line(hv, &domain, op.pirq)?;
        }
        PHYSDEVOP_APIC_READ => {
            let mut op: PhysdevApic = cx.read(at)?;
            check_privileged(cx)?;
            let result = read_io_apic(cx, &op);
            op.value = result.unwrap_or(op.value);
            cx.write(at, &op)?;
            result?;
        }
        PHYSDEVOP_APIC_WRITE => {
            let op: PhysdevApic = cx.read(at)?;
            check_privileged(cx)?;
            write_io_apic(cx, &op)?;
        }
        PHYSDEVOP_ALLOC_IRQ_VECTOR => {
            // Vectors are the hypervisor's affair; for the guest an interrupt's vector is its number.
            let mut op: PhysdevIrq = cx.read(at)?;
            check_privileged(cx)?;
            op.vector = op.irq;
            cx.write(at, &op)?;
        }
        PHYSDEVOP_SET_IOPL => {
            let op: PhysdevSetIopl = cx.read(at)?;
            if op.iopl > 3 {
                return Err(Errno::EINVAL);
            }
            cx.state.iopl = op.iopl;
        }
        PHYSDEVOP_SET_IOBITMAP => {
            let op: PhysdevSetIobitmap = cx.read(at)?;
            if !is_guest_range(op.bitmap.address(), IO_BITMAP_BYTES) || op.nr_ports > 65536 {
                return Err(Errno::EINVAL);
            }
            cx.state.io_bitmap = op.bitmap.address();
            cx.state.io_bitmap_ports = op.nr_ports;
        }
        PHYSDEVOP_SETUP_GSI => {
            let op: PhysdevSetupGsi = cx.read(at)?;
            let gsi = u32::try_from(op.gsi).map_err(|_| Errno::EINVAL)?;
            if gsi >= hv.machine.gsi_count() {
                return Err(Errno::EINVAL);
            }
            check_privileged(cx)?;
            let trigger = if op.triggering == 0 {
                TriggerMode::Edge
            } else {
                TriggerMode::Level
            };
            let polarity = if op.polarity == 0 {
                Polarity::High
            } else {
                Polarity::Low
            };
            interrupt::set_up_line(hv, gsi, trigger, polarity)?;
        }
        PHYSDEVOP_GET_FREE_PIRQ => {
            let mut op: PhysdevGetFreePirq = cx.read(at)?;
            op.pirq = interrupt::allocate(hv, cx.domain, op.type_ == MAP_PIRQ_TYPE_GSI)?;
            cx.write(at, &op)?;
        }
        PHYSDEVOP_DBGP_OP => {
            // The hypervisor has no USB debug port that a reset of the controller would disturb.
            check_privileged(cx)?;
            let _: PhysdevDbgpOp = cx.read(at)?;
        }
        _ => return pci_op(cx, command, at),
    }
    Ok(())
}

/// Operations about PCI functions. The hypervisor does no more than remember which there are: it leaves
/// configuration space to the control domain.
fn pci_op(cx: &mut Current<'_>, command: u32, at: u64) -> Result<(), Errno> {
    match command {
        PHYSDEVOP_MANAGE_PCI_ADD => {
            let op: PhysdevManagePci = cx.read(at)?;
            add_device(cx, (0, op.bus, op.devfn))
        }
        PHYSDEVOP_MANAGE_PCI_REMOVE => {
            let op: PhysdevManagePci = cx.read(at)?;
            remove_device(cx, (0, op.bus, op.devfn))
        }
        PHYSDEVOP_MANAGE_PCI_ADD_EXT => {
            let op: PhysdevManagePciExt = cx.read(at)?;
            if op.is_extfn > 1 || op.is_virtfn > 1 {
                return Err(Errno::EINVAL);
            }
            add_device(cx, (0, op.bus, op.devfn))
        }
        PHYSDEVOP_PCI_DEVICE_ADD => {
            let op: PhysdevPciDeviceAdd = cx.read(at)?;
            if op.flags & XEN_PCI_DEV_PXM != 0 {
                let _: u32 = cx.read_element(at, size_of::<PhysdevPciDeviceAdd>() as u64 / 4)?;
            }
            add_device(cx, (op.seg, op.bus, op.devfn))
        }
        PHYSDEVOP_PCI_DEVICE_REMOVE => {
            let op: PhysdevPciDevice = cx.read(at)?;
            remove_device(cx, (op.seg, op.bus, op.devfn))
        }
        PHYSDEVOP_RESTORE_MSI => {
            let op: PhysdevRestoreMsi = cx.read(at)?;
            known_device(cx, (0, op.bus, op.devfn))?;
            check_privileged(cx)
        }
        PHYSDEVOP_RESTORE_MSI_EXT => {
            let op: PhysdevPciDevice = cx.read(at)?;
            known_device(cx, (op.seg, op.bus, op.devfn))?;
            check_privileged(cx)
        }
        PHYSDEVOP_PREPARE_MSIX | PHYSDEVOP_RELEASE_MSIX => {
            let op: PhysdevPciDevice = cx.read(at)?;
            check_privileged(cx)?;
            known_device(cx, (op.seg, op.bus, op.devfn))
        }
        PHYSDEVOP_PCI_MMCFG_RESERVED => {
            // The hypervisor does not use memory-mapped configuration space.
            check_privileged(cx)?;
            let _: PhysdevPciMmcfgReserved = cx.read(at)?;
            Ok(())
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn check_privileged(cx: &Current<'_>) -> Result<(), Errno> {
    if cx.domain.privileged {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

type PciFunction = (u16, u8, u8);

fn add_device(cx: &Current<'_>, function: PciFunction) -> Result<(), Errno> {
    check_privileged(cx)?;
    cx.hv.pirqs.lock().pci_devices.insert(function);
    Ok(())
}

fn remove_device(cx: &Current<'_>, function: PciFunction) -> Result<(), Errno> {
    check_privileged(cx)?;
    let removed = cx.hv.pirqs.lock().pci_devices.remove(&function);
    if removed { Ok(()) } else { Err(Errno::ENODEV) }
}

fn known_device(cx: &Current<'_>, function: PciFunction) -> Result<(), Errno> {
    let known = cx.hv.pirqs.lock().pci_devices.contains(&function);
    if known { Ok(()) } else { Err(Errno::ENODEV) }
}

fn map_pirq(cx: &Current<'_>, op: &mut PhysdevMapPirq) -> Result<(), Errno> {
    if op.type_ == MAP_PIRQ_TYPE_MULTI_MSI && op.table_base != 0 {
        return Err(Errno::EINVAL);
    }
    let domain = cx.any_domain(op.domid)?;
    check_privileged(cx)?;
    match op.type_ {
        MAP_PIRQ_TYPE_GSI => {
            let pirq = interrupt::map_line(cx.hv, cx.domain, &domain, op.index, op.pirq)?;
            op.pirq = pirq as i32;
            Ok(())
        }
        MAP_PIRQ_TYPE_MSI | MAP_PIRQ_TYPE_MSI_SEG | MAP_PIRQ_TYPE_MULTI_MSI => Err(Errno::ENOSYS),
        _ => Err(Errno::EINVAL),
    }
}

/// The line that a register of the I/O APIC's table is about.
fn table_line(cx: &Current<'_>, register: u32) -> Option<u32> {
    let line = register.checked_sub(IO_APIC_TABLE)? / 2;
    (line < cx.hv.machine.gsi_count()).then_some(line)
}

/// A register of an I/O APIC with all lines, as a guest might see it.
fn read_io_apic(cx: &Current<'_>, op: &PhysdevApic) -> Result<u32, Errno> {
    if op.apic_physbase != IO_APIC_ADDRESS {
        return Err(Errno::EINVAL);
    }
    let highest = cx.hv.machine.gsi_count().saturating_sub(1);
    Ok(match (op.reg, table_line(cx, op.reg)) {
        (1, _) => highest << 16 | IO_APIC_VERSION,
        (register, Some(gsi)) if register % 2 == 0 => {
            let (trigger, polarity, bound) = interrupt::signalling(cx.hv, gsi);
            let level = if trigger == TriggerMode::Level {
                ENTRY_LEVEL
            } else {
                0
            };
            let low = if polarity == Polarity::Low {
                ENTRY_POLARITY_LOW
            } else {
                0
            };
            level | low | if bound { 0 } else { ENTRY_MASKED }
        }
        _ => 0,
    })
}

/// What a guest writes to the low half of an entry says how the line signals, and in place of the vector,
/// which of the guest's numbers is to mean it. A line in use stays as it is.
fn write_io_apic(cx: &Current<'_>, op: &PhysdevApic) -> Result<(), Errno> {
    if op.apic_physbase != IO_APIC_ADDRESS {
        return Err(Errno::EINVAL);
    }
    if op.reg < IO_APIC_TABLE || !op.reg.is_multiple_of(2) {
        return Ok(());
    }
    if op.value >> 8 & 7 > LOWEST_PRIORITY {
        return Err(Errno::EINVAL);
    }
    let gsi = table_line(cx, op.reg).ok_or(Errno::EINVAL)?;
    let pirq = op.value & 0xff;
    let masked = op.value & ENTRY_MASKED != 0;
    let (.., bound) = interrupt::signalling(cx.hv, gsi);
    if bound {
        return Ok(());
    }
    if !masked {
        interrupt::map_line(cx.hv, cx.domain, cx.domain, gsi as i32, pirq as i32)?;
    }
    let trigger = if op.value & ENTRY_LEVEL != 0 {
        TriggerMode::Level
    } else {
        TriggerMode::Edge
    };
    let polarity = if op.value & ENTRY_POLARITY_LOW != 0 {
        Polarity::Low
    } else {
        Polarity::High
    };
    interrupt::set_signalling(cx.hv, gsi, trigger, polarity);
    Ok(())
}

#[cfg(test)]
mod tests;
