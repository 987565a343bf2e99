//! Copies from and to guest virtual memory, by entry.s's routines, which lift SMAP and survive faults.

use core::arch::asm;

unsafe extern "C" {
    fn read_guest(to: *mut u8, from: u64, len: usize) -> bool;
    fn write_guest(to: u64, from: *const u8, len: usize) -> bool;
}

/// Calls one of the above: by its name, not by its address in a table as the functions of another crate are, because
/// hardly anything is called more often.
macro_rules! call_copy {
    ($copy:path, $to:expr, $from:expr, $len:expr) => {{
        let good: u32;
        asm!(
            "call {copy}",
            copy = sym $copy,
            inout("rdi") $to => _,
            inout("rsi") $from => _,
            inout("rdx") $len => _,
            lateout("eax") good,
            out("rcx") _,
        );
        good != 0
    }};
}

/// Copies from guest virtual memory; whether that went well.
///
/// # Safety
/// The source is outside the hypervisor's range, and `to` has room.
#[inline(always)]
pub unsafe fn read(to: *mut u8, from: u64, len: usize) -> bool {
    // SAFETY: the caller's promise; a fault ends the copy.
    let good = unsafe { call_copy!(read_guest, to, from, len) };
    // SAFETY: as above.
    good || unsafe { read_again(to, from, len) }
}

/// The first fault may be that of an old translation, which it makes the processor forget.
///
/// # Safety
/// As for [`read`].
#[cold]
#[inline(never)]
unsafe fn read_again(to: *mut u8, from: u64, len: usize) -> bool {
    // SAFETY: as in `read`.
    unsafe { read_guest(to, from, len) }
}

/// Copies to guest virtual memory; whether that went well.
///
/// # Safety
/// The target is outside the hypervisor's range, and `from` can be read.
#[inline(always)]
pub unsafe fn write(to: u64, from: *const u8, len: usize) -> bool {
    // SAFETY: the caller's promise; a fault ends the copy.
    let good = unsafe { call_copy!(write_guest, to, from, len) };
    // SAFETY: as above.
    good || unsafe { write_again(to, from, len) }
}

/// As [`read_again`].
///
/// # Safety
/// As for [`write`].
#[cold]
#[inline(never)]
unsafe fn write_again(to: u64, from: *const u8, len: usize) -> bool {
    // SAFETY: as in `write`.
    unsafe { write_guest(to, from, len) }
}
