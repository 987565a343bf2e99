//! I/O ports as a guest sees them.
//!
//! Two questions decide over an access: whether the guest's kernel lets whoever runs have it (the virtual I/O
//! privilege level, or the permission bitmap that it set), and whether the domain has the port
//! ([`crate::domain::Access`]). Ports of the CMOS and of PCI configuration, which are an index and a window, are never
//! used directly: each domain has an index of its own. What a domain does not have reads all ones.

use core::sync::atomic::Ordering;

use hv_machine::{IoWidth, Platform};
use hypercall_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL;

use crate::Current;
use crate::pci;

/// Index register of the CMOS.
const CMOS_INDEX: u32 = 0x70;
/// Data register of the CMOS.
const CMOS_DATA: u32 = 0x71;
/// Counter 2 of the interval timer, which drives the speaker.
const PIT_COUNTER_2: u32 = 0x42;
/// Control register of the interval timer.
const PIT_CONTROL: u32 = 0x43;
/// Gate and speaker bits of counter 2, and NMI status.
const SYSTEM_CONTROL: u32 = 0x61;
/// PCI configuration address.
const PCI_ADDRESS: u32 = 0xcf8;

/// Whether the guest's kernel allows an access to `port` by the code that runs.
pub fn guest_allows(cx: &Current<'_>, port: u16, width: IoWidth) -> bool {
    iopl_allows(cx) || bitmap_allows(cx, port, width)
}

/// Whether the virtual I/O privilege level allows I/O to the code that runs. A kernel counts as level 1, or 0 where it
/// asked for the architectural rule.
pub fn iopl_allows(cx: &Current<'_>) -> bool {
    let level = match cx.state.kernel_mode {
        false => 3,
        true if cx.domain.assisted(VMASST_TYPE_ARCHITECTURAL_IOPL) => 0,
        true => 1,
    };
    level <= cx.state.iopl
}

fn bitmap_allows(cx: &Current<'_>, port: u16, width: IoWidth) -> bool {
    let (port, bytes) = (u32::from(port), width.bytes());
    if port + bytes > cx.state.io_bitmap_ports {
        return false;
    }
    // The bitmap is in the kernel's address space. What cannot be read forbids.
    let machine = cx.machine();
    let roots = cx.state.kernel_root.zip(cx.state.user_root);
    let roots = roots.filter(|_| !cx.state.kernel_mode);
    if let Some((kernel, _)) = roots {
        machine.load_root(kernel);
    }
    let at = cx.state.io_bitmap.wrapping_add(u64::from(port >> 3));
    let low = cx.read::<u8>(at).unwrap_or(0xff);
    let high = cx.read::<u8>(at.wrapping_add(1)).unwrap_or(0xff);
    if let Some((_, user)) = roots {
        machine.load_root(user);
    }
    let forbidden = u32::from(u16::from_le_bytes([low, high]));
    forbidden >> (port & 7) & ((1 << bytes) - 1) == 0
}

/// Whether the domain may have all of the access directly.
fn direct(cx: &Current<'_>, port: u32, bytes: u32) -> bool {
    let pci_address = port == PCI_ADDRESS && bytes == 4;
    let cmos = port <= CMOS_DATA && port + bytes > CMOS_INDEX;
    !pci_address
        && !cmos
        && cx
            .domain
            .access
            .lock()
            .ports_allowed(port, port + bytes - 1)
}

/// What the first bytes of an access are for.
enum Part {
    Pit,
    Cmos,
    PciAddress,
    PciData,
    Machine,
    Nothing,
}

/// The first part of an access to `bytes` bytes from `port`, and its size.
fn first_part(cx: &Current<'_>, port: u32, bytes: u32) -> (Part, u32) {
    match port {
        PIT_COUNTER_2 | PIT_CONTROL | SYSTEM_CONTROL => (Part::Pit, 1),
        CMOS_INDEX | CMOS_DATA => (Part::Cmos, 1),
        PCI_ADDRESS if bytes == 4 => (Part::PciAddress, 4),
        0xcfc..=0xcff => match bytes.min(4 - (port & 3)) {
            3 => (Part::PciData, 2),
            size => (Part::PciData, size),
        },
        _ => {
            let access = cx.domain.access.lock();
            if !access.ports_allowed(port, port) {
                (Part::Nothing, 1)
            } else if bytes > 1 && port & 1 == 0 && access.ports_allowed(port + 1, port + 1) {
                (Part::Machine, 2)
            } else {
                (Part::Machine, 1)
            }
        }
    }
}

/// Reads ports for the current guest; the caller has asked [`guest_allows`].
pub fn read(cx: &Current<'_>, port: u16, width: IoWidth) -> u32 {
    let (mut port, mut bytes) = (u32::from(port), width.bytes());
    if direct(cx, port, bytes) {
        return machine_in(cx, port, bytes);
    }
    let (mut value, mut shift) = (0_u64, 0);
    while bytes > 0 {
        let (part, size) = first_part(cx, port, bytes);
        let found = match part {
            Part::Pit => pit_read(cx, port),
            Part::Cmos => cmos_read(cx, port),
            Part::PciAddress => cx.domain.pci_address.load(Ordering::Relaxed),
            Part::PciData if cx.domain.privileged => {
                let address = cx.domain.pci_address.load(Ordering::Relaxed);
                pci::read(cx.hv, address, port & 3, size)
            }
            Part::Machine => machine_in(cx, port, size),
            Part::PciData | Part::Nothing => u32::MAX,
        };
        value |= (u64::from(found) & ((1 << (8 * size)) - 1)) << shift;
        shift += 8 * size;
        port += size;
        bytes = bytes.saturating_sub(size);
    }
    value as u32
}

/// Writes ports for the current guest; the caller has asked [`guest_allows`].
pub fn write(cx: &Current<'_>, port: u16, width: IoWidth, value: u32) {
    let (mut port, mut bytes) = (u32::from(port), width.bytes());
    if direct(cx, port, bytes) {
        machine_out(cx, port, bytes, value);
        return;
    }
    let mut value = u64::from(value);
    while bytes > 0 {
        let (part, size) = first_part(cx, port, bytes);
        let data = value as u32;
        match part {
            Part::Pit => pit_write(cx, port, data as u8),
            Part::Cmos => cmos_write(cx, port, data as u8),
            Part::PciAddress => cx.domain.pci_address.store(data, Ordering::Relaxed),
            Part::PciData if cx.domain.privileged => {
                let address = cx.domain.pci_address.load(Ordering::Relaxed);
                pci::write(cx.hv, address, port & 3, size, data);
            }
            Part::Machine => machine_out(cx, port, size, data),
            Part::PciData | Part::Nothing => {}
        }
        port += size;
        value >>= 8 * size;
        bytes = bytes.saturating_sub(size);
    }
}

/// Ports wrap at the end of their space, as the processor's do.
fn machine_in(cx: &Current<'_>, port: u32, bytes: u32) -> u32 {
    let width = IoWidth::from_bytes(bytes as usize).unwrap_or(IoWidth::Byte);
    cx.machine().port_in(port as u16, width)
}

fn machine_out(cx: &Current<'_>, port: u32, bytes: u32, value: u32) {
    let width = IoWidth::from_bytes(bytes as usize).unwrap_or(IoWidth::Byte);
    cx.machine().port_out(port as u16, width, value);
}

/// The control domain has counter 2, which the hypervisor does not use; nobody else has a timer here.
fn pit_read(cx: &Current<'_>, port: u32) -> u32 {
    if cx.domain.privileged && port != PIT_CONTROL {
        machine_in(cx, port, 1)
    } else {
        u32::MAX
    }
}

fn pit_write(cx: &Current<'_>, port: u32, value: u8) {
    if !cx.domain.privileged {
        return;
    }
    match port {
        PIT_CONTROL => match value >> 6 {
            // Counter 2.
            2 => machine_out(cx, port, 1, value.into()),
            // Read-back: of counter 2 alone.
            3 if value & 8 != 0 => machine_out(cx, port, 1, (value & 0xf8).into()),
            _ => {}
        },
        SYSTEM_CONTROL => {
            let kept = machine_in(cx, port, 1) & !3;
            machine_out(cx, port, 1, kept | u32::from(value & 3));
        }
        _ => machine_out(cx, port, 1, value.into()),
    }
}

fn has_cmos(cx: &Current<'_>) -> bool {
    let access = cx.domain.access.lock();
    access.ports_allowed(CMOS_INDEX, CMOS_DATA)
}

fn cmos_read(cx: &Current<'_>, port: u32) -> u32 {
    let index = cx.domain.cmos_index.load(Ordering::Relaxed);
    if port == CMOS_INDEX {
        return index.into();
    }
    if !has_cmos(cx) {
        return u32::MAX;
    }
    let _alone = cx.hv.indexed_ports.lock();
    machine_out(cx, CMOS_INDEX, 1, (index & 0x7f).into());
    machine_in(cx, CMOS_DATA, 1)
}

fn cmos_write(cx: &Current<'_>, port: u32, value: u8) {
    if port == CMOS_INDEX {
        cx.domain.cmos_index.store(value, Ordering::Relaxed);
    } else if has_cmos(cx) {
        let index = cx.domain.cmos_index.load(Ordering::Relaxed);
        let _alone = cx.hv.indexed_ports.lock();
        machine_out(cx, CMOS_INDEX, 1, (index & 0x7f).into());
        machine_out(cx, CMOS_DATA, 1, value.into());
    }
}
