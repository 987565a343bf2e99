//! `XEN_SYSCTL_perfc_op`: the performance counters.
//!
//! Who asks for the values names no room for them, but asks before how many there are, and may rely on it: in Xen that
//! never changes. So the counter by domain has as many values as it was last said to have. Domains that came since are
//! left out, and where there are fewer now, zeros are at its end.

use core::sync::atomic::Ordering;

use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::*;
use hypercall_abi::types::Domid;

use hv_machine::Platform;

use crate::counters::{NAMES, UPCALLS};
use crate::current::Current;

/// Copies the counters out, unless the caller only asks how many there are, and sets them back if so told.
///
/// # Errors
/// `EINVAL` for an unknown command, `EFAULT`.
pub(super) fn operate(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlPerfcOp = op.u.get();
    if !matches!(arm.cmd, XEN_SYSCTL_PERFCOP_QUERY | XEN_SYSCTL_PERFCOP_RESET) {
        return Err(Errno::EINVAL);
    }
    let told = &cx.hv.counters.told_domains;
    if arm.desc.address() == 0 {
        told.store(cx.hv.domains.read().len() as u32, Ordering::Relaxed);
    }
    let domains = told.load(Ordering::Relaxed);
    let copied = match arm.desc.address() {
        0 => Ok(()),
        _ => copy(cx, &arm, domains),
    };
    if arm.cmd == XEN_SYSCTL_PERFCOP_RESET {
        cx.hv.reset_counters();
    }
    arm.nr_counters = NAMES.len() as u32 + 1;
    arm.nr_vals = NAMES.len() as u32 * cx.machine().cpu_count() + domains;
    op.u.set(&arm);
    copied
}

fn copy(cx: &Current<'_>, arm: &SysctlPerfcOp, domains: u32) -> Result<(), Errno> {
    let describe = |counter: usize, text: &str, nr_vals| {
        let mut desc = SysctlPerfcDesc {
            name: [0; 80],
            nr_vals,
        };
        for (to, from) in desc.name.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        cx.write_element(arm.desc.address(), counter as u64, &desc)
    };
    let mut place = 0;
    let mut put = |value: u32| {
        place += 1;
        cx.write_element(arm.val.address(), place - 1, &value)
    };
    for (counter, text) in NAMES.iter().enumerate() {
        describe(counter, text, cx.machine().cpu_count())?;
        cx.hv.counters.values(counter).try_for_each(&mut put)?;
    }
    describe(NAMES.len(), UPCALLS, domains)?;
    let mut next = Domid(0);
    (0..domains).try_for_each(|_| {
        let domain = {
            let domains = cx.hv.domains.read();
            let found = domains.range(next..).next();
            found.map(|(_, domain)| domain.clone())
        };
        put(domain.map_or(0, |domain| {
            next = Domid(domain.id.0.saturating_add(1));
            domain.upcalls()
        }))
    })
}
