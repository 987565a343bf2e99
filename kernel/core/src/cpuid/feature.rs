//! Features that CPUID names: where they are, which of them PV guests may have, and what depends on what.

use super::policy::{EXTENDED, STATE_LEAF};

/// A feature: word of the feature set, bit.
pub(super) type Feature = (usize, u32);

/// Where the words of a feature set are: leaf, subleaf, register.
pub(super) const WORDS: [(u32, u32, usize); 14] = [
    (1, 0, 3),
    (1, 0, 2),
    (EXTENDED + 1, 0, 3),
    (EXTENDED + 1, 0, 2),
    (STATE_LEAF, 1, 0),
    (7, 0, 1),
    (7, 0, 2),
    (EXTENDED + 7, 0, 3),
    (EXTENDED + 8, 0, 1),
    (7, 0, 3),
    (7, 1, 0),
    (EXTENDED + 0x21, 0, 0),
    (7, 1, 1),
    (7, 2, 3),
];

/// Features that every PV guest may use and sees (`cpufeatureset.h`: those for all guests).
pub(super) const SHOWN: [u32; 14] = [
    0x1fc9_cbf5,
    0xf6f8_3203,
    0xea50_0800,
    0x0421_09e3,
    0x0000_0007,
    0xfdaf_0b29,
    0x0240_5f43,
    0,
    0x6400_1005,
    0x8c00_441c,
    0x0000_1c30,
    0x0000_0044,
    0,
    0x0000_0021,
];

/// Features that a PV guest may be given besides.
pub(super) const ON_REQUEST: [u32; 14] = [
    0,
    0,
    0,
    0,
    0,
    0x10,
    0x1800_0000,
    0x100,
    0,
    0x2001_0100,
    0,
    0,
    0,
    0,
];

/// Bits of leaf 1 EDX that AMD repeats in leaf 0x80000001.
pub(super) const COMMON_1D: u32 = 0x0183_f3ff;

pub(super) const FPU: Feature = (0, 0);
pub(super) const DE: Feature = (0, 2);
pub(super) const PSE: Feature = (0, 3);
pub(super) const TSC: Feature = (0, 4);
pub(super) const PAE: Feature = (0, 6);
pub(super) const APIC: Feature = (0, 9);
pub(super) const SEP: Feature = (0, 11);
pub(super) const MTRR: Feature = (0, 12);
pub(super) const PSE36: Feature = (0, 17);
pub(super) const MMX: Feature = (0, 23);
pub(super) const FXSR: Feature = (0, 24);
pub(super) const SSE: Feature = (0, 25);
pub(super) const SSE2: Feature = (0, 26);
pub(super) const HTT: Feature = (0, 28);
pub(super) const SSE3: Feature = (1, 0);
pub(super) const PCLMULQDQ: Feature = (1, 1);
pub(super) const MONITOR: Feature = (1, 3);
pub(super) const EIST: Feature = (1, 7);
pub(super) const SSSE3: Feature = (1, 9);
pub(super) const FMA: Feature = (1, 12);
pub(super) const CX16: Feature = (1, 13);
pub(super) const PCID: Feature = (1, 17);
pub(super) const SSE4_1: Feature = (1, 19);
pub(super) const SSE4_2: Feature = (1, 20);
pub(super) const X2APIC: Feature = (1, 21);
pub(super) const TSC_DEADLINE: Feature = (1, 24);
pub(super) const AESNI: Feature = (1, 25);
pub(super) const XSAVE: Feature = (1, 26);
pub(super) const OSXSAVE: Feature = (1, 27);
pub(super) const AVX: Feature = (1, 28);
pub(super) const F16C: Feature = (1, 29);
pub(super) const HYPERVISOR: Feature = (1, 31);
pub(super) const NX: Feature = (2, 20);
pub(super) const MMXEXT: Feature = (2, 22);
pub(super) const FFXSR: Feature = (2, 25);
pub(super) const PAGE1GB: Feature = (2, 26);
pub(super) const RDTSCP: Feature = (2, 27);
pub(super) const LM: Feature = (2, 29);
pub(super) const AMD_3DNOWEXT: Feature = (2, 30);
pub(super) const AMD_3DNOW: Feature = (2, 31);
pub(super) const LAHF_LM: Feature = (3, 0);
pub(super) const CMP_LEGACY: Feature = (3, 1);
pub(super) const SSE4A: Feature = (3, 6);
pub(super) const MISALIGNSSE: Feature = (3, 7);
pub(super) const XOP: Feature = (3, 11);
pub(super) const FMA4: Feature = (3, 16);
pub(super) const XSAVEOPT: Feature = (4, 0);
pub(super) const XSAVEC: Feature = (4, 1);
pub(super) const XGETBV1: Feature = (4, 2);
pub(super) const XSAVES: Feature = (4, 3);
pub(super) const FSGSBASE: Feature = (5, 0);
pub(super) const AVX2: Feature = (5, 5);
pub(super) const FDP_EXCP_ONLY: Feature = (5, 6);
pub(super) const RTM: Feature = (5, 11);
pub(super) const NO_FPU_SEL: Feature = (5, 13);
pub(super) const AVX512F: Feature = (5, 16);
pub(super) const AVX512DQ: Feature = (5, 17);
pub(super) const AVX512_IFMA: Feature = (5, 21);
pub(super) const AVX512PF: Feature = (5, 26);
pub(super) const AVX512ER: Feature = (5, 27);
pub(super) const AVX512CD: Feature = (5, 28);
pub(super) const SHA: Feature = (5, 29);
pub(super) const AVX512BW: Feature = (5, 30);
pub(super) const AVX512VL: Feature = (5, 31);
pub(super) const AVX512_VBMI: Feature = (6, 1);
pub(super) const AVX512_VBMI2: Feature = (6, 6);
pub(super) const GFNI: Feature = (6, 8);
pub(super) const VAES: Feature = (6, 9);
pub(super) const VPCLMULQDQ: Feature = (6, 10);
pub(super) const AVX512_VNNI: Feature = (6, 11);
pub(super) const AVX512_BITALG: Feature = (6, 12);
pub(super) const AVX512_VPOPCNTDQ: Feature = (6, 14);
pub(super) const RDPID: Feature = (6, 22);
pub(super) const ITSC: Feature = (7, 8);
pub(super) const RSTR_FP_ERR_PTRS: Feature = (8, 2);
pub(super) const IBPB: Feature = (8, 12);
pub(super) const IBRS: Feature = (8, 14);
pub(super) const AMD_STIBP: Feature = (8, 15);
pub(super) const NO_LMSL: Feature = (8, 20);
pub(super) const AMD_SSBD: Feature = (8, 24);
pub(super) const PSFD: Feature = (8, 28);
pub(super) const AVX512_4VNNIW: Feature = (9, 2);
pub(super) const AVX512_4FMAPS: Feature = (9, 3);
pub(super) const AVX512_VP2INTERSECT: Feature = (9, 8);
pub(super) const TSXLDTRK: Feature = (9, 16);
pub(super) const AVX512_FP16: Feature = (9, 23);
pub(super) const IBRSB: Feature = (9, 26);
pub(super) const STIBP: Feature = (9, 27);
pub(super) const L1D_FLUSH: Feature = (9, 28);
pub(super) const ARCH_CAPS: Feature = (9, 29);
pub(super) const SSBD: Feature = (9, 31);
pub(super) const AVX_VNNI: Feature = (10, 4);
pub(super) const AVX512_BF16: Feature = (10, 5);
pub(super) const INTEL_PSFD: Feature = (13, 0);

/// Features that nothing can be used of without the first; in an order in which one pass is enough.
const DEPENDENCIES: &[(Feature, &[Feature])] = &[
    (FPU, &[MMX, RSTR_FP_ERR_PTRS]),
    (PSE, &[PSE36]),
    (PAE, &[LM, NX]),
    (TSC, &[TSC_DEADLINE, RDTSCP, ITSC]),
    (APIC, &[X2APIC, TSC_DEADLINE]),
    (MMX, &[MMXEXT, AMD_3DNOW]),
    (AMD_3DNOW, &[AMD_3DNOWEXT]),
    (FXSR, &[FFXSR, SSE]),
    (SSE, &[SSE2, MISALIGNSSE]),
    (SSE2, &[SSE3, LM, AESNI, PCLMULQDQ, SHA, GFNI]),
    (SSE3, &[SSSE3, SSE4A]),
    (SSSE3, &[SSE4_1]),
    (SSE4_1, &[SSE4_2]),
    (LM, &[CX16, PCID, LAHF_LM, PAGE1GB, NO_LMSL]),
    (XSAVE, &[XSAVEOPT, XSAVEC, XGETBV1, XSAVES, AVX]),
    (AVX, &[FMA, FMA4, F16C, AVX2, XOP]),
    (PCLMULQDQ, &[VPCLMULQDQ]),
    (AESNI, &[VAES]),
    (AVX2, &[AVX512F, VAES, VPCLMULQDQ, AVX_VNNI]),
    (
        AVX512F,
        &[
            AVX512DQ,
            AVX512_IFMA,
            AVX512PF,
            AVX512ER,
            AVX512CD,
            AVX512BW,
            AVX512VL,
            AVX512_4VNNIW,
            AVX512_4FMAPS,
            AVX512_VNNI,
            AVX512_VPOPCNTDQ,
            AVX512_VP2INTERSECT,
        ],
    ),
    (
        AVX512BW,
        &[
            AVX512_VBMI,
            AVX512_VBMI2,
            AVX512_BITALG,
            AVX512_BF16,
            AVX512_FP16,
        ],
    ),
    (IBRSB, &[STIBP, SSBD, INTEL_PSFD]),
    (IBRS, &[AMD_STIBP, AMD_SSBD, PSFD]),
    (RTM, &[TSXLDTRK]),
];

/// The words of a feature set, in the order of `cpufeatureset.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub(super) [u32; 14]);

impl Features {
    pub(super) fn has(&self, (word, bit): Feature) -> bool {
        self.0.get(word).is_some_and(|word| word >> bit & 1 != 0)
    }

    pub(super) fn set(&mut self, (word, bit): Feature, on: bool) {
        if let Some(word) = self.0.get_mut(word) {
            *word = *word & !(1 << bit) | u32::from(on) << bit;
        }
    }

    pub(super) fn and(mut self, mask: &[u32; 14]) -> Self {
        for (word, mask) in self.0.iter_mut().zip(mask) {
            *word &= mask;
        }
        self
    }

    /// Takes away what depends on something that is not there.
    pub(super) fn sanitise(mut self) -> Self {
        for &(needed, dependents) in DEPENDENCIES {
            if !self.has(needed) {
                for &dependent in dependents {
                    self.set(dependent, false);
                }
            }
        }
        self
    }
}
