//! The FIFO interface.

use event_protocol::Word as _;
use event_protocol::fifo::*;
use hypercall_abi::types::Port;
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::words::{Number, Word8, Word32};
use crate::{Line, explore};

/// Ports 1 to 3.
const PORTS: usize = 4;

#[derive(Default)]
struct Shared {
    words: [Word32; PORTS],
    vcpus: [Vcpu; 2],
}

/// What each vCPU has.
#[derive(Default)]
struct Vcpu {
    ready: Word32,
    heads: [Word32; QUEUES],
    upcall: Word8,
}

impl<'a> Array for &'a Shared {
    type Word = &'a Word32;

    fn word(&self, port: Port) -> Option<&'a Word32> {
        self.words.get(port.0 as usize)
    }
}

impl<'a> Control for &'a Vcpu {
    type Word = &'a Word32;

    fn ready(&self) -> &'a Word32 {
        &self.ready
    }

    fn head(&self, queue: usize) -> &'a Word32 {
        &self.heads[queue]
    }
}

/// What is behind the lock of the domain's ports.
struct Queues {
    tails: [Tails; 2],
    channels: [Channel; PORTS],
    /// The vCPU that serves the ports.
    server: u8,
}

struct Domain {
    shared: Shared,
    lines: [Line; PORTS],
    /// Upcalls that the hypervisor caused.
    upcalls: Number,
    /// Ports that it unmasked.
    unmasked: Number,
    queues: Mutex<Queues>,
}

impl Domain {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            shared: Shared::default(),
            lines: Default::default(),
            upcalls: Number::default(),
            unmasked: Number::default(),
            queues: Mutex::new(Queues {
                tails: [[0; QUEUES]; 2],
                channels: [Channel::NEW; PORTS],
                server: 0,
            }),
        })
    }

    /// The hypervisor does something with a port that may have its vCPU told.
    fn with(&self, port: usize, act: impl FnOnce(End<&Shared, &Vcpu>) -> bool) {
        let queues = &mut *self.queues.lock().unwrap();
        let vcpu = &self.shared.vcpus[usize::from(queues.server)];
        let upcall = act(End {
            array: &self.shared,
            control: vcpu,
            tails: &mut queues.tails,
            port: Port(port as u32),
            word: &self.shared.words[port],
            channel: &mut queues.channels[port],
            vcpu: queues.server,
        });
        if upcall && vcpu.upcall.fetch_or(1) == 0 {
            self.upcalls.add();
        }
    }

    /// The hypervisor sends an event.
    fn send(&self, port: usize) {
        self.lines[port].write();
        self.with(port, |end| end.raise().upcall);
    }

    fn set_priority(&self, port: usize, priority: u8) {
        self.queues.lock().unwrap().channels[port].priority = priority;
    }

    /// The guest unmasks a port.
    fn unmask(&self, port: usize) {
        if !unmask(&self.shared.words[port]) {
            self.unmasked.add();
            self.with(port, |end| end.unmask());
        }
    }

    /// The guest has another vCPU serve the ports (`EVTCHNOP_bind_vcpu`).
    fn move_to(&self, port: usize, vcpu: u8) {
        mask(&self.shared.words[port]);
        self.queues.lock().unwrap().server = vcpu;
        self.unmask(port);
    }

    /// The guest's upcall on a vCPU, if one is due.
    fn upcall_on(&self, vcpu: usize, consumer: &mut Consumer) {
        let (shared, vcpu) = (&self.shared, &self.shared.vcpus[vcpu]);
        consumer.take_pending(&vcpu.upcall, &vcpu, &shared, |Port(port)| {
            self.lines[port as usize].read();
        });
    }

    fn upcall(&self, consumer: &mut Consumer) {
        self.upcall_on(0, consumer);
    }

    fn check(&self, consumer: &mut Consumer) {
        self.upcall(consumer);
        self.lines.iter().for_each(Line::check);
        let causes = self.lines.iter().map(|line| line.sent.get()).sum::<usize>();
        assert!(self.upcalls.get() <= causes + self.unmasked.get());
        let words = self.shared.words.iter().map(|word| word.load());
        assert!(
            words.into_iter().all(|word| word == 0),
            "a word is not at rest"
        );
    }
}

/// Has the hypervisor do something while a vCPU does something else.
fn meet(
    hypervisor: impl Fn(&Domain) + Send + Sync + Copy + 'static,
    guest: impl Fn(&Domain, &mut Consumer) + Send + Sync + 'static,
) {
    explore(3, move || {
        let domain = Domain::new();
        let other = {
            let domain = domain.clone();
            thread::spawn(move || hypervisor(&domain))
        };
        let mut consumer = Consumer::new();
        guest(&domain, &mut consumer);
        other.join().unwrap();
        domain.check(&mut consumer);
    });
}

#[test]
fn two_senders_and_a_vcpu_lose_no_event() {
    explore(2, || {
        let domain = Domain::new();
        let senders = [1, 2].map(|port| {
            let domain = domain.clone();
            thread::spawn(move || domain.send(port))
        });
        let mut consumer = Consumer::new();
        domain.upcall(&mut consumer);
        for sender in senders {
            sender.join().unwrap();
        }
        domain.check(&mut consumer);
    });
}

#[test]
fn a_queue_that_is_emptied_while_it_is_filled_loses_no_event() {
    let send = |domain: &Domain| [1, 2, 1].iter().for_each(|&port| domain.send(port));
    meet(send, |domain, consumer| {
        domain.upcall(consumer);
        domain.upcall(consumer);
    });
}

#[test]
fn a_port_that_is_masked_and_unmasked_while_events_come_loses_none() {
    let send = |domain: &Domain| [1, 2, 1].iter().for_each(|&port| domain.send(port));
    meet(send, |domain, consumer| {
        mask(&domain.shared.words[1]);
        domain.upcall(consumer);
        domain.unmask(1);
        domain.upcall(consumer);
    });
}

#[test]
fn a_port_that_changes_its_queue_loses_no_event_of_either() {
    let move_it = |domain: &Domain| {
        domain.send(1);
        domain.set_priority(1, 3);
        domain.send(1);
        domain.send(2);
    };
    meet(move_it, |domain, consumer| {
        domain.upcall(consumer);
        domain.upcall(consumer);
    });
}

#[test]
fn a_port_that_moves_to_another_vcpu_is_served_once_for_each_event() {
    explore(3, || {
        let domain = Domain::new();
        domain.send(1);
        let other = {
            let domain = domain.clone();
            thread::spawn(move || {
                let mut consumer = Consumer::new();
                domain.move_to(1, 1);
                domain.upcall_on(1, &mut consumer);
                consumer
            })
        };
        let mut consumer = Consumer::new();
        domain.upcall(&mut consumer);
        let mut others = other.join().unwrap();
        domain.upcall_on(1, &mut others);
        domain.check(&mut consumer);
    });
}

#[test]
#[should_panic(expected = "an event is lost")]
fn a_guest_that_unmasks_without_a_look_loses_an_event() {
    meet(
        |domain| domain.send(1),
        |domain, _| {
            mask(&domain.shared.words[1]);
            domain.shared.words[1].fetch_and(!MASKED);
        },
    );
}
