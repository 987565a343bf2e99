//! What a frame is, who depends on it, and who is told of the change.

use super::*;

use hv_machine::sim::Flush;
use hypercall_abi::arch_x86::{VGCF_IN_KERNEL, VcpuGuestContext};
use hypercall_abi::vcpu::{VCPUOP_INITIALISE, VCPUOP_REGISTER_VCPU_INFO, VcpuRegisterVcpuInfo};
use zerocopy::FromZeros;

use crate::lifecycle;
use crate::testing::BUDGET;

/// XSA-241, -401: between the last use of a frame as one thing and the first as another, everybody forgets the
/// translations that the first use gave him.
#[test]
fn a_frame_is_flushed_before_it_becomes_something_else() {
    let host = Host::new();
    let frame = unmapped(&host, 20);
    let flushed = |what: i64| {
        assert_eq!(what, 0);
        host.hv.machine.take_flushes().contains(&Flush::All(1))
    };
    host.hv.machine.take_flushes();
    let pin = |cmd| extended(&host, cmd, frame);
    assert!(flushed(pin(MMUEXT_PIN_L1_TABLE)), "it was writable");
    assert!(!flushed(pin(MMUEXT_UNPIN_TABLE)));
    assert!(!flushed(pin(MMUEXT_PIN_L1_TABLE)), "it is the same again");
    assert!(!flushed(pin(MMUEXT_UNPIN_TABLE)));
    assert!(
        flushed(map(&host, 20, Pte::new(frame, RW))),
        "it was a table"
    );
    assert!(!flushed(map(&host, 20, Pte(0))));
    let gdt = host.put(DOMU, &frame);
    host.hv.machine.take_flushes();
    assert!(flushed(host.hypercall(DOMU, HYPERVISOR_SET_GDT, &[gdt, 8])));
    in_order(&host);
}

/// XSA-242: an operation that fails gives back every type that it took on its way.
#[test]
fn a_table_that_is_refused_leaves_no_type_behind() {
    let host = Host::new();
    let theirs = host.layout(DOM0).scratch[0];
    let page = host.layout(DOMU).scratch[40];
    let (l2, l1s) = tree(&host, 20, 4);
    for l1 in &l1s {
        host.hv.machine.store_u64(*l1, 0, Pte::new(page, RW).0);
    }
    let last = l1s[3];
    for bad in [
        Pte::new(theirs, RO),
        Pte::new(l2, RW),
        Pte::new(last, RW),
        Pte::new(l1s[0], RW),
        Pte::new(Mfn(1), RO),
    ] {
        host.hv.machine.store_u64(last, 511, bad.0);
        for _ in 0..2 {
            assert_ne!(extended(&host, MMUEXT_PIN_L2_TABLE, l2), 0);
        }
        for mfn in l1s.iter().chain([&l2]) {
            assert_eq!(host.hv.memory.type_in_use(*mfn), FrameType::None);
        }
        in_order(&host);
    }
    host.hv.machine.store_u64(last, 511, 0);
    assert_eq!(extended(&host, MMUEXT_PIN_L2_TABLE, l2), 0);
    in_order(&host);
}

/// XSA-45, -252, -264, -290: between two looks at the clock there is one table's worth of work, however large the tree.
#[test]
fn no_tree_of_tables_is_looked_through_in_one_go() {
    let host = Host::new();
    let (l2, _) = tree(&host, 20, 30);
    host.hv.machine.set_tsc_step(BUDGET);
    for cmd in [MMUEXT_PIN_L2_TABLE, MMUEXT_UNPIN_TABLE] {
        host.hv.machine.take_most_reads();
        assert_eq!(extended(&host, cmd, l2), 0);
        let most = host.hv.machine.take_most_reads();
        assert!(most <= 8, "{most} frames were read in one go");
    }
    in_order(&host);
}

/// XSA-58, -299, -310: what was interrupted is nobody's. It is not something else, and not changed behind the back of
/// whoever goes on; others go on in the first one's place, or the domain ends with it.
#[test]
fn an_interrupted_validation_is_gone_on_with_or_undone() {
    let begin = |host: &Host, l2: Mfn| {
        let at = host.put(DOMU, &operation(MMUEXT_PIN_L2_TABLE, l2));
        host.hv.machine.set_tsc_step(BUDGET);
        let args = [at, 1, 0, SELF];
        host.begin_hypercall(DOMU, 0, HYPERVISOR_MMUEXT_OP, &args);
        assert_eq!(host.go_on(DOMU, 0, 3), None, "it is interrupted");
    };
    let host = Host::new();
    let (l2, l1s) = tree(&host, 20, 8);
    let page = host.layout(DOMU).scratch[40];
    begin(&host, l2);
    for cmd in [
        MMUEXT_PIN_L1_TABLE,
        MMUEXT_PIN_L3_TABLE,
        MMUEXT_PIN_L4_TABLE,
        MMUEXT_UNPIN_TABLE,
        MMUEXT_CLEAR_PAGE,
        MMUEXT_NEW_BASEPTR,
    ] {
        assert_eq!(extended(&host, cmd, l2), INVAL, "{cmd}");
    }
    assert_eq!(map(&host, 8, Pte::new(l2, RW)), BUSY);
    // An update of an entry goes on with the validation first.
    assert_eq!(write(&host, l2, 7, Pte(0)), 0);
    assert_eq!(write(&host, l1s[0], 0, Pte::new(page, RW)), 0);
    assert_eq!(extended(&host, MMUEXT_PIN_L2_TABLE, l2), 0);
    assert_eq!(extended(&host, MMUEXT_UNPIN_TABLE, l2), 0);
    in_order(&host);

    begin(&host, l2);
    let domain = host.domain(DOMU);
    while !lifecycle::destroy(&host.hv, &domain, &mut || true) {}
    assert!(host.hv.domain(DOMU).is_err(), "it ends with the domain");
    in_order(&host);
}

/// XSA-113: who names a frame in vain leaves no reference to it.
#[test]
fn a_refused_entry_of_the_machine_to_phys_table_holds_nothing() {
    let host = Host::new();
    let theirs = host.layout(DOM0).scratch[0];
    for mfn in [theirs, Mfn(0), Mfn(1), Mfn(1 << 40)] {
        for _ in 0..3 {
            let ptr = mfn.0 << 12 | MMU_MACHPHYS_UPDATE;
            assert_eq!(update(&host, DOMU, ptr, 5), INVAL);
        }
    }
    let ptr = host.layout(DOMU).scratch[0].0 << 12 | MMU_MACHPHYS_UPDATE;
    assert_eq!(update(&host, DOMU, ptr, u64::MAX), 0);
    in_order(&host);
}

/// XSA-32: a number that names no frame, or one that is nobody's, is told from one that does.
#[test]
fn numbers_that_name_no_frame_are_refused() {
    let host = Host::new();
    let beyond = host.hv.machine.frame_limit();
    for number in [beyond, beyond + 1, 1 << 32, 1 << 40, 1 << 52, u64::MAX] {
        for cmd in [
            MMUEXT_PIN_L1_TABLE,
            MMUEXT_PIN_L4_TABLE,
            MMUEXT_UNPIN_TABLE,
            MMUEXT_NEW_BASEPTR,
            MMUEXT_NEW_USER_BASEPTR,
            MMUEXT_CLEAR_PAGE,
            MMUEXT_COPY_PAGE,
        ] {
            assert_eq!(
                extended(&host, cmd, Mfn(number)),
                INVAL,
                "{cmd}: {number:#x}"
            );
        }
        let list = host.put(DOMU, &number);
        assert_eq!(host.hypercall(DOMU, HYPERVISOR_SET_GDT, &[list, 8]), INVAL);
    }
    in_order(&host);
}

/// XSA-167: nothing is to be had of superpages, whatever frame is named.
#[test]
fn no_frame_is_marked_as_a_superpage() {
    let host = Host::new();
    let frames = [Mfn(0), host.layout(DOMU).tables[0], Mfn(512), Mfn(u64::MAX)];
    for cmd in [MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER] {
        for mfn in frames {
            let refused = Errno::EOPNOTSUPP.to_return();
            assert_eq!(extended(&host, cmd, mfn), refused);
        }
    }
    in_order(&host);
}

/// XSA-213: a list of calls that leaves the kernel's address space on its way would go on in the user's.
#[test]
fn no_call_of_a_list_changes_to_user_mode() {
    let host = Host::new();
    let entry = |op: u32, args: [u64; 6]| MulticallEntry {
        op: op.into(),
        result: 0,
        args,
    };
    let root = host.layout(DOMU).tables[0];
    assert_eq!(extended(&host, MMUEXT_NEW_USER_BASEPTR, root), 0);
    let va = SCRATCH + 8 * 4096;
    let calls = [
        entry(HYPERVISOR_IRET, [0; 6]),
        entry(HYPERVISOR_UPDATE_VA_MAPPING, [va, 0, 0, 0, 0, 0]),
    ];
    let at = host.put_slice(DOMU, &calls);
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_MULTICALL, &[at, 2]), 0);
    let results = host.get::<[MulticallEntry; 2]>(DOMU, at);
    assert_eq!(results[0].result as i64, Errno::ENOSYS.to_return());
    assert_eq!(results[1].result, 0);
    host.as_guest(DOMU, |cx| {
        assert_eq!(cx.state.root(), cx.state.kernel_root);
    });
    in_order(&host);
}

/// XSA-296: a second vCPU whose tables are refused, halfway or interrupted, is as it was, and may be tried again.
#[test]
fn a_vcpu_that_is_not_started_holds_nothing() {
    let host = Host::new();
    let domain = host.domain(DOMU);
    lifecycle::create_vcpus(&host.hv, &domain, 2).expect("a second vCPU");
    let [root, l3, ..] = host.layout(DOMU).tables;
    let descriptors = unmapped(&host, 20);
    let start = |kernel: Mfn, user: Mfn, gdt: Mfn| {
        let mut context = VcpuGuestContext::new_zeroed();
        context.flags = VGCF_IN_KERNEL;
        context.ctrlreg[3] = kernel.0 << 12;
        context.ctrlreg[1] = user.0 << 12;
        context.gdt_frames[0] = gdt;
        context.gdt_ents = 8;
        let at = host.put(DOMU, &context);
        let args = [VCPUOP_INITIALISE.into(), 1, at];
        host.hypercall(DOMU, HYPERVISOR_VCPU_OP, &args)
    };
    host.hv.machine.set_tsc_step(BUDGET);
    let theirs = host.layout(DOM0).tables[0];
    let nowhere = Mfn(1 << 39);
    for (kernel, user, gdt) in [
        (theirs, root, descriptors),
        (l3, root, descriptors),
        (nowhere, root, descriptors),
        (root, theirs, descriptors),
        (root, l3, descriptors),
        (root, nowhere, descriptors),
        (root, root, l3),
        (root, root, theirs),
        (root, root, nowhere),
    ] {
        assert_ne!(start(kernel, user, gdt), 0, "{kernel} {user} {gdt}");
        assert_eq!(host.hv.memory.type_in_use(descriptors), FrameType::None);
    }
    assert_eq!(start(root, root, descriptors), 0);
    in_order(&host);
}

/// XSA-327: what the hypervisor writes to as a whole lies where it can be written to as a whole.
#[test]
fn a_vcpus_information_is_aligned_and_in_a_page() {
    let host = Host::new();
    let mfn = host.layout(DOMU).scratch[20];
    for offset in [1, 4, 7, 60, 4033, 4040, 4092, 4096, u32::MAX] {
        let place = VcpuRegisterVcpuInfo {
            mfn,
            offset,
            rsvd: 0,
        };
        let at = host.put(DOMU, &place);
        let args = [VCPUOP_REGISTER_VCPU_INFO.into(), 0, at];
        assert_ne!(
            host.hypercall(DOMU, HYPERVISOR_VCPU_OP, &args),
            0,
            "{offset}"
        );
    }
    in_order(&host);
}
