//! Floating-point state: saved and loaded whole, by XSAVE where the CPU has it, else by FXSAVE.

use core::arch::asm;

use super::processor::{Features, cpuid, set_task_switched};
use crate::FpuState;
use crate::context::FPU_AREA_SIZE;

const X87: u64 = 1;
const SSE: u64 = 1 << 1;
const AVX: u64 = 1 << 2;
const AVX_512: u64 = 7 << 5;

/// How state is saved.
#[derive(Clone, Copy, Debug)]
pub struct Fpu {
    /// State components that XCR0 enables; 0 without XSAVE.
    components: u64,
}

impl Fpu {
    /// Enables the state components that the CPU has and the save area has room for.
    pub fn new(features: &Features) -> Self {
        if !features.xsave {
            return Self { components: 0 };
        }
        let [low, _, _, high] = cpuid(0xd, 0);
        let supported = u64::from(high) << 32 | u64::from(low);
        let mut components = X87 | SSE;
        if supported & AVX != 0 {
            components |= AVX;
            if supported & AVX_512 == AVX_512 {
                components |= AVX_512;
            }
        }
        let size = |components: u64| {
            // SAFETY: CR4.OSXSAVE is set, and the components are supported, with those that they need.
            unsafe { write_xcr0(components) };
            cpuid(0xd, 0)[1] as usize
        };
        if size(components) > FPU_AREA_SIZE {
            components &= !AVX_512;
            let size = size(components);
            assert!(
                size <= FPU_AREA_SIZE,
                "floating-point state of {size} bytes"
            );
        }
        Self { components }
    }

    /// Lets the guest that runs use `xcr0` of the components, as far as they are saved.
    pub fn set_enabled(&self, xcr0: u64) {
        let wanted = (xcr0 & self.components) | X87;
        if self.components != 0 {
            // SAFETY: CR4.OSXSAVE is set whenever there are components; reading XCR0 changes nothing.
            let current = unsafe { read_xcr0() };
            // Writing it is slow, and leaves a virtual machine.
            if current != wanted {
                // SAFETY: x87 is among them, and the caller has checked that those that need others have them.
                unsafe { write_xcr0(wanted) };
            }
        }
    }

    /// Saves this CPU's state. Leaves TS clear.
    pub fn save(&self, state: &mut FpuState) {
        set_task_switched(false);
        self.set_enabled(self.components);
        let area = state.area.bytes.as_mut_ptr();
        let (low, high) = (self.components as u32, (self.components >> 32) as u32);
        // SAFETY: the area is aligned to 64 bytes and holds all enabled components.
        unsafe {
            if self.components == 0 {
                asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
            } else {
                // Not XSAVEOPT: it leaves out what is in its initial state, and the legacy image is read.
                asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high,
                    options(nostack, preserves_flags));
            }
        }
    }

    /// Loads a state, and what of it the vCPU may use. Leaves TS clear.
    pub fn load(&self, state: &FpuState) {
        set_task_switched(false);
        self.set_enabled(self.components);
        let area = state.area.bytes.as_ptr();
        let (low, high) = (self.components as u32, (self.components >> 32) as u32);
        // SAFETY: the area was saved by `save` or made by `FpuState`, whose reserved bits are clear; nothing of
        // the hypervisor's is in floating-point registers.
        unsafe {
            if self.components == 0 {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags));
            } else {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high,
                    options(nostack, preserves_flags));
            }
        }
        self.set_enabled(state.enabled());
    }
}

/// Reads XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set.
unsafe fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set, and the processor supports the components together.
unsafe fn write_xcr0(components: u64) {
    // SAFETY: the caller's promise; the hypervisor itself uses no state of these components.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") components as u32,
            in("edx") (components >> 32) as u32, options(nostack, preserves_flags));
    }
}
