//! Physical interrupts, I/O privilege and PCI devices, for domains that have devices
//! (`xen/physdev.h`).

use crate::layout::{constants, structs};
use crate::types::{Domid, GuestHandle, Pfn, Union};

constants! {
    /// End of a level-triggered interrupt: `PhysdevEoi`.
    pub const PHYSDEVOP_EOI: u32 = 12;
    /// Share a bitmap of interrupts that need `PHYSDEVOP_EOI`, which also unmasks their ports:
    /// `PhysdevPirqEoiGmfn`.
    pub const PHYSDEVOP_PIRQ_EOI_GMFN_V1: u32 = 17;
    /// Share a bitmap of interrupts that need `PHYSDEVOP_EOI`: `PhysdevPirqEoiGmfn`.
    pub const PHYSDEVOP_PIRQ_EOI_GMFN_V2: u32 = 28;
    /// The current form of the former two.
    pub const PHYSDEVOP_PIRQ_EOI_GMFN: u32 = PHYSDEVOP_PIRQ_EOI_GMFN_V2;
    /// Whether an interrupt needs `PHYSDEVOP_EOI` or is shared: `PhysdevIrqStatusQuery`.
    pub const PHYSDEVOP_IRQ_STATUS_QUERY: u32 = 5;
    /// `PhysdevIrqStatusQuery::flags`: it needs `PHYSDEVOP_EOI`.
    pub const XENIRQSTAT_NEEDS_EOI: u32 = 1 << 0;
    /// `PhysdevIrqStatusQuery::flags`: it is shared with other domains.
    pub const XENIRQSTAT_SHARED: u32 = 1 << 1;
    /// Set the virtual I/O privilege level: `PhysdevSetIopl`.
    pub const PHYSDEVOP_SET_IOPL: u32 = 6;
    /// Set the virtual I/O permission bitmap: `PhysdevSetIobitmap`.
    pub const PHYSDEVOP_SET_IOBITMAP: u32 = 7;
    /// Read an I/O APIC register: `PhysdevApic`.
    pub const PHYSDEVOP_APIC_READ: u32 = 8;
    /// Write an I/O APIC register: `PhysdevApic`.
    pub const PHYSDEVOP_APIC_WRITE: u32 = 9;
    /// Allocate a vector for an interrupt: `PhysdevIrq`.
    pub const PHYSDEVOP_ALLOC_IRQ_VECTOR: u32 = 10;
    /// Free it, which does nothing: `PhysdevIrq`.
    pub const PHYSDEVOP_FREE_IRQ_VECTOR: u32 = 11;
    /// `PhysdevMapPirq::type_`: MSI of segment 0.
    pub const MAP_PIRQ_TYPE_MSI: i32 = 0;
    /// `PhysdevMapPirq::type_`: pin of an I/O APIC.
    pub const MAP_PIRQ_TYPE_GSI: i32 = 1;
    /// `PhysdevMapPirq::type_`: not known.
    pub const MAP_PIRQ_TYPE_UNKNOWN: i32 = 2;
    /// `PhysdevMapPirq::type_`: MSI, with the segment in `bus`.
    pub const MAP_PIRQ_TYPE_MSI_SEG: i32 = 3;
    /// `PhysdevMapPirq::type_`: several MSIs, with the segment in `bus`.
    pub const MAP_PIRQ_TYPE_MULTI_MSI: i32 = 4;
    /// Give a domain an interrupt: `PhysdevMapPirq`.
    pub const PHYSDEVOP_MAP_PIRQ: u32 = 13;
    /// Take it away: `PhysdevUnmapPirq`.
    pub const PHYSDEVOP_UNMAP_PIRQ: u32 = 14;
    /// A PCI device is there: `PhysdevManagePci`.
    pub const PHYSDEVOP_MANAGE_PCI_ADD: u32 = 15;
    /// A PCI device is gone: `PhysdevManagePci`.
    pub const PHYSDEVOP_MANAGE_PCI_REMOVE: u32 = 16;
    /// Write a device's MSI set-up to it again: `PhysdevRestoreMsi`.
    pub const PHYSDEVOP_RESTORE_MSI: u32 = 19;
    /// A PCI function is there: `PhysdevManagePciExt`.
    pub const PHYSDEVOP_MANAGE_PCI_ADD_EXT: u32 = 20;
    /// Set up a pin of an I/O APIC: `PhysdevSetupGsi`.
    pub const PHYSDEVOP_SETUP_GSI: u32 = 21;
    /// Reserve an interrupt number: `PhysdevGetFreePirq`.
    pub const PHYSDEVOP_GET_FREE_PIRQ: u32 = 23;
    /// `PhysdevPciMmcfgReserved::flags`: the firmware reserves the range.
    pub const XEN_PCI_MMCFG_RESERVED: u32 = 0x1;
    /// Where PCI configuration space is mapped: `PhysdevPciMmcfgReserved`.
    pub const PHYSDEVOP_PCI_MMCFG_RESERVED: u32 = 24;
    /// `PhysdevPciDeviceAdd::flags`: an extended function.
    pub const XEN_PCI_DEV_EXTFN: u32 = 0x1;
    /// `PhysdevPciDeviceAdd::flags`: a virtual function of `physfn`.
    pub const XEN_PCI_DEV_VIRTFN: u32 = 0x2;
    /// `PhysdevPciDeviceAdd::flags`: its proximity domain follows.
    pub const XEN_PCI_DEV_PXM: u32 = 0x4;
    /// A PCI function is there: `PhysdevPciDeviceAdd`.
    pub const PHYSDEVOP_PCI_DEVICE_ADD: u32 = 25;
    /// A PCI function is gone: `PhysdevPciDevice`.
    pub const PHYSDEVOP_PCI_DEVICE_REMOVE: u32 = 26;
    /// Write a device's MSI set-up to it again: `PhysdevPciDevice`.
    pub const PHYSDEVOP_RESTORE_MSI_EXT: u32 = 27;
    /// Set a device's MSI-X tables aside for the hypervisor: `PhysdevPciDevice`.
    pub const PHYSDEVOP_PREPARE_MSIX: u32 = 30;
    /// Give them back: `PhysdevPciDevice`.
    pub const PHYSDEVOP_RELEASE_MSIX: u32 = 31;
    /// `PhysdevDbgpOp::op`: the USB controller is about to be reset.
    pub const PHYSDEVOP_DBGP_RESET_PREPARE: u8 = 1;
    /// `PhysdevDbgpOp::op`: the USB controller was reset.
    pub const PHYSDEVOP_DBGP_RESET_DONE: u8 = 2;
    /// `PhysdevDbgpOp::bus`: not known.
    pub const PHYSDEVOP_DBGP_BUS_UNKNOWN: u8 = 0;
    /// `PhysdevDbgpOp::bus`: PCI.
    pub const PHYSDEVOP_DBGP_BUS_PCI: u8 = 1;
    /// The USB debug port's controller: `PhysdevDbgpOp`.
    pub const PHYSDEVOP_DBGP_OP: u32 = 29;
    /// Notify of an unmasked interrupt, withdrawn.
    pub const PHYSDEVOP_IRQ_UNMASK_NOTIFY: u32 = 4;
}

structs! {
    /// `PHYSDEVOP_EOI`.
    pub struct PhysdevEoi[4] = "struct physdev_eoi" {
        /// The interrupt.
        pub irq: u32,
    }

    /// `PHYSDEVOP_PIRQ_EOI_GMFN`.
    pub struct PhysdevPirqEoiGmfn[8] = "struct physdev_pirq_eoi_gmfn" {
        /// The frame of the bitmap.
        pub gmfn: Pfn,
    }

    /// `PHYSDEVOP_IRQ_STATUS_QUERY`.
    pub struct PhysdevIrqStatusQuery[8] = "struct physdev_irq_status_query" {
        /// In: the interrupt.
        pub irq: u32,
        /// Out: `XENIRQSTAT_*`.
        pub flags: u32,
    }

    /// `PHYSDEVOP_SET_IOPL`.
    pub struct PhysdevSetIopl[4] = "struct physdev_set_iopl" {
        /// 0 to 3.
        pub iopl: u32,
    }

    /// `PHYSDEVOP_SET_IOBITMAP`.
    pub struct PhysdevSetIobitmap[16] = "struct physdev_set_iobitmap" {
        /// A bit per port, clear where user mode may use it.
        pub bitmap: GuestHandle<u8>,
        /// Number of bits.
        pub nr_ports: u32,
        /// Zero.
        pub _pad0: u32,
    }

    /// `PHYSDEVOP_APIC_READ` and `PHYSDEVOP_APIC_WRITE`.
    pub struct PhysdevApic[16] = "struct physdev_apic" {
        /// In: physical address of the I/O APIC.
        pub apic_physbase: u64,
        /// In: the register.
        pub reg: u32,
        /// In or out: its value.
        pub value: u32,
    }

    /// `PHYSDEVOP_ALLOC_IRQ_VECTOR` and `PHYSDEVOP_FREE_IRQ_VECTOR`.
    pub struct PhysdevIrq[8] = "struct physdev_irq" {
        /// In: the interrupt.
        pub irq: u32,
        /// In or out: its vector.
        pub vector: u32,
    }

    /// `PHYSDEVOP_MAP_PIRQ`.
    pub struct PhysdevMapPirq[40] = "struct physdev_map_pirq" {
        /// In: the domain.
        pub domid: Domid,
        /// Zero.
        pub _pad0: u16,
        /// In: `MAP_PIRQ_TYPE_*`.
        pub type_: i32,
        /// In: the GSI; -1 for an MSI of the hypervisor's choice.
        pub index: i32,
        /// In: the number the domain is to use, or -1; out: the one it has.
        pub pirq: i32,
        /// In: PCI bus, with the segment in the high half for two of the types.
        pub bus: i32,
        /// In: PCI device and function.
        pub devfn: i32,
        /// In: entry of MSI-X or number of MSIs; out, where there are too many: how many there can
        /// be.
        pub entry_nr: i32,
        /// Zero.
        pub _pad1: u32,
        /// In: physical address of the MSI-X table; 0 for MSI.
        pub table_base: u64,
    }

    /// `PHYSDEVOP_UNMAP_PIRQ`.
    pub struct PhysdevUnmapPirq[8] = "struct physdev_unmap_pirq" {
        /// The domain.
        pub domid: Domid,
        /// Zero.
        pub _pad0: u16,
        /// The number it used.
        pub pirq: i32,
    }

    /// `PHYSDEVOP_MANAGE_PCI_ADD` and `PHYSDEVOP_MANAGE_PCI_REMOVE`.
    pub struct PhysdevManagePci[2] = "struct physdev_manage_pci" {
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }

    /// `PHYSDEVOP_RESTORE_MSI`.
    pub struct PhysdevRestoreMsi[2] = "struct physdev_restore_msi" {
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }

    /// The physical function behind a virtual one.
    pub struct PhysdevPhysfn[2] = "struct physdev_pci_device_add.physfn" {
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }

    /// `PHYSDEVOP_MANAGE_PCI_ADD_EXT`.
    pub struct PhysdevManagePciExt[16] = "struct physdev_manage_pci_ext" {
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
        /// Zero.
        pub _pad0: u16,
        /// Not 0 for an extended function.
        pub is_extfn: u32,
        /// Not 0 for a virtual function.
        pub is_virtfn: u32,
        /// Its physical function.
        pub physfn: PhysdevPhysfn,
        /// Zero.
        pub _pad1: u16,
    }

    /// The argument of the compatible form of the hypercall.
    pub struct PhysdevOp[24] = "struct physdev_op" {
        /// `PHYSDEVOP_*` up to `PHYSDEVOP_FREE_IRQ_VECTOR`.
        pub cmd: u32,
        /// Zero.
        pub _pad0: u32,
        /// The operation's struct.
        pub u: Union<u64, 2>,
    }

    /// `PHYSDEVOP_SETUP_GSI`.
    pub struct PhysdevSetupGsi[8] = "struct physdev_setup_gsi" {
        /// The pin, counted over all I/O APICs.
        pub gsi: i32,
        /// 0 for edge, 1 for level.
        pub triggering: u8,
        /// 0 for active high, 1 for active low.
        pub polarity: u8,
        /// Zero.
        pub _pad0: u16,
    }

    /// `PHYSDEVOP_GET_FREE_PIRQ`.
    pub struct PhysdevGetFreePirq[8] = "struct physdev_get_free_pirq" {
        /// In: `MAP_PIRQ_TYPE_*`.
        pub type_: i32,
        /// Out: the number.
        pub pirq: u32,
    }

    /// `PHYSDEVOP_PCI_MMCFG_RESERVED`.
    pub struct PhysdevPciMmcfgReserved[16] = "struct physdev_pci_mmcfg_reserved" {
        /// Physical address.
        pub address: u64,
        /// PCI segment.
        pub segment: u16,
        /// First bus.
        pub start_bus: u8,
        /// Last bus.
        pub end_bus: u8,
        /// `XEN_PCI_MMCFG_RESERVED` or 0.
        pub flags: u32,
    }

    /// `PHYSDEVOP_PCI_DEVICE_ADD`. With `XEN_PCI_DEV_PXM`, the proximity domain follows, a `u32`.
    pub struct PhysdevPciDeviceAdd[12] = "struct physdev_pci_device_add" {
        /// Segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
        /// `XEN_PCI_DEV_*`.
        pub flags: u32,
        /// The physical function of a virtual one.
        pub physfn: PhysdevPhysfn,
        /// Zero.
        pub _pad0: u16,
    }

    /// A PCI function.
    pub struct PhysdevPciDevice[4] = "struct physdev_pci_device" {
        /// Segment.
        pub seg: u16,
        /// Bus.
        pub bus: u8,
        /// Device and function.
        pub devfn: u8,
    }

    /// `PHYSDEVOP_DBGP_OP`.
    pub struct PhysdevDbgpOp[6] = "struct physdev_dbgp_op" {
        /// `PHYSDEVOP_DBGP_RESET_*`.
        pub op: u8,
        /// `PHYSDEVOP_DBGP_BUS_*`.
        pub bus: u8,
        /// The controller, if on PCI.
        pub u: PhysdevPciDevice,
    }
}
