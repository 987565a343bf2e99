//! What happens between a guest and the hypervisor: entering, and reading off why it left; and exceptions of the
//! hypervisor itself, which continue at a fix-up or stop the machine.

use core::arch::{asm, global_asm};
use core::fmt;

use hypercall_abi::arch_x86::CpuUserRegs;

use super::cpu::{self, Block};
use super::{panic, processor, secondary};
use crate::{Exit, GuestContext};

global_asm!(include_str!("entry.s"), options(att_syntax));

unsafe extern "C" {
    fn enter_guest();
    fn idle_wait();
    fn unblock_nmi();
    static guest_iret: u8;
    static guest_iret_failed: u8;
    static idle_halt: u8;
    static idle_woken: u8;
    static fixup_start: [u64; 2];
    static fixup_end: [u64; 2];
}

const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(CpuUserRegs, r15) == 0);
    assert!(offset_of!(CpuUserRegs, rax) == 80);
    assert!(offset_of!(CpuUserRegs, rdi) == 112);
    assert!(offset_of!(CpuUserRegs, rip) == 128);
    assert!(offset_of!(CpuUserRegs, cs) == 136);
    assert!(offset_of!(CpuUserRegs, rflags) == 144);
    assert!(offset_of!(CpuUserRegs, rsp) == 152);
    assert!(offset_of!(CpuUserRegs, ss) == 160);
};

const EXIT_SYSCALL: u16 = 0x100;
const EXIT_SYSCALL32: u16 = 0x101;
const EXIT_SYSENTER: u16 = 0x102;
const EXIT_BAD_FRAME: u16 = 0x103;

const DEBUG: u16 = 1;
const NMI: u16 = 2;
/// Vector of page faults.
pub const PAGE_FAULT: u8 = 14;
const MACHINE_CHECK: u16 = 18;
const FIRST_INTERRUPT: u16 = 32;

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;

/// Why a guest left, as far as the entry code knows.
pub enum Left {
    /// For a reason of its own.
    Exit(Exit),
    /// For an interrupt of this vector.
    Interrupt(u8),
    /// For a non-maskable interrupt.
    Nmi,
}

/// What the entry code says of why a guest left.
#[derive(Clone, Copy)]
pub struct Code(u64);

impl Code {
    #[inline]
    fn error_code(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    fn vector(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Whether it was a `syscall` in 64-bit mode.
    #[inline]
    pub fn is_syscall(self) -> bool {
        self.vector() == EXIT_SYSCALL
    }

    /// The page fault, if it was one and not in the window of the LDT: error code and address.
    #[inline]
    pub fn page_fault(self, block: &Block) -> Option<(u32, u64)> {
        if self.vector() != u16::from(PAGE_FAULT) {
            return None;
        }
        let fault_address = processor::fault_address();
        let elsewhere = block.ldt_offset(fault_address).is_none();
        elsewhere.then_some((self.error_code(), fault_address))
    }
}

/// Runs the guest until it leaves.
#[inline(always)]
pub fn run(block: &Block, context: &mut GuestContext) -> Code {
    let code: u64;
    // SAFETY: the entry code stores to the register file and to this CPU's block and stack, and returns here; all
    // registers that it does not keep are named.
    unsafe {
        asm!(
            "call {enter_guest}",
            enter_guest = sym enter_guest,
            inout("rdi") &raw mut context.regs => _,
            inout("rsi") &raw const *block => _,
            lateout("rax") code,
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
            clobber_abi("sysv64"),
        );
    }
    Code(code)
}

/// Why a guest left, in full.
#[inline(never)]
pub fn left(block: &Block, code: Code) -> Left {
    let error_code = code.error_code();
    Left::Exit(match code.vector() {
        EXIT_SYSCALL => Exit::Syscall,
        vector if vector == PAGE_FAULT.into() => {
            let fault_address = processor::fault_address();
            ldt_fault(block, fault_address, error_code).unwrap_or(Exit::Exception {
                vector: PAGE_FAULT,
                error_code,
                fault_address,
            })
        }
        EXIT_SYSCALL32 => Exit::Syscall32,
        EXIT_SYSENTER => Exit::Sysenter,
        EXIT_BAD_FRAME => {
            let vector = (code.0 >> 48) as u8;
            let in_ldt = if vector == PAGE_FAULT {
                ldt_fault(block, processor::fault_address(), error_code)
            } else {
                None
            };
            in_ldt.unwrap_or(Exit::BadFrame { vector, error_code })
        }
        NMI => {
            // SAFETY: it only returns, by way of `iret`.
            unsafe { unblock_nmi() };
            secondary::stop_if_asked();
            return Left::Nmi;
        }
        MACHINE_CHECK => panic::machine_check(),
        vector if vector >= FIRST_INTERRUPT => return Left::Interrupt(vector as u8),
        vector => Exit::Exception {
            vector: vector as u8,
            error_code,
            fault_address: 0,
        },
    })
}

fn ldt_fault(block: &Block, fault_address: u64, error_code: u32) -> Option<Exit> {
    let offset = block.ldt_offset(fault_address)?;
    // A program's own access to the window has the USER bit in its error code.
    const USER_ACCESS: u32 = 1 << 2;
    (error_code & USER_ACCESS == 0).then_some(Exit::LdtFault { offset, error_code })
}

/// Sleeps until an interrupt has come; its vector, or `None` for a non-maskable one.
pub fn idle() -> Option<u8> {
    let block = cpu::this();
    block.woken_by.set(0);
    if !block.nmi_pending.get() {
        // SAFETY: it returns with interrupts off again; the handler touches this CPU's block alone.
        unsafe { idle_wait() };
    }
    let woken_by = block.woken_by.get();
    woken_by.checked_sub(1).map(|vector| vector as u8)
}

/// Lets interrupts in until one has come, or `done` says to stop; its vector. Without `pause` between two looks: it has
/// software emulation take the lock for which the other CPUs' messages wait.
pub fn poll_until(done: impl Fn() -> bool) -> Option<u8> {
    let block = cpu::this();
    block.woken_by.set(0);
    // SAFETY: they are off again below; the handler touches this CPU's block alone. It lets one in and leaves them off.
    unsafe { asm!("sti", options(nostack)) };
    while block.woken_by.get() == 0 && !block.nmi_pending.get() && !done() {
        // SAFETY: it does nothing, but the compiler takes it to change the block, as the handler does.
        unsafe { asm!("", options(nostack, preserves_flags)) };
    }
    // SAFETY: as they were.
    unsafe { asm!("cli", options(nostack)) };
    let woken_by = block.woken_by.get();
    woken_by.checked_sub(1).map(|vector| vector as u8)
}

/// What entry.s pushes for an exception in ring 0.
#[repr(C)]
pub struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    pub rbp: u64,
    rbx: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rax: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    vector: u64,
    error_code: u64,
    pub rip: u64,
    cs: u64,
    rflags: u64,
    pub rsp: u64,
    ss: u64,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cr0, cr4) = processor::control_registers();
        writeln!(f, "vector {:#x} error {:#x}", self.vector, self.error_code)?;
        writeln!(
            f,
            "rip {:016x} cs  {:04x} rflags {:08x}",
            self.rip, self.cs, self.rflags
        )?;
        writeln!(f, "rsp {:016x} ss  {:04x}", self.rsp, self.ss)?;
        writeln!(
            f,
            "rax {:016x} rbx {:016x} rcx {:016x}",
            self.rax, self.rbx, self.rcx
        )?;
        writeln!(
            f,
            "rdx {:016x} rsi {:016x} rdi {:016x}",
            self.rdx, self.rsi, self.rdi
        )?;
        writeln!(
            f,
            "rbp {:016x} r8  {:016x} r9  {:016x}",
            self.rbp, self.r8, self.r9
        )?;
        writeln!(
            f,
            "r10 {:016x} r11 {:016x} r12 {:016x}",
            self.r10, self.r11, self.r12
        )?;
        writeln!(
            f,
            "r13 {:016x} r14 {:016x} r15 {:016x}",
            self.r13, self.r14, self.r15
        )?;
        writeln!(
            f,
            "cr0 {:016x} cr2 {:016x} cr3 {:016x} cr4 {:08x}",
            cr0,
            processor::fault_address(),
            processor::root(),
            cr4
        )
    }
}

/// Every exception and interrupt that hits ring 0.
#[unsafe(no_mangle)]
extern "C" fn host_trap(frame: &mut Frame) {
    let vector = frame.vector as u16;
    match vector {
        NMI => {
            secondary::stop_if_asked();
            cpu::this().nmi_pending.set(true);
            // Between the look at `nmi_pending` and `hlt` it would be slept over.
            let window =
                (&raw const idle_halt).addr() as u64..(&raw const idle_woken).addr() as u64;
            if window.contains(&frame.rip) {
                frame.rip = window.end;
                frame.rflags &= !RFLAGS_IF;
            }
            return;
        }
        // A guest's breakpoint on memory that the hypervisor copies, or single-stepping into `sysenter`.
        DEBUG => {
            frame.rflags &= !RFLAGS_TF;
            return;
        }
        MACHINE_CHECK => panic::machine_check(),
        vector if vector >= FIRST_INTERRUPT => {
            cpu::this().woken_by.set(u32::from(vector) + 1);
            frame.rflags &= !RFLAGS_IF;
            return;
        }
        _ => {}
    }
    if frame.rip == (&raw const guest_iret).addr() as u64 {
        frame.rip = (&raw const guest_iret_failed).addr() as u64;
        frame.rsp = cpu::this().host_stack();
        frame.rax = frame.error_code & 0xffff_ffff
            | u64::from(EXIT_BAD_FRAME) << 32
            | u64::from(vector) << 48;
        return;
    }
    match fixup(frame.rip) {
        Some(target) => frame.rip = target,
        None => panic::trap(frame),
    }
}

/// Where to continue after a fault at `rip`.
fn fixup(rip: u64) -> Option<u64> {
    let start = &raw const fixup_start;
    let end = &raw const fixup_end;
    // SAFETY: the linker script puts the table, and nothing else, between the two.
    let table = unsafe { core::slice::from_raw_parts(start, end.offset_from_unsigned(start)) };
    table
        .iter()
        .find(|[at, _]| *at == rip)
        .map(|[_, target]| *target)
}
