//! Memory that is granted to a backend.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hypercall_abi::types::{Domid, GrantRef};
use split_drivers::grants::{GrantedPage, Pages};
use split_drivers::shared_memory_by;

use crate::grants::Grant;
use crate::hypercall::Result;
use crate::memory::{Access, DmaMemory};
use crate::pte::PAGE_SIZE;

/// The pages of a ring, granted until it is dropped.
pub(crate) struct Ring {
    memory: Arc<DmaMemory>,
    grants: Vec<Grant>,
}

impl Ring {
    pub fn new(domain: Domid, pages: usize) -> Result<Self> {
        let memory = Arc::new(DmaMemory::new(pages * PAGE_SIZE, 64)?);
        let grant = |page| Grant::new(domain, memory.clone(), page, Access::ReadWrite);
        let grants = (0..pages).map(grant).collect::<Result<_>>()?;
        Ok(Self { memory, grants })
    }

    pub fn references(&self) -> Vec<GrantRef> {
        self.grants.iter().map(Grant::reference).collect()
    }
}

shared_memory_by!(Ring, ring => **ring.memory);

/// A page for data.
pub(crate) struct GuestPage {
    memory: Arc<DmaMemory>,
    grant: Grant,
}

shared_memory_by!(GuestPage, page => **page.memory);

impl GrantedPage for GuestPage {
    fn reference(&self) -> GrantRef {
        self.grant.reference()
    }
}

/// Pages for the backend's domain.
pub(crate) struct Source(pub Domid);

impl Pages for Source {
    type Page = GuestPage;

    fn page(&mut self, read_only: bool) -> Option<GuestPage> {
        let access = match read_only {
            true => Access::ReadOnly,
            false => Access::ReadWrite,
        };
        let memory = Arc::new(DmaMemory::new(PAGE_SIZE, 64).ok()?);
        let grant = Grant::new(self.0, memory.clone(), 0, access).ok()?;
        Some(GuestPage { memory, grant })
    }
}
