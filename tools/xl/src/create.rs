//! `xl create`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use control::client::ClientError;
use control::{Action, DomainConfig, DomainRef, Error, Reply, Request, ShutdownReason};
use serde_json::json;

use crate::cfg::document::Document;
use crate::cfg::domain::DomainSpec;
use crate::cli::{ConfigUpdateArgs, CreateArgs};
use crate::host::{Connection, is_no_such_domain, wrong};
use crate::image::ImageFile;
use crate::upload::plain;
use crate::{Outcome, console, lifecycle, list, print, print_json, tell};

/// How long a domain that restarts may be without an id.
const RESTART_PATIENCE: Duration = Duration::from_secs(30);

pub fn create(
    args: &CreateArgs,
    dry_run: bool,
    connect: impl FnOnce() -> anyhow::Result<Connection>,
) -> Outcome {
    let quiet = args.quiet;
    let Some(mut wanted) = Wanted::read(&args.words, args.defconfig.as_deref(), "create", quiet)?
    else {
        return Ok(ExitCode::from(2));
    };
    let config = wanted.config.clone();
    let dry_run = dry_run || args.dry_run;
    if dry_run || args.debug {
        let text = format!("{:#}\n", list::config_json(&config));
        if dry_run {
            print(&text)?;
            return Ok(ExitCode::SUCCESS);
        }
        tell(text.trim_end());
    }

    let mut host = connect()?;
    let request = Request::CreateDomain {
        config: Box::new(config.clone()),
        // With a console, nothing is to be missed that it prints first.
        paused: args.paused || args.console,
    };
    let mut attempts = 0;
    let domid = loop {
        wanted.provide(&mut host, quiet)?;
        attempts += 1;
        match host.domid(&request) {
            // Others' uploads pushed it out of the cache.
            Err(ClientError::Refused(Error::NoSuchImage(_))) if attempts < 3 => {}
            Err(ClientError::Refused(error)) => return Err(explain(error, &config)),
            other => break other?,
        }
    };
    if args.json {
        print_json(&json!({ "domid": domid, "name": config.name }))?;
    }
    if args.console {
        let attached = console::Console::attach(&mut host.client, DomainRef::Id(domid))?;
        if !args.paused {
            host.done(&Request::Unpause(DomainRef::Id(domid)))?;
        }
        attached.run(&mut host.client)?;
    }
    if args.foreground {
        stay(&mut host, domid, &config)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `xl config-update`: what a domain is built from when it reboots.
pub fn update(
    args: &ConfigUpdateArgs,
    dry_run: bool,
    connect: impl FnOnce() -> anyhow::Result<Connection>,
) -> Outcome {
    let quiet = args.quiet;
    let command = "config-update";
    let Some(mut wanted) = Wanted::read(&args.words, args.defconfig.as_deref(), command, quiet)?
    else {
        return Ok(ExitCode::from(2));
    };
    if dry_run || args.debug {
        print(&format!("{:#}\n", list::config_json(&wanted.config)))?;
        if dry_run {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let mut host = connect()?;
    let domid = host.find(&args.domain)?;
    wanted.provide(&mut host, quiet)?;
    if !quiet {
        tell(&format!("setting dom{domid} configuration"));
    }
    let request = Request::UpdateConfig {
        domain: DomainRef::Id(domid),
        config: Box::new(wanted.config.clone()),
    };
    match host.done(&request) {
        Err(ClientError::Refused(error)) => Err(explain(error, &wanted.config)),
        other => {
            other?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What a config file and settings say, with the files that it names.
struct Wanted {
    config: DomainConfig,
    kernel: ImageFile,
    ramdisk: Option<ImageFile>,
}

impl Wanted {
    /// Reads and checks them; none if there is a word too many, which is told.
    fn read(
        words: &[String],
        defconfig: Option<&Path>,
        command: &str,
        quiet: bool,
    ) -> anyhow::Result<Option<Wanted>> {
        let (file, settings) = match sort(words, defconfig) {
            Ok(words) => words,
            Err(word) => {
                tell(&format!(
                    "xl: {command} takes one config file, and {word:?} is a second"
                ));
                return Ok(None);
            }
        };
        let mut document = Document::new();
        if let Some(file) = &file {
            if !quiet {
                tell(&format!("Parsing config from {}", file.display()));
            }
            document.add(&file.to_string_lossy(), &read(file)?)?;
        }
        for setting in settings {
            document.add("command line", setting)?;
        }
        let spec = DomainSpec::new(&mut document);
        // Warnings first: one of them may explain the error.
        if !quiet {
            document.warnings().iter().for_each(|warning| tell(warning));
        }
        let spec = spec?;
        let kernel = ImageFile::kernel(&spec.kernel, file.as_deref())?;
        let ramdisk = match &spec.ramdisk {
            Some(path) => Some(ImageFile::ramdisk(path, file.as_deref())?),
            None => None,
        };
        let config = DomainConfig {
            name: spec.name,
            uuid: spec.uuid,
            memory_kib: spec.memory_kib,
            max_memory_kib: spec.max_memory_kib,
            vcpus: spec.vcpus,
            max_vcpus: spec.max_vcpus,
            max_event_channels: spec.max_event_channels,
            kernel: kernel.image.clone(),
            ramdisk: ramdisk.as_ref().map(|ramdisk| ramdisk.image.clone()),
            cmdline: spec.cmdline,
            scheduling: spec.scheduling,
            disks: spec.disks,
            vifs: spec.vifs,
            on: spec.on,
        };
        Ok(Some(Wanted {
            config,
            kernel,
            ramdisk,
        }))
    }

    /// Sends the host the files that it does not have.
    fn provide(&mut self, host: &mut Connection, quiet: bool) -> anyhow::Result<()> {
        self.kernel.provide(host, quiet)?;
        if let Some(ramdisk) = &mut self.ramdisk {
            ramdisk.provide(host, quiet)?;
        }
        Ok(())
    }
}

/// The config file and the settings, or the word that is one file too many.
fn sort<'a>(
    words: &'a [String],
    defconfig: Option<&Path>,
) -> Result<(Option<PathBuf>, Vec<&'a str>), &'a str> {
    let mut file = defconfig.map(Path::to_path_buf);
    let mut settings = Vec::new();
    for word in words {
        if word.contains('=') {
            settings.push(word.as_str());
        } else if file.is_none() {
            file = Some(word.into());
        } else {
            return Err(word);
        }
    }
    Ok((file, settings))
}

fn read(file: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(file)
        .map_err(plain)
        .with_context(|| format!("config file {}", file.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = error
            .as_bytes()
            .get(..error.utf8_error().valid_up_to())
            .unwrap_or_default();
        let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
        anyhow::anyhow!("{}:{line}: this is no UTF-8 text", file.display())
    })
}

/// Says which file the host found wrong.
fn explain(error: Error, config: &DomainConfig) -> anyhow::Error {
    let path = match (&error, &config.ramdisk) {
        (Error::BadKernel(_), _) => &config.kernel.path,
        (Error::BadRamdisk(_), Some(ramdisk)) => &ramdisk.path,
        _ => return error.into(),
    };
    let path = path.clone();
    anyhow::Error::from(error).context(path)
}

/// Waits until the domain is gone for good, or preserved.
fn stay(host: &mut Connection, mut domid: u16, config: &DomainConfig) -> anyhow::Result<()> {
    loop {
        let reason = match host.call(&Request::WaitShutdown(DomainRef::Id(domid))) {
            Ok(Reply::ShutDown(reason)) => reason,
            Ok(other) => return Err(wrong(&other).into()),
            Err(error) if is_no_such_domain(&error) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(reason) = reason else {
            tell(&format!("Domain {domid} has been destroyed."));
            return Ok(());
        };
        tell(&format!(
            "Domain {domid} has shut down, reason code {}",
            reason.0
        ));
        let action = match reason {
            ShutdownReason::POWEROFF => config.on.poweroff,
            ShutdownReason::REBOOT => config.on.reboot,
            ShutdownReason::CRASH => config.on.crash,
            ShutdownReason::WATCHDOG => config.on.watchdog,
            ShutdownReason::SOFT_RESET => config.on.soft_reset,
            _ => Action::Destroy,
        };
        tell(&format!(
            "Action for shutdown reason code {} is {action}",
            reason.0
        ));
        match action {
            Action::Preserve => return Ok(()),
            Action::Destroy | Action::CoredumpDestroy => {
                return Ok(lifecycle::wait_gone(host, domid)?);
            }
            Action::SoftReset => {}
            Action::Restart | Action::RenameRestart | Action::CoredumpRestart => {
                domid = successor(host, domid, &config.name)?;
            }
        }
    }
}

/// The id of the domain that took the name over.
fn successor(host: &mut Connection, old: u16, name: &str) -> anyhow::Result<u16> {
    let deadline = Instant::now() + RESTART_PATIENCE;
    while Instant::now() < deadline {
        match host.domid(&Request::Domid(DomainRef::Name(name.into()))) {
            Ok(domid) if domid != old => return Ok(domid),
            Err(error) if !is_no_such_domain(&error) => return Err(error.into()),
            _ => thread::sleep(Duration::from_millis(50)),
        }
    }
    bail!("domain {name} did not start again")
}
