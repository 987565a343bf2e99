use super::*;

use hv_machine::{MachineRef, Platform};
use hypercall_abi::arch_x86::{VGCF_I387_VALID, VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext};

use crate::memory::{FrameType, Level};
use crate::msr::{MISC_FEATURES_ENABLES, TSC_AUX};

/// An address that no processor takes.
const CROOKED: u64 = 1 << 47;

pub(super) fn context(host: &Host) -> VcpuGuestContext {
    let at = host.room(DOM0, size_of::<VcpuGuestContext>());
    let arm = DomctlVcpucontext {
        ctxt: GuestHandle::new(at),
        ..Default::default()
    };
    succeed(host, XEN_DOMCTL_GETVCPUCONTEXT, DOMU, &arm);
    host.get(DOM0, at)
}

pub(super) fn set_context(host: &Host, vcpu: u32, context: &VcpuGuestContext) -> i64 {
    let arm = DomctlVcpucontext {
        vcpu,
        ctxt: GuestHandle::new(host.put(DOM0, context)),
        ..Default::default()
    };
    call(host, XEN_DOMCTL_SETVCPUCONTEXT, DOMU, &arm).0
}

/// A second vCPU of the domain, down.
pub(super) fn second(host: &Host) -> Arc<crate::Vcpu> {
    let domain = host.domain(DOMU);
    lifecycle::create_vcpus(&host.hv, &domain, 2).expect("another vCPU");
    domain.vcpu(1).expect("it")
}

#[test]
fn a_vcpu_is_described() {
    let host = Host::new();
    let arm = |vcpu| DomctlGetvcpuinfo {
        vcpu,
        ..Default::default()
    };
    let cmd = XEN_DOMCTL_GETVCPUINFO;
    let info = succeed(&host, cmd, DOMU, &arm(0));
    assert_eq!((info.online, info.blocked, info.running), (1, 0, 0));
    host.vcpu(DOMU).blocked.store(true, Ordering::Release);
    second(&host);
    assert_eq!(succeed(&host, cmd, DOMU, &arm(0)).blocked, 1);
    assert_eq!(succeed(&host, cmd, DOMU, &arm(1)).online, 0);
    fail(&host, cmd, DOMU, &arm(2), Errno::ESRCH);
    fail(&host, cmd, DOMU, &arm(128), Errno::EINVAL);
    fail(&host, cmd, DOMU, &arm(u32::MAX), Errno::EINVAL);
}

#[test]
fn a_context_comes_back_as_it_was_set() {
    let host = Host::new();
    let vcpu = second(&host);
    let root = host.layout(DOMU).tables[0];
    let mut wanted = VcpuGuestContext {
        flags: VGCF_IN_KERNEL | VGCF_ONLINE | VGCF_I387_VALID,
        kernel_sp: 0x7000,
        kernel_ss: 0xe02b,
        event_callback_eip: 0x1000,
        failsafe_callback_eip: 0x2000,
        syscall_callback_eip: 0x3000,
        fs_base: 0x4000,
        gs_base_kernel: 0x5000,
        gs_base_user: 0x6000,
        ..Default::default()
    };
    wanted.user_regs.rip = 0xffff_ffff_8100_0000;
    wanted.user_regs.rsi = 42;
    wanted.user_regs.cs = 0xe030;
    wanted.user_regs.ds = 0xe02b;
    wanted.user_regs.es = 0xe033;
    wanted.user_regs.fs = 0x13;
    wanted.user_regs.gs = 0x23;
    wanted.ctrlreg[3] = root.0 << 12;
    wanted.trap_ctxt[14].address = 0x9000;
    wanted.trap_ctxt[14].cs = 0xe033;
    assert_eq!(set_context(&host, 1, &wanted), 0);
    assert!(vcpu.is_runnable());
    let at = host.room(DOM0, size_of::<VcpuGuestContext>());
    let arm = DomctlVcpucontext {
        vcpu: 1,
        ctxt: GuestHandle::new(at),
        ..Default::default()
    };
    succeed(&host, XEN_DOMCTL_GETVCPUCONTEXT, DOMU, &arm);
    let got: VcpuGuestContext = host.get(DOM0, at);
    assert_eq!(got.flags, wanted.flags);
    assert_eq!(got.user_regs.rip, wanted.user_regs.rip);
    assert_eq!(got.user_regs.rsi, 42);
    assert_eq!(got.user_regs.cs, 0xe033, "ring 3");
    assert_eq!(got.ctrlreg[3], wanted.ctrlreg[3]);
    assert_eq!((got.kernel_sp, got.kernel_ss), (0x7000, 0xe02b));
    assert_eq!(got.trap_ctxt[14].address, 0x9000);
    assert_eq!(
        (got.fs_base, got.gs_base_kernel, got.gs_base_user),
        (0x4000, 0x5000, 0x6000)
    );
    let selectors = |context: &VcpuGuestContext| {
        let regs = &context.user_regs;
        [regs.ds, regs.es, regs.fs, regs.gs]
    };
    assert_eq!(selectors(&got), [0xe02b, 0xe033, 0x13, 0x23]);
    // It has loaded others since.
    {
        let mut state = vcpu.state.lock();
        let segments = &mut state.segments;
        [segments.ds, segments.es, segments.fs, segments.gs] = [0x33, 0x43, 0x53, 0x63];
    }
    succeed(&host, XEN_DOMCTL_GETVCPUCONTEXT, DOMU, &arm);
    let later: VcpuGuestContext = host.get(DOM0, at);
    assert_eq!(selectors(&later), [0x33, 0x43, 0x53, 0x63]);
    assert_eq!(
        (
            got.event_callback_eip,
            got.failsafe_callback_eip,
            got.syscall_callback_eip
        ),
        (0x1000, 0x2000, 0x3000)
    );
}

#[test]
fn a_context_that_cannot_be_takes_nothing() {
    let host = Host::new();
    let vcpu = second(&host);
    let layout = host.layout(DOMU);
    let good = {
        let mut good = VcpuGuestContext {
            flags: VGCF_IN_KERNEL | VGCF_ONLINE,
            ..Default::default()
        };
        good.ctrlreg[3] = layout.tables[0].0 << 12;
        good
    };
    let with = |change: &dyn Fn(&mut VcpuGuestContext)| {
        let mut context = good;
        change(&mut context);
        context
    };
    let count = host.hv.memory.state(layout.tables[0]).map(|s| s.types);
    let foreign = host.layout(DOM0).tables[0].0 << 12;
    let bad: &[&dyn Fn(&mut VcpuGuestContext)] = &[
        &|c| c.user_regs.rip = CROOKED,
        &|c| c.user_regs.rsp = CROOKED,
        &|c| c.kernel_sp = CROOKED,
        &|c| c.fs_base = CROOKED,
        &|c| c.gs_base_kernel = CROOKED,
        &|c| c.gs_base_user = CROOKED,
        &|c| c.event_callback_eip = CROOKED,
        &|c| c.failsafe_callback_eip = CROOKED,
        &|c| c.syscall_callback_eip = CROOKED,
        &|c| c.trap_ctxt[255].address = CROOKED,
        &|c| c.ldt_base = 0x1001,
        &|c| c.ldt_base = 0xffff_8200_0000_0000,
        &|c| c.ldt_ents = 8193,
        &|c| c.gdt_ents = u64::MAX,
        &|c| c.gdt_ents = 7169,
        &|c| c.ctrlreg[3] = 0,
        &|c| c.ctrlreg[3] = foreign,
        &|c| c.ctrlreg[3] = u64::MAX,
        &|c| c.ctrlreg[1] = foreign,
        // User mode without user tables.
        &|c| c.flags = VGCF_ONLINE,
    ];
    for (index, change) in bad.iter().enumerate() {
        let result = set_context(&host, 1, &with(change));
        assert_eq!(result, Errno::EINVAL.to_return(), "{index}");
        assert!(vcpu.down.load(Ordering::Acquire), "{index}");
        assert!(!vcpu.state.lock().initialised, "{index}");
    }
    // A descriptor table that is a page table, or somebody else's.
    for frame in [layout.tables[1], host.layout(DOM0).scratch[0]] {
        let context = with(&|c| {
            c.gdt_ents = 1;
            c.gdt_frames[0] = frame;
        });
        let result = set_context(&host, 1, &context);
        assert_eq!(result, Errno::EINVAL.to_return());
    }
    let after = host.hv.memory.state(layout.tables[0]).map(|s| s.types);
    assert_eq!(after, count, "no table is held");
    assert_eq!(set_context(&host, 1, &good), 0);
    // The first vCPU's context has the domain's assistances.
    let arm = DomctlVcpucontext::new_zeroed();
    succeed(&host, XEN_DOMCTL_SETVCPUCONTEXT, DOMU, &arm);
    let unknown = with(&|c| c.vm_assist = 1 << 63);
    assert_eq!(set_context(&host, 0, &unknown), Errno::EINVAL.to_return());
}

#[test]
fn a_vcpu_with_a_context_keeps_its_tables() {
    let host = Host::new();
    let now = context(&host);
    assert_eq!(now.ctrlreg[3], host.layout(DOMU).tables[0].0 << 12);
    let mut moved = now;
    moved.user_regs.rax = 9;
    assert_eq!(set_context(&host, 0, &moved), 0);
    assert_eq!(context(&host).user_regs.rax, 9);
    let others: &[&dyn Fn(&mut VcpuGuestContext)] = &[
        &|c| c.ctrlreg[3] = 0,
        &|c| c.ctrlreg[1] = c.ctrlreg[3],
        &|c| c.gdt_ents = 1,
        &|c| c.ldt_ents = 1,
        &|c| c.flags &= !VGCF_IN_KERNEL,
    ];
    for change in others {
        let mut other = now;
        change(&mut other);
        let result = set_context(&host, 0, &other);
        assert_eq!(result, Errno::EOPNOTSUPP.to_return());
    }
    // Where no LDT is.
    moved.ldt_base = 0x5000;
    assert_eq!(set_context(&host, 0, &moved), 0);
}

#[test]
fn no_context_resets_a_vcpu() {
    let host = Host::new();
    let root = host.layout(DOMU).tables[0];
    let arm = DomctlVcpucontext::new_zeroed();
    succeed(&host, XEN_DOMCTL_SETVCPUCONTEXT, DOMU, &arm);
    assert!(!host.vcpu(DOMU).is_runnable());
    assert_eq!(host.hv.memory.type_in_use(root), FrameType::None);
    let at = host.room(DOM0, size_of::<VcpuGuestContext>());
    let get = DomctlVcpucontext {
        ctxt: GuestHandle::new(at),
        ..arm
    };
    fail(&host, XEN_DOMCTL_GETVCPUCONTEXT, DOMU, &get, Errno::ENODATA);
    let mut fresh = VcpuGuestContext {
        flags: VGCF_IN_KERNEL | VGCF_ONLINE,
        ..Default::default()
    };
    fresh.ctrlreg[3] = root.0 << 12;
    assert_eq!(set_context(&host, 0, &fresh), 0);
    assert_eq!(
        host.hv.memory.type_in_use(root),
        FrameType::Table(Level::L4)
    );
}

#[test]
fn a_context_needs_a_vcpu_and_memory() {
    let host = Host::new();
    let arm = |vcpu, at| DomctlVcpucontext {
        vcpu,
        ctxt: GuestHandle::new(at),
        ..Default::default()
    };
    for cmd in [XEN_DOMCTL_SETVCPUCONTEXT, XEN_DOMCTL_GETVCPUCONTEXT] {
        for vcpu in [1, 128, u32::MAX] {
            fail(&host, cmd, DOMU, &arm(vcpu, UNMAPPED), Errno::EINVAL);
        }
        fail(&host, cmd, DOMU, &arm(0, UNMAPPED), Errno::EFAULT);
    }
    let running = host.vcpu(DOMU);
    let _state = running.state.lock();
    for cmd in [XEN_DOMCTL_SETVCPUCONTEXT, XEN_DOMCTL_GETVCPUCONTEXT] {
        let at = host.put(DOM0, &VcpuGuestContext::new_zeroed());
        fail(&host, cmd, DOMU, &arm(0, at), Errno::EBUSY);
    }
    assert!(running.is_runnable());
}

#[test]
fn an_nmi_is_what_a_vcpu_can_be_sent() {
    let host = Host::new();
    let cmd = XEN_DOMCTL_SENDTRIGGER;
    let arm = |trigger, vcpu| DomctlSendtrigger { trigger, vcpu };
    host.vcpu(DOMU).blocked.store(true, Ordering::Release);
    succeed(&host, cmd, DOMU, &arm(XEN_DOMCTL_SENDTRIGGER_NMI, 0));
    assert!(host.vcpu(DOMU).nmi_requested.load(Ordering::Acquire));
    assert!(host.vcpu(DOMU).is_runnable(), "it wakes");
    for (trigger, vcpu, errno) in [
        (XEN_DOMCTL_SENDTRIGGER_NMI, 1, Errno::ESRCH),
        (XEN_DOMCTL_SENDTRIGGER_NMI, u32::MAX, Errno::ESRCH),
        (XEN_DOMCTL_SENDTRIGGER_POWER, 0, Errno::EINVAL),
        (XEN_DOMCTL_SENDTRIGGER_SLEEP, 0, Errno::EINVAL),
        (XEN_DOMCTL_SENDTRIGGER_RESET, 0, Errno::ENOSYS),
        (XEN_DOMCTL_SENDTRIGGER_INIT, 0, Errno::ENOSYS),
        (99, 0, Errno::ENOSYS),
    ] {
        fail(&host, cmd, DOMU, &arm(trigger, vcpu), errno);
    }
}

#[test]
fn the_counter_is_told_and_not_emulated() {
    let host = Host::new();
    let khz = host.hv.machine.tsc_info().khz() as u32;
    let get = || {
        succeed(
            &host,
            XEN_DOMCTL_GETTSCINFO,
            DOMU,
            &DomctlTscInfo::new_zeroed(),
        )
    };
    let first = get();
    assert_eq!(
        (first.tsc_mode, first.gtsc_khz, first.incarnation),
        (0, khz, 1)
    );
    host.hv.machine.pass_time(u64::from(khz));
    let passed = get().elapsed_nsec - first.elapsed_nsec;
    assert!((999_000..1_100_000).contains(&passed), "{passed} ns");
    let set = |tsc_mode, gtsc_khz, incarnation| {
        let arm = DomctlTscInfo {
            tsc_mode,
            gtsc_khz,
            incarnation,
            ..Default::default()
        };
        call(&host, XEN_DOMCTL_SETTSCINFO, DOMU, &arm).0
    };
    assert_eq!(set(0, khz, 4), 0);
    assert_eq!(get().incarnation, 5);
    assert_eq!(set(2, khz / 2, 0), 0);
    let never = get();
    assert_eq!((never.tsc_mode, never.gtsc_khz), (2, 0));
    assert_eq!((never.incarnation, never.elapsed_nsec), (1, 0));
    let shown = host.as_guest(DOMU, |cx| {
        crate::cpuid::for_current(cx, 0x4000_0003, 0, crate::cpuid::Asked::Explicitly)
    });
    assert_eq!((shown[1], shown[3]), (2, 1));
    assert_eq!(set(0, khz / 2, 0), Errno::EOPNOTSUPP.to_return());
    assert_eq!(set(1, 0, 0), Errno::EOPNOTSUPP.to_return());
    assert_eq!(set(3, 0, 0), Errno::EINVAL.to_return());
    assert_eq!(get().tsc_mode, 2);
}

#[test]
fn entry_points_of_32_bit_calls_are_saved_and_restored() {
    let host = Host::new();
    let (get, set) = (
        XEN_DOMCTL_GET_EXT_VCPUCONTEXT,
        XEN_DOMCTL_SET_EXT_VCPUCONTEXT,
    );
    let wanted = DomctlExtVcpucontext {
        size: 64,
        syscall32_callback_eip: 0x1000,
        sysenter_callback_eip: 0x2000,
        sysenter_disables_events: 1,
        ..Default::default()
    };
    succeed(&host, set, DOMU, &wanted);
    let got = succeed(&host, get, DOMU, &DomctlExtVcpucontext::new_zeroed());
    assert_eq!(got.size, 64);
    assert_eq!(
        (got.syscall32_callback_eip, got.sysenter_callback_eip),
        (0x1000, 0x2000)
    );
    assert_eq!(
        (got.syscall32_disables_events, got.sysenter_disables_events),
        (0, 1)
    );
    let nobody = DomctlExtVcpucontext { vcpu: 1, ..wanted };
    fail(&host, get, DOMU, &nobody, Errno::ESRCH);
    for (arm, errno) in [
        (nobody, Errno::ESRCH),
        (DomctlExtVcpucontext { size: 31, ..wanted }, Errno::EINVAL),
        (
            DomctlExtVcpucontext {
                syscall32_callback_eip: CROOKED,
                ..wanted
            },
            Errno::EINVAL,
        ),
        (
            DomctlExtVcpucontext {
                sysenter_callback_eip: CROOKED,
                ..wanted
            },
            Errno::EINVAL,
        ),
    ] {
        fail(&host, set, DOMU, &arm, errno);
    }
}

/// A host whose processor has AVX and `TSC_AUX`.
fn rich_host() -> Host {
    let machine = hv_machine::sim::Machine::new(4096);
    machine.set_cpuid(0, 0, [0xd, 0, 0, 0]);
    machine.set_cpuid(1, 0, [0, 0, 0x7ffa_fbff, 0xbfeb_fbff]);
    machine.set_cpuid(0xd, 0, [7, 832, 832, 0]);
    machine.set_cpuid(0xd, 2, [256, 576, 0, 0]);
    machine.set_cpuid(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]);
    machine.set_cpuid(0x8000_0001, 0, [0, 0, 0x21, 0x2c10_0800]);
    Host::with_machine(MachineRef::new(machine))
}

/// XCR0, all components, and an image with AVX.
const STATE: usize = 16 + 832;

fn image(xcr0: u64, components: u64) -> [u8; STATE] {
    let mut bytes = [0; STATE];
    bytes[..8].copy_from_slice(&xcr0.to_le_bytes());
    bytes[8..16].copy_from_slice(&components.to_le_bytes());
    bytes[16 + 512] = 7;
    bytes[STATE - 1] = 0x77;
    bytes
}

fn extended(host: &Host, bytes: &[u8]) -> DomctlVcpuextstate {
    DomctlVcpuextstate {
        xfeature_mask: 7,
        size: bytes.len() as u64,
        buffer: GuestHandle::new(host.put_slice(DOM0, bytes)),
        ..Default::default()
    }
}

#[test]
fn extended_state_comes_back_as_it_was_set() {
    let host = rich_host();
    let (get, set) = (XEN_DOMCTL_GETVCPUEXTSTATE, XEN_DOMCTL_SETVCPUEXTSTATE);
    let sizes = succeed(&host, get, DOMU, &DomctlVcpuextstate::new_zeroed());
    assert_eq!((sizes.xfeature_mask, sizes.size), (7, STATE as u64));
    let wanted = image(7, 7);
    succeed(&host, set, DOMU, &extended(&host, &wanted));
    let arm = extended(&host, &[0; STATE]);
    assert_eq!(succeed(&host, get, DOMU, &arm).size, STATE as u64);
    let got: [u8; STATE] = host.get(DOM0, arm.buffer.address());
    assert_eq!(got, wanted);
    // Nothing but the two words leaves the state as it is.
    succeed(&host, set, DOMU, &extended(&host, &wanted[..16]));
    succeed(&host, get, DOMU, &arm);
    assert_eq!(host.get::<[u8; STATE]>(DOM0, arm.buffer.address()), wanted);
}

#[test]
fn extended_state_that_cannot_be_is_refused() {
    let host = rich_host();
    let (get, set) = (XEN_DOMCTL_GETVCPUEXTSTATE, XEN_DOMCTL_SETVCPUEXTSTATE);
    let good = extended(&host, &image(7, 7));
    for (arm, errno) in [
        (DomctlVcpuextstate { vcpu: 1, ..good }, Errno::ESRCH),
        (
            DomctlVcpuextstate {
                size: good.size - 1,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlVcpuextstate {
                xfeature_mask: 3,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlVcpuextstate {
                buffer: GuestHandle::new(UNMAPPED),
                ..good
            },
            Errno::EFAULT,
        ),
    ] {
        fail(&host, get, DOMU, &arm, errno);
    }
    let compacted = {
        let mut image = image(7, 7);
        image[16 + 527] = 0x80;
        image
    };
    let reserved = {
        let mut image = image(7, 7);
        image[16 + 540] = 1;
        image
    };
    for (arm, errno) in [
        (DomctlVcpuextstate { vcpu: 1, ..good }, Errno::ESRCH),
        (DomctlVcpuextstate { size: 15, ..good }, Errno::EINVAL),
        (
            DomctlVcpuextstate {
                size: good.size + 1,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlVcpuextstate {
                size: u64::MAX,
                ..good
            },
            Errno::EINVAL,
        ),
        (DomctlVcpuextstate { size: 600, ..good }, Errno::EINVAL),
        (
            DomctlVcpuextstate {
                buffer: GuestHandle::new(UNMAPPED),
                ..good
            },
            Errno::EFAULT,
        ),
        // x87 off, AVX without SSE, unknown components, more enabled than there ever was.
        (extended(&host, &image(6, 7)), Errno::EINVAL),
        (extended(&host, &image(5, 7)), Errno::EINVAL),
        (extended(&host, &image(0xff, 0xff)), Errno::EINVAL),
        (extended(&host, &image(7, 3)), Errno::EINVAL),
        (extended(&host, &image(3, 3)), Errno::EINVAL),
        (extended(&host, &compacted), Errno::EOPNOTSUPP),
        (extended(&host, &reserved), Errno::EINVAL),
    ] {
        fail(&host, set, DOMU, &arm, errno);
    }
}

#[test]
fn registers_of_a_model_are_saved_and_restored() {
    let host = rich_host();
    let (get, set) = (XEN_DOMCTL_GET_VCPU_MSRS, XEN_DOMCTL_SET_VCPU_MSRS);
    let msr = |index, reserved, value| DomctlVcpuMsr {
        index,
        reserved,
        value,
    };
    let list = |msrs: &[DomctlVcpuMsr]| DomctlVcpuMsrs {
        vcpu: 0,
        msr_count: msrs.len() as u32,
        msrs: GuestHandle::new(host.put_slice(DOM0, msrs)),
    };
    let room = succeed(&host, get, DOMU, &DomctlVcpuMsrs::new_zeroed());
    assert_eq!(room.msr_count, 2);
    let empty = list(&[msr(0, 0, 0); 2]);
    assert_eq!(succeed(&host, get, DOMU, &empty).msr_count, 0);
    let wanted = [msr(MISC_FEATURES_ENABLES, 0, 0), msr(TSC_AUX, 0, 0xabc)];
    succeed(&host, set, DOMU, &list(&wanted));
    assert_eq!(succeed(&host, get, DOMU, &empty).msr_count, 1);
    let got: DomctlVcpuMsr = host.get(DOM0, empty.msrs.address());
    assert_eq!((got.index, got.value), (TSC_AUX, 0xabc));
    let (result, short) = call(
        &host,
        get,
        DOMU,
        &DomctlVcpuMsrs {
            msr_count: 0,
            ..empty
        },
    );
    assert_eq!((result, short.msr_count), (Errno::ENOBUFS.to_return(), 1));
    for (msrs, done) in [
        (vec![msr(TSC_AUX, 0, 1 << 32)], 0),
        (vec![msr(TSC_AUX, 1, 0)], 0),
        (vec![wanted[1], msr(MISC_FEATURES_ENABLES, 0, 1)], 1),
        (vec![wanted[1], msr(0xc000_0080, 0, 0)], 1),
        (vec![wanted[1]; 3], 3),
    ] {
        let (result, arm) = call(&host, set, DOMU, &list(&msrs));
        assert_eq!(result, Errno::EINVAL.to_return());
        assert_eq!(arm.msr_count, done);
    }
    let bad = DomctlVcpuMsrs {
        msrs: GuestHandle::new(UNMAPPED),
        ..empty
    };
    for cmd in [get, set] {
        fail(&host, cmd, DOMU, &bad, Errno::EFAULT);
        let nobody = DomctlVcpuMsrs { vcpu: 1, ..empty };
        fail(&host, cmd, DOMU, &nobody, Errno::ESRCH);
    }
    let plain = Host::new();
    let arm = DomctlVcpuMsrs {
        msr_count: 1,
        msrs: GuestHandle::new(plain.put(DOM0, &wanted[1])),
        vcpu: 0,
    };
    fail(&plain, set, DOMU, &arm, Errno::EINVAL);
}
