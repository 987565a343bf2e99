//! Debug registers of guests: `HYPERVISOR_set_debugreg` and `get_debugreg`, and `mov` to and from DR0 to DR7.
//!
//! A guest may watch its own addresses only; a breakpoint in the hypervisor would be hit in ring 0. I/O breakpoints
//! are not given to the processor, which would see the hypervisor's accesses: the emulator of I/O instructions looks
//! for them.

use hv_machine::{Platform, is_guest_range};
use hypercall_abi::errno::Errno;

use crate::Current;
use crate::hypercall::{Args, HypercallResult};
use crate::traps::dr6;
use crate::vcpu::VcpuState;

/// CR4.DE: DR4 and DR5 are no other names of DR6 and DR7, and I/O breakpoints work.
const CR4_DE: u64 = 1 << 3;
/// Bits of DR6 that read 0.
const DR6_ZERO: u64 = !0xffff_efff;
/// Bits of DR7 that read 0.
const DR7_ZERO: u64 = !0xffff_27ff;
/// Bit of DR7 that reads 1.
const DR7_ONE: u64 = 0x400;
/// General detect, which would make the hypervisor's own accesses fault.
const DR7_GENERAL_DETECT: u64 = 1 << 13;
/// The enable bits of DR7, two a breakpoint.
const DR7_ENABLES: u64 = 0xff;
/// Kind of a breakpoint in DR7: I/O.
const KIND_IO: u64 = 2;

/// `set_debugreg(register, value)`.
///
/// # Errors
/// `ENODEV` for a register that does not exist, `EINVAL` for bits that do not, `EPERM` for what a guest may not have.
pub fn do_set_debugreg(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    write(cx, args[0] as u32, args[1])?;
    Ok(0)
}

/// `get_debugreg(register)`: the value, which may look like an error.
///
/// # Errors
/// `ENODEV` for a register that does not exist.
pub fn do_get_debugreg(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    Ok(read(cx.state, args[0] as u32)?)
}

/// Reads a debug register of a vCPU.
///
/// # Errors
/// `ENODEV` where the guest has no such register.
pub fn read(state: &VcpuState, register: u32) -> Result<u64, Errno> {
    let [dr0, dr1, dr2, dr3, _, _, dr6, dr7] = state.debug;
    let aliased = state.cr4 & CR4_DE == 0;
    match register {
        0 => Ok(dr0),
        1 => Ok(dr1),
        2 => Ok(dr2),
        3 => Ok(dr3),
        6 => Ok(dr6),
        4 if aliased => Ok(dr6),
        7 => Ok(dr7 | state.io_breakpoints),
        5 if aliased => Ok(dr7 | state.io_breakpoints),
        _ => Err(Errno::ENODEV),
    }
}

/// Writes a debug register of the current vCPU.
///
/// # Errors
/// As [`do_set_debugreg`].
pub fn write(cx: &mut Current<'_>, register: u32, value: u64) -> Result<(), Errno> {
    set(cx.state, register, value)?;
    cx.machine().load_debug_registers(&cx.state.debug);
    Ok(())
}

/// Sets all debug registers of a vCPU that does not run, DR7 last; values that a guest may not have are passed over.
pub fn load_all(state: &mut VcpuState, values: &[u64; 8]) {
    for (register, &value) in (0..).zip(values) {
        if !matches!(register, 4 | 5) {
            // The call that brought them takes what it can, as it always did.
            let _ = set(state, register, value);
        }
    }
}

fn set(state: &mut VcpuState, register: u32, value: u64) -> Result<(), Errno> {
    let aliased = state.cr4 & CR4_DE == 0;
    match register {
        0..=3 => {
            if !is_guest_range(value, 1) {
                return Err(Errno::EPERM);
            }
            if let Some(slot) = state.debug.get_mut(register as usize) {
                *slot = value;
            }
            Ok(())
        }
        4 if !aliased => Err(Errno::ENODEV),
        4 | 6 => {
            if value > u64::from(u32::MAX) {
                return Err(Errno::EINVAL);
            }
            state.debug[6] = value & !DR6_ZERO | dr6::RESTING;
            Ok(())
        }
        5 if !aliased => Err(Errno::ENODEV),
        5 | 7 => set_control(state, value),
        _ => Err(Errno::ENODEV),
    }
}

fn set_control(state: &mut VcpuState, value: u64) -> Result<(), Errno> {
    if value > u64::from(u32::MAX) {
        return Err(Errno::EINVAL);
    }
    let value = value & !DR7_ZERO | DR7_ONE;
    if value & DR7_GENERAL_DETECT != 0 {
        return Err(Errno::EPERM);
    }
    let mut io = 0;
    if value & DR7_ENABLES != 0 {
        for breakpoint in 0..4 {
            if value >> (16 + 4 * breakpoint) & 3 == KIND_IO {
                if state.cr4 & CR4_DE == 0 {
                    return Err(Errno::EPERM);
                }
                io |= value & 3 << (2 * breakpoint);
            }
        }
    }
    state.io_breakpoints = io;
    state.debug[7] = value & !io;
    Ok(())
}

/// Bits of DR6 of the I/O breakpoints that an access to `bytes` bytes from `port` hits.
pub fn io_breakpoints_hit(state: &VcpuState, port: u16, bytes: u32) -> u64 {
    if state.io_breakpoints == 0 || state.cr4 & CR4_DE == 0 {
        return 0;
    }
    let (first, end) = (u64::from(port), u64::from(port) + u64::from(bytes));
    let mut hit = 0;
    for (breakpoint, &start) in state.debug.iter().take(4).enumerate() {
        if state.io_breakpoints & 3 << (2 * breakpoint) == 0 {
            continue;
        }
        let width = match state.debug[7] >> (18 + 4 * breakpoint) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        if start < end && start.saturating_add(width) > first {
            hit |= 1 << breakpoint;
        }
    }
    hit
}

#[cfg(test)]
mod tests {
    use super::*;

    use hypercall_abi::xen::{HYPERVISOR_GET_DEBUGREG, HYPERVISOR_SET_DEBUGREG};

    use crate::testing::{DOMU, Host};

    fn set(host: &Host, register: u32, value: u64) -> i64 {
        host.hypercall(DOMU, HYPERVISOR_SET_DEBUGREG, &[register.into(), value])
    }

    fn get(host: &Host, register: u32) -> i64 {
        host.hypercall(DOMU, HYPERVISOR_GET_DEBUGREG, &[register.into()])
    }

    #[test]
    fn breakpoints_are_kept_and_loaded() {
        let host = Host::new();
        assert_eq!(set(&host, 0, 0x1000), 0);
        assert_eq!(set(&host, 3, 0xffff_ffff_8000_0000), 0);
        assert_eq!(set(&host, 7, 0x0001), 0);
        assert_eq!(get(&host, 0), 0x1000);
        assert_eq!(get(&host, 3), 0xffff_ffff_8000_0000_u64 as i64);
        assert_eq!(get(&host, 7), 0x401);
        let loaded = host.hv.machine.cpu(0).debug;
        assert_eq!((loaded[0], loaded[7]), (0x1000, 0x401));
    }

    #[test]
    fn a_breakpoint_in_the_hypervisor_is_refused() {
        let host = Host::new();
        for address in [
            hv_machine::HYPERVISOR_VIRT_START,
            hv_machine::HYPERVISOR_VIRT_END - 1,
            0x0000_8000_0000_0000,
        ] {
            assert_eq!(set(&host, 1, address), Errno::EPERM.to_return());
        }
        assert_eq!(get(&host, 1), 0);
    }

    #[test]
    fn reserved_bits_read_as_the_processor_has_them() {
        let host = Host::new();
        assert_eq!(set(&host, 6, 0xffff_ffff), 0);
        assert_eq!(get(&host, 6), 0xffff_efff);
        assert_eq!(set(&host, 6, 0), 0);
        assert_eq!(get(&host, 6), 0xffff_0ff0);
        assert_eq!(set(&host, 7, 0xd800), 0);
        assert_eq!(get(&host, 7), 0x400);
        for register in [4, 5, 6, 7] {
            assert_eq!(set(&host, register, 1 << 32), Errno::EINVAL.to_return());
        }
        assert_eq!(set(&host, 7, DR7_GENERAL_DETECT), Errno::EPERM.to_return());
    }

    #[test]
    fn dr4_and_dr5_are_other_names_until_cr4_says_otherwise() {
        let host = Host::new();
        assert_eq!(set(&host, 4, 1), 0);
        assert_eq!(get(&host, 6), 0xffff_0ff1);
        assert_eq!(get(&host, 5), get(&host, 7));
        host.as_guest(DOMU, |cx| cx.state.cr4 |= CR4_DE);
        for register in [4, 5, 8, u32::MAX] {
            assert_eq!(set(&host, register, 0), Errno::ENODEV.to_return());
            assert_eq!(get(&host, register), Errno::ENODEV.to_return());
        }
    }

    #[test]
    fn io_breakpoints_are_kept_from_the_processor_and_found_by_the_emulator() {
        let host = Host::new();
        // Breakpoint 1, local, I/O, 2 bytes.
        let control = 1 << 2 | 2 << 20 | 1 << 22;
        assert_eq!(set(&host, 7, control), Errno::EPERM.to_return());
        host.as_guest(DOMU, |cx| cx.state.cr4 |= CR4_DE);
        assert_eq!(set(&host, 1, 0x3f8), 0);
        assert_eq!(set(&host, 7, control), 0);
        assert_eq!(get(&host, 7), control as i64 | 0x400);
        assert_eq!(host.hv.machine.cpu(0).debug[7] & DR7_ENABLES, 0);
        host.as_guest(DOMU, |cx| {
            for (port, bytes, hit) in [
                (0x3f8, 1, 2),
                (0x3f9, 1, 2),
                (0x3f6, 4, 2),
                (0x3fa, 4, 0),
                (0x3f7, 1, 0),
            ] {
                assert_eq!(io_breakpoints_hit(cx.state, port, bytes), hit, "{port:#x}");
            }
        });
    }

    #[test]
    fn a_context_loads_what_a_guest_may_have() {
        let mut state = VcpuState::default();
        let hypervisors = hv_machine::HYPERVISOR_VIRT_START;
        load_all(&mut state, &[1, 2, hypervisors, 4, 9, 9, 1, 0x55]);
        assert_eq!(state.debug, [1, 2, 0, 4, 0, 0, 0xffff_0ff1, 0x455]);
    }
}
