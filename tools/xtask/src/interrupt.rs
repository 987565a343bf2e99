//! Signals that end a command: they are noted, and every wait looks at the note, so that the
//! ordinary way out runs and leaves nothing behind.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use wait_timeout::ChildExt;

/// How often a wait looks at the note.
const LOOK: Duration = Duration::from_millis(100);

/// How long a program may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// Notes SIGINT, SIGTERM and SIGHUP from its creation on.
#[derive(Clone)]
pub struct Interrupts {
    /// The last signal, or 0.
    last: Arc<AtomicUsize>,
}

/// What the terminal's interrupt key means while a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The end of the whole command.
    Ends,
    /// Something to the program, which gets the signal as well.
    IsTheirs,
}

impl Interrupts {
    /// Starts to note signals instead of dying of them.
    pub fn note() -> Result<Self> {
        let last = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let number = usize::try_from(signal)?;
            signal_hook::flag::register_usize(signal, Arc::clone(&last), number)
                .context("cannot handle signals")?;
        }
        Ok(Self { last })
    }

    /// Whether a signal has come.
    pub fn is_set(&self) -> bool {
        self.last.load(Ordering::Relaxed) != 0
    }

    /// The status to exit with after a signal, as shells have it.
    pub fn exit_code(&self) -> Option<u8> {
        match self.last.load(Ordering::Relaxed) {
            0 => None,
            number => Some(u8::try_from(128 + number).unwrap_or(u8::MAX)),
        }
    }

    /// Runs a program to its end. A signal that ends the command ends the program first.
    pub fn run(&self, command: &mut Command, key: Key) -> Result<u8> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {name}"))?;
        loop {
            if let Some(status) = child.wait_timeout(LOOK)? {
                return Ok(code_of(status));
            }
            if key == Key::IsTheirs && self.last.load(Ordering::Relaxed) == SIGINT as usize {
                self.last.store(0, Ordering::Relaxed);
            }
            if self.is_set() {
                break;
            }
        }
        if let Some(pid) = Pid::from_raw(i32::try_from(child.id())?) {
            // It may have ended by itself just before; then there is nothing to ask.
            let _ = kill_process(pid, Signal::TERM);
        }
        if child.wait_timeout(PATIENCE)?.is_none() {
            child.kill()?;
            child.wait()?;
        }
        Ok(self.exit_code().unwrap_or(u8::MAX))
    }
}

/// The status as shells have it: 128 and the signal's number for a program that a signal ended.
fn code_of(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Interrupts {
        Interrupts {
            last: Arc::new(AtomicUsize::new(0)),
        }
    }

    #[test]
    fn a_programs_status_is_passed_on() {
        let run = |script: &str| quiet().run(Command::new("sh").args(["-c", script]), Key::Ends);
        assert_eq!(run("exit 7").unwrap(), 7);
        assert_eq!(run("kill -9 $$").unwrap(), 137);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = quiet()
            .run(&mut Command::new("/no/such/program"), Key::Ends)
            .unwrap_err();
        assert!(error.to_string().contains("/no/such/program"));
    }

    #[test]
    fn a_signal_ends_the_program_and_the_interrupt_key_may_be_its_own() {
        let interrupts = quiet();
        interrupts.last.store(SIGTERM as usize, Ordering::Relaxed);
        assert_eq!(
            interrupts
                .run(Command::new("sleep").arg("60"), Key::Ends)
                .unwrap(),
            143
        );
        interrupts.last.store(SIGINT as usize, Ordering::Relaxed);
        let mut short = Command::new("sh");
        short.args(["-c", "sleep 0.3; exit 3"]);
        assert_eq!(interrupts.run(&mut short, Key::IsTheirs).unwrap(), 3);
    }
}
