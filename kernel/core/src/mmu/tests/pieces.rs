//! Trees of page tables that are too large for one go, and what may come in between.

use std::vec::Vec;

use hv_machine::sim::Machine;
use hv_machine::{MachineRef, Platform};
use hypercall_abi::arch_x86::{FLAT_RING3_CS64, VGCF_IN_KERNEL, VcpuGuestContext};
use hypercall_abi::domctl::{
    Domctl, DomctlVcpucontext, XEN_DOMCTL_DESTROYDOMAIN, XEN_DOMCTL_SETVCPUCONTEXT,
};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, GuestHandle, Mfn};
use hypercall_abi::vcpu::VCPUOP_INITIALISE;
use hypercall_abi::xen::*;
use zerocopy::FromZeros;

use crate::lifecycle;
use crate::memory::recount;
use crate::memory::{FrameType, Level, Pte, Stage};
use crate::testing::{BUDGET, DOM0, DOMU, Host, RO, RW, SCRATCH};
use crate::traps::{handle_exception, vector};

use super::SELF;
/// L2 tables in a tree, and L1 tables under each.
const WIDTH: (usize, usize) = (2, 5);
/// L1 tables in a tree.
const L1_TABLES: u64 = (WIDTH.0 * WIDTH.1) as u64;

/// Frames of RAM.
const FRAMES: u64 = 640;

/// A root, with one L3 table, L2 tables under it, and L1 tables under these, in each of whose entries is `page`.
struct Tree {
    root: Mfn,
    l3: Mfn,
    l2: Vec<Mfn>,
    l1: Vec<Mfn>,
    page: Mfn,
}

impl Tree {
    fn new(host: &Host, id: Domid) -> Self {
        let page = frame(host, id);
        let (mut l2, mut l1) = (Vec::new(), Vec::new());
        for _ in 0..WIDTH.0 {
            let tables: Vec<Mfn> = (0..WIDTH.1)
                .map(|_| table(host, id, &[page; 512], RO))
                .collect();
            l2.push(table(host, id, &tables, RW));
            l1.extend(tables);
        }
        let l3 = table(host, id, &l2, RW);
        Self {
            root: table(host, id, &[l3], RW),
            l3,
            l2,
            l1,
            page,
        }
    }

    fn tables(&self) -> impl Iterator<Item = Mfn> {
        let upper = [self.root, self.l3].into_iter();
        upper.chain(self.l2.iter().chain(&self.l1).copied())
    }

    /// Whether no table of it is anything.
    fn is_idle(&self, host: &Host) -> bool {
        self.tables().all(|mfn| stage(host, mfn) == Stage::Idle) && references(host, self.page) == 1
    }

    /// Whether each table of it is one.
    fn is_valid(&self, host: &Host) -> bool {
        self.tables().all(|mfn| stage(host, mfn) == Stage::Valid)
            && references(host, self.page) as u64 == 1 + 512 * L1_TABLES
    }
}

/// A host on which a hypercall's time is up when it has looked so often at the clock, and with room for trees.
fn host(looks: u64) -> Host {
    let host = Host::with_machine(MachineRef::new(Machine::new(FRAMES)));
    host.domain(DOMU).owner.set_max_frames(FRAMES);
    host.hv.machine.set_tsc_step(BUDGET / looks);
    host
}

fn frame(host: &Host, id: Domid) -> Mfn {
    let owner = &host.domain(id).owner;
    let frame = host.hv.memory.allocate(owner, 0, u64::MAX);
    frame.expect("room")
}

/// A frame with such entries.
fn table(host: &Host, id: Domid, entries: &[Mfn], flags: u64) -> Mfn {
    let table = frame(host, id);
    for (index, &mfn) in entries.iter().enumerate() {
        let entry = Pte::new(mfn, flags).0;
        host.hv.machine.store_u64(table, index, entry);
    }
    table
}

fn stage(host: &Host, mfn: Mfn) -> Stage {
    host.hv.memory.state(mfn).expect("RAM").stage
}

fn references(host: &Host, mfn: Mfn) -> u32 {
    host.hv.memory.state(mfn).expect("RAM").references
}

fn check(host: &Host) {
    recount::check(&host.hv).expect("all in order");
}

/// Puts vCPU `vcpu` on a `mmuext_op` with one operation.
fn begin(host: &Host, vcpu: u32, cmd: u32, mfn: Mfn) {
    let op = MmuextOp {
        cmd,
        _pad0: 0,
        arg1: mfn.0,
        arg2: 0,
    };
    let at = host.put(DOMU, &op);
    host.begin_hypercall(DOMU, vcpu, HYPERVISOR_MMUEXT_OP, &[at, 1, 0, SELF]);
}

/// Makes a vCPU's hypercall step by step to its end, with a recount after each; gives the result and the steps.
fn finish(host: &Host, id: Domid, vcpu: u32) -> (i64, u32) {
    let mut steps = 1;
    let mut recount = recount::Recount::default();
    loop {
        let result = host.go_on(id, vcpu, 1);
        recount.check(&host.hv).expect("all in order");
        if let Some(result) = result {
            return (result, steps);
        }
        steps += 1;
    }
}

fn operate(host: &Host, cmd: u32, mfn: Mfn) -> (i64, u32) {
    begin(host, 0, cmd, mfn);
    finish(host, DOMU, 0)
}

/// Gives a domain a second vCPU that runs on the same root as the first.
fn second_vcpu(host: &Host) {
    let domain = host.domain(DOMU);
    lifecycle::create_vcpus(&host.hv, &domain, 2).expect("a vCPU");
    let root = host.layout(DOMU).tables[0];
    let root = host
        .hv
        .memory
        .get_typed(root, DOMU, FrameType::Table(Level::L4))
        .expect("the root");
    let vcpu = domain.vcpu(1).expect("the vCPU");
    let mut state = vcpu.state.lock();
    state.kernel_root = Some(root.into_bits());
    state.initialised = true;
}

#[test]
fn a_big_tree_is_pinned_and_unpinned_in_pieces() {
    for looks in [1, 2, 5] {
        let host = host(looks);
        let tree = Tree::new(&host, DOMU);
        let (result, steps) = operate(&host, MMUEXT_PIN_L4_TABLE, tree.root);
        assert_eq!(result, 0);
        assert!(u64::from(steps) >= L1_TABLES / looks, "{steps}");
        assert!(tree.is_valid(&host));
        let (result, steps) = operate(&host, MMUEXT_UNPIN_TABLE, tree.root);
        assert_eq!(result, 0);
        assert!(u64::from(steps) >= L1_TABLES / looks, "{steps}");
        assert!(tree.is_idle(&host));
    }
}

#[test]
fn no_step_is_a_long_one() {
    let host = host(1);
    let machine = &host.hv.machine;
    let tree = Tree::new(&host, DOMU);
    let entry = (host.layout(DOMU).tables[0].0 << 12) | (7 * 8);
    let update = |val| {
        let at = host.put(DOMU, &MmuUpdate { ptr: entry, val });
        host.begin_hypercall(DOMU, 0, HYPERVISOR_MMU_UPDATE, &[at, 1, 0, SELF]);
    };
    let pin = || begin(&host, 0, MMUEXT_PIN_L4_TABLE, tree.root);
    let unpin = || begin(&host, 0, MMUEXT_UNPIN_TABLE, tree.root);
    let user = |root| begin(&host, 0, MMUEXT_NEW_USER_BASEPTR, root);
    let most = |begin: &dyn Fn()| {
        begin();
        machine.take_most_reads();
        let (mut steps, mut most) = (0, 0);
        while host.go_on(DOMU, 0, 1).is_none() {
            steps += 1;
            // What comes before the first look and after the last.
            machine.tsc();
            most = most.max(machine.take_most_reads());
        }
        assert!(steps > L1_TABLES / 2, "{steps} steps");
        most
    };
    for (begin, bound) in [
        // The arguments, and a table of each level on the way down.
        (&pin as &dyn Fn(), 5),
        // The arguments, a table that is left, and an L1 table.
        (&unpin, 3),
        (&|| update(Pte::new(tree.l3, RW).0), 4),
        (&|| update(0), 3),
        (&|| user(tree.root), 5),
        (&|| user(Mfn(0)), 3),
    ] {
        let most = most(begin);
        assert!(most <= bound, "{most} tables in a step, not {bound}");
    }
    assert!(tree.is_idle(&host));
}

#[test]
fn a_tree_that_is_bad_at_its_very_end_leaves_no_counts() {
    let host = host(1);
    let tree = Tree::new(&host, DOMU);
    let theirs = host.layout(DOM0).scratch[0];
    let last = *tree.l1.last().expect("some");
    host.hv.machine.store_u64(last, 511, Pte::new(theirs, RO).0);
    let before = references(&host, theirs);
    for _ in 0..2 {
        let (result, steps) = operate(&host, MMUEXT_PIN_L4_TABLE, tree.root);
        assert_eq!(result, Errno::EBUSY.to_return());
        assert!(u64::from(steps) >= L1_TABLES);
        // It is taken apart before the next thing is done.
        assert_eq!(
            host.hypercall(DOMU, HYPERVISOR_XEN_VERSION, &[0]),
            4 << 16 | 17
        );
        assert!(tree.is_idle(&host));
        assert_eq!(references(&host, theirs), before);
    }
    host.hv.machine.store_u64(last, 511, 0);
    assert_eq!(operate(&host, MMUEXT_PIN_L4_TABLE, tree.root).0, 0);
}

#[test]
fn what_a_request_let_go_of_is_the_next_ones() {
    let host = host(1);
    let tree = Tree::new(&host, DOMU);
    let [l4, .., l1] = host.layout(DOMU).tables;
    let slot = (l4.0 << 12) | (7 * 8);
    let hook = MmuUpdate {
        ptr: slot,
        val: Pte::new(tree.l3, RW).0,
    };
    let unhook = MmuUpdate { ptr: slot, val: 0 };
    // One frame is written as data, one is mapped writable: both are tables before.
    let write = MmuUpdate {
        ptr: tree.l3.0 << 12,
        val: 0x5555,
    };
    let map = MmuUpdate {
        ptr: l1.0 << 12 | (40 * 8),
        val: Pte::new(tree.l2[1], RW).0,
    };
    let at = host.put_slice(DOMU, &[hook, unhook, write, map]);
    let done = host.put(DOMU, &0_u32);
    host.begin_hypercall(DOMU, 0, HYPERVISOR_MMU_UPDATE, &[at, 4, done, SELF]);
    let (result, steps) = finish(&host, DOMU, 0);
    assert_eq!((result, host.get::<u32>(DOMU, done)), (0, 4));
    assert!(u64::from(steps) > 2 * L1_TABLES);
    assert_eq!(host.hv.machine.load_u64(tree.l3, 0), 0x5555);
    assert_eq!(references(&host, tree.page), 1);
}

#[test]
fn what_a_call_of_a_multicall_let_go_of_is_the_next_ones() {
    let host = host(1);
    let tree = Tree::new(&host, DOMU);
    assert_eq!(operate(&host, MMUEXT_PIN_L4_TABLE, tree.root).0, 0);
    let unpin = MmuextOp {
        cmd: MMUEXT_UNPIN_TABLE,
        _pad0: 0,
        arg1: tree.root.0,
        arg2: 0,
    };
    let unpin = host.put(DOMU, &unpin);
    let va = SCRATCH + 40 * 4096;
    let calls = [
        (HYPERVISOR_MMUEXT_OP, [unpin, 1, 0, SELF, 0, 0]),
        (
            HYPERVISOR_UPDATE_VA_MAPPING,
            [va, Pte::new(tree.l1[7], RW).0, UVMF_INVLPG, 0, 0, 0],
        ),
    ];
    let calls = calls.map(|(op, args)| MulticallEntry {
        op: op.into(),
        result: 0x5555,
        args,
    });
    let at = host.put_slice(DOMU, &calls);
    host.begin_hypercall(DOMU, 0, HYPERVISOR_MULTICALL, &[at, 2]);
    let (result, steps) = finish(&host, DOMU, 0);
    assert_eq!(result, 0);
    assert!(u64::from(steps) > L1_TABLES);
    for index in 0..2 {
        let entry: MulticallEntry = host
            .as_guest(DOMU, |cx| cx.read_element(at, index))
            .unwrap();
        assert_eq!(entry.result, 0, "call {index}");
    }
}

#[test]
fn roots_change_in_pieces() {
    let host = host(1);
    let tree = Tree::new(&host, DOMU);
    let own = host.layout(DOMU).tables[0];
    // The arguments stay where they are.
    let l3 = host.hv.machine.load_u64(own, 0);
    host.hv
        .machine
        .store_u64(tree.root, 1, Pte::new(tree.l3, RW).0);
    host.hv.machine.store_u64(tree.root, 0, l3);
    let pin = operate(&host, MMUEXT_PIN_L4_TABLE, own);
    assert_eq!(pin.0, 0);
    for (cmd, back) in [(MMUEXT_NEW_BASEPTR, own), (MMUEXT_NEW_USER_BASEPTR, Mfn(0))] {
        let (result, steps) = operate(&host, cmd, tree.root);
        assert_eq!(result, 0);
        assert!(u64::from(steps) >= L1_TABLES, "{steps}");
        assert_eq!(stage(&host, tree.root), Stage::Valid);
        let (result, steps) = operate(&host, cmd, back);
        assert_eq!(result, 0);
        assert!(u64::from(steps) >= L1_TABLES, "{steps}");
        assert!(tree.is_idle(&host));
    }
}

#[test]
fn a_root_that_an_instruction_loads_is_validated_in_pieces() {
    const CODE: u64 = SCRATCH + 50 * 4096;
    let host = host(1);
    let tree = Tree::new(&host, DOMU);
    let own = host.hv.machine.load_u64(host.layout(DOMU).tables[0], 0);
    let machine = &host.hv.machine;
    machine.store_u64(tree.root, 1, Pte::new(tree.l3, RW).0);
    machine.store_u64(tree.root, 0, own);
    host.as_guest(DOMU, |cx| {
        // mov cr3, rax
        cx.write_bytes(CODE, &[0x0f, 0x22, 0xd8])
            .expect("scratch memory");
        let regs = &mut cx.state.context.regs;
        (regs.rip, regs.cs, regs.rax) = (CODE, FLAT_RING3_CS64, tree.root.0 << 12);
    });
    let mut steps = 0;
    while host.as_guest(DOMU, |cx| cx.state.context.regs.rip == CODE) {
        assert_eq!(
            host.vcpu(DOMU).state.lock().kernel_root,
            Some(host.layout(DOMU).tables[0])
        );
        host.as_guest(DOMU, |cx| {
            handle_exception(cx, vector::GENERAL_PROTECTION, 0, 0)
        });
        check(&host);
        steps += 1;
    }
    assert!(steps > L1_TABLES, "{steps}");
    assert_eq!(host.vcpu(DOMU).state.lock().kernel_root, Some(tree.root));
}

#[test]
fn a_vcpu_gets_its_first_roots_in_pieces_and_none_twice() {
    let host = host(1);
    let (kernel, user) = (Tree::new(&host, DOMU), Tree::new(&host, DOMU));
    lifecycle::create_vcpus(&host.hv, &host.domain(DOMU), 2).expect("a vCPU");
    let mut context = VcpuGuestContext::new_zeroed();
    context.flags = VGCF_IN_KERNEL;
    context.ctrlreg[3] = kernel.root.0 << 12;
    context.ctrlreg[1] = user.root.0 << 12;
    let initialise = |context: &VcpuGuestContext| {
        let at = host.put(DOMU, context);
        let args = [VCPUOP_INITIALISE.into(), 1, at];
        host.begin_hypercall(DOMU, 0, HYPERVISOR_VCPU_OP, &args);
        finish(&host, DOMU, 0)
    };
    // What was taken of a context that turns out to be bad is given back.
    let bad = *user.l1.last().expect("some");
    let entry = host.hv.machine.load_u64(bad, 511);
    host.hv.machine.store_u64(bad, 511, !Pte::GLOBAL);
    let (result, steps) = initialise(&context);
    assert!(result < 0);
    assert!(
        (2 * L1_TABLES..4 * L1_TABLES).contains(&steps.into()),
        "{steps}"
    );
    let state = host.domain(DOMU).vcpu(1).expect("the vCPU");
    assert_eq!(state.state.lock().kernel_root, None);
    host.hv.machine.store_u64(bad, 511, entry);
    let (result, steps) = initialise(&context);
    assert_eq!(result, 0);
    assert!(
        (2 * L1_TABLES..5 * L1_TABLES).contains(&steps.into()),
        "{steps}"
    );
    assert!(kernel.is_valid(&host) && user.is_valid(&host));

    // The toolstack has it forget them.
    let mut op = Domctl::new(XEN_DOMCTL_SETVCPUCONTEXT, DOMU);
    op.u.set(&DomctlVcpucontext {
        vcpu: 1,
        ctxt: GuestHandle::new(0),
        ..DomctlVcpucontext::new_zeroed()
    });
    lifecycle::toolstack_pause(&host.hv, &host.domain(DOMU));
    let at = host.put(DOM0, &op);
    host.begin_hypercall(DOM0, 0, HYPERVISOR_DOMCTL, &[at]);
    let (result, steps) = finish(&host, DOM0, 0);
    assert_eq!(result, 0);
    assert!(u64::from(steps) >= 2 * L1_TABLES, "{steps}");
    assert!(kernel.is_idle(&host) && user.is_idle(&host));
}

#[test]
fn two_vcpus_that_meet_at_a_partial_table_both_get_on() {
    let host = host(1);
    second_vcpu(&host);
    let tree = Tree::new(&host, DOMU);
    let other_root = table(&host, DOMU, &[tree.l3], RW);
    begin(&host, 0, MMUEXT_PIN_L4_TABLE, tree.root);
    begin(&host, 1, MMUEXT_PIN_L4_TABLE, other_root);
    for _ in 0..L1_TABLES / 2 {
        assert_eq!(host.go_on(DOMU, 0, 1), None);
        check(&host);
    }
    assert!(matches!(stage(&host, tree.l3), Stage::Partial(_)));
    // What the first has done is not done again.
    let (result, steps) = finish(&host, DOMU, 1);
    assert_eq!(result, 0);
    assert!(u64::from(steps) < L1_TABLES, "{steps}");
    assert!(matches!(stage(&host, tree.root), Stage::Partial(_)));
    assert_eq!(finish(&host, DOMU, 0), (0, 2));
    assert!(tree.is_valid(&host));
    for root in [tree.root, other_root] {
        assert_eq!(operate(&host, MMUEXT_UNPIN_TABLE, root).0, 0);
    }
    assert!(tree.is_idle(&host));
}

#[test]
fn a_vcpu_that_meets_a_leaving_table_helps_first() {
    let host = host(1);
    second_vcpu(&host);
    let tree = Tree::new(&host, DOMU);
    assert_eq!(operate(&host, MMUEXT_PIN_L4_TABLE, tree.root).0, 0);
    begin(&host, 0, MMUEXT_UNPIN_TABLE, tree.root);
    for _ in 0..L1_TABLES / 2 {
        assert_eq!(host.go_on(DOMU, 0, 1), None);
    }
    let leaving = |&mfn: &Mfn| matches!(stage(&host, mfn), Stage::Leaving(_));
    assert!(tree.l2.iter().any(leaving));
    begin(&host, 1, MMUEXT_PIN_L4_TABLE, tree.root);
    assert_eq!(finish(&host, DOMU, 1).0, 0);
    assert_eq!(finish(&host, DOMU, 0), (0, 1));
    assert!(tree.is_valid(&host));
}

#[test]
fn a_partial_table_is_nothing_else() {
    let host = host(1);
    let tree = Tree::new(&host, DOMU);
    begin(&host, 0, MMUEXT_PIN_L4_TABLE, tree.root);
    assert_eq!(host.go_on(DOMU, 0, 3), None);
    // The guest turns to other things.
    for mfn in [tree.root, tree.l3, tree.l2[0], tree.l1[0]] {
        let va = SCRATCH + 40 * 4096;
        let args = [va, Pte::new(mfn, RW).0, UVMF_INVLPG];
        let result = host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &args);
        assert_eq!(result, Errno::EBUSY.to_return());
        for cmd in [MMUEXT_PIN_L1_TABLE, MMUEXT_CLEAR_PAGE, MMUEXT_UNPIN_TABLE] {
            if cmd == MMUEXT_PIN_L1_TABLE && mfn == tree.l1[0] {
                continue;
            }
            assert_eq!(operate(&host, cmd, mfn).0, Errno::EINVAL.to_return());
        }
    }
    // A new entry in it means that it is a table first.
    let ptr = tree.root.0 << 12 | (9 * 8);
    let val = Pte::new(tree.l3, RW).0;
    let at = host.put(DOMU, &MmuUpdate { ptr, val });
    host.begin_hypercall(DOMU, 0, HYPERVISOR_MMU_UPDATE, &[at, 1, 0, SELF]);
    let (result, steps) = finish(&host, DOMU, 0);
    assert_eq!(result, 0);
    assert!(u64::from(steps) >= L1_TABLES - 2, "{steps}");
}

#[test]
fn a_domain_that_dies_in_between_leaves_nothing() {
    for unpin in [false, true] {
        for done in [0, 1, 4, 9, 12] {
            let mut host = Host::with_machine(MachineRef::new(Machine::new(FRAMES)));
            let before = host.hv.memory.free_frames();
            host.add_domain(Domid(7), false);
            host.domain(Domid(7)).owner.set_max_frames(FRAMES);
            host.hv.machine.set_tsc_step(BUDGET);
            let tree = Tree::new(&host, Domid(7));
            let given_up = tree.l2[1];
            let op = |cmd| {
                let op = MmuextOp {
                    cmd,
                    _pad0: 0,
                    arg1: tree.root.0,
                    arg2: 0,
                };
                let at = host.put(Domid(7), &op);
                host.begin_hypercall(Domid(7), 0, HYPERVISOR_MMUEXT_OP, &[at, 1, 0, SELF]);
            };
            op(MMUEXT_PIN_L4_TABLE);
            if unpin {
                assert_eq!(host.go_on(Domid(7), 0, 1000), Some(0));
                op(MMUEXT_UNPIN_TABLE);
            }
            assert_eq!(host.go_on(Domid(7), 0, done), None);
            // The domain does not have one of the tables any more.
            let frame = host.hv.memory.get(given_up, Domid(7)).expect("its own");
            assert!(host.hv.memory.release_allocation(frame));
            check(&host);

            let at = host.put(DOM0, &Domctl::new(XEN_DOMCTL_DESTROYDOMAIN, Domid(7)));
            host.begin_hypercall(DOM0, 0, HYPERVISOR_DOMCTL, &[at]);
            assert_eq!(finish(&host, DOM0, 0).0, 0);
            assert!(host.hv.domain(Domid(7)).is_err());
            assert_eq!(host.hv.memory.free_frames(), before);
        }
    }
}

#[test]
fn a_search_for_pins_survives_that_frames_go_meanwhile() {
    let mut host = Host::new();
    let before = host.hv.memory.free_frames();
    host.add_domain(Domid(7), false);
    let memory = &host.hv.memory;
    let domain = host.domain(Domid(7));
    // Pinned and then given up, with frames between them that somebody else refers to.
    let (mut held, mut given_up) = (Vec::new(), Vec::new());
    for index in 0..80 {
        let mfn = frame(&host, Domid(7));
        if index % 2 == 0 {
            let level = if index % 4 == 0 { Level::L1 } else { Level::L3 };
            let pinned = memory.pin(mfn, Domid(7), level, &mut || false);
            assert_eq!(pinned, Ok(()));
        } else {
            held.push(memory.get(mfn, Domid(7)).expect("its own"));
        }
        given_up.push(mfn);
    }
    for mfn in given_up {
        let frame = memory.get(mfn, Domid(7)).expect("its own");
        assert!(memory.release_allocation(frame));
    }
    let mut steps = 0;
    while !lifecycle::destroy(&host.hv, &domain, &mut || true) {
        steps += 1;
        held.pop();
    }
    assert!((40..80).contains(&steps), "{steps} steps for 40 pins");
    drop(held);
    lifecycle::reap(&host.hv);
    assert_eq!(memory.free_frames(), before);
}

#[test]
fn nothing_is_pinned_or_left_partial_once_the_account_is_closed() {
    let host = host(1);
    let tree = Tree::new(&host, DOMU);
    let empty = frame(&host, DOMU);
    let memory = &host.hv.memory;
    memory.close(&host.domain(DOMU).owner);
    for table in [empty, tree.root] {
        let op = MmuextOp {
            cmd: MMUEXT_PIN_L4_TABLE,
            _pad0: 0,
            arg1: table.0,
            arg2: 0,
        };
        let args = [host.put(DOM0, &op), 1, 0, DOMU.0.into()];
        let result = host.hypercall(DOM0, HYPERVISOR_MMUEXT_OP, &args);
        assert_eq!(result, Errno::EINVAL.to_return());
    }
    while !memory.take_apart(&host.domain(DOMU).owner, &mut || true) {
        check(&host);
    }
    assert!(tree.is_idle(&host));
    assert_eq!(stage(&host, empty), Stage::Idle);
}

#[test]
fn the_toolstack_gives_a_vcpu_a_table_that_is_being_let_go_of() {
    let host = host(1);
    let domain = host.domain(DOMU);
    lifecycle::create_vcpus(&host.hv, &domain, 2).expect("a vCPU");
    let tree = Tree::new(&host, DOMU);
    assert_eq!(operate(&host, MMUEXT_PIN_L4_TABLE, tree.root).0, 0);
    begin(&host, 0, MMUEXT_UNPIN_TABLE, tree.root);
    assert_eq!(host.go_on(DOMU, 0, 1), None);
    assert!(matches!(stage(&host, tree.l3), Stage::Leaving(_)));
    let mut context = VcpuGuestContext::new_zeroed();
    context.flags = VGCF_IN_KERNEL;
    context.ctrlreg[3] = tree.root.0 << 12;
    let arm = DomctlVcpucontext {
        vcpu: 1,
        ctxt: GuestHandle::new(host.put(DOM0, &context)),
        ..DomctlVcpucontext::new_zeroed()
    };
    let at = host.put(DOM0, &Domctl::with(XEN_DOMCTL_SETVCPUCONTEXT, DOMU, &arm));
    host.begin_hypercall(DOM0, 0, HYPERVISOR_DOMCTL, &[at]);
    assert_eq!(host.go_on(DOM0, 0, 1), None);
    assert_eq!(finish(&host, DOM0, 0).0, 0);
    assert!(tree.is_valid(&host));
    assert_eq!(finish(&host, DOMU, 0).0, 0);
    assert!(tree.is_valid(&host));
}

#[test]
fn the_control_domain_finishes_what_it_makes_another_domain_let_go_of() {
    for runs in [false, true] {
        let host = host(1);
        let tree = Tree::new(&host, DOMU);
        assert_eq!(operate(&host, MMUEXT_PIN_L4_TABLE, tree.root).0, 0);
        if !runs {
            lifecycle::toolstack_pause(&host.hv, &host.domain(DOMU));
        }
        let op = MmuextOp {
            cmd: MMUEXT_UNPIN_TABLE,
            _pad0: 0,
            arg1: tree.root.0,
            arg2: 0,
        };
        let at = host.put(DOM0, &op);
        let args = [at, 1, 0, DOMU.0.into()];
        host.begin_hypercall(DOM0, 0, HYPERVISOR_MMUEXT_OP, &args);
        assert_eq!(finish(&host, DOM0, 0).0, 0);
        assert_eq!(tree.is_idle(&host), !runs);
    }
}

#[test]
fn processors_that_pin_and_unpin_the_same_tables_leave_them_in_order() {
    let host = Host::with_machine(MachineRef::new(Machine::with_cpus(FRAMES, 4)));
    host.domain(DOMU).owner.set_max_frames(FRAMES);
    let tree = Tree::new(&host, DOMU);
    let roots: Vec<Mfn> = (0..4).map(|_| table(&host, DOMU, &[tree.l3], RW)).collect();
    let (memory, owner) = (&host.hv.memory, &host.domain(DOMU).owner);
    std::thread::scope(|scope| {
        for cpu in 0..4_u32 {
            let roots = &roots;
            scope.spawn(move || {
                Machine::become_cpu(cpu);
                let mut seed = cpu + 1;
                let mut random = move |below: u32| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 8) % below
                };
                for _ in 0..400 {
                    let root = roots[random(4) as usize];
                    let mut looks = random(12);
                    let mut out_of_time = || {
                        looks = looks.saturating_sub(1);
                        looks == 0
                    };
                    // What fails because of another processor fails.
                    match random(3) {
                        0 => drop(memory.pin(root, DOMU, Level::L4, &mut out_of_time)),
                        1 => drop(memory.unpin(root)),
                        _ => drop(memory.take_apart(owner, &mut out_of_time)),
                    }
                }
            });
        }
    });
    check(&host);
    let domain = host.domain(DOMU);
    while !lifecycle::destroy(&host.hv, &domain, &mut || true) {
        check(&host);
    }
    assert!(host.hv.domain(DOMU).is_err());
}
