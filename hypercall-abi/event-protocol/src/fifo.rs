//! The FIFO interface: a word for each port, and a queue of pending ports for each vCPU and priority.
//!
//! A port's word has its flags and the next port of its queue. The control block of a vCPU has the first port of each
//! of its queues and a bit for each queue that has one; of a queue's last port only the hypervisor knows. The hypervisor
//! appends, the guest takes from the front. They meet in one place, the last port of a queue: its word changes by one
//! operation from being a queue's last to having a successor, or to being in no queue, and whichever comes first, the
//! other sees it.
//!
//! The hypervisor's functions are for one caller at a time in each domain.

use hypercall_abi::event_channel::*;
use hypercall_abi::types::Port;

use crate::Word;

/// The port is pending.
pub const PENDING: u32 = 1 << EVTCHN_FIFO_PENDING;
/// The port is masked: it is not to be put on a queue.
pub const MASKED: u32 = 1 << EVTCHN_FIFO_MASKED;
/// The port is on a queue.
pub const LINKED: u32 = 1 << EVTCHN_FIFO_LINKED;
/// The hypervisor is about to link a port behind this one; the guest unmasks nothing meanwhile.
pub const BUSY: u32 = 1 << EVTCHN_FIFO_BUSY;
/// The port behind this one.
pub const LINK: u32 = EVTCHN_FIFO_LINK_MASK;
/// Queues of a vCPU.
pub const QUEUES: usize = EVTCHN_FIFO_MAX_QUEUES as usize;

/// Times that a link is tried in a word that its guest changes meanwhile. While the word is busy, a guest that keeps to
/// the rules makes at most these changes: it masks, clears pending, and takes the port off.
const LINK_ATTEMPTS: u32 = 5;

/// The words of a domain's ports.
pub trait Array {
    /// How one is reached.
    type Word: Word<u32>;
    /// The word of a port, as far as the guest has given memory for it.
    fn word(&self, port: Port) -> Option<Self::Word>;
}

/// A vCPU's control block.
pub trait Control {
    /// How a word of it is reached.
    type Word: Word<u32>;
    /// The bits of queues that have ports.
    fn ready(&self) -> Self::Word;
    /// The first port of a queue, below [`QUEUES`].
    fn head(&self, queue: usize) -> Self::Word;
}

/// What the hypervisor knows of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Its priority, which is the number of its queue, below [`QUEUES`].
    pub priority: u8,
    /// The priority and the vCPU of the queue on which it was put last.
    last: (u8, u8),
}

impl Channel {
    /// One that was on no queue yet.
    pub const NEW: Self = Self {
        priority: EVTCHN_FIFO_PRIORITY_DEFAULT as u8,
        last: (EVTCHN_FIFO_PRIORITY_DEFAULT as u8, 0),
    };
}

/// The last port of each queue of a vCPU, 0 for none that is known.
pub type Tails = [u32; QUEUES];

/// What became of a port that was made pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// It was not before.
    pub newly: bool,
    /// The vCPU is to be told that it has events.
    pub upcall: bool,
}

/// The hypervisor's end of a port.
pub struct End<'a, A: Array, C> {
    /// The words of the domain's ports.
    pub array: A,
    /// The control block of the vCPU that serves the port.
    pub control: C,
    /// By vCPU, the ends of its queues.
    pub tails: &'a mut [Tails],
    /// The port.
    pub port: Port,
    /// Its word.
    pub word: A::Word,
    /// What is known of it.
    pub channel: &'a mut Channel,
    /// The vCPU that serves it.
    pub vcpu: u8,
}

impl<A: Array, C: Control> End<'_, A, C> {
    /// Makes the port pending, and puts it on the queue that its priority and its vCPU have, unless it is masked or on
    /// a queue.
    pub fn raise(self) -> Raised {
        let newly = self.word.fetch_or(PENDING) & PENDING == 0;
        let upcall = self.word.load() & MASKED == 0 && self.enqueue();
        Raised { newly, upcall }
    }

    /// Unmasks the port for the guest, and puts it on its queue if it is pending. Whether the vCPU is to be told that
    /// it has events.
    ///
    /// It does not make the port pending: another vCPU of the guest may have served the event just now.
    pub fn unmask(self) -> bool {
        self.word.fetch_and(!MASKED) & PENDING != 0 && self.enqueue()
    }

    /// Puts the port on its queue, unless it is on one. Whether the vCPU is to be told that it has events.
    fn enqueue(self) -> bool {
        if self.word.fetch_or(LINKED) & LINKED != 0 {
            return false;
        }
        let (port, priority) = (self.port, self.channel.priority);
        // Where it was a queue's last, that queue is empty: nothing may be linked behind it there any more.
        let (last_priority, last_vcpu) = self.channel.last;
        if let Some(tail) = tail_of(self.tails, last_vcpu, last_priority)
            && *tail == port.0
        {
            *tail = 0;
        }
        self.channel.last = (priority, self.vcpu);
        let mut linked = false;
        if let Some(tail) = tail_of(self.tails, self.vcpu, priority) {
            let before = core::mem::replace(tail, port.0);
            let before = (before != 0).then(|| self.array.word(Port(before)));
            linked = before.flatten().is_some_and(|it| link(&it, port));
        }
        let queue = usize::from(priority);
        !linked && {
            self.control.head(queue).store(port.0);
            let bit = 1 << queue;
            self.control.ready().fetch_or(bit) & bit == 0
        }
    }
}

fn tail_of(tails: &mut [Tails], vcpu: u8, priority: u8) -> Option<&mut u32> {
    tails
        .get_mut(usize::from(vcpu))?
        .get_mut(usize::from(priority))
}

/// Links a port behind the last of a queue, if that is on it still.
fn link(last: &impl Word<u32>, port: Port) -> bool {
    let mut found = last.load();
    for attempt in 0..LINK_ATTEMPTS {
        if found & LINKED == 0 {
            break;
        }
        let next = found & !(BUSY | LINK) | port.0 & LINK;
        match last.compare_exchange(found, next) {
            Ok(_) => return true,
            // From here on the guest does not unmask it, so that it runs out of changes that it may make.
            Err(_) if attempt == 0 => found = last.fetch_or(BUSY) | BUSY,
            Err(other) => found = other,
        }
    }
    // Where it is on the queue still, the guest breaks the rules: what it is told now is as good as anything.
    if found & BUSY != 0 {
        last.fetch_and(!BUSY);
    }
    false
}

/// The guest: masks a port.
pub fn mask(word: &impl Word<u32>) {
    word.fetch_or(MASKED);
}

/// The guest: unmasks a port, unless that is pending. `false` means that it is: the hypervisor must unmask it
/// (`EVTCHNOP_unmask`), which puts it on its queue.
#[must_use = "an event that came while the port was masked would be lost"]
pub fn unmask(word: &impl Word<u32>) -> bool {
    let mut found = word.load();
    loop {
        if found & MASKED == 0 {
            return true;
        }
        if found & PENDING != 0 {
            return false;
        }
        let idle = found & !BUSY;
        match word.compare_exchange(idle, idle & !MASKED) {
            Ok(_) => return true,
            Err(other) => found = other,
        }
    }
}

/// The guest: takes a port off its queue; the port behind it.
fn unlink(word: &impl Word<u32>) -> u32 {
    let mut found = word.load();
    loop {
        match word.compare_exchange(found, found & !(LINKED | LINK)) {
            Ok(_) => return found & LINK,
            Err(other) => found = other,
        }
    }
}

/// What a vCPU of a guest knows of its queues: the first port of each of which it took some ports, 0 for none.
#[derive(Debug, Default)]
pub struct Consumer([u32; QUEUES]);

impl Consumer {
    /// One that knows nothing, as at first.
    pub const fn new() -> Self {
        Self([0; QUEUES])
    }

    /// Takes every pending port of the vCPU that is not masked, clears it, and hands it to `serve`, the most urgent
    /// first, until none is left.
    pub fn take_pending(
        &mut self,
        upcall: &impl Word<u8>,
        control: &impl Control,
        array: &impl Array,
        mut serve: impl FnMut(Port),
    ) {
        const ALL: u32 = (1 << QUEUES) - 1;
        while upcall.fetch_and(0) != 0 {
            let mut ready = control.ready().fetch_and(0) & ALL;
            while ready != 0 {
                let queue = ready.trailing_zeros() as usize;
                if !self.take_one(queue, control, array, &mut serve) {
                    ready &= ready - 1;
                }
                ready |= control.ready().fetch_and(0) & ALL;
            }
        }
    }

    /// Takes the first port of a queue; whether there is another.
    fn take_one(
        &mut self,
        queue: usize,
        control: &impl Control,
        array: &impl Array,
        serve: &mut impl FnMut(Port),
    ) -> bool {
        let port = match self.0[queue] {
            0 => Port(control.head(queue).load()),
            known => Port(known),
        };
        let Some(word) = array.word(port) else {
            self.0[queue] = 0;
            return false;
        };
        let next = unlink(&word);
        self.0[queue] = next;
        // The look comes after it is off the queue: an event that comes later puts it there again, perhaps on that of
        // another vCPU, which may take it first.
        if word.load() & (PENDING | MASKED) == PENDING && word.fetch_and(!PENDING) & PENDING != 0 {
            serve(port);
        }
        next != 0
    }
}
