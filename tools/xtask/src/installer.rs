//! The system's package manager: installs what is missing, after asking.

use crate::tool::Tool;
use anyhow::{Context, Result, bail};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::Command;

/// Package managers known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// Debian and its children.
    Apt,
    /// Fedora and its children.
    Dnf,
    /// Arch and its children.
    Pacman,
    /// openSUSE.
    Zypper,
    /// Alpine.
    Apk,
}

impl Manager {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Apt, "apt-get"),
        (Self::Dnf, "dnf"),
        (Self::Pacman, "pacman"),
        (Self::Zypper, "zypper"),
        (Self::Apk, "apk"),
    ];

    /// The one on this machine.
    pub fn detect() -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, program)| which::which(program).is_ok())
            .map(|&(manager, _)| manager)
    }

    fn install_words(self) -> &'static [&'static str] {
        match self {
            Self::Apt => &["apt-get", "install", "-y", "--no-install-recommends"],
            Self::Dnf => &["dnf", "install", "-y"],
            Self::Pacman => &["pacman", "-S", "--needed", "--noconfirm"],
            Self::Zypper => &["zypper", "--non-interactive", "install"],
            Self::Apk => &["apk", "add"],
        }
    }
}

/// Whether packages may be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Yes, without a question.
    Given,
    /// Ask on the terminal.
    Ask,
    /// There is nobody to ask.
    Withheld,
}

impl Consent {
    /// `--yes` and CI=true give consent; otherwise a person at a terminal is asked.
    pub fn from_environment(yes: bool) -> Self {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
        if yes || ci {
            Self::Given
        } else if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            Self::Ask
        } else {
            Self::Withheld
        }
    }

    /// Whether `question` may be taken to be answered with yes.
    pub fn obtain(self, question: &str) -> Result<bool> {
        match self {
            Self::Given => Ok(true),
            Self::Withheld => Ok(false),
            Self::Ask => {
                eprint!("{question} [Y/n] ");
                std::io::stderr().flush()?;
                let mut answer = String::new();
                std::io::stdin().read_line(&mut answer)?;
                Ok(matches!(
                    answer.trim().to_lowercase().as_str(),
                    "" | "y" | "yes"
                ))
            }
        }
    }
}

/// Installs packages.
pub struct Installer {
    manager: Option<Manager>,
    consent: Consent,
    lists_are_fresh: bool,
}

impl Installer {
    /// An installer for this machine.
    pub fn new(consent: Consent) -> Self {
        Self {
            manager: Manager::detect(),
            consent,
            lists_are_fresh: false,
        }
    }

    /// Makes sure that all of `tools` are here. What is missing is installed, or else named with
    /// the command that installs it.
    pub fn need(&mut self, tools: &[Tool]) -> Result<()> {
        let missing = missing(tools);
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing
            .iter()
            .map(|tool| tool.name())
            .collect::<Vec<_>>()
            .join(", ");
        let Some(manager) = self.manager else {
            bail!("missing: {names}; no known package manager is here to install them");
        };
        for tool in &missing {
            if tool.packages(manager).is_empty() {
                bail!(
                    "missing: {}; this distribution has no package of it",
                    tool.name()
                );
            }
        }
        let batches = self.batches(manager, &missing);
        let commands: Vec<String> = batches.iter().map(|words| shown(words)).collect();
        let commands = commands.join(" && ");
        eprintln!("xtask: missing: {names}");
        if !self.consent.obtain(&format!("xtask: run `{commands}`?"))? {
            bail!("missing: {names}; install with `{commands}`");
        }
        for words in batches {
            run(&words)?;
        }
        let still = self::missing(tools);
        if !still.is_empty() {
            let names = still
                .iter()
                .map(|tool| tool.name())
                .collect::<Vec<_>>()
                .join(", ");
            bail!("still missing after the installation: {names}");
        }
        Ok(())
    }

    fn batches(&mut self, manager: Manager, missing: &[Tool]) -> Vec<Vec<String>> {
        let backports = (manager == Manager::Apt && missing.contains(&Tool::Qemu))
            .then(debian_bookworm)
            .flatten();
        let mut batches = Vec::new();
        if let Some(suite) = &backports
            && !apt_knows(suite)
        {
            // Debian 12's own QEMU is 7.2: see `tool::OLDEST_QEMU`.
            let line = format!("deb http://deb.debian.org/debian {suite} main");
            let list = format!("/etc/apt/sources.list.d/{suite}.list");
            batches.push(words(&["sh", "-c", &format!("echo '{line}' >{list}")]));
            self.lists_are_fresh = false;
        }
        if manager == Manager::Apt && !self.lists_are_fresh {
            batches.push(words(&["apt-get", "update"]));
            self.lists_are_fresh = true;
        }
        let mut packages: Vec<&str> = Vec::new();
        for tool in missing {
            if backports.is_some() && *tool == Tool::Qemu {
                continue;
            }
            for package in tool.packages(manager) {
                if !packages.contains(package) {
                    packages.push(package);
                }
            }
        }
        if let Some(suite) = &backports {
            let mut batch = words(manager.install_words());
            batch.extend(words(&["-t", suite]));
            batch.extend(words(Tool::Qemu.packages(manager)));
            batches.push(batch);
        }
        if !packages.is_empty() {
            let mut batch = words(manager.install_words());
            batch.extend(words(&packages));
            batches.push(batch);
        }
        if rustix::process::getuid().is_root() {
            return batches;
        }
        batches
            .into_iter()
            .map(|batch| std::iter::once("sudo".to_owned()).chain(batch).collect())
            .collect()
    }
}

/// Those of `tools` that are not here.
pub fn missing(tools: &[Tool]) -> Vec<Tool> {
    tools
        .iter()
        .copied()
        .filter(|tool| !tool.is_present())
        .collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// The command as a person would type it.
fn shown(words: &[String]) -> String {
    words
        .iter()
        .map(|word| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+=:".contains(c);
            if word.chars().all(plain) {
                word.clone()
            } else {
                format!("\"{word}\"")
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn run(words: &[String]) -> Result<()> {
    let shown = shown(words);
    eprintln!("xtask: {shown}");
    let (program, arguments) = words.split_first().context("empty command")?;
    let status = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("`{shown}`: {status}");
    }
    Ok(())
}

/// The backports suite to take QEMU from, on Debian 12 only.
fn debian_bookworm() -> Option<String> {
    let release = std::fs::read_to_string("/etc/os-release").ok()?;
    let has = |line: &str| release.lines().any(|found| found == line);
    (has("ID=debian") && has("VERSION_CODENAME=bookworm")).then(|| "bookworm-backports".to_owned())
}

/// Whether apt's configured sources name `suite`.
fn apt_knows(suite: &str) -> bool {
    let names = |path: &Path| {
        std::fs::read_to_string(path).is_ok_and(|text| {
            text.lines().any(|line| {
                !line.starts_with('#') && line.split_whitespace().any(|word| word == suite)
            })
        })
    };
    let dir = Path::new("/etc/apt/sources.list.d").read_dir();
    let in_dir = dir.is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let path = entry.path();
            path.extension()
                .is_some_and(|ext| ext == "list" || ext == "sources")
                && names(&path)
        })
    });
    in_dir || names(Path::new("/etc/apt/sources.list"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_commands_quote_words_that_a_shell_would_split() {
        let batch = words(&["sh", "-c", "echo 'a b' >c"]);
        assert_eq!(shown(&batch), "sh -c \"echo 'a b' >c\"");
    }

    #[test]
    fn every_tool_but_debians_rust_has_a_package_on_apt_dnf_zypper_and_apk() {
        let tools = [
            Tool::Lld,
            Tool::Qemu,
            Tool::Setpriv,
            Tool::Cc,
            Tool::XenHeaders,
            Tool::GrubMkrescue,
            Tool::GrubBios,
            Tool::GrubEfi,
            Tool::Xorriso,
            Tool::Mtools,
            Tool::Ovmf,
        ];
        for manager in [Manager::Apt, Manager::Dnf, Manager::Zypper, Manager::Apk] {
            for tool in tools {
                assert!(
                    !tool.packages(manager).is_empty(),
                    "{tool:?} with {manager:?}"
                );
            }
        }
    }

    #[test]
    fn a_package_wanted_by_two_tools_is_named_once() {
        let mut installer = Installer {
            manager: Some(Manager::Pacman),
            consent: Consent::Withheld,
            lists_are_fresh: true,
        };
        let tools = [Tool::GrubMkrescue, Tool::GrubBios, Tool::GrubEfi];
        let batches = installer.batches(Manager::Pacman, &tools);
        let count = batches
            .iter()
            .flatten()
            .filter(|word| *word == "grub")
            .count();
        assert_eq!(count, 1);
    }
}
