//! A host on the simulated machine, for tests: a control domain and an ordinary one, each with a vCPU, page
//! tables of their own making and some scratch memory.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use hv_machine::sim::Machine;
use hv_machine::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START, MachineRef, Platform};
use hypercall_abi::types::{Domid, Mfn};
use hypercall_abi::xen::{
    HYPERVISOR_MMU_UPDATE, HYPERVISOR_UPDATE_VA_MAPPING, MmuUpdate, UVMF_INVLPG,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::current::Current;
use crate::descriptor;
use crate::domain::Domain;
use crate::emulate::unhook;
use crate::hypercall;
use crate::hypervisor::Hypervisor;
use crate::lifecycle::{self, NewDomain};
use crate::memory::{FrameType, Level, Pte};
use crate::sched;
use crate::vcpu::Vcpu;

/// Where each domain's scratch pages are mapped, writable.
pub const SCRATCH: u64 = 0x1_0000_0000;
/// Where the guest's instruction pointer is behind the `syscall` of a hypercall.
const RIP: u64 = 0x1000;
/// Number of scratch pages.
pub const SCRATCH_PAGES: u64 = 64;
/// An address that is mapped in no domain.
pub const UNMAPPED: u64 = 0x2_0000_0000;
/// Addresses from which a guest reads no two bytes: mapped nowhere, in the hypervisor's range or at its ends, not
/// canonical, at the end of all addresses, and in a page whose successor is not mapped.
pub const BAD_ADDRESSES: [u64; 8] = [
    1,
    UNMAPPED,
    HYPERVISOR_VIRT_START,
    HYPERVISOR_VIRT_START - 1,
    HYPERVISOR_VIRT_END - 1,
    1 << 47,
    u64::MAX,
    SCRATCH + SCRATCH_PAGES * 4096 - 1,
];
/// Numbers that name no domain.
pub const NOBODY: [Domid; 4] = [Domid(99), Domid::COW, Domid::INVALID, Domid::IDLE];
/// The control domain.
pub const DOM0: Domid = Domid(0);
/// The ordinary domain.
pub const DOMU: Domid = Domid(1);

/// Ticks of the simulated time-stamp counter that a hypercall may take.
pub const BUDGET: u64 = hv_machine::sim::TSC_KHZ * 1000 / hypercall::BUDGET_PER_SECOND;

/// Guest-kernel mapping of a page, writable.
pub const RW: u64 = Pte::PRESENT | Pte::WRITABLE | Pte::USER | Pte::ACCESSED | Pte::DIRTY;
/// Guest-kernel mapping of a page, read-only.
pub const RO: u64 = Pte::PRESENT | Pte::USER | Pte::ACCESSED;

/// The frames that a test domain begins with.
#[derive(Clone, Debug)]
pub struct Layout {
    /// L4, L3, L2 and L1 table of the scratch area.
    pub tables: [Mfn; 4],
    /// Frames of the scratch pages, in order.
    pub scratch: Vec<Mfn>,
}

/// The host.
pub struct Host {
    /// The hypervisor under test.
    pub hv: Hypervisor,
    layouts: BTreeMap<Domid, Layout>,
    used: RefCell<BTreeMap<Domid, u64>>,
    /// The vCPU on each CPU.
    running: RefCell<BTreeMap<u32, Arc<Vcpu>>>,
    vcpu: Cell<u32>,
    scratch_pages: u64,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A machine of 16 MiB and one CPU with [`DOM0`] and [`DOMU`].
    pub fn new() -> Self {
        Self::with_machine(MachineRef::new(Machine::new(4096)))
    }

    /// The same on a machine that the test made.
    pub fn with_machine(machine: MachineRef) -> Self {
        Self::with_scratch(machine, SCRATCH_PAGES)
    }

    /// The same with another number of scratch pages, up to [`SCRATCH_PAGES`].
    pub fn with_scratch(machine: MachineRef, scratch_pages: u64) -> Self {
        let hv = Hypervisor::new(machine);
        let mut host = Self {
            hv,
            layouts: BTreeMap::new(),
            used: RefCell::default(),
            running: RefCell::default(),
            vcpu: Cell::new(0),
            scratch_pages,
        };
        host.add_domain(DOM0, true);
        host.add_domain(DOMU, false);
        host
    }

    /// Adds a domain with one vCPU that is up and in kernel mode.
    pub fn add_domain(&mut self, id: Domid, privileged: bool) {
        let new = NewDomain {
            id,
            privileged,
            handle: [id.0 as u8; 16],
            max_vcpus: crate::domain::MAX_VCPUS,
            max_port: 1024,
            grants: self.hv.options.grants.limits,
        };
        let domain = lifecycle::create(&self.hv, &new).expect("a domain");
        domain.owner.set_max_frames(256);
        lifecycle::create_vcpus(&self.hv, &domain, 1).expect("a vCPU");
        let frame = || {
            self.hv
                .memory
                .allocate(&domain.owner, 0, u64::MAX)
                .expect("a frame")
        };
        let tables = [frame(), frame(), frame(), frame()];
        let scratch: Vec<Mfn> = (0..self.scratch_pages).map(|_| frame()).collect();
        let machine = &self.hv.machine;
        for (table, level) in tables.windows(2).zip([Level::L4, Level::L3, Level::L2]) {
            machine.store_u64(table[0], level.index(SCRATCH), Pte::new(table[1], RW).0);
        }
        for (index, &mfn) in scratch.iter().enumerate() {
            machine.store_u64(tables[3], index, Pte::new(mfn, RW).0);
        }
        let root = self
            .hv
            .memory
            .get_typed(tables[0], id, FrameType::Table(Level::L4))
            .expect("a valid root");
        let vcpu = domain.vcpu(0).expect("vCPU 0");
        {
            let mut state = vcpu.state.lock_out_of_order();
            state.kernel_root = Some(root.into_bits());
            state.initialised = true;
        }
        vcpu.down.store(false, Ordering::Release);
        lifecycle::toolstack_unpause(&self.hv, &domain).expect("paused as created");
        self.layouts.insert(id, Layout { tables, scratch });
    }

    /// A domain.
    pub fn domain(&self, id: Domid) -> Arc<Domain> {
        self.hv.domain(id).expect("the domain lives")
    }

    /// vCPU 0 of a domain.
    pub fn vcpu(&self, id: Domid) -> Arc<Vcpu> {
        self.domain(id).vcpu(0).expect("vCPU 0")
    }

    /// The frames that a domain began with.
    pub fn layout(&self, id: Domid) -> &Layout {
        &self.layouts[&id]
    }

    /// Works as vCPU `vcpu` of a domain on this CPU, with its address space loaded. There it stays, with what the CPU
    /// remembers of its tables, until another vCPU comes or [`Self::stop`]. Whichever vCPU ran its
    /// own code until now was interrupted.
    pub fn as_vcpu<R>(&self, id: Domid, vcpu: u32, work: impl FnOnce(&mut Current<'_>) -> R) -> R {
        self.interrupt();
        let domain = self.domain(id);
        let vcpu = domain.vcpu(vcpu).expect("the vCPU");
        let mut state = vcpu.state.lock_out_of_order();
        let machine = &self.hv.machine;
        let stays = {
            let mut running = self.running.borrow_mut();
            let before = running.insert(machine.cpu_id(), vcpu.clone());
            let stays = before.as_ref().is_some_and(|it| Arc::ptr_eq(it, &vcpu));
            if let Some(before) = before.filter(|_| !stays) {
                before.running.store(false, Ordering::SeqCst);
            }
            stays
        };
        sched::switching_in(&self.hv, &vcpu);
        if let Some(root) = state.root()
            && (!stays || machine.current_root() != root)
        {
            machine.load_root(root);
        }
        if !stays {
            descriptor::load(machine, &state);
        }
        let mut cx = Current::new(&self.hv, &domain, &vcpu, &mut state);
        cx.deadline.set(Some(u64::MAX));
        work(&mut cx)
    }

    /// Ends what [`Self::resume`] began.
    pub fn interrupt(&self) {
        let domains: Vec<_> = self.hv.domains.read().values().cloned().collect();
        for domain in domains {
            for vcpu in domain.vcpus() {
                // Who works as it now, does not run its code.
                let Some(mut state) = vcpu.state.try_lock() else {
                    continue;
                };
                let mut cx = Current::new(&self.hv, &domain, &vcpu, &mut state);
                cx.deadline.set(Some(u64::MAX));
                unhook::hook_back(&mut cx);
            }
        }
    }

    /// Has vCPU 0 of a domain run its own code: copies from and to guest memory are its accesses. Gives the L1 table
    /// that is unhooked meanwhile.
    pub fn resume(&self, id: Domid) -> Option<Mfn> {
        self.as_guest(id, |cx| {
            unhook::unhook(cx);
            let unhooked = cx.state.table_stores.unhooked();
            unhooked.map(|(unhooked, _)| unhooked.table)
        })
    }

    /// Takes whatever vCPU runs there from CPU `cpu`, whose root stays loaded.
    pub fn stop(&self, cpu: u32) {
        if let Some(vcpu) = self.running.borrow_mut().remove(&cpu) {
            vcpu.running.store(false, Ordering::SeqCst);
            let before = self.hv.machine.cpu_id();
            Machine::become_cpu(cpu);
            self.hv.machine.leave_root();
            Machine::become_cpu(before);
        }
    }

    /// Goes on as CPU `cpu` and there as the vCPUs of the same number, instead of the vCPUs 0.
    pub fn become_cpu(&self, cpu: u32) {
        Machine::become_cpu(cpu);
        self.vcpu.set(cpu);
    }

    /// Works as vCPU 0 of a domain, or as that of [`Self::become_cpu`].
    pub fn as_guest<R>(&self, id: Domid, work: impl FnOnce(&mut Current<'_>) -> R) -> R {
        self.as_vcpu(id, self.vcpu.get(), work)
    }

    /// Makes a hypercall as [`Self::as_guest`], through its registers, until it is finished; gives the register
    /// that the guest would read: a result or a negated errno.
    pub fn hypercall(&self, id: Domid, number: u32, args: &[u64]) -> i64 {
        let vcpu = self.vcpu.get();
        self.begin_hypercall(id, vcpu, number, args);
        self.go_on(id, vcpu, 1_000_000)
            .unwrap_or_else(|| panic!("hypercall {number} does not end"))
    }

    /// Puts a vCPU on the `syscall` of a hypercall, which [`Self::go_on`] makes.
    pub fn begin_hypercall(&self, id: Domid, vcpu: u32, number: u32, args: &[u64]) {
        self.as_vcpu(id, vcpu, |cx| {
            let mut all = [0; 6];
            all[..args.len()].copy_from_slice(args);
            let regs = &mut cx.state.context.regs;
            regs.rax = u64::from(number);
            regs.rip = RIP;
            [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = all;
        });
    }

    /// Makes the hypercall on which a vCPU is, and again where it is continued, at most `most` times in all; `None`
    /// where it is not finished then.
    pub fn go_on(&self, id: Domid, vcpu: u32, most: u32) -> Option<i64> {
        self.as_vcpu(id, vcpu, |cx| {
            let number = cx.state.context.regs.rax;
            for _ in 0..most {
                hypercall::enter(cx);
                let regs = &mut cx.state.context.regs;
                if regs.rip == RIP {
                    return Some(regs.rax as i64);
                }
                // A continuation: the guest executes `syscall` again.
                assert_eq!(
                    regs.rip,
                    RIP - 2,
                    "a continued hypercall leaves RIP on `syscall`"
                );
                assert_eq!(regs.rax, number, "a continued hypercall keeps its number");
                regs.rip = RIP;
            }
            None
        })
    }

    /// Room for `bytes` bytes in a domain's scratch area, 8-byte aligned, within one page where it fits in one.
    pub fn room(&self, id: Domid, bytes: usize) -> u64 {
        let mut used = self.used.borrow_mut();
        let next = used.entry(id).or_insert(0);
        let mut at = next.next_multiple_of(8);
        if at / 4096 != (at + bytes as u64).saturating_sub(1) / 4096 && bytes <= 4096 {
            at = at.next_multiple_of(4096);
        }
        *next = at + bytes as u64;
        assert!(
            *next <= self.scratch_pages * 4096,
            "scratch memory is used up"
        );
        SCRATCH + at
    }

    /// Puts a value into a domain's scratch area; gives its address.
    pub fn put<T: IntoBytes + Immutable>(&self, id: Domid, value: &T) -> u64 {
        let va = self.room(id, size_of::<T>());
        self.put_at(id, va, value);
        va
    }

    /// Puts a slice into a domain's scratch area; gives its address.
    pub fn put_slice<T: IntoBytes + Immutable>(&self, id: Domid, values: &[T]) -> u64 {
        let va = self.room(id, size_of_val(values));
        self.as_guest(id, |cx| {
            cx.write_bytes(va, values.as_bytes())
                .expect("scratch memory")
        });
        va
    }

    /// Maps a scratch page read-only; gives its frame.
    pub fn make_read_only(&self, id: Domid, page: usize) -> Mfn {
        let mfn = self.layout(id).scratch[page];
        let va = SCRATCH + 4096 * page as u64;
        let args = [va, Pte::new(mfn, RO).0, UVMF_INVLPG];
        assert_eq!(self.hypercall(id, HYPERVISOR_UPDATE_VA_MAPPING, &args), 0);
        mfn
    }

    /// Maps a scratch page, writable, at the end of all addresses.
    pub fn map_top(&self, id: Domid) {
        let Layout { tables, scratch } = self.layout(id);
        let [l4, l3, l2, l1] = *tables;
        let last = *scratch.last().expect("scratch memory");
        for (table, named) in [(l4, l3), (l3, l2), (l2, l1), (l1, last)] {
            let update = MmuUpdate {
                ptr: (table.0 << 12) | (511 * 8),
                val: Pte::new(named, RW).0,
            };
            let args = [self.put(id, &update), 1, 0, u64::from(Domid::SELF.0)];
            assert_eq!(self.hypercall(id, HYPERVISOR_MMU_UPDATE, &args), 0);
        }
    }

    /// Puts bytes into a scratch page of their own, which the domain can then only read; gives their address.
    pub fn put_read_only(&self, id: Domid, bytes: &[u8]) -> u64 {
        let va = self.room(id, 4096);
        self.as_guest(id, |cx| cx.write_bytes(va, bytes).expect("scratch memory"));
        self.make_read_only(id, ((va - SCRATCH) / 4096) as usize);
        va
    }

    /// Writes a value at an address of a domain.
    pub fn put_at<T: IntoBytes + Immutable>(&self, id: Domid, va: u64, value: &T) {
        self.as_guest(id, |cx| cx.write(va, value).expect("mapped memory"));
    }

    /// Reads a value at an address of a domain.
    pub fn get<T: FromBytes + IntoBytes>(&self, id: Domid, va: u64) -> T {
        self.as_guest(id, |cx| cx.read(va).expect("mapped memory"))
    }

    /// Reads a value from a domain's shared-info page.
    pub fn shared<T: FromBytes + IntoBytes>(&self, id: Domid, offset: usize) -> T {
        let mut value = T::new_zeroed();
        self.hv
            .machine
            .read_frame(self.domain(id).shared_info, offset, value.as_mut_bytes());
        value
    }
}
