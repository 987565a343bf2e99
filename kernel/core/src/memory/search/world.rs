//! The host on which the search is made, and how a step is carried out on it.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec::Vec;

use hv_machine::sim::Machine;
use hv_machine::{MachineRef, Platform};
use hypercall_abi::arch_x86::{FLAT_RING3_CS64, VGCF_IN_KERNEL, VcpuGuestContext};
use hypercall_abi::domctl::{
    Domctl, DomctlVcpucontext, XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_SETVCPUCONTEXT,
};
use hypercall_abi::errno::Errno;
use hypercall_abi::memory::{
    MemoryExchange, MemoryReservation, XENMEM_CLAIM_PAGES, XENMEM_EXCHANGE,
};
use hypercall_abi::types::{Domid, GuestHandle, Mfn};
use hypercall_abi::vcpu::{VCPUOP_INITIALISE, VCPUOP_REGISTER_VCPU_INFO, VcpuRegisterVcpuInfo};
use hypercall_abi::xen::*;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::grants::Mapped;
use super::{DEVICES, Entry, Frame, HYPERVISOR, Step, Who};
use crate::domain::Domain;
use crate::grant;
use crate::memory::recount::{self, Recount};
use crate::memory::{FrameType, Level, Pte};
use crate::testing::{BUDGET, Host, RO, RW, SCRATCH};
use crate::traps::error_code;
use crate::vcpu::toggle_mode;
use crate::{descriptor, emulate, lifecycle};

/// Processors.
pub(super) const CPUS: u32 = 2;
/// Data frames of each domain that the search keeps to.
pub(super) const DATA: u8 = 12;
/// Pages of the scratch area where something interesting is mapped.
pub(super) const MAPPED: u8 = 32;
/// The page where a second L1 table of each domain is mapped, which covers the 2 MiB behind the scratch area's.
pub(super) const SECOND_L1: u8 = 20 + DATA - 1;
/// Frames of RAM.
const FRAMES: u64 = 512;
/// Most frames of a domain: all together may have more than there are.
const MOST_FRAMES: u64 = 90;
/// First frame of device memory, and how many of it the first and the last domain may map.
const DEVICE: u64 = 0x1_0000;
const DEVICE_FRAMES: u64 = 8;
/// Where the arguments of hypercalls are: in a part of the address space that no step touches.
const ARGUMENTS: u64 = 5 << 39;
/// Pages there.
const ARGUMENT_PAGES: usize = 3;
/// Code there.
const CODE: u64 = ARGUMENTS + 2 * 4096;

const IDS: [Domid; 3] = [Domid(0), Domid(1), Domid(2)];

pub(super) struct World {
    host: Host,
    /// Frames given or taken a while ago.
    recent: Vec<Mfn>,
    /// The tables of each domain's arguments, which no step names.
    arguments: BTreeMap<Domid, Vec<Mfn>>,
    recount: Recount,
    /// Mappings of grants that were made.
    pub(super) mapped: Vec<Mapped>,
    /// Grants that their domain changed while they were in use.
    pub(super) spoiled: BTreeSet<(Domid, u32)>,
    /// Times that a guest makes a hypercall that is continued.
    patience: u32,
}

impl World {
    pub(super) fn new() -> Self {
        let machine = MachineRef::new(Machine::with_cpus(FRAMES, CPUS));
        machine.set_eager();
        let host = Host::with_scratch(machine, DATA.into());
        host.become_cpu(0);
        let mut world = Self {
            host,
            recent: Vec::new(),
            arguments: BTreeMap::new(),
            recount: Recount::default(),
            mapped: Vec::new(),
            spoiled: BTreeSet::new(),
            patience: u32::MAX,
        };
        world.host.add_domain(IDS[2], false);
        for id in IDS {
            world.settle(id);
        }
        world.check().expect("the domains begin in order");
        world
    }

    /// Gives a new domain its second vCPU, a place for arguments, and mappings worth attacking.
    fn settle(&mut self, id: Domid) {
        let hv = &self.host.hv;
        let domain = self.host.domain(id);
        domain.owner.set_max_frames(MOST_FRAMES);
        lifecycle::create_vcpus(hv, &domain, 2).expect("a second vCPU");
        if id != IDS[1] {
            let last = Mfn(DEVICE + DEVICE_FRAMES - 1);
            domain
                .owner
                .set_io_memory(Mfn(DEVICE), last, true)
                .expect("room for a range");
        }
        domain.vm_assist.store(
            1 << VMASST_TYPE_WRITABLE_PAGETABLES | 1 << VMASST_TYPE_M2P_STRICT,
            Ordering::Relaxed,
        );
        let frames: Vec<Mfn> = (0..3 + ARGUMENT_PAGES)
            .map(|_| {
                let frame = hv.memory.allocate(&domain.owner, 0, u64::MAX);
                frame.expect("room for arguments")
            })
            .collect();
        hv.machine
            .store_u64(frames[0], 0, Pte::new(frames[1], RW).0);
        hv.machine
            .store_u64(frames[1], 0, Pte::new(frames[2], RW).0);
        for (index, &page) in frames[3..].iter().enumerate() {
            hv.machine.store_u64(frames[2], index, Pte::new(page, RW).0);
        }
        hv.memory
            .pin(frames[0], id, Level::L3, &mut || false)
            .expect("good tables");
        self.arguments.insert(id, frames);

        let layout = self.host.layout(id).clone();
        let second = domain.vcpu(1).expect("the second vCPU");
        {
            let root = layout.tables[0];
            let root = hv.memory.get_typed(root, id, FrameType::Table(Level::L4));
            let mut state = second.state.lock();
            state.kernel_root = Some(root.expect("the first vCPU has it too").into_bits());
            state.initialised = true;
        }
        second.down.store(false, Ordering::Release);
        let set = |page: usize, entry: u64| {
            let va = SCRATCH + page as u64 * 4096;
            let args = [va, entry, UVMF_NONE];
            let result = self.host.hypercall(id, HYPERVISOR_UPDATE_VA_MAPPING, &args);
            assert_eq!(result, 0);
        };
        for page in 4..DATA.into() {
            set(page, 0);
        }
        for (page, &table) in layout.tables.iter().enumerate() {
            set(20 + page, Pte::new(table, RO).0);
        }
        for (page, &mfn) in layout.scratch.iter().enumerate().take(DATA.into()).skip(4) {
            set(20 + page, Pte::new(mfn, RO).0);
        }
        let second = Pte::new(layout.scratch[usize::from(DATA) - 1], RW);
        let index = Level::L2.index(SCRATCH) + 1;
        let l2 = hv
            .memory
            .get_typed(layout.tables[2], id, FrameType::Table(Level::L2))
            .expect("in use");
        let hooked = hv
            .memory
            .update_entry(&l2, index, second, id, false, &mut || false);
        hooked.expect("an empty table");
    }

    fn cpu(&self) -> u32 {
        self.host.hv.machine.cpu_id()
    }

    fn alive(&self, id: Domid) -> bool {
        let domain = self.host.hv.domain(id);
        domain.is_ok_and(|domain| {
            let rooted = domain
                .vcpu(self.cpu())
                .is_some_and(|vcpu| vcpu.state.lock().kernel_root.is_some());
            !lifecycle::is_dying(&domain) && rooted
        })
    }

    pub(super) fn id(caller: Domid, who: Who) -> Domid {
        IDS[(usize::from(caller.0) + usize::from(who)) % IDS.len()]
    }

    pub(super) fn mfn(&self, caller: Domid, frame: Frame) -> Mfn {
        let layout = |who| self.host.layout(Self::id(caller, who));
        let mfn = match frame {
            Frame::Table(who, level) => layout(who).tables[usize::from(level) % 4],
            Frame::Data(who, page) => layout(who).scratch[usize::from(page % DATA)],
            Frame::Recent(_) if self.recent.is_empty() => layout(0).scratch[0],
            Frame::Recent(which) => self.recent[usize::from(which) % self.recent.len()],
            Frame::Shared(who) => match self.host.hv.domain(Self::id(caller, who)) {
                Ok(domain) => domain.shared_info,
                Err(_) => Mfn(0),
            },
            Frame::Device(offset) => Mfn(DEVICE + u64::from(offset)),
            Frame::Number(number) => Mfn(number),
        };
        let kept = self.arguments.values().flatten().any(|&kept| kept == mfn);
        // Entries of grants are written as such alone, so that what they say of their use can be checked.
        let grants = || self.domains().iter().any(|it| it.grants.has_frame(mfn));
        if kept || grants() { Mfn(0) } else { mfn }
    }

    pub(super) fn domains(&self) -> Vec<Arc<Domain>> {
        self.host.hv.domains.read().values().cloned().collect()
    }

    pub(super) fn machine(&self) -> &Machine {
        &self.host.hv.machine
    }

    /// Reads what a call left of its argument; nothing where the caller lost it.
    pub(super) fn read<T: FromBytes + IntoBytes>(&self, id: Domid, at: u64) -> Option<T> {
        self.host.as_guest(id, |cx| cx.read(at)).ok()
    }

    /// Has a frame named again by and by.
    pub(super) fn remember(&mut self, mfn: Mfn) {
        self.recent.push(mfn);
    }

    fn entry(&self, caller: Domid, entry: Entry) -> u64 {
        Pte::new(self.mfn(caller, entry.frame), entry.flags).0
    }

    /// As [`Self::id`], in the form in which hypercalls want the caller itself.
    fn foreign(caller: Domid, who: Who) -> u64 {
        let id = match who {
            DEVICES => Domid::IO,
            HYPERVISOR => Domid::XEN,
            _ => Self::id(caller, who),
        };
        u64::from(if id == caller { Domid::SELF.0 } else { id.0 })
    }

    /// Puts bytes where a domain's hypercalls find their arguments; page 0 holds structs, page 1 lists.
    pub(super) fn put<T: IntoBytes + Immutable + ?Sized>(
        &self,
        id: Domid,
        page: u64,
        value: &T,
    ) -> u64 {
        // The call before may have changed the root.
        self.hook(id);
        let va = ARGUMENTS + page * 4096;
        self.host.as_guest(id, |cx| {
            cx.write_bytes(va, value.as_bytes()).expect("mapped")
        });
        va
    }

    /// Hooks the arguments into the root that a domain's kernel runs on.
    fn hook(&self, id: Domid) {
        let hv = &self.host.hv;
        let vcpu = self.host.domain(id).vcpu(self.cpu()).expect("a vCPU");
        let root = vcpu.state.lock().kernel_root;
        let root = root.expect("a domain that lives has a root");
        let entry = Pte::new(self.arguments[&id][0], RW);
        let index = Level::L4.index(ARGUMENTS);
        let root = hv
            .memory
            .get_typed(root, id, FrameType::Table(Level::L4))
            .expect("the root is an L4 table");
        hv.memory
            .update_entry(&root, index, entry, id, false, &mut || false)
            .expect("the arguments' tables are good");
    }

    /// Makes a hypercall; a guest that has lost patience makes another call instead of going on with it.
    pub(super) fn call(&self, id: Domid, number: u32, args: &[u64]) -> i64 {
        self.host.begin_hypercall(id, self.cpu(), number, args);
        let result = self.host.go_on(id, self.cpu(), self.patience);
        result.unwrap_or(Errno::ERESTART.to_return())
    }

    /// Carries out a step.
    ///
    /// # Errors
    /// What a guest did to the memory of others, in words.
    pub(super) fn carry_out(&mut self, step: &Step) -> Result<(), String> {
        let actor = step.caller();
        if actor == IDS[0] || !step.is_a_guests() {
            self.perform(step);
            return Ok(());
        }
        let before = self.contents();
        self.perform(step);
        let Ok(guest) = self.host.hv.domain(actor) else {
            return Ok(());
        };
        for (number, (before, now)) in before.into_iter().zip(self.contents()).enumerate() {
            let mfn = Mfn(number as u64);
            if let Some(owner) = now.0.filter(|&owner| owner != actor)
                && before.0 == now.0
                && before != now
                && !self.recount.shared.contains(&(actor, mfn, owner))
                && !grant::recount::is_mapped(&guest, mfn, owner, true)
            {
                return Err(format!(
                    "domain {} changed {mfn} of domain {}",
                    actor.0, owner.0
                ));
            }
        }
        Ok(())
    }

    /// Whose each frame is, how often it was written to, and which frame of a guest it is said to be.
    fn contents(&self) -> Vec<(Option<Domid>, u32, u64)> {
        let hv = &self.host.hv;
        let all = (0..FRAMES).map(Mfn);
        all.map(|mfn| {
            let machine = &hv.machine;
            (
                hv.memory.owner_of(mfn),
                machine.writes(mfn),
                machine.m2p(mfn),
            )
        })
        .collect()
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::Destroy(who, steps) => return self.destroy(IDS[usize::from(*who)], *steps),
            Step::Create(who) => return self.create(IDS[usize::from(*who)]),
            Step::Scrub(most) => {
                self.host.hv.memory.scrub((*most).into());
                return;
            }
            Step::Clock(looks, patience) => {
                let machine = &self.host.hv.machine;
                machine.set_tsc_step(BUDGET.checked_div((*looks).into()).unwrap_or(0));
                self.patience = (*patience).map_or(u32::MAX, |more| u32::from(more) + 1);
                return;
            }
            Step::Turn(cpu) => return self.host.become_cpu(u32::from(*cpu) % CPUS),
            Step::Stop(cpu) => return self.host.stop(u32::from(*cpu) % CPUS),
            _ => {}
        }
        let id = step.caller();
        if !self.alive(id) {
            return;
        }
        match *step {
            Step::Update(_, tables, frames, command, write) => {
                let (mapper, owner) = (Self::id(id, tables), Self::id(id, frames));
                let tables = match tables {
                    0 => 0,
                    _ => u64::from(mapper.0) + 1,
                };
                let mfn = self.mfn(id, write.2.frame);
                let foreign = tables << 16 | Self::foreign(id, frames);
                let done = self.update(id, foreign, command, &[write]);
                if id == IDS[0] && done == 0 && mapper != owner {
                    self.recount.shared.insert((mapper, mfn, owner));
                }
            }
            Step::Batch(_, ref writes) => {
                self.update(id, Domid::SELF.0.into(), 0, writes);
            }
            Step::Word(_, frame, index, word) => {
                let request = MmuUpdate {
                    ptr: self.mfn(id, frame).0.wrapping_shl(12) | u64::from(index) << 3,
                    val: word,
                };
                let at = self.put(id, 1, &request);
                self.call(id, HYPERVISOR_MMU_UPDATE, &[at, 1, 0, Domid::SELF.0.into()]);
            }
            Step::Claim(_, whose, frames) => {
                let mut wanted = MemoryReservation::new_zeroed();
                wanted.nr_extents = frames.into();
                wanted.domid = IDS[usize::from(whose)];
                let at = self.put(id, 0, &wanted);
                self.call(id, HYPERVISOR_MEMORY_OP, &[XENMEM_CLAIM_PAGES.into(), at]);
            }
            Step::User(_) => {
                if self.host.as_guest(id, |cx| cx.state.user_root.is_some()) {
                    for _ in 0..2 {
                        assert!(self.host.as_guest(id, toggle_mode));
                    }
                }
            }
            Step::Furnish(_, frame, ref entries, cmd) => {
                for &(index, entry) in entries {
                    self.update(id, Domid::SELF.0.into(), 0, &[(frame, index, entry)]);
                }
                self.extended(id, 0, cmd, self.mfn(id, frame).0, 0);
            }
            Step::Linear(_, pin, ref frames, ref entries) => {
                for &frame in frames {
                    self.extended(id, 0, pin, self.mfn(id, frame).0, 0);
                }
                let frame = |which: u8| frames[usize::from(which) % frames.len()];
                for &(from, to, index) in entries {
                    let (frame, flags) = (frame(to), RO);
                    let entry = Entry { frame, flags };
                    let write = (frames[usize::from(from) % frames.len()], index, entry);
                    self.update(id, Domid::SELF.0.into(), 0, &[write]);
                }
            }
            Step::Map(_, frames, page, entry, flags) => {
                let va = SCRATCH + u64::from(page) * 4096;
                let flags = match flags {
                    0 => UVMF_NONE,
                    1 => UVMF_INVLPG | UVMF_ALL,
                    2 => UVMF_TLB_FLUSH | UVMF_ALL,
                    _ => UVMF_INVLPG,
                };
                let args = [va, self.entry(id, entry), flags, Self::foreign(id, frames)];
                let number = match frames {
                    0 => HYPERVISOR_UPDATE_VA_MAPPING,
                    _ => HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN,
                };
                self.call(id, number, &args);
            }
            Step::Extended(_, whose, cmd, first, second) => {
                let (first, second) = (self.mfn(id, first), self.mfn(id, second));
                self.extended(id, whose, cmd, first.0, second.0);
            }
            Step::Ldt(_, page, entries, selector) => {
                let va = SCRATCH + u64::from(page) * 4096;
                self.extended(id, 0, MMUEXT_SET_LDT, va, entries.into());
                self.host
                    .as_guest(id, |cx| descriptor::read(cx, selector << 3 | 7));
            }
            Step::Reservation(_, whose, command, order, ref frames) => {
                self.reservation(id, whose, command, order, frames);
            }
            Step::Exchange(_, whose, orders, ref frames) => {
                self.exchange(id, whose, orders, frames);
            }
            Step::Gdt(_, ref frames) => {
                let frames: Vec<_> = frames.iter().map(|&frame| self.mfn(id, frame)).collect();
                let at = self.put(id, 1, frames.as_slice());
                let entries = 512 * frames.len() as u64;
                self.call(id, HYPERVISOR_SET_GDT, &[at, entries]);
            }
            Step::Descriptor(_, frame, index, descriptor) => {
                let address = self.mfn(id, frame).0.wrapping_shl(12) | u64::from(index) << 3;
                self.call(id, HYPERVISOR_UPDATE_DESCRIPTOR, &[address, descriptor]);
            }
            Step::Info(_, vcpu, frame, offset) => {
                let op = VcpuRegisterVcpuInfo {
                    mfn: self.mfn(id, frame),
                    offset,
                    rsvd: 0,
                };
                let at = self.put(id, 0, &op);
                let args = [VCPUOP_REGISTER_VCPU_INFO.into(), vcpu.into(), at];
                self.call(id, HYPERVISOR_VCPU_OP, &args);
            }
            Step::Initialise(_, kernel, user, gdt) => {
                let mut context = VcpuGuestContext::new_zeroed();
                context.flags = VGCF_IN_KERNEL;
                context.ctrlreg[3] = self.mfn(id, kernel).0.wrapping_shl(12);
                context.ctrlreg[1] = self.mfn(id, user).0.wrapping_shl(12);
                if let Some(gdt) = gdt {
                    context.gdt_frames[0] = self.mfn(id, gdt);
                    context.gdt_ents = 8;
                }
                let at = self.put(id, 0, &context);
                let args = [VCPUOP_INITIALISE.into(), 1, at];
                self.call(id, HYPERVISOR_VCPU_OP, &args);
            }
            Step::Forget(who, vcpu) => {
                self.halt(IDS[usize::from(who)]);
                let mut op = Domctl::new_zeroed();
                op.cmd = XEN_DOMCTL_SETVCPUCONTEXT;
                op.interface_version = XEN_DOMCTL_INTERFACE_VERSION;
                op.domain = IDS[usize::from(who)];
                let mut arm = DomctlVcpucontext::new_zeroed();
                arm.vcpu = vcpu.into();
                op.u.set(&arm);
                let at = self.put(id, 0, &op);
                self.call(id, HYPERVISOR_DOMCTL, &[at]);
            }
            Step::Store(_, page, index, entry, instruction) => {
                let va = SCRATCH + u64::from(page) * 4096 + u64::from(index) * 8;
                self.store(id, va, self.entry(id, entry), instruction);
            }
            Step::Grants(_, call) => self.grants(id, call),
            Step::Run(_, page, ref stores, ref touched) => self.run(id, page, stores, touched),
            Step::Destroy(..)
            | Step::Create(_)
            | Step::Scrub(_)
            | Step::Clock(..)
            | Step::Turn(_)
            | Step::Stop(_) => {}
        }
    }

    fn update(&self, id: Domid, foreign: u64, command: u64, writes: &[(Frame, u16, Entry)]) -> i64 {
        let request = |&(frame, index, entry): &(Frame, u16, Entry)| MmuUpdate {
            ptr: self.mfn(id, frame).0.wrapping_shl(12) | u64::from(index) << 3 | command,
            val: self.entry(id, entry),
        };
        let requests: Vec<_> = writes.iter().map(request).collect();
        let at = self.put(id, 1, requests.as_slice());
        self.call(
            id,
            HYPERVISOR_MMU_UPDATE,
            &[at, requests.len() as u64, 0, foreign],
        )
    }

    fn extended(&self, id: Domid, whose: Who, cmd: u32, arg1: u64, arg2: u64) {
        let op = MmuextOp {
            cmd,
            _pad0: 0,
            arg1,
            arg2,
        };
        let at = self.put(id, 0, &op);
        let args = [at, 1, 0, Self::foreign(id, whose)];
        self.call(id, HYPERVISOR_MMUEXT_OP, &args);
    }

    fn extents(
        &self,
        id: Domid,
        whose: Who,
        at: u64,
        frames: &[Mfn],
        order: u32,
    ) -> MemoryReservation {
        let mut reservation = MemoryReservation::new_zeroed();
        reservation.extent_start = GuestHandle::new(at);
        reservation.nr_extents = frames.len() as u64;
        reservation.extent_order = order;
        reservation.domid = Self::id(id, whose);
        reservation
    }

    fn reservation(&mut self, id: Domid, whose: Who, command: u32, order: u32, frames: &[Frame]) {
        let mut list: Vec<_> = frames.iter().map(|&frame| self.mfn(id, frame)).collect();
        self.align(&mut list, order);
        let at = self.put(id, 1, list.as_slice());
        let wanted = self.extents(id, whose, at, &list, order);
        let argument = self.put(id, 0, &wanted);
        let done = self.call(id, HYPERVISOR_MEMORY_OP, &[command.into(), argument]);
        self.look_back(id, at, done.max(0) as usize);
    }

    fn exchange(&mut self, id: Domid, whose: Who, orders: (u32, u32), frames: &[Frame]) {
        let mut list: Vec<_> = frames.iter().map(|&frame| self.mfn(id, frame)).collect();
        self.align(&mut list, orders.0);
        let at = self.put(id, 1, list.as_slice());
        let mut exchange = MemoryExchange::new_zeroed();
        exchange.in_ = self.extents(id, whose, at, &list, orders.0);
        let pages = (list.len() as u64).wrapping_shl(orders.0);
        exchange.out = exchange.in_;
        exchange.out.extent_order = orders.1;
        exchange.out.nr_extents = pages >> orders.1.min(63);
        exchange.out.extent_start = GuestHandle::new(at + 2048);
        self.recent.extend(&list);
        let argument = self.put(id, 0, &exchange);
        self.call(
            id,
            HYPERVISOR_MEMORY_OP,
            &[XENMEM_EXCHANGE.into(), argument],
        );
        self.look_back(id, at + 2048, exchange.out.nr_extents.min(4) as usize);
    }

    /// Keeps extents clear of the frames that no step names.
    fn align(&self, list: &mut [Mfn], order: u32) {
        let size = 1_u64.checked_shl(order).unwrap_or(u64::MAX);
        for first in list {
            let end = first.0.saturating_add(size);
            let mut kept = self.arguments.values().flatten();
            if kept.any(|kept| (first.0..end).contains(&kept.0)) {
                *first = Mfn(0);
            }
        }
    }

    /// Remembers frames that a list names after a call.
    fn look_back(&mut self, id: Domid, at: u64, count: usize) {
        let list = self
            .host
            .as_guest(id, |cx| cx.read_array::<Mfn>(at, count.min(8)));
        self.recent.extend(list.unwrap_or_default());
        let more = self.recent.len().saturating_sub(24);
        self.recent.drain(..more);
    }

    /// Stores a word as the guest's kernel would.
    fn store(&self, id: Domid, va: u64, word: u64, instruction: u8) {
        let stores: [&[u8]; 8] = [
            &[0x48, 0x89, 0x18],
            &[0x48, 0x87, 0x18],
            &[0xf0, 0x48, 0x0f, 0xb1, 0x18],
            &[0x89, 0x18],
            &[0x88, 0x18],
            &[0xf0, 0x48, 0x21, 0x18],
            &[0xf0, 0x48, 0x09, 0x18],
            &[0x48, 0x0f, 0xba, 0x38, 1],
        ];
        self.put(id, 2, stores[usize::from(instruction) % stores.len()]);
        self.host.as_guest(id, |cx| {
            if cx.write(va, &word).is_ok() {
                return;
            }
            let regs = &mut cx.state.context.regs;
            (regs.rip, regs.cs) = (CODE, FLAT_RING3_CS64);
            (regs.rax, regs.rbx) = (if instruction & 8 == 0 { va } else { word }, word);
            let write = error_code::PRESENT | error_code::WRITE;
            let _ = emulate::store_to_page_table(cx, va, write);
        });
    }

    /// Has a guest store to a page by itself, after a first store that may be a trap's.
    fn run(&mut self, id: Domid, page: u8, stores: &[(u16, Entry)], touched: &[u8]) {
        // It may only while no other vCPU of the domain runs. What a processor remembers that none runs on, does not
        // matter as long as it forgets it before one does.
        for cpu in (0..CPUS).filter(|&cpu| cpu != self.cpu()) {
            self.host.stop(cpu);
            self.host.hv.machine.flush_tlb_on(1 << cpu);
        }
        let va = SCRATCH + u64::from(page) * 4096;
        let word = |(index, entry): (u16, Entry)| {
            // The control domain's crash would be the end of the machine.
            let harmless = if id == IDS[0] {
                !Pte::PRESENT
            } else {
                u64::MAX
            };
            (va + u64::from(index) * 8, self.entry(id, entry) & harmless)
        };
        let words: Vec<_> = stores.iter().copied().map(word).collect();
        self.host
            .as_guest(id, |cx| cx.state.table_stores.make_eager());
        if let Some(&(va, word)) = words.first() {
            self.store(id, va, word, 0);
        }
        self.host.resume(id);
        self.check().expect("all is in order while it runs");
        let machine = &self.host.hv.machine;
        for (va, word) in &words {
            // What faults, has no effect.
            let _ = machine.copy_to_guest(*va, word.as_bytes());
        }
        for &page in touched {
            for range in [0, 2 << 20] {
                let va = SCRATCH + range + u64::from(page) * 4096;
                let _ = machine.copy_to_guest(va, &[0]);
            }
        }
        self.check().expect("whatever it stores");
        self.host.interrupt();
    }

    /// Takes a domain's vCPUs off their processors, as its pause does.
    fn halt(&self, id: Domid) {
        let running = self
            .host
            .hv
            .domain(id)
            .map(|domain| domain.running_on(|_| true));
        for cpu in (0..CPUS).filter(|cpu| running.is_ok_and(|cpus| cpus >> cpu & 1 != 0)) {
            self.host.stop(cpu);
        }
    }

    fn destroy(&mut self, id: Domid, mut steps: u16) {
        self.halt(id);
        if let Ok(domain) = self.host.hv.domain(id) {
            self.recent.extend(self.host.layout(id).tables);
            let out_of_time = &mut || {
                steps = steps.saturating_sub(1);
                steps == 0
            };
            lifecycle::destroy(&self.host.hv, &domain, out_of_time);
        }
        self.forget_arguments();
    }

    fn create(&mut self, id: Domid) {
        lifecycle::reap(&self.host.hv);
        self.forget_arguments();
        let memory = &self.host.hv.memory;
        let room = memory.free_frames().saturating_sub(memory.claimed_frames());
        if self.host.hv.domain(id).is_err() && room > 100 {
            let cpu = self.cpu();
            self.host.become_cpu(0);
            self.host.add_domain(id, false);
            self.settle(id);
            self.host.become_cpu(cpu);
        }
    }

    fn forget_arguments(&mut self) {
        let hv = &self.host.hv;
        self.arguments.retain(|&id, _| hv.domain(id).is_ok());
    }

    /// Recounts, with processors that have walked wherever they could.
    pub(super) fn check(&mut self) -> Result<(), String> {
        self.host.hv.machine.remember_all();
        self.host.hv.machine.take_flushes();
        self.recount.check(&self.host.hv)?;
        self.check_marks()
    }

    /// Takes the domains apart: nothing of them may be left but what others still map.
    pub(super) fn end(mut self) -> Result<(), String> {
        for id in [IDS[1], IDS[2]] {
            self.destroy(id, u16::MAX);
            self.check()?;
        }
        let hv = &self.host.hv;
        recount::check(hv)?;
        let held = recount::mapped(hv);
        for id in [IDS[1], IDS[2]] {
            if let Ok(domain) = hv.domain(id) {
                let mut left = hv.memory.frames_of(&domain.owner);
                if !held.contains(&domain.shared_info) {
                    left.retain(|&mfn| mfn != domain.shared_info);
                }
                if let Some(mfn) = left.iter().find(|mfn| !held.contains(mfn)) {
                    return Err(format!("frame {mfn} of domain {} is left over", id.0));
                }
                if left.is_empty() {
                    return Err(format!("domain {} is left over", id.0));
                }
            }
        }
        Ok(())
    }
}

impl Step {
    /// Whether it is what one guest does by itself, to its own frames and those that it maps.
    fn is_a_guests(&self) -> bool {
        !matches!(self, Self::Destroy(..) | Self::Create(_) | Self::Grants(..))
    }

    fn caller(&self) -> Domid {
        match *self {
            Self::Forget(..) | Self::Scrub(_) | Self::Clock(..) | Self::Turn(_) | Self::Stop(_) => {
                IDS[0]
            }
            Self::Update(who, ..)
            | Self::Map(who, ..)
            | Self::Furnish(who, ..)
            | Self::Batch(who, _)
            | Self::Linear(who, ..)
            | Self::Word(who, ..)
            | Self::Claim(who, ..)
            | Self::User(who)
            | Self::Extended(who, ..)
            | Self::Ldt(who, ..)
            | Self::Reservation(who, ..)
            | Self::Exchange(who, ..)
            | Self::Gdt(who, ..)
            | Self::Descriptor(who, ..)
            | Self::Info(who, ..)
            | Self::Initialise(who, ..)
            | Self::Store(who, ..)
            | Self::Run(who, ..)
            | Self::Grants(who, _)
            | Self::Destroy(who, _)
            | Self::Create(who) => IDS[usize::from(who) % IDS.len()],
        }
    }
}
