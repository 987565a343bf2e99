//! CPUID as guests see it.
//!
//! [`Policy`] is made once, of what the hardware says: the leaves that PV guests may see, with the features that they
//! may use and without those that depend on a hidden one. A domain may be shown less
//! ([`crate::Domain::cpuid`]), never more. A few bits depend on the moment: what the guest's CR4 and XCR0 enable, and
//! what the control domain's kernel alone is shown, because it drives the hardware.
//!
//! The hypervisor's own leaves from 0x40000000 on are in `arch-x86/cpuid.h`.

mod feature;
mod list;
mod policy;

pub use feature::Features;
pub use list::{MAX_LEAVES, View, WORD_COUNT, is_listed};
pub use policy::Policy;

use hv_machine::Platform;
use hypercall_abi::arch_x86::{
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, XEN_CPUID_FIRST_LEAF, XEN_CPUID_MAX_NUM_LEAVES,
    XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX, XEN_CPUID_SIGNATURE_EDX,
};

use feature::*;
use policy::{AVX_STATE, AVX512_STATE, SSE_STATE, STATE_LEAF, Vendor, X87};

use crate::version::INTERFACE_VERSION;
use crate::{Current, Domain, Hypervisor};

/// EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

/// Pages of hypercall stubs that a guest asks for.
const HYPERCALL_PAGES: u32 = 1;
/// The MSR that fills one.
pub const HYPERCALL_PAGE_MSR: u32 = 0x4000_0000;

/// How a guest asked for a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// With the prefix for forced emulation.
    Explicitly,
    /// By the bare instruction, which faulted.
    ByInstruction,
}

/// The leaf that the current vCPU asks for.
pub fn for_current(cx: &Current<'_>, leaf: u32, subleaf: u32, asked: Asked) -> Leaf {
    if (XEN_CPUID_FIRST_LEAF..XEN_CPUID_FIRST_LEAF + 0x200).contains(&leaf) {
        return hypervisor_leaf(cx.hv, cx.domain, leaf - XEN_CPUID_FIRST_LEAF, subleaf);
    }
    let policy = &cx.hv.cpuid;
    let features = policy.of(cx.domain);
    let mut found = policy.leaf(&features, leaf, subleaf);
    let key = if has_subleaves(leaf) { subleaf } else { 0 };
    let configured = cx.domain.cpuid.lock().get(&(leaf, key)).copied();
    if let Some(configured) = configured.filter(|_| !is_feature_leaf(leaf)) {
        found = configured;
    }
    adjust(cx, &features, leaf, subleaf, asked, &mut found);
    found
}

/// Whether a leaf depends on ECX.
fn has_subleaves(leaf: u32) -> bool {
    matches!(leaf, 4 | 7 | 0xb | STATE_LEAF)
}

fn is_feature_leaf(leaf: u32) -> bool {
    leaf == STATE_LEAF || WORDS.iter().any(|&(of, ..)| of == leaf)
}

/// Fills in what depends on the moment and on who asks.
fn adjust(
    cx: &Current<'_>,
    features: &Features,
    leaf: u32,
    subleaf: u32,
    asked: Asked,
    found: &mut Leaf,
) {
    let policy = &cx.hv.cpuid;
    let drives_hardware = cx.domain.privileged && cx.state.kernel_mode;
    let bit = |(_, bit): Feature| 1_u32 << bit;
    match leaf {
        1 => {
            // Kernels rely on seeing OSXSAVE before they set it, when they ask explicitly: the bit leaked once, and
            // the ABI has it so.
            let (_, cr4) = cx.machine().control_registers();
            let leaked = features.has(XSAVE)
                && asked == Asked::Explicitly
                && cx.state.kernel_mode
                && cr4 & CR4_OSXSAVE != 0;
            if cx.state.cr4 & CR4_OSXSAVE != 0 || leaked {
                found[2] |= bit(OSXSAVE);
            }
            if drives_hardware {
                // Deep sleep states and frequencies are read from ACPI by a kernel that sees these.
                if policy.host.has(MONITOR) && asked == Asked::ByInstruction {
                    found[2] |= bit(MONITOR);
                }
                if policy.host.has(EIST) {
                    found[2] |= bit(EIST);
                }
                if policy.host.has(MTRR) {
                    found[3] |= bit(MTRR);
                }
            }
        }
        5 if drives_hardware && policy.host.has(MONITOR) && asked == Asked::ByInstruction => {
            *found = policy.monitor;
        }
        0xb if features.has(X2APIC) && policy.basic[0][0] >= 0xb => {
            found[2] = found[2] & !0xff | subleaf & 0xff;
            found[3] = cx.vcpu.id * 2;
        }
        STATE_LEAF if features.has(XSAVE) => match subleaf {
            0 => found[1] = policy.state_size(cx.state.fpu.enabled()),
            1 if features.has(XSAVEC) => found[1] = policy.compacted_size(cx.state.fpu.enabled()),
            _ => {}
        },
        0x8000_0001 if drives_hardware && policy.host.has(MTRR) => {
            // As in leaf 1, where AMD repeats it.
            found[3] |= bit(MTRR) * u32::from(found[3] & COMMON_1D != 0);
        }
        _ => {}
    }
}

/// The hypervisor's own leaf `index` (`arch-x86/cpuid.h`).
fn hypervisor_leaf(hv: &Hypervisor, domain: &Domain, index: u32, subleaf: u32) -> Leaf {
    let machine = &hv.machine;
    match (index, subleaf) {
        (0, _) => [
            XEN_CPUID_FIRST_LEAF + XEN_CPUID_MAX_NUM_LEAVES,
            XEN_CPUID_SIGNATURE_EBX,
            XEN_CPUID_SIGNATURE_ECX,
            XEN_CPUID_SIGNATURE_EDX,
        ],
        (1, _) => [INTERFACE_VERSION.0 << 16 | INTERFACE_VERSION.1, 0, 0, 0],
        (2, _) => [
            HYPERCALL_PAGES,
            HYPERCALL_PAGE_MSR,
            XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD,
            0,
        ],
        // Time: the TSC is not emulated, the same on all CPUs, and may be read with its CPU's number.
        (3, 0) => {
            let features = 1 << 1 | u32::from(hv.cpuid.host.has(RDTSCP)) << 2;
            let tsc = *domain.tsc.lock();
            let khz = machine.tsc_info().khz() as u32;
            [features, tsc.mode, khz, tsc.incarnation]
        }
        (3, 1) => {
            let scale = hv.clock.scale();
            [0, 0, scale.mul, i32::from(scale.shift) as u32]
        }
        (3, 2) => [machine.tsc_info().khz() as u32, 0, 0, 0],
        // Of hardware-virtualized guests.
        (4, _) => [0; 4],
        (5, 0) => {
            let highest = machine.frame_limit().saturating_sub(1);
            [0, u64::BITS - highest.leading_zeros() + 12, 0, 0]
        }
        _ => [0; 4],
    }
}

const CR4_TSD: u64 = 1 << 2;
const CR4_DE: u64 = 1 << 3;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
/// PAE, MCE, OSFXSR, OSXMMEXCPT: the hypervisor's choice, which guests see.
const CR4_VISIBLE: u64 = 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10;

/// CR4 as a guest of the domain sees it that asks for `wanted`.
pub fn guest_cr4(hv: &Hypervisor, domain: &Domain, wanted: u64) -> u64 {
    let features = hv.cpuid.of(domain);
    let choices = [
        (TSC, CR4_TSD),
        (DE, CR4_DE),
        (FSGSBASE, CR4_FSGSBASE),
        (XSAVE, CR4_OSXSAVE),
    ];
    let choice = choices
        .into_iter()
        .filter(|&(feature, _)| features.has(feature))
        .fold(0, |mask, (_, bit)| mask | bit);
    let (_, cr4) = hv.machine.control_registers();
    wanted & choice | cr4 & CR4_VISIBLE
}

/// Whether the current guest has IA32_TSC_AUX.
pub fn has_tsc_aux(cx: &Current<'_>) -> bool {
    offers_tsc_aux(cx.hv, cx.domain)
}

/// Whether the CPU has IA32_TSC_AUX.
pub fn is_tsc_aux_there(hv: &Hypervisor) -> bool {
    hv.cpuid.host.has(RDTSCP) || hv.cpuid.host.has(RDPID)
}

/// Whether a domain may tell its CPUs apart by `TSC_AUX`.
pub fn offers_tsc_aux(hv: &Hypervisor, domain: &Domain) -> bool {
    let features = hv.cpuid.of(domain);
    features.has(RDTSCP) || features.has(RDPID)
}

/// Whether the current guest may issue the branch-predictor barrier.
pub fn has_prediction_barrier(cx: &Current<'_>) -> bool {
    cx.hv.cpuid.of(cx.domain).has(IBPB)
}

/// Whether the current guest may read IA32_ARCH_CAPABILITIES.
pub fn has_arch_capabilities(cx: &Current<'_>) -> bool {
    cx.hv.cpuid.of(cx.domain).has(ARCH_CAPS)
}

/// Whether the CPU is Intel's.
pub fn is_intel(hv: &Hypervisor) -> bool {
    Vendor::of(hv.cpuid.basic[0]) == Vendor::Intel
}

/// Whether the CPU is AMD's or Hygon's.
pub fn is_amd(hv: &Hypervisor) -> bool {
    Vendor::of(hv.cpuid.basic[0]) == Vendor::Amd
}

/// Whether the current guest may set XCR0 to `value`.
pub fn is_valid_xcr0(cx: &Current<'_>, value: u64) -> bool {
    let avx512 = value & AVX512_STATE;
    value & !cx.hv.cpuid.components() == 0
        && value & X87 != 0
        && (value & AVX_STATE == 0 || value & SSE_STATE != 0)
        && (avx512 == 0 || avx512 == AVX512_STATE && value & AVX_STATE != 0)
}

#[cfg(test)]
mod tests;
