//! User mode: a system call that the kernel takes and returns from at once.

use core::arch::{global_asm, naked_asm};
use core::sync::atomic::AtomicU64;

use hypercall_abi::arch_x86::VGCF_IN_SYSCALL;
use hypercall_abi::callback::CALLBACKTYPE_SYSCALL;
use hypercall_abi::xen::{HYPERVISOR_IRET, MMUEXT_NEW_USER_BASEPTR, MMUEXT_PIN_L4_TABLE};
use pv_guest::cpu;
use pv_guest::hypercall::trap;
use pv_guest::memory::Frames;
use pv_guest::pte::{Flags, Pte, index};
use pv_guest::traps::{self, KERNEL_SS};

use super::entries::register;
use super::meter::Meter;
use super::page::{address, extended, mfn};
use super::roots::tables;

/// Where user mode's code is.
const CODE: u64 = 0x40_0000;

/// `syscall`, again and again.
const PROGRAM: [u8; 4] = [0x0f, 0x05, 0xeb, 0xfc];

/// The kernel's stack pointer when it went to user mode.
static KERNEL_STACK: AtomicU64 = AtomicU64::new(0);

global_asm!(
    ".pushsection .text.bench_syscall, \"ax\", @progbits",
    "bench_syscall:",
    "pop rcx",
    "pop r11",
    "dec r15",
    "jz 2f",
    "push {in_syscall}",
    "jmp hypercall_page + {iret} * 32",
    "2:",
    "mov rsp, [rip + {stack}]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".popsection",
    iret = const HYPERVISOR_IRET,
    in_syscall = const VGCF_IN_SYSCALL,
    stack = sym KERNEL_STACK,
);

unsafe extern "C" {
    fn bench_syscall();
}

/// Goes to user mode at `rip`, until it has made as many system calls; with upcalls masked then.
///
/// # Safety
///
/// There must be a user root, a kernel stack for its traps, and [`bench_syscall`] as its entry point.
#[unsafe(naked)]
unsafe extern "C" fn enter(rip: u64, calls: u64) {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
        "mov [rip + {stack}], rsp",
        "mov r15, rsi",
        // The frame of the iret hypercall: flags, rip, cs, rflags, rsp, ss.
        "push 0xe02b", "push 0", "push 0x202", "push 0xe033", "push rdi", "push 0",
        "jmp hypercall_page + {iret} * 32",
        stack = sym KERNEL_STACK,
        iret = const HYPERVISOR_IRET,
    )
}

pub fn run(meter: &Meter) {
    let page = || Frames::zeroed(0).expect("there is memory");
    let mut code = page();
    code.as_mut_slice()[..PROGRAM.len()].copy_from_slice(&PROGRAM);
    let mut below = Pte::new(
        mfn(&code, 0),
        Flags::PRESENT | Flags::USER | Flags::ACCESSED,
    );
    for level in 1..=4 {
        let mut table = page();
        tables(&mut table, |_, place| {
            if place == index(CODE, level) {
                below.0
            } else {
                0
            }
        });
        below = Pte::new(mfn(&table, 0), Flags::TABLE);
        // The tables stay read-only, so they are not given back.
        core::mem::forget(table);
    }
    let root = below.frame().expect("an entry for the root").0;
    extended(MMUEXT_PIN_L4_TABLE, root);
    extended(MMUEXT_NEW_USER_BASEPTR, root);
    let stack = Frames::zeroed(2).expect("there is memory");
    let top = address(&stack, stack.count());
    // SAFETY: the stack is used for nothing else, and kept.
    unsafe { trap::stack_switch(KERNEL_SS, top) }.expect("a stack");
    // SAFETY: it is an entry point for system calls.
    unsafe { register(CALLBACKTYPE_SYSCALL, bench_syscall) };
    meter.measure_loop("user-syscall", |rounds| {
        // SAFETY: the user root, the stack and the entry point are set; user mode reaches nothing of
        // the kernel's.
        unsafe { enter(CODE, rounds) };
        cpu::enable_upcalls();
    });
    traps::register();
    core::mem::forget((code, stack));
}
