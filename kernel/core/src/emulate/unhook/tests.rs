//! Guests that store to their page tables, on the simulated processor: what their stores come to, and what they cannot
//! get by them.

use super::*;

use std::sync::{Arc, Mutex};
use std::vec::Vec;

use hv_machine::sim::Machine;
use hv_machine::{Irq, MachineRef};
use hypercall_abi::arch_x86::{FLAT_KERNEL_CS, TrapInfo};
use hypercall_abi::domctl::{Domctl, DomctlVcpucontext, XEN_DOMCTL_SETVCPUCONTEXT};
use hypercall_abi::errno::Errno;
use hypercall_abi::memory::{MemoryExchange, MemoryReservation, XENMEM_EXCHANGE};
use hypercall_abi::sched::SHUTDOWN_CRASH;
use hypercall_abi::types::{Domid, GuestHandle};
use hypercall_abi::xen::*;
use zerocopy::FromZeros;

use crate::hypercall::dispatch;
use crate::lifecycle;
use crate::memory::{FrameType, Level, recount};
use crate::testing::{DOM0, DOMU, Host, RO, RW, SCRATCH, UNMAPPED};
use crate::traps::handle_exception;

const SELF: u64 = Domid::SELF.0 as u64;
/// Notes why the guest left.
struct Record<'r>(&'r mut Option<Exit>);

impl ExitHandler for Record<'_> {
    fn handle(self, _: &mut Current<'_>, exit: Exit) {
        *self.0 = Some(exit);
    }
}

/// `mov [rdi], rax`.
const MOV: [u8; 3] = [0x48, 0x89, 0x07];
const CODE: u64 = SCRATCH + 0x6000;
/// Where exceptions of the guest are handled.
const HANDLER: u64 = 0xffff_8880_0000_0000;
/// Tables behind the one that maps the scratch area: table `n` maps 2 MiB from [`range`] of `n` on, and is itself
/// mapped, read-only, at [`mapped`] of `n`.
const TABLES: u64 = 8;
const FIRST_PAGE: u64 = 40;

fn range(n: u64) -> u64 {
    SCRATCH + (n + 1) * (2 << 20)
}

fn mapped(n: u64) -> u64 {
    SCRATCH + (FIRST_PAGE + n) * 4096
}

fn table(host: &Host, n: u64) -> Mfn {
    host.layout(DOMU).scratch[(FIRST_PAGE + n) as usize]
}

fn host() -> Host {
    with_command_line("")
}

fn with_command_line(line: &str) -> Host {
    let mut machine = Machine::with_cpus(2048, 2);
    machine.set_command_line(line);
    let host = Host::with_machine(MachineRef::new(machine));
    let domain = host.domain(DOMU);
    let assistance = 1 << VMASST_TYPE_WRITABLE_PAGETABLES;
    domain.vm_assist.store(assistance, Ordering::Relaxed);
    host.as_guest(DOMU, |cx| {
        cx.write_bytes(CODE, &MOV).expect("scratch memory");
        cx.state.traps.fill(TrapInfo {
            address: HANDLER,
            ..Default::default()
        });
        let regs = &mut cx.state.context.regs;
        (regs.cs, regs.rsp) = (FLAT_KERNEL_CS, SCRATCH + 0x4000);
    });
    for n in 0..TABLES {
        let mfn = table(&host, n);
        map(&host, mapped(n), Pte::new(mfn, RO).0);
        let [_, _, l2, _] = host.layout(DOMU).tables;
        let index = Level::L2.index(range(n)) as u64;
        assert_eq!(update(&host, l2, index, Pte::new(mfn, RW).0), 0);
    }
    host
}

fn map(host: &Host, va: u64, entry: u64) {
    let args = [va, entry, UVMF_INVLPG];
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &args), 0);
}

fn update(host: &Host, table: Mfn, index: u64, val: u64) -> i64 {
    let ptr = table.0 << 12 | index << 3;
    let request = host.put(DOMU, &MmuUpdate { ptr, val });
    host.hypercall(DOMU, HYPERVISOR_MMU_UPDATE, &[request, 1, 0, SELF])
}

fn extended(host: &Host, cmd: u32, arg1: u64) -> i64 {
    let op = MmuextOp {
        cmd,
        arg1,
        ..FromZeros::new_zeroed()
    };
    let op = host.put(DOMU, &op);
    host.hypercall(DOMU, HYPERVISOR_MMUEXT_OP, &[op, 1, 0, SELF])
}

/// An entry that maps a page of the scratch area once more.
fn page(host: &Host, number: usize) -> u64 {
    Pte::new(host.layout(DOMU).scratch[number], RW).0
}

fn counted(host: &Host, counter: Counter) -> u32 {
    host.hv.counters.values(counter as usize).sum()
}

/// Addresses and words that are stored there, in order.
type Stores = Vec<(u64, u64)>;

/// All entries of table `n`.
fn whole_table(n: u64, word: u64) -> Stores {
    (0..512)
        .map(|index| (mapped(n) + index * 8, word))
        .collect()
}

/// Executes stores as a processor does, each as [`MOV`]; gives how many faulted. It ends early where a fault was
/// handed to the guest or the guest has crashed.
fn execute(host: &Host, stores: Stores) -> u32 {
    let rest = Arc::new(Mutex::new(stores.into_iter().peekable()));
    let mut faults = 0;
    host.as_guest(DOMU, |cx| {
        cx.state.context.regs.rip = CODE;
        while cx.vcpu.is_runnable() && cx.state.context.regs.rip & !0xfff == CODE {
            let rest = rest.clone();
            cx.machine().script_program(move |machine, context| {
                let mut rest = rest.lock().expect("one at a time");
                if context.regs.rip != CODE {
                    rest.next();
                }
                context.regs.rip = CODE;
                while let Some(&(va, word)) = rest.peek() {
                    if machine.copy_to_guest(va, &word.to_le_bytes()).is_err() {
                        (context.regs.rdi, context.regs.rax) = (va, word);
                        let there = machine.copy_from_guest(va, &mut [0]).is_ok();
                        return Exit::Exception {
                            vector: vector::PAGE_FAULT,
                            error_code: error_code::WRITE
                                | error_code::USER
                                | if there { error_code::PRESENT } else { 0 },
                            fault_address: va,
                        };
                    }
                    rest.next();
                }
                Exit::Interrupt(Irq::Spurious)
            });
            let mut left = None;
            enter(cx, Record(&mut left));
            match left {
                Some(Exit::Interrupt(_)) => break,
                Some(Exit::Exception {
                    vector,
                    error_code,
                    fault_address,
                }) => {
                    faults += 1;
                    handle_exception(cx, vector, error_code, fault_address);
                }
                Some(other) => panic!("{other:?}"),
                None => faults += 1,
            }
        }
    });
    recount::check(&host.hv).expect("all in order");
    faults
}

/// Has the guest store to an entry of a table, which is to be unhooked when it runs on.
fn trap(host: &Host, va: u64) {
    host.as_guest(DOMU, |cx| {
        cx.state.table_stores.make_eager();
        let regs = &mut cx.state.context.regs;
        (regs.rip, regs.rdi, regs.rax) = (CODE, va, 0);
        handle_exception(cx, vector::PAGE_FAULT, 7, va);
        assert_eq!(cx.state.context.regs.rip, CODE + 3, "carried out");
    });
}

/// Has the guest store to a table until that is unhooked, and run on; gives the table.
fn unhooked(host: &Host, n: u64) -> Option<Mfn> {
    trap(host, mapped(n));
    let unhooked = host.resume(DOMU);
    recount::check(&host.hv).expect("all in order while it is unhooked");
    unhooked
}

/// What the guest stores by itself.
fn store(host: &Host, va: u64, word: u64) {
    let machine = &host.hv.machine;
    let stored = machine.copy_to_guest(va, &word.to_le_bytes());
    stored.expect("the table is the guest's to write");
}

fn entry(host: &Host, n: u64, index: usize) -> u64 {
    host.hv.machine.load_u64(table(host, n), index)
}

fn crashed(host: &Host) -> bool {
    host.domain(DOMU).life.lock().shutdown == Some(SHUTDOWN_CRASH)
}

#[test]
fn a_kernel_that_fills_tables_traps_once_for_each() {
    let host = host();
    let word = page(&host, 9);
    let stores = (0..TABLES).flat_map(|n| whole_table(n, word)).collect();
    let faults = execute(&host, stores);
    assert_eq!(faults, TABLES as u32 + PATIENCE - 1);
    assert_eq!(counted(&host, Counter::TableFaults), faults);
    assert_eq!(counted(&host, Counter::TableStores), faults);
    assert_eq!(counted(&host, Counter::Unhooks), TABLES as u32);
    assert_eq!(counted(&host, Counter::Rehooks), TABLES as u32);
    assert_eq!(
        counted(&host, Counter::ChangedEntries) + faults,
        512 * TABLES as u32
    );
    let state = host.hv.memory.state(host.layout(DOMU).scratch[9]);
    let types = state.expect("a frame").types;
    assert_eq!(
        u64::from(types),
        512 * TABLES + 1,
        "and where it was mapped"
    );
    host.put_at(DOMU, range(3) + 77 * 4096, &0x1234_u64);
    assert_eq!(host.get::<u64>(DOMU, SCRATCH + 9 * 4096), 0x1234);
    // Empty again, which is found out as quickly.
    let stores = (0..TABLES).flat_map(|n| whole_table(n, 0)).collect();
    assert_eq!(execute(&host, stores), TABLES as u32);
    let state = host.hv.memory.state(host.layout(DOMU).scratch[9]);
    assert_eq!(state.expect("a frame").types, 1);
}

#[test]
fn every_store_is_a_trap_where_the_command_line_or_the_guest_wants_it_so() {
    let host = with_command_line("unhook=off");
    let word = page(&host, 9);
    assert_eq!(execute(&host, whole_table(0, word)), 512);
    assert_eq!(counted(&host, Counter::Unhooks), 0);
    let host = self::host();
    host.domain(DOMU).vm_assist.store(0, Ordering::Relaxed);
    assert_eq!(execute(&host, whole_table(0, word)), 1);
    assert_eq!(host.as_guest(DOMU, |cx| cx.state.cr2), mapped(0));
    assert_eq!(entry(&host, 0, 0), 0);
}

#[test]
fn entries_become_what_a_validated_table_has() {
    let host = host();
    let frame = host.layout(DOMU).scratch[9];
    let kernel = Pte::new(frame, Pte::PRESENT | Pte::GLOBAL).0;
    assert_eq!(unhooked(&host, 0), Some(table(&host, 0)));
    store(&host, mapped(0) + 8, kernel);
    store(&host, mapped(0) + 16, 0xdead_beee);
    host.interrupt();
    assert_eq!(entry(&host, 0, 1), Pte(kernel).adjusted(Level::L1).0);
    assert_eq!(entry(&host, 0, 2), 0xdead_beee);
    recount::check(&host.hv).expect("all in order");
}

#[test]
fn what_it_may_not_store_has_no_effect_and_ends_it() {
    let tables: [fn(&Host) -> u64; 5] = [
        // A frame of another domain, a page table writable, its own, one of the hypervisor's, a reserved bit.
        |host| Pte::new(host.layout(DOM0).scratch[0], RO).0,
        |host| Pte::new(host.layout(DOMU).tables[3], RW).0,
        |host| Pte::new(table(host, 0), RW).0,
        |_| Pte::new(Mfn(1), RO).0,
        |host| page(host, 9) | 1 << 51,
    ];
    for bad in tables {
        let host = host();
        let (bad, good) = (bad(&host), page(&host, 9));
        host.hv.machine.take_output();
        let mut stores = whole_table(0, good);
        stores[100].1 = bad;
        stores[511].1 = good & !Pte::PRESENT;
        execute(&host, stores);
        assert!(crashed(&host));
        assert_eq!(entry(&host, 0, 99), good);
        assert_eq!(entry(&host, 0, 100), 0, "as it was");
        assert_eq!(entry(&host, 0, 511), good & !Pte::PRESENT);
        let told = host.hv.machine.take_output();
        let line = format!(
            "d1v0: may not have Pte({bad:#x}) as entry 100 of L1 table {}",
            table(&host, 0)
        );
        assert!(told.contains(&line), "{told}");
        // What it leaves behind can be taken apart.
        assert!(lifecycle::destroy(
            &host.hv,
            &host.domain(DOMU),
            &mut || false
        ));
        recount::check(&host.hv).expect("all in order");
        assert!(host.hv.domain(DOMU).is_err());
    }
}

#[test]
fn an_access_through_the_table_is_made_again_when_that_is_hooked_back() {
    let host = host();
    let word = page(&host, 9);
    let mut stores = whole_table(0, word);
    stores.push((range(0) + 5 * 4096 + 8, 0x7777));
    let faults = execute(&host, stores);
    assert_eq!(faults, PATIENCE + 1);
    assert_eq!(counted(&host, Counter::Touches), 1);
    assert_eq!(host.get::<u64>(DOMU, SCRATCH + 9 * 4096 + 8), 0x7777);
    // What is not there is the guest's fault, once the table has said so.
    execute(
        &host,
        vec![
            (mapped(0), 0),
            (mapped(0) + 8, 0),
            (range(0) + 4096, 0x7777),
        ],
    );
    assert_eq!(counted(&host, Counter::Touches), 2);
    host.as_guest(DOMU, |cx| {
        assert_eq!(
            (cx.state.cr2, cx.state.context.regs.rip),
            (range(0) + 4096, HANDLER)
        );
    });
}

#[test]
fn a_fault_elsewhere_is_seen_to_at_once() {
    let host = host();
    let mut stores = whole_table(0, page(&host, 9));
    stores.push((UNMAPPED, 0x7777));
    execute(&host, stores);
    assert_eq!(counted(&host, Counter::Rehooks), 1);
    assert_eq!(counted(&host, Counter::Touches), 0);
    assert_eq!(host.as_guest(DOMU, |cx| cx.state.cr2), UNMAPPED);
}

#[test]
fn what_a_guest_wants_after_a_bad_store_is_not_done() {
    let host = host();
    let bad = Pte::new(host.layout(DOM0).scratch[0], RO).0;
    let mut left = None;
    trap(&host, mapped(0));
    host.as_guest(DOMU, |cx| {
        cx.machine().script_program(move |machine, _| {
            let stored = machine.copy_to_guest(mapped(0) + 8, &bad.to_le_bytes());
            stored.expect("the table is the guest's to write");
            Exit::Syscall
        });
        enter(cx, Record(&mut left));
    });
    assert!(crashed(&host));
    assert!(left.is_none(), "{left:?}");
}

#[test]
fn only_stores_to_one_table_in_a_row_unhook_it() {
    let host = host();
    let word = page(&host, 9);
    let both = |index: u64| [0, 1].map(|n| (mapped(n) + index * 8, word));
    assert_eq!(execute(&host, (0..20).flat_map(both).collect()), 40);
    assert_eq!(counted(&host, Counter::Unhooks), 0);
}

#[test]
fn as_many_changes_as_stores_that_it_takes_are_worth_it() {
    for (changes, traps) in [(WORTHWHILE, 1), (WORTHWHILE - 1, PATIENCE)] {
        let host = host();
        let word = page(&host, 9);
        assert!(unhooked(&host, 0).is_some());
        for index in 1..=u64::from(changes) {
            store(&host, mapped(0) + index * 8, word);
        }
        host.interrupt();
        assert_eq!(execute(&host, whole_table(1, word)), traps);
    }
}

#[test]
fn what_comes_to_the_same_entry_is_no_change() {
    let host = host();
    let word = page(&host, 9);
    assert_eq!(update(&host, table(&host, 0), 5, word), 0);
    assert!(unhooked(&host, 0).is_some());
    store(&host, mapped(0) + 5 * 8, word | Pte::GLOBAL);
    host.interrupt();
    assert_eq!(entry(&host, 0, 5), word);
    assert_eq!(counted(&host, Counter::ChangedEntries), 0);
}

#[test]
fn an_entry_that_was_not_stored_to_is_not_checked_again() {
    let host = host();
    let registers = Mfn(1 << 20);
    let owner = &host.domain(DOMU).owner;
    let allow = |allow| owner.set_io_memory(registers, registers, allow);
    assert_eq!(allow(true), Ok(()));
    let uncached = Pte::new(registers, RW | Pte::PWT | Pte::PCD).0;
    assert_eq!(update(&host, table(&host, 0), 5, uncached), 0);
    // What is mapped stays so, as on Xen.
    assert_eq!(allow(false), Ok(()));
    trap(&host, mapped(0));
    assert!(host.resume(DOMU).is_some());
    store(&host, mapped(0) + 8, page(&host, 9));
    host.interrupt();
    assert!(!crashed(&host));
    assert_eq!(entry(&host, 0, 5), uncached);
}

#[test]
fn a_table_that_is_used_between_any_two_stores_is_seldom_unhooked() {
    let host = host();
    let word = page(&host, 9);
    let touch = (range(0), 1);
    let one = |index: u64| [(mapped(0) + index * 8, word), touch];
    let stores: Stores = (0..512).flat_map(one).collect();
    let faults = execute(&host, stores);
    assert!(counted(&host, Counter::Unhooks) < 16);
    assert!(faults < 512 + 16);
}

#[test]
fn a_processor_has_no_way_to_an_unhooked_table() {
    let [l4, l3, l2, _] = host().layout(DOMU).tables;
    let at = |va, level: Level| level.index(va) as u64;
    // A second entry for the table, for the table above it, and for the one above that; none of these is left out.
    for (above, index, names) in [
        (l2, at(range(9), Level::L2), None),
        (l3, at(SCRATCH, Level::L3) + 1, Some(l2)),
        (l4, at(SCRATCH, Level::L4) + 1, Some(l3)),
    ] {
        let host = host();
        let names = names.unwrap_or(table(&host, 0));
        assert_eq!(update(&host, above, index, Pte::new(names, RW).0), 0);
        assert_eq!(unhooked(&host, 0), None);
        assert_eq!(update(&host, above, index, 0), 0);
        assert_eq!(unhooked(&host, 0), Some(table(&host, 0)));
    }
}

#[test]
fn an_entry_that_is_not_present_is_no_way_to_a_table() {
    let host = host();
    let [_, _, l2, _] = host.layout(DOMU).tables;
    // Before the one that is.
    let before = Level::L2.index(range(1)) as u64;
    let entry = Pte::new(table(&host, 3), RW & !Pte::PRESENT).0;
    assert_eq!(update(&host, l2, before, entry), 0);
    assert!(unhooked(&host, 3).is_some());
    assert_eq!(host.hv.machine.cpu(0).hole, Some(range(3)));
}

#[test]
fn only_what_a_kernel_maps_by_an_l1_table_is_unhooked() {
    let host = host();
    let [l4, _, l2, _] = host.layout(DOMU).tables;
    // By the time that the guest runs, its kernel has unmapped it, or does not run.
    trap(&host, mapped(0));
    let absent = Pte::new(table(&host, 0), RO & !Pte::PRESENT).0;
    map(&host, mapped(0), absent);
    assert_eq!(host.resume(DOMU), None);
    trap(&host, mapped(2));
    host.as_guest(DOMU, |cx| cx.state.kernel_mode = false);
    assert_eq!(host.resume(DOMU), None);
    host.as_guest(DOMU, |cx| cx.state.kernel_mode = true);
    // By a root that names itself, what maps it is the entry of a page directory.
    const SLOT: usize = 300;
    assert_eq!(update(&host, l4, SLOT as u64, Pte::new(l4, RO).0), 0);
    let indices = [Level::L4, Level::L3, Level::L2].map(|level| level.index(range(1)));
    let entry = Pte::new(table(&host, 1), RO).0;
    assert_eq!(update(&host, l2, indices[2] as u64, entry), 0);
    let place = indices.iter().fold(SLOT, |all, index| all << 9 | index);
    trap(&host, 0xffff_0000_0000_0000 | (place as u64) << 12);
    assert_eq!(host.resume(DOMU), None);
}

#[test]
fn a_table_that_maps_itself_stays_hooked() {
    let host = host();
    let first = host.layout(DOMU).tables[3];
    let itself = SCRATCH + 63 * 4096;
    map(&host, itself, Pte::new(first, RO).0);
    let word = page(&host, 9);
    let faults = execute(&host, vec![(itself + 8 * 30, word); 50]);
    assert_eq!(faults, 50);
    assert_eq!(counted(&host, Counter::Unhooks), 0);
}

#[test]
fn pinned_tables_are_unhooked_too() {
    let host = host();
    assert_eq!(extended(&host, MMUEXT_PIN_L1_TABLE, table(&host, 0).0), 0);
    assert_eq!(unhooked(&host, 0), Some(table(&host, 0)));
    store(&host, mapped(0) + 8, page(&host, 9));
    assert_eq!(extended(&host, MMUEXT_UNPIN_TABLE, table(&host, 0).0), 0);
    recount::check(&host.hv).expect("all in order");
    // Pinned and nowhere hooked.
    let [_, _, l2, _] = host.layout(DOMU).tables;
    assert_eq!(extended(&host, MMUEXT_PIN_L1_TABLE, table(&host, 1).0), 0);
    let index = Level::L2.index(range(1)) as u64;
    assert_eq!(update(&host, l2, index, 0), 0);
    assert_eq!(unhooked(&host, 1), Some(table(&host, 1)));
    store(&host, mapped(1) + 8, page(&host, 9));
    assert_eq!(extended(&host, MMUEXT_UNPIN_TABLE, table(&host, 1).0), 0);
    assert_eq!(host.hv.memory.type_in_use(table(&host, 1)), FrameType::None);
    recount::check(&host.hv).expect("all in order");
}

#[test]
fn hypercalls_find_the_table_hooked() {
    let host = host();
    let [_, _, l2, _] = host.layout(DOMU).tables;
    let at = Level::L2.index(range(0)) as u64;
    let word = page(&host, 9);
    // Its mapping goes, while it is unhooked.
    assert!(unhooked(&host, 0).is_some());
    store(&host, mapped(0) + 8, word);
    map(&host, mapped(0), 0);
    recount::check(&host.hv).expect("all in order");
    map(&host, mapped(0), Pte::new(table(&host, 0), RO).0);
    // It becomes an ordinary page.
    assert!(unhooked(&host, 0).is_some());
    store(&host, mapped(0) + 16, word);
    assert_eq!(update(&host, l2, at, 0), 0);
    map(&host, mapped(0), Pte::new(table(&host, 0), RW).0);
    recount::check(&host.hv).expect("all in order");
    host.put_at(DOMU, mapped(0), &u64::MAX);
    // Which it cannot leave with what was written to it then.
    map(&host, mapped(0), Pte::new(table(&host, 0), RO).0);
    let entry = Pte::new(table(&host, 0), RW).0;
    assert_ne!(update(&host, l2, at, entry), 0);
    // Its frame is not given away, hooked as it is.
    assert!(unhooked(&host, 1).is_some());
    store(&host, mapped(1) + 8, word);
    let gives = host.put(DOMU, &table(&host, 1).0);
    let gets = host.put(DOMU, &0_u64);
    let side = |at| {
        let mut side = MemoryReservation::new_zeroed();
        (side.extent_start, side.nr_extents) = (GuestHandle::new(at), 1);
        side.domid = Domid::SELF;
        side
    };
    let mut exchange = MemoryExchange::new_zeroed();
    (exchange.in_, exchange.out) = (side(gives), side(gets));
    let argument = host.put(DOMU, &exchange);
    let args = [XENMEM_EXCHANGE.into(), argument];
    let refused = Errno::EINVAL.to_return();
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_MEMORY_OP, &args), refused);
    recount::check(&host.hv).expect("all in order");
    // The root stays, and the root goes.
    assert!(unhooked(&host, 2).is_some());
    store(&host, mapped(2) + 8, word);
    let root = host.layout(DOMU).tables[0];
    assert_eq!(extended(&host, MMUEXT_NEW_BASEPTR, root.0), 0);
    assert!(unhooked(&host, 2).is_some());
    store(&host, mapped(2) + 16, word);
    let other = host.layout(DOMU).scratch[50];
    map(&host, SCRATCH + 50 * 4096, 0);
    let entry = host.hv.machine.load_u64(root, Level::L4.index(SCRATCH));
    host.hv
        .machine
        .store_u64(other, Level::L4.index(SCRATCH), entry);
    assert!(unhooked(&host, 2).is_some());
    store(&host, mapped(2) + 24, word);
    assert_eq!(extended(&host, MMUEXT_NEW_BASEPTR, other.0), 0);
    recount::check(&host.hv).expect("all in order");
    assert_eq!(host.hv.machine.current_root(), other);
    assert!(unhooked(&host, 2).is_some(), "under the other root as well");
    host.interrupt();
    assert_eq!(self::entry(&host, 2, 3), word);
}

#[test]
fn a_domain_dies_with_its_tables_hooked() {
    let mut host = host();
    let before = host.hv.memory.free_frames();
    let domain = host.domain(DOMU);
    assert!(unhooked(&host, 0).is_some());
    store(&host, mapped(0) + 8, page(&host, 9));
    // Its vCPU leaves before it is taken apart.
    host.interrupt();
    assert!(lifecycle::destroy(&host.hv, &domain, &mut || false));
    recount::check(&host.hv).expect("all in order");
    assert!(host.hv.domain(DOMU).is_err());
    assert!(host.hv.memory.free_frames() > before);
    host.add_domain(DOMU, false);
}

#[test]
fn nothing_is_unhooked_while_another_vcpu_runs() {
    let host = host();
    let domain = host.domain(DOMU);
    lifecycle::create_vcpus(&host.hv, &domain, 2).expect("a second vCPU");
    let second = domain.vcpu(1).expect("the second vCPU");
    second.running.store(true, Ordering::SeqCst);
    assert_eq!(unhooked(&host, 0), None);
    let claimed = domain.unhooking.cpu.load(Ordering::SeqCst);
    assert_eq!(claimed, 0, "nobody waits for it");
    second.running.store(false, Ordering::SeqCst);
    assert!(unhooked(&host, 0).is_some());
    host.interrupt();
    let hold = Hold::new(&host.hv, domain.clone());
    assert_eq!(unhooked(&host, 0), None);
    drop(hold);
    assert!(unhooked(&host, 0).is_some());
}

#[test]
fn another_cpu_waits_until_the_table_is_hooked_back() {
    let host = host();
    let domain = host.domain(DOMU);
    assert!(unhooked(&host, 0).is_some());
    store(&host, mapped(0) + 8, page(&host, 9));
    let (hv, domain) = (&host.hv, &domain);
    hv.machine.take_interrupted();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            Machine::become_cpu(1);
            let _hold = Hold::new(hv, domain.clone());
            domain.unhooking.cpu.load(Ordering::SeqCst)
        });
        // The guest would else run on to the end of its time.
        while hv.machine.take_interrupted() & 1 == 0 {
            assert!(!other.is_finished());
            std::thread::yield_now();
        }
        assert!(!other.is_finished());
        host.interrupt();
        assert_eq!(other.join().expect("it waits, then goes on"), 0);
    });
    recount::check(&host.hv).expect("all in order");
}

#[test]
fn a_toolstack_takes_a_vcpus_tables_only_while_all_are_hooked() {
    let host = host();
    let domain = host.domain(DOMU);
    lifecycle::create_vcpus(&host.hv, &domain, 2).expect("a second vCPU");
    let mut op = Domctl::new(XEN_DOMCTL_SETVCPUCONTEXT, DOMU);
    op.u.set(&DomctlVcpucontext {
        vcpu: 1,
        ..FromZeros::new_zeroed()
    });
    let at = host.put(DOM0, &op);
    assert!(unhooked(&host, 0).is_some());
    let (hv, dom0) = (&host.hv, &host.domain(DOM0));
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            Machine::become_cpu(1);
            let vcpu = dom0.vcpu(0).expect("vCPU 0");
            let mut state = vcpu.state.lock();
            hv.machine.load_root(state.root().expect("a root"));
            let mut cx = Current::new(hv, dom0, &vcpu, &mut state);
            cx.deadline.set(Some(u64::MAX));
            dispatch(&mut cx, HYPERVISOR_DOMCTL.into(), &[at, 0, 0, 0, 0, 0])
        });
        while domain.unhooking.holds.load(Ordering::SeqCst) == 0 && !other.is_finished() {
            std::thread::yield_now();
        }
        assert!(!other.is_finished());
        host.interrupt();
        assert_eq!(other.join().expect("it waits, then goes on"), Ok(0));
    });
    recount::check(&host.hv).expect("all in order");
}
