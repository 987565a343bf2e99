//! [`Current`]: the vCPU on whose behalf the hypervisor works, and its memory.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;

use hv_machine::{Machine, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::hypercall::{Args, Stop};
use crate::{Domain, Hypervisor, Vcpu, VcpuState};

/// The vCPU that this CPU runs, stopped in the hypervisor; its address space is loaded.
pub struct Current<'a> {
    /// The hypervisor.
    pub hv: &'a Hypervisor,
    /// The vCPU's domain.
    pub domain: &'a Domain,
    /// The vCPU.
    pub vcpu: &'a Vcpu,
    /// [`Self::domain`], to be held on to.
    pub domain_arc: &'a Arc<Domain>,
    /// [`Self::vcpu`], to be held on to.
    pub vcpu_arc: &'a Arc<Vcpu>,
    /// Its registers and the rest of its state; the running CPU holds the lock.
    pub state: &'a mut VcpuState,
    /// Value of the time-stamp counter at which a long operation is to stop; none before the clock was started; see
    /// [`crate::hypercall::should_preempt`].
    pub deadline: Cell<Option<u64>>,
    /// Where [`Current::again`] leaves the arguments.
    pub continuation: Cell<Args>,
}

impl<'a> Current<'a> {
    /// A vCPU, with its state, for which nothing was done yet.
    pub fn new(
        hv: &'a Hypervisor,
        domain: &'a Arc<Domain>,
        vcpu: &'a Arc<Vcpu>,
        state: &'a mut VcpuState,
    ) -> Self {
        Self {
            hv,
            domain,
            vcpu,
            domain_arc: domain,
            vcpu_arc: vcpu,
            state,
            deadline: Cell::new(None),
            continuation: Cell::default(),
        }
    }

    /// The machine.
    pub fn machine(&self) -> &'a Machine {
        core::ops::Deref::deref(&self.hv.machine)
    }

    /// Ends a handler that is not finished: the guest is to make the call again, with these arguments, once it runs
    /// again. One that is 0 is as it was.
    ///
    /// They do not go with the answer, lest the way of every other answer be as wide.
    pub fn again(&self, args: Args) -> Stop {
        self.continuation.set(args);
        Stop::AGAIN
    }

    /// The caller's own domain, by `DOMID_SELF` or its number, or any other.
    ///
    /// # Errors
    /// `ESRCH` if there is none.
    pub fn any_domain(&self, id: Domid) -> Result<Arc<Domain>, Errno> {
        if id == Domid::SELF || id == self.domain.id {
            return Ok(self.domain_arc.clone());
        }
        self.hv.domain(id)
    }

    /// Reads a `T` at a guest address.
    ///
    /// # Errors
    /// `EFAULT` where the guest could not read it itself.
    #[inline(never)]
    pub fn read<T: FromBytes + IntoBytes>(&self, va: u64) -> Result<T, Errno> {
        let value = self.machine().read_from_guest(va);
        value.map_err(|_| Errno::EFAULT)
    }

    /// Writes a `T` at a guest address.
    ///
    /// # Errors
    /// `EFAULT` where the guest could not write it itself; a part may then be written.
    #[inline(never)]
    pub fn write<T: IntoBytes + Immutable>(&self, va: u64, value: &T) -> Result<(), Errno> {
        self.machine()
            .copy_to_guest(va, value.as_bytes())
            .map_err(|_| Errno::EFAULT)
    }

    /// Reads element `index` of an array of `T` at a guest address.
    ///
    /// # Errors
    /// `EFAULT`, also where the element's address wraps.
    #[inline]
    pub fn read_element<T: FromBytes + IntoBytes>(&self, va: u64, index: u64) -> Result<T, Errno> {
        let value = self
            .machine()
            .read_from_guest(element_address::<T>(va, index)?);
        value.map_err(|_| Errno::EFAULT)
    }

    /// Reads elements of an array of `T` at a guest address, from element `index` on.
    ///
    /// # Errors
    /// `EFAULT`, also where an address wraps.
    pub fn read_elements<T: FromBytes + IntoBytes>(
        &self,
        va: u64,
        index: u64,
        elements: &mut [T],
    ) -> Result<(), Errno> {
        let va = element_address::<T>(va, index)?;
        self.machine()
            .copy_from_guest(va, elements.as_mut_bytes())
            .map_err(|_| Errno::EFAULT)
    }

    /// Writes element `index` of an array of `T` at a guest address.
    ///
    /// # Errors
    /// `EFAULT`, also where the element's address wraps.
    pub fn write_element<T: IntoBytes + Immutable>(
        &self,
        va: u64,
        index: u64,
        value: &T,
    ) -> Result<(), Errno> {
        self.write(element_address::<T>(va, index)?, value)
    }

    /// Reads `count` elements; the caller has bounded `count`.
    ///
    /// # Errors
    /// `EFAULT`; `ENOMEM` where the hypervisor has no room for a copy.
    #[inline(never)]
    pub fn read_array<T: FromBytes + IntoBytes + Clone>(
        &self,
        va: u64,
        count: usize,
    ) -> Result<Vec<T>, Errno> {
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        values.resize_with(count, T::new_zeroed);
        let bytes = <[T]>::as_mut_bytes(&mut values);
        self.machine()
            .copy_from_guest(va, bytes)
            .map_err(|_| Errno::EFAULT)?;
        Ok(values)
    }

    /// Writes bytes at a guest address.
    ///
    /// # Errors
    /// `EFAULT`; a part may then be written.
    #[inline(never)]
    pub fn write_bytes(&self, va: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.machine()
            .copy_to_guest(va, bytes)
            .map_err(|_| Errno::EFAULT)
    }
}

#[inline]
fn element_address<T>(va: u64, index: u64) -> Result<u64, Errno> {
    let offset = index
        .checked_mul(size_of::<T>() as u64)
        .ok_or(Errno::EFAULT)?;
    va.checked_add(offset).ok_or(Errno::EFAULT)
}
