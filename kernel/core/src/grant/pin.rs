//! [`Pin`]: uses of a grant as a value.

use alloc::sync::{Arc, Weak};

use hypercall_abi::types::{GrantRef, Mfn};

use super::active::Uses;
use super::entry::{Demand, Target};
use super::maptrack::Mapping;
use super::{Status, table};
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;

/// Counted uses of a grant. As long as there is one, the entry is marked as used; dropping the last takes the mark away,
/// upon which the domain that granted it may use the frame for something else. So whoever drops one has made sure before
/// that nothing leads to the frame any more by it, and no processor remembers a way.
#[must_use]
pub(super) struct Pin<'h> {
    hv: &'h Hypervisor,
    granter: Arc<Domain>,
    reference: GrantRef,
    uses: Uses,
}

impl<'h> Pin<'h> {
    /// Counts uses of a grant as [`super::table::Table::pin`] does; gives what it is of, too.
    ///
    /// # Errors
    /// `GNTST_*`.
    pub(super) fn new(
        hv: &'h Hypervisor,
        granter: &Arc<Domain>,
        reference: GrantRef,
        uses: Uses,
        demand: Demand,
    ) -> Result<(Self, table::Pinned), Status> {
        let mut table = granter.grants.table.lock();
        let pinned = table.pin(hv, reference, uses, demand)?;
        let pin = Self {
            hv,
            granter: granter.clone(),
            reference,
            uses,
        };
        Ok((pin, pinned))
    }

    /// Keeps the uses in a record of `mfn`, mapped as `flags` say.
    pub(super) fn into_mapping(self, mfn: Mfn, flags: u32) -> Mapping {
        let mapping = Mapping {
            granter: Arc::downgrade(&self.granter),
            reference: self.reference,
            mfn,
            flags,
            uses: self.uses,
        };
        // The count of the domain is given back, those of the grant are not.
        let mut this = self;
        this.uses = Uses {
            host: false,
            device: false,
            ..this.uses
        };
        mapping
    }

    /// Takes uses back from a record; `None` where the domain is gone that granted them.
    pub(super) fn adopt(hv: &'h Hypervisor, mapping: &Mapping, uses: Uses) -> Option<Self> {
        Some(Self {
            hv,
            granter: Weak::upgrade(&mapping.granter)?,
            reference: mapping.reference,
            uses,
        })
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        if self.uses.any() {
            let mut table = self.granter.grants.table.lock();
            table.unpin(self.hv, self.reference, self.uses);
        }
    }
}

/// The frame that a grant is of, if it is one.
pub(super) fn frame_of(target: Target) -> Option<Mfn> {
    match target {
        Target::Frame { mfn, .. } => Some(mfn),
        Target::Grant { .. } => None,
    }
}
