//! Tests of what guests of some processors see.

use super::policy::EXTENDED;
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
    assert_eq!(at(3, 0), [1 << 1 | 1 << 2, 0, 1_000_000, 1]);
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
