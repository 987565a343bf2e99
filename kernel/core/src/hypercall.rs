//! What a hypercall handler returns, and the table of handlers.
//!
//! Registers of a 64-bit PV hypercall (`arch-x86/xen-x86_64.h`): number in RAX, arguments in RDI, RSI, RDX, R10,
//! R8, R9, result in RAX.

use hypercall_abi::errno::Errno;

/// The six argument registers.
pub type Args = [u64; 6];

/// Why a handler has no result to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It failed.
    Error(Errno),
    /// It is not finished: the guest is to make the call again, with these arguments, once it runs again.
    Again(Args),
    /// The registers are already what the guest is to see (`iret`).
    RegistersSet,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Error(errno)
    }
}

/// The non-negative result of a hypercall, or why there is none.
pub type HypercallResult = Result<u64, Stop>;
