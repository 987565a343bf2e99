//! Nonsense from the control domain, which must neither stop the hypervisor nor cost it memory.

use super::*;

use hypercall_abi::platform::PlatformOp;
use hypercall_abi::sysctl::Sysctl;
use hypercall_abi::xen::{HYPERVISOR_PLATFORM_OP, HYPERVISOR_SYSCTL};
use proptest::prelude::*;

use crate::testing::SCRATCH;

/// Words that are likely to mean something: small numbers, addresses, limits, two halves in one.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..4,
        0_u64..300,
        (0_u64..64).prop_map(|page| SCRATCH + page * 4096),
        Just(UNMAPPED),
        Just(SCRATCH + 64 * 4096 - 4),
        (0_u64..64).prop_map(|bit| 1 << bit),
        (0_u64..64).prop_map(|bit| u64::MAX >> bit),
        (0_u64..8, 0_u64..8).prop_map(|(low, high)| high << 32 | low),
        Just(1 << 47),
        any::<u64>(),
    ]
}

fn domain() -> impl Strategy<Value = Domid> {
    prop_oneof![
        Just(DOM0),
        Just(DOMU),
        (2_u16..5).prop_map(Domid),
        any::<u16>().prop_map(Domid)
    ]
}

fn arm() -> impl Strategy<Value = [u64; 16]> {
    prop::collection::vec(word(), 16).prop_map(|words| {
        let mut arm = [0; 16];
        arm.copy_from_slice(&words);
        arm
    })
}

#[derive(Clone, Debug)]
enum Call {
    Domctl(Domctl),
    Sysctl(Sysctl),
    Platform(PlatformOp),
}

fn calls() -> impl Strategy<Value = Call> {
    prop_oneof![
        (0_u32..90, domain(), arm())
            .prop_map(|(cmd, domain, arm)| Call::Domctl(Domctl::with(cmd, domain, &arm))),
        // A wish for a domain that is not nonsense throughout.
        (domain(), 0_u32..4).prop_map(|(domain, max_vcpus)| {
            let arm = DomctlCreatedomain {
                max_vcpus,
                max_grant_frames: -1,
                max_maptrack_frames: -1,
                grant_opts: 1,
                ..Default::default()
            };
            Call::Domctl(Domctl::with(XEN_DOMCTL_CREATEDOMAIN, domain, &arm))
        }),
        (0_u32..40, arm()).prop_map(|(cmd, arm)| Call::Sysctl(Sysctl::with(cmd, &arm))),
        (0_u32..70, arm()).prop_map(|(cmd, arm)| Call::Platform(PlatformOp::with(cmd, &arm))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn nonsense_is_survived_and_costs_no_memory(
        calls in prop::collection::vec(calls(), 1..80)
    ) {
        let host = Host::new();
        let before = host.hv.memory.free_frames() + host.domain(DOMU).owner.frames() + 2;
        let at = host.room(DOM0, 136);
        for call in &calls {
            let number = match call {
                Call::Domctl(op) => {
                    host.put_at(DOM0, at, op);
                    HYPERVISOR_DOMCTL
                }
                Call::Sysctl(op) => {
                    host.put_at(DOM0, at, op);
                    HYPERVISOR_SYSCTL
                }
                Call::Platform(op) => {
                    host.put_at(DOM0, at, op);
                    HYPERVISOR_PLATFORM_OP
                }
            };
            let result = host.hypercall(DOM0, number, &[at]);
            prop_assert!((-200..=0).contains(&result), "{result}");
        }
        let others: Vec<Domid> = host.hv.domains.read().keys().copied().collect();
        for id in others.into_iter().filter(|&id| id != DOM0) {
            act(&host, XEN_DOMCTL_DESTROYDOMAIN, id);
        }
        prop_assert_eq!(host.hv.domains.read().len(), 1);
        // What was set up to be traced to stays, as on Xen.
        let traced = crate::trace::frames(&host.hv).len() as u64;
        prop_assert_eq!(host.hv.memory.free_frames() + traced, before);
    }
}
