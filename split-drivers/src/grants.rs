//! Pages that one end grants, and the other copies to and from.

use alloc::vec::Vec;

use hypercall_abi::types::GrantRef;

use crate::SharedMemory;

/// A page of this domain that the backend may use until it is dropped.
pub trait GrantedPage: SharedMemory {
    /// Its grant.
    fn reference(&self) -> GrantRef;
}

/// Where granted pages come from.
pub trait Pages {
    /// A page.
    type Page: GrantedPage;

    /// A page that the backend may read, and write unless it is to be `read_only`; none if there is
    /// none.
    fn page(&mut self, read_only: bool) -> Option<Self::Page>;
}

/// The grants of the domain at the other end, and memory to copy between.
pub trait Grants {
    /// Memory of this domain that the disk can use.
    type Buffer: SharedMemory;
    /// A page of the other domain, mapped until it is dropped.
    type Page: SharedMemory;

    /// So many bytes; none as long as too many are in use.
    fn buffer(&mut self, bytes: usize) -> Option<Self::Buffer>;

    /// Copies, in one batch; for each whether it was done.
    fn copy(&mut self, copies: &[Copy<'_, Self::Buffer, Self::Page>]) -> Vec<bool>;

    /// Maps grants for reading and writing, in one batch; none where that is refused.
    fn map(&mut self, grants: &[GrantRef]) -> Vec<Option<Self::Page>>;
}

/// A copy between a guest's page and a buffer.
#[derive(Debug)]
pub struct Copy<'a, B, P> {
    /// The guest's page.
    pub page: Place<'a, P>,
    /// Where in it, in bytes.
    pub offset: usize,
    /// The buffer.
    pub buffer: &'a B,
    /// Where in it, in bytes.
    pub at: usize,
    /// How many bytes.
    pub bytes: usize,
    /// Which way.
    pub to_guest: bool,
}

/// How a guest's page is reached.
#[derive(Debug)]
pub enum Place<'a, P> {
    /// By its grant.
    Grant(GrantRef),
    /// By a mapping.
    Mapped(&'a P),
}
