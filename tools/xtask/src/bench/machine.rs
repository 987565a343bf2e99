//! [`Machine`]: a host to measure on, driven by `xl`.

use crate::host::Host;
use crate::qemu::{Boot, Hardware};
use crate::run;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use control::hosts::Hosts;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The host's name; others of the user are elsewhere.
const NAME: &str = "bench";
/// How long a boot may take.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// A booted host, and a directory for its files.
pub struct Machine {
    host: Host,
    dir: TempDir,
    bin: PathBuf,
    guests: PathBuf,
}

impl Machine {
    /// Boots a hypervisor with our dom0 and `xl`, all of which are built.
    pub fn boot(workspace: &Workspace, hypervisor: &Path, cpus: u32) -> Result<Self> {
        let hardware = Hardware {
            cpus,
            ..Hardware::default()
        };
        Self::boot_on(workspace, hypervisor, &hardware)
    }

    /// The same on other hardware.
    pub fn boot_on(workspace: &Workspace, hypervisor: &Path, hardware: &Hardware) -> Result<Self> {
        let boot: Boot = run::boot(hypervisor.to_path_buf(), workspace.dist().join("dom0"));
        let dir = tempfile::tempdir()?;
        let hosts = Hosts::at(dir.path().join("xenolith"));
        let host = Host::start(&hosts, NAME, hardware, &boot)?;
        host.wait_ready(Instant::now() + BOOT_LIMIT, || false)?;
        Ok(Self {
            host,
            dir,
            bin: run::bin(workspace),
            guests: workspace.guests(),
        })
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What `xl` prints, with the words of `line` as its arguments.
    pub fn xl(&self, line: &str) -> Result<String> {
        let output = Command::new(self.bin.join("xl"))
            .args(line.split_ascii_whitespace())
            .current_dir(self.dir.path())
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .env("XENOLITH_HOST", NAME)
            .output()
            .context("cannot run xl")?;
        if !output.status.success() {
            bail!("xl {line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Creates a paused domain called `name` of a guest, with the words `extra` and further lines of configuration.
    pub fn create(&self, name: &str, guest: &str, extra: &str, lines: &str) -> Result<()> {
        let kernel = self.guests.join(guest);
        let kernel = kernel.display();
        let file = format!("{name}.cfg");
        let text = format!(
            "name = \"{name}\"\nkernel = \"{kernel}\"\nmemory = 32\nextra = \"{extra}\"\n{lines}\n"
        );
        fs::write(self.dir.path().join(&file), text)?;
        self.xl(&format!("create -q -p {file}"))?;
        Ok(())
    }
}
