//! The calls themselves: `call hypercall_page + 32 * number`.
//!
//! Arguments are in `rdi`, `rsi`, `rdx`, `r10` and `r8`, the return value in `rax`. The stub uses
//! the instruction `syscall`, so `rcx` and `r11` are lost; the hypervisor may also change the
//! argument registers of a call that it continues later.

use core::arch::asm;

unsafe extern "C" {
    /// The page that the hypervisor fills with one stub of 32 bytes per hypercall.
    pub static hypercall_page: [u8; 4096];
}

macro_rules! hypercalls {
    ($( $(#[$meta:meta])* $name:ident($( $arg:ident in $register:tt ),*) loses [$( $lost:tt )*]; )*) => {
        $(
            $(#[$meta])*
            ///
            /// # Safety
            ///
            /// The image has a hypercall page. What the call reads and writes through its arguments
            /// is the caller's to give, and what it does to the caller's address space breaks no
            /// reference.
            #[inline(always)]
            pub unsafe fn $name<const NR: u32>($($arg: u64),*) -> i64 {
                const { assert!(NR < 128, "the hypercall page has 128 stubs") };
                let result;
                // SAFETY: the stub changes no registers but these, and the rest is the caller's
                // promise.
                unsafe {
                    asm!(
                        "call {page} + {offset}",
                        page = sym hypercall_page,
                        offset = const NR * 32,
                        lateout("rax") result,
                        $( inlateout($register) $arg => _, )*
                        $( lateout($lost) _, )*
                    );
                }
                result
            }
        )*
    };
}

hypercalls! {
    /// The hypercall `NR` without arguments.
    hypercall0() loses ["rdi" "rsi" "rdx" "r10" "r8" "rcx" "r11"];
    /// The hypercall `NR` with one argument.
    hypercall1(a in "rdi") loses ["rsi" "rdx" "r10" "r8" "rcx" "r11"];
    /// The hypercall `NR` with two arguments.
    hypercall2(a in "rdi", b in "rsi") loses ["rdx" "r10" "r8" "rcx" "r11"];
    /// The hypercall `NR` with three arguments.
    hypercall3(a in "rdi", b in "rsi", c in "rdx") loses ["r10" "r8" "rcx" "r11"];
    /// The hypercall `NR` with four arguments.
    hypercall4(a in "rdi", b in "rsi", c in "rdx", d in "r10") loses ["r8" "rcx" "r11"];
    /// The hypercall `NR` with five arguments.
    hypercall5(a in "rdi", b in "rsi", c in "rdx", d in "r10", e in "r8") loses ["rcx" "r11"];
}
