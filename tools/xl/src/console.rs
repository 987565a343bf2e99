//! `xl console`: a domain's console on this terminal.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use control::client::{Channel, Client};
use control::message::MAX_CHUNK;
use control::{ConsoleEnd, DomainRef, Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::cli::ConsoleArgs;
use crate::host::{Connection, wrong};
use crate::{Outcome, tell};

/// Ctrl-].
const DETACH: u8 = 0x1d;
/// How many typed bytes are kept for a domain that reads none.
const MAX_PENDING: usize = 64 * 1024;
/// A script that detaches gets what is printed until so long nothing was.
const QUIET: Duration = Duration::from_millis(300);

pub fn console(host: &mut Connection, args: &ConsoleArgs) -> Outcome {
    let attached = Console::attach(&mut host.client, DomainRef::parse(&args.domain))?;
    attached.run(&mut host.client)?;
    Ok(ExitCode::SUCCESS)
}

/// An attached console.
pub struct Console {
    channel: Channel,
    /// Typed and not sent yet.
    pending: VecDeque<u8>,
}

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
                pending: VecDeque::new(),
            }),
            other => Err(wrong(&other).into()),
        }
    }

    /// Carries bytes both ways until the user detaches or the console ends.
    pub fn run(mut self, client: &mut Client) -> anyhow::Result<()> {
        let raw = RawTerminal::enter();
        let result = self.carry(client, raw.is_some());
        drop(raw);
        let end = result?;
        client.close(self.channel)?;
        if let Some(ConsoleEnd::Restarted(domid)) = end {
            tell(&format!("The domain was restarted and is domain {domid}."));
        }
        Ok(())
    }

    fn carry(&mut self, client: &mut Client, terminal: bool) -> anyhow::Result<Option<ConsoleEnd>> {
        let mut input = if terminal {
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
                if printed {
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
                Input::Script => self.pending.len() < MAX_PENDING,
                Input::Ended | Input::Detached(_) => false,
            };
            let (from_host, from_input) = wait(client, wants_input, timeout)?;
            if from_host {
                client.pump()?;
            }
            if from_input {
                input = match (self.read()?, input) {
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
        while !self.pending.is_empty() {
            let bytes: Vec<u8> = self.pending.iter().copied().take(MAX_CHUNK).collect();
            let length = bytes.len();
            if !client.try_send(self.channel, &Request::ConsoleInput(bytes))? {
                break;
            }
            self.pending.drain(..length);
        }
        Ok(())
    }

    /// Reads once from standard input.
    fn read(&mut self) -> io::Result<Typed> {
        let mut buffer = [0; 4096];
        // Not through io::stdin, whose buffer would keep bytes from the shell that may follow.
        let length = match rustix::io::read(io::stdin(), &mut buffer) {
            Ok(length) => length,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(Typed::Bytes),
            Err(error) => return Err(error.into()),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(Typed::End);
        }
        let end = bytes.iter().position(|&byte| byte == DETACH);
        let room = MAX_PENDING.saturating_sub(self.pending.len());
        let typed = bytes.get(..end.unwrap_or(length)).unwrap_or_default();
        self.pending.extend(typed.iter().take(room));
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

/// Waits for the host, and for standard input if wanted. Which of them has something?
fn wait(client: &Client, wants_input: bool, timeout: Option<Duration>) -> io::Result<(bool, bool)> {
    let stdin = io::stdin();
    let mut fds = vec![PollFd::from_borrowed_fd(client.as_fd(), PollFlags::IN)];
    if wants_input {
        fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
    }
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok((false, false)),
        Err(error) => return Err(error.into()),
    }
    let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
    Ok((ready(0), ready(1)))
}

/// The terminal in raw mode; as it was before when this is dropped.
struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// None if standard input is no terminal.
    fn enter() -> Option<RawTerminal> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(RawTerminal { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
