//! Running an instruction that may trap, and telling what trap it was.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use pv_guest::cpu;
use pv_guest::sync::Mutex;
use pv_guest::traps::{self, Frame};

/// Where to go on after a trap; 0 where none is expected.
pub static RESUME: AtomicU64 = AtomicU64::new(0);

/// The last trap. No trap comes while it is locked.
static LAST: Mutex<Option<Trap>> = Mutex::new(None);

/// A trap.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    pub vector: u64,
    pub error_code: u64,
    pub rip: u64,
    pub cs: u64,
    pub ss: u64,
    pub rsp: u64,
    pub rflags: u64,
    pub rax: u64,
    /// The faulting address, of a page fault.
    pub address: u64,
    /// Whether upcalls were masked in the handler.
    pub masked: bool,
}

impl Trap {
    /// The trap since the last call, if there was one.
    pub fn take() -> Option<Self> {
        LAST.lock().take()
    }

    /// The trap that has just come with this frame.
    pub fn of(frame: &Frame) -> Self {
        let vcpu = cpu::vcpu();
        Self {
            vector: frame.vector,
            error_code: frame.error_code,
            rip: frame.rip,
            cs: frame.cs,
            ss: frame.ss,
            rsp: frame.rsp,
            rflags: frame.rflags,
            rax: frame.rax,
            address: vcpu.cr2.load(Relaxed),
            masked: vcpu.upcall_mask.load(Relaxed) != 0,
        }
    }
}

/// Makes traps be noted.
pub fn init() {
    // SAFETY: the hook resumes only where a probe says that it may.
    unsafe { traps::set_hook(Some(hook)) };
}

/// Notes a trap; where a probe expects one, it goes on at the place the probe named.
fn hook(frame: &mut Frame) -> bool {
    let resume = RESUME.swap(0, SeqCst);
    if resume == 0 {
        return false;
    }
    *LAST.lock() = Some(Trap::of(frame));
    frame.rip = resume;
    frame.rflags &= !(1 << 8 | 1 << 18);
    true
}

/// Runs instructions of which one may trap; what is behind it is then left out. Operands follow as
/// for `asm!`.
///
/// # Safety
///
/// The instructions must be harmless whether they trap or not.
macro_rules! probe {
    ($($instruction:literal),+ $(; $($operands:tt)*)?) => {{
        ::core::arch::asm!(
            "lea {resume}, [rip + 77f]",
            "mov [rip + {slot}], {resume}",
            $($instruction,)+
            "77:",
            "mov qword ptr [rip + {slot}], 0",
            resume = out(reg) _,
            slot = sym crate::guest::probe::RESUME,
            $($($operands)*)?
        );
        $crate::guest::probe::Trap::take()
    }};
}

pub(crate) use probe;
