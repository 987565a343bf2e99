//! PCI configuration space by its two ports.

use hv_machine::{IoWidth, Platform};

use crate::Hypervisor;

/// Configuration address.
const ADDRESS: u16 = 0xcf8;
/// Configuration data.
const DATA: u16 = 0xcfc;

/// Reads `bytes` (1, 2 or 4) bytes at byte `offset` (0 to 3) of the register that `address` names, an address as
/// written to port 0xcf8.
pub fn read(hv: &Hypervisor, address: u32, offset: u32, bytes: u32) -> u32 {
    let Some((port, width)) = data_port(offset, bytes) else {
        return u32::MAX;
    };
    let _alone = hv.indexed_ports.lock();
    hv.machine.port_out(ADDRESS, IoWidth::Long, address);
    hv.machine.port_in(port, width)
}

/// Writes to configuration space; see [`read`].
pub fn write(hv: &Hypervisor, address: u32, offset: u32, bytes: u32, value: u32) {
    let Some((port, width)) = data_port(offset, bytes) else {
        return;
    };
    let _alone = hv.indexed_ports.lock();
    hv.machine.port_out(ADDRESS, IoWidth::Long, address);
    hv.machine.port_out(port, width, value);
}

fn data_port(offset: u32, bytes: u32) -> Option<(u16, IoWidth)> {
    let width = IoWidth::from_bytes(bytes as usize)?;
    (offset + bytes <= 4).then_some((DATA + offset as u16, width))
}
