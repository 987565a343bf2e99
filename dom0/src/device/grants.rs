//! The grants of a guest, as a backend uses them.

use alloc::vec::Vec;
use core::cell::RefCell;

use hypercall_abi::types::{Domid, GrantRef};
use split_drivers::grants::{Copy, Grants};

use crate::xen::Xen;

/// The grants of a domain.
pub struct GuestGrants<'a, 'x, X> {
    /// The hypervisor, which others may use between one call and the next.
    pub xen: &'a RefCell<&'x mut X>,
    /// The domain.
    pub domid: Domid,
}

impl<X: Xen> Grants for GuestGrants<'_, '_, X> {
    type Buffer = X::Buffer;
    type Page = X::Granted;

    fn buffer(&mut self, bytes: usize) -> Option<X::Buffer> {
        self.xen.borrow_mut().buffer(bytes)
    }

    fn copy(&mut self, copies: &[Copy<'_, X::Buffer, X::Granted>]) -> Vec<bool> {
        self.xen.borrow_mut().copy(self.domid, copies)
    }

    fn map(&mut self, grants: &[GrantRef]) -> Vec<Option<X::Granted>> {
        self.xen.borrow_mut().map_pages(self.domid, grants)
    }
}
