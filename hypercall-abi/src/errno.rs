//! Error numbers that hypercalls return, negated (`xen/errno.h`).

use core::fmt;

macro_rules! errnos {
    (
        $( #[doc = $text:literal] $name:ident = $value:literal, )*
        internal { $( #[doc = $internal_text:literal] $internal:ident = $internal_value:literal, )* }
    ) => {
        /// An error number of Xen's interface. The values are those of Linux on x86.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i32)]
        pub enum Errno {
            $( #[doc = $text] $name = $value, )*
            $( #[doc = $internal_text] $internal = $internal_value, )*
        }

        impl Errno {
            /// The error with this (positive) number, if there is one.
            pub const fn from_number(number: i32) -> Option<Self> {
                match number {
                    $( $value => Some(Self::$name), )*
                    _ => None,
                }
            }

            /// What it means, in a few words.
            pub const fn description(self) -> &'static str {
                match self {
                    $( Self::$name => $text.trim_ascii(), )*
                    $( Self::$internal => $internal_text.trim_ascii(), )*
                }
            }
        }

        #[doc(hidden)]
        pub const CONSTANTS: &[crate::layout::Constant] = &[
            $( crate::layout::Constant {
                name: stringify!($name),
                c: Some(concat!("XEN_", stringify!($name))),
                value: $value,
            }, )*
            crate::layout::Constant {
                name: "EWOULDBLOCK",
                c: Some("XEN_EWOULDBLOCK"),
                value: Errno::EWOULDBLOCK as i128,
            },
            crate::layout::Constant {
                name: "EDEADLOCK",
                c: Some("XEN_EDEADLOCK"),
                value: Errno::EDEADLOCK as i128,
            },
        ];
    };
}

errnos! {
    /// The caller lacks the privilege
    EPERM = 1,
    /// There is no such entry
    ENOENT = 2,
    /// There is no such domain
    ESRCH = 3,
    /// Input or output failed
    EIO = 5,
    /// There is no such device or address
    ENXIO = 6,
    /// The argument list is too long
    E2BIG = 7,
    /// The format is not executable
    ENOEXEC = 8,
    /// The descriptor is bad
    EBADF = 9,
    /// There are no children
    ECHILD = 10,
    /// Try again
    EAGAIN = 11,
    /// There is not enough memory
    ENOMEM = 12,
    /// Access is denied
    EACCES = 13,
    /// An address of the caller cannot be read or written
    EFAULT = 14,
    /// The thing is in use
    EBUSY = 16,
    /// The thing exists already
    EEXIST = 17,
    /// The two are on different devices
    EXDEV = 18,
    /// There is no such device
    ENODEV = 19,
    /// This is no directory
    ENOTDIR = 20,
    /// This is a directory
    EISDIR = 21,
    /// An argument is invalid
    EINVAL = 22,
    /// Too many files are open in the system
    ENFILE = 23,
    /// Too many files are open
    EMFILE = 24,
    /// There is no space left
    ENOSPC = 28,
    /// The file system is read-only
    EROFS = 30,
    /// There are too many links
    EMLINK = 31,
    /// An argument is outside the function's domain
    EDOM = 33,
    /// A result is out of range
    ERANGE = 34,
    /// Waiting would be for ever
    EDEADLK = 35,
    /// The name is too long
    ENAMETOOLONG = 36,
    /// There are no locks left
    ENOLCK = 37,
    /// The operation does not exist
    ENOSYS = 38,
    /// The directory is not empty
    ENOTEMPTY = 39,
    /// There is no data
    ENODATA = 61,
    /// The timer expired
    ETIME = 62,
    /// The message is bad
    EBADMSG = 74,
    /// A value is too large for its type
    EOVERFLOW = 75,
    /// The byte sequence is illegal
    EILSEQ = 84,
    /// This is no socket
    ENOTSOCK = 88,
    /// The message is too long
    EMSGSIZE = 90,
    /// The operation is not supported here
    EOPNOTSUPP = 95,
    /// The address is in use
    EADDRINUSE = 98,
    /// The address is not available
    EADDRNOTAVAIL = 99,
    /// There is no buffer space left
    ENOBUFS = 105,
    /// The endpoint is connected already
    EISCONN = 106,
    /// The endpoint is not connected
    ENOTCONN = 107,
    /// The time to answer ran out
    ETIMEDOUT = 110,
    /// The connection was refused
    ECONNREFUSED = 111,
    internal {
        /// The operation is not finished and goes on; for the hypervisor alone, which no guest is told
        ERESTART = 85,
    }
}

impl Errno {
    /// The same number as [`Errno::EAGAIN`].
    pub const EWOULDBLOCK: Self = Self::EAGAIN;
    /// The same number as [`Errno::EDEADLK`].
    pub const EDEADLOCK: Self = Self::EDEADLK;

    /// The number, positive.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// What a hypercall that fails with this error returns: the number, negated.
    pub const fn to_return(self) -> i64 {
        -(self as i64)
    }

    /// The error that a hypercall's return value stands for, if it stands for one.
    pub const fn from_return(value: i64) -> Option<Self> {
        if value >= 0 || value < i32::MIN as i64 + 1 {
            return None;
        }
        Self::from_number(-value as i32)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({self:?})", self.description())
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_value_leads_back_to_its_error() {
        assert_eq!(Errno::EINVAL.to_return(), -22);
        assert_eq!(Errno::from_return(-22), Some(Errno::EINVAL));
    }

    #[test]
    fn what_is_no_error_number_has_no_error() {
        for value in [0, 22, -4, -1000, i64::MIN, i64::from(i32::MIN)] {
            assert_eq!(Errno::from_return(value), None);
        }
    }

    #[test]
    fn an_error_prints_its_meaning_and_name() {
        extern crate std;
        assert_eq!(
            std::format!("{}", Errno::EEXIST),
            "The thing exists already (EEXIST)"
        );
    }
}
