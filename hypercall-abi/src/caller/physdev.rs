//! Physical interrupts, I/O privilege and PCI devices.

use crate::caller::{Result, address_of_mut, check, hypercall2};
use crate::physdev::*;
use crate::types::Domid;
use crate::xen::HYPERVISOR_PHYSDEV_OP;

/// An operation with the struct that it reads and writes.
///
/// # Safety
///
/// `T` is the struct of `cmd` (`PHYSDEVOP_*`), its handles are addresses of what the operation
/// reads through them, and what it does to devices is in order.
#[inline]
pub unsafe fn physdev_op<T>(cmd: u32, argument: &mut T) -> Result<()> {
    let argument = address_of_mut(argument);
    // SAFETY: the caller's promise.
    check(unsafe { hypercall2::<HYPERVISOR_PHYSDEV_OP>(u64::from(cmd), argument) })?;
    Ok(())
}

/// An operation that touches no memory but its argument.
fn op<T>(cmd: u32, argument: &mut T) -> Result<()> {
    // SAFETY: `argument` is the struct of `cmd`, without handles.
    unsafe { physdev_op(cmd, argument) }
}

/// Ends a level-triggered interrupt.
#[inline]
pub fn eoi(irq: u32) -> Result<()> {
    op(PHYSDEVOP_EOI, &mut PhysdevEoi { irq })
}

/// Whether an interrupt needs `eoi` or is shared, `XENIRQSTAT_*`.
#[inline]
pub fn irq_status(irq: u32) -> Result<u32> {
    let mut argument = PhysdevIrqStatusQuery { irq, flags: 0 };
    op(PHYSDEVOP_IRQ_STATUS_QUERY, &mut argument)?;
    Ok(argument.flags)
}

/// Sets the virtual I/O privilege level of the calling vCPU, 0 to 3.
#[inline]
pub fn set_iopl(iopl: u32) -> Result<()> {
    op(PHYSDEVOP_SET_IOPL, &mut PhysdevSetIopl { iopl })
}

/// Gives a domain an interrupt, whose number is then in `pirq`.
#[inline]
pub fn map_pirq(request: &mut PhysdevMapPirq) -> Result<()> {
    op(PHYSDEVOP_MAP_PIRQ, request)
}

/// Takes an interrupt away from a domain.
#[inline]
pub fn unmap_pirq(domid: Domid, pirq: i32) -> Result<()> {
    op(
        PHYSDEVOP_UNMAP_PIRQ,
        &mut PhysdevUnmapPirq {
            domid,
            _pad0: 0,
            pirq,
        },
    )
}

/// Sets up a pin of an I/O APIC.
#[inline]
pub fn setup_gsi(gsi: i32, level: bool, active_low: bool) -> Result<()> {
    let (triggering, polarity) = (u8::from(level), u8::from(active_low));
    op(
        PHYSDEVOP_SETUP_GSI,
        &mut PhysdevSetupGsi {
            gsi,
            triggering,
            polarity,
            _pad0: 0,
        },
    )
}

/// Reserves an interrupt number, for `MAP_PIRQ_TYPE_*`.
#[inline]
pub fn get_free_pirq(type_: i32) -> Result<u32> {
    let mut argument = PhysdevGetFreePirq { type_, pirq: 0 };
    op(PHYSDEVOP_GET_FREE_PIRQ, &mut argument)?;
    Ok(argument.pirq)
}

/// Allocates the vector of an interrupt.
#[inline]
pub fn alloc_irq_vector(irq: u32) -> Result<u32> {
    let mut argument = PhysdevIrq { irq, vector: 0 };
    op(PHYSDEVOP_ALLOC_IRQ_VECTOR, &mut argument)?;
    Ok(argument.vector)
}

/// Reads a register of the I/O APIC at `apic_physbase`.
#[inline]
pub fn apic_read(apic_physbase: u64, reg: u32) -> Result<u32> {
    let mut argument = PhysdevApic {
        apic_physbase,
        reg,
        value: 0,
    };
    op(PHYSDEVOP_APIC_READ, &mut argument)?;
    Ok(argument.value)
}

/// Writes a register of the I/O APIC at `apic_physbase`.
#[inline]
pub fn apic_write(apic_physbase: u64, reg: u32, value: u32) -> Result<()> {
    op(
        PHYSDEVOP_APIC_WRITE,
        &mut PhysdevApic {
            apic_physbase,
            reg,
            value,
        },
    )
}

/// Tells of a PCI function that is no virtual one.
#[inline]
pub fn pci_device_add(device: PhysdevPciDevice) -> Result<()> {
    let PhysdevPciDevice { seg, bus, devfn } = device;
    let mut argument = PhysdevPciDeviceAdd {
        seg,
        bus,
        devfn,
        ..Default::default()
    };
    op(PHYSDEVOP_PCI_DEVICE_ADD, &mut argument)
}

/// Tells that a PCI function is gone.
#[inline]
pub fn pci_device_remove(mut device: PhysdevPciDevice) -> Result<()> {
    op(PHYSDEVOP_PCI_DEVICE_REMOVE, &mut device)
}

/// Sets a device's MSI-X tables aside for the hypervisor.
#[inline]
pub fn prepare_msix(mut device: PhysdevPciDevice) -> Result<()> {
    op(PHYSDEVOP_PREPARE_MSIX, &mut device)
}

/// Gives a device's MSI-X tables back.
#[inline]
pub fn release_msix(mut device: PhysdevPciDevice) -> Result<()> {
    op(PHYSDEVOP_RELEASE_MSIX, &mut device)
}

/// Tells where PCI configuration space is mapped.
#[inline]
pub fn pci_mmcfg_reserved(range: &PhysdevPciMmcfgReserved) -> Result<()> {
    op(PHYSDEVOP_PCI_MMCFG_RESERVED, &mut { *range })
}
