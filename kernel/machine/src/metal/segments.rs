//! Data-segment selectors and segment bases, which stay the guest's while the hypervisor runs.

use core::arch::asm;

use super::processor::{Features, msr, read_msr, write_msr};
use crate::{SegmentBase, Segments, SelectorFault};

/// Loads a selector; a refused one becomes null. Whether it was taken.
macro_rules! load_selector {
    ($register:literal, $selector:expr) => {{
        let failed: u32;
        // SAFETY: the hypervisor uses no data segment; a refused selector continues behind the load, by the
        // fix-up table, with the mark left set.
        unsafe {
            asm!(
                concat!("2: mov ", $register, ", {selector:e}"),
                "xor {failed:e}, {failed:e}",
                "3:",
                ".pushsection .fixup, \"a\", @progbits",
                ".quad 2b, 3b",
                ".popsection",
                failed = inout(reg) 1_u32 => failed,
                selector = in(reg) u32::from($selector),
                options(nostack),
            );
            if failed != 0 {
                asm!(concat!("mov ", $register, ", {null:e}"), null = in(reg) 0_u32,
                    options(nostack, preserves_flags));
            }
        }
        failed == 0
    }};
}

fn check(good: bool) -> Result<(), SelectorFault> {
    if good { Ok(()) } else { Err(SelectorFault) }
}

/// Loads all selectors, then all bases.
pub fn load(features: &Features, segments: &Segments) -> Result<(), SelectorFault> {
    let ds = load_selector!("ds", segments.ds);
    let es = load_selector!("es", segments.es);
    let fs = load_selector!("fs", segments.fs);
    let gs = load_selector!("gs", segments.gs);
    set_base(features, SegmentBase::Fs, segments.fs_base);
    set_base(features, SegmentBase::Gs, segments.gs_base);
    set_base(features, SegmentBase::GsShadow, segments.gs_base_shadow);
    check(ds && es && fs && gs)
}

/// What the CPU holds.
pub fn store(features: &Features) -> Segments {
    let (ds, es, fs, gs): (u32, u32, u32, u32);
    // SAFETY: reading selectors changes nothing.
    unsafe {
        asm!("mov {:e}, ds", "mov {:e}, es", "mov {:e}, fs", "mov {:e}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs,
            options(nomem, nostack, preserves_flags));
    }
    let (fs_base, gs_base): (u64, u64);
    // SAFETY: reading bases changes nothing; the instructions are used only where CPUID has them.
    let gs_base_shadow = unsafe {
        if features.fsgsbase {
            asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs_base, out(reg) gs_base,
                options(nomem, nostack, preserves_flags));
        } else {
            fs_base = read_msr(msr::FS_BASE);
            gs_base = read_msr(msr::GS_BASE);
        }
        read_msr(msr::KERNEL_GS_BASE)
    };
    Segments {
        ds: ds as u16,
        es: es as u16,
        fs: fs as u16,
        gs: gs as u16,
        fs_base,
        gs_base,
        gs_base_shadow,
    }
}

/// Sets one base.
#[inline]
pub fn set_base(features: &Features, which: SegmentBase, base: u64) {
    // SAFETY: no base is the hypervisor's; the caller of the platform has checked that it is canonical.
    unsafe {
        match which {
            SegmentBase::Fs if features.fsgsbase => {
                asm!("wrfsbase {}", in(reg) base, options(nomem, nostack, preserves_flags));
            }
            SegmentBase::Gs if features.fsgsbase => {
                asm!("wrgsbase {}", in(reg) base, options(nomem, nostack, preserves_flags));
            }
            SegmentBase::Fs => write_msr(msr::FS_BASE, base),
            SegmentBase::Gs => write_msr(msr::GS_BASE, base),
            SegmentBase::GsShadow => write_msr(msr::KERNEL_GS_BASE, base),
        }
    }
}

/// Loads GS for the mode that does not run.
pub fn load_user_gs(selector: u16) -> Result<(), SelectorFault> {
    swap_gs();
    let good = load_selector!("gs", selector);
    swap_gs();
    check(good)
}

/// Exchanges the two GS bases.
#[inline]
pub fn swap_gs() {
    // SAFETY: neither base is the hypervisor's.
    unsafe { asm!("swapgs", options(nomem, nostack, preserves_flags)) };
}
