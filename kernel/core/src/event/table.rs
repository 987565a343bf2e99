//! The table of a domain's ports, without locks and without the guest's memory.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use event_protocol::fifo;
use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::{
    EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PRIORITY_DEFAULT,
};
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::xen::{NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};

use super::fifo::Fifo;
use crate::Domain;

/// Ports come in buckets of this many: one that no bucket has does not exist, however free it is.
const BUCKET: usize = 64;
/// Free ports at which [`Table::free_port`] looks that turn out to be on a queue still. A guest can have all its ports
/// look so, and while the search lasts nobody can send it events.
const MAX_LINKED: u32 = 1024;

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
    /// Its queues. Which one it was put on last outlives what it is bound to.
    pub fifo: fifo::Channel,
    /// An event came, but there is no word for it yet.
    pub pending: bool,
}

const FREE: Channel = Channel {
    binding: Binding::Free,
    vcpu: 0,
    fifo: fifo::Channel::NEW,
    pending: false,
};

struct Bucket {
    /// Which of its ports are not free.
    used: u64,
    channels: Vec<Channel>,
}

/// By which interface a domain gets its events.
pub enum Abi {
    /// Bits in the shared-info page.
    TwoLevel,
    /// Queues.
    Fifo(Box<Fifo>),
}

/// The ports of a domain, and which of them the interrupts are.
pub struct Table {
    buckets: Vec<Bucket>,
    /// By which interface the domain gets its events.
    pub abi: Abi,
    /// The highest port that the domain may have.
    max_port: u32,
    /// No bucket before this one has a free port.
    first_free: usize,
    /// Ports that are neither free nor reserved.
    active: u32,
    /// The domain is going, so that there are no new ports: the next port to close.
    pub closing: Option<u32>,
    /// Where a reset in progress goes on; 0 if there is none.
    pub next_reset: u32,
    virqs: BTreeMap<(u32, u32), Port>,
    pirqs: BTreeMap<u32, Port>,
}

impl Channel {
    fn is_usable(&self) -> bool {
        !matches!(self.binding, Binding::Free | Binding::Reserved)
    }
}

impl Table {
    /// No ports; at most up to `max_port`.
    pub fn new(max_port: u32) -> Self {
        let mut channels = alloc::vec![FREE; BUCKET];
        if let Some(first) = channels.first_mut() {
            first.binding = Binding::Reserved;
        }
        Self {
            buckets: alloc::vec![Bucket { used: 1, channels }],
            abi: Abi::TwoLevel,
            max_port,
            first_free: 0,
            active: 0,
            closing: None,
            next_reset: 0,
            virqs: BTreeMap::new(),
            pirqs: BTreeMap::new(),
        }
    }

    /// A port that exists, free or not.
    #[inline]
    pub fn get(&self, port: Port) -> Option<&Channel> {
        let port = port.0 as usize;
        self.buckets.get(port / BUCKET)?.channels.get(port % BUCKET)
    }

    /// A port that exists, free or not.
    pub fn get_mut(&mut self, port: Port) -> Option<&mut Channel> {
        let bucket = self.buckets.get_mut(port.0 as usize / BUCKET)?;
        bucket.channels.get_mut(port.0 as usize % BUCKET)
    }

    /// A port that is bound to something.
    pub fn usable(&self, port: Port) -> Option<&Channel> {
        self.get(port).filter(|channel| channel.is_usable())
    }

    /// A port that is bound to something.
    pub fn usable_mut(&mut self, port: Port) -> Option<&mut Channel> {
        self.get_mut(port).filter(|channel| channel.is_usable())
    }

    /// The queues and a port that exists, if events are queued.
    #[inline]
    pub fn fifo_and_channel(&mut self, port: Port) -> Option<(&mut Fifo, &mut Channel)> {
        let Abi::Fifo(fifo) = &mut self.abi else {
            return None;
        };
        let bucket = self.buckets.get_mut(port.0 as usize / BUCKET)?;
        let channel = bucket.channels.get_mut(port.0 as usize % BUCKET)?;
        Some((fifo, channel))
    }

    /// Goes back to the two-level interface; what is left of the other.
    pub fn leave_fifo(&mut self) -> Option<Fifo> {
        match core::mem::replace(&mut self.abi, Abi::TwoLevel) {
            Abi::TwoLevel => None,
            Abi::Fifo(fifo) => Some(*fifo),
        }
    }

    /// Number of ports that exist.
    pub fn len(&self) -> u32 {
        (self.buckets.len() * BUCKET) as u32
    }

    /// Whether the domain is going.
    pub fn is_closed(&self) -> bool {
        self.closing.is_some()
    }

    /// Number of ports that are bound to something.
    pub fn active(&self) -> u32 {
        self.active
    }

    /// Number of ports that the domain may have, port 0 included.
    fn limit(&self) -> u32 {
        let ports = match self.abi {
            Abi::TwoLevel => EVTCHN_2L_NR_CHANNELS,
            Abi::Fifo(_) => EVTCHN_FIFO_NR_CHANNELS,
        };
        ports.min(self.max_port.saturating_add(1))
    }

    /// The lowest free port. It stays free until [`Self::bind`].
    ///
    /// # Errors
    /// `EINVAL` for a domain that is going, `ENOSPC` where it may have no more, `ENOMEM`.
    pub fn free_port(&mut self) -> Result<Port, Errno> {
        if self.is_closed() {
            return Err(Errno::EINVAL);
        }
        let full = |bucket: &Bucket| bucket.used == u64::MAX;
        let ahead = self.buckets.iter().skip(self.first_free);
        self.first_free += ahead.take_while(|bucket| full(bucket)).count();
        let port = self.first_unlinked().unwrap_or(Port(self.len()));
        if port.0 >= self.limit() {
            return Err(Errno::ENOSPC);
        }
        if port.0 == self.len() {
            let mut channels = Vec::new();
            let room = channels.try_reserve_exact(BUCKET);
            room.and_then(|()| self.buckets.try_reserve(1))
                .map_err(|_| Errno::ENOMEM)?;
            channels.resize(BUCKET, FREE);
            self.buckets.push(Bucket { used: 0, channels });
        }
        Ok(port)
    }

    /// The lowest port that exists, is free, and on no queue.
    fn first_unlinked(&self) -> Option<Port> {
        let mut linked = 0;
        for (number, bucket) in self.buckets.iter().enumerate().skip(self.first_free) {
            let mut free = !bucket.used;
            while free != 0 {
                let port = Port((number * BUCKET) as u32 + free.trailing_zeros());
                free &= free - 1;
                match &self.abi {
                    Abi::Fifo(fifo) if fifo.is_linked(port) => linked += 1,
                    _ => return Some(port),
                }
                if linked == MAX_LINKED {
                    return None;
                }
            }
        }
        None
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
        if let Some(channel) = self.get_mut(port) {
            channel.binding = binding;
            channel.vcpu = vcpu;
            self.active += 1;
            self.set_used(port, true);
        }
    }

    /// Makes a bound port free.
    pub fn free(&mut self, port: Port) {
        let Some(channel) = self.get_mut(port) else {
            return;
        };
        let vcpu = core::mem::take(&mut channel.vcpu);
        let binding = core::mem::replace(&mut channel.binding, Binding::Free);
        channel.fifo.priority = EVTCHN_FIFO_PRIORITY_DEFAULT as u8;
        channel.pending = false;
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
        self.set_used(port, false);
    }

    fn set_used(&mut self, port: Port, used: bool) {
        let number = port.0 as usize / BUCKET;
        if let Some(bucket) = self.buckets.get_mut(number) {
            let bit = 1 << (port.0 % BUCKET as u32);
            bucket.used = bucket.used & !bit | if used { bit } else { 0 };
            if !used {
                self.first_free = self.first_free.min(number);
            }
        }
    }

    /// Makes a port that is unbound or connected the other of the two; it keeps its vCPU.
    pub fn rebind(&mut self, port: Port, binding: Binding) {
        if let Some(channel) = self.get_mut(port) {
            channel.binding = binding;
        }
    }

    /// Chooses the vCPU that a port notifies.
    pub fn set_vcpu(&mut self, port: Port, vcpu: u32) {
        if let Some(channel) = self.get_mut(port) {
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
