//! The vCPU as the guest sees it: the shared info page, the upcall mask in place of an interrupt
//! flag, the critical section of all vCPUs, the time-stamp counter, and what identifies the
//! processor.

use core::arch::x86_64::_rdtsc;
use core::arch::{asm, x86_64::CpuidResult};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicU32, compiler_fence};

use critical_section::RawRestoreState;
use hypercall_abi::types::Mfn;
use hypercall_abi::xen::{StartInfo, UVMF_INVLPG};

use crate::hypercall::{mmu, system};
use crate::pte::{Flags, Pte};
use crate::shared::{SharedInfo, Vcpu};
use crate::{sync, vcpus};

unsafe extern "C" {
    /// A page of the image, behind which the shared info page is mapped.
    static __shared_info: SharedInfo;
}

/// Maps the shared info page over the page that the image keeps for it.
///
/// # Safety
///
/// Only at start of day; the start info must be the hypervisor's.
pub(crate) unsafe fn map_shared_info(info: &StartInfo) {
    let va = (&raw const __shared_info).addr() as u64;
    let entry = Pte::new(Mfn(info.shared_info >> 12), Flags::READ_WRITE);
    // SAFETY: the page that disappears is zero and was never used, and the one that appears holds
    // the same type.
    unsafe { mmu::update_va_mapping(va, entry.0, UVMF_INVLPG) }
        .expect("the shared info page can be mapped");
}

/// The page that this guest shares with the hypervisor. Before start of day maps it, all zeroes.
pub fn shared() -> &'static SharedInfo {
    // SAFETY: the page is mapped for ever, aligned, and all its fields are atomics, for which any
    // bits are valid.
    unsafe { &__shared_info }
}

/// This vCPU's part of it.
pub fn vcpu() -> &'static Vcpu {
    &shared().vcpu[vcpus::current() as usize]
}

/// Holds back upcalls; whether they were already.
pub fn disable_upcalls() -> bool {
    let masked = vcpu().upcall_mask.load(Relaxed) != 0;
    vcpu().upcall_mask.store(1, Relaxed);
    // What follows must not be moved before the store; the hypervisor looks at the mask on this
    // very CPU.
    compiler_fence(SeqCst);
    masked
}

/// Lets upcalls in. Those that are pending are delivered before this returns.
pub fn enable_upcalls() {
    compiler_fence(SeqCst);
    vcpu().upcall_mask.store(0, Relaxed);
    compiler_fence(SeqCst);
    // An event that came while masked made no upcall. One that comes after the store makes its own,
    // so looking after the store misses none.
    if vcpu().upcall_pending.load(Relaxed) != 0 {
        system::version();
    }
}

/// The vCPU in the critical section, or [`NOBODY`].
static HOLDER: AtomicU32 = AtomicU32::new(NOBODY);

const NOBODY: u32 = u32::MAX;

/// In a section's state: upcalls were masked before it.
const WAS_MASKED: u8 = 1;

/// In a section's state: it is not inside another.
const OUTERMOST: u8 = 2;

struct Section;

critical_section::set_impl!(Section);

// SAFETY: one vCPU is inside at a time, and with upcalls masked nothing but exceptions, which do not
// return to ordinary code, interrupts it; sections nest because only the outermost gives up what it
// took, and each restores the mask.
unsafe impl critical_section::Impl for Section {
    unsafe fn acquire() -> RawRestoreState {
        let masked = if disable_upcalls() { WAS_MASKED } else { 0 };
        let me = vcpus::current();
        if HOLDER.load(Relaxed) == me {
            return masked;
        }
        let mut attempts = 0;
        while HOLDER
            .compare_exchange_weak(NOBODY, me, Acquire, Relaxed)
            .is_err()
        {
            sync::relax(&mut attempts);
        }
        masked | OUTERMOST
    }

    unsafe fn release(state: RawRestoreState) {
        if state & OUTERMOST != 0 {
            HOLDER.store(NOBODY, Release);
        }
        if state & WAS_MASKED == 0 {
            enable_upcalls();
        }
    }
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: the instruction has no effect but its result.
    unsafe { _rdtsc() }
}

/// CPUID as the hypervisor answers it for this guest: by the forced-emulation prefix, so that the
/// answer does not depend on whether the hardware can intercept the instruction.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let (eax, ebx, ecx, edx);
    // SAFETY: the prefix (ud2 and "xen") makes the hypervisor emulate the instruction behind it,
    // which writes four registers; rbx, which the compiler may reserve, is put back.
    unsafe {
        asm!(
            "mov {saved:r}, rbx",
            ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e",
            "cpuid",
            "xchg {saved:r}, rbx",
            saved = out(reg) ebx,
            inout("eax") leaf => eax,
            inout("ecx") subleaf => ecx,
            out("edx") edx,
            options(nomem, nostack, preserves_flags),
        );
    }
    CpuidResult { eax, ebx, ecx, edx }
}
