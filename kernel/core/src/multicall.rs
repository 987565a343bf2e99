//! `HYPERVISOR_multicall` (`xen/xen.h`): several hypercalls in one.

use hv_machine::is_guest_range;
use hypercall_abi::errno::Errno;
use hypercall_abi::xen::{HYPERVISOR_IRET, HYPERVISOR_MULTICALL, MulticallEntry};

use crate::current::Current;
use crate::hypercall::{Args, HypercallResult, Stop, dispatch, should_preempt};
use crate::lifecycle;

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
        if index > 0 && (should_preempt(cx) || stopped(cx)) {
            return Err(rest(calls, count, index));
        }
        let mut entry: MulticallEntry = cx.read_element(calls, index)?;
        let outcome = match u32::try_from(entry.op) {
            Ok(HYPERVISOR_MULTICALL) => Err(Stop::Error(Errno::EINVAL)),
            Ok(HYPERVISOR_IRET) | Err(_) => Err(Stop::Error(Errno::ENOSYS)),
            Ok(number) => dispatch(cx, number, &entry.args),
        };
        entry.result = match outcome {
            Ok(value) => value,
            Err(Stop::Error(errno)) => errno.to_return() as u64,
            Err(Stop::RegistersSet) => return Err(Stop::RegistersSet),
            Err(Stop::Again(args)) => {
                entry.args = args;
                cx.write_element(calls, index, &entry)?;
                return Err(rest(calls, count, index));
            }
        };
        cx.write_element(calls, index, &entry)?;
        index += 1;
    }
    Ok(0)
}

/// Whether a call stopped the caller: the others wait until it runs again.
fn stopped(cx: &Current<'_>) -> bool {
    !cx.vcpu.is_runnable() || lifecycle::is_dying(cx.domain)
}

fn rest(calls: u64, count: u64, index: u64) -> Stop {
    let at = calls.wrapping_add(index * size_of::<MulticallEntry>() as u64);
    Stop::Again([at, count - index, 0, 0, 0, 0])
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
            assert_eq!(
                do_multicall(cx, &[at, 3, 0, 0, 0, 0]),
                Err(Stop::Again([next, 2, 0, 0, 0, 0]))
            );
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
            let mut step = |at| do_multicall(cx, &[at, 1, 0, 0, 0, 0]);
            let again = [writable, 1, 0, 0, 0, 0];
            assert_eq!(step(writable), Err(Stop::Again(again)));
        });
        let result = host.hypercall(DOM0, HYPERVISOR_MULTICALL, &[fixed, 1]);
        assert_eq!(result, Errno::EFAULT.to_return());
    }
}
