//! [`Policy`]: the leaves that PV guests may see, made once of what the hardware says.

use alloc::boxed::Box;

use hypercall_abi::arch_x86::XEN_CPUID_NO_SUBLEAF;

use super::Leaf;
use super::feature::*;
use crate::Domain;

/// Basic leaves, 0 to 0xd.
pub(super) const BASIC_LEAVES: usize = 0xe;
/// Subleaves of leaf 4.
pub(super) const CACHE_SUBLEAVES: usize = 6;
/// Subleaves of leaf 7.
pub(super) const FEATURE_SUBLEAVES: usize = 3;
/// Subleaves of leaf 0xd.
pub(super) const STATE_SUBLEAVES: usize = 63;
/// Extended leaves, 0x80000000 to 0x80000021.
pub(super) const EXTENDED_LEAVES: usize = 0x22;
/// The leaf of extended state.
pub(super) const STATE_LEAF: u32 = 0xd;
/// First extended leaf.
pub(super) const EXTENDED: u32 = 0x8000_0000;

pub(super) const X87: u64 = 1;
pub(super) const SSE_STATE: u64 = 1 << 1;
pub(super) const AVX_STATE: u64 = 1 << 2;
/// Opmask, upper halves of ZMM0 to 15, ZMM16 to 31.
pub(super) const AVX512_STATE: u64 = 7 << 5;
/// Bytes of the legacy area and the header.
pub(super) const LEGACY_SIZE: u32 = 576;

/// The maker of a CPU, as far as leaves differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vendor {
    Intel,
    Amd,
    Other,
}

impl Vendor {
    pub(super) fn of(leaf0: Leaf) -> Self {
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

/// What CPUID shows to PV guests, and what of the hardware the hypervisor knows by it.
pub struct Policy {
    /// What the hardware has.
    pub(super) raw: Features,
    /// What of it can be used.
    pub(super) host: Features,
    /// What a domain sees that nobody configured.
    pub(super) shown: Features,
    /// What a domain may be configured to see.
    pub(super) allowed: Features,
    pub(super) basic: [Leaf; BASIC_LEAVES],
    pub(super) cache: [Leaf; CACHE_SUBLEAVES],
    pub(super) features: [Leaf; FEATURE_SUBLEAVES],
    pub(super) state: Box<[Leaf; STATE_SUBLEAVES]>,
    pub(super) extended: Box<[Leaf; EXTENDED_LEAVES]>,
    /// Leaf 5 of the hardware, for the control domain.
    pub(super) monitor: Leaf,
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
    pub fn state_size(&self, components: u64) -> u32 {
        let ends = self.state.iter().enumerate().skip(2);
        ends.filter(|(component, _)| components >> component & 1 != 0)
            .map(|(_, leaf)| leaf[0].saturating_add(leaf[1]))
            .fold(LEGACY_SIZE, u32::max)
    }

    /// The same, compacted.
    pub(super) fn compacted_size(&self, components: u64) -> u32 {
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
    pub fn components(&self) -> u64 {
        u64::from(self.state[0][3]) << 32 | u64::from(self.state[0][0])
    }

    /// The features of a domain.
    pub(super) fn of(&self, domain: &Domain) -> Features {
        let mut features = self.shown;
        for inherent in [FDP_EXCP_ONLY, NO_FPU_SEL] {
            features.set(inherent, self.host.has(inherent));
        }
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
    pub(super) fn leaf(&self, features: &Features, leaf: u32, subleaf: u32) -> Leaf {
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
