//! A host: a machine in QEMU whose dom0 answers `xl` under the host's name.

use crate::log::{self, Log};
use crate::qemu::{Boot, Hardware, Qemu};
use anyhow::{Context, Result, bail};
use control::client::Client;
use control::hosts::{HostDir, Hosts};
use control::{DomainRef, HostAction, Reply, Request, mux};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a wait for dom0 looks whether the machine is still there, or the user has had enough.
const LOOK: Duration = Duration::from_millis(100);

/// How long a host that was told to power off may take.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);

/// What the hypervisor, ours or Xen, says when dom0 has shut down for good.
const HALTED: &str = "halting machine";

/// A running host. It is killed, and its name freed, when this is dropped.
pub struct Host {
    // Fields are dropped in this order: clients first, then the machine, then the name.
    mux: mux::Handle,
    qemu: Qemu,
    dir: HostDir,
}

impl Host {
    /// Starts a host called `name`. From here on `xl` processes can connect; they wait for dom0.
    pub fn start(hosts: &Hosts, name: &str, hardware: &Hardware, boot: &Boot) -> Result<Self> {
        let dir = hosts.claim(name)?;
        let (qemu, control) = Qemu::start(dir.path(), hardware, boot)?;
        let mux = mux::serve_stream(control, &dir.control_socket())
            .context("cannot serve the control socket")?;
        Ok(Self { mux, qemu, dir })
    }

    /// Waits until dom0 answers.
    ///
    /// # Errors
    /// When the machine dies, `deadline` passes, or `cancelled` says so.
    pub fn wait_ready(&self, deadline: Instant, cancelled: impl Fn() -> bool) -> Result<()> {
        while !self.mux.wait_ready(LOOK) {
            if self.qemu.log().has_ended() {
                bail!("the host died at boot");
            }
            if cancelled() {
                bail!("interrupted");
            }
            if Instant::now() > deadline {
                bail!("dom0 does not answer");
            }
        }
        Ok(())
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        self.dir.name()
    }

    /// What the hypervisor wrote to its serial port.
    pub fn log(&self) -> &Arc<Log> {
        self.qemu.log()
    }

    /// The machine.
    pub fn qemu(&self) -> &Qemu {
        &self.qemu
    }

    /// A connection to dom0, as `xl` has one.
    pub fn connect(&self, patience: Duration) -> Result<Client> {
        Ok(Client::connect(&self.dir.control_socket(), patience)?)
    }

    /// What a guest has printed, as lines: what dom0 kept of it, and what comes until it is silent
    /// for `silence` or `limit` is over.
    pub fn console_text(&self, name: &str, silence: Duration, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut client = self.connect(limit)?;
        let channel = client.open()?;
        let domain = DomainRef::Name(name.to_owned());
        client.send(
            channel,
            &Request::AttachConsole {
                domain,
                scrollback: true,
            },
        )?;
        let mut said = Vec::new();
        loop {
            match client.try_receive(channel)? {
                Some(Reply::ConsoleOutput(bytes)) => said.extend_from_slice(&bytes),
                Some(Reply::ConsoleEnd(_)) => break,
                Some(_) => {}
                None => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let patience = if said.is_empty() {
                        left
                    } else {
                        left.min(silence)
                    };
                    let mut fds = [PollFd::new(&client, PollFlags::IN)];
                    if poll(&mut fds, Some(&Timespec::try_from(patience)?))? == 0 {
                        break;
                    }
                    client.pump()?;
                }
            }
        }
        client.close(channel)?;
        Ok(said
            .split(|byte| *byte == b'\n')
            .map(log::shown)
            .collect::<Vec<_>>()
            .join("\n"))
    }

    /// Tells dom0 to power off, and ends the machine if that does not happen in time.
    ///
    /// # Errors
    /// When the machine had to be killed: dom0 did not take the order, or did not follow it.
    pub fn power_off(self) -> Result<()> {
        let deadline = Instant::now() + POWER_OFF_LIMIT;
        if self.qemu.log().has_ended() {
            return Ok(());
        }
        let told = self.connect(POWER_OFF_LIMIT).and_then(|mut client| {
            let channel = client.open()?;
            client.send(channel, &Request::StopHost(HostAction::PowerOff))?;
            // The machine may be gone before the answer is out.
            let _ = client.receive(channel);
            Ok(())
        });
        // A dom0 that does not switch the machine off leaves it halted. Then nothing runs on it any
        // more, and it is safe to end it.
        let halted = self.log().wait_for(HALTED, deadline);
        if halted || self.log().has_ended() {
            return Ok(());
        }
        told?;
        bail!(
            "the host did not power off in {} s and was killed",
            POWER_OFF_LIMIT.as_secs()
        )
    }
}
