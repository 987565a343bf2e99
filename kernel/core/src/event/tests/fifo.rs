//! Queued events, through the hypercall and the guest's end of the protocol.

use super::*;

use event_protocol::Word;
use event_protocol::fifo::{Array, Consumer, Control, LINKED, MASKED, PENDING};
use hv_machine::MachineRef;
use hypercall_abi::types::Mfn;

use crate::event::word::FrameWord;
use crate::memory::recount;
use crate::vcpu::InfoPlace;

/// Where the guest has its control blocks: in one page, at this distance.
const BLOCK: u32 = 128;

/// A domain that has its events queued, as its kernel sees itself.
pub(super) struct Guest<'a> {
    pub(super) host: &'a Host,
    pub(super) id: Domid,
    pub(super) control: Mfn,
    pub(super) pages: Vec<Mfn>,
    consumers: Vec<Consumer>,
}

impl<'a> Array for &Guest<'a> {
    type Word = FrameWord<'a>;

    fn word(&self, port: Port) -> Option<FrameWord<'a>> {
        let &mfn = self.pages.get(port.0 as usize / 1024)?;
        Some(frame_word(
            &self.host.hv.machine,
            mfn,
            port.0 as usize % 1024,
        ))
    }
}

fn frame_word(machine: &MachineRef, mfn: Mfn, index: usize) -> FrameWord<'_> {
    FrameWord {
        machine,
        mfn,
        index,
    }
}

/// The control block of a vCPU.
struct Block<'a>(&'a MachineRef, Mfn, u32);

impl<'a> Control for Block<'a> {
    type Word = FrameWord<'a>;

    fn ready(&self) -> FrameWord<'a> {
        frame_word(self.0, self.1, (self.2 * BLOCK / 4) as usize)
    }

    fn head(&self, queue: usize) -> FrameWord<'a> {
        frame_word(self.0, self.1, (self.2 * BLOCK / 4) as usize + 2 + queue)
    }
}

/// The byte `evtchn_upcall_pending`.
struct Upcall<'a>(&'a MachineRef, InfoPlace);

impl Word<u8> for Upcall<'_> {
    fn load(&self) -> u8 {
        self.fetch_or(0)
    }

    fn store(&self, _value: u8) {
        unreachable!("the guest takes it");
    }

    fn fetch_or(&self, bits: u8) -> u8 {
        self.0
            .fetch_or_u64(self.1.mfn, self.1.offset / 8, bits.into()) as u8
    }

    fn fetch_and(&self, bits: u8) -> u8 {
        let bits = !0xff | u64::from(bits);
        self.0.fetch_and_u64(self.1.mfn, self.1.offset / 8, bits) as u8
    }

    fn compare_exchange(&self, _old: u8, _new: u8) -> Result<u8, u8> {
        unreachable!("the guest takes it");
    }
}

impl<'a> Guest<'a> {
    /// Has `vcpus` control blocks, and words for `pages` times 1,024 ports, all masked.
    pub(super) fn new(host: &'a Host, id: Domid, vcpus: u32, pages: usize) -> Self {
        lifecycle::create_vcpus(&host.hv, &host.domain(id), vcpus).unwrap();
        let scratch = &host.layout(id).scratch;
        host.hv.machine.zero_frame(scratch[40]);
        let mut guest = Self {
            host,
            id,
            control: scratch[40],
            pages: Vec::new(),
            consumers: Vec::new(),
        };
        for vcpu in 0..vcpus {
            guest.init(vcpu).unwrap();
            guest.consumers.push(Consumer::new());
        }
        for &page in &scratch[41..41 + pages] {
            guest.expand(page).unwrap();
        }
        guest
    }

    fn init(&self, vcpu: u32) -> Result<(), Errno> {
        init_control(self.host, self.id, vcpu, self.control, vcpu * BLOCK).map(drop)
    }

    pub(super) fn expand(&mut self, page: Mfn) -> Result<(), Errno> {
        for index in 0..1024 {
            self.host.hv.machine.store_u32(page, index, MASKED);
        }
        expand_array(self.host, self.id, page)?;
        self.pages.push(page);
        Ok(())
    }

    fn at(&self, port: Port) -> FrameWord<'a> {
        Array::word(&self, port).expect("a word")
    }

    fn value(&self, port: Port) -> u32 {
        self.at(port).load()
    }

    /// Unmasks a port, as its kernel does.
    pub(super) fn unmask(&self, port: Port) {
        if !event_protocol::fifo::unmask(&self.at(port)) {
            unmask(self.host, self.id, port).unwrap();
        }
    }

    /// A port of `vcpu`'s, unmasked.
    pub(super) fn ipi(&self, vcpu: u32) -> Port {
        let port = bind_ipi(self.host, self.id, vcpu).unwrap();
        self.unmask(port);
        port
    }

    fn send(&self, port: Port) {
        send(self.host, self.id, port).unwrap();
    }

    fn set_priority(&self, port: Port, priority: u32) {
        set_priority(self.host, self.id, port, priority).unwrap();
    }

    /// Takes all events of a vCPU.
    pub(super) fn take(&mut self, vcpu: u32) -> Vec<Port> {
        let machine = &self.host.hv.machine;
        let place = self.host.domain(self.id).vcpu(vcpu).unwrap().info();
        let mut consumer = core::mem::take(&mut self.consumers[vcpu as usize]);
        let mut ports = Vec::new();
        consumer.take_pending(
            &Upcall(machine, place),
            &Block(machine, self.control, vcpu),
            &&*self,
            |port| ports.push(port),
        );
        self.consumers[vcpu as usize] = consumer;
        ports
    }
}

pub(super) fn init_control(
    host: &Host,
    id: Domid,
    vcpu: u32,
    page: Mfn,
    offset: u32,
) -> Result<u8, Errno> {
    let op = EvtchnInitControl {
        control_gfn: page.0,
        offset,
        vcpu,
        ..Default::default()
    };
    let (result, op) = call(host, id, EVTCHNOP_INIT_CONTROL, &op);
    outcome(result).map(|()| op.link_bits)
}

pub(super) fn expand_array(host: &Host, id: Domid, page: Mfn) -> Result<(), Errno> {
    let op = EvtchnExpandArray { array_gfn: page.0 };
    outcome(call(host, id, EVTCHNOP_EXPAND_ARRAY, &op).0)
}

fn set_priority(host: &Host, id: Domid, port: Port, priority: u32) -> Result<(), Errno> {
    let op = EvtchnSetPriority { port, priority };
    outcome(call(host, id, EVTCHNOP_SET_PRIORITY, &op).0)
}

pub(super) fn reset(host: &Host, id: Domid) -> Result<(), Errno> {
    let dom = Domid::SELF;
    outcome(call(host, id, EVTCHNOP_RESET, &EvtchnReset { dom }).0)
}

#[test]
fn queued_events_come_in_the_order_in_which_they_were_sent_each_once() {
    let host = host();
    let mut guest = Guest::new(&host, DOMU, 1, 1);
    let ports: Vec<Port> = (0..5).map(|_| guest.ipi(0)).collect();
    for &index in &[3, 0, 4, 3, 0, 1] {
        guest.send(ports[index]);
    }
    assert!(event::upcall_due(&host.hv, &host.vcpu(DOMU)));
    assert_eq!(guest.take(0), [3, 0, 4, 1].map(|index| ports[index]));
    assert_eq!(guest.take(0), []);
    // One at a time, so that each queue is empty again before the next.
    for &index in &[2, 2, 1] {
        guest.send(ports[index]);
        assert_eq!(guest.take(0), [ports[index]]);
    }
    recount::check(&host.hv).unwrap();
}

#[test]
fn more_urgent_events_come_first() {
    let host = host();
    let mut guest = Guest::new(&host, DOMU, 1, 1);
    let ports: Vec<Port> = (0..4).map(|_| guest.ipi(0)).collect();
    guest.set_priority(ports[0], EVTCHN_FIFO_PRIORITY_MIN);
    guest.set_priority(ports[2], EVTCHN_FIFO_PRIORITY_MAX);
    for &port in &ports {
        guest.send(port);
    }
    assert_eq!(guest.take(0), [2, 1, 3, 0].map(|index| ports[index]));
}

#[test]
fn a_queued_event_of_a_masked_port_comes_when_it_is_unmasked() {
    let host = host();
    let mut guest = Guest::new(&host, DOMU, 1, 1);
    let port = bind_ipi(&host, DOMU, 0).unwrap();
    guest.send(port);
    assert_eq!(guest.value(port), MASKED | PENDING);
    assert!(!event::upcall_due(&host.hv, &host.vcpu(DOMU)));
    assert_eq!(event::poll(&host.hv, &host.domain(DOMU), port), Ok(true));
    guest.unmask(port);
    assert_eq!(guest.take(0), [port]);
    // Masked while it is queued: it leaves the queue, and comes later.
    guest.send(port);
    event_protocol::fifo::mask(&guest.at(port));
    assert_eq!(guest.take(0), []);
    assert_eq!(guest.value(port), MASKED | PENDING);
    guest.unmask(port);
    assert_eq!(guest.take(0), [port]);
    assert_eq!(event::poll(&host.hv, &host.domain(DOMU), port), Ok(false));
    // There is no word for port 0, or a port that is free, to change.
    assert_eq!(unmask(&host, DOMU, Port(0)), Ok(()));
    assert_eq!(unmask(&host, DOMU, Port(64)), Err(Errno::EINVAL));
}

#[test]
fn what_is_pending_at_the_switch_comes_when_there_is_a_word_for_it() {
    let host = host();
    let ports: Vec<Port> = (0..3).map(|_| bind_ipi(&host, DOMU, 0).unwrap()).collect();
    send(&host, DOMU, ports[0]).unwrap();
    let mut guest = Guest::new(&host, DOMU, 1, 0);
    // Sent between the two steps; and taken back with its port.
    guest.send(ports[1]);
    guest.send(ports[2]);
    close(&host, DOMU, ports[2]).unwrap();
    assert_eq!(
        event::poll(&host.hv, &host.domain(DOMU), ports[0]),
        Ok(false)
    );
    let page = host.layout(DOMU).scratch[41];
    guest.expand(page).unwrap();
    let reused = bind_ipi(&host, DOMU, 0).unwrap();
    assert_eq!(reused, ports[2]);
    for &port in &ports {
        guest.unmask(port);
    }
    assert_eq!(guest.take(0), [ports[0], ports[1]]);
}

#[test]
fn events_move_to_another_queue_and_leave_the_old_one_whole() {
    let host = host();
    let mut guest = Guest::new(&host, DOMU, 2, 1);
    let [moving, staying] = [DOM0, DOM0].map(|remote| {
        let port = alloc(&host, DOMU, Domid::SELF, remote).unwrap();
        guest.unmask(port);
        (port, connect(&host, DOM0, DOMU, port).unwrap())
    });
    let ring = |end: (Port, Port)| send(&host, DOM0, end.1).unwrap();
    ring(moving);
    assert_eq!(guest.take(0), [moving.0]);
    // It was the last of its queue, and is on another now.
    set_priority(&host, DOMU, moving.0, 3).unwrap();
    ring(moving);
    ring(staying);
    assert_eq!(guest.take(0), [moving.0, staying.0]);
    ring(moving);
    bind_vcpu(&host, DOMU, moving.0, 1).unwrap();
    ring(staying);
    ring(moving);
    assert_eq!(guest.take(1), [], "what is queued stays where it is");
    assert_eq!(guest.take(0), [moving.0, staying.0]);
    ring(moving);
    ring(staying);
    assert_eq!(guest.take(1), [moving.0]);
    assert_eq!(guest.take(0), [staying.0]);
    // Bound anew, it is the last of a queue on which it was for its last owner.
    close(&host, DOMU, moving.0).unwrap();
    let again = guest.ipi(0);
    assert_eq!(again, moving.0);
    guest.send(again);
    ring(staying);
    bind_vcpu(&host, DOMU, staying.0, 1).unwrap();
    assert_eq!(guest.take(0), [again, staying.0]);
    ring(staying);
    assert_eq!(guest.take(1), [staying.0]);
}

#[test]
fn a_closed_port_that_is_queued_still_is_nobodys_until_it_has_left_its_queue() {
    let host = host();
    let mut guest = Guest::new(&host, DOMU, 1, 1);
    let (first, second) = (guest.ipi(0), guest.ipi(0));
    guest.send(first);
    close(&host, DOMU, first).unwrap();
    assert_eq!(guest.value(first) & (PENDING | LINKED), LINKED);
    let third = guest.ipi(0);
    assert_eq!(third, Port(second.0 + 1));
    assert_eq!(guest.take(0), []);
    assert_eq!(bind_ipi(&host, DOMU, 0), Ok(first));
    // One who says of all ports that they are queued gets those that never were his.
    for port in 1..1024 {
        guest.at(Port(port)).fetch_or(LINKED);
    }
    for expected in [64, 128] {
        assert_eq!(bind_ipi(&host, DOMU, 0), Ok(Port(expected)));
    }
}

#[test]
fn a_vcpu_without_a_control_block_gets_no_queued_event_and_does_no_harm() {
    let host = host();
    lifecycle::create_vcpus(&host.hv, &host.domain(DOMU), 2).unwrap();
    let mut guest = Guest::new(&host, DOMU, 1, 1);
    let port = guest.ipi(1);
    guest.send(port);
    assert_eq!(guest.value(port), 0);
    guest.init(1).unwrap();
    guest.consumers.push(Consumer::new());
    guest.send(port);
    assert_eq!(guest.take(1), [port]);
}

#[test]
fn a_poll_waits_for_a_queued_event() {
    let host = host();
    let guest = Guest::new(&host, DOMU, 1, 1);
    let port = bind_ipi(&host, DOMU, 0).unwrap();
    let vcpu = host.vcpu(DOMU);
    host.domain(DOMU).events.poll_begun();
    vcpu.polling.store(port.0, Ordering::SeqCst);
    vcpu.blocked.store(true, Ordering::SeqCst);
    guest.send(port);
    assert!(!vcpu.blocked.load(Ordering::SeqCst));
    assert_eq!(vcpu.polling.load(Ordering::SeqCst), 0);
}

#[test]
fn a_reset_goes_back_to_two_levels_and_gives_the_pages_back() {
    let host = host();
    let guest = Guest::new(&host, DOMU, 1, 2);
    let port = guest.ipi(0);
    guest.send(port);
    recount::check(&host.hv).unwrap();
    assert_eq!(host.domain(DOMU).events.frames().len(), 3);
    reset(&host, DOMU).unwrap();
    assert!(host.domain(DOMU).events.frames().is_empty());
    recount::check(&host.hv).unwrap();
    let refused = expand_array(&host, DOMU, guest.control);
    assert_eq!(refused, Err(Errno::EOPNOTSUPP));
    assert_eq!(bind_ipi(&host, DOMU, 0), Ok(port));
    take_events(&host, DOMU);
    send(&host, DOMU, port).unwrap();
    assert_eq!(take_events(&host, DOMU), [port]);
    // And again, with nothing left of the queues.
    let mut guest = Guest::new(&host, DOMU, 1, 1);
    guest.unmask(port);
    guest.send(port);
    assert_eq!(guest.take(0), [port]);
}

#[test]
fn a_domain_with_queues_leaves_no_frame_behind() {
    let mut host = host();
    let before = host.hv.memory.free_frames();
    host.add_domain(Domid(7), false);
    Guest::new(&host, Domid(7), 2, 2).ipi(1);
    let domain = host.domain(Domid(7));
    while !lifecycle::destroy(&host.hv, &domain, &mut || true) {}
    assert_eq!(host.hv.memory.free_frames(), before);
    recount::check(&host.hv).unwrap();
    let page = host.layout(DOMU).scratch[40];
    let late = crate::event::fifo::init_control(&host.hv, &domain, 0, page, 0);
    assert_eq!(late, Err(Errno::ENOENT));
}

#[test]
fn control_blocks_are_refused_where_they_cannot_be() {
    let host = host();
    lifecycle::create_vcpus(&host.hv, &host.domain(DOMU), 2).unwrap();
    let page = host.layout(DOMU).scratch[40];
    let table = host.layout(DOMU).tables[3];
    let foreign = host.layout(OTHER).scratch[40];
    let refused = |vcpu, page, offset| init_control(&host, DOMU, vcpu, page, offset).unwrap_err();
    for vcpu in [2, 128, u32::MAX] {
        assert_eq!(refused(vcpu, page, 5), Errno::ENOENT);
    }
    for offset in [4, 4096 - 64, 4096 - 72 + 1, u32::MAX - 7] {
        assert_eq!(refused(0, page, offset), Errno::EINVAL);
    }
    for page in [table, foreign, Mfn(0), Mfn(1 << 40), Mfn(u64::MAX)] {
        assert_eq!(refused(0, page, 0), Errno::EINVAL);
    }
    // It is as if nothing had been tried.
    assert_eq!(expand_array(&host, DOMU, page), Err(Errno::EOPNOTSUPP));
    let args = [EVTCHNOP_INIT_CONTROL.into(), crate::testing::UNMAPPED];
    let fault = host.hypercall(DOMU, HYPERVISOR_EVENT_CHANNEL_OP, &args);
    assert_eq!(outcome(fault), Err(Errno::EFAULT));
    let op = EvtchnInitControl {
        control_gfn: page.0,
        offset: 4096 - 72,
        ..Default::default()
    };
    // Done, but not told.
    let read_only = host.put_read_only(DOMU, op.as_bytes());
    let args = [EVTCHNOP_INIT_CONTROL.into(), read_only];
    let fault = host.hypercall(DOMU, HYPERVISOR_EVENT_CHANNEL_OP, &args);
    assert_eq!(outcome(fault), Err(Errno::EFAULT));
    assert_eq!(refused(0, page, 0), Errno::EINVAL, "it has one");
    assert_eq!(refused(1, table, 0), Errno::EINVAL);
    assert_eq!(init_control(&host, DOMU, 1, page, 4096 - 72), Ok(17));
    assert_eq!(host.domain(DOMU).events.frames(), [page, page]);
    recount::check(&host.hv).unwrap();
}

#[test]
fn words_are_refused_where_they_cannot_be_and_beyond_the_last_port() {
    let host = host();
    let page = host.layout(DOMU).scratch[41];
    assert_eq!(expand_array(&host, DOMU, page), Err(Errno::EOPNOTSUPP));
    let mut guest = Guest::new(&host, DOMU, 1, 0);
    let table = host.layout(DOMU).tables[3];
    let foreign = host.layout(OTHER).scratch[41];
    for page in [table, foreign, Mfn(0), Mfn(u64::MAX)] {
        assert_eq!(expand_array(&host, DOMU, page), Err(Errno::EINVAL));
    }
    for _ in 0..128 {
        guest.expand(page).unwrap();
    }
    assert_eq!(expand_array(&host, DOMU, page), Err(Errno::ENOSPC));
    assert_eq!(expand_array(&host, DOMU, table), Err(Errno::ENOSPC));
    recount::check(&host.hv).unwrap();
    let args = [EVTCHNOP_EXPAND_ARRAY.into(), crate::testing::UNMAPPED];
    let fault = host.hypercall(DOMU, HYPERVISOR_EVENT_CHANNEL_OP, &args);
    assert_eq!(outcome(fault), Err(Errno::EFAULT));
}

#[test]
fn priorities_are_for_bound_ports_of_domains_with_queues() {
    let host = host();
    let port = bind_ipi(&host, DOMU, 0).unwrap();
    let set = |port, priority| set_priority(&host, DOMU, port, priority);
    assert_eq!(set(port, 0), Err(Errno::ENOSYS));
    assert_eq!(set(Port(64), 0), Err(Errno::EINVAL));
    let _guest = Guest::new(&host, DOMU, 1, 1);
    assert_eq!(set(port, 15), Ok(()));
    assert_eq!(set(port, 16), Err(Errno::EINVAL));
    assert_eq!(set(port, u32::MAX), Err(Errno::EINVAL));
    assert_eq!(set(Port(0), 0), Err(Errno::EACCES));
    assert_eq!(set(Port(port.0 + 1), 99), Err(Errno::EACCES));
    assert_eq!(set(Port(64), 99), Err(Errno::EINVAL));
}

#[test]
fn a_domain_with_queues_has_131071_ports_if_it_may() {
    let host = host();
    let new = lifecycle::NewDomain {
        id: Domid(5),
        privileged: false,
        handle: [0; 16],
        max_vcpus: 1,
        max_port: u32::MAX,
        grants: host.hv.options.grants.limits,
    };
    let domain = lifecycle::create(&host.hv, &new).unwrap();
    lifecycle::create_vcpus(&host.hv, &domain, 1).unwrap();
    domain.owner.set_max_frames(8);
    let page = host.hv.memory.allocate(&domain.owner, 0, u64::MAX).unwrap();
    for expected in 1..EVTCHN_2L_NR_CHANNELS {
        assert_eq!(event::bind_ipi(&domain, 0), Ok(Port(expected)));
    }
    assert_eq!(event::bind_ipi(&domain, 0), Err(Errno::ENOSPC));
    crate::event::fifo::init_control(&host.hv, &domain, 0, page, 0).unwrap();
    for expected in EVTCHN_2L_NR_CHANNELS..EVTCHN_FIFO_NR_CHANNELS {
        assert_eq!(event::bind_ipi(&domain, 0), Ok(Port(expected)));
    }
    assert_eq!(event::bind_ipi(&domain, 0), Err(Errno::ENOSPC));
    // To close them takes long, so it is done in pieces.
    let mut pieces = 0;
    while !lifecycle::destroy(&host.hv, &domain, &mut || true) {
        pieces += 1;
    }
    assert!(pieces > 2000);
    assert_eq!(domain.events.active(), 0);
}
