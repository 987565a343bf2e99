//! Operations on the machine, by dom0: clock, firmware, power, CPUs (`xen/platform.h`).

use crate::layout::{constants, structs};
use crate::types::{GuestHandle, Mfn, Union};

constants! {
    /// `PlatformOp::interface_version`; another is answered with EACCES.
    pub const XENPF_INTERFACE_VERSION: u32 = 0x0300_0001;

    /// Set the wallclock: `XenpfSettime32`.
    pub const XENPF_SETTIME32: u32 = 17;
    /// Set the wallclock: `XenpfSettime64`.
    pub const XENPF_SETTIME64: u32 = 62;
    /// The current form of the former two.
    pub const XENPF_SETTIME: u32 = XENPF_SETTIME64 => "XENPF_settime";
    /// Set a range's caching in the MTRRs: `XenpfAddMemtype`.
    pub const XENPF_ADD_MEMTYPE: u32 = 31;
    /// Undo that: `XenpfDelMemtype`.
    pub const XENPF_DEL_MEMTYPE: u32 = 32;
    /// Get a range's caching in the MTRRs: `XenpfReadMemtype`.
    pub const XENPF_READ_MEMTYPE: u32 = 33;
    /// Load microcode: `XenpfMicrocodeUpdate`.
    pub const XENPF_MICROCODE_UPDATE: u32 = 35;
    /// Work round a fault of the machine: `XenpfPlatformQuirk`.
    pub const XENPF_PLATFORM_QUIRK: u32 = 39;
    /// `XenpfPlatformQuirk::quirk_id`: I/O APICs send to fixed CPUs only.
    pub const QUIRK_NOIRQBALANCING: u32 = 1;
    /// `XenpfPlatformQuirk::quirk_id`: I/O APICs forget their index.
    pub const QUIRK_IOAPIC_BAD_REGSEL: u32 = 2;
    /// `XenpfPlatformQuirk::quirk_id`: I/O APICs do not forget their index.
    pub const QUIRK_IOAPIC_GOOD_REGSEL: u32 = 3;
    /// Call EFI: `XenpfEfiRuntimeCall`.
    pub const XENPF_EFI_RUNTIME_CALL: u32 = 49;
    /// `XenpfEfiRuntimeCall::function`: get the time.
    pub const XEN_EFI_GET_TIME: u32 = 1;
    /// `XenpfEfiRuntimeCall::function`: set the time.
    pub const XEN_EFI_SET_TIME: u32 = 2;
    /// `XenpfEfiRuntimeCall::function`: get the alarm.
    pub const XEN_EFI_GET_WAKEUP_TIME: u32 = 3;
    /// `XenpfEfiRuntimeCall::function`: set the alarm.
    pub const XEN_EFI_SET_WAKEUP_TIME: u32 = 4;
    /// `XenpfEfiRuntimeCall::function`: get the next count, in `misc`.
    pub const XEN_EFI_GET_NEXT_HIGH_MONOTONIC_COUNT: u32 = 5;
    /// `XenpfEfiRuntimeCall::function`: get a variable.
    pub const XEN_EFI_GET_VARIABLE: u32 = 6;
    /// `XenpfEfiRuntimeCall::function`: set a variable.
    pub const XEN_EFI_SET_VARIABLE: u32 = 7;
    /// `XenpfEfiRuntimeCall::function`: get the name of the next variable.
    pub const XEN_EFI_GET_NEXT_VARIABLE_NAME: u32 = 8;
    /// `XenpfEfiRuntimeCall::function`: room for variables.
    pub const XEN_EFI_QUERY_VARIABLE_INFO: u32 = 9;
    /// `XenpfEfiRuntimeCall::function`: whether capsules are taken.
    pub const XEN_EFI_QUERY_CAPSULE_CAPABILITIES: u32 = 10;
    /// `XenpfEfiRuntimeCall::function`: pass capsules.
    pub const XEN_EFI_UPDATE_CAPSULE: u32 = 11;
    /// `XenpfEfiRuntimeCall::misc`, out: setting the time clears what is below a second.
    pub const XEN_EFI_GET_TIME_SET_CLEARS_NS: u32 = 1;
    /// `XenpfEfiRuntimeCall::misc`, out: the alarm is on.
    pub const XEN_EFI_GET_WAKEUP_TIME_ENABLED: u32 = 1;
    /// `XenpfEfiRuntimeCall::misc`, out: the alarm went off.
    pub const XEN_EFI_GET_WAKEUP_TIME_PENDING: u32 = 2;
    /// `XenpfEfiRuntimeCall::misc`: the alarm is to be on.
    pub const XEN_EFI_SET_WAKEUP_TIME_ENABLE: u32 = 1;
    /// `XenpfEfiRuntimeCall::misc`: the alarm's time stays.
    pub const XEN_EFI_SET_WAKEUP_TIME_ENABLE_ONLY: u32 = 2;
    /// `XenpfEfiRuntimeCall::misc`: the variable outlasts power-off.
    pub const XEN_EFI_VARIABLE_NON_VOLATILE: u32 = 1;
    /// `XenpfEfiRuntimeCall::misc`: the variable is there at boot.
    pub const XEN_EFI_VARIABLE_BOOTSERVICE_ACCESS: u32 = 2;
    /// `XenpfEfiRuntimeCall::misc`: the variable is there after boot.
    pub const XEN_EFI_VARIABLE_RUNTIME_ACCESS: u32 = 4;
    /// `XenpfEfiRuntimeCall::misc`: as it was at boot.
    pub const XEN_EFI_VARINFO_BOOT_SNAPSHOT: u32 = 1;
    /// What the firmware says: `XenpfFirmwareInfo`.
    pub const XENPF_FIRMWARE_INFO: u32 = 50;
    /// `XenpfFirmwareInfo::type_`: disk `index`.
    pub const XEN_FW_DISK_INFO: u32 = 1;
    /// `XenpfFirmwareInfo::type_`: signature of the boot record of disk `index`.
    pub const XEN_FW_DISK_MBR_SIGNATURE: u32 = 2;
    /// `XenpfFirmwareInfo::type_`: display.
    pub const XEN_FW_VBEDDC_INFO: u32 = 3;
    /// `XenpfFirmwareInfo::type_`: EFI; what of it, `index` says.
    pub const XEN_FW_EFI_INFO: u32 = 4;
    /// `XenpfFirmwareInfo::index`: version.
    pub const XEN_FW_EFI_VERSION: u32 = 0;
    /// `XenpfFirmwareInfo::index`: configuration tables.
    pub const XEN_FW_EFI_CONFIG_TABLE: u32 = 1;
    /// `XenpfFirmwareInfo::index`: vendor.
    pub const XEN_FW_EFI_VENDOR: u32 = 2;
    /// `XenpfFirmwareInfo::index`: type of memory.
    pub const XEN_FW_EFI_MEM_INFO: u32 = 3;
    /// `XenpfFirmwareInfo::index`: version of the runtime services.
    pub const XEN_FW_EFI_RT_VERSION: u32 = 4;
    /// `XenpfFirmwareInfo::index`: expansion ROM of a PCI function.
    pub const XEN_FW_EFI_PCI_ROM: u32 = 5;
    /// `XenpfFirmwareInfo::index`: Apple's properties of devices.
    pub const XEN_FW_EFI_APPLE_PROPERTIES: u32 = 6;
    /// `XenpfFirmwareInfo::type_`: shift keys.
    pub const XEN_FW_KBD_SHIFT_FLAGS: u32 = 5;
    /// Put the machine to sleep, or off: `XenpfEnterAcpiSleep`.
    pub const XENPF_ENTER_ACPI_SLEEP: u32 = 51;
    /// `XenpfEnterAcpiSleep::flags`: by the sleep control register.
    pub const XENPF_ACPI_SLEEP_EXTENDED: u32 = 1;
    /// Tell of a CPU's new frequency: `XenpfChangeFreq`.
    pub const XENPF_CHANGE_FREQ: u32 = 52;
    /// Idle time of CPUs: `XenpfGetidletime`.
    pub const XENPF_GETIDLETIME: u32 = 53;
    /// Tell of a CPU's power states: `XenpfSetProcessorPminfo`.
    pub const XENPF_SET_PROCESSOR_PMINFO: u32 = 54;
    /// Idle states are controlled by the hypervisor.
    pub const XEN_PROCESSOR_PM_CX: u32 = 1;
    /// Performance states are controlled by the hypervisor.
    pub const XEN_PROCESSOR_PM_PX: u32 = 2;
    /// Throttling states are controlled by the hypervisor.
    pub const XEN_PROCESSOR_PM_TX: u32 = 4;
    /// `XenpfSetProcessorPminfo::type_`: idle states.
    pub const XEN_PM_CX: u32 = 0;
    /// `XenpfSetProcessorPminfo::type_`: performance states.
    pub const XEN_PM_PX: u32 = 1;
    /// `XenpfSetProcessorPminfo::type_`: throttling states.
    pub const XEN_PM_TX: u32 = 2;
    /// `XenpfSetProcessorPminfo::type_`: what the system can do.
    pub const XEN_PM_PDC: u32 = 3;
    /// `ProcessorPerformance::flags`: registers.
    pub const XEN_PX_PCT: u32 = 1;
    /// `ProcessorPerformance::flags`: states.
    pub const XEN_PX_PSS: u32 = 2;
    /// `ProcessorPerformance::flags`: limit.
    pub const XEN_PX_PPC: u32 = 4;
    /// `ProcessorPerformance::flags`: dependencies.
    pub const XEN_PX_PSD: u32 = 8;
    /// `ProcessorPerformance::shared_type`: the hardware coordinates.
    pub const XEN_CPUPERF_SHARED_TYPE_HW: u32 = 1;
    /// `ProcessorPerformance::shared_type`: on all CPUs.
    pub const XEN_CPUPERF_SHARED_TYPE_ALL: u32 = 2;
    /// `ProcessorPerformance::shared_type`: on any CPU.
    pub const XEN_CPUPERF_SHARED_TYPE_ANY: u32 = 3;
    /// A physical CPU: `XenpfPcpuinfo`.
    pub const XENPF_GET_CPUINFO: u32 = 55;
    /// `XenpfPcpuinfo::flags`: up.
    pub const XEN_PCPU_FLAGS_ONLINE: u32 = 1;
    /// `XenpfPcpuinfo::flags`: not there.
    pub const XEN_PCPU_FLAGS_INVALID: u32 = 2;
    /// Model of a physical CPU: `XenpfPcpuVersion`.
    pub const XENPF_GET_CPU_VERSION: u32 = 48;
    /// Bring a CPU up: `XenpfCpuOl`.
    pub const XENPF_CPU_ONLINE: u32 = 56;
    /// Take a CPU down: `XenpfCpuOl`.
    pub const XENPF_CPU_OFFLINE: u32 = 57;
    /// Tell of a new CPU: `XenpfCpuHotadd`.
    pub const XENPF_CPU_HOTADD: u32 = 58;
    /// Tell of new memory: `XenpfMemHotadd`.
    pub const XENPF_MEM_HOTADD: u32 = 59;
    /// Have CPUs idle: `XenpfCoreParking`.
    pub const XENPF_CORE_PARKING: u32 = 60;
    /// `XenpfCoreParking::type_`: set how many.
    pub const XEN_CORE_PARKING_SET: u32 = 1;
    /// `XenpfCoreParking::type_`: get how many.
    pub const XEN_CORE_PARKING_GET: u32 = 2;
    /// Read and write MSRs on a CPU: `XenpfResourceOp`.
    pub const XENPF_RESOURCE_OP: u32 = 61;
    /// `XenpfResourceEntry::u`: read.
    pub const XEN_RESOURCE_OP_MSR_READ: u32 = 0;
    /// `XenpfResourceEntry::u`: write.
    pub const XEN_RESOURCE_OP_MSR_WRITE: u32 = 1;
    /// A symbol of the hypervisor: `XenpfSymdata`.
    pub const XENPF_GET_SYMBOL: u32 = 63;
}

structs! {
    /// The argument of the hypercall.
    pub struct PlatformOp[136] = "struct xen_platform_op" {
        /// `XENPF_*`.
        pub cmd: u32,
        /// `XENPF_INTERFACE_VERSION`.
        pub interface_version: u32,
        /// The operation's struct.
        pub u: Union<u64, 16>,
    }

    /// `XENPF_SETTIME32`: the wallclock at `system_time`.
    pub struct XenpfSettime32[16] = "struct xenpf_settime32" {
        /// Seconds since 1970.
        pub secs: u32,
        /// Nanoseconds.
        pub nsecs: u32,
        /// System time in nanoseconds.
        pub system_time: u64,
    }

    /// `XENPF_SETTIME64`: the wallclock at `system_time`.
    pub struct XenpfSettime64[24] = "struct xenpf_settime64" {
        /// Seconds since 1970.
        pub secs: u64,
        /// Nanoseconds.
        pub nsecs: u32,
        /// Zero.
        pub mbz: u32,
        /// System time in nanoseconds.
        pub system_time: u64,
    }

    /// `XENPF_ADD_MEMTYPE`.
    pub struct XenpfAddMemtype[32] = "struct xenpf_add_memtype" {
        /// In: first frame.
        pub mfn: Mfn,
        /// In: number of frames.
        pub nr_mfns: u64,
        /// In: caching, as an MTRR has it.
        pub type_: u32,
        /// Out: names it for `XENPF_DEL_MEMTYPE`.
        pub handle: u32,
        /// Out: the MTRR.
        pub reg: u32,
        /// Zero.
        pub _pad0: u32,
    }

    /// `XENPF_DEL_MEMTYPE`.
    pub struct XenpfDelMemtype[8] = "struct xenpf_del_memtype" {
        /// From `XENPF_ADD_MEMTYPE`.
        pub handle: u32,
        /// The MTRR.
        pub reg: u32,
    }

    /// `XENPF_READ_MEMTYPE`.
    pub struct XenpfReadMemtype[32] = "struct xenpf_read_memtype" {
        /// In: the MTRR.
        pub reg: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: first frame.
        pub mfn: Mfn,
        /// Out: number of frames.
        pub nr_mfns: u64,
        /// Out: caching.
        pub type_: u32,
        /// Zero.
        pub _pad1: u32,
    }

    /// `XENPF_MICROCODE_UPDATE`.
    pub struct XenpfMicrocodeUpdate[16] = "struct xenpf_microcode_update" {
        /// The microcode.
        pub data: GuestHandle<u8>,
        /// Its length in bytes.
        pub length: u32,
        /// Zero.
        pub _pad0: u32,
    }

    /// `XENPF_PLATFORM_QUIRK`.
    pub struct XenpfPlatformQuirk[4] = "struct xenpf_platform_quirk" {
        /// `QUIRK_*`.
        pub quirk_id: u32,
    }

    /// A time as EFI has it.
    pub struct XenpfEfiTime[16] = "struct xenpf_efi_time" {
        /// 1900 to 9999.
        pub year: u16,
        /// 1 to 12.
        pub month: u8,
        /// 1 to 31.
        pub day: u8,
        /// 0 to 23.
        pub hour: u8,
        /// 0 to 59.
        pub min: u8,
        /// 0 to 59.
        pub sec: u8,
        /// Zero.
        pub _pad0: u8,
        /// Nanoseconds.
        pub ns: u32,
        /// Minutes from UTC, or 2047 for local time.
        pub tz: i16,
        /// Daylight saving time.
        pub daylight: u8,
        /// Zero.
        pub _pad1: u8,
    }

    /// An identifier as EFI has it.
    pub struct XenpfEfiGuid[16] = "struct xenpf_efi_guid" {
        /// First part.
        pub data1: u32,
        /// Second part.
        pub data2: u16,
        /// Third part.
        pub data3: u16,
        /// The rest, byte by byte.
        pub data4: [u8; 8],
    }

    /// `XENPF_EFI_RUNTIME_CALL`.
    pub struct XenpfEfiRuntimeCall[56] = "struct xenpf_efi_runtime_call" {
        /// In: `XEN_EFI_*`.
        pub function: u32,
        /// In and out: flags of the function.
        pub misc: u32,
        /// Out: what EFI returned.
        pub status: u64,
        /// The function's struct; a `XenpfEfiTime` for all times but `XEN_EFI_GET_TIME`.
        pub u: Union<u64, 5>,
    }

    /// `XEN_EFI_GET_TIME`, all out.
    pub struct XenpfEfiGetTime[24] = "struct xenpf_efi_runtime_call.u.get_time" {
        /// The time.
        pub time: XenpfEfiTime,
        /// Ticks a second.
        pub resolution: u32,
        /// Error in millionths of a millionth.
        pub accuracy: u32,
    }

    /// `XEN_EFI_GET_VARIABLE` and `XEN_EFI_SET_VARIABLE`.
    pub struct XenpfEfiVariable[40] = "struct xenpf_efi_runtime_call.u.get_variable" {
        /// Its name in UTF-16, zero-terminated.
        pub name: GuestHandle<u16>,
        /// Size of the data in bytes.
        pub size: u64,
        /// The data.
        pub data: GuestHandle<u8>,
        /// Its vendor.
        pub vendor_guid: XenpfEfiGuid,
    }

    /// `XEN_EFI_GET_NEXT_VARIABLE_NAME`.
    pub struct XenpfEfiNextVariable[32] = "struct xenpf_efi_runtime_call.u.get_next_variable_name" {
        /// Size of the name in bytes.
        pub size: u64,
        /// In: a variable's name; out: that of the next.
        pub name: GuestHandle<u16>,
        /// In: its vendor; out: that of the next.
        pub vendor_guid: XenpfEfiGuid,
    }

    /// `XEN_EFI_QUERY_VARIABLE_INFO`.
    pub struct XenpfEfiVariableInfo[32] = "struct xenpf_efi_runtime_call.u.query_variable_info" {
        /// In: `XEN_EFI_VARIABLE_*`.
        pub attr: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: bytes for all variables.
        pub max_store_size: u64,
        /// Out: bytes that are left.
        pub remain_store_size: u64,
        /// Out: bytes for one variable.
        pub max_size: u64,
    }

    /// `XEN_EFI_QUERY_CAPSULE_CAPABILITIES`.
    pub struct XenpfEfiCapsuleCapabilities[32] = "struct xenpf_efi_runtime_call.u.query_capsule_capabilities" {
        /// In: headers of the capsules.
        pub capsule_header_array: GuestHandle<u8>,
        /// In: number of capsules.
        pub capsule_count: u64,
        /// Out: bytes for one capsule.
        pub max_capsule_size: u64,
        /// Out: the reset that they need.
        pub reset_type: u32,
        /// Zero.
        pub _pad0: u32,
    }

    /// `XEN_EFI_UPDATE_CAPSULE`.
    pub struct XenpfEfiUpdateCapsule[24] = "struct xenpf_efi_runtime_call.u.update_capsule" {
        /// Headers of the capsules.
        pub capsule_header_array: GuestHandle<u8>,
        /// Number of capsules.
        pub capsule_count: u64,
        /// Machine address of the list of their parts.
        pub sg_list: u64,
    }

    /// `XENPF_FIRMWARE_INFO`.
    pub struct XenpfFirmwareInfo[40] = "struct xenpf_firmware_info" {
        /// In: `XEN_FW_*`.
        pub type_: u32,
        /// In: which of that type.
        pub index: u32,
        /// Out: the type's struct; a `u8` for shift keys.
        pub u: Union<u64, 4>,
    }

    /// `XEN_FW_DISK_INFO`, as BIOS interrupt 0x13 says.
    pub struct XenpfDiskInfo[16] = "struct xenpf_firmware_info.u.disk_info" {
        /// Number of the disk.
        pub device: u8,
        /// Version of the extensions.
        pub version: u8,
        /// Which extensions.
        pub interface_support: u16,
        /// Highest cylinder.
        pub legacy_max_cylinder: u16,
        /// Highest head.
        pub legacy_max_head: u8,
        /// Sectors of a track.
        pub legacy_sectors_per_track: u8,
        /// Parameters, in a buffer whose first 16 bits are its size.
        pub edd_params: GuestHandle<u8>,
    }

    /// `XEN_FW_DISK_MBR_SIGNATURE`.
    pub struct XenpfDiskMbrSignature[8] = "struct xenpf_firmware_info.u.disk_mbr_signature" {
        /// Number of the disk.
        pub device: u8,
        /// Zero.
        pub _pad0: [u8; 3],
        /// Its signature.
        pub mbr_signature: u32,
    }

    /// `XEN_FW_VBEDDC_INFO`.
    pub struct XenpfVbeddcInfo[16] = "struct xenpf_firmware_info.u.vbeddc_info" {
        /// What the display can do.
        pub capabilities: u8,
        /// Seconds to get 128 bytes.
        pub edid_transfer_time: u8,
        /// Zero.
        pub _pad0: [u8; 6],
        /// Its description, 128 bytes.
        pub edid: GuestHandle<u8>,
    }

    /// `XEN_FW_EFI_CONFIG_TABLE`.
    pub struct XenpfEfiInfoCfg[16] = "union xenpf_efi_info.cfg" {
        /// Machine address of the tables.
        pub addr: u64,
        /// How many.
        pub nent: u32,
        /// Zero.
        pub _pad0: u32,
    }

    /// `XEN_FW_EFI_VENDOR`.
    pub struct XenpfEfiInfoVendor[16] = "union xenpf_efi_info.vendor" {
        /// Revision.
        pub revision: u32,
        /// In: size of the name in bytes.
        pub bufsz: u32,
        /// Name in UTF-16, zero-terminated.
        pub name: GuestHandle<u16>,
    }

    /// `XEN_FW_EFI_MEM_INFO`.
    pub struct XenpfEfiInfoMem[32] = "union xenpf_efi_info.mem" {
        /// Machine address; out: where the range begins.
        pub addr: u64,
        /// Size in bytes.
        pub size: u64,
        /// Attributes.
        pub attr: u64,
        /// Type.
        pub type_: u32,
        /// Zero.
        pub _pad0: u32,
    }

    /// `XEN_FW_EFI_PCI_ROM`.
    pub struct XenpfEfiInfoPciRom[24] = "union xenpf_efi_info.pci_rom" {
        /// In: segment.
        pub segment: u16,
        /// In: bus.
        pub bus: u8,
        /// In: device and function.
        pub devfn: u8,
        /// In: vendor.
        pub vendor: u16,
        /// In: device identifier.
        pub devid: u16,
        /// Out: machine address.
        pub address: u64,
        /// Out: size in bytes.
        pub size: u64,
    }

    /// `XEN_FW_EFI_APPLE_PROPERTIES`.
    pub struct XenpfEfiInfoAppleProperties[16] = "union xenpf_efi_info.apple_properties" {
        /// Out: machine address.
        pub address: u64,
        /// Out: size in bytes.
        pub size: u64,
    }

    /// `XENPF_ENTER_ACPI_SLEEP`.
    pub struct XenpfEnterAcpiSleep[12] = "struct xenpf_enter_acpi_sleep" {
        /// Value for the first register.
        pub val_a: u16,
        /// Value for the second register.
        pub val_b: u16,
        /// The state, 1 to 5.
        pub sleep_state: u32,
        /// `XENPF_ACPI_SLEEP_EXTENDED` or 0.
        pub flags: u32,
    }

    /// `XENPF_CHANGE_FREQ`.
    pub struct XenpfChangeFreq[16] = "struct xenpf_change_freq" {
        /// Zero.
        pub flags: u32,
        /// The CPU.
        pub cpu: u32,
        /// Its frequency in Hz.
        pub freq: u64,
    }

    /// `XENPF_GETIDLETIME`.
    pub struct XenpfGetidletime[32] = "struct xenpf_getidletime" {
        /// In: the CPUs; out: those of them that are there.
        pub cpumap_bitmap: GuestHandle<u8>,
        /// In: number of bits.
        pub cpumap_nr_cpus: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: idle times in nanoseconds.
        pub idletime: GuestHandle<u64>,
        /// Out: system time in nanoseconds.
        pub now: u64,
    }

    /// A register as ACPI describes it.
    pub struct PowerRegister[24] = "struct xen_power_register" {
        /// Address space.
        pub space_id: u32,
        /// Width in bits.
        pub bit_width: u32,
        /// First bit.
        pub bit_offset: u32,
        /// Size of an access.
        pub access_size: u32,
        /// Address.
        pub address: u64,
    }

    /// CPUs whose idle states depend on each other.
    pub struct ProcessorCsd[12] = "struct xen_processor_csd" {
        /// Number of the group.
        pub domain: u32,
        /// Who coordinates.
        pub coord_type: u32,
        /// Number of CPUs.
        pub num: u32,
    }

    /// An idle state.
    pub struct ProcessorCx[48] = "struct xen_processor_cx" {
        /// Register to enter it.
        pub reg: PowerRegister,
        /// Its number.
        pub type_: u8,
        /// Zero.
        pub _pad0: [u8; 3],
        /// Microseconds to leave it.
        pub latency: u32,
        /// Power in milliwatts.
        pub power: u32,
        /// Number of dependencies.
        pub dpcnt: u32,
        /// The dependencies.
        pub dp: GuestHandle<ProcessorCsd>,
    }

    /// Bits, from the lowest: bus mastering is controlled, is checked, states are from _CST, set-up
    /// is done, reload of bus mastering is set.
    pub struct ProcessorFlags[4] = "struct xen_processor_flags" {
        /// The bits.
        pub bits: u32 = "",
    }

    /// `XEN_PM_CX`.
    pub struct ProcessorPower[16] = "struct xen_processor_power" {
        /// Number of states.
        pub count: u32,
        /// Flags.
        pub flags: ProcessorFlags,
        /// The states.
        pub states: GuestHandle<ProcessorCx>,
    }

    /// A register of performance states as ACPI describes it.
    pub struct PctRegister[16] = "struct xen_pct_register" {
        /// Kind of description.
        pub descriptor: u8,
        /// Zero.
        pub _pad0: u8,
        /// Its length.
        pub length: u16,
        /// Address space.
        pub space_id: u8,
        /// Width in bits.
        pub bit_width: u8,
        /// First bit.
        pub bit_offset: u8,
        /// Zero.
        pub reserved: u8,
        /// Address.
        pub address: u64,
    }

    /// A performance state.
    pub struct ProcessorPx[48] = "struct xen_processor_px" {
        /// Frequency in MHz.
        pub core_frequency: u64,
        /// Power in milliwatts.
        pub power: u64,
        /// Microseconds to enter it.
        pub transition_latency: u64,
        /// Microseconds without bus mastering.
        pub bus_master_latency: u64,
        /// Value to enter it.
        pub control: u64,
        /// Value when it is entered.
        pub status: u64,
    }

    /// CPUs whose performance states depend on each other.
    pub struct PsdPackage[40] = "struct xen_psd_package" {
        /// Number of entries.
        pub num_entries: u64,
        /// Revision.
        pub revision: u64,
        /// Number of the group.
        pub domain: u64,
        /// Who coordinates.
        pub coord_type: u64,
        /// Number of CPUs.
        pub num_processors: u64,
    }

    /// `XEN_PM_PX`.
    pub struct ProcessorPerformance[104] = "struct xen_processor_performance" {
        /// Which parts are given, `XEN_PX_*`.
        pub flags: u32,
        /// The highest state that is permitted.
        pub platform_limit: u32,
        /// Register to enter a state.
        pub control_register: PctRegister,
        /// Register to see the state.
        pub status_register: PctRegister,
        /// Number of states.
        pub state_count: u32,
        /// Zero.
        pub _pad0: u32,
        /// The states.
        pub states: GuestHandle<ProcessorPx>,
        /// Dependencies.
        pub domain_info: PsdPackage,
        /// `XEN_CPUPERF_SHARED_TYPE_*`.
        pub shared_type: u32,
        /// Zero.
        pub _pad1: u32,
    }

    /// `XENPF_SET_PROCESSOR_PMINFO`.
    pub struct XenpfSetProcessorPminfo[112] = "struct xenpf_set_processor_pminfo" {
        /// The CPU's identifier in ACPI.
        pub id: u32,
        /// `XEN_PM_*`.
        pub type_: u32,
        /// A `ProcessorPower`, a `ProcessorPerformance`, or a `GuestHandle<u32>`.
        pub u: Union<u64, 13>,
    }

    /// `XENPF_GET_CPUINFO`.
    pub struct XenpfPcpuinfo[20] = "struct xenpf_pcpuinfo" {
        /// In: the CPU.
        pub xen_cpuid: u32,
        /// Out: highest number of a CPU.
        pub max_present: u32,
        /// Out: `XEN_PCPU_FLAGS_*`.
        pub flags: u32,
        /// Out: its identifier in the APIC.
        pub apic_id: u32,
        /// Out: its identifier in ACPI.
        pub acpi_id: u32,
    }

    /// `XENPF_GET_CPU_VERSION`.
    pub struct XenpfPcpuVersion[32] = "struct xenpf_pcpu_version" {
        /// In: the CPU.
        pub xen_cpuid: u32,
        /// Out: highest number of a CPU.
        pub max_present: u32,
        /// Out: its vendor.
        pub vendor_id: [u8; 12],
        /// Out: its family.
        pub family: u32,
        /// Out: its model.
        pub model: u32,
        /// Out: its stepping.
        pub stepping: u32,
    }

    /// `XENPF_CPU_ONLINE` and `XENPF_CPU_OFFLINE`.
    pub struct XenpfCpuOl[4] = "struct xenpf_cpu_ol" {
        /// The CPU.
        pub cpuid: u32,
    }

    /// `XENPF_CPU_HOTADD`.
    pub struct XenpfCpuHotadd[12] = "struct xenpf_cpu_hotadd" {
        /// Its identifier in the APIC.
        pub apic_id: u32,
        /// Its identifier in ACPI.
        pub acpi_id: u32,
        /// Its proximity domain.
        pub pxm: u32,
    }

    /// `XENPF_MEM_HOTADD`.
    pub struct XenpfMemHotadd[24] = "struct xenpf_mem_hotadd" {
        /// First frame.
        pub spfn: u64,
        /// End.
        pub epfn: u64,
        /// Its proximity domain.
        pub pxm: u32,
        /// Zero.
        pub flags: u32,
    }

    /// `XENPF_CORE_PARKING`.
    pub struct XenpfCoreParking[8] = "struct xenpf_core_parking" {
        /// In: `XEN_CORE_PARKING_*`.
        pub type_: u32,
        /// In or out: number of CPUs.
        pub idle_nums: u32,
    }

    /// An access of `XENPF_RESOURCE_OP`.
    pub struct XenpfResourceEntry[24] = "struct xenpf_resource_entry" {
        /// In: `XEN_RESOURCE_OP_*`; out: a negated error where it failed.
        pub u: u32,
        /// Zero.
        pub rsvd: u32,
        /// In: the MSR.
        pub idx: u64,
        /// In or out: its value.
        pub val: u64,
    }

    /// `XENPF_RESOURCE_OP`.
    pub struct XenpfResourceOp[16] = "struct xenpf_resource_op" {
        /// Number of accesses.
        pub nr_entries: u32,
        /// The CPU.
        pub cpu: u32,
        /// The accesses.
        pub entries: GuestHandle<XenpfResourceEntry>,
    }

    /// `XENPF_GET_SYMBOL`.
    pub struct XenpfSymdata[32] = "struct xenpf_symdata" {
        /// In: room for the name in bytes; out: its length.
        pub namelen: u32,
        /// In: which symbol; out: the next, or the same after the last.
        pub symnum: u32,
        /// Out: its name.
        pub name: GuestHandle<u8>,
        /// Out: its address.
        pub address: u64,
        /// Out: its type, a letter as the tool `nm` has it.
        pub type_: u8,
        /// Zero.
        pub _pad0: [u8; 7],
    }
}

impl PlatformOp {
    /// An operation with its struct.
    pub fn with<A: zerocopy::IntoBytes + zerocopy::Immutable>(cmd: u32, arm: &A) -> Self {
        Self {
            cmd,
            interface_version: XENPF_INTERFACE_VERSION,
            u: Union::new(arm),
        }
    }
}
