//! PCI configuration space, by the ports of configuration mechanism 1, which both hypervisors let
//! the control domain use.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;

use hypercall_abi::physdev::{MAP_PIRQ_TYPE_GSI, PhysdevMapPirq};
use hypercall_abi::types::{Domid, Port};
use pv_guest::events::EventChannel;
use pv_guest::hypercall::{CallError, physdev};
use pv_guest::ports::IoPorts;
use spin::Mutex;
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};

/// The port that selects a register.
const ADDRESS: u16 = 0xcf8;
/// The port that reads or writes the selected register.
const DATA: u16 = 0xcfc;
/// `Interrupt Line` and `Interrupt Pin`, in the lowest bytes.
const INTERRUPT: u8 = 0x3c;

/// Access to the configuration space of segment 0.
#[derive(Clone, Copy)]
pub struct Configuration {
    ports: IoPorts,
}

impl Configuration {
    /// Gets the right to use the ports.
    pub fn acquire() -> Result<Self, CallError> {
        // SAFETY: of all ports, this module uses the two of the configuration mechanism. By way of
        // them, devices are told where their registers are and that they may do DMA, to addresses
        // that `dma` gives them.
        #[expect(unsafe_code, reason = "access to devices")]
        let ports = unsafe { IoPorts::acquire() }?;
        Ok(Self { ports })
    }

    fn select(&self, device: DeviceFunction, register: u8) {
        let address = 1 << 31
            | u32::from(device.bus) << 16
            | u32::from(device.device) << 11
            | u32::from(device.function) << 8
            | u32::from(register & !3);
        self.ports.write_u32(ADDRESS, address);
    }
}

impl ConfigurationAccess for Configuration {
    fn read_word(&self, device: DeviceFunction, register: u8) -> u32 {
        self.select(device, register);
        self.ports.read_u32(DATA)
    }

    fn write_word(&mut self, device: DeviceFunction, register: u8, data: u32) {
        self.select(device, register);
        self.ports.write_u32(DATA, data);
    }

    #[expect(unsafe_code, reason = "as the trait has it")]
    unsafe fn unsafe_clone(&self) -> Self {
        *self
    }
}

/// Lets a device answer at its addresses, do DMA and raise its interrupt.
pub fn enable(root: &mut PciRoot<Configuration>, device: DeviceFunction) {
    let (_, command) = root.get_status_command(device);
    let on = Command::IO_SPACE | Command::MEMORY_SPACE | Command::BUS_MASTER;
    root.set_command(device, (command | on) - Command::INTERRUPT_DISABLE);
}

/// A line by which devices interrupt, several of them as the case may be.
struct Line {
    gsi: i32,
    pirq: u32,
    channel: EventChannel,
}

/// The lines that are bound. A domain can bind each once.
static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

/// The interrupt of a device, by its pin.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt {
    pirq: u32,
    port: Port,
}

impl Interrupt {
    /// Binds the interrupt that the firmware has routed the device's pin to. `None` if the firmware
    /// has not.
    pub fn bind(
        configuration: &Configuration,
        device: DeviceFunction,
    ) -> Result<Option<Self>, CallError> {
        let [line, pin, ..] = configuration.read_word(device, INTERRUPT).to_le_bytes();
        // Lines are those of the two old interrupt controllers, and the I/O APIC's first pins.
        if pin == 0 || line == 0 || line >= 16 {
            return Ok(None);
        }
        let gsi = i32::from(line);
        let mut lines = LINES.lock();
        if let Some(line) = lines.iter().find(|line| line.gsi == gsi) {
            return Ok(Some(line.interrupt()));
        }
        physdev::setup_gsi(gsi, true, true)?;
        let mut request = PhysdevMapPirq {
            domid: Domid::SELF,
            type_: MAP_PIRQ_TYPE_GSI,
            index: gsi,
            pirq: gsi,
            ..Default::default()
        };
        physdev::map_pirq(&mut request)?;
        let pirq = u32::try_from(request.pirq).unwrap_or(u32::from(line));
        let channel = EventChannel::bind_pirq(pirq, true)?;
        channel.set_handler(super::signals::raise);
        let line = Line { gsi, pirq, channel };
        let interrupt = line.interrupt();
        lines.push(line);
        Ok(Some(interrupt))
    }
}

impl Line {
    fn interrupt(&self) -> Interrupt {
        Interrupt {
            pirq: self.pirq,
            port: self.channel.port(),
        }
    }
}

impl fmt::Display for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pirq {} on port {}", self.pirq, self.port)
    }
}

/// The ports of all lines.
pub fn ports() -> BTreeSet<Port> {
    LINES
        .lock()
        .iter()
        .map(|line| line.channel.port())
        .collect()
}

/// All devices have been served, after they took their interrupts back: those lines of which the ports
/// had events may interrupt again.
pub fn end_interrupts(ports: &BTreeSet<Port>) {
    for line in LINES.lock().iter() {
        if ports.contains(&line.channel.port()) {
            // Without the end of one interrupt there is no next one, but there is nobody to tell.
            let _ = physdev::eoi(line.pirq);
        }
    }
}
