//! The performance counters.

use super::*;

use crate::counters::{Counter, NAMES};

#[test]
fn counters_are_told_by_name_and_set_back() {
    let host = Host::new();
    let ask = SysctlPerfcOp {
        cmd: XEN_SYSCTL_PERFCOP_QUERY,
        ..FromZeros::new_zeroed()
    };
    let told = succeed(&host, XEN_SYSCTL_PERFC_OP, &ask);
    assert_eq!(told.nr_counters as usize, NAMES.len());
    assert_eq!(told.nr_vals, told.nr_counters, "there is one CPU");

    let counters = vec![SysctlPerfcDesc::new_zeroed(); NAMES.len()];
    let values = vec![u32::MAX; NAMES.len()];
    let (desc, val) = (
        host.put_slice(DOM0, &counters),
        host.put_slice(DOM0, &values),
    );
    let everything = |cmd| SysctlPerfcOp {
        cmd,
        desc: GuestHandle::new(desc),
        val: GuestHandle::new(val),
        ..FromZeros::new_zeroed()
    };
    host.hv.count_many(Counter::TableStores, 5);
    let index = Counter::TableStores as u64;
    let read = |cmd| {
        succeed(&host, XEN_SYSCTL_PERFC_OP, &everything(cmd));
        host.get::<u32>(DOM0, val + 4 * index)
    };
    assert_eq!(read(XEN_SYSCTL_PERFCOP_QUERY), 5);
    let found: SysctlPerfcDesc = host.get(DOM0, desc + 84 * index);
    assert!(found.name.starts_with(b"writable pt emulations\0"));
    assert_eq!(found.nr_vals, 1);
    assert_eq!(read(XEN_SYSCTL_PERFCOP_RESET), 5);
    assert_eq!(read(XEN_SYSCTL_PERFCOP_QUERY), 0);

    let mut nowhere = everything(XEN_SYSCTL_PERFCOP_QUERY);
    nowhere.val = GuestHandle::new(UNMAPPED);
    fail(&host, XEN_SYSCTL_PERFC_OP, &nowhere, Errno::EFAULT);
    nowhere = everything(XEN_SYSCTL_PERFCOP_QUERY);
    nowhere.desc = GuestHandle::new(UNMAPPED);
    fail(&host, XEN_SYSCTL_PERFC_OP, &nowhere, Errno::EFAULT);
    fail(&host, XEN_SYSCTL_PERFC_OP, &everything(3), Errno::EINVAL);
}
