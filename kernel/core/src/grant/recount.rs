//! What grants have to do with the counts and the isolation of domains, for [`crate::memory::recount`].

use alloc::sync::Arc;
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

use hv_machine::Machine;
use hypercall_abi::grant_table::*;
use hypercall_abi::types::{Domid, GrantRef, Mfn};

use super::maptrack::Mapping;
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;

/// The frames of a domain's table, which have the hypervisor's use as writable.
pub fn frames(domain: &Domain) -> Vec<Mfn> {
    let table = domain.grants.table.lock();
    [table.frames(), table.statuses()].concat()
}

/// The frames that a domain has mapped for devices, and whether to write.
pub fn held_for_devices(domain: &Domain) -> Vec<(Mfn, bool)> {
    let mappings = domain.grants.mappings.lock();
    let devices = mappings.all().filter(|mapping| mapping.uses.device);
    devices.map(|it| (it.mfn, it.uses.write)).collect()
}

/// Whether a frame is one that its owner grants to a domain, which has mapped it for processors: to write, if so asked.
pub fn is_mapped(domain: &Domain, mfn: Mfn, owner: Domid, write: bool) -> bool {
    let by = |mapping: &Mapping| {
        let granter = mapping.granter.upgrade();
        granter.is_some_and(|granter| granter.id == owner)
            && mapping.mfn == mfn
            && mapping.uses.host
            && (mapping.uses.write || !write)
    };
    domain.grants.mappings.lock().all().any(by)
}

/// The frame and the word of a grant's entry, whether it is of version 2, and whether the grant is in use; none where the
/// domain has no such grant.
pub fn place(domain: &Domain, reference: GrantRef) -> Option<((Mfn, usize, bool), bool)> {
    let table = domain.grants.table.lock();
    let place = table.place(reference).ok()?;
    let at = (place.frame, place.word, place.status.is_some());
    Some((at, table.is_pinned(reference)))
}

/// What is wrong with the marks of a grant that is in use, or is one of a frame, where they do not say how it is used.
pub fn marks(domain: &Domain, reference: GrantRef, machine: &Machine) -> Option<String> {
    let table = domain.grants.table.lock();
    let place = table.place(reference).ok()?;
    let (number, active) = table.active_from(reference.0).next()?;
    let pinned = active.pinned();
    let accepts = place.read(machine).kind() == GTF_ACCEPT_TRANSFER;
    if number != reference.0 || accepts && !pinned {
        return None;
    }
    let reading = if pinned { GTF_READING } else { 0 };
    let writing = if active.written() { GTF_WRITING } else { 0 };
    let marks = place.marks(machine);
    (marks != reading | writing).then(|| format!("{active:?} is marked {marks:#x}"))
}

/// Compares the uses of all grants with what there is that uses them.
///
/// # Errors
/// What is wrong, in words.
pub fn check(hv: &Hypervisor) -> Result<(), String> {
    let mut expected: BTreeMap<(Domid, GrantRef), [u8; 4]> = BTreeMap::new();
    let domains: Vec<Arc<Domain>> = hv.domains.read().values().cloned().collect();
    for domain in &domains {
        for mapping in domain.grants.mappings.lock().all() {
            let Some(granter) = mapping.granter.upgrade() else {
                continue;
            };
            let pins = expected.entry((granter.id, mapping.reference)).or_default();
            let write = usize::from(mapping.uses.write);
            pins[write] += u8::from(mapping.uses.host);
            pins[2 + write] += u8::from(mapping.uses.device);
        }
    }
    for domain in &domains {
        for (number, active) in domain.grants.table.lock().active_from(0) {
            let name = (domain.id, GrantRef(number));
            let pins = expected.remove(&name).unwrap_or_default();
            if active.pins() != pins {
                return Err(format!(
                    "grant {number} of domain {}: {active:?}, but in truth {pins:?}",
                    domain.id
                ));
            }
        }
    }
    match expected.first_key_value() {
        Some((name, pins)) => Err(format!("{name:?} has {pins:?} uses, but is no grant")),
        None => Ok(()),
    }
}
