//! Ending the domain.

use hypercall_abi::sched;

use crate::{cpu, hypercall};

/// Why a domain ends; what is then done about it is the toolstack's decision (`on_poweroff` and so
/// on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// It is done.
    PowerOff = sched::SHUTDOWN_POWEROFF,
    /// It wants to start anew.
    Reboot = sched::SHUTDOWN_REBOOT,
    /// It cannot go on.
    Crash = sched::SHUTDOWN_CRASH,
}

/// Ends the domain.
pub fn shutdown(reason: Reason) -> ! {
    cpu::disable_upcalls();
    loop {
        // It returns only if the hypervisor refuses; there is nothing left to do but to ask again.
        _ = hypercall::sched::shutdown(reason as u32);
        hypercall::sched::yield_now();
    }
}
