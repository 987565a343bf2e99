//! CPUID as guests see it.
//!
//! [`Policy`] is made once, of what the hardware says: the leaves that PV guests may see, with the features that they
//! may use and without those that depend on a hidden one. A domain may be shown less
//! ([`crate::Domain::cpuid`]), never more. A few bits depend on the moment: what the guest's CR4 and XCR0 enable, and
//! what the control domain's kernel alone is shown, because it drives the hardware.
//!
//! The hypervisor's own leaves from 0x40000000 on are in `arch-x86/cpuid.h`.

mod list;

pub use list::{MAX_LEAVES, View, WORD_COUNT, is_listed};

use alloc::boxed::Box;

use hv_machine::Platform;
use hypercall_abi::arch_x86::{
    XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, XEN_CPUID_FIRST_LEAF, XEN_CPUID_MAX_NUM_LEAVES,
    XEN_CPUID_NO_SUBLEAF, XEN_CPUID_SIGNATURE_EBX, XEN_CPUID_SIGNATURE_ECX,
    XEN_CPUID_SIGNATURE_EDX,
};

use crate::version::INTERFACE_VERSION;
use crate::{Current, Domain, Hypervisor};

/// EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

/// Basic leaves, 0 to 0xd.
const BASIC_LEAVES: usize = 0xe;
/// Subleaves of leaf 4.
const CACHE_SUBLEAVES: usize = 6;
/// Subleaves of leaf 7.
const FEATURE_SUBLEAVES: usize = 3;
/// Subleaves of leaf 0xd.
const STATE_SUBLEAVES: usize = 63;
/// Extended leaves, 0x80000000 to 0x80000021.
const EXTENDED_LEAVES: usize = 0x22;
/// The leaf of extended state.
const STATE_LEAF: u32 = 0xd;
/// First extended leaf.
const EXTENDED: u32 = 0x8000_0000;
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

/// The maker of a CPU, as far as leaves differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
    Other,
}

impl Vendor {
    fn of(leaf0: Leaf) -> Self {
        let mut name = [0; 12];
        for (slot, word) in name.chunks_exact_mut(4).zip([leaf0[1], leaf0[3], leaf0[2]]) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        match &name {
            b"GenuineIntel" => Self::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Self::Amd,
            _ => Self::Other,
        }
    }
}

/// A feature: word of the feature set, bit.
type Feature = (usize, u32);

/// Where the words of a feature set are: leaf, subleaf, register.
const WORDS: [(u32, u32, usize); 14] = [
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
const SHOWN: [u32; 14] = [
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
const ON_REQUEST: [u32; 14] = [
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
const COMMON_1D: u32 = 0x0183_f3ff;

mod feature {
    use super::Feature;

    pub const FPU: Feature = (0, 0);
    pub const DE: Feature = (0, 2);
    pub const PSE: Feature = (0, 3);
    pub const TSC: Feature = (0, 4);
    pub const PAE: Feature = (0, 6);
    pub const APIC: Feature = (0, 9);
    pub const SEP: Feature = (0, 11);
    pub const MTRR: Feature = (0, 12);
    pub const PSE36: Feature = (0, 17);
    pub const MMX: Feature = (0, 23);
    pub const FXSR: Feature = (0, 24);
    pub const SSE: Feature = (0, 25);
    pub const SSE2: Feature = (0, 26);
    pub const HTT: Feature = (0, 28);
    pub const SSE3: Feature = (1, 0);
    pub const PCLMULQDQ: Feature = (1, 1);
    pub const MONITOR: Feature = (1, 3);
    pub const EIST: Feature = (1, 7);
    pub const SSSE3: Feature = (1, 9);
    pub const FMA: Feature = (1, 12);
    pub const CX16: Feature = (1, 13);
    pub const PCID: Feature = (1, 17);
    pub const SSE4_1: Feature = (1, 19);
    pub const SSE4_2: Feature = (1, 20);
    pub const X2APIC: Feature = (1, 21);
    pub const TSC_DEADLINE: Feature = (1, 24);
    pub const AESNI: Feature = (1, 25);
    pub const XSAVE: Feature = (1, 26);
    pub const OSXSAVE: Feature = (1, 27);
    pub const AVX: Feature = (1, 28);
    pub const F16C: Feature = (1, 29);
    pub const HYPERVISOR: Feature = (1, 31);
    pub const NX: Feature = (2, 20);
    pub const MMXEXT: Feature = (2, 22);
    pub const FFXSR: Feature = (2, 25);
    pub const PAGE1GB: Feature = (2, 26);
    pub const RDTSCP: Feature = (2, 27);
    pub const LM: Feature = (2, 29);
    pub const AMD_3DNOWEXT: Feature = (2, 30);
    pub const AMD_3DNOW: Feature = (2, 31);
    pub const LAHF_LM: Feature = (3, 0);
    pub const CMP_LEGACY: Feature = (3, 1);
    pub const SSE4A: Feature = (3, 6);
    pub const MISALIGNSSE: Feature = (3, 7);
    pub const XOP: Feature = (3, 11);
    pub const FMA4: Feature = (3, 16);
    pub const XSAVEOPT: Feature = (4, 0);
    pub const XSAVEC: Feature = (4, 1);
    pub const XGETBV1: Feature = (4, 2);
    pub const XSAVES: Feature = (4, 3);
    pub const FSGSBASE: Feature = (5, 0);
    pub const AVX2: Feature = (5, 5);
    pub const FDP_EXCP_ONLY: Feature = (5, 6);
    pub const RTM: Feature = (5, 11);
    pub const NO_FPU_SEL: Feature = (5, 13);
    pub const AVX512F: Feature = (5, 16);
    pub const AVX512DQ: Feature = (5, 17);
    pub const AVX512_IFMA: Feature = (5, 21);
    pub const AVX512PF: Feature = (5, 26);
    pub const AVX512ER: Feature = (5, 27);
    pub const AVX512CD: Feature = (5, 28);
    pub const SHA: Feature = (5, 29);
    pub const AVX512BW: Feature = (5, 30);
    pub const AVX512VL: Feature = (5, 31);
    pub const AVX512_VBMI: Feature = (6, 1);
    pub const AVX512_VBMI2: Feature = (6, 6);
    pub const GFNI: Feature = (6, 8);
    pub const VAES: Feature = (6, 9);
    pub const VPCLMULQDQ: Feature = (6, 10);
    pub const AVX512_VNNI: Feature = (6, 11);
    pub const AVX512_BITALG: Feature = (6, 12);
    pub const AVX512_VPOPCNTDQ: Feature = (6, 14);
    pub const RDPID: Feature = (6, 22);
    pub const ITSC: Feature = (7, 8);
    pub const RSTR_FP_ERR_PTRS: Feature = (8, 2);
    pub const IBPB: Feature = (8, 12);
    pub const IBRS: Feature = (8, 14);
    pub const AMD_STIBP: Feature = (8, 15);
    pub const NO_LMSL: Feature = (8, 20);
    pub const AMD_SSBD: Feature = (8, 24);
    pub const PSFD: Feature = (8, 28);
    pub const AVX512_4VNNIW: Feature = (9, 2);
    pub const AVX512_4FMAPS: Feature = (9, 3);
    pub const AVX512_VP2INTERSECT: Feature = (9, 8);
    pub const TSXLDTRK: Feature = (9, 16);
    pub const AVX512_FP16: Feature = (9, 23);
    pub const IBRSB: Feature = (9, 26);
    pub const STIBP: Feature = (9, 27);
    pub const L1D_FLUSH: Feature = (9, 28);
    pub const ARCH_CAPS: Feature = (9, 29);
    pub const SSBD: Feature = (9, 31);
    pub const AVX_VNNI: Feature = (10, 4);
    pub const AVX512_BF16: Feature = (10, 5);
    pub const INTEL_PSFD: Feature = (13, 0);
}

use feature::*;

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

/// The words of a feature set, as [`WORDS`] orders them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features([u32; 14]);

impl Features {
    fn has(&self, (word, bit): Feature) -> bool {
        self.0.get(word).is_some_and(|word| word >> bit & 1 != 0)
    }

    fn set(&mut self, (word, bit): Feature, on: bool) {
        if let Some(word) = self.0.get_mut(word) {
            *word = *word & !(1 << bit) | u32::from(on) << bit;
        }
    }

    fn and(mut self, mask: &[u32; 14]) -> Self {
        for (word, mask) in self.0.iter_mut().zip(mask) {
            *word &= mask;
        }
        self
    }

    /// Takes away what depends on something that is not there.
    fn sanitise(mut self) -> Self {
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

/// What CPUID shows to PV guests, and what of the hardware the hypervisor knows by it.
pub struct Policy {
    /// What the hardware has.
    raw: Features,
    /// What of it can be used.
    host: Features,
    /// What a domain sees that nobody configured.
    shown: Features,
    /// What a domain may be configured to see.
    allowed: Features,
    basic: [Leaf; BASIC_LEAVES],
    cache: [Leaf; CACHE_SUBLEAVES],
    features: [Leaf; FEATURE_SUBLEAVES],
    state: Box<[Leaf; STATE_SUBLEAVES]>,
    extended: Box<[Leaf; EXTENDED_LEAVES]>,
    /// Leaf 5 of the hardware, for the control domain.
    monitor: Leaf,
}

impl Policy {
    /// The policy on a machine whose CPUID is `host`.
    pub fn new(host: &dyn Fn(u32, u32) -> Leaf) -> Self {
        let leaf0 = host(0, 0);
        let max_basic = leaf0[0];
        let max_extended = match host(EXTENDED, 0)[0] {
            max @ EXTENDED..=0x8000_ffff => max,
            _ => EXTENDED,
        };
        let max_feature = if max_basic >= 7 { host(7, 0)[0] } else { 0 };
        let raw = |leaf: u32, subleaf: u32| {
            let there = if leaf >= EXTENDED {
                leaf <= max_extended
            } else {
                leaf <= max_basic && (leaf != 7 || subleaf <= max_feature)
            };
            if there { host(leaf, subleaf) } else { [0; 4] }
        };
        let mut words = [0; 14];
        for (word, &(leaf, subleaf, register)) in words.iter_mut().zip(&WORDS) {
            *word = raw(leaf, subleaf).get(register).copied().unwrap_or(0);
        }
        let mut host_features = Features(words).sanitise();
        if Vendor::of(leaf0) == Vendor::Amd {
            // It is there in legacy mode alone.
            host_features.set(SEP, false);
        }
        let shown = pv_features(host_features, &SHOWN);
        let mut most = SHOWN;
        for (word, more) in most.iter_mut().zip(ON_REQUEST) {
            *word |= more;
        }
        let mut allowed = pv_features(host_features, &most);
        for topology in [HTT, X2APIC, CMP_LEGACY] {
            // How leaves about topology are to be read is the toolstack's to say.
            allowed.set(topology, true);
        }
        let mut policy = Self {
            raw: Features(words),
            host: host_features,
            shown,
            allowed,
            basic: core::array::from_fn(|leaf| raw(leaf as u32, 0)),
            cache: core::array::from_fn(|subleaf| raw(4, subleaf as u32)),
            features: core::array::from_fn(|subleaf| raw(7, subleaf as u32)),
            state: Box::new(core::array::from_fn(|subleaf| {
                raw(STATE_LEAF, subleaf as u32)
            })),
            extended: Box::new(core::array::from_fn(|leaf| raw(EXTENDED + leaf as u32, 0))),
            monitor: raw(5, 0),
        };
        policy.limit(Vendor::of(leaf0));
        policy
    }

    /// Takes out of the leaves what is not for guests; [`WORDS`] are filled in when a guest asks.
    fn limit(&mut self, vendor: Vendor) {
        let basic = &mut self.basic;
        basic[0][0] = basic[0][0].min(BASIC_LEAVES as u32 - 1);
        basic[1][2..].fill(0);
        // No processor type, no APIC number.
        basic[1][0] &= 0x0fff_0fff;
        basic[1][1] &= 0x00ff_ffff;
        // Monitoring, power, caches by DCA, performance counters, and what is undefined.
        for leaf in [3, 5, 6, 8, 9, 0xa, 0xb, 0xc] {
            basic[leaf] = [0; 4];
        }
        match vendor {
            Vendor::Intel => basic[2][0] = basic[2][0] & !0xff | 1,
            Vendor::Amd => {
                basic[2] = [0; 4];
                self.cache = [[0; 4]; CACHE_SUBLEAVES];
            }
            Vendor::Other => {}
        }
        let mut end = false;
        for cache in &mut self.cache {
            end |= !(1..=3).contains(&(cache[0] & 0x1f));
            *cache = if end {
                [0; 4]
            } else {
                [cache[0] & 0xffff_c3ff, cache[1], cache[2], cache[3] & 7]
            };
        }
        let max = self.features[0][0].min(FEATURE_SUBLEAVES as u32 - 1);
        self.features[0] = [max, 0, 0, 0];
        for subleaf in &mut self.features[1..] {
            *subleaf = [0; 4];
        }
        self.limit_state();
        self.limit_extended(vendor);
    }

    fn limit_state(&mut self) {
        let mut components = 0_u64;
        if self.shown.has(XSAVE) {
            components = X87 | SSE_STATE;
            for (feature, more) in [(AVX, AVX_STATE), (AVX512F, AVX512_STATE)] {
                if self.shown.has(feature) {
                    components |= more;
                }
            }
        }
        for (component, leaf) in self.state.iter_mut().enumerate().skip(2) {
            *leaf = if components >> component & 1 != 0 {
                // Size, offset, alignment in the compacted format.
                [leaf[0], leaf[1], leaf[2] & 2, 0]
            } else {
                [0; 4]
            };
        }
        let size = if components == 0 {
            0
        } else {
            self.state_size(components)
        };
        self.state[0] = [components as u32, 0, size, (components >> 32) as u32];
        self.state[1] = [0; 4];
    }

    fn limit_extended(&mut self, vendor: Vendor) {
        let last = match vendor {
            Vendor::Amd => EXTENDED_LEAVES as u32 - 1,
            _ => 8,
        };
        let leaf1 = self.basic[1];
        let vendor_registers = self.basic[0];
        let extended = &mut self.extended;
        extended[0][0] = extended[0][0].min(EXTENDED + last);
        extended[1][2..].fill(0);
        extended[7] = [0; 4];
        extended[8][1] = 0;
        extended[8][3] = 0;
        extended[0x21][0] = 0;
        match vendor {
            Vendor::Intel => {
                extended[0] = [extended[0][0], 0, 0, 0];
                extended[1] = [0; 4];
                extended[5] = [0; 4];
                extended[6] = [0, 0, extended[6][2], 0];
                extended[8][2] = 0;
            }
            Vendor::Amd => {
                extended[0] = [
                    extended[0][0],
                    vendor_registers[1],
                    vendor_registers[2],
                    vendor_registers[3],
                ];
                extended[1][0] = leaf1[0];
                extended[1][1] &= 0xff00_ffff;
                extended[8][2] &= 0x0003_f0ff;
                extended[9] = [0; 4];
            }
            Vendor::Other => {}
        }
        // SVM, gaps, large-page TLBs, sampling, profiling, topology, encryption and quality of service.
        for leaf in (0xa..=0x19).chain(0x1b..=0x20) {
            extended[leaf] = [0; 4];
        }
        // 48-bit linear addresses, and at least the physical addresses of PAE.
        let physical = (extended[8][0] & 0xff).max(36);
        extended[8][0] = 48 << 8 | physical;
    }

    /// Bytes of a save area, not compacted, that has these components.
    fn state_size(&self, components: u64) -> u32 {
        let ends = self.state.iter().enumerate().skip(2);
        ends.filter(|(component, _)| components >> component & 1 != 0)
            .map(|(_, leaf)| leaf[0].saturating_add(leaf[1]))
            .fold(LEGACY_SIZE, u32::max)
    }

    /// The same, compacted.
    fn compacted_size(&self, components: u64) -> u32 {
        let mut size = LEGACY_SIZE;
        for (component, leaf) in self.state.iter().enumerate().skip(2) {
            if components >> component & 1 != 0 {
                if leaf[2] & 2 != 0 {
                    size = size.next_multiple_of(64);
                }
                size = size.saturating_add(leaf[0]);
            }
        }
        size
    }

    /// The components that a guest may enable in XCR0.
    fn components(&self) -> u64 {
        u64::from(self.state[0][3]) << 32 | u64::from(self.state[0][0])
    }

    /// The features of a domain.
    fn of(&self, domain: &Domain) -> Features {
        let mut features = self.shown;
        if domain.privileged {
            // It is never moved to another machine.
            for hardware in [ITSC, ARCH_CAPS] {
                features.set(hardware, self.host.has(hardware));
            }
        }
        let configured = domain.cpuid.lock();
        if configured.is_empty() {
            return features;
        }
        for (word, &(leaf, subleaf, register)) in features.0.iter_mut().zip(&WORDS) {
            let found = configured
                .get(&(leaf, subleaf))
                .or_else(|| configured.get(&(leaf, XEN_CPUID_NO_SUBLEAF)));
            if let Some(value) = found.and_then(|leaf| leaf.get(register)) {
                *word = *value;
            }
        }
        let mut features = features.and(&self.allowed.0).sanitise();
        for inherent in [FDP_EXCP_ONLY, NO_FPU_SEL] {
            features.set(inherent, self.host.has(inherent));
        }
        features
    }

    /// A leaf without what depends on the moment.
    fn leaf(&self, features: &Features, leaf: u32, subleaf: u32) -> Leaf {
        let mut found = match leaf {
            4 => self.cache.get(subleaf as usize).copied(),
            7 if subleaf <= self.features[0][0] => self.features.get(subleaf as usize).copied(),
            7 => None,
            STATE_LEAF if !features.has(XSAVE) => None,
            STATE_LEAF => self.state.get(subleaf as usize).copied(),
            0..=0xd if leaf <= self.basic[0][0] => self.basic.get(leaf as usize).copied(),
            EXTENDED..=0x8000_ffff if leaf <= self.extended[0][0] => {
                self.extended.get((leaf - EXTENDED) as usize).copied()
            }
            _ => None,
        }
        .unwrap_or([0; 4]);
        let there = match leaf {
            7 => subleaf <= self.features[0][0] && self.basic[0][0] >= 7,
            STATE_LEAF => features.has(XSAVE),
            EXTENDED.. => leaf <= self.extended[0][0],
            _ => leaf <= self.basic[0][0],
        };
        if !there {
            return [0; 4];
        }
        for (word, &(of, sub, register)) in features.0.iter().zip(&WORDS) {
            let same = of == leaf && (sub == subleaf || !matches!(leaf, 7 | STATE_LEAF));
            if let Some(slot) = found.get_mut(register).filter(|_| same) {
                // Where AMD repeats bits of leaf 1, they are in the leaf already.
                let repeated = if (of, register) == (EXTENDED + 1, 3) {
                    *slot
                } else {
                    0
                };
                *slot = repeated | *word;
            }
        }
        if leaf == EXTENDED + 1 && Vendor::of(self.basic[0]) == Vendor::Amd {
            found[3] |= features.0[0] & COMMON_1D;
        }
        found
    }
}

const X87: u64 = 1;
const SSE_STATE: u64 = 1 << 1;
const AVX_STATE: u64 = 1 << 2;
/// Opmask, upper halves of ZMM0 to 15, ZMM16 to 31.
const AVX512_STATE: u64 = 7 << 5;
/// Bytes of the legacy area and the header.
const LEGACY_SIZE: u32 = 576;

fn pv_features(host: Features, mask: &[u32; 14]) -> Features {
    let mut features = host.and(mask);
    features.set(HYPERVISOR, true);
    // SPEC_CTRL is the hypervisor's own. The barrier by itself costs it nothing to offer.
    features.set(IBRSB, false);
    features.set(IBRS, false);
    features.set(OSXSAVE, false);
    features.set(L1D_FLUSH, false);
    if host.has(IBRSB) {
        features.set(IBPB, true);
    }
    features.sanitise()
}

/// The leaf that the current vCPU asks for.
pub fn for_current(cx: &Current<'_>, leaf: u32, subleaf: u32, asked: Asked) -> Leaf {
    if (XEN_CPUID_FIRST_LEAF..XEN_CPUID_FIRST_LEAF + 0x200).contains(&leaf) {
        return hypervisor_leaf(cx.hv, leaf - XEN_CPUID_FIRST_LEAF, subleaf);
    }
    let policy = &cx.hv.cpuid;
    let features = policy.of(cx.domain);
    let mut found = policy.leaf(&features, leaf, subleaf);
    let configured = cx.domain.cpuid.lock().get(&(leaf, subleaf)).copied();
    if let Some(configured) = configured.filter(|_| !is_feature_leaf(leaf)) {
        found = configured;
    }
    adjust(cx, &features, leaf, subleaf, asked, &mut found);
    found
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
fn hypervisor_leaf(hv: &Hypervisor, index: u32, subleaf: u32) -> Leaf {
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
            [features, 0, machine.tsc_info().khz as u32, 0]
        }
        (3, 1) => {
            let scale = hv.clock.scale();
            [0, 0, scale.mul, i32::from(scale.shift) as u32]
        }
        (3, 2) => [machine.tsc_info().khz as u32, 0, 0, 0],
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
    let features = cx.hv.cpuid.of(cx.domain);
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
mod tests {
    use super::*;

    use std::collections::BTreeMap;

    use hv_machine::MachineRef;
    use hv_machine::sim::Machine;

    use crate::testing::{DOM0, DOMU, Host};

    /// CPUID of a CPU that has everything, made by `vendor`.
    fn everything(vendor: &[u8; 12]) -> BTreeMap<(u32, u32), Leaf> {
        let word = |at: usize| {
            let bytes = vendor[at..at + 4].try_into().expect("4 bytes");
            u32::from_le_bytes(bytes)
        };
        let mut leaves = BTreeMap::new();
        leaves.insert((0, 0), [0x20, word(0), word(8), word(4)]);
        for leaf in 2..0x20 {
            leaves.insert((leaf, 0), [u32::MAX; 4]);
        }
        leaves.insert((1, 0), [0xffff_ffff, 0x0a10_0800, u32::MAX, u32::MAX]);
        leaves.insert((4, 0), [0xfc00_4121, 1, 2, 0xff]);
        leaves.insert((4, 1), [0xfc00_4122, 1, 2, 0xff]);
        leaves.insert((4, 2), [0, 1, 2, 3]);
        leaves.insert((7, 0), [2, u32::MAX, u32::MAX, u32::MAX]);
        leaves.insert((7, 1), [u32::MAX; 4]);
        leaves.insert((7, 2), [u32::MAX; 4]);
        leaves.insert((0xd, 0), [0x2ff, 2696, 2696, 0]);
        leaves.insert((0xd, 1), [0xf, 2696, 0, 0]);
        leaves.insert((0xd, 2), [256, 576, 0, 0]);
        leaves.insert((0xd, 5), [64, 1088, 0, 0]);
        leaves.insert((0xd, 6), [512, 1152, 0, 0]);
        leaves.insert((0xd, 7), [1024, 1664, 2, 0]);
        leaves.insert((0xd, 9), [8, 2688, 0, 0]);
        leaves.insert((EXTENDED, 0), [EXTENDED + 0x21, 1, 2, 3]);
        for leaf in 1..=0x21 {
            leaves.insert((EXTENDED + leaf, 0), [u32::MAX; 4]);
        }
        leaves.insert((EXTENDED + 8, 0), [0x0034_3930, u32::MAX, u32::MAX, 7]);
        leaves
    }

    fn host_with(leaves: &BTreeMap<(u32, u32), Leaf>) -> Host {
        let machine = Machine::new(1024);
        for (&(leaf, subleaf), &value) in leaves {
            machine.set_cpuid(leaf, subleaf, value);
        }
        Host::with_machine(MachineRef::new(machine))
    }

    fn intel() -> Host {
        host_with(&everything(b"GenuineIntel"))
    }

    fn ask(host: &Host, id: hypercall_abi::types::Domid, leaf: u32, subleaf: u32) -> Leaf {
        host.as_guest(id, |cx| for_current(cx, leaf, subleaf, Asked::Explicitly))
    }

    #[test]
    fn guests_see_what_they_can_use() {
        let host = intel();
        let [eax, ebx, ecx, edx] = ask(&host, DOMU, 1, 0);
        assert_eq!(eax, 0x0fff_0fff);
        assert_eq!(ebx, 0x0010_0800, "no APIC number");
        for hidden in [5, 3, 17, 24, 6, 14] {
            assert_eq!(ecx >> hidden & 1, 0, "leaf 1 ECX bit {hidden}");
        }
        for shown in [0, 9, 19, 20, 23, 25, 26, 27, 28, 30, 31] {
            assert_eq!(ecx >> shown & 1, 1, "leaf 1 ECX bit {shown}");
        }
        for hidden in [1, 3, 12, 13, 17, 21] {
            assert_eq!(edx >> hidden & 1, 0, "leaf 1 EDX bit {hidden}");
        }
        for shown in [0, 2, 4, 5, 6, 7, 8, 9, 14, 15, 16, 19, 24, 25, 26] {
            assert_eq!(edx >> shown & 1, 1, "leaf 1 EDX bit {shown}");
        }
        let [max, ebx, ecx, edx] = ask(&host, DOMU, 7, 0);
        assert_eq!(max, 2);
        for hidden in [7, 10, 14, 20] {
            assert_eq!(ebx >> hidden & 1, 0, "leaf 7 EBX bit {hidden}");
        }
        assert_eq!(ecx & (1 << 2 | 1 << 3 | 1 << 4), 0, "UMIP and keys");
        assert_eq!(edx & (1 << 26 | 1 << 27 | 1 << 29 | 1 << 31), 0);
        let [_, ebx, _, _] = ask(&host, DOMU, EXTENDED + 8, 0);
        assert_eq!(ebx & 1 << 12, 1 << 12, "the barrier without SPEC_CTRL");
        assert_eq!(ebx & 1 << 14, 0);
    }

    #[test]
    fn leaves_that_are_not_for_guests_are_empty() {
        let host = intel();
        for leaf in [3, 5, 6, 8, 9, 0xa, 0xc, 0xe, 0x14, 0x20, 0x4000_0200] {
            assert_eq!(ask(&host, DOMU, leaf, 0), [0; 4], "{leaf:#x}");
        }
        assert_eq!(ask(&host, DOMU, 0, 0)[0], 0xd);
        assert_eq!(ask(&host, DOMU, EXTENDED, 0), [EXTENDED + 8, 0, 0, 0]);
        assert_eq!(ask(&host, DOMU, EXTENDED + 9, 0), [0; 4]);
        assert_eq!(ask(&host, DOMU, EXTENDED + 0xa, 0), [0; 4]);
        assert_eq!(ask(&host, DOMU, u32::MAX, u32::MAX), [0; 4]);
        assert_eq!(ask(&host, DOMU, 7, 3), [0; 4]);
        assert_eq!(ask(&host, DOMU, 7, u32::MAX), [0; 4]);
        assert_eq!(ask(&host, DOMU, 4, 1)[0], 0xfc00_4122 & 0xffff_c3ff);
        assert_eq!(ask(&host, DOMU, 4, 2), [0; 4]);
    }

    #[test]
    fn amd_repeats_leaf_1_and_has_no_cache_leaf() {
        let host = host_with(&everything(b"AuthenticAMD"));
        let common = ask(&host, DOMU, 1, 0)[3] & COMMON_1D;
        assert_eq!(ask(&host, DOMU, EXTENDED + 1, 0)[3] & COMMON_1D, common);
        assert_eq!(ask(&host, DOMU, 1, 0)[3] & 1 << 11, 0, "no sysenter");
        assert_eq!(ask(&host, DOMU, 4, 0), [0; 4]);
        let first = ask(&host, DOMU, EXTENDED, 0);
        assert_eq!(first[0], EXTENDED + 0x21);
        assert_eq!(first[1..], ask(&host, DOMU, 0, 0)[1..]);
        assert_eq!(ask(&host, DOMU, EXTENDED + 0xa, 0), [0; 4], "no SVM");
        assert_eq!(ask(&host, DOMU, EXTENDED + 1, 0)[2] & 1 << 2, 0);
    }

    #[test]
    fn a_feature_goes_with_what_it_needs() {
        let mut leaves = everything(b"GenuineIntel");
        leaves.insert((1, 0), [0, 0, !(1 << 26), u32::MAX]);
        let host = host_with(&leaves);
        let [_, _, ecx, _] = ask(&host, DOMU, 1, 0);
        assert_eq!(ecx & (1 << 26 | 1 << 27 | 1 << 28 | 1 << 12), 0, "AVX, FMA");
        let [_, ebx, _, _] = ask(&host, DOMU, 7, 0);
        assert_eq!(ebx & (1 << 5 | 1 << 16 | 1 << 30), 0, "AVX2, AVX-512");
        assert_eq!(ask(&host, DOMU, 0xd, 0), [0; 4]);
        assert_eq!(ask(&host, DOMU, 0xd, 2), [0; 4]);
    }

    #[test]
    fn extended_state_is_as_large_as_what_is_enabled() {
        let host = intel();
        assert_eq!(ask(&host, DOMU, 0xd, 0), [0xe7, 576, 2688, 0]);
        assert_eq!(ask(&host, DOMU, 0xd, 2), [256, 576, 0, 0]);
        assert_eq!(ask(&host, DOMU, 0xd, 9), [0; 4], "no protection keys");
        assert_eq!(ask(&host, DOMU, 0xd, 63), [0; 4]);
        host.as_guest(DOMU, |cx| cx.state.fpu.enable(7));
        assert_eq!(ask(&host, DOMU, 0xd, 0)[1], 832);
        assert_eq!(ask(&host, DOMU, 0xd, 1)[..2], [7, 832]);
        host.as_guest(DOMU, |cx| cx.state.fpu.enable(0xe7));
        assert_eq!(ask(&host, DOMU, 0xd, 0)[1], 2688);
        // 576 + 256 + 64 + 512, aligned to 64, + 1024.
        assert_eq!(ask(&host, DOMU, 0xd, 1)[1], 2432);
    }

    #[test]
    fn osxsave_follows_cr4_but_for_a_kernel_that_asks_explicitly() {
        let host = intel();
        let by_instruction =
            |cx: &mut Current<'_>| for_current(cx, 1, 0, Asked::ByInstruction)[2] >> 27 & 1;
        assert_eq!(ask(&host, DOMU, 1, 0)[2] >> 27 & 1, 1);
        assert_eq!(host.as_guest(DOMU, by_instruction), 0);
        host.as_guest(DOMU, |cx| cx.state.kernel_mode = false);
        host.as_guest(DOMU, |cx| cx.state.user_root = cx.state.kernel_root);
        assert_eq!(ask(&host, DOMU, 1, 0)[2] >> 27 & 1, 0);
        host.as_guest(DOMU, |cx| cx.state.cr4 |= CR4_OSXSAVE);
        assert_eq!(host.as_guest(DOMU, by_instruction), 1);
        host.as_guest(DOMU, |cx| {
            cx.state.user_root = None;
            cx.state.kernel_mode = true;
        });
    }

    #[test]
    fn the_control_domains_kernel_sees_the_hardware_that_it_drives() {
        let host = intel();
        let [_, _, ecx, edx] = ask(&host, DOM0, 1, 0);
        assert_eq!((ecx >> 7 & 1, edx >> 12 & 1), (1, 1), "EIST, MTRR");
        let [_, _, ecx, edx] = ask(&host, DOMU, 1, 0);
        assert_eq!((ecx >> 7 & 1, edx >> 12 & 1), (0, 0));
        let itsc = |id| ask(&host, id, EXTENDED + 7, 0)[3] >> 8 & 1;
        assert_eq!((itsc(DOM0), itsc(DOMU)), (1, 0));
        let monitor = host.as_guest(DOM0, |cx| {
            for_current(cx, 1, 0, Asked::ByInstruction)[2] >> 3 & 1
        });
        assert_eq!(monitor, 1);
    }

    #[test]
    fn a_domain_can_be_shown_less_and_never_more() {
        let host = intel();
        let domain = host.domain(DOMU);
        let full = ask(&host, DOMU, 7, 0);
        domain
            .cpuid
            .lock()
            .insert((7, 0), [2, full[1] & !(1 << 5) | 1 << 7, 0, 0]);
        let [_, ebx, _, _] = ask(&host, DOMU, 7, 0);
        assert_eq!(ebx & (1 << 5 | 1 << 16), 0, "no AVX2, and no AVX-512");
        assert_eq!(ebx & 1 << 7, 0, "SMEP is for no PV guest");
        assert_eq!(ask(&host, DOM0, 7, 0)[1] & 1 << 5, 1 << 5);
        domain.cpuid.lock().insert((EXTENDED + 2, 0), [1, 2, 3, 4]);
        assert_eq!(ask(&host, DOMU, EXTENDED + 2, 0), [1, 2, 3, 4]);
    }

    #[test]
    fn the_hypervisors_leaves_name_it_and_its_time() {
        let host = intel();
        let at = |index, subleaf| ask(&host, DOMU, XEN_CPUID_FIRST_LEAF + index, subleaf);
        assert_eq!(at(1, 0), [4 << 16 | 17, 0, 0, 0]);
        assert_eq!(at(2, 0), [1, 0x4000_0000, 1, 0]);
        assert_eq!(at(3, 0), [1 << 1 | 1 << 2, 0, 1_000_000, 0]);
        assert_eq!(at(3, 1), [0, 0, 1 << 31, 1]);
        assert_eq!(at(3, 2), [1_000_000, 0, 0, 0]);
        assert_eq!(at(3, 3), [0; 4]);
        assert_eq!(at(4, 0), [0; 4]);
        assert_eq!(at(5, 0), [0, 22, 0, 0], "4 MiB");
        assert_eq!(at(5, 1), [0; 4]);
        assert_eq!(at(6, 0), [0; 4]);
    }

    #[test]
    fn a_machine_without_cpuid_leaves_is_no_reason_to_panic() {
        let host = host_with(&BTreeMap::new());
        for leaf in (0..0x20).chain(EXTENDED..EXTENDED + 0x40) {
            ask(&host, DOMU, leaf, 0);
        }
        assert_eq!(ask(&host, DOMU, 7, 0), [0; 4]);
    }

    #[test]
    fn a_guest_chooses_the_bits_of_cr4_that_its_policy_has() {
        let host = intel();
        let domain = host.domain(DOMU);
        let all = guest_cr4(&host.hv, &domain, u64::MAX);
        let chosen = CR4_TSD | CR4_DE | CR4_FSGSBASE | CR4_OSXSAVE;
        assert_eq!(all & !CR4_VISIBLE, chosen);
        assert_eq!(guest_cr4(&host.hv, &domain, 0) & !CR4_VISIBLE, 0);
        domain.cpuid.lock().insert((7, 0), [0; 4]);
        assert_eq!(guest_cr4(&host.hv, &domain, u64::MAX) & CR4_FSGSBASE, 0);
    }
}
