//! What a hypercall answers that finds no room in the hypervisor's own heap, and what it leaves then.

use super::*;

use std::vec::Vec;

use hv_machine::MachineRef;
use hv_machine::sim::{Machine, with_largest_block};
use hypercall_abi::arch_x86::{CpuidLeaf, VcpuGuestContext};
use hypercall_abi::domctl::*;
use hypercall_abi::memory::*;
use hypercall_abi::sysctl::*;
use hypercall_abi::types::{GuestHandle, Mfn};
use zerocopy::{FromZeros, Immutable};

use crate::cpuid::MAX_LEAVES;
use crate::hypervisor::SPARE_HEAP;
use crate::memory::recount;
use crate::testing::SCRATCH;

const NOMEM: i64 = Errno::ENOMEM.to_return();

/// A hypercall of vCPU 0 of a domain.
struct Call {
    id: Domid,
    number: u32,
    args: Vec<u64>,
}

impl Call {
    fn new(id: Domid, number: u32, args: &[u64]) -> Self {
        let args = args.to_vec();
        Self { id, number, args }
    }

    fn domctl<A: IntoBytes + Immutable>(host: &Host, cmd: u32, id: Domid, arm: &A) -> Self {
        let at = host.put(DOM0, &Domctl::with(cmd, id, arm));
        Self::new(DOM0, HYPERVISOR_DOMCTL, &[at])
    }

    fn memory<A: IntoBytes + Immutable>(host: &Host, command: u32, argument: &A) -> Self {
        let at = host.put(DOMU, argument);
        Self::new(DOMU, HYPERVISOR_MEMORY_OP, &[command.into(), at])
    }

    fn event<A: IntoBytes + Immutable>(host: &Host, id: Domid, command: u32, op: &A) -> Self {
        let at = host.put(id, op);
        Self::new(id, HYPERVISOR_EVENT_CHANNEL_OP, &[command.into(), at])
    }

    fn physdev<A: IntoBytes + Immutable>(host: &Host, command: u32, op: &A) -> Self {
        let at = host.put(DOM0, op);
        Self::new(DOM0, HYPERVISOR_PHYSDEV_OP, &[command.into(), at])
    }

    /// Makes it.
    fn make(&self, host: &Host) -> i64 {
        host.hypercall(self.id, self.number, &self.args)
    }

    /// Makes it while there is no block of more than `largest` bytes but for the first `larger`.
    fn starve(&self, host: &Host, largest: usize, larger: usize) -> i64 {
        host.begin_hypercall(self.id, 0, self.number, &self.args);
        host.as_guest(self.id, |cx| {
            with_largest_block(largest, larger, || enter(cx));
            cx.state.context.regs.rax as i64
        })
    }

    /// It is refused where no such block is left, changes no count, and succeeds when there is memory again.
    #[track_caller]
    fn needs(&self, host: &Host, largest: usize, larger: usize) {
        let free = host.hv.memory.free_frames();
        assert_eq!(self.starve(host, largest, larger), NOMEM);
        assert_eq!(host.hv.memory.free_frames(), free);
        recount::check(&host.hv).expect("all in order");
        assert_eq!(self.make(host), 0);
    }
}

/// A host whose processor has AVX.
fn host() -> Host {
    let machine = Machine::new(4096);
    machine.set_cpuid(0, 0, [0xd, 0, 0, 0]);
    machine.set_cpuid(1, 0, [0, 0, 0x7ffa_fbff, 0xbfeb_fbff]);
    machine.set_cpuid(0xd, 0, [7, 832, 832, 0]);
    machine.set_cpuid(0xd, 2, [256, 576, 0, 0]);
    machine.set_cpuid(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]);
    Host::with_machine(MachineRef::new(machine))
}

/// Leaves no block of frames that the hypervisor's own heap could grow by.
fn exhaust(host: &Host) {
    let owner = host.domain(DOM0).owner.clone();
    owner.set_max_frames(u64::MAX);
    while host.hv.memory.allocate(&owner, 9, u64::MAX).is_ok() {}
}

#[test]
fn a_vcpus_state_is_copied_where_there_is_room() {
    let host = host();
    let at = host.room(DOM0, size_of::<VcpuGuestContext>());
    let arm = DomctlVcpucontext {
        ctxt: GuestHandle::new(at),
        ..Default::default()
    };
    Call::domctl(&host, XEN_DOMCTL_GETVCPUCONTEXT, DOMU, &arm).needs(&host, 4096, 0);
    let mut context: VcpuGuestContext = host.get(DOM0, at);
    context.user_regs.rsi = 42;
    host.put_at(DOM0, at, &context);
    let set = Call::domctl(&host, XEN_DOMCTL_SETVCPUCONTEXT, DOMU, &arm);
    assert_eq!(set.starve(&host, 4096, 0), NOMEM);
    assert_ne!(host.vcpu(DOMU).state.lock().context.regs.rsi, 42);
    set.needs(&host, 4096, 0);
    assert_eq!(host.vcpu(DOMU).state.lock().context.regs.rsi, 42);

    let arm = DomctlVcpuextstate {
        xfeature_mask: 7,
        size: 16 + 832,
        buffer: GuestHandle::new(host.room(DOM0, 16 + 832)),
        ..Default::default()
    };
    for cmd in [XEN_DOMCTL_GETVCPUEXTSTATE, XEN_DOMCTL_SETVCPUEXTSTATE] {
        Call::domctl(&host, cmd, DOMU, &arm).needs(&host, 512, 0);
    }
}

#[test]
fn a_vcpu_forgets_its_state_where_there_is_room_for_a_new_one() {
    let host = host();
    exhaust(&host);
    let vcpu = host.vcpu(DOMU);
    let arm = DomctlVcpucontext::default();
    let reset = Call::domctl(&host, XEN_DOMCTL_SETVCPUCONTEXT, DOMU, &arm);
    host.hv.machine.set_heap_free(4096);
    assert_eq!(reset.make(&host), NOMEM);
    assert!(vcpu.state.lock().initialised && vcpu.is_runnable());
    host.hv.machine.set_heap_free(1 << 30);
    assert_eq!(reset.make(&host), 0);
    assert!(!vcpu.state.lock().initialised && !vcpu.is_runnable());
    recount::check(&host.hv).expect("all in order");
}

#[test]
fn a_policy_is_copied_where_there_is_room() {
    let host = host();
    let leaves = host.room(DOM0, MAX_LEAVES as usize * size_of::<CpuidLeaf>());
    let arm = DomctlCpuPolicy {
        nr_leaves: MAX_LEAVES,
        leaves: GuestHandle::new(leaves),
        ..Default::default()
    };
    let get = Call::domctl(&host, XEN_DOMCTL_GET_CPU_POLICY, DOMU, &arm);
    get.needs(&host, 1024, 0);
    for index in [
        XEN_SYSCTL_CPU_POLICY_RAW,
        XEN_SYSCTL_CPU_POLICY_HOST,
        XEN_SYSCTL_CPU_POLICY_PV_MAX,
        XEN_SYSCTL_CPU_POLICY_PV_DEFAULT,
    ] {
        let arm = SysctlCpuPolicy {
            index,
            nr_leaves: MAX_LEAVES,
            leaves: GuestHandle::new(leaves),
            ..FromZeros::new_zeroed()
        };
        let at = host.put(DOM0, &Sysctl::with(XEN_SYSCTL_GET_CPU_POLICY, &arm));
        Call::new(DOM0, HYPERVISOR_SYSCTL, &[at]).needs(&host, 1024, 0);
    }
}

#[test]
fn what_a_domain_may_use_stays_as_it_was_where_there_is_no_room() {
    let host = host();
    let [dom0, domu] = [DOM0, DOMU].map(|id| host.domain(id));
    let device = Mfn(0x1_0000);
    {
        let mut access = dom0.access.lock();
        access.set_ports(0, 0xffff, true).expect("room for a range");
        access.set_irqs(0, 23, true).expect("room for a range");
    }
    let given = dom0.owner.set_io_memory(device, device, true);
    given.expect("room for a range");
    let memory = DomctlIomemPermission {
        first_mfn: device,
        nr_mfns: 1,
        allow_access: 1,
        ..Default::default()
    };
    let ports = DomctlIoportPermission {
        first_port: 0x60,
        nr_ports: 1,
        allow_access: 1,
        ..Default::default()
    };
    let line = DomctlIrqPermission {
        pirq: 5,
        allow_access: 1,
        ..Default::default()
    };
    for call in [
        Call::domctl(&host, XEN_DOMCTL_IOMEM_PERMISSION, DOMU, &memory),
        Call::domctl(&host, XEN_DOMCTL_IOPORT_PERMISSION, DOMU, &ports),
        Call::domctl(&host, XEN_DOMCTL_IRQ_PERMISSION, DOMU, &line),
    ] {
        call.needs(&host, 24, 0);
    }
    assert!(domu.owner.io_memory_allowed(device, device));
    let access = domu.access.lock();
    assert!(access.ports_allowed(0x60, 0x60) && access.irq_allowed(5));
}

/// A call that makes a line one of [`DOMU`]'s.
fn map(host: &Host, line: i32) -> Call {
    let op = PhysdevMapPirq {
        domid: DOMU,
        type_: MAP_PIRQ_TYPE_GSI,
        index: line,
        pirq: line,
        ..FromZeros::new_zeroed()
    };
    Call::physdev(host, PHYSDEVOP_MAP_PIRQ, &op)
}

#[test]
fn a_line_is_mapped_and_unmapped_where_there_is_room() {
    let host = host();
    for line in [10, 12, 14, 16] {
        assert_eq!(map(&host, line).make(&host), 0);
    }
    let op = PhysdevUnmapPirq {
        domid: DOMU,
        _pad0: 0,
        pirq: 12,
    };
    let unmap = Call::physdev(&host, PHYSDEVOP_UNMAP_PIRQ, &op);
    let allowed = |line| host.domain(DOMU).access.lock().irq_allowed(line);
    assert_eq!(unmap.starve(&host, 48, 0), NOMEM);
    assert!(allowed(12));
    let more = map(&host, 18);
    assert_eq!(more.starve(&host, 48, 0), NOMEM);
    assert!(!allowed(18));
    let bind = EvtchnBindPirq {
        pirq: 18,
        ..FromZeros::new_zeroed()
    };
    let bind = Call::event(&host, DOMU, EVTCHNOP_BIND_PIRQ, &bind);
    assert_eq!(bind.make(&host), Errno::EPERM.to_return());
    for call in [more, bind, unmap] {
        assert_eq!(call.make(&host), 0);
    }
    assert!(allowed(18) && !allowed(12));
}

#[test]
fn a_memory_map_is_taken_where_there_is_room_for_two_copies() {
    let host = host();
    let mut foreign = ForeignMemoryMap::new_zeroed();
    foreign.domid = Domid::SELF;
    foreign.map.nr_entries = 50;
    foreign.map.buffer = GuestHandle::new(host.room(DOMU, 50 * 20));
    let set = Call::memory(&host, XENMEM_SET_MEMORY_MAP, &foreign);
    for larger in [0, 1] {
        assert_eq!(set.starve(&host, 512, larger), NOMEM);
        assert!(host.domain(DOMU).memory_map.lock().is_empty());
    }
    assert_eq!(set.make(&host), 0);
    assert_eq!(host.domain(DOMU).memory_map.lock().len(), 50);
}

#[test]
fn pages_are_exchanged_where_there_is_room_for_both_lists() {
    const PAGES: u64 = 8;
    for larger in [0, 1] {
        let host = host();
        let owner = host.domain(DOMU).owner.clone();
        let block = host.hv.memory.allocate(&owner, 3, u64::MAX).expect("room");
        let side = |list, nr_extents, extent_order| {
            let mut side = MemoryReservation::new_zeroed();
            (side.nr_extents, side.extent_order) = (nr_extents, extent_order);
            side.extent_start = GuestHandle::new(list);
            side.domid = Domid::SELF;
            side
        };
        let mut exchange = MemoryExchange::new_zeroed();
        exchange.in_ = side(host.put(DOMU, &block.0), 1, 3);
        exchange.out = side(host.put(DOMU, &[7_u64; PAGES as usize]), PAGES, 0);
        let exchange = Call::memory(&host, XENMEM_EXCHANGE, &exchange);
        exchange.needs(&host, 60, larger);
        assert_ne!(host.hv.memory.owner_of(block), Some(DOMU));
    }
}

/// The five ways to a new port, for [`DOMU`].
fn ports(host: &Host) -> [Call; 5] {
    assert_eq!(map(host, 17).make(host), 0);
    let unbound = |remote_dom| EvtchnAllocUnbound {
        dom: Domid::SELF,
        remote_dom,
        port: Port(0),
    };
    let waits = Call::event(host, DOM0, EVTCHNOP_ALLOC_UNBOUND, &unbound(DOMU));
    assert_eq!(waits.make(host), 0);
    let interdomain = EvtchnBindInterdomain {
        remote_dom: DOM0,
        remote_port: Port(1),
        ..FromZeros::new_zeroed()
    };
    let pirq = EvtchnBindPirq {
        pirq: 17,
        ..FromZeros::new_zeroed()
    };
    let virq = EvtchnBindVirq {
        virq: VIRQ_DEBUG,
        ..FromZeros::new_zeroed()
    };
    let ipi = EvtchnBindIpi::new_zeroed();
    [
        Call::event(host, DOMU, EVTCHNOP_ALLOC_UNBOUND, &unbound(DOM0)),
        Call::event(host, DOMU, EVTCHNOP_BIND_INTERDOMAIN, &interdomain),
        Call::event(host, DOMU, EVTCHNOP_BIND_PIRQ, &pirq),
        Call::event(host, DOMU, EVTCHNOP_BIND_VIRQ, &virq),
        Call::event(host, DOMU, EVTCHNOP_BIND_IPI, &ipi),
    ]
}

#[test]
fn a_table_of_ports_grows_where_there_is_room() {
    let host = host();
    let calls = ports(&host);
    let domain = host.domain(DOMU);
    for _ in 1..64 {
        crate::event::bind_ipi(&domain, 0).expect("a port");
    }
    for call in &calls {
        assert_eq!(call.starve(&host, 1024, 0), NOMEM, "{:?}", call.args);
        assert_eq!(domain.events.active(), 63);
    }
    for call in &calls {
        assert_eq!(call.make(&host), 0, "{:?}", call.args);
    }
    assert_eq!(domain.events.active(), 68);
}

#[test]
fn event_queues_are_made_where_there_is_room() {
    let host = host();
    let control = EvtchnInitControl {
        control_gfn: host.layout(DOMU).scratch[40].0,
        ..Default::default()
    };
    let call = Call::event(&host, DOMU, EVTCHNOP_INIT_CONTROL, &control);
    let domain = host.domain(DOMU);
    for largest in [512, 1024, 4096] {
        assert_eq!(call.starve(&host, largest, 0), NOMEM, "{largest}");
        assert!(domain.events.frames().is_empty());
    }
    call.needs(&host, 4096, 0);
    assert_eq!(domain.events.frames(), [host.layout(DOMU).scratch[40]]);
}

#[test]
fn event_queues_leave_the_rest_of_the_heap_to_other_calls() {
    const QUEUES: usize = 16 << 10;
    let host = host();
    exhaust(&host);
    let control = EvtchnInitControl {
        control_gfn: host.layout(DOMU).scratch[40].0,
        ..Default::default()
    };
    let call = Call::event(&host, DOMU, EVTCHNOP_INIT_CONTROL, &control);
    host.hv.machine.set_heap_free(SPARE_HEAP + QUEUES - 1);
    assert_eq!(call.make(&host), NOMEM);
    host.hv.machine.set_heap_free(SPARE_HEAP + QUEUES);
    assert_eq!(call.make(&host), 0);
}

#[test]
fn new_ports_leave_the_rest_of_the_heap_to_other_calls() {
    let host = host();
    exhaust(&host);
    let calls = ports(&host);
    host.hv.machine.set_heap_free(SPARE_HEAP + 4096);
    assert_eq!(calls[0].make(&host), 0);
    host.hv.machine.set_heap_free(SPARE_HEAP + 4095);
    let send = Call::event(&host, DOMU, EVTCHNOP_SEND, &EvtchnSend { port: Port(1) });
    for call in &calls {
        assert_eq!(call.make(&host), NOMEM, "{:?}", call.args);
        assert_eq!(host.domain(DOMU).events.active(), 1);
        assert_eq!(send.make(&host), 0);
    }
}

#[test]
fn a_domain_and_its_vcpus_are_made_where_there_is_room() {
    const NEW: Domid = Domid(9);
    let host = host();
    let wish = DomctlCreatedomain {
        max_vcpus: 2,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        grant_opts: 1,
        ..Default::default()
    };
    let create = Call::domctl(&host, XEN_DOMCTL_CREATEDOMAIN, NEW, &wish);
    let vcpus = DomctlMaxVcpus { max: 2 };
    let vcpus = Call::domctl(&host, XEN_DOMCTL_MAX_VCPUS, NEW, &vcpus);
    let destroy = Call::domctl(&host, XEN_DOMCTL_DESTROYDOMAIN, NEW, &[0_u64; 16]);
    let enough = |bytes| host.hv.machine.set_heap_free(SPARE_HEAP + bytes);
    // The heap grows by frames as long as there are any.
    enough((1 << 20) - 1);
    assert_eq!(create.make(&host), 0);
    assert_eq!(destroy.make(&host), 0);

    exhaust(&host);
    enough((1 << 20) - 1);
    let free = host.hv.memory.free_frames();
    assert_eq!(create.make(&host), NOMEM);
    assert!(host.hv.domain(NEW).is_err() && host.hv.memory.owner(NEW).is_none());
    assert_eq!(host.hv.memory.free_frames(), free);
    enough(1 << 20);
    assert_eq!(create.make(&host), 0);
    enough((1 << 20) - 1);
    assert_eq!(vcpus.make(&host), NOMEM);
    assert_eq!(host.domain(NEW).vcpu_count(), 0);
    enough(1 << 20);
    assert_eq!(vcpus.make(&host), 0);
    assert_eq!(host.domain(NEW).vcpu_count(), 2);
    assert_eq!(destroy.make(&host), 0);
    assert_eq!(host.hv.memory.free_frames(), free);
}

#[test]
fn text_is_printed_where_there_is_room_for_a_copy() {
    let host = host();
    let args = [u64::from(CONSOLEIO_WRITE), 100, SCRATCH];
    Call::new(DOM0, HYPERVISOR_CONSOLE_IO, &args).needs(&host, 64, 0);
}
