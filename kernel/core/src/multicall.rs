//! `HYPERVISOR_multicall` (`xen/xen.h`): several hypercalls in one.

use core::mem::offset_of;

use hv_machine::is_guest_range;
use hypercall_abi::errno::Errno;
use hypercall_abi::trace::TRC_PV_HYPERCALL_SUBCALL;
use hypercall_abi::xen::{HYPERVISOR_IRET, HYPERVISOR_MULTICALL, MulticallEntry};

use crate::current::Current;
use crate::hypercall::{Args, HypercallResult, Stop, dispatch, should_preempt};
use crate::{lifecycle, trace};

/// Calls that are a matter of a moment and are carried out before the first look at the clock.
const CLOCK_INTERVAL: u64 = 16;

const MULTICALL: u64 = HYPERVISOR_MULTICALL as u64;
const IRET: u64 = HYPERVISOR_IRET as u64;

/// `HYPERVISOR_multicall(calls, count)`: carries the calls out in order and writes each result into its entry.
///
/// A call that is continued is written back with its new arguments, and the multicall goes on from it. Calls that
/// replace registers (`ENOSYS` in their entry) and multicalls in multicalls (`EINVAL`) are not carried out.
///
/// # Errors
/// `EFAULT` for a list that is the hypervisor's, even an empty one, and for an entry that cannot be read, or written
/// back. Calls before it are done.
pub fn do_multicall(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let [calls, count, ..] = *args;
    let count = count & 0xffff_ffff;
    if !is_guest_range(calls, 1) {
        return Err(Errno::EFAULT.into());
    }
    let mut index = 0;
    while index < count {
        // Each call looks at the clock by itself as soon as it takes some time.
        let look = cx.deadline.get().is_some() || index % CLOCK_INTERVAL == 0;
        if index > 0 && (look && should_preempt(cx) || stopped(cx)) {
            return Err(rest(cx, calls, count, index));
        }
        let mut entry: MulticallEntry = cx.read_element(calls, index)?;
        let outcome = match entry.op {
            MULTICALL => Err(Errno::EINVAL.into()),
            IRET => Err(Errno::ENOSYS.into()),
            number => {
                if cx.hv.tracer.is_on() {
                    trace::hypercall(cx, TRC_PV_HYPERCALL_SUBCALL, number, &entry.args);
                }
                dispatch(cx, number, &entry.args)
            }
        };
        entry.result = match outcome {
            Ok(value) => value,
            Err(Stop::AGAIN) => {
                entry.args = cx.continuation.get();
                cx.write_element(calls, index, &entry)?;
                return Err(rest(cx, calls, count, index));
            }
            Err(Stop::REGISTERS_SET) => return Err(Stop::REGISTERS_SET),
            Err(error) => error.to_result(),
        };
        let at = calls.wrapping_add(index * size_of::<MulticallEntry>() as u64);
        let result_at = at.wrapping_add(offset_of!(MulticallEntry, result) as u64);
        cx.write(result_at, &entry.result)?;
        index += 1;
    }
    Ok(0)
}

/// Whether a call stopped the caller: the others wait until it runs again.
fn stopped(cx: &Current<'_>) -> bool {
    !cx.vcpu.is_runnable() || lifecycle::is_dying(cx.domain)
}

fn rest(cx: &Current<'_>, calls: u64, count: u64, index: u64) -> Stop {
    let at = calls.wrapping_add(index * size_of::<MulticallEntry>() as u64);
    cx.again([at, count - index, 0, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DOM0, DOMU, Host, SCRATCH, UNMAPPED};
    use hypercall_abi::domctl::{Domctl, XEN_DOMCTL_PAUSEDOMAIN};
    use hypercall_abi::version::XENVER_PAGESIZE;
    use hypercall_abi::xen::{
        HYPERVISOR_DOMCTL, HYPERVISOR_UPDATE_VA_MAPPING, HYPERVISOR_XEN_VERSION, UVMF_INVLPG,
    };
    use zerocopy::IntoBytes;

    fn entry(op: u32, first: u64) -> MulticallEntry {
        MulticallEntry {
            op: u64::from(op),
            result: 0x5555,
            args: [first, 0, 0, 0, 0, 0],
        }
    }

    fn call(host: &Host, at: u64, count: u64) -> i64 {
        host.hypercall(DOMU, HYPERVISOR_MULTICALL, &[at, count])
    }

    #[test]
    fn every_call_gets_its_own_result() {
        let host = Host::new();
        let page_size = entry(HYPERVISOR_XEN_VERSION, u64::from(XENVER_PAGESIZE));
        let entries = [
            page_size,
            entry(999, 0),
            entry(HYPERVISOR_MULTICALL, 0),
            entry(HYPERVISOR_IRET, 0),
            page_size,
        ];
        let at = host.put_slice(DOMU, &entries);
        assert_eq!(call(&host, at, 5), 0);
        let results = host
            .get::<[MulticallEntry; 5]>(DOMU, at)
            .map(|entry| entry.result as i64);
        let nosys = Errno::ENOSYS.to_return();
        assert_eq!(
            results,
            [4096, nosys, Errno::EINVAL.to_return(), nosys, 4096]
        );
    }

    #[test]
    fn an_entry_out_of_reach_ends_the_list() {
        let host = Host::new();
        assert_eq!(call(&host, UNMAPPED, 1), Errno::EFAULT.to_return());
        assert_eq!(call(&host, UNMAPPED, 0), 0);
        let hypervisors = hv_machine::HYPERVISOR_VIRT_START;
        assert_eq!(call(&host, hypervisors, 0), Errno::EFAULT.to_return());
        let most = u32::MAX.into();
        assert_eq!(call(&host, UNMAPPED, most), Errno::EFAULT.to_return());
        let va = SCRATCH + 63 * 4096;
        let at = va + 4096 - size_of::<MulticallEntry>() as u64;
        host.put_at(
            DOMU,
            at,
            &entry(HYPERVISOR_XEN_VERSION, u64::from(XENVER_PAGESIZE)),
        );
        assert_eq!(call(&host, at, 2), Errno::EFAULT.to_return());
        assert_eq!(host.get::<MulticallEntry>(DOMU, at).result, 4096);
    }

    #[test]
    fn a_call_may_unmap_the_list() {
        let host = Host::new();
        let va = SCRATCH + 63 * 4096;
        let mut unmap = entry(HYPERVISOR_UPDATE_VA_MAPPING, va);
        unmap.args[2] = UVMF_INVLPG;
        host.put_at(DOMU, va, &unmap);
        assert_eq!(call(&host, va, 1), Errno::EFAULT.to_return());
    }

    #[test]
    fn a_multicall_out_of_time_goes_on_where_it_stopped() {
        let host = Host::new();
        let page_size = entry(HYPERVISOR_XEN_VERSION, u64::from(XENVER_PAGESIZE));
        let at = host.put_slice(DOMU, &[page_size; 3]);
        host.as_guest(DOMU, |cx| {
            cx.deadline.set(Some(0));
            let next = at + size_of::<MulticallEntry>() as u64;
            assert_eq!(do_multicall(cx, &[at, 3, 0, 0, 0, 0]), Err(Stop::AGAIN));
            assert_eq!(cx.continuation.get(), [next, 2, 0, 0, 0, 0]);
        });
        assert_eq!(call(&host, at, 3), 0);
    }

    #[test]
    fn a_call_that_goes_on_must_be_noted_in_the_list() {
        let host = Host::new();
        let pause = Domctl::new(XEN_DOMCTL_PAUSEDOMAIN, DOMU);
        let pause = entry(HYPERVISOR_DOMCTL, host.put(DOM0, &pause));
        let (writable, fixed) = (
            host.put(DOM0, &pause),
            host.put_read_only(DOM0, pause.as_bytes()),
        );
        // Another operation is under way.
        let _other = host.hv.toolstack.lock();
        host.as_guest(DOM0, |cx| {
            let again = [writable, 1, 0, 0, 0, 0];
            assert_eq!(do_multicall(cx, &again), Err(Stop::AGAIN));
            assert_eq!(cx.continuation.get(), again);
        });
        let result = host.hypercall(DOM0, HYPERVISOR_MULTICALL, &[fixed, 1]);
        assert_eq!(result, Errno::EFAULT.to_return());
    }
}
