//! A host of a test's own, and `xl` that talks to it.

use crate::program::{self, Ended, Running};
use crate::{deadline, dist, hypervisor};
use control::hosts::Hosts;
use control::{DomainInfo, HostInfo, Reply, Request};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use xtask::host::Host;
use xtask::qemu::{Boot, Hardware};
use xtask::run;

/// Its name; hosts of other tests are elsewhere.
const NAME: &str = "test";

/// A booted host. If its test fails, its log and its guests' consoles are shown.
pub struct TestHost {
    host: Option<Host>,
    /// In place of the user's directory of running hosts, and for files of the test.
    dir: TempDir,
}

impl TestHost {
    /// Boots the hypervisor and dom0 of `target/dist` on default hardware.
    pub fn boot() -> Self {
        Self::boot_on(&Hardware::default())
    }

    /// Boots them on this hardware.
    pub fn boot_on(hardware: &Hardware) -> Self {
        Self::boot_from(hardware, &run::boot(hypervisor(), dist("dom0")))
    }

    /// Boots something else.
    ///
    /// # Panics
    /// When the host does not come up.
    pub fn boot_from(hardware: &Hardware, boot: &Boot) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let hosts = Hosts::at(dir.path().join("xenolith"));
        let host = Host::start(&hosts, NAME, hardware, boot).expect("QEMU starts");
        let host = Self {
            host: Some(host),
            dir,
        };
        host.host()
            .wait_ready(deadline(), || false)
            .expect("dom0 answers");
        host
    }

    /// The host.
    ///
    /// # Panics
    /// After [`TestHost::power_off`].
    pub fn host(&self) -> &Host {
        self.host.as_ref().expect("the host is up")
    }

    /// `xl` with these arguments, not started yet. It runs in the directory of the test's files.
    pub fn xl_command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.command("xl", arguments)
    }

    /// `xl` by one of its names with these arguments, not started yet.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(dist("bin").join(name));
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .env("XENOLITH_HOST", NAME);
        command
    }

    /// Runs `xl` with the words of `line` as its arguments.
    #[track_caller]
    pub fn xl(&self, line: &str) -> Ended {
        program::run(&mut self.xl_command(line.split_whitespace()))
    }

    /// Starts `xl` with the words of `line` as its arguments.
    pub fn start_xl(&self, line: &str) -> Running {
        Running::start(&mut self.xl_command(line.split_whitespace()))
    }

    /// Writes a file of the test's own.
    ///
    /// # Panics
    /// When that fails.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, contents).expect("a file of the test");
        path
    }

    /// Writes the configuration of a `hello` guest called `name`, with `extra` lines, and creates
    /// the guest with these options of `xl create`.
    #[track_caller]
    pub fn create(&self, name: &str, extra: &str, options: &str) -> Ended {
        let config = self.hello(name, extra);
        self.xl(&format!("create {options} {}", config.display()))
    }

    /// Creates a guest on one of the apps, with lines that give it its device and with words for it; its
    /// console.
    #[track_caller]
    pub fn create_app(&self, app: &str, name: &str, lines: &str, words: &str) -> Running {
        let kernel = dist(&format!("guests/{app}"));
        let kernel = kernel.display();
        let text = format!(
            "name = \"{name}\"\nkernel = \"{kernel}\"\nmemory = 32\n{lines}\nextra = \"{words}\"\n"
        );
        let config = self.file(&format!("{name}.cfg"), text);
        self.xl(&format!("create -q {}", config.display())).ok();
        self.start_xl(&format!("console {name}"))
    }

    /// Writes the configuration of a `hello` guest called `name`, with `extra` lines.
    pub fn hello(&self, name: &str, extra: &str) -> PathBuf {
        let kernel = dist("guests/hello");
        let kernel = kernel.display();
        let text = format!("name = \"{name}\"\nkernel = \"{kernel}\"\nmemory = 32\n{extra}\n");
        self.file(&format!("{name}.cfg"), text)
    }

    /// The row of `xl list` for `name`, by columns; `None` if there is no such domain.
    #[track_caller]
    pub fn row(&self, name: &str) -> Option<Vec<String>> {
        let list = self.xl("list").ok();
        let columns = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        list.lines()
            .skip(1)
            .map(columns)
            .find(|row| row.first().is_some_and(|found| found == name))
    }

    /// The state column of `xl list` for `name`.
    #[track_caller]
    pub fn state(&self, name: &str) -> Option<String> {
        self.row(name).and_then(|row| row.into_iter().nth(4))
    }

    /// A value of `xl info`.
    ///
    /// # Panics
    /// When it has no such line.
    #[track_caller]
    pub fn info(&self, key: &str) -> String {
        let info = self.xl("info").ok();
        let value = info.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            (found.trim() == key).then(|| value.trim().to_owned())
        });
        value.unwrap_or_else(|| panic!("no {key} in:\n{info}"))
    }

    /// The files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Powers the host off by dom0.
    ///
    /// # Panics
    /// When it does not go down.
    pub fn power_off(mut self) {
        let host = self.host.take().expect("the host is up");
        host.power_off().expect("the host powers off");
    }

    /// What dom0 tells of the host.
    pub fn host_info(&self) -> anyhow::Result<HostInfo> {
        let mut client = self.host().connect(Duration::from_secs(10))?;
        let channel = client.open()?;
        match client.call(channel, &Request::HostInfo)? {
            Reply::HostInfo(info) => Ok(*info),
            other => anyhow::bail!("{other:?}"),
        }
    }

    /// All domains, as they are at one moment.
    pub fn domains(&self) -> anyhow::Result<Vec<DomainInfo>> {
        let mut client = self.host().connect(Duration::from_secs(2))?;
        let channel = client.open()?;
        match client.call(channel, &Request::ListDomains(None))? {
            Reply::Domains { domains, .. } => Ok(domains),
            other => anyhow::bail!("{other:?}"),
        }
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        let Some(host) = self.host.as_ref().filter(|_| std::thread::panicking()) else {
            return;
        };
        eprintln!("--- hypervisor\n{}", host.log().tail(100));
        for domain in self.domains().unwrap_or_default() {
            let limit = Duration::from_secs(2);
            if let Ok(text) = host.console_text(&domain.name, limit / 10, limit) {
                eprintln!("--- console of {}\n{text}", domain.name);
            }
        }
    }
}
