//! User mode: address spaces of its own, threads that run in them, and copy-on-write fork.
//!
//! A [`Space`] is a pair of root tables, as PV guests have it on x86-64: that of user mode has user
//! memory alone, that of the kernel has the same user memory besides what every kernel root has. A
//! [`Thread`] is the registers of user mode in a space. [`Thread::run`] goes to user mode and comes
//! back with the reason why it left, so that a process is an ordinary loop:
//!
//! ```ignore
//! let space = Space::new()?;
//! space.map(CODE..CODE + 0x1000, Access::EXECUTE)?;
//! space.load(CODE, program)?;
//! space.map(STACK..STACK + 0x4000, Access::WRITE)?;
//! let mut thread = Thread::new(space, CODE, STACK + 0x4000);
//! loop {
//!     match thread.run() {
//!         Exit::SystemCall => serve(thread.registers_mut()),
//!         Exit::Event => pv_guest::yield_now().await,
//!         Exit::Fault { .. } | Exit::Exception { .. } => break,
//!     }
//! }
//! ```
//!
//! User memory is made of zeroes at the first touch; the fault is served before `run` returns. A
//! thread may run on one vCPU now and on another later. User mode has no floating point: its use is
//! an exception.

mod fork;
mod pages;
mod space;

use alloc::sync::Arc;
use core::arch::naked_asm;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use hypercall_abi::arch_x86::VGCF_IN_SYSCALL;
use hypercall_abi::types::{Domid, Mfn};
use hypercall_abi::xen::{HYPERVISOR_IRET, MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR, MmuextOp};

use crate::hypercall::{Result, mmu, trap};
use crate::traps::{self, Frame};
use crate::vcpus::{KERNEL_STACK, local};
use crate::{cpu, events, memory};

pub use space::{Access, Fault, Space};

/// The first address that user memory cannot have.
pub const END: u64 = 0x7fff_ffff_f000;

/// Bits of RFLAGS that are user mode's own: the status flags, trap, direction, alignment and
/// identification.
const FLAGS: u64 = 0x24_0dd5;

/// RFLAGS of a user mode that takes upcalls.
const BASE_FLAGS: u64 = 0x202;

/// Why user mode was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By `syscall`: number and arguments are in the registers, wherever the guest has them.
    SystemCall,
    /// For an event, which has been handled: other tasks may be ready.
    Event,
    /// By an access to memory that is not to be had.
    Fault {
        /// What it was to.
        address: u64,
        /// Why it failed.
        fault: Fault,
    },
    /// By another exception.
    Exception {
        /// Which.
        vector: u64,
        /// Its error code, or 0.
        error_code: u64,
    },
}

/// A flow of control in user mode.
#[derive(Debug)]
pub struct Thread {
    registers: Frame,
    space: Arc<Space>,
}

impl Thread {
    /// One that begins at `entry` with the stack pointer `stack`.
    pub fn new(space: Arc<Space>, entry: u64, stack: u64) -> Self {
        let registers = Frame {
            rip: entry,
            rsp: stack,
            ..Frame::default()
        };
        Self { registers, space }
    }

    /// Its memory.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Its registers.
    pub fn registers(&self) -> &Frame {
        &self.registers
    }

    /// Its registers, to change. Segments and privileged flags are not user mode's to choose.
    pub fn registers_mut(&mut self) -> &mut Frame {
        &mut self.registers
    }

    /// Another thread with the same registers, in a copy of the space that shares all pages until
    /// one of the two writes to them.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where there is no memory for the tables, or what the hypervisor says of them.
    pub fn fork(&self) -> Result<Self> {
        Ok(Self {
            registers: self.registers,
            space: self.space.fork()?,
        })
    }

    /// Runs it until it leaves user mode.
    pub fn run(&mut self) -> Exit {
        loop {
            load(&self.space);
            let masked = cpu::disable_upcalls();
            debug_assert!(!masked, "user mode cannot run with upcalls masked");
            let registers = &mut self.registers;
            let flags = if registers.vector == traps::SYSCALL {
                VGCF_IN_SYSCALL
            } else {
                0
            };
            registers.cs = traps::USER_CS.into();
            registers.ss = traps::USER_SS.into();
            registers.rflags = registers.rflags & FLAGS | BASE_FLAGS;
            registers.rip = registers.rip.min(END);
            // SAFETY: a space is loaded, and upcalls are masked; user mode reaches nothing of the
            // kernel's.
            unsafe { enter(registers, flags) };
            // Masked upcalls keep it as this trap left it.
            let address = cpu::vcpu().cr2.load(Relaxed);
            if registers.vector == traps::EVENT {
                events::upcall();
            }
            cpu::enable_upcalls();
            if registers.vector == traps::DEVICE_NOT_AVAILABLE {
                // The exception itself let the next use pass.
                trap::fpu_taskswitch(true);
            }
            let Frame {
                vector, error_code, ..
            } = self.registers;
            return match vector {
                traps::SYSCALL => Exit::SystemCall,
                traps::EVENT => Exit::Event,
                traps::PAGE_FAULT => match self.space.fault(address, error_code) {
                    Ok(()) => continue,
                    Err(fault) => Exit::Fault { address, fault },
                },
                _ => Exit::Exception { vector, error_code },
            };
        }
    }
}

/// Goes to user mode with these registers, and comes back with those that it left with, upcalls
/// masked, whatever the trap: the vector says which it was.
///
/// # Safety
///
/// There must be a user root, and upcalls be masked. What user mode reaches must not be memory that
/// Rust code relies on. `flags` is `VGCF_IN_SYSCALL`, with which rcx and r11 are not restored, or 0.
#[unsafe(naked)]
pub unsafe extern "C" fn enter(registers: &mut Frame, flags: u64) {
    naked_asm!(
        "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15", "push rdi",
        // Where the trap entry goes on: it expects the stack like this.
        "mov gs:[{stack}], rsp",
        // The frame of the iret hypercall: flags, rip, cs, rflags, rsp, ss.
        "push [rdi + 168]", "push [rdi + 160]", "push [rdi + 152]", "push [rdi + 144]",
        "push [rdi + 136]", "push rsi",
        "mov r15, [rdi]", "mov r14, [rdi + 8]", "mov r13, [rdi + 16]", "mov r12, [rdi + 24]",
        "mov rbp, [rdi + 32]", "mov rbx, [rdi + 40]", "mov r11, [rdi + 48]",
        "mov r10, [rdi + 56]", "mov r9, [rdi + 64]", "mov r8, [rdi + 72]",
        "mov rax, [rdi + 80]", "mov rcx, [rdi + 88]", "mov rdx, [rdi + 96]",
        "mov rsi, [rdi + 104]", "mov rdi, [rdi + 112]",
        "jmp hypercall_page + {iret} * 32",
        stack = const KERNEL_STACK,
        iret = const HYPERVISOR_IRET,
    )
}

/// The bit of this vCPU in a mask.
fn this_vcpu() -> u64 {
    1 << crate::vcpus::current()
}

/// Loads other roots: of the kernel, and of user mode.
///
/// # Safety
///
/// The kernel's root must map the kernel as every kernel root does.
unsafe fn switch(kernel: Mfn, user: Mfn) {
    let roots = [
        MmuextOp::frame(MMUEXT_NEW_BASEPTR, kernel),
        MmuextOp::frame(MMUEXT_NEW_USER_BASEPTR, user),
    ];
    // SAFETY: the caller's promise.
    unsafe { mmu::mmuext_op(&roots, None, Domid::SELF) }.expect("pinned roots can be loaded");
}

/// Makes a space that of this vCPU.
fn load(space: &Arc<Space>) {
    let here = &local().space;
    let loaded = critical_section::with(|cs| {
        here.borrow_ref(cs)
            .as_ref()
            .is_some_and(|loaded| Arc::ptr_eq(loaded, space))
    });
    if loaded {
        return;
    }
    // Whoever takes rights away from now on flushes this vCPU's TLB too; who did so before, did it
    // before the tables are used here.
    space.loaded.fetch_or(this_vcpu(), SeqCst);
    let (kernel, user) = space.roots();
    // SAFETY: the space's kernel root has the entries of all kernel roots.
    unsafe { switch(kernel, user) };
    let old = critical_section::with(|cs| here.borrow_ref_mut(cs).replace(space.clone()));
    match old {
        Some(old) => unloaded(old),
        // The first in user mode since the kernel was alone.
        None => trap::fpu_taskswitch(true),
    }
}

/// Takes the space of this vCPU away, if it has one: a space whose threads are gone lives on while it
/// is loaded somewhere. An idle vCPU does so by itself.
pub fn leave() {
    let old = critical_section::with(|cs| local().space.borrow_ref_mut(cs).take());
    if let Some(old) = old {
        // SAFETY: it is the root of start of day.
        unsafe { switch(memory::root(), Mfn(0)) };
        unloaded(old);
    }
}

/// Notes that this vCPU has left a space, and lets go of it.
fn unloaded(space: Arc<Space>) {
    space.loaded.fetch_and(!this_vcpu(), SeqCst);
}
