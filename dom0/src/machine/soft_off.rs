//! Switching the machine off, which hypervisors leave to the control domain: it is the one to know
//! the firmware.

use dom0::acpi::{Memory, SoftOff};
use hypercall_abi::types::Mfn;
use pv_guest::memory::Mapping;
use pv_guest::ports::IoPorts;

const PAGE_SIZE: u64 = 4096;

/// Switches the machine off. Returns if it cannot be done: then the hypervisor stops the machine
/// with its power on.
pub fn switch_off() {
    let Some(off) = SoftOff::find(&mut Firmware) else {
        return;
    };
    // SAFETY: the ports that are used are those of power management, which do no DMA.
    #[expect(unsafe_code, reason = "access to devices")]
    let Ok(ports) = (unsafe { IoPorts::acquire() }) else {
        return;
    };
    if let Some(port) = off.second_port {
        ports.write_u16(port, off.value(true, ports.read_u16(port)));
    }
    ports.write_u16(off.port, off.value(false, ports.read_u16(off.port)));
}

/// The tables where the firmware left them.
struct Firmware;

impl Memory for Firmware {
    fn read(&mut self, address: u64, out: &mut [u8]) -> bool {
        let offset = (address % PAGE_SIZE) as usize;
        let pages = (offset + out.len()).div_ceil(PAGE_SIZE as usize);
        let Ok(mapping) = Mapping::firmware(Mfn(address / PAGE_SIZE), pages) else {
            return false;
        };
        mapping.copy_out(offset, out);
        true
    }
}
