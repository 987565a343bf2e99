//! Model-specific registers of PV guests: which they may read and write, and what they find.
//!
//! A register that is not listed raises #GP. A kernel that has no handler for it yet reads 0 instead, where the
//! hardware has the register.

use hv_machine::{Platform, SegmentBase};
use hypercall_abi::types::Mfn;

use crate::cpuid::{self, HYPERCALL_PAGE_MSR};
use crate::memory::FrameType;
use crate::traps::{hypercall_page, is_canonical, vector};
use crate::{Current, Hypervisor};

const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const PRED_CMD: u32 = 0x49;
const MICROCODE_REVISION: u32 = 0x8b;
/// `MSR_PLATFORM_INFO`.
pub const PLATFORM_INFO: u32 = 0xce;
const MPERF: u32 = 0xe7;
const APERF: u32 = 0xe8;
/// `MSR_ARCH_CAPABILITIES`.
pub const ARCH_CAPABILITIES: u32 = 0x10a;
/// `MSR_INTEL_MISC_FEATURES_ENABLES`.
pub const MISC_FEATURES_ENABLES: u32 = 0x140;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
const PERF_STATUS: u32 = 0x198;
const PERF_CTL: u32 = 0x199;
const THERM_CONTROL: u32 = 0x19a;
const THERM_STATUS: u32 = 0x19c;
const MISC_ENABLE: u32 = 0x1a0;
const ENERGY_PERF_BIAS: u32 = 0x1b0;
const PAT: u32 = 0x277;
const MC_BANKS: core::ops::RangeInclusive<u32> = 0x400..=0x47f;
const MC_CTL2: core::ops::RangeInclusive<u32> = 0x280..=0x29f;
const PERF_CAPABILITIES: u32 = 0x345;
const EFER: u32 = 0xc000_0080;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const SHADOW_GS_BASE: u32 = 0xc000_0102;
/// `MSR_TSC_AUX`.
pub const TSC_AUX: u32 = 0xc000_0103;
const AMD_HWCR: u32 = 0xc001_0015;
const AMD_NB_CFG: u32 = 0xc001_001f;
const AMD_MMIO_CONF_BASE: u32 = 0xc001_0058;
const AMD_PSTATES: core::ops::RangeInclusive<u32> = 0xc001_0061..=0xc001_006b;
const AMD_FID_VID: core::ops::RangeInclusive<u32> = 0xc001_0041..=0xc001_0042;
const AMD_DE_CFG: u32 = 0xc001_1029;

/// Enabled, at the usual address; of the boot CPU.
const APIC_BASE_VALUE: u64 = 0xfee0_0800;
const APIC_BASE_BOOT_CPU: u64 = 1 << 8;
/// What `PAT` holds under every Xen: WB, WT, UC-, UC, WC, WP, UC, UC.
const PAT_VALUE: u64 = 0x0000_0501_0007_0406;
/// SCE, LME, LMA, NXE, FFXSR: what guests see of EFER.
const EFER_VISIBLE: u64 = 1 | 1 << 8 | 1 << 10 | 1 << 11 | 1 << 14;
/// Performance monitoring and MONITOR, which are not there.
const MISC_ENABLE_HIDDEN: u64 = 1 << 7 | 1 << 18;
/// No branch trace store, no event sampling, no task priority messages.
const MISC_ENABLE_SET: u64 = 1 << 11 | 1 << 12 | 1 << 23;
/// Locked, with nothing enabled.
const FEATURE_CONTROL_LOCKED: u64 = 1;
/// Branch-predictor barrier.
const PRED_CMD_BARRIER: u64 = 1;
/// What ARCH_CAPABILITIES tells of the CPU's weaknesses, as opposed to controls: RDCL_NO, IBRS_ALL, RSBA, SSB_NO,
/// MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, FB_CLEAR, RRSBA, BHI_NO, PBRSB_NO.
const ARCH_CAPABILITIES_VISIBLE: u64 = 1
    | 1 << 1
    | 1 << 2
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 17
    | 1 << 19
    | 1 << 20
    | 1 << 24;
/// The rate of the TSC is that of the highest P-state.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
/// LFENCE serializes.
const DE_CFG_LFENCE: u64 = 1 << 1;
/// Two banks, on Intel with recovery by software.
const MCG_CAP_INTEL: u64 = 2 | 1 << 11 | 1 << 24;
const MCG_CAP_OTHER: u64 = 2;
/// Banks of [`MCG_CAP`].
const BANKS: u32 = 2;

/// What a guest finds in `MCG_CAP`.
pub fn machine_check_capabilities(hv: &Hypervisor) -> u64 {
    if cpuid::is_intel(hv) {
        MCG_CAP_INTEL
    } else {
        MCG_CAP_OTHER
    }
}

/// What the current guest's kernel reads; `None` for #GP.
pub fn read(cx: &mut Current<'_>, msr: u32) -> Option<u64> {
    let found = read_known(cx, msr);
    let has_handler = cx
        .state
        .traps
        .get(usize::from(vector::GENERAL_PROTECTION))
        .is_some_and(|info| info.address != 0);
    if found.is_none() && !has_handler && msr >> 16 != 0x4000 {
        return cx.machine().rdmsr(msr).ok().map(|_| 0);
    }
    found
}

fn read_known(cx: &Current<'_>, msr: u32) -> Option<u64> {
    let machine = cx.machine();
    let (intel, amd) = (cpuid::is_intel(cx.hv), cpuid::is_amd(cx.hv));
    let control = cx.domain.privileged;
    match msr {
        APIC_BASE if cx.vcpu.id == 0 => Some(APIC_BASE_VALUE | APIC_BASE_BOOT_CPU),
        APIC_BASE => Some(APIC_BASE_VALUE),
        TSC => Some(machine.tsc()),
        FS_BASE => Some(machine.store_segments().fs_base),
        GS_BASE => Some(machine.store_segments().gs_base),
        SHADOW_GS_BASE => Some(machine.store_segments().gs_base_shadow),
        EFER => machine.rdmsr(EFER).ok().map(|value| value & EFER_VISIBLE),
        PAT => Some(PAT_VALUE),
        TSC_AUX if cpuid::has_tsc_aux(cx) => Some(cx.state.tsc_aux.into()),
        HYPERCALL_PAGE_MSR => Some(0),
        MICROCODE_REVISION if intel || amd => machine.rdmsr(msr).ok(),
        PLATFORM_ID if intel => machine.rdmsr(msr).ok(),
        FEATURE_CONTROL if intel => Some(FEATURE_CONTROL_LOCKED),
        PLATFORM_INFO | MISC_FEATURES_ENABLES => Some(0),
        ARCH_CAPABILITIES if cpuid::has_arch_capabilities(cx) && control => {
            let value = machine.rdmsr(msr).ok()?;
            Some(value & ARCH_CAPABILITIES_VISIBLE)
        }
        ARCH_CAPABILITIES if cpuid::has_arch_capabilities(cx) => Some(0),
        MISC_ENABLE => machine.rdmsr(msr).ok().map(guest_misc_enable),
        PERF_STATUS | PERF_CTL | THERM_STATUS if intel => Some(0),
        PERF_CAPABILITIES => Some(0),
        MCG_CAP => Some(machine_check_capabilities(cx.hv)),
        MCG_STATUS | MCG_CTL => Some(0),
        _ if MC_BANKS.contains(&msr) && msr - MC_BANKS.start() < 4 * BANKS => {
            // The control register of a bank has all its errors enabled; nothing is ever logged.
            Some(if msr & 3 == 0 { u64::MAX } else { 0 })
        }
        _ if MC_CTL2.contains(&msr) && msr - MC_CTL2.start() < BANKS && intel => Some(0),
        AMD_HWCR if amd => Some(HWCR_TSC_FREQ_SEL),
        AMD_DE_CFG if amd => Some(DE_CFG_LFENCE),
        AMD_NB_CFG => Some(0),
        AMD_MMIO_CONF_BASE if amd => Some(0),
        _ if amd && (AMD_PSTATES.contains(&msr) || AMD_FID_VID.contains(&msr)) => Some(0),
        _ => None,
    }
}

/// Carries out what the current guest's kernel writes; `false` for #GP.
#[must_use]
pub fn write(cx: &mut Current<'_>, msr: u32, value: u64) -> bool {
    let (intel, amd) = (cpuid::is_intel(cx.hv), cpuid::is_amd(cx.hv));
    match msr {
        FS_BASE => set_base(cx, SegmentBase::Fs, value),
        GS_BASE => set_base(cx, SegmentBase::Gs, value),
        SHADOW_GS_BASE => set_base(cx, SegmentBase::GsShadow, value),
        // Kernels write back what they have read.
        EFER => read_known(cx, EFER) == Some(value),
        TSC_AUX => {
            let Ok(aux) = u32::try_from(value) else {
                return false;
            };
            if !cpuid::has_tsc_aux(cx) {
                return false;
            }
            cx.state.tsc_aux = aux;
            load(cx);
            true
        }
        HYPERCALL_PAGE_MSR => write_hypercall_page(cx, value),
        // The way to ask for the revision.
        MICROCODE_REVISION => intel && value == 0,
        PRED_CMD => {
            let valid = cpuid::has_prediction_barrier(cx) && value & !PRED_CMD_BARRIER == 0;
            valid && cx.machine().wrmsr(PRED_CMD, value).is_ok()
        }
        MISC_FEATURES_ENABLES => value == 0,
        // What nobody may change is left as it is, without a word: kernels write it as they start.
        MISC_ENABLE => cx.machine().rdmsr(msr).is_ok(),
        PERF_CTL | THERM_CONTROL | ENERGY_PERF_BIAS => intel,
        MPERF | APERF => intel || amd,
        MCG_CTL | MCG_STATUS | MCG_CAP => true,
        _ if MC_BANKS.contains(&msr) && msr - MC_BANKS.start() < 4 * BANKS => {
            msr & 3 == 0 || value == 0
        }
        _ if MC_CTL2.contains(&msr) && msr - MC_CTL2.start() < BANKS => intel,
        AMD_NB_CFG => true,
        AMD_HWCR | AMD_DE_CFG | AMD_MMIO_CONF_BASE => amd,
        _ if AMD_PSTATES.contains(&msr) || AMD_FID_VID.contains(&msr) => amd,
        _ => false,
    }
}

/// Loads the registers of a vCPU that begins to run, where they are in the CPU. What CPUID hides can be read all the
/// same: a domain without the register finds 0 in it, not what another domain left.
pub fn load(cx: &Current<'_>) {
    if cpuid::is_tsc_aux_there(cx.hv) {
        let aux = if cpuid::has_tsc_aux(cx) {
            cx.state.tsc_aux
        } else {
            0
        };
        // CPUID says that it is there, so that it can be written.
        let _ = cx.machine().wrmsr(TSC_AUX, aux.into());
    }
}

fn guest_misc_enable(value: u64) -> u64 {
    value & !MISC_ENABLE_HIDDEN | MISC_ENABLE_SET
}

fn set_base(cx: &Current<'_>, segment: SegmentBase, base: u64) -> bool {
    let valid = is_canonical(base);
    if valid {
        cx.machine().set_segment_base(segment, base);
    }
    valid
}

/// Fills the frame at this machine address with the hypercall stubs.
fn write_hypercall_page(cx: &Current<'_>, value: u64) -> bool {
    // The low bits number the pages, of which there is one.
    if value & 0xfff != 0 {
        return false;
    }
    let mfn = Mfn(value >> 12);
    let Ok(frame) = cx
        .hv
        .memory
        .get_typed(mfn, cx.domain.id, FrameType::Writable)
    else {
        return false;
    };
    cx.machine().write_frame(frame.mfn(), 0, &hypercall_page());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeMap;

    use hv_machine::MachineRef;
    use hv_machine::sim::Machine;
    use hypercall_abi::arch_x86::TrapInfo;

    use crate::testing::{DOM0, DOMU, Host};

    fn host(vendor: &[u8; 12]) -> Host {
        let word = |at: usize| u32::from_le_bytes(vendor[at..at + 4].try_into().expect("4 bytes"));
        let machine = Machine::new(1024);
        machine.set_cpuid(0, 0, [7, word(0), word(8), word(4)]);
        machine.set_cpuid(1, 0, [0x306c3, 0, u32::MAX, u32::MAX]);
        machine.set_cpuid(7, 0, [0, 0, 0, 1 << 26 | 1 << 29]);
        machine.set_cpuid(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]);
        machine.set_cpuid(0x8000_0001, 0, [0, 0, 0, u32::MAX]);
        machine.set_cpuid(0x8000_0008, 0, [0, 1 << 12, 0, 0]);
        for (msr, value) in [
            (EFER, 0xd01 | 1 << 12),
            (MISC_ENABLE, 1 << 18 | 1),
            (MICROCODE_REVISION, 0xde),
            (PLATFORM_ID, 0x1234),
            (PRED_CMD, 0),
            (TSC_AUX, 0),
            (ARCH_CAPABILITIES, u64::MAX),
            (0x123, 0x5555),
        ] {
            machine.set_msr(msr, value);
        }
        let host = Host::with_machine(MachineRef::new(machine));
        for id in [DOM0, DOMU] {
            host.as_guest(id, |cx| {
                cx.state.traps[13] = TrapInfo {
                    address: 0x1000,
                    ..Default::default()
                };
            });
        }
        host
    }

    fn get(host: &Host, msr: u32) -> Option<u64> {
        host.as_guest(DOMU, |cx| read(cx, msr))
    }

    fn put(host: &Host, msr: u32, value: u64) -> bool {
        host.as_guest(DOMU, |cx| write(cx, msr, value))
    }

    #[test]
    fn what_kernels_read_as_they_start_has_an_answer() {
        let host = host(b"GenuineIntel");
        assert_eq!(get(&host, EFER), Some(0xd01), "SVM is hidden");
        assert_eq!(get(&host, APIC_BASE), Some(0xfee0_0900));
        assert_eq!(get(&host, PAT), Some(PAT_VALUE));
        assert_eq!(get(&host, MICROCODE_REVISION), Some(0xde));
        assert_eq!(get(&host, PLATFORM_ID), Some(0x1234));
        let misc = get(&host, MISC_ENABLE).expect("an answer");
        assert_eq!(misc, 1 | MISC_ENABLE_SET);
        assert_eq!(get(&host, FEATURE_CONTROL), Some(1));
        assert_eq!(get(&host, HYPERCALL_PAGE_MSR), Some(0));
        assert_eq!(get(&host, MCG_CAP), Some(MCG_CAP_INTEL));
        assert_eq!(get(&host, 0x400), Some(u64::MAX));
        assert_eq!(get(&host, 0x405), Some(0));
        assert_eq!(get(&host, TSC), Some(host.hv.machine.tsc()));
    }

    #[test]
    fn what_is_the_hypervisors_own_faults() {
        let host = host(b"GenuineIntel");
        // STAR, LSTAR, SYSENTER_EIP, SPEC_CTRL, MTRR capabilities, x2APIC, another hypervisor register, debug control.
        for msr in [
            0xc000_0081,
            0xc000_0082,
            0x176,
            0x48,
            0xfe,
            0x802,
            0x4000_0001,
            0x1d9,
            PRED_CMD,
            0x408,
            AMD_HWCR,
            0x123,
        ] {
            assert_eq!(get(&host, msr), None, "{msr:#x}");
        }
        for msr in [
            0xc000_0081,
            0xc000_0082,
            0x176,
            0x48,
            0x802,
            PAT,
            APIC_BASE,
            0x123,
        ] {
            assert!(!put(&host, msr, 0), "{msr:#x}");
        }
    }

    #[test]
    fn a_kernel_without_handler_reads_0_of_what_the_hardware_has() {
        let host = host(b"GenuineIntel");
        host.as_guest(DOMU, |cx| cx.state.traps[13].address = 0);
        assert_eq!(get(&host, 0x123), Some(0));
        assert_eq!(get(&host, 0x124), None);
        assert_eq!(get(&host, 0x4000_0001), None);
    }

    #[test]
    fn segment_bases_must_be_canonical() {
        let host = host(b"GenuineIntel");
        assert!(put(&host, FS_BASE, 0x1000));
        assert!(put(&host, GS_BASE, 0x2000));
        assert!(put(&host, SHADOW_GS_BASE, 0x3000));
        for msr in [FS_BASE, GS_BASE, SHADOW_GS_BASE] {
            assert!(!put(&host, msr, 1 << 47));
        }
        assert_eq!(get(&host, FS_BASE), Some(0x1000));
        assert_eq!(get(&host, GS_BASE), Some(0x2000));
        assert_eq!(get(&host, SHADOW_GS_BASE), Some(0x3000));
    }

    #[test]
    fn writes_that_change_nothing_are_let_through() {
        let host = host(b"GenuineIntel");
        assert!(put(&host, EFER, 0xd01));
        assert!(!put(&host, EFER, 0xd00));
        assert!(put(&host, MISC_ENABLE, 0));
        assert!(put(&host, MICROCODE_REVISION, 0));
        assert!(!put(&host, MICROCODE_REVISION, 1));
        assert!(put(&host, MISC_FEATURES_ENABLES, 0));
        assert!(!put(&host, MISC_FEATURES_ENABLES, 1));
        assert!(put(&host, 0x400, 5));
        assert!(!put(&host, 0x401, 5));
        assert_eq!(get(&host, MISC_ENABLE), Some(1 | MISC_ENABLE_SET));
    }

    #[test]
    fn the_barrier_is_issued_and_has_no_other_bits() {
        let host = host(b"GenuineIntel");
        assert!(put(&host, PRED_CMD, 1));
        assert_eq!(host.hv.machine.rdmsr(PRED_CMD), Ok(1));
        assert!(!put(&host, PRED_CMD, 2));
    }

    #[test]
    fn tsc_aux_has_32_bits() {
        let host = host(b"GenuineIntel");
        assert!(put(&host, TSC_AUX, 0xffff_ffff));
        assert!(!put(&host, TSC_AUX, 1 << 32));
        assert_eq!(get(&host, TSC_AUX), Some(0xffff_ffff));
        assert_eq!(host.hv.machine.rdmsr(TSC_AUX), Ok(0xffff_ffff));
    }

    #[test]
    fn a_domain_without_tsc_aux_does_not_find_another_domains() {
        let host = host(b"GenuineIntel");
        assert!(put(&host, TSC_AUX, 7));
        let without = BTreeMap::from([((7, 0), [0; 4]), ((0x8000_0001, 0), [0; 4])]);
        *host.domain(DOM0).cpuid.lock() = without;
        host.as_guest(DOM0, |cx| load(cx));
        assert_eq!(host.hv.machine.rdmsr(TSC_AUX), Ok(0));
        host.as_guest(DOMU, |cx| load(cx));
        assert_eq!(host.hv.machine.rdmsr(TSC_AUX), Ok(7));
    }

    #[test]
    fn weaknesses_of_the_cpu_are_the_control_domains_to_know() {
        let host = host(b"GenuineIntel");
        assert_eq!(get(&host, ARCH_CAPABILITIES), None);
        host.as_guest(DOM0, |cx| {
            assert_eq!(read(cx, ARCH_CAPABILITIES), Some(ARCH_CAPABILITIES_VISIBLE));
            assert!(!write(cx, ARCH_CAPABILITIES, 0));
        });
    }

    #[test]
    fn amds_registers_answer_on_amds_processors() {
        let host = host(b"AuthenticAMD");
        assert_eq!(get(&host, AMD_HWCR), Some(HWCR_TSC_FREQ_SEL));
        assert_eq!(get(&host, AMD_DE_CFG), Some(DE_CFG_LFENCE));
        assert_eq!(get(&host, 0xc001_0063), Some(0));
        assert!(put(&host, AMD_DE_CFG, 0));
        assert_eq!(get(&host, PLATFORM_ID), None);
        assert_eq!(get(&host, FEATURE_CONTROL), None);
        assert!(!put(&host, MICROCODE_REVISION, 0));
    }

    #[test]
    fn the_hypercall_page_is_written_into_a_frame_of_the_guests() {
        let host = host(b"GenuineIntel");
        let own = host.layout(DOMU).scratch[3];
        assert!(put(&host, HYPERCALL_PAGE_MSR, own.0 << 12));
        let mut page = [0; 4096];
        host.hv.machine.read_frame(own, 0, &mut page);
        assert_eq!(page, hypercall_page());
        let foreign = host.layout(DOM0).scratch[3].0 << 12;
        let table = host.layout(DOMU).tables[2].0 << 12;
        for bad in [own.0 << 12 | 1, foreign, table, 0, !0xfff] {
            assert!(!put(&host, HYPERCALL_PAGE_MSR, bad), "{bad:#x}");
        }
    }
}
