//! The hypercalls that this library makes.
//!
//! Calls that can take away or reinterpret memory that Rust code relies on are `unsafe`; what each caller owes is with it.

use core::arch::asm;

use hypercall_abi::arch_x86::TrapInfo;
use hypercall_abi::callback::{CALLBACKOP_REGISTER, CallbackRegister};
use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel;
use hypercall_abi::sched::{SCHEDOP_BLOCK, SCHEDOP_SHUTDOWN, SCHEDOP_YIELD, SchedShutdown};
use hypercall_abi::types::Domid;
use hypercall_abi::xen::{self, CONSOLEIO_READ, CONSOLEIO_WRITE, MmuUpdate, MmuextOp};

unsafe extern "C" {
    static hypercall_page: [u8; 4096];
}

/// A hypercall by number. The result is as the hypervisor returned it.
///
/// # Safety
///
/// As the hypercall demands; pointers among the arguments must be valid for what it does with them.
pub unsafe fn raw(number: u32, arguments: [u64; 5]) -> i64 {
    let [a, b, c, d, e] = arguments;
    let result: i64;
    // SAFETY: the entry of the hypercall page for `number` takes its arguments in these registers, changes no others but
    // rcx and r11, and returns; what it does to memory is the caller's promise.
    unsafe {
        let entry = (&raw const hypercall_page)
            .cast::<u8>()
            .add(number as usize * 32);
        asm!(
            "call {entry}",
            entry = in(reg) entry,
            inlateout("rdi") a => _,
            inlateout("rsi") b => _,
            inlateout("rdx") c => _,
            inlateout("r10") d => _,
            inlateout("r8") e => _,
            lateout("rax") result,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The result of a hypercall that returns a negated error number, or something else from 0 up.
pub fn check(result: i64) -> Result<u64, Errno> {
    if result >= 0 {
        return Ok(result as u64);
    }
    // A number that the interface does not define can only come from a newer hypervisor.
    Err(i32::try_from(-result)
        .ok()
        .and_then(Errno::from_number)
        .unwrap_or(Errno::EIO))
}

fn address<T: ?Sized>(value: &T) -> u64 {
    (&raw const *value).cast::<u8>().expose_provenance() as u64
}

fn address_mut<T: ?Sized>(value: &mut T) -> u64 {
    (&raw mut *value).cast::<u8>().expose_provenance() as u64
}

/// # Safety
///
/// Every address in the table must be a trap entry point; the last entry must be zero.
pub(crate) unsafe fn set_trap_table(table: &[TrapInfo]) -> Result<(), Errno> {
    // SAFETY: the table is only read, up to its zero entry; the rest is the caller's promise.
    check(unsafe { raw(xen::HYPERVISOR_SET_TRAP_TABLE, [address(table), 0, 0, 0, 0]) }).map(drop)
}

/// # Safety
///
/// `entry` must be an entry point for this kind of callback.
pub(crate) unsafe fn register_callback(kind: u16, flags: u16, entry: u64) -> Result<(), Errno> {
    let argument = CallbackRegister {
        type_: kind,
        flags,
        address: entry,
        ..CallbackRegister::default()
    };
    let arguments = [u64::from(CALLBACKOP_REGISTER), address(&argument), 0, 0, 0];
    // SAFETY: the argument is only read; the rest is the caller's promise.
    check(unsafe { raw(xen::HYPERVISOR_CALLBACK_OP, arguments) }).map(drop)
}

/// Updates page-table entries; `domain` owns the frames that they are to map.
///
/// # Safety
///
/// No memory that Rust code relies on may be unmapped, made read-only or given another frame, and no frame that it relies
/// on be mapped a second time.
pub unsafe fn mmu_update(updates: &[MmuUpdate], domain: Domid) -> Result<(), Errno> {
    let arguments = [
        address(updates),
        updates.len() as u64,
        0,
        u64::from(domain.0),
        0,
    ];
    // SAFETY: the list is only read; the rest is the caller's promise.
    check(unsafe { raw(xen::HYPERVISOR_MMU_UPDATE, arguments) }).map(drop)
}

/// # Safety
///
/// As [`mmu_update`].
pub unsafe fn mmuext_op(operations: &[MmuextOp], domain: Domid) -> Result<(), Errno> {
    let arguments = [
        address(operations),
        operations.len() as u64,
        0,
        u64::from(domain.0),
        0,
    ];
    // SAFETY: the list is only read; the rest is the caller's promise.
    check(unsafe { raw(xen::HYPERVISOR_MMUEXT_OP, arguments) }).map(drop)
}

/// # Safety
///
/// As [`mmu_update`].
pub unsafe fn update_va_mapping(va: u64, entry: u64, flags: u64) -> Result<(), Errno> {
    // SAFETY: the caller's promise.
    check(unsafe { raw(xen::HYPERVISOR_UPDATE_VA_MAPPING, [va, entry, flags, 0, 0]) }).map(drop)
}

/// Asks for a timer event at `deadline`, in nanoseconds of system time; 0 for none.
pub(crate) fn set_timer_op(deadline: u64) -> Result<(), Errno> {
    // SAFETY: it touches no memory.
    check(unsafe { raw(xen::HYPERVISOR_SET_TIMER_OP, [deadline, 0, 0, 0, 0]) }).map(drop)
}

/// An operation on event channels; the argument struct is the one that `operation` has.
pub(crate) fn event_channel_op<T>(operation: u32, argument: &mut T) -> Result<(), Errno> {
    debug_assert!(operation <= event_channel::EVTCHNOP_RESET);
    let arguments = [u64::from(operation), address_mut(argument), 0, 0, 0];
    // SAFETY: the argument is exclusively borrowed, and plain data in which the hypervisor fills in numbers.
    check(unsafe { raw(xen::HYPERVISOR_EVENT_CHANNEL_OP, arguments) }).map(drop)
}

/// Waits for an event; lets upcalls in, in one step with going to sleep.
pub(crate) fn block() {
    // SAFETY: it touches no memory.
    unsafe {
        raw(
            xen::HYPERVISOR_SCHED_OP,
            [u64::from(SCHEDOP_BLOCK), 0, 0, 0, 0],
        )
    };
}

/// Lets other vCPUs run.
pub(crate) fn relinquish() {
    // SAFETY: it touches no memory.
    unsafe {
        raw(
            xen::HYPERVISOR_SCHED_OP,
            [u64::from(SCHEDOP_YIELD), 0, 0, 0, 0],
        )
    };
}

/// Ends the domain. It returns if the hypervisor refuses.
pub(crate) fn shutdown(reason: u32) {
    let argument = SchedShutdown { reason };
    let arguments = [u64::from(SCHEDOP_SHUTDOWN), address(&argument), 0, 0, 0];
    // SAFETY: the argument is only read.
    unsafe { raw(xen::HYPERVISOR_SCHED_OP, arguments) };
}

/// Writes to the hypervisor's console.
pub(crate) fn console_write(bytes: &[u8]) -> Result<(), Errno> {
    let arguments = [
        u64::from(CONSOLEIO_WRITE),
        bytes.len() as u64,
        address(bytes),
        0,
        0,
    ];
    // SAFETY: the bytes are only read.
    check(unsafe { raw(xen::HYPERVISOR_CONSOLE_IO, arguments) }).map(drop)
}

/// Reads what was typed on the hypervisor's console; how many bytes.
pub(crate) fn console_read(bytes: &mut [u8]) -> Result<usize, Errno> {
    let count = bytes.len();
    let arguments = [
        u64::from(CONSOLEIO_READ),
        count as u64,
        address_mut(bytes),
        0,
        0,
    ];
    // SAFETY: the bytes are exclusively borrowed.
    check(unsafe { raw(xen::HYPERVISOR_CONSOLE_IO, arguments) })
        .map(|read| count.min(usize::try_from(read).unwrap_or(count)))
}

/// An operation on a vCPU that takes no argument.
pub(crate) fn vcpu_op(operation: u32, vcpu: u32) -> Result<u64, Errno> {
    let arguments = [u64::from(operation), u64::from(vcpu), 0, 0, 0];
    // SAFETY: an operation without an argument touches no memory.
    check(unsafe { raw(xen::HYPERVISOR_VCPU_OP, arguments) })
}

/// An operation on memory; the argument struct is the one that `operation` has.
///
/// # Safety
///
/// No frame that Rust code relies on may be given away, and pointers in the argument must be valid for what the operation
/// does.
pub unsafe fn memory_op<T>(operation: u32, argument: &mut T) -> Result<u64, Errno> {
    let arguments = [u64::from(operation), address_mut(argument), 0, 0, 0];
    // SAFETY: the argument is exclusively borrowed; the rest is the caller's promise.
    check(unsafe { raw(xen::HYPERVISOR_MEMORY_OP, arguments) })
}

/// An operation on physical devices; the argument struct is the one that `operation` has.
///
/// # Safety
///
/// As for the operation; what it makes devices do must not touch memory that Rust code relies on.
pub unsafe fn physdev_op<T>(operation: u32, argument: &mut T) -> Result<u64, Errno> {
    let arguments = [u64::from(operation), address_mut(argument), 0, 0, 0];
    // SAFETY: the argument is exclusively borrowed; the rest is the caller's promise.
    check(unsafe { raw(xen::HYPERVISOR_PHYSDEV_OP, arguments) })
}

/// The hypervisor's version: major in the high half, minor in the low one. The call has no other effect than that pending
/// upcalls, if they are let in, are delivered before it returns.
pub fn xen_version() -> (u16, u16) {
    // SAFETY: this operation takes no argument.
    let version = unsafe { raw(xen::HYPERVISOR_XEN_VERSION, [0, 0, 0, 0, 0]) };
    ((version >> 16) as u16, version as u16)
}
