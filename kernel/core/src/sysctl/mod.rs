//! `HYPERVISOR_sysctl` (`xen/sysctl.h`, interface version 0x15): the host as its owner sees it.
//!
//! What Xen makes optional and this hypervisor has not, answers as a Xen that was built without it.

mod console;
mod cpu;
mod host;
mod perfc;
mod pool;
mod topology;
mod trace;

pub(crate) use cpu::{POLICY_MSRS, copy_leaves, copy_msrs};

use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::*;

use crate::current::Current;
use crate::hypercall::{Args, HypercallResult};

/// Most keys in one call; there are not that many.
const MAX_KEYS: u32 = 1024;

/// `HYPERVISOR_sysctl(operation)`.
///
/// # Errors
/// `EFAULT`, `EACCES` for another interface version, `EPERM` for any caller but the control domain, `ENOSYS` for an
/// unknown operation; others by operation.
pub fn do_sysctl(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let at = args[0];
    let mut op: Sysctl = cx.read(at)?;
    if op.interface_version != XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let result = apply(cx, &mut op);
    // The features that did not fit are no reason to keep back how many did.
    let partial = op.cmd == XEN_SYSCTL_GET_CPU_FEATURESET && result == Err(Errno::ENOBUFS);
    if result.is_ok() || partial {
        cx.write(at, &op)?;
    }
    result?;
    Ok(0)
}

fn apply(cx: &mut Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    match op.cmd {
        XEN_SYSCTL_READCONSOLE => console::read(cx, op),
        XEN_SYSCTL_DEBUG_KEYS => debug_keys(cx, op),
        XEN_SYSCTL_TBUF_OP => trace::operate(cx, op),
        XEN_SYSCTL_PHYSINFO => {
            host::physinfo(cx, op);
            Ok(())
        }
        XEN_SYSCTL_PERFC_OP => perfc::operate(cx, op),
        XEN_SYSCTL_GETDOMAININFOLIST => host::domains(cx, op),
        XEN_SYSCTL_GETCPUINFO => host::cpu_info(cx, op),
        XEN_SYSCTL_AVAILHEAP => {
            host::available(cx, op);
            Ok(())
        }
        XEN_SYSCTL_CPUTOPOINFO => topology::cpus(cx, op),
        XEN_SYSCTL_NUMAINFO => topology::nodes(cx, op),
        XEN_SYSCTL_PCITOPOINFO => topology::devices(cx, op),
        XEN_SYSCTL_SCHED_ID => {
            op.u.set(&SysctlSchedId {
                sched_id: cx.hv.scheduler.lock().id(),
            });
            Ok(())
        }
        XEN_SYSCTL_SCHEDULER_OP => pool::scheduler(cx, op),
        XEN_SYSCTL_CPUPOOL_OP => pool::pool(cx, op),
        XEN_SYSCTL_GET_CPU_LEVELLING_CAPS => {
            // What a guest sees of CPUID is up to the emulator, never to the processor.
            op.u.set(&SysctlCpuLevellingCaps { caps: 0 });
            Ok(())
        }
        XEN_SYSCTL_GET_CPU_FEATURESET => cpu::features(cx, op),
        XEN_SYSCTL_GET_CPU_POLICY => cpu::policy(cx, op),
        XEN_SYSCTL_CPU_HOTPLUG | XEN_SYSCTL_COVERAGE_OP => Err(Errno::EOPNOTSUPP),
        XEN_SYSCTL_GET_PMSTAT | XEN_SYSCTL_PM_OP | XEN_SYSCTL_PSR_CMT_OP | XEN_SYSCTL_PSR_ALLOC => {
            Err(Errno::ENODEV)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// `XEN_SYSCTL_debug_keys`: a key that nothing is bound to is passed over, and nothing is bound to any.
fn debug_keys(cx: &Current<'_>, op: &Sysctl) -> Result<(), Errno> {
    let arm: SysctlDebugKeys = op.u.get();
    if arm.nr_keys > MAX_KEYS {
        return Err(Errno::E2BIG);
    }
    cx.read_array::<u8>(arm.keys.address(), arm.nr_keys as usize)?;
    Ok(())
}

#[cfg(test)]
mod tests;
