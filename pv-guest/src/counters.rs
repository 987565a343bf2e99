//! The hypervisor's performance counters, as dom0 reads them (`XEN_SYSCTL_perfc_op`).

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::sysctl::*;
use hypercall_abi::types::GuestHandle;

use crate::hypercall::{Result, toolstack};

/// What the counters were at a moment.
#[derive(Clone, Debug)]
pub struct Counters {
    names: Vec<SysctlPerfcDesc>,
    values: Vec<u32>,
}

impl Counters {
    /// Reads all of them.
    ///
    /// # Errors
    /// `ENOSYS` from a hypervisor that does not count.
    pub fn read() -> Result<Self> {
        let ask = |names: &mut [SysctlPerfcDesc], values: &mut [u32]| {
            let arm = SysctlPerfcOp {
                cmd: XEN_SYSCTL_PERFCOP_QUERY,
                desc: handle(names),
                val: handle(values),
                ..SysctlPerfcOp::default()
            };
            let mut op = Sysctl::with(XEN_SYSCTL_PERFC_OP, &arm);
            // SAFETY: the lists are this function's, and as long as the hypervisor last said that counters and values
            // are many, by which it abides.
            unsafe { toolstack::sysctl(&mut op) }.map(|_| op.u.get::<SysctlPerfcOp>())
        };
        let there = ask(&mut [], &mut [])?;
        let mut names = vec![SysctlPerfcDesc::default(); there.nr_counters as usize];
        let mut values = vec![0; there.nr_vals as usize];
        ask(&mut names, &mut values)?;
        Ok(Self { names, values })
    }

    /// The values of a counter, which wrap around; none of one that there is not.
    pub fn values(&self, name: &str) -> &[u32] {
        let mut rest = self.values.as_slice();
        for desc in &self.names {
            let count = rest.len().min(desc.nr_vals as usize);
            let (values, behind) = rest.split_at(count);
            if desc.name.split(|&byte| byte == 0).next() == Some(name.as_bytes()) {
                return values;
            }
            rest = behind;
        }
        &[]
    }
}

/// The address of a list; null of an empty one, which the hypervisor leaves alone.
fn handle<T>(list: &mut [T]) -> GuestHandle<T> {
    GuestHandle::new(match list {
        [] => 0,
        list => list.as_mut_ptr().expose_provenance() as u64,
    })
}
