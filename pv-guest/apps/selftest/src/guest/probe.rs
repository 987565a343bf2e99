//! Running an instruction that may trap, and telling what trap it was.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use pv_guest::cpu;
use pv_guest::traps::{self, Frame};

/// Where to go on after a trap; 0 where none is expected.
pub static RESUME: AtomicU64 = AtomicU64::new(0);

static VECTOR: AtomicU64 = AtomicU64::new(0);
static ERROR: AtomicU64 = AtomicU64::new(0);
static RIP: AtomicU64 = AtomicU64::new(0);
static CS: AtomicU64 = AtomicU64::new(0);
static SS: AtomicU64 = AtomicU64::new(0);
static RSP: AtomicU64 = AtomicU64::new(0);
static RFLAGS: AtomicU64 = AtomicU64::new(0);
static RAX: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static MASKED: AtomicU64 = AtomicU64::new(0);

/// [`VECTOR`] where no trap happened.
pub const NONE: u64 = u64::MAX;

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
        let vector = VECTOR.swap(NONE, SeqCst);
        (vector != NONE).then(|| Self {
            vector,
            error_code: ERROR.load(Relaxed),
            rip: RIP.load(Relaxed),
            cs: CS.load(Relaxed),
            ss: SS.load(Relaxed),
            rsp: RSP.load(Relaxed),
            rflags: RFLAGS.load(Relaxed),
            rax: RAX.load(Relaxed),
            address: ADDRESS.load(Relaxed),
            masked: MASKED.load(Relaxed) != 0,
        })
    }
}

/// Makes traps be noted.
pub fn init() {
    VECTOR.store(NONE, SeqCst);
    // SAFETY: the hook resumes only where a probe says that it may.
    unsafe { traps::set_hook(Some(hook)) };
}

/// Notes a trap; where a probe expects one, it goes on at the place the probe named.
fn hook(frame: &mut Frame) -> bool {
    let resume = RESUME.swap(0, SeqCst);
    if resume == 0 {
        return false;
    }
    note(frame);
    if frame.is_user() {
        super::user::leave(frame);
    }
    frame.rip = resume;
    frame.rflags &= !(1 << 8 | 1 << 18);
    true
}

fn note(frame: &Frame) {
    ERROR.store(frame.error_code, Relaxed);
    RIP.store(frame.rip, Relaxed);
    CS.store(frame.cs, Relaxed);
    SS.store(frame.ss, Relaxed);
    RSP.store(frame.rsp, Relaxed);
    RFLAGS.store(frame.rflags, Relaxed);
    RAX.store(frame.rax, Relaxed);
    ADDRESS.store(cpu::vcpu().cr2.load(Relaxed), Relaxed);
    MASKED.store(u64::from(cpu::vcpu().upcall_mask.load(Relaxed)), Relaxed);
    VECTOR.store(frame.vector, SeqCst);
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
