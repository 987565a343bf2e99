//! [`Script`]: what simulated guests do.

use std::fmt;

use super::Machine;
use crate::{Exit, GuestContext};

/// What a guest does until it leaves.
pub(super) enum Script {
    /// Nothing but leave.
    Leave(Exit, Option<Box<GuestContext>>),
    /// What the program does.
    Program(Box<Program>),
}

/// What a scripted guest executes: the machine's copies from and to guest memory are its accesses.
pub(super) type Program = dyn FnOnce(&Machine, &mut GuestContext) -> Exit + Send;

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leave(exit, _) => exit.fmt(f),
            Self::Program(_) => f.write_str("a program"),
        }
    }
}

impl Machine {
    /// Queues what the next [`crate::Platform::enter_guest`] (or [`crate::Platform::idle`], for interrupts) returns;
    /// `context` replaces the guest's registers first.
    pub fn script(&self, exit: Exit, context: Option<GuestContext>) {
        let script = Script::Leave(exit, context.map(Box::new));
        self.record().script.push_back(script);
    }

    /// Queues what the guest executes in the next [`Platform::enter_guest`].
    pub fn script_program(
        &self,
        program: impl FnOnce(&Self, &mut GuestContext) -> Exit + Send + 'static,
    ) {
        let script = Script::Program(Box::new(program));
        self.record().script.push_back(script);
    }
}
