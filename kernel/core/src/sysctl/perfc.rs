//! `XEN_SYSCTL_perfc_op`: the performance counters.

use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::*;

use hv_machine::Platform;

use crate::counters::NAMES;
use crate::current::Current;

/// Copies the counters out, unless the caller only asks how many there are, and sets them back if so told. Each has a
/// value for every CPU.
///
/// # Errors
/// `EINVAL` for an unknown command, `EFAULT`.
pub(super) fn operate(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlPerfcOp = op.u.get();
    let copied = match arm.cmd {
        XEN_SYSCTL_PERFCOP_QUERY => copy(cx, &arm),
        XEN_SYSCTL_PERFCOP_RESET => {
            let copied = copy(cx, &arm);
            cx.hv.counters.reset();
            copied
        }
        _ => Err(Errno::EINVAL),
    };
    arm.nr_counters = NAMES.len() as u32;
    arm.nr_vals = arm.nr_counters * cx.machine().cpu_count();
    op.u.set(&arm);
    copied
}

fn copy(cx: &Current<'_>, arm: &SysctlPerfcOp) -> Result<(), Errno> {
    if arm.desc.address() == 0 {
        return Ok(());
    }
    let mut place = 0;
    for (counter, text) in NAMES.iter().enumerate() {
        let mut desc = SysctlPerfcDesc {
            name: [0; 80],
            nr_vals: cx.machine().cpu_count(),
        };
        for (to, from) in desc.name.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        cx.write_element(arm.desc.address(), counter as u64, &desc)?;
        for value in cx.hv.counters.values(counter) {
            cx.write_element(arm.val.address(), place, &value)?;
            place += 1;
        }
    }
    Ok(())
}
