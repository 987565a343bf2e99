//! CPUID as lists of leaves and words of features, in which toolstack and hypervisor tell each other of it.

use alloc::vec::Vec;

use hv_machine::Platform;
use hypercall_abi::arch_x86::{CpuidLeaf, XEN_CPUID_FIRST_LEAF, XEN_CPUID_NO_SUBLEAF};
use hypercall_abi::errno::Errno;

use super::feature::WORDS;
use super::policy::{
    BASIC_LEAVES, CACHE_SUBLEAVES, EXTENDED, EXTENDED_LEAVES, FEATURE_SUBLEAVES, STATE_LEAF,
    STATE_SUBLEAVES,
};
use super::{Features, Leaf, Policy, is_feature_leaf};
use crate::Domain;

/// Words of a feature set.
pub const WORD_COUNT: usize = WORDS.len();
/// Subleaves of leaf 0xb.
const TOPOLOGY_SUBLEAVES: usize = 2;
/// The leaf of the extended topology.
const TOPOLOGY_LEAF: u32 = 0xb;
/// Where hypervisors' leaves begin; a second hypervisor's interface begins 0x100 behind.
const HYPERVISOR_LEAVES: [u32; 2] = [XEN_CPUID_FIRST_LEAF, XEN_CPUID_FIRST_LEAF + 0x100];
/// Most leaves in a list: those that have subleaves count by them.
pub const MAX_LEAVES: u32 = (BASIC_LEAVES
    + (FEATURE_SUBLEAVES - 1)
    + (CACHE_SUBLEAVES - 1)
    + (TOPOLOGY_SUBLEAVES - 1)
    + (STATE_SUBLEAVES - 1)
    + EXTENDED_LEAVES
    + HYPERVISOR_LEAVES.len()) as u32;

/// Whose CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The hardware's.
    Raw,
    /// The hardware's, without features that lack what they depend on.
    Host,
    /// A PV domain's that nobody configured.
    Default,
    /// A PV domain's that was configured to see all it can.
    Most,
}

impl Policy {
    /// The words of a feature set.
    pub fn words(&self, view: View) -> [u32; WORD_COUNT] {
        self.view(view).0
    }

    /// The words that `xl info` shows (`SysctlPhysinfo::hw_cap`).
    pub fn hardware_features(&self) -> [u32; 8] {
        let mut words = [0; 8];
        for (slot, word) in words.iter_mut().zip(self.words(View::Host)) {
            *slot = word;
        }
        words
    }

    fn view(&self, view: View) -> Features {
        match view {
            View::Raw => self.raw,
            View::Host => self.host,
            View::Default => self.shown,
            View::Most => self.allowed,
        }
    }

    /// The leaves of a view, in ascending order.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn leaves(&self, machine: &impl Platform, view: View) -> Result<Vec<CpuidLeaf>, Errno> {
        let features = self.view(view);
        match view {
            View::Raw => list(&|leaf, subleaf| machine.cpuid(leaf, subleaf)),
            View::Host => list(&|leaf, subleaf| {
                let mut found = machine.cpuid(leaf, subleaf);
                for (word, &(of, sub, register)) in features.0.iter().zip(&WORDS) {
                    if (of, sub) == (leaf, subleaf)
                        && let Some(slot) = found.get_mut(register)
                    {
                        *slot = *word;
                    }
                }
                found
            }),
            View::Default | View::Most => {
                list(&|leaf, subleaf| self.leaf(&features, leaf, subleaf))
            }
        }
    }

    /// The leaves of a domain, in ascending order.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn leaves_of(&self, domain: &Domain) -> Result<Vec<CpuidLeaf>, Errno> {
        let features = self.of(domain);
        let configured = domain.cpuid.lock();
        list(&|leaf, subleaf| {
            let other = configured.get(&(leaf, subleaf)).copied();
            other
                .filter(|_| !is_feature_leaf(leaf))
                .unwrap_or_else(|| self.leaf(&features, leaf, subleaf))
        })
    }

    /// Whether a domain could have these as its highest basic and extended leaf.
    pub fn has_leaves(&self, basic: u32, extended: u32) -> bool {
        basic <= self.basic[0][0] && extended <= self.extended[0][0]
    }
}

/// Whether a list may have this leaf.
pub fn is_listed(leaf: &CpuidLeaf) -> bool {
    let subleaves = match leaf.leaf {
        4 => CACHE_SUBLEAVES,
        7 => FEATURE_SUBLEAVES,
        TOPOLOGY_LEAF => TOPOLOGY_SUBLEAVES,
        STATE_LEAF => STATE_SUBLEAVES,
        number => {
            let there = (number as usize) < BASIC_LEAVES
                || HYPERVISOR_LEAVES.contains(&number)
                || number
                    .checked_sub(EXTENDED)
                    .is_some_and(|number| (number as usize) < EXTENDED_LEAVES);
            return there && leaf.subleaf == XEN_CPUID_NO_SUBLEAF;
        }
    };
    (leaf.subleaf as usize) < subleaves
}

fn list(get: &dyn Fn(u32, u32) -> Leaf) -> Result<Vec<CpuidLeaf>, Errno> {
    let mut leaves = Vec::new();
    leaves
        .try_reserve_exact(MAX_LEAVES as usize)
        .map_err(|_| Errno::ENOMEM)?;
    let mut push = |leaf, subleaf, [a, b, c, d]: Leaf| {
        leaves.push(CpuidLeaf {
            leaf,
            subleaf,
            a,
            b,
            c,
            d,
        });
    };
    let last_basic = get(0, 0)[0].min(BASIC_LEAVES as u32 - 1);
    for leaf in 0..=last_basic {
        let subleaves = match leaf {
            4 => CACHE_SUBLEAVES as u32,
            7 => get(7, 0)[0].min(FEATURE_SUBLEAVES as u32 - 1) + 1,
            TOPOLOGY_LEAF => TOPOLOGY_SUBLEAVES as u32,
            STATE_LEAF => state_subleaves(get(STATE_LEAF, 0), get(STATE_LEAF, 1)),
            _ => {
                push(leaf, XEN_CPUID_NO_SUBLEAF, get(leaf, 0));
                continue;
            }
        };
        for subleaf in 0..subleaves {
            let found = get(leaf, subleaf);
            push(leaf, subleaf, found);
            let last = match leaf {
                4 => found[0] & 0x1f == 0,
                TOPOLOGY_LEAF => found[2] & 0xff00 == 0,
                _ => false,
            };
            if last {
                break;
            }
        }
    }
    for leaf in HYPERVISOR_LEAVES {
        push(leaf, XEN_CPUID_NO_SUBLEAF, [0; 4]);
    }
    let last_extended = get(EXTENDED, 0)[0] & 0xffff;
    for leaf in 0..=last_extended.min(EXTENDED_LEAVES as u32 - 1) {
        push(
            EXTENDED + leaf,
            XEN_CPUID_NO_SUBLEAF,
            get(EXTENDED + leaf, 0),
        );
    }
    Ok(leaves)
}

/// Subleaves of the leaf of extended state: up to the highest component.
fn state_subleaves(user: Leaf, supervisor: Leaf) -> u32 {
    let components = u64::from(user[3] | supervisor[3]) << 32 | u64::from(user[0] | supervisor[2]);
    (u64::BITS - components.leading_zeros()).clamp(2, STATE_SUBLEAVES as u32)
}
