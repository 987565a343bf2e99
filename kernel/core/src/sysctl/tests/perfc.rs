//! The performance counters.

use super::*;

use crate::counters::{Counter, NAMES, UPCALLS};
use crate::testing::SCRATCH;
use crate::traps;

/// What a caller asks who wants to know how many counters and values there are.
fn ask(cmd: u32) -> SysctlPerfcOp {
    SysctlPerfcOp {
        cmd,
        ..FromZeros::new_zeroed()
    }
}

/// The control domain's room for counters and values, of which it asks with `cmd`.
struct Room(SysctlPerfcOp);

impl Room {
    /// As much as it is said to need, and a value more.
    fn new(host: &Host) -> Self {
        let told = succeed(host, XEN_SYSCTL_PERFC_OP, &ask(XEN_SYSCTL_PERFCOP_QUERY));
        let counters = vec![SysctlPerfcDesc::new_zeroed(); told.nr_counters as usize];
        let values = vec![u32::MAX; told.nr_vals as usize + 1];
        Self(SysctlPerfcOp {
            desc: GuestHandle::new(host.put_slice(DOM0, &counters)),
            val: GuestHandle::new(host.put_slice(DOM0, &values)),
            ..ask(XEN_SYSCTL_PERFCOP_QUERY)
        })
    }

    fn asks(&self, cmd: u32) -> SysctlPerfcOp {
        SysctlPerfcOp { cmd, ..self.0 }
    }

    fn value(&self, host: &Host, index: u64) -> u32 {
        host.get(DOM0, self.0.val.address() + 4 * index)
    }

    fn counter(&self, host: &Host, index: u64) -> SysctlPerfcDesc {
        host.get(DOM0, self.0.desc.address() + 84 * index)
    }

    /// How many values the counter of upcalls has, and what they and the next word are.
    fn upcalls(&self, host: &Host) -> (u32, Vec<u32>) {
        let told = succeed(host, XEN_SYSCTL_PERFC_OP, &self.0);
        let last = NAMES.len() as u64;
        assert_eq!(told.nr_counters as u64, last + 1);
        let counter = self.counter(host, last);
        assert!(counter.name.starts_with(UPCALLS.as_bytes()));
        let other_values = NAMES.len() as u32;
        assert_eq!(told.nr_vals, other_values + counter.nr_vals);
        let values = u64::from(other_values)..=u64::from(told.nr_vals);
        let values = values.map(|index| self.value(host, index));
        (counter.nr_vals, values.collect())
    }
}

fn enter_upcalls(host: &Host, id: Domid, times: u32) {
    host.as_guest(id, |cx| {
        cx.state.callbacks.event = 0x5000;
        for _ in 0..times {
            cx.state.context.regs.rsp = SCRATCH + 0x8000;
            traps::enter_upcall(cx);
        }
    });
}

#[test]
fn counters_are_told_by_name_and_set_back() {
    let host = Host::new();
    let told = succeed(&host, XEN_SYSCTL_PERFC_OP, &ask(XEN_SYSCTL_PERFCOP_QUERY));
    assert_eq!(told.nr_counters as usize, NAMES.len() + 1);
    let each = "one for the only CPU, and for each of the two domains";
    assert_eq!(told.nr_vals as usize, NAMES.len() + 2, "{each}");

    let room = Room::new(&host);
    host.hv.count_many(Counter::TableStores, 5);
    let index = Counter::TableStores as u64;
    let read = |cmd| {
        succeed(&host, XEN_SYSCTL_PERFC_OP, &room.asks(cmd));
        room.value(&host, index)
    };
    assert_eq!(read(XEN_SYSCTL_PERFCOP_QUERY), 5);
    let found = room.counter(&host, index);
    assert!(found.name.starts_with(b"writable pt emulations\0"));
    assert_eq!(found.nr_vals, 1);
    assert_eq!(read(XEN_SYSCTL_PERFCOP_RESET), 5);
    assert_eq!(read(XEN_SYSCTL_PERFCOP_QUERY), 0);

    let mut nowhere = room.asks(XEN_SYSCTL_PERFCOP_QUERY);
    nowhere.val = GuestHandle::new(UNMAPPED);
    fail(&host, XEN_SYSCTL_PERFC_OP, &nowhere, Errno::EFAULT);
    nowhere = room.asks(XEN_SYSCTL_PERFCOP_QUERY);
    nowhere.desc = GuestHandle::new(UNMAPPED);
    fail(&host, XEN_SYSCTL_PERFC_OP, &nowhere, Errno::EFAULT);
    fail(&host, XEN_SYSCTL_PERFC_OP, &room.asks(3), Errno::EINVAL);
}

#[test]
fn upcalls_are_told_by_domain_and_set_back() {
    let host = Host::new();
    let room = Room::new(&host);
    enter_upcalls(&host, DOMU, 3);
    assert_eq!(room.upcalls(&host), (2, vec![0, 3, u32::MAX]));
    enter_upcalls(&host, DOM0, 1);
    assert_eq!(room.upcalls(&host), (2, vec![1, 3, u32::MAX]));
    let reset = room.asks(XEN_SYSCTL_PERFCOP_RESET);
    succeed(&host, XEN_SYSCTL_PERFC_OP, &reset);
    assert_eq!(room.upcalls(&host), (2, vec![0, 0, u32::MAX]));
}

#[test]
fn a_domain_that_came_since_the_control_domain_asked_is_left_out() {
    let mut host = Host::new();
    let room = Room::new(&host);
    let third = Domid(DOMU.0 + 1);
    host.add_domain(third, false);
    for (id, times) in [(DOMU, 2), (third, 5)] {
        enter_upcalls(&host, id, times);
    }
    assert_eq!(room.upcalls(&host), (2, vec![0, 2, u32::MAX]));
    assert_eq!(
        Room::new(&host).upcalls(&host),
        (3, vec![0, 2, 5, u32::MAX])
    );
}

#[test]
fn the_values_of_a_domain_that_went_since_are_zeros_at_the_end() {
    let host = Host::new();
    for (id, times) in [(DOM0, 4), (DOMU, 2)] {
        enter_upcalls(&host, id, times);
    }
    let room = Room::new(&host);
    let gone = host.hv.domains.write().remove(&DOMU);
    assert_eq!(room.upcalls(&host), (2, vec![4, 0, u32::MAX]));
    drop(gone);
}

#[test]
fn no_room_for_the_last_domains_value_is_told() {
    let host = Host::new();
    let room = Room::new(&host);
    // All but one value end where the mapped memory does.
    let end = SCRATCH + 4096 * host.layout(DOM0).scratch.len() as u64;
    let values = NAMES.len() as u64 + 2;
    let mut short = room.asks(XEN_SYSCTL_PERFCOP_QUERY);
    short.val = GuestHandle::new(end - 4 * (values - 1));
    fail(&host, XEN_SYSCTL_PERFC_OP, &short, Errno::EFAULT);
    short.val = GuestHandle::new(end - 4 * values);
    succeed(&host, XEN_SYSCTL_PERFC_OP, &short);
}
