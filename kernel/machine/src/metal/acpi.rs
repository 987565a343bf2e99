//! What the ACPI tables say about processors, interrupt controllers, timers and the reset register.

use alloc::vec::Vec;
use core::ptr::NonNull;

use acpi::address::{AddressSpace, GenericAddress};
use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::rsdp::Rsdp;
use acpi::{AcpiHandler, AcpiTables, HpetInfo, PhysicalMapping};

use super::device;
use crate::{Polarity, TriggerMode};

/// An I/O APIC.
#[derive(Clone, Copy, Debug)]
pub struct IoApicInfo {
    /// Machine address of its registers.
    pub address: u64,
    /// Its first global system interrupt.
    pub gsi_base: u32,
}

/// An ISA interrupt that is not wired as ISA has it.
#[derive(Clone, Copy, Debug)]
pub struct Override {
    /// Interrupt of the ISA bus.
    pub isa: u8,
    /// Global system interrupt.
    pub gsi: u32,
    /// Triggering.
    pub trigger: TriggerMode,
    /// Polarity.
    pub polarity: Polarity,
}

/// The power-management timer.
#[derive(Clone, Copy, Debug)]
pub struct PmTimer {
    /// I/O port.
    pub port: u16,
    /// 32 bits wide, else 24.
    pub wide: bool,
}

/// How the firmware wants to be asked for a reset: by an I/O port.
#[derive(Clone, Copy, Debug)]
pub struct Reset {
    /// I/O port.
    pub port: u16,
    /// What to write there.
    pub value: u8,
}

/// The tables' contents, as far as the machine wants them.
#[derive(Debug)]
pub struct Firmware {
    /// Machine address of the root pointer.
    pub rsdp: Option<u64>,
    /// Machine address of the local APICs' registers.
    pub local_apic: u64,
    /// APIC numbers of the processors that can be used.
    pub cpus: Vec<u32>,
    /// I/O APICs.
    pub io_apics: Vec<IoApicInfo>,
    /// Deviating ISA interrupts.
    pub overrides: Vec<Override>,
    /// Power-management timer.
    pub pm_timer: Option<PmTimer>,
    /// Machine address of the HPET.
    pub hpet: Option<u64>,
    /// Reset register.
    pub reset: Option<Reset>,
    /// I/O ports of the power-management control registers, PM1a and PM1b.
    pub sleep_ports: [Option<u16>; 2],
    /// Register of the battery clock with the century; 0 for none.
    pub century: u8,
}

#[derive(Clone, Copy)]
struct Tables;

impl AcpiHandler for Tables {
    unsafe fn map_physical_region<T>(
        &self,
        address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        let pointer = device::map(address as u64, size as u64, true);
        let pointer = NonNull::new(pointer.cast()).expect("a mapping at address 0");
        // SAFETY: the mapping has just been made with this size.
        unsafe { PhysicalMapping::new(address, pointer, size, size, Self) }
    }

    fn unmap_physical_region<T>(region: &PhysicalMapping<Self, T>) {
        device::unmap(
            region.virtual_start().as_ptr().cast(),
            region.mapped_length() as u64,
        );
    }
}

/// Reads the tables. `rsdp` is where UEFI says that the root pointer is, `copy` the copy of it that the boot loader
/// gave. Without the first, the BIOS's memory is searched.
pub fn read(rsdp: Option<u64>, copy: Option<&[u8]>) -> Firmware {
    let mut firmware = Firmware {
        rsdp,
        local_apic: 0xfee0_0000,
        cpus: Vec::new(),
        io_apics: Vec::new(),
        overrides: Vec::new(),
        pm_timer: None,
        hpet: None,
        reset: None,
        sleep_ports: [None; 2],
        century: 0,
    };
    if rsdp.is_none() {
        // SAFETY: this reads memory below 1 MiB, which has no device with side effects but the frame buffer,
        // which is not searched.
        if let Ok(found) = unsafe { Rsdp::search_for_on_bios(Tables) } {
            firmware.rsdp = Some(found.physical_start() as u64);
        }
    }
    let tables = match copy.and_then(root_table) {
        // SAFETY: the loader vouches for the root pointer.
        Some((revision, address)) => unsafe {
            AcpiTables::from_rsdt(Tables, revision, address as usize)
        },
        None => match firmware.rsdp {
            // SAFETY: found above, or UEFI vouches for it.
            Some(address) => unsafe { AcpiTables::from_rsdp(Tables, address as usize) },
            None => return firmware,
        },
    };
    match tables {
        Ok(tables) => firmware.read_tables(&tables),
        Err(error) => super::log!("ACPI: {error:?}"),
    }
    firmware
}

/// Revision and address of the root table that a root pointer names.
fn root_table(rsdp: &[u8]) -> Option<(u8, u64)> {
    let revision = *rsdp.get(15)?;
    let address = if revision == 0 {
        u32::from_le_bytes(rsdp.get(16..20)?.try_into().ok()?).into()
    } else {
        u64::from_le_bytes(rsdp.get(24..32)?.try_into().ok()?)
    };
    Some((revision, address))
}

/// The I/O port of a register that is at one.
fn io_port(register: &GenericAddress) -> Option<u16> {
    let port = u16::try_from(register.address).ok()?;
    (register.address_space == AddressSpace::SystemIo && port != 0).then_some(port)
}

impl Firmware {
    fn read_tables(&mut self, tables: &AcpiTables<Tables>) {
        if let Ok(madt) = tables.find_table::<Madt>() {
            self.local_apic = u64::from(madt.get().local_apic_address);
            for entry in madt.get().entries() {
                self.add(&entry);
            }
        }
        if let Ok(fadt) = tables.find_table::<Fadt>() {
            self.century = fadt.century;
            if let Ok(Some(timer)) = fadt.pm_timer_block()
                && timer.address_space == AddressSpace::SystemIo
                && let Ok(port) = u16::try_from(timer.address)
                && port != 0
            {
                let wide = { fadt.flags }.pm_timer_is_32_bit();
                self.pm_timer = Some(PmTimer { port, wide });
            }
            self.sleep_ports = [
                fadt.pm1a_control_block().ok(),
                fadt.pm1b_control_block().ok().flatten(),
            ]
            .map(|block| block.as_ref().and_then(io_port));
            if { fadt.flags }.supports_system_reset_via_fadt()
                && let Ok(register) = fadt.reset_register()
                && register.address_space == AddressSpace::SystemIo
                && let Ok(port) = u16::try_from(register.address)
            {
                self.reset = Some(Reset {
                    port,
                    value: fadt.reset_value,
                });
            }
        }
        if let Ok(hpet) = HpetInfo::new(tables) {
            self.hpet = Some(hpet.base_address as u64);
        }
    }

    fn add(&mut self, entry: &MadtEntry) {
        const ENABLED: u32 = 1;
        match entry {
            MadtEntry::LocalApic(e) if e.flags & ENABLED != 0 => self.cpus.push(e.apic_id.into()),
            MadtEntry::LocalX2Apic(e) if e.flags & ENABLED != 0 => self.cpus.push(e.x2apic_id),
            MadtEntry::LocalApicAddressOverride(e) => self.local_apic = e.local_apic_address,
            MadtEntry::IoApic(e) => self.io_apics.push(IoApicInfo {
                address: u64::from(e.io_apic_address),
                gsi_base: e.global_system_interrupt_base,
            }),
            MadtEntry::InterruptSourceOverride(e) => self.overrides.push(Override {
                isa: e.irq,
                gsi: e.global_system_interrupt,
                // 0 is what the bus has: ISA's are edges, active high.
                polarity: if e.flags & 3 == 3 {
                    Polarity::Low
                } else {
                    Polarity::High
                },
                trigger: if e.flags >> 2 & 3 == 3 {
                    TriggerMode::Level
                } else {
                    TriggerMode::Edge
                },
            }),
            _ => {}
        }
    }
}
