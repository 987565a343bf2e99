//! Virtual interrupts: those of each vCPU, and the global ones, which go to one domain.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;
use hypercall_abi::xen::NR_VIRQS;

use super::{deliver, is_global_virq};
use crate::{Domain, Hypervisor, Vcpu, lifecycle};

/// Which domain handles which of the host's global virtual interrupts, where it is not the control
/// domain (`XEN_DOMCTL_set_virq_handler`).
#[derive(Debug, Default)]
pub struct VirqHandlers(BTreeMap<u32, Domid>);

impl VirqHandlers {
    /// The control domain handles all.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The control domain handles what a domain did that is going.
    pub(super) fn forget(&mut self, domain: Domid) {
        self.0.retain(|_, handler| *handler != domain);
    }
}

/// Makes a domain the handler of a global virtual interrupt.
///
/// # Errors
/// `EINVAL` for one that is not global, or a domain that is going: its number may be another's next.
pub fn set_virq_handler(hv: &Hypervisor, domain: &Domain, virq: u32) -> Result<(), Errno> {
    if !is_global_virq(virq) || lifecycle::is_dying(domain) {
        return Err(Errno::EINVAL);
    }
    hv.virq_handlers.lock().0.insert(virq, domain.id);
    Ok(())
}

/// Sends a vCPU's virtual interrupt, if it has bound a port to it.
pub fn send_vcpu_virq(hv: &Hypervisor, vcpu: &Arc<Vcpu>, virq: u32) {
    let Some(domain) = vcpu.domain.upgrade() else {
        return;
    };
    let mut table = domain.events.table.lock();
    if let Some(port) = table.virq_port(vcpu.id, virq) {
        deliver::set_pending(hv, &domain, &mut table, port, vcpu.id);
    }
}

/// Sends a domain's global virtual interrupt, if it has bound a port to it.
pub fn send_global_virq(hv: &Hypervisor, domain: &Domain, virq: u32) {
    debug_assert!(virq < NR_VIRQS);
    let mut table = domain.events.table.lock();
    if let Some(port) = table.virq_port(0, virq)
        && let Some(vcpu) = table.get(port).map(|channel| channel.vcpu)
    {
        deliver::set_pending(hv, domain, &mut table, port, vcpu);
    }
}

/// Sends one of the host's global virtual interrupts to the domain that handles it.
pub fn send_host_virq(hv: &Hypervisor, virq: u32) {
    let handler = hv.virq_handlers.lock().0.get(&virq).copied();
    let handler = handler
        .and_then(|id| hv.domain(id).ok())
        .or_else(|| hv.control_domain());
    if let Some(domain) = handler {
        send_global_virq(hv, &domain, virq);
    }
}
