//! Contexts of vCPUs with all that is in them.

use super::vcpus::{context, second, set_context};
use super::*;

use hv_machine::{FIRST_HYPERVISOR_SLOT, Platform};
use hypercall_abi::arch_x86::{
    VGCF_FAILSAFE_DISABLES_EVENTS, VGCF_I387_VALID, VGCF_IN_KERNEL, VGCF_ONLINE,
    VGCF_SYSCALL_DISABLES_EVENTS, VcpuGuestContext,
};
use hypercall_abi::xen::VMASST_TYPE_WRITABLE_PAGETABLES;

use crate::memory::{FrameType, Level, Pte};
use crate::testing::{RW, SCRATCH};

/// Frames of the domain's that are used for nothing yet.
fn unused<const N: usize>(host: &Host) -> [Mfn; N] {
    let owner = &host.domain(DOMU).owner;
    let frame = || host.hv.memory.allocate(owner, 0, u64::MAX);
    std::array::from_fn(|_| frame().expect("room"))
}

/// A context with all that one can have, in the kernel's mode or the user's.
fn full_context(kernel: bool, [root, user, descriptors]: [Mfn; 3]) -> VcpuGuestContext {
    let flags = match kernel {
        true => VGCF_IN_KERNEL | VGCF_SYSCALL_DISABLES_EVENTS,
        false => VGCF_FAILSAFE_DISABLES_EVENTS,
    };
    let mut full = VcpuGuestContext {
        flags: flags | VGCF_ONLINE | VGCF_I387_VALID,
        ldt_base: SCRATCH,
        ldt_ents: 8192,
        gdt_ents: 7168,
        kernel_ss: 0xe02b,
        kernel_sp: 0x7000,
        event_callback_eip: 0x1000,
        failsafe_callback_eip: 0x2000,
        syscall_callback_eip: 0x3000,
        vm_assist: 1 << VMASST_TYPE_WRITABLE_PAGETABLES,
        fs_base: 0x4000,
        gs_base_kernel: 0x5000,
        gs_base_user: 0x6000,
        ..Default::default()
    };
    full.fpu_ctxt[32..48].fill(0x5a);
    full.gdt_frames[..14].fill(descriptors);
    // Task switched or not.
    full.ctrlreg[0] = 0x8005_0033 | if kernel { 8 } else { 0 };
    full.ctrlreg[1] = user.0 << 12;
    full.ctrlreg[3] = root.0 << 12;
    full.trap_ctxt[14].address = 0x9000;
    full.trap_ctxt[14].cs = 0xe033;
    let regs = &mut full.user_regs;
    (regs.rip, regs.rsp, regs.rax) = (0xa000, 0xb000, 42);
    // The I/O privilege level is the hypervisor's to keep.
    regs.rflags = 1 << 12 | 0x202;
    (regs.cs, regs.ss) = (0xe033, 0xe02b);
    (regs.ds, regs.es, regs.fs, regs.gs) = (0x23, 0x2b, 0x33, 0x3b);
    full
}

#[test]
fn everything_in_a_first_context_comes_back() {
    let host = Host::new();
    let domain = host.domain(DOMU);
    let machine = &host.hv.machine;
    let frames @ [root, user, descriptors] = unused(&host);
    let [other] = unused(&host);
    let clock = std::mem::offset_of!(hypercall_abi::xen::SharedInfo, wc_sec);
    for kernel in [false, true] {
        let reset = DomctlVcpucontext::new_zeroed();
        succeed(&host, XEN_DOMCTL_SETVCPUCONTEXT, DOMU, &reset);
        domain.vm_assist.store(0, Ordering::Relaxed);
        machine.write_frame(domain.shared_info, clock, &[0; 4]);
        let mut full = full_context(kernel, frames);
        // The machine's own part begins behind the guest's.
        let mut long = full;
        long.gdt_frames.fill(descriptors);
        for entries in [7169, 8192] {
            long.gdt_ents = entries;
            let refused = Errno::EINVAL.to_return();
            assert_eq!(set_context(&host, 0, &long), refused);
        }
        assert_eq!(set_context(&host, 0, &full), 0);
        let got = context(&host);
        full.ctrlreg[4] = host.vcpu(DOMU).state.lock().cr4;
        assert_ne!(full.ctrlreg[4], 0);
        full.debugreg = got.debugreg;
        assert!(got.as_bytes() == full.as_bytes(), "{got:x?}, not {full:x?}");
        let [of_root, of_user] =
            [root, user].map(|mfn| machine.load_u64(mfn, FIRST_HYPERVISOR_SLOT));
        assert!(of_root != 0 && of_user == 0, "not for user mode to see");
        assert_eq!(domain.vm_assist.load(Ordering::Relaxed), full.vm_assist);
        assert_ne!(host.shared::<u32>(DOMU, clock), 0);
        // Once more, and with one table another.
        assert_eq!(set_context(&host, 0, &full), 0);
        let others: [&dyn Fn(&mut VcpuGuestContext); 2] = [&|c| c.gdt_frames[13] = other, &|c| {
            c.ldt_base = SCRATCH + 4096
        }];
        for change in others {
            let mut changed = full;
            change(&mut changed);
            let refused = Errno::EOPNOTSUPP.to_return();
            assert_eq!(set_context(&host, 0, &changed), refused);
        }
    }
    // What a vCPU but the first says of its domain counts for nothing.
    second(&host);
    let mut wanted = VcpuGuestContext {
        flags: VGCF_IN_KERNEL,
        vm_assist: 1 << 63,
        ..Default::default()
    };
    wanted.ctrlreg[3] = root.0 << 12;
    let before = domain.vm_assist.load(Ordering::Relaxed);
    assert_eq!(set_context(&host, 1, &wanted), 0);
    assert_eq!(domain.vm_assist.load(Ordering::Relaxed), before);
}

#[test]
fn a_context_is_made_fit_for_a_guest() {
    let host = Host::new();
    let mut wild = context(&host);
    wild.flags |= VGCF_I387_VALID;
    wild.fpu_ctxt[32..48].fill(0x5a);
    wild.user_regs.rflags = u64::MAX;
    (wild.user_regs.cs, wild.user_regs.ss) = (0xe030, 0xe028);
    (wild.trap_ctxt[3].cs, wild.trap_ctxt[4].cs, wild.kernel_ss) = (0xe030, 2, 1);
    assert_eq!(set_context(&host, 0, &wild), 0);
    let got = context(&host);
    let level = 3 << 12;
    let loaded = crate::vcpu_context::guest_rflags(u64::MAX);
    assert_eq!(loaded & level, 0);
    assert_eq!(got.user_regs.rflags, loaded | level);
    let state = host.vcpu(DOMU).state.lock().context.regs.rflags;
    assert_eq!(state, loaded);
    assert_eq!((got.user_regs.cs, got.user_regs.ss), (0xe033, 0xe02b));
    let selectors = (got.trap_ctxt[3].cs, got.trap_ctxt[4].cs, got.kernel_ss);
    assert_eq!(selectors, (0xe033, 0, 0));
    // Who brings no registers of the FPU's gets fresh ones.
    wild.flags &= !VGCF_I387_VALID;
    assert_eq!(set_context(&host, 0, &wild), 0);
    let fpu = context(&host).fpu_ctxt;
    assert_eq!((&fpu[..2], &fpu[32..48]), (&[0x7f, 3][..], &[0; 16][..]));
}

#[test]
fn a_root_of_a_call_that_was_given_up_is_let_go_of_by_the_next() {
    let host = Host::new();
    let reset = DomctlVcpucontext::new_zeroed();
    succeed(&host, XEN_DOMCTL_SETVCPUCONTEXT, DOMU, &reset);
    let (domain, vcpu) = (host.domain(DOMU), host.vcpu(DOMU));
    let [first, second, user, a, b] = unused(&host);
    for (index, below) in [(1, a), (2, b)] {
        let entry = Pte::new(below, RW).0;
        host.hv.machine.store_u64(user, index, entry);
    }
    let apply = |root: Mfn, user: u64| {
        let mut wanted = VcpuGuestContext {
            flags: VGCF_IN_KERNEL,
            ..Default::default()
        };
        (wanted.ctrlreg[3], wanted.ctrlreg[1]) = (root.0 << 12, user << 12);
        let mut state = vcpu.state.lock();
        let out_of_time = &mut || true;
        crate::vcpu_context::apply(&host.hv, &domain, &vcpu, &mut state, &wanted, out_of_time)
    };
    assert_eq!(apply(first, user.0), Err(Errno::ERESTART));
    let memory = &host.hv.memory;
    assert_eq!(memory.type_in_use(first), FrameType::Table(Level::L4));
    assert_eq!(apply(second, 0), Ok(()));
    assert!(memory.take_apart(&domain.owner, &mut || false));
    assert_eq!(memory.type_in_use(first), FrameType::None);
}
