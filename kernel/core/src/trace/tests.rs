//! The tracer through the hypercall, and its buffers as the control domain maps and reads them.

use super::*;

use hv_machine::MachineRef;
use hypercall_abi::event_channel::{EVTCHNOP_SEND, EvtchnSend};
use hypercall_abi::sched::{SCHEDOP_BLOCK, SCHEDOP_YIELD};
use hypercall_abi::sysctl::*;
use hypercall_abi::trace::*;
use hypercall_abi::types::GuestHandle;
use hypercall_abi::vcpu::{RUNSTATE_OFFLINE, RUNSTATE_RUNNABLE};
use hypercall_abi::version::XENVER_PAGESIZE;
use hypercall_abi::xen::*;
use zerocopy::FromZeros;

use crate::hypervisor::SPARE_HEAP;
use crate::memory::{Pte, recount};
use crate::sched;
use crate::testing::{DOM0, DOMU, Host, RO, RW, SCRATCH, SCRATCH_PAGES, UNMAPPED};
use crate::traps;

/// Where the control domain maps the description, and behind it the buffer of CPU 0.
const INFO: u64 = SCRATCH + SCRATCH_PAGES * 4096;
const RING: u64 = INFO + 4096;

fn control(host: &Host, arm: SysctlTbufOp) -> (i64, SysctlTbufOp) {
    let op = host.put(DOM0, &Sysctl::with(XEN_SYSCTL_TBUF_OP, &arm));
    let result = host.hypercall(DOM0, HYPERVISOR_SYSCTL, &[op]);
    (result, host.get::<Sysctl>(DOM0, op).u.get())
}

fn op(cmd: u32) -> SysctlTbufOp {
    SysctlTbufOp {
        cmd,
        ..FromZeros::new_zeroed()
    }
}

fn set_size(host: &Host, size: u32) -> i64 {
    let arm = op(XEN_SYSCTL_TBUFOP_SET_SIZE);
    control(host, SysctlTbufOp { size, ..arm }).0
}

#[track_caller]
fn simply(host: &Host, cmd: u32) {
    assert_eq!(control(host, op(cmd)).0, 0);
}

fn set_events(host: &Host, evt_mask: u32) {
    let arm = op(XEN_SYSCTL_TBUFOP_SET_EVT_MASK);
    assert_eq!(control(host, SysctlTbufOp { evt_mask, ..arm }).0, 0);
}

fn info(host: &Host) -> SysctlTbufOp {
    let (result, info) = control(host, op(XEN_SYSCTL_TBUFOP_GET_INFO));
    assert_eq!(result, 0);
    info
}

fn map(host: &Host, id: Domid, va: u64, entry: Pte, owner: Domid) -> i64 {
    let args = [va, entry.0, UVMF_INVLPG, owner.0.into()];
    host.hypercall(id, HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN, &args)
}

/// A guest's hypercall with nothing to say but its number.
fn call(host: &Host) {
    let args = [XENVER_PAGESIZE.into(), 0];
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_XEN_VERSION, &args), 4096);
}

/// A record as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    event: u32,
    tsc: Option<u64>,
    data: Vec<u32>,
}

/// The control domain, which has mapped the buffer of CPU 0 and reads it as the header says.
struct Reader<'a> {
    host: &'a Host,
    size: u32,
    last_tsc: u64,
}

impl<'a> Reader<'a> {
    /// Has buffers made, maps that of CPU 0, and chooses what is traced.
    fn begin(host: &'a Host, pages: u32, events: u32) -> Self {
        set_events(host, 0);
        host.hv.machine.set_tsc_step(1);
        assert_eq!(set_size(host, pages), 0);
        let found = Mfn(info(host).buffer_mfn);
        assert_eq!(map(host, DOM0, INFO, Pte::new(found, RO), Domid::XEN), 0);
        let offset: u16 = host.get(DOM0, INFO + 2);
        for page in 0..u64::from(pages) {
            let mfn: u32 = host.get(DOM0, INFO + 4 * (u64::from(offset) + page));
            let entry = Pte::new(Mfn(mfn.into()), RW);
            assert_eq!(map(host, DOM0, RING + 4096 * page, entry, Domid::XEN), 0);
        }
        set_events(host, events);
        Self {
            host,
            size: pages * 4096 - 8,
            last_tsc: 0,
        }
    }

    fn indices(&self) -> TBuf {
        let [cons, prod] = self.host.get(DOM0, RING);
        TBuf { cons, prod }
    }

    fn set_consumer(&self, cons: u32) {
        self.host.put_at(DOM0, RING, &cons);
    }

    fn word(&self, index: u32) -> u32 {
        let at = RING + 8 + u64::from(index % self.size);
        self.host.get(DOM0, at)
    }

    /// Takes up to `most` records, fillers among them.
    fn take(&mut self, most: usize) -> Vec<Record> {
        let TBuf { mut cons, prod } = self.indices();
        let mut records = Vec::new();
        while cons != prod && records.len() < most {
            let start = cons;
            let mut next = || {
                let word = self.word(cons);
                cons = (cons + 4) % (2 * self.size);
                word
            };
            let header = next();
            let stamped = header & TRC_HD_CYCLE_FLAG != 0;
            let tsc = stamped.then(|| u64::from(next()) | u64::from(next()) << 32);
            let count = header >> TRACE_EXTRA_SHIFT & 7;
            let data: Vec<u32> = (0..count).map(|_| next()).collect();
            let inside = start % self.size < cons % self.size || cons % self.size == 0;
            assert!(inside, "a record lies across the end");
            let event = header & 0x0fff_ffff;
            if event != TRC_TRACE_WRAP_BUFFER {
                let tsc = tsc.expect("all others have a time stamp");
                assert!(tsc >= self.last_tsc, "time goes back");
                self.last_tsc = tsc;
            }
            records.push(Record { event, tsc, data });
        }
        self.set_consumer(cons);
        records
    }

    /// Takes all records; their events and data.
    fn all(&mut self) -> Vec<(u32, Vec<u32>)> {
        let records = self.take(usize::MAX).into_iter();
        let records = records.filter(|record| record.event != TRC_TRACE_WRAP_BUFFER);
        records.map(|record| (record.event, record.data)).collect()
    }
}

#[test]
fn buffers_are_made_once_and_of_a_size_that_can_be_described() {
    let host = Host::new();
    let before = info(&host);
    assert_eq!((before.buffer_mfn, before.size), (0, 0));
    assert_eq!(before.evt_mask, TRC_ALL);
    let enable = |host: &Host| control(host, op(XEN_SYSCTL_TBUFOP_ENABLE)).0;
    assert_eq!(enable(&host), Errno::EINVAL.to_return());
    assert_eq!(set_size(&host, 0), Errno::EINVAL.to_return());
    assert_eq!(control(&host, op(6)).0, Errno::EINVAL.to_return());
    assert_eq!(set_size(&host, 2), 0);
    let after = info(&host);
    assert_eq!(after.size, 4096);
    assert_ne!(after.buffer_mfn, 0);
    assert_eq!(set_size(&host, 2), Errno::EBUSY.to_return());
    assert_eq!(set_size(&host, 3), Errno::EINVAL.to_return());
    assert_eq!(set_size(&host, 0), Errno::EINVAL.to_return());
    assert_eq!(info(&host).buffer_mfn, after.buffer_mfn);
    assert_eq!(enable(&host), 0);

    let host = Host::with_machine(MachineRef::new(hv_machine::sim::Machine::with_cpus(
        4096, 3,
    )));
    assert_eq!(set_size(&host, u32::MAX), 0);
    // One word for size and first offset, one for the other two.
    let words = host.hv.machine.load_u64(Mfn(info(&host).buffer_mfn), 0);
    let pages = 1022 / 3;
    let offsets = [0, 1, 2].map(|cpu| 2 + cpu * pages);
    let [first, second, third] = offsets;
    assert_eq!(words, pages | first << 16 | second << 32 | third << 48);
}

/// A host with one CPU that has so many frames left.
fn host_with(frames: u64) -> Host {
    let host = Host::new();
    let hog = host.hv.memory.create_owner(Domid(77), u64::MAX);
    while host.hv.memory.free_frames() > frames {
        host.hv.memory.allocate(&hog, 0, u64::MAX).expect("a frame");
    }
    host
}

#[test]
fn without_memory_no_buffer_is_made_and_none_is_kept() {
    let host = host_with(4);
    // The description needs a frame as well.
    for too_much in [30, 4] {
        assert_eq!(set_size(&host, too_much), Errno::ENOMEM.to_return());
        assert_eq!(host.hv.memory.free_frames(), 4);
        assert_eq!(info(&host).buffer_mfn, 0);
    }
    assert_eq!(set_size(&host, 3), 0);
}

#[test]
fn buffers_leave_the_rest_of_the_heap_to_other_calls() {
    let host = host_with(20);
    let needed = SPARE_HEAP + INFO_WORDS * 2 * size_of::<Mfn>();
    host.hv.machine.set_heap_free(needed - 1);
    assert_eq!(set_size(&host, 4), Errno::ENOMEM.to_return());
    assert_eq!(host.hv.memory.free_frames(), 20);
    host.hv.machine.set_heap_free(needed);
    assert_eq!(set_size(&host, 4), 0);
}

#[test]
fn the_control_domain_alone_maps_the_buffers_as_those_of_the_hypervisor() {
    let host = Host::new();
    let reader = Reader::begin(&host, 2, 0);
    let found = Mfn(info(&host).buffer_mfn);
    assert_eq!(host.get::<u16>(DOM0, INFO), 2);
    for owner in [Domid::SELF, Domid::IO] {
        let refused = map(&host, DOM0, RING + (64 << 12), Pte::new(found, RO), owner);
        assert_eq!(refused, Errno::EBUSY.to_return());
    }
    let refused = map(&host, DOMU, SCRATCH, Pte::new(found, RO), Domid::XEN);
    assert_eq!(refused, Errno::EPERM.to_return());
    assert_eq!(reader.indices().prod, 0);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn hypercalls_are_recorded_with_the_arguments_that_xen_records() {
    let host = Host::new();
    let mut reader = Reader::begin(&host, 2, TRC_PV);
    call(&host);
    host.hypercall(DOMU, HYPERVISOR_VCPU_OP, &[2, 1, 0x1234_5678]);
    host.hypercall(DOMU, HYPERVISOR_GRANT_TABLE_OP, &[9, 8, 0]);
    host.hypercall(DOMU, HYPERVISOR_MMU_UPDATE, &[SCRATCH, 0, 0, 0x7ff0]);
    let pair = [HYPERVISOR_XEN_VERSION, HYPERVISOR_SCHED_OP].map(|op| MulticallEntry {
        op: op.into(),
        result: 0,
        args: [SCHEDOP_YIELD.into(), 0, 0, 0, 0, 0],
    });
    let list = host.put_slice(DOMU, &pair);
    host.hypercall(DOMU, HYPERVISOR_MULTICALL, &[list, 2]);
    let (call, subcall) = (TRC_PV_HYPERCALL_V2, TRC_PV_HYPERCALL_SUBCALL);
    let argument = |place: u32| 1 << (20 + 2 * place);
    let expected = [
        (call, vec![HYPERVISOR_XEN_VERSION]),
        (
            call,
            vec![HYPERVISOR_VCPU_OP | argument(0) | argument(1), 2, 1],
        ),
        (
            call,
            vec![HYPERVISOR_GRANT_TABLE_OP | argument(0) | argument(2), 9, 0],
        ),
        (call, vec![HYPERVISOR_MMU_UPDATE | argument(1), 0]),
        (call, vec![HYPERVISOR_MULTICALL | argument(1), 2]),
        (subcall, vec![HYPERVISOR_XEN_VERSION]),
        (
            subcall,
            vec![HYPERVISOR_SCHED_OP | argument(0), SCHEDOP_YIELD],
        ),
    ];
    assert_eq!(reader.all(), expected);
}

#[test]
fn exceptions_are_recorded_as_the_guests_kernel_gets_them() {
    let host = Host::new();
    let mut reader = Reader::begin(&host, 2, TRC_PV);
    host.as_guest(DOMU, |cx| {
        cx.state.context.regs.rip = 0x1_2345_6789;
        traps::handle_exception(cx, traps::vector::PAGE_FAULT, 6, 0xffff_ffff_8000_0010);
    });
    host.as_guest(DOMU, |cx| {
        cx.state.context.regs.rip = 0x1000;
        traps::handle_exception(cx, 17, 0x5a, 0);
        traps::inject(cx, 3, None);
    });
    let long = TRC_64_FLAG;
    let expected = [
        (
            TRC_PV_PAGE_FAULT | long,
            vec![0x2345_6789, 1, 0x8000_0010, u32::MAX, 2],
        ),
        (
            TRC_PV_TRAP | long,
            vec![0x1000, 0, 17 | 1 << 15 | 0x5a << 16],
        ),
        (TRC_PV_TRAP | long, vec![0x1000, 0, 3]),
    ];
    assert_eq!(reader.all(), expected);
}

#[test]
fn events_and_the_scheduler_are_recorded() {
    let host = Host::new();
    let mut reader = Reader::begin(&host, 2, TRC_SCHED | TRC_XENOLITH);
    let port = event::bind_ipi(&host.domain(DOMU), 0).expect("a port");
    let send = host.put(DOMU, &EvtchnSend { port });
    let args = [EVTCHNOP_SEND.into(), send];
    host.hypercall(DOMU, HYPERVISOR_EVENT_CHANNEL_OP, &args);
    let domu = u32::from(DOMU.0);
    assert_eq!(reader.all(), [(TRC_XENOLITH_EVENT, vec![domu, port.0])]);

    // Nothing is known of what ran before tracing began.
    let first = sched::pick(&host.hv).expect("two are runnable");
    let first = first.domain.upgrade().expect("it lives").id;
    let goes_on = vec![u32::from(first.0) << 16];
    assert_eq!(reader.all(), [(TRC_SCHED_CONTINUE_RUNNING, goes_on)]);
    for id in [DOM0, DOMU] {
        host.vcpu(id).blocked.store(true, Ordering::SeqCst);
        sched::sleep(&host.hv, &host.vcpu(id));
    }
    assert!(sched::pick(&host.hv).is_none());
    sched::unblock(&host.hv, &host.vcpu(DOMU));
    let change = |old: u32, new: u32| TRC_SCHED_RUNSTATE_CHANGE | old << 8 | new << 4;
    let to_blocked = change(RUNSTATE_RUNNABLE, hypercall_abi::vcpu::RUNSTATE_BLOCKED);
    let to_runnable = change(hypercall_abi::vcpu::RUNSTATE_BLOCKED, RUNSTATE_RUNNABLE);
    let idle = u32::from(Domid::IDLE.0);
    let expected = [
        (TRC_SCHED_BLOCK, vec![0, 0]),
        (to_blocked, vec![0]),
        (TRC_SCHED_BLOCK, vec![domu, 0]),
        (to_blocked, vec![domu << 16]),
        (TRC_SCHED_SWITCH, vec![first.0.into(), 0, idle, 0]),
        (TRC_SCHED_WAKE, vec![domu, 0]),
        (to_runnable, vec![domu << 16]),
    ];
    assert_eq!(reader.all(), expected);
    // One that is paused is offline, and sleeps rather than blocks.
    crate::lifecycle::toolstack_pause(&host.hv, &host.domain(DOMU));
    let paused = reader.all();
    assert!(
        paused.contains(&(TRC_SCHED_SLEEP, vec![domu, 0])),
        "{paused:?}"
    );
    let offline = change(RUNSTATE_RUNNABLE, RUNSTATE_OFFLINE);
    assert!(paused.contains(&(offline, vec![domu << 16])), "{paused:?}");
    let args = [SCHEDOP_BLOCK.into(), 0];
    host.hypercall(DOM0, HYPERVISOR_SCHED_OP, &args);
    assert_eq!(reader.all()[0], (TRC_SCHED_BLOCK, vec![0, 0]));
}

#[test]
fn only_the_chosen_events_of_the_chosen_cpus_are_recorded() {
    let host = Host::new();
    let mut reader = Reader::begin(&host, 2, TRC_SCHED);
    call(&host);
    set_events(&host, TRC_PV_SUBCALL);
    call(&host);
    assert_eq!(reader.all(), []);
    set_events(&host, TRC_PV_ENTRY);
    call(&host);
    assert_eq!(reader.all().len(), 1);
    let mask = |cpus: u8| {
        let mut arm = op(XEN_SYSCTL_TBUFOP_SET_CPU_MASK);
        arm.cpu_mask.bitmap = GuestHandle::new(host.put(DOM0, &cpus));
        arm.cpu_mask.nr_bits = 8;
        assert_eq!(control(&host, arm).0, 0);
    };
    mask(0xfe);
    call(&host);
    // The call that sets the mask was made before.
    assert_eq!(reader.all().len(), 1);
    mask(0xff);
    call(&host);
    assert_eq!(reader.all().len(), 1);
    let mut bad = op(XEN_SYSCTL_TBUFOP_SET_CPU_MASK);
    bad.cpu_mask.bitmap = GuestHandle::new(UNMAPPED);
    bad.cpu_mask.nr_bits = 8;
    assert_eq!(control(&host, bad).0, Errno::EFAULT.to_return());
    reader.all();
    simply(&host, XEN_SYSCTL_TBUFOP_DISABLE);
    reader.all();
    call(&host);
    set_events(&host, TRC_ALL);
    call(&host);
    assert_eq!(reader.all(), [], "it is off");
    simply(&host, XEN_SYSCTL_TBUFOP_ENABLE);
    call(&host);
    assert_eq!(reader.all().len(), 1);
}

#[test]
fn lost_records_are_counted_and_the_count_is_recorded_once_there_is_room() {
    let host = Host::new();
    let mut reader = Reader::begin(&host, 1, TRC_PV);
    let fits = reader.size / 16;
    for _ in 0..fits + 5 {
        call(&host);
    }
    let begun = reader.take(1)[0].tsc.expect("stamped");
    // There is room for the record, but not for the count in front of it.
    call(&host);
    let read = reader.all();
    assert_eq!(read.len() as u32, fits - 1);
    assert!(read.iter().all(|(event, _)| *event == TRC_PV_HYPERCALL_V2));
    call(&host);
    let found = reader.take(usize::MAX);
    let found: Vec<_> = found
        .iter()
        .filter(|it| it.event != TRC_TRACE_WRAP_BUFFER)
        .collect();
    let [lost, after] = found[..] else {
        panic!("{found:?}");
    };
    assert_eq!((lost.event, lost.data[0]), (TRC_LOST_RECORDS, 6));
    let first = u64::from(lost.data[2]) | u64::from(lost.data[3]) << 32;
    assert!(begun < first && first < lost.tsc.expect("stamped"));
    assert_eq!(after.event, TRC_PV_HYPERCALL_V2);
    call(&host);
    assert_eq!(reader.all().len(), 1, "they are counted once");
    // What was lost before tracing was turned off is nobody's concern.
    for _ in 0..fits + 5 {
        call(&host);
    }
    simply(&host, XEN_SYSCTL_TBUFOP_DISABLE);
    reader.all();
    simply(&host, XEN_SYSCTL_TBUFOP_ENABLE);
    call(&host);
    assert_eq!(
        reader.all(),
        [(TRC_PV_HYPERCALL_V2, vec![HYPERVISOR_XEN_VERSION])]
    );
}

#[test]
fn records_of_all_lengths_stay_whole_and_in_order_over_many_rounds() {
    let host = Host::new();
    let mut reader = Reader::begin(&host, 2, TRC_XENOLITH);
    let (mut written, mut read) = (0_u32, 0_u32);
    for round in 0..400_u32 {
        for step in 0..round % 67 {
            let data = [written; 7];
            let len = 1 + (step * 5 + round) as usize % 7;
            record(&host.hv, TRC_XENOLITH_EVENT, &data[..len]);
            written += 1;
        }
        let most = [usize::MAX, 3, 40][round as usize % 3];
        for Record { event, data, .. } in reader.take(most) {
            match event {
                TRC_TRACE_WRAP_BUFFER => assert!(data.iter().all(|word| *word == 0)),
                TRC_LOST_RECORDS => read += data[0],
                _ => {
                    assert!(data.iter().all(|word| *word == read), "{data:?} for {read}");
                    read += 1;
                }
            }
        }
    }
    assert!(written > 10_000 && written - read < 400);
}

#[test]
fn a_consumer_index_that_cannot_be_turns_tracing_off_and_nothing_else() {
    let host = Host::new();
    let mut reader = Reader::begin(&host, 1, TRC_PV);
    let (whole, three) = (2 * reader.size, 3 * 16);
    for _ in 0..3 {
        call(&host);
    }
    let behind = three + 2 * reader.size - reader.size - 4;
    for bad in [
        1,
        2,
        3,
        whole,
        whole + 4,
        1 << 31,
        u32::MAX,
        three + 4,
        behind,
    ] {
        reader.set_consumer(bad);
        call(&host);
        assert!(!host.hv.tracer.is_on(), "{bad:#x}");
        assert_eq!(reader.indices().prod, three, "nothing is written");
        reader.set_consumer(0);
        call(&host);
        assert_eq!(reader.indices().prod, three, "it stays off");
        simply(&host, XEN_SYSCTL_TBUFOP_DISABLE);
        host.hv.tracer.enable().expect("there are buffers");
        assert_eq!(reader.indices().prod, three);
    }
    // What it writes to the producer's index is not read.
    host.put_at(DOM0, RING + 4, &0xdead_beef_u32);
    call(&host);
    assert_eq!(reader.all().len(), 4);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn a_buffer_that_becomes_half_full_raises_the_virtual_interrupt_once() {
    let host = Host::new();
    let mut reader = Reader::begin(&host, 1, TRC_PV);
    let domain = host.domain(DOM0);
    let port = event::bind_virq(&domain, VIRQ_TBUF, 0).expect("a port");
    let pending = || {
        tell(&host.hv);
        let is = event::poll(&host.hv, &domain, port) == Ok(true);
        host.hv.machine.store_u64(
            domain.shared_info,
            core::mem::offset_of!(SharedInfo, evtchn_pending) / 8,
            0,
        );
        is
    };
    let half = reader.size.div_ceil(2).div_ceil(16);
    for round in 0..3 {
        for _ in 1..half {
            call(&host);
            assert!(!pending(), "too early in round {round}");
        }
        host.hv.take_schedule_request();
        call(&host);
        assert!(
            host.hv.take_schedule_request(),
            "the CPU is to leave the guest"
        );
        assert!(pending());
        call(&host);
        assert!(!pending(), "twice in round {round}");
        reader.all();
    }
}
