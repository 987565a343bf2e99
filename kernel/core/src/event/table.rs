//! The table of a domain's ports, without locks and without the guest's memory.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::EVTCHN_2L_NR_CHANNELS;
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::xen::{NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};

use crate::Domain;

/// Ports come in buckets of this many: one that no bucket has does not exist, however free it is.
const BUCKET: usize = 64;

/// What a port is.
#[derive(Clone)]
pub enum Binding {
    /// Nothing.
    Free,
    /// Port 0, which nobody gets.
    Reserved,
    /// A domain may connect to it.
    Unbound {
        /// That domain.
        remote: Domid,
    },
    /// Connected. The other end names this one in the same way.
    Interdomain {
        /// The other end's domain.
        remote: Arc<Domain>,
        /// The other end.
        port: Port,
    },
    /// A physical interrupt.
    Pirq(u32),
    /// A virtual interrupt.
    Virq(u32),
    /// Events among the domain's own vCPUs.
    Ipi,
}

/// A port.
#[derive(Clone)]
pub struct Channel {
    /// What it is.
    pub binding: Binding,
    /// The vCPU that it notifies.
    pub vcpu: u32,
}

const FREE: Channel = Channel {
    binding: Binding::Free,
    vcpu: 0,
};

/// The ports of a domain, and which of them the interrupts are.
pub struct Table {
    channels: Vec<Channel>,
    /// The highest port that the domain may have.
    max_port: u32,
    /// No lower port is free.
    lowest_free: usize,
    /// Ports that are neither free nor reserved.
    active: u32,
    /// The domain is going: there are no new ports.
    pub closed: bool,
    /// Where a reset in progress goes on; 0 if there is none.
    pub next_reset: u32,
    virqs: BTreeMap<(u32, u32), Port>,
    pirqs: BTreeMap<u32, Port>,
}

impl Table {
    /// No ports; at most up to `max_port`.
    pub fn new(max_port: u32) -> Self {
        let mut channels = alloc::vec![FREE; BUCKET];
        if let Some(first) = channels.first_mut() {
            first.binding = Binding::Reserved;
        }
        Self {
            channels,
            max_port,
            lowest_free: 1,
            active: 0,
            closed: false,
            next_reset: 0,
            virqs: BTreeMap::new(),
            pirqs: BTreeMap::new(),
        }
    }

    /// A port that exists, free or not.
    pub fn get(&self, port: Port) -> Option<&Channel> {
        self.channels.get(port.0 as usize)
    }

    /// Number of ports that exist.
    pub fn len(&self) -> u32 {
        self.channels.len() as u32
    }

    /// Number of ports that are bound to something.
    pub fn active(&self) -> u32 {
        self.active
    }

    /// The lowest free port. It stays free until [`Self::bind`].
    ///
    /// # Errors
    /// `EINVAL` for a domain that is going, `ENOSPC` where it may have no more, `ENOMEM`.
    pub fn free_port(&mut self) -> Result<Port, Errno> {
        if self.closed {
            return Err(Errno::EINVAL);
        }
        let mut port = self.lowest_free;
        while let Some(channel) = self.channels.get(port) {
            if matches!(channel.binding, Binding::Free) {
                break;
            }
            port += 1;
        }
        self.lowest_free = port;
        if port as u64 > u64::from(self.max_port) || port >= EVTCHN_2L_NR_CHANNELS as usize {
            return Err(Errno::ENOSPC);
        }
        if port >= self.channels.len() {
            let len = (port / BUCKET + 1) * BUCKET;
            let more = len - self.channels.len();
            self.channels.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.channels.resize(len, FREE);
        }
        Ok(Port(port as u32))
    }

    /// Makes a free port something.
    pub fn bind(&mut self, port: Port, binding: Binding, vcpu: u32) {
        match binding {
            Binding::Virq(virq) => {
                self.virqs.insert((virq_vcpu(virq, vcpu), virq), port);
            }
            Binding::Pirq(pirq) => {
                self.pirqs.insert(pirq, port);
            }
            _ => {}
        }
        if let Some(channel) = self.channels.get_mut(port.0 as usize) {
            *channel = Channel { binding, vcpu };
            self.active += 1;
        }
    }

    /// Makes a bound port free.
    pub fn free(&mut self, port: Port) {
        let Some(channel) = self.channels.get_mut(port.0 as usize) else {
            return;
        };
        let Channel { binding, vcpu } = core::mem::replace(channel, FREE);
        match binding {
            Binding::Virq(virq) => {
                self.virqs.remove(&(virq_vcpu(virq, vcpu), virq));
            }
            Binding::Pirq(pirq) => {
                self.pirqs.remove(&pirq);
            }
            _ => {}
        }
        self.active -= 1;
        self.lowest_free = self.lowest_free.min(port.0 as usize);
    }

    /// Makes a port that is unbound or connected the other of the two; it keeps its vCPU.
    pub fn rebind(&mut self, port: Port, binding: Binding) {
        if let Some(channel) = self.channels.get_mut(port.0 as usize) {
            channel.binding = binding;
        }
    }

    /// Chooses the vCPU that a port notifies.
    pub fn set_vcpu(&mut self, port: Port, vcpu: u32) {
        if let Some(channel) = self.channels.get_mut(port.0 as usize) {
            channel.vcpu = vcpu;
        }
    }

    /// The port of a virtual interrupt of a vCPU.
    pub fn virq_port(&self, vcpu: u32, virq: u32) -> Option<Port> {
        self.virqs.get(&(virq_vcpu(virq, vcpu), virq)).copied()
    }

    /// The port of a physical interrupt.
    pub fn pirq_port(&self, pirq: u32) -> Option<Port> {
        self.pirqs.get(&pirq).copied()
    }
}

/// The vCPU under which a virtual interrupt is noted: global ones are noted once a domain.
fn virq_vcpu(virq: u32, vcpu: u32) -> u32 {
    if is_global_virq(virq) { 0 } else { vcpu }
}

/// Whether a virtual interrupt is the domain's, as opposed to each vCPU's.
pub fn is_global_virq(virq: u32) -> bool {
    virq < NR_VIRQS && !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}
