//! The two-level interface.

use event_protocol::Word as _;
use event_protocol::two_level::{Bits, Raised, select, take_pending};
use hypercall_abi::types::Port;
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::words::{Number, Word8, Word64};
use crate::{Line, explore};

/// What each vCPU has.
#[derive(Default)]
struct Vcpu {
    selector: Word64,
    upcall: Word8,
}

#[derive(Default)]
struct Domain {
    pending: [Word64; 1],
    mask: [Word64; 1],
    vcpus: [Vcpu; 2],
    /// The vCPU that serves the ports.
    server: Number,
    lines: [Line; 2],
    /// Upcalls that the hypervisor caused.
    upcalls: Number,
    /// Ports that it unmasked.
    unmasked: Number,
    /// The lock of the domain's ports.
    lock: Mutex<()>,
}

impl Domain {
    fn bits(&self, port: u32) -> Bits<&Word64> {
        Bits {
            pending: &self.pending[0],
            mask: &self.mask[0],
            bit: 1 << port,
        }
    }

    fn select(&self) {
        let vcpu = &self.vcpus[self.server.get()];
        if select(&vcpu.selector, 0) && vcpu.upcall.fetch_or(1) == 0 {
            self.upcalls.add();
        }
    }

    /// The hypervisor sends an event.
    fn send(&self, port: u32) {
        self.lines[port as usize].write();
        let _lock = self.lock.lock().unwrap();
        if self.bits(port).raise() == Raised::Ready {
            self.select();
        }
    }

    /// The guest unmasks a port.
    fn unmask(&self, port: u32) {
        if !self.bits(port).unmask() {
            self.unmask_call(port);
        }
    }

    /// `EVTCHNOP_unmask`.
    fn unmask_call(&self, port: u32) {
        self.unmasked.add();
        let _lock = self.lock.lock().unwrap();
        if self.bits(port).unmask_for_guest() {
            self.select();
        }
    }

    /// The guest has another vCPU serve the ports (`EVTCHNOP_bind_vcpu`).
    fn move_to(&self, port: u32, vcpu: usize) {
        self.bits(port).mask();
        {
            let _lock = self.lock.lock().unwrap();
            self.server.set(vcpu);
        }
        self.unmask(port);
    }

    /// The guest's upcall on a vCPU, if one is due.
    fn upcall_on(&self, vcpu: usize) {
        take_pending(
            &self.vcpus[vcpu].upcall,
            &self.vcpus[vcpu].selector,
            &self.pending,
            &self.mask,
            |_| u64::MAX,
            |Port(port)| self.lines[port as usize].read(),
        );
    }

    fn upcall(&self) {
        self.upcall_on(0);
    }

    fn check(&self) {
        self.upcall();
        self.upcall_on(1);
        self.lines.iter().for_each(Line::check);
        let causes = self.lines.iter().map(|line| line.sent.get()).sum::<usize>();
        assert!(self.upcalls.get() <= causes + self.unmasked.get());
    }
}

#[test]
fn two_senders_and_a_vcpu_lose_no_event() {
    explore(3, || {
        let domain = Arc::new(Domain::default());
        let senders = [0, 1].map(|port| {
            let domain = domain.clone();
            thread::spawn(move || domain.send(port))
        });
        domain.upcall();
        for sender in senders {
            sender.join().unwrap();
        }
        domain.check();
    });
}

#[test]
fn a_port_that_is_masked_and_unmasked_while_events_come_loses_none() {
    explore(3, || {
        let domain = Arc::new(Domain::default());
        let sender = {
            let domain = domain.clone();
            thread::spawn(move || (0..2).for_each(|_| domain.send(0)))
        };
        domain.bits(0).mask();
        domain.upcall();
        domain.unmask(0);
        domain.upcall();
        sender.join().unwrap();
        domain.check();
    });
}

#[test]
fn a_port_that_moves_to_another_vcpu_is_served_once_for_each_event() {
    explore(3, || {
        let domain = Arc::new(Domain::default());
        domain.send(0);
        let other = {
            let domain = domain.clone();
            thread::spawn(move || {
                domain.move_to(0, 1);
                domain.upcall_on(1);
            })
        };
        domain.upcall();
        other.join().unwrap();
        domain.check();
    });
}

#[test]
#[should_panic(expected = "an event is lost")]
fn a_guest_that_unmasks_without_a_look_loses_an_event() {
    explore(3, || {
        let domain = Arc::new(Domain::default());
        let sender = {
            let domain = domain.clone();
            thread::spawn(move || domain.send(0))
        };
        domain.bits(0).mask();
        domain.mask[0].fetch_and(!1);
        sender.join().unwrap();
        domain.check();
    });
}
