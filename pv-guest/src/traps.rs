//! Exceptions, events and the way back: the entry points that the hypervisor calls, the register
//! frame they save, and what is done about each trap.
//!
//! The hypervisor enters with rcx and r11 on the stack above an ordinary interrupt frame (they
//! carry what `syscall` destroys). Every entry comes with upcalls masked, so that a frame, and the
//! faulting address beside it, is seen before the next one. The way back is an ordinary `iretq`
//! where nothing but registers is to be restored; where upcalls are to be let in again, or user
//! mode entered, it is the iret hypercall, which does both atomically.

use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicPtr, AtomicU64};

use hypercall_abi::arch_x86::TrapInfo;
use hypercall_abi::callback::{self, CallbackRegister};

use crate::hypercall::trap;
use crate::{cpu, events, memory, vcpus};

/// The hypervisor's flat code segment for guest kernels.
pub const KERNEL_CS: u16 = 0xe033;
/// The hypervisor's flat stack segment for guest kernels.
pub const KERNEL_SS: u16 = 0xe02b;
/// The hypervisor's flat code segment for 64-bit user mode.
pub const USER_CS: u16 = 0xe033;
/// The hypervisor's flat data segment for user mode.
pub const USER_SS: u16 = 0xe02b;

/// [`Frame::vector`] of a use of floating point after `fpu_taskswitch`.
pub const DEVICE_NOT_AVAILABLE: u64 = 7;
/// [`Frame::vector`] of a page fault.
pub const PAGE_FAULT: u64 = 14;
/// [`Frame::vector`] of an event upcall.
pub const EVENT: u64 = 0x100;
/// [`Frame::vector`] of the failsafe callback: a segment register could not be loaded on the way
/// into the guest.
pub const FAILSAFE: u64 = 0x101;
/// [`Frame::vector`] of a `syscall` from user mode.
pub const SYSCALL: u64 = 0x102;

/// Vectors of exceptions.
const EXCEPTIONS: usize = 32;

/// Vectors with an entry point: the exceptions, and one for software interrupts.
const VECTORS: usize = EXCEPTIONS + 1;

/// A bit for each exception that has an error code: 8, 10 to 14, 17 and 21.
const WITH_ERROR_CODE: u32 = 1 << 8 | 0x1f << 10 | 1 << 17 | 1 << 21;

/// The vector that user mode and kernel may raise by `int`.
pub const SOFTWARE_INTERRUPT: u8 = 0x80;

/// The registers of interrupted code. Changes take effect when the handler returns.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Frame {
    #[expect(missing_docs, reason = "a register")]
    pub r15: u64,
    #[expect(missing_docs, reason = "a register")]
    pub r14: u64,
    #[expect(missing_docs, reason = "a register")]
    pub r13: u64,
    #[expect(missing_docs, reason = "a register")]
    pub r12: u64,
    #[expect(missing_docs, reason = "a register")]
    pub rbp: u64,
    #[expect(missing_docs, reason = "a register")]
    pub rbx: u64,
    #[expect(missing_docs, reason = "a register")]
    pub r11: u64,
    #[expect(missing_docs, reason = "a register")]
    pub r10: u64,
    #[expect(missing_docs, reason = "a register")]
    pub r9: u64,
    #[expect(missing_docs, reason = "a register")]
    pub r8: u64,
    #[expect(missing_docs, reason = "a register")]
    pub rax: u64,
    #[expect(missing_docs, reason = "a register")]
    pub rcx: u64,
    #[expect(missing_docs, reason = "a register")]
    pub rdx: u64,
    #[expect(missing_docs, reason = "a register")]
    pub rsi: u64,
    #[expect(missing_docs, reason = "a register")]
    pub rdi: u64,
    /// The exception's vector, or one of [`EVENT`], [`FAILSAFE`], [`SYSCALL`].
    pub vector: u64,
    /// The exception's error code, 0 where it has none.
    pub error_code: u64,
    /// Where the code was.
    pub rip: u64,
    /// Its code segment, with privilege level 0 for the kernel and 3 for user mode; bits 32 to 39
    /// hold the upcall mask.
    pub cs: u64,
    /// Its flags, the interrupt flag set if upcalls were not masked.
    pub rflags: u64,
    /// Its stack pointer.
    pub rsp: u64,
    /// Its stack segment.
    pub ss: u64,
}

impl Frame {
    /// Whether user mode was interrupted.
    pub const fn is_user(&self) -> bool {
        self.cs & 3 == 3
    }

    /// The exception's usual name.
    pub const fn name(&self) -> &'static str {
        match self.vector {
            0 => "divide error",
            1 => "debug exception",
            2 => "non-maskable interrupt",
            3 => "breakpoint",
            4 => "overflow",
            5 => "bound range exceeded",
            6 => "invalid opcode",
            7 => "device not available",
            8 => "double fault",
            10 => "invalid TSS",
            11 => "segment not present",
            12 => "stack fault",
            13 => "general protection fault",
            14 => "page fault",
            16 => "floating-point error",
            17 => "alignment check",
            18 => "machine check",
            19 => "SIMD floating-point error",
            21 => "control protection fault",
            EVENT => "event",
            FAILSAFE => "failsafe callback",
            SYSCALL => "system call",
            _ => "unexpected trap",
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rip,
            cs,
            rsp,
            ss,
            rflags,
            error_code,
            vector,
            ..
        } = self;
        let cs = cs & 0xffff;
        writeln!(
            f,
            "rip {cs:04x}:{rip:016x}  vector {vector:#x}  error code {error_code:#x}"
        )?;
        writeln!(f, "rsp {ss:04x}:{rsp:016x}  rflags {rflags:#x}")?;
        let Self {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            r8,
            ..
        } = self;
        writeln!(
            f,
            "rax {rax:016x}  rbx {rbx:016x}  rcx {rcx:016x}  rdx {rdx:016x}"
        )?;
        writeln!(
            f,
            "rsi {rsi:016x}  rdi {rdi:016x}  rbp {rbp:016x}  r8  {r8:016x}"
        )?;
        let Self {
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            ..
        } = self;
        writeln!(
            f,
            "r9  {r9:016x}  r10 {r10:016x}  r11 {r11:016x}  r12 {r12:016x}"
        )?;
        write!(f, "r13 {r13:016x}  r14 {r14:016x}  r15 {r15:016x}")
    }
}

global_asm!(
    r#"
    .macro pv_trap vector, has_error
    pv_trap_\vector:
        pop rcx
        pop r11
        .if \has_error == 0
        push 0
        .endif
        push \vector
        jmp pv_trap_common
    .endm

    .pushsection .text.pv_traps, "ax", @progbits
    .balign 16
    .set pv_vector, 0
    .altmacro
    .rept 32
        .if ({with_error} >> pv_vector) & 1
        pv_trap %pv_vector, 1
        .else
        pv_trap %pv_vector, 0
        .endif
        .set pv_vector, pv_vector + 1
    .endr
    .noaltmacro
    pv_trap 128, 0
    pv_trap {event}, 0
    pv_trap {failsafe}, 0
    pv_trap {syscall}, 0

    // The frame is 22 words on a stack that the hypervisor aligned to 16 bytes, so the call is
    // aligned as the C ABI asks.
    pv_trap_common:
        push rdi
        push rsi
        push rdx
        push rcx
        push rax
        push r8
        push r9
        push r10
        push r11
        push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        cld
        // From user mode that the kernel went to by `user::enter`, the trap is that function's
        // return: on the kernel's stack, with a copy of the frame.
        test byte ptr [rsp + 144], 3
        jz 3f
        mov rax, gs:[{kernel_stack}]
        test rax, rax
        jz 3f
        mov qword ptr gs:[{kernel_stack}], 0
        mov rsi, rsp
        mov rsp, rax
        pop rdi
        mov ecx, 22
        rep movsq
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        ret
    3:  mov rdi, rsp
        call {dispatch}
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        pop r11
        pop r10
        pop r9
        pop r8
        pop rax
        pop rcx
        pop rdx
        pop rsi
        pop rdi
        add rsp, 16
        // Upcalls were let in before (the interrupt flag), or user mode was interrupted: the
        // hypervisor must do it.
        test byte ptr [rsp + 17], 2
        jnz 1f
        test byte ptr [rsp + 8], 3
        jnz 1f
        or byte ptr [rsp + 8], 3
        iretq
    1:  push 0
        jmp hypercall_page + {iret} * 32
    .popsection

    .pushsection .rodata.pv_trap_entries, "a", @progbits
    .balign 8
    .globl pv_trap_entries
    pv_trap_entries:
    .set pv_vector, 0
    .altmacro
    .macro pv_trap_entry vector
        .quad pv_trap_\vector
    .endm
    .rept 32
        pv_trap_entry %pv_vector
        .set pv_vector, pv_vector + 1
    .endr
    .noaltmacro
        .quad pv_trap_128
    .popsection
    "#,
    with_error = const WITH_ERROR_CODE,
    event = const EVENT,
    failsafe = const FAILSAFE,
    syscall = const SYSCALL,
    kernel_stack = const vcpus::KERNEL_STACK,
    dispatch = sym dispatch,
    iret = const hypercall_abi::xen::HYPERVISOR_IRET,
);

unsafe extern "C" {
    static pv_trap_entries: [u64; VECTORS];
    #[link_name = "pv_trap_256"]
    fn event_entry();
    #[link_name = "pv_trap_257"]
    fn failsafe_entry();
    #[link_name = "pv_trap_258"]
    fn syscall_entry();
}

/// Looks at a trap before the kernel does. `true` means that it is dealt with and the (changed)
/// frame is to be resumed.
pub type Hook = fn(&mut Frame) -> bool;

static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Installs a hook, which runs with upcalls masked, or takes the last one away.
///
/// # Safety
///
/// A frame for which the hook returns `true` must be one that may be resumed: whatever the code there
/// relies on still holds.
pub unsafe fn set_hook(hook: Option<Hook>) {
    HOOK.store(
        hook.map_or(core::ptr::null_mut(), |hook| hook as *mut ()),
        Relaxed,
    );
}

fn hook() -> Option<Hook> {
    let hook = HOOK.load(Relaxed);
    // SAFETY: what is stored there is null or came from a `Hook`, in `set_hook` alone.
    (!hook.is_null()).then(|| unsafe { core::mem::transmute::<*mut (), Hook>(hook) })
}

/// The trap being reported, so that a second one while reporting does not start over.
static REPORTING: AtomicU64 = AtomicU64::new(u64::MAX);

unsafe extern "C" fn dispatch(frame: &mut Frame) {
    if frame.vector == EVENT {
        events::upcall();
        return;
    }
    // Before anything that could fault again.
    let address = cpu::vcpu().cr2.load(Relaxed);
    if frame.vector == PAGE_FAULT
        && !frame.is_user()
        && memory::serve_demand(address, frame.error_code)
    {
        return;
    }
    if hook().is_some_and(|hook| hook(frame)) {
        return;
    }
    if REPORTING.swap(frame.vector, Relaxed) != u64::MAX {
        crate::power::shutdown(crate::power::Reason::Crash);
    }
    match frame.vector {
        PAGE_FAULT => panic!("page fault at {address:#018x}\n{frame}"),
        _ => panic!("{}\n{frame}", frame.name()),
    }
}

/// The entry point for an exception, to be registered as a callback of the same form.
pub fn entry_point(vector: u8) -> Option<u64> {
    // SAFETY: the table is defined above, never written, and has this many entries.
    let entries = unsafe { &pv_trap_entries };
    entries[..EXCEPTIONS].get(usize::from(vector)).copied()
}

/// Registers the entry points of this vCPU: at its start, and again where a kernel had others in
/// between.
pub fn register() {
    /// Upcalls are masked on entry.
    const MASK_EVENTS: u8 = 4;
    let mut table = [TrapInfo::default(); VECTORS + 1];
    // SAFETY: the table is defined above, never written, and has this many entries.
    let entries = unsafe { &pv_trap_entries };
    for (index, (info, &address)) in table.iter_mut().zip(entries).enumerate() {
        let vector = if index < EXCEPTIONS {
            index as u8
        } else {
            SOFTWARE_INTERRUPT
        };
        // Breakpoints, overflow traps and the software interrupt may be raised by an instruction of
        // any mode.
        let privilege = if matches!(vector, 3 | 4 | SOFTWARE_INTERRUPT) {
            3
        } else {
            0
        };
        *info = TrapInfo {
            vector,
            flags: privilege | MASK_EVENTS,
            cs: KERNEL_CS,
            address,
            ..TrapInfo::default()
        };
    }
    // SAFETY: the entries follow the convention of trap entry points, and the last entry of the
    // table is zero.
    unsafe { trap::set_trap_table(&table) }.expect("the trap table is accepted");
    let callbacks: [(u16, u16, unsafe extern "C" fn()); 3] = [
        (callback::CALLBACKTYPE_EVENT, 0, event_entry),
        (
            callback::CALLBACKTYPE_FAILSAFE,
            callback::CALLBACKF_MASK_EVENTS,
            failsafe_entry,
        ),
        (
            callback::CALLBACKTYPE_SYSCALL,
            callback::CALLBACKF_MASK_EVENTS,
            syscall_entry,
        ),
    ];
    for (kind, flags, entry) in callbacks {
        let callback = CallbackRegister {
            type_: kind,
            flags,
            address: entry as usize as u64,
            ..CallbackRegister::default()
        };
        // SAFETY: each entry follows the convention of its kind of callback.
        unsafe { trap::register_callback(&callback) }.expect("the callback is accepted");
    }
}

/// The registers of the caller, for a report.
pub(crate) fn current_frame() -> Frame {
    let mut frame = Frame::default();
    // SAFETY: the instructions read registers and write the frame that they are given.
    unsafe {
        asm!(
            "mov [{frame} + 0], r15",
            "mov [{frame} + 8], r14",
            "mov [{frame} + 16], r13",
            "mov [{frame} + 24], r12",
            "mov [{frame} + 32], rbp",
            "mov [{frame} + 40], rbx",
            "lea {scratch}, [rip]",
            "mov [{frame} + 136], {scratch}",
            "mov [{frame} + 160], rsp",
            "pushfq",
            "pop {scratch}",
            "mov [{frame} + 152], {scratch}",
            frame = in(reg) &raw mut frame,
            scratch = out(reg) _,
        );
    }
    frame.cs = u64::from(KERNEL_CS);
    frame.ss = u64::from(KERNEL_SS);
    frame
}
