//! Both ends of both protocols against each other, in every order of their steps that a bounded number of preemptions
//! makes: no event is lost, and none comes that was not sent.
//!
//! One thread is the vCPU of the guest, the others are processors on which the hypervisor sends. Whoever sends first
//! writes a number, and whoever serves the event reads it: an event is lost where the guest has nothing left to do and
//! has not read the last number. Every operation on a shared word is one that cannot read an old value, which is what
//! the locked instructions of both ends are on x86.

mod fifo;
mod two_level;
mod words;

use loom::model::Builder;
use words::Number;

/// Runs a model in all orders of its steps.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(model);
}

/// What is sent on a port, and what of it was seen.
#[derive(Default)]
struct Line {
    number: Number,
    sent: Number,
    seen: Number,
    served: Number,
}

impl Line {
    /// To be called before an event is sent.
    fn write(&self) {
        self.number.add();
        self.sent.add();
    }

    /// To be called when an event is served.
    fn read(&self) {
        self.seen.set(self.number.get());
        self.served.add();
    }

    /// Nothing is left to be done.
    fn check(&self) {
        assert_eq!(self.seen.get(), self.number.get(), "an event is lost");
        assert!(
            self.served.get() <= self.sent.get(),
            "an event was not sent"
        );
    }
}
