//! `xl console`: a domain's console on this terminal.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use control::client::{Channel, Client};
use control::message::MAX_CHUNK;
use control::{ConsoleEnd, DomainRef, Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::low_level;

use crate::cli::ConsoleArgs;
use crate::host::{Connection, wrong};
use crate::{Outcome, tell};

/// Ctrl-].
const DETACH: u8 = 0x1d;
/// How many typed bytes are kept for a domain that reads none.
const MAX_PENDING: usize = 64 * 1024;
/// How many bytes are read at once.
const READ: usize = 4096;
/// A script that detaches gets what is printed until so long nothing was.
const QUIET: Duration = Duration::from_millis(500);

pub fn console(host: &mut Connection, args: &ConsoleArgs) -> Outcome {
    let attached = Console::attach(&mut host.client, DomainRef::parse(&args.domain))?;
    attached.run(&mut host.client)?;
    Ok(ExitCode::SUCCESS)
}

/// An attached console.
pub struct Console {
    channel: Channel,
    pending: Pending,
}

/// What was typed and not sent yet.
#[derive(Default)]
struct Pending(VecDeque<u8>);

/// What to read from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Terminal,
    /// A pipe or file.
    Script,
    /// The script has ended; output goes on.
    Ended,
    /// The script detached: the rest of the output is waited for since then.
    Detached(Instant),
}

impl Console {
    /// Attaches, with what the domain printed before.
    pub fn attach(client: &mut Client, domain: DomainRef) -> anyhow::Result<Console> {
        let channel = client.open()?;
        match client.call(
            channel,
            &Request::AttachConsole {
                domain,
                scrollback: true,
            },
        )? {
            Reply::Domid(_) => Ok(Console {
                channel,
                pending: Pending::default(),
            }),
            other => Err(wrong(&other).into()),
        }
    }

    /// Carries bytes both ways until the user detaches or the console ends.
    pub fn run(mut self, client: &mut Client) -> anyhow::Result<()> {
        let raw = RawTerminal::enter()?;
        let result = self.carry(client, raw.as_ref().map(|raw| &raw.signals));
        drop(raw);
        let end = result?;
        client.close(self.channel)?;
        if let Some(ConsoleEnd::Restarted(domid)) = end {
            tell(&format!("The domain was restarted and is domain {domid}."));
        }
        Ok(())
    }

    fn carry(
        &mut self,
        client: &mut Client,
        terminal: Option<&Signals>,
    ) -> anyhow::Result<Option<ConsoleEnd>> {
        let mut input = if terminal.is_some() {
            Input::Terminal
        } else {
            Input::Script
        };
        let mut out = io::stdout().lock();
        loop {
            let mut printed = false;
            while let Some(reply) = client.try_receive(self.channel)? {
                match reply {
                    Reply::ConsoleOutput(bytes) => {
                        out.write_all(&bytes)?;
                        printed = true;
                    }
                    Reply::ConsoleEnd(end) => {
                        out.flush()?;
                        return Ok(Some(end));
                    }
                    other => return Err(wrong(&other).into()),
                }
            }
            if printed {
                out.flush()?;
            }
            self.send(client)?;

            let mut timeout = None;
            if let Input::Detached(since) = &mut input {
                // What it typed before must be taken first.
                if printed || !self.pending.0.is_empty() {
                    *since = Instant::now();
                }
                match QUIET.checked_sub(since.elapsed()) {
                    Some(left) => timeout = Some(left),
                    None => return Ok(None),
                }
            }
            // A terminal is always read, or Ctrl-] would not be seen.
            let wants_input = match input {
                Input::Terminal => true,
                Input::Script => self.pending.has_room(),
                Input::Ended | Input::Detached(_) => false,
            };
            let (from_host, from_input, signal) = wait(client, wants_input, terminal, timeout)?;
            if signal {
                return Ok(None);
            }
            if from_host {
                client.pump()?;
            }
            if from_input {
                input = match (self.pending.read(io::stdin())?, input) {
                    (Typed::Bytes, same) => same,
                    (Typed::End | Typed::Detach, Input::Terminal) => return Ok(None),
                    (Typed::End, _) => Input::Ended,
                    (Typed::Detach, _) => Input::Detached(Instant::now()),
                };
            }
        }
    }

    /// Sends what was typed, as far as the domain has room for it.
    fn send(&mut self, client: &mut Client) -> anyhow::Result<()> {
        let pending = &mut self.pending.0;
        while !pending.is_empty() {
            let bytes: Vec<u8> = pending.iter().copied().take(MAX_CHUNK).collect();
            let length = bytes.len();
            if !client.try_send(self.channel, &Request::ConsoleInput(bytes))? {
                break;
            }
            pending.drain(..length);
        }
        Ok(())
    }
}

impl Pending {
    /// Whether all is kept that is read at once.
    fn has_room(&self) -> bool {
        self.0.len() + READ <= MAX_PENDING
    }

    /// Reads once. What there is no room for is lost.
    fn read(&mut self, from: impl AsFd) -> io::Result<Typed> {
        let mut buffer = [0; READ];
        // Not through io::stdin, whose buffer would keep bytes from the shell that may follow.
        let length = match rustix::io::read(from, &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(Typed::Bytes),
            Err(error) => return Err(error.into()),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(Typed::End);
        }
        let end = bytes.iter().position(|&byte| byte == DETACH);
        let room = MAX_PENDING.saturating_sub(self.0.len());
        let typed = bytes.get(..end.unwrap_or(length)).unwrap_or_default();
        self.0.extend(typed.iter().take(room));
        Ok(if end.is_some() {
            Typed::Detach
        } else {
            Typed::Bytes
        })
    }
}

enum Typed {
    Bytes,
    Detach,
    End,
}

/// Waits for the host, for standard input if wanted, and for signals. Which of them has something?
pub fn wait(
    client: &Client,
    wants_input: bool,
    signals: Option<&Signals>,
    timeout: Option<Duration>,
) -> io::Result<(bool, bool, bool)> {
    let stdin = io::stdin();
    let mut fds = vec![PollFd::from_borrowed_fd(client.as_fd(), PollFlags::IN)];
    if let Some(signals) = signals {
        fds.push(PollFd::from_borrowed_fd(
            signals.pipe.as_fd(),
            PollFlags::IN,
        ));
    }
    // Left out if not wanted: its end would be reported all the same.
    if wants_input {
        fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
    }
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        // The signal's pipe is readable on the next round.
        Err(rustix::io::Errno::INTR) => return Ok((false, false, false)),
        Err(error) => return Err(error.into()),
    }
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let from_host = ready.next().unwrap_or(false);
    let signal = signals.is_some() && ready.next().unwrap_or(false);
    Ok((from_host, ready.next().unwrap_or(false), signal))
}

/// The terminal in raw mode; as it was before when this is dropped. A signal that is to end the
/// process meanwhile does so, after the terminal is as it was.
struct RawTerminal {
    before: Termios,
    signals: Signals,
}

impl RawTerminal {
    /// None if standard input is no terminal.
    fn enter() -> anyhow::Result<Option<RawTerminal>> {
        let Ok(before) = tcgetattr(io::stdin()) else {
            return Ok(None);
        };
        let signals = Signals::catch()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(RawTerminal { before, signals }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        self.signals.release();
    }
}

/// The signals that end a process, caught.
pub struct Signals {
    /// Readable when one has come.
    pipe: UnixStream,
    last: Arc<AtomicUsize>,
    released: Arc<AtomicBool>,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        let (pipe, write) = UnixStream::pair()?;
        let last = Arc::new(AtomicUsize::new(0));
        let released = Arc::new(AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&released))?;
            // Signal numbers are small and positive.
            signal_hook::flag::register_usize(signal, Arc::clone(&last), signal as usize)?;
            low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Signals {
            pipe,
            last,
            released,
        })
    }

    /// From here on signals do what they do by default, those that have come too.
    fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
        if let Ok(signal @ 1..) = i32::try_from(self.last.load(Ordering::SeqCst)) {
            // Where this fails the process goes on, as if there had been no signal.
            let _ = low_level::emulate_default_handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_as_long_as_nothing_is_lost() {
        let (input, mut script) = io::pipe().unwrap();
        let mut pending = Pending::default();
        let mut written = 0;
        while pending.has_room() {
            script.write_all(&[b'x'; 1001]).unwrap();
            written += 1001;
            assert!(matches!(pending.read(&input), Ok(Typed::Bytes)));
            assert_eq!(pending.0.len(), written);
        }
        assert!(written + READ > MAX_PENDING);
    }
}
