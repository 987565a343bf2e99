//! The guest's side: typed hypercalls.
//!
//! Every call goes through the hypercall page, which the image that links this provides under the
//! symbol `hypercall_page` (4096 bytes, page-aligned) and names in the ELF note
//! `XEN_ELFNOTE_HYPERCALL_PAGE`, so that the hypervisor fills it in. Pointers passed are addresses
//! of the calling kernel.
//!
//! A call that cannot break the caller's memory, whatever its arguments, is safe. Page tables,
//! descriptor tables, entry points, memory given away or shared with the hypervisor: those calls
//! are unsafe, and say what they need.

use core::fmt;
use core::num::NonZeroI32;

use crate::errno::Errno;

pub mod event_channel;
pub mod grant_table;
pub mod memory;
pub mod mmu;
pub mod physdev;
mod raw;
pub mod sched;
pub mod system;
pub mod toolstack;
pub mod trap;
pub mod vcpu;

pub use raw::{
    hypercall_page, hypercall0, hypercall1, hypercall2, hypercall3, hypercall4, hypercall5,
};

/// What a hypercall gives.
pub type Result<T> = core::result::Result<T, CallError>;

/// The error that a hypercall returned, whether this crate has a name for its number or not.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallError(NonZeroI32);

impl CallError {
    /// The error's number, positive.
    pub const fn number(self) -> i32 {
        self.0.get()
    }

    /// The error's name, if its number has one.
    pub const fn errno(self) -> Option<Errno> {
        Errno::from_number(self.number())
    }
}

impl From<Errno> for CallError {
    fn from(errno: Errno) -> Self {
        // No error has the number 0.
        Self(NonZeroI32::new(errno.number()).unwrap_or(NonZeroI32::MIN))
    }
}

impl PartialEq<Errno> for CallError {
    fn eq(&self, errno: &Errno) -> bool {
        self.number() == errno.number()
    }
}

impl fmt::Debug for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno() {
            Some(errno) => write!(f, "{errno:?}"),
            None => write!(f, "errno {}", self.number()),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno() {
            Some(errno) => errno.fmt(f),
            None => write!(f, "errno {}", self.number()),
        }
    }
}

impl core::error::Error for CallError {}

/// What a hypercall's return value stands for: an error if it is one of -1 to -4095, else itself.
pub const fn check(value: i64) -> Result<u64> {
    match NonZeroI32::new(value.wrapping_neg() as i32) {
        Some(number) if value < 0 && value >= -4095 => Err(CallError(number)),
        _ => Ok(value as u64),
    }
}

/// The address of an argument that the hypervisor reads, which becomes reachable by it.
fn address_of<T: ?Sized>(argument: &T) -> u64 {
    core::ptr::from_ref(argument).expose_provenance() as u64
}

/// The address of an argument that the hypervisor reads and writes, which becomes reachable by it.
fn address_of_mut<T: ?Sized>(argument: &mut T) -> u64 {
    core::ptr::from_mut(argument).expose_provenance() as u64
}

/// The number of elements of an array argument, which the interface has as 32 bits: more than that
/// are refused by the hypervisor, as `u32::MAX` is.
fn count_of<T>(elements: &[T]) -> u64 {
    u64::from(u32::try_from(elements.len()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unnamed_error_number_is_kept() {
        let error = check(-133).unwrap_err();
        assert_eq!((error.number(), error.errno()), (133, None));
    }

    #[test]
    fn a_named_error_equals_its_name() {
        assert_eq!(check(Errno::EPERM.to_return()).unwrap_err(), Errno::EPERM);
        assert_eq!(CallError::from(Errno::EPERM), Errno::EPERM);
    }

    #[test]
    fn a_large_negative_value_is_no_error() {
        assert_eq!(check(-4096), Ok(-4096_i64 as u64));
        assert_eq!(check(3), Ok(3));
    }
}
