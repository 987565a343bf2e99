//! Event channels (`xen/event_channel.h`).
//!
//! A domain's ports are in one table, behind one lock. Two tables are locked at once only to connect
//! or disconnect two ports, the lower domain number first. To send an event takes one lock at a time:
//! the sender's, to find the other end, then the receiver's, under which the other end is seen to still
//! be the sender's.
//!
//! What a guest and the hypervisor write for each other is in [`two_level`] or [`fifo`], as the guest chose, and the
//! order of their steps in the crate `event-protocol`.

mod deliver;
mod fifo;
mod op;
mod table;
#[cfg(test)]
mod tests;
mod two_level;
mod virq;
mod word;

pub(crate) use deliver::unmask_upcalls;
pub use deliver::{mark_all_pending, mask_upcalls, upcall_due};
pub use op::{do_event_channel_op, do_event_channel_op_compat};
pub use table::is_global_virq;
pub use virq::{VirqHandlers, send_global_virq, send_host_virq, send_vcpu_virq, set_virq_handler};

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::BIND_PIRQ_WILL_SHARE;
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::xen::NR_VIRQS;

use crate::lock::{Mutex, MutexGuard, rank};
use crate::{Domain, Hypervisor, interrupt};
use table::{Binding, Channel, Table};

/// The event channels of a domain.
pub struct EventChannels {
    table: Mutex<Table, { rank::EVENTS }>,
    /// Number of the domain's vCPUs in a poll.
    pollers: AtomicU32,
}

impl EventChannels {
    /// No ports; `max_port` is the highest that the domain may have, beyond what the ABI allows.
    pub fn new(max_port: u32) -> Self {
        Self {
            table: Mutex::new(Table::new(max_port)),
            pollers: AtomicU32::new(0),
        }
    }

    /// Number of ports that are bound to something.
    pub fn active(&self) -> u32 {
        self.table.lock().active()
    }

    /// The frames that the domain gave for its events.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn frames(&self) -> alloc::vec::Vec<hypercall_abi::types::Mfn> {
        match &self.table.lock().abi {
            table::Abi::TwoLevel => alloc::vec::Vec::new(),
            table::Abi::Fifo(fifo) => fifo.frames().collect(),
        }
    }

    /// Whether [`close_all`] has closed all.
    pub(crate) fn all_closed(&self) -> bool {
        let table = self.table.lock();
        table.closing.is_some_and(|next| next >= table.len())
    }

    /// A vCPU of the domain begins to poll.
    pub(crate) fn poll_begun(&self) {
        self.pollers.fetch_add(1, Ordering::SeqCst);
    }

    /// A vCPU of the domain ends its poll.
    pub(crate) fn poll_ended(&self) {
        self.pollers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Locks the tables of two domains, which may be one, in the order that all keep to.
fn lock_pair<'a>(
    first: &'a Domain,
    second: &'a Domain,
) -> (MutexGuard<'a, Table>, Option<MutexGuard<'a, Table>>) {
    if first.id == second.id {
        return (first.events.table.lock(), None);
    }
    if first.id < second.id {
        let ours = first.events.table.lock();
        return (ours, Some(second.events.table.lock_second()));
    }
    let theirs = second.events.table.lock();
    (first.events.table.lock_second(), Some(theirs))
}

/// Makes a port of `domain` to which `remote` may connect; `caller` makes it.
///
/// # Errors
/// Those of a port that cannot be had: `EINVAL` for a domain that is going, `ENOSPC`, `ENOMEM`. `EPERM`
/// for another domain's port, unless the caller is privileged.
pub fn alloc_unbound(caller: &Domain, domain: &Domain, remote: Domid) -> Result<Port, Errno> {
    let mut table = domain.events.table.lock();
    let port = table.free_port()?;
    if caller.id != domain.id && !caller.privileged {
        return Err(Errno::EPERM);
    }
    let remote = if remote == Domid::SELF {
        caller.id
    } else {
        remote
    };
    table.bind(port, Binding::Unbound { remote }, 0);
    Ok(port)
}

/// Connects a new port of `domain` to a port of `remote` that waits for it. The new port is pending
/// from the start, because the other end may have sent events already.
///
/// # Errors
/// Those of a port that cannot be had, as in [`alloc_unbound`]; `EINVAL` where the remote port does not
/// wait for this domain.
pub fn bind_interdomain(
    hv: &Hypervisor,
    domain: &Arc<Domain>,
    remote: &Arc<Domain>,
    remote_port: Port,
) -> Result<Port, Errno> {
    let (mut ours, mut theirs) = lock_pair(domain, remote);
    let port = ours.free_port()?;
    let their_table = theirs.as_deref().unwrap_or(&ours);
    match their_table.get(remote_port).map(|channel| &channel.binding) {
        Some(Binding::Unbound { remote: waits_for }) if *waits_for == domain.id => {}
        _ => return Err(Errno::EINVAL),
    }
    ours.bind(
        port,
        Binding::Interdomain {
            remote: remote.clone(),
            port: remote_port,
        },
        0,
    );
    let back = Binding::Interdomain {
        remote: domain.clone(),
        port,
    };
    theirs
        .as_deref_mut()
        .unwrap_or(&mut ours)
        .rebind(remote_port, back);
    deliver::set_pending(hv, domain, &mut ours, port, 0);
    Ok(port)
}

/// Binds a new port to a virtual interrupt.
///
/// # Errors
/// `EINVAL` for no such interrupt, or a global one on another vCPU than 0; `ENOENT` for no such vCPU;
/// `EEXIST` where it has a port; as [`alloc_unbound`].
pub fn bind_virq(domain: &Domain, virq: u32, vcpu: u32) -> Result<Port, Errno> {
    if virq >= NR_VIRQS || is_global_virq(virq) && vcpu != 0 {
        return Err(Errno::EINVAL);
    }
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let mut table = domain.events.table.lock();
    if table.virq_port(vcpu, virq).is_some() {
        return Err(Errno::EEXIST);
    }
    let port = table.free_port()?;
    table.bind(port, Binding::Virq(virq), vcpu);
    Ok(port)
}

/// Binds a new port on which vCPUs notify one of them.
///
/// # Errors
/// `ENOENT` for no such vCPU; as [`alloc_unbound`].
pub fn bind_ipi(domain: &Domain, vcpu: u32) -> Result<Port, Errno> {
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let mut table = domain.events.table.lock();
    let port = table.free_port()?;
    table.bind(port, Binding::Ipi, vcpu);
    Ok(port)
}

/// Binds a new port to a physical interrupt of the domain.
///
/// # Errors
/// `EINVAL` for no such interrupt; `EPERM` where the domain may not have it; `EEXIST` where it has a
/// port; `EBUSY` where another domain has it and not both share; as [`alloc_unbound`].
pub fn bind_pirq(
    hv: &Hypervisor,
    domain: &Arc<Domain>,
    pirq: u32,
    flags: u32,
) -> Result<Port, Errno> {
    let mut table = domain.events.table.lock();
    let share = flags & BIND_PIRQ_WILL_SHARE != 0;
    let port = interrupt::bind(hv, domain, pirq, share, || match table.pirq_port(pirq) {
        Some(_) => Err(Errno::EEXIST),
        None => table.free_port(),
    })?;
    table.bind(port, Binding::Pirq(pirq), 0);
    Ok(port)
}

/// Closes a port. The other end of a connected one waits for this domain again.
///
/// # Errors
/// `EINVAL` where the port is bound to nothing.
pub fn close(hv: &Hypervisor, domain: &Arc<Domain>, port: Port) -> Result<(), Errno> {
    let remote = {
        let mut table = domain.events.table.lock();
        let channel = table.get(port).ok_or(Errno::EINVAL)?;
        match &channel.binding {
            Binding::Free | Binding::Reserved => return Err(Errno::EINVAL),
            Binding::Interdomain { remote, .. } => remote.clone(),
            binding => {
                if let Binding::Pirq(pirq) = *binding {
                    interrupt::unbind(hv, domain, pirq);
                }
                release(hv, domain, &mut table, port);
                return Ok(());
            }
        }
    };
    let (mut ours, mut theirs) = lock_pair(domain, &remote);
    // Between the locks the port may have been closed, and even bound anew.
    let other_end = match ours.get(port).map(|channel| &channel.binding) {
        Some(Binding::Interdomain { remote: now, port }) if Arc::ptr_eq(now, &remote) => *port,
        _ => return Err(Errno::EINVAL),
    };
    release(hv, domain, &mut ours, port);
    // The two ends of a domain's connection with itself may be one port, which is free by now.
    if !(theirs.is_none() && other_end == port) {
        let waits = Binding::Unbound { remote: domain.id };
        theirs
            .as_deref_mut()
            .unwrap_or(&mut ours)
            .rebind(other_end, waits);
    }
    Ok(())
}

/// Frees a port; a pending event must not greet whoever gets the port next.
fn release(hv: &Hypervisor, domain: &Domain, table: &mut Table, port: Port) {
    deliver::clear_pending(hv, domain, table, port);
    table.free(port);
}

/// Sends an event from a port of `domain`.
///
/// # Errors
/// `EINVAL` where the port is none that sends.
pub fn send(hv: &Hypervisor, domain: &Domain, port: Port) -> Result<(), Errno> {
    let (remote, other_end) = {
        let mut table = domain.events.table.lock();
        let channel = table.get(port).ok_or(Errno::EINVAL)?;
        match &channel.binding {
            Binding::Interdomain { remote, port } => (remote.clone(), *port),
            Binding::Ipi => {
                let vcpu = channel.vcpu;
                let told = deliver::raise(hv, domain, &mut table, port, vcpu);
                drop(table);
                deliver::kick(hv, told);
                return Ok(());
            }
            Binding::Unbound { .. } => return Ok(()),
            _ => return Err(Errno::EINVAL),
        }
    };
    let mut table = remote.events.table.lock();
    if let Some(&Channel {
        binding:
            Binding::Interdomain {
                remote: ref back,
                port: ours,
            },
        vcpu,
        ..
    }) = table.get(other_end)
        && back.id == domain.id
        && ours == port
    {
        let told = deliver::raise(hv, &remote, &mut table, other_end, vcpu);
        drop(table);
        deliver::kick(hv, told);
    }
    Ok(())
}

/// Makes a port of a domain pending, whatever it is bound to.
pub fn set_pending(hv: &Hypervisor, domain: &Domain, port: Port) {
    let mut table = domain.events.table.lock();
    if let Some(vcpu) = table.usable(port).map(|channel| channel.vcpu) {
        deliver::set_pending(hv, domain, &mut table, port, vcpu);
    }
}

/// An interrupt line has fired: makes the ports that are bound to it pending.
pub fn send_pirq(hv: &Hypervisor, gsi: u32) {
    interrupt::deliver(hv, gsi);
}

/// Makes the port of a domain's physical interrupt pending.
pub fn raise_pirq(hv: &Hypervisor, domain: &Domain, pirq: u32) {
    let mut table = domain.events.table.lock();
    if let Some(port) = table.pirq_port(pirq)
        && let Some(vcpu) = table.get(port).map(|channel| channel.vcpu)
    {
        deliver::set_pending(hv, domain, &mut table, port, vcpu);
    }
}

/// Unmasks the port of a domain's physical interrupt.
pub fn unmask_pirq(hv: &Hypervisor, domain: &Domain, pirq: u32) {
    let mut table = domain.events.table.lock();
    if let Some(port) = table.pirq_port(pirq)
        && let Some(vcpu) = table.get(port).map(|channel| channel.vcpu)
    {
        deliver::unmask(hv, domain, &mut table, port, vcpu);
    }
}

/// Whether the guest masks the port of a physical interrupt; also where it has none.
pub fn is_pirq_masked(hv: &Hypervisor, domain: &Domain, pirq: u32) -> bool {
    let table = domain.events.table.lock();
    table
        .pirq_port(pirq)
        .is_none_or(|port| deliver::is_masked(hv, domain, &table, port))
}

/// Unmasks a port; one that is pending is delivered.
///
/// # Errors
/// `EINVAL` where the port does not exist; one that is free is left alone.
pub fn unmask(hv: &Hypervisor, domain: &Domain, port: Port) -> Result<(), Errno> {
    let mut table = domain.events.table.lock();
    table.get(port).ok_or(Errno::EINVAL)?;
    if let Some(vcpu) = table.usable(port).map(|channel| channel.vcpu) {
        deliver::unmask(hv, domain, &mut table, port, vcpu);
    }
    Ok(())
}

/// Whether a port of the domain is pending.
///
/// # Errors
/// `EINVAL` where it is bound to nothing.
pub fn poll(hv: &Hypervisor, domain: &Domain, port: Port) -> Result<bool, Errno> {
    let table = domain.events.table.lock();
    table.usable(port).ok_or(Errno::EINVAL)?;
    Ok(deliver::is_pending(hv, domain, &table, port))
}

/// Chooses the vCPU that a port notifies.
///
/// # Errors
/// `ENOENT` for no such vCPU; `EINVAL` where the port's vCPU is not the guest's to choose.
pub fn bind_vcpu(domain: &Domain, port: Port, vcpu: u32) -> Result<(), Errno> {
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let mut table = domain.events.table.lock();
    match table.get(port).ok_or(Errno::EINVAL)?.binding {
        Binding::Virq(virq) if is_global_virq(virq) => {}
        Binding::Unbound { .. } | Binding::Interdomain { .. } => {}
        Binding::Pirq(_) => {}
        _ => return Err(Errno::EINVAL),
    }
    table.set_vcpu(port, vcpu);
    Ok(())
}

/// Closes the ports of a domain from the one at which the last call stopped, and has it begin anew with the two-level
/// interface; `None` where `out_of_time` said to stop again.
///
/// # Errors
/// `EBUSY` where `resume` is not set and a reset is in progress, or the other way round; `EAGAIN` where
/// ports are left all the same.
pub fn reset(
    hv: &Hypervisor,
    domain: &Arc<Domain>,
    resume: bool,
    out_of_time: &mut dyn FnMut() -> bool,
) -> Result<Option<()>, Errno> {
    let first = {
        let mut table = domain.events.table.lock();
        if resume == (table.next_reset == 0) {
            return Err(Errno::EBUSY);
        }
        table.next_reset = table.next_reset.max(1);
        table.next_reset
    };
    let mut port = first;
    loop {
        {
            let mut table = domain.events.table.lock();
            if port >= table.len() || table.active() == 0 {
                table.next_reset = 0;
                if table.active() != 0 {
                    return Err(Errno::EAGAIN);
                }
                let queues = table.leave_fifo();
                drop(table);
                if let Some(queues) = queues {
                    queues.release(hv);
                }
                return Ok(Some(()));
            }
            table.next_reset = port;
        }
        // A free port has nothing to close.
        let _ = close(hv, domain, Port(port));
        port += 1;
        if port % 64 == 0 && out_of_time() {
            domain.events.table.lock().next_reset = port;
            return Ok(None);
        }
    }
}

/// Closes all ports of a domain that is going; it gets no new ones. Returns whether that is finished: where it is not,
/// because `out_of_time` said so, the next call goes on.
pub fn close_all(
    hv: &Hypervisor,
    domain: &Arc<Domain>,
    out_of_time: &mut dyn FnMut() -> bool,
) -> bool {
    let (first, len) = {
        let mut table = domain.events.table.lock();
        (*table.closing.get_or_insert(1), table.len())
    };
    for port in first..len {
        // A free port has nothing to close.
        let _ = close(hv, domain, Port(port));
        domain.events.table.lock().closing = Some(port + 1);
        if port % 64 == 0 && out_of_time() {
            return false;
        }
    }
    let queues = domain.events.table.lock().leave_fifo();
    if let Some(queues) = queues {
        queues.release(hv);
    }
    hv.virq_handlers.lock().forget(domain.id);
    interrupt::release_domain(hv, domain);
    true
}
