//! `cargo xtask run`: a host in QEMU, with demonstration guests and a prompt, or for one command.

use crate::forward::{self, Forward, Forwarder};
use crate::host::Host;
use crate::image::Image;
use crate::installer::{Consent, Installer};
use crate::interrupt::{Interrupts, Key};
use crate::log::{Log, Next};
use crate::progress::Step;
use crate::qemu::{Accel, Boot, Disk, Hardware, Module};
use crate::toolchain::{Route, Toolchain, host_cargo};
use crate::workspace::Workspace;
use crate::{build, setup, site};
use anyhow::{Context, Result};
use control::hosts::{Hosts, HostsError};
use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a host may take to boot, under software emulation on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// Guests that a host without a command starts with.
const DEMONSTRATIONS: [&str; 2] = ["hello", "httpd"];

/// The files that the demonstration's web server serves.
const SITE: &str = "pv-guest/apps/httpd/www";

/// How long a demonstration guest must have been silent for its banner to be complete.
const SILENCE: Duration = Duration::from_millis(500);

/// How long to watch a demonstration guest that is never silent.
const BANNER_LIMIT: Duration = Duration::from_secs(3);

/// How many lines of a dead host's log are worth showing.
const TAIL: usize = 20;

/// The hypervisor's command line, the same words as Xen's.
const COMMAND_LINE: &str = "com1=115200,8n1 console=com1 loglvl=info dom0_mem=256M";

/// Options of the command.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// The host's name, for `cargo xl --host NAME` [default: xenolith, or the next that is free]
    #[arg(long)]
    pub name: Option<String>,
    /// Number of CPUs
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// Memory: MiB, or with M or G behind the number
    #[arg(long, default_value = "1024", value_parser = parse_memory)]
    pub memory: u32,
    /// A virtio disk; dom0 names it by its serial number
    #[arg(long = "disk", value_name = "SERIAL=FILE")]
    pub disks: Vec<Disk>,
    /// A port of this machine that leads to a port of a guest
    #[arg(long = "forward", value_name = "HOSTPORT:GUEST:PORT")]
    pub forwards: Vec<Forward>,
    /// What runs the instructions
    #[arg(long, value_enum, default_value_t)]
    pub accel: Accel,
    /// Words for dom0's command line, such as ip=10.0.2.100/24 or ip=none
    #[arg(long, value_name = "WORDS")]
    pub dom0_options: Option<String>,
    /// No prompt: show the host's log until it powers off or is interrupted
    #[arg(long, conflicts_with = "command")]
    pub headless: bool,
    /// Another hypervisor's multiboot image in place of ours
    #[arg(long, value_name = "FILE", hide = true)]
    pub hypervisor: Option<PathBuf>,
    /// Another dom0 image in place of ours
    #[arg(long, value_name = "FILE", hide = true)]
    pub dom0: Option<PathBuf>,
    /// Boot what is in target/dist already
    #[arg(long)]
    pub no_build: bool,
    /// Run this instead of the prompt, with `xl` on its PATH that talks to this host; no
    /// demonstration guests; then power off and exit with its status
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

fn parse_memory(text: &str) -> Result<u32, String> {
    let (digits, scale) = match text.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let number: u32 = digits
        .parse()
        .map_err(|_| "expected a number of MiB".to_owned())?;
    number
        .checked_mul(scale)
        .filter(|memory| *memory >= 64)
        .ok_or_else(|| "expected 64 MiB or more".to_owned())
}

/// Runs the command; the result is the status to exit with.
pub fn run(
    workspace: &Workspace,
    route: Option<Route>,
    consent: Consent,
    options: &Options,
) -> Result<u8> {
    forward::check(&options.forwards)?;
    let mut boot = prepare(workspace, route, consent, options)?;
    if let Some(words) = &options.dom0_options {
        boot.add_dom0_words(words);
    }
    let mut disks = options.disks.clone();
    if options.command.is_empty() {
        disks.push(site(workspace)?);
    }
    let hardware = Hardware {
        cpus: options.cpus,
        memory: options.memory,
        disks,
        accel: options.accel,
    };
    let interrupts = Interrupts::note()?;
    let host = start(options.name.as_deref(), &hardware, &boot)?;
    let booted = show_boot(&host, options.command.is_empty(), &interrupts);
    if let Some(code) = interrupts.exit_code() {
        return Ok(code);
    }
    if let Err(error) = booted {
        if !options.command.is_empty() {
            eprintln!("{}", host.log().tail(TAIL));
        }
        return Err(error);
    }

    let _forwarder = Forwarder::start(&host, &options.forwards)?;
    let xl = Xl {
        bin: bin(workspace),
        host: host.name().to_owned(),
    };
    let code = if let Some((program, arguments)) = options.command.split_first() {
        interrupts.run(xl.command(program)?.args(arguments), Key::Ends)?
    } else {
        create_demonstration_guests(workspace, &host, &xl, &interrupts)?;
        if options.headless {
            follow(host.log(), || interrupts.is_set());
            interrupts.exit_code().unwrap_or(0)
        } else {
            println!(
                "`help` lists the commands, Ctrl-D powers the host off; \
                 elsewhere, `cargo xl --host {}` reaches it.",
                host.name()
            );
            let terminal = Terminal::remember();
            // A prompt whose host is gone would take the terminal's input from the user's shell.
            let mut prompt = xl.command("setpriv")?;
            prompt.args(["--pdeathsig", "HUP", "--", "xl", "shell"]);
            let code = interrupts.run(&mut prompt, Key::IsTheirs)?;
            terminal.restore();
            code
        }
    };
    if host.log().has_ended() && !options.headless {
        eprintln!(
            "xtask: the host went down; the end of its log:\n{}",
            host.log().tail(TAIL)
        );
    }
    if let Err(error) = host.power_off() {
        eprintln!("xtask: {error:#}");
    }
    Ok(code)
}

/// The disk of the demonstration's web server.
fn site(workspace: &Workspace) -> Result<Disk> {
    let file = workspace.dist().join("www.img");
    site::make(&workspace.root().join(SITE), &file)?;
    Ok(Disk {
        serial: "www".to_owned(),
        file,
        read_only: true,
    })
}

/// Builds all that a host needs, and says what to boot.
fn prepare(
    workspace: &Workspace,
    route: Option<Route>,
    consent: Consent,
    options: &Options,
) -> Result<Boot> {
    let mut installer = Installer::new(consent);
    installer.need(setup::TO_RUN)?;
    if !options.no_build {
        let toolchain = Toolchain::find(route, &mut installer)?;
        for image in Image::all(workspace)? {
            build::image_into_dist(workspace, &toolchain, &image)?;
        }
        build_xl(workspace)?;
    }
    Ok(boot(
        options
            .hypervisor
            .clone()
            .unwrap_or_else(|| workspace.dist().join("xenolith")),
        options
            .dom0
            .clone()
            .unwrap_or_else(|| workspace.dist().join("dom0")),
    ))
}

/// A host's boot from a hypervisor's and a dom0's image.
pub fn boot(hypervisor: PathBuf, dom0: PathBuf) -> Boot {
    Boot::Kernel {
        image: hypervisor,
        command_line: COMMAND_LINE.to_owned(),
        modules: vec![Module {
            file: dom0,
            arguments: String::new(),
        }],
    }
}

/// The directory that holds `xl` and its other names, and nothing else.
pub fn bin(workspace: &Workspace) -> PathBuf {
    workspace.dist().join("bin")
}

/// The commands of the store, which may be called without `xl`.
const XENSTORE: [&str; 8] = [
    "chmod", "exists", "list", "ls", "read", "rm", "watch", "write",
];

/// Builds `xl` and puts it into [`bin`], with the names of the store's commands.
pub fn build_xl(workspace: &Workspace) -> Result<()> {
    let step = Step::start("build xl");
    step.cargo(
        host_cargo()
            .args(["build", "--package", "xl"])
            .current_dir(workspace.root()),
    )?;
    let bin = bin(workspace);
    fs::create_dir_all(&bin)?;
    // A new file, then a rename: another host may be running the old one.
    let scratch = bin.join("xl.new");
    fs::copy(workspace.target().join("debug/xl"), &scratch).context("cannot copy xl")?;
    fs::rename(&scratch, bin.join("xl"))?;
    for command in XENSTORE {
        // The same program, which goes by the name that it is called by.
        let scratch = bin.join("link.new");
        // Left by who was interrupted here.
        let _ = fs::remove_file(&scratch);
        symlink("xl", &scratch).context("cannot link xl")?;
        fs::rename(&scratch, bin.join(format!("xenstore-{command}")))?;
    }
    step.done();
    Ok(())
}

/// Starts a host under the name asked for, or under the first default one that is free.
fn start(name: Option<&str>, hardware: &Hardware, boot: &Boot) -> Result<Host> {
    let hosts = Hosts::of_user();
    if let Some(name) = name {
        return Host::start(&hosts, name, hardware, boot);
    }
    let mut number = 1;
    loop {
        let name = if number == 1 {
            "xenolith".to_owned()
        } else {
            format!("xenolith-{number}")
        };
        match Host::start(&hosts, &name, hardware, boot) {
            Err(error) if matches!(error.downcast_ref(), Some(HostsError::InUse(_))) => number += 1,
            result => return result,
        }
    }
}

/// Waits for dom0, meanwhile showing the log: all of it, or the line the boot is at.
fn show_boot(host: &Host, whole_log: bool, interrupts: &Interrupts) -> Result<()> {
    let step = Step::start(format!("boot {}", host.name()));
    let over = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            each_line(
                host.log(),
                || over.load(Ordering::Relaxed),
                |line| {
                    if whole_log {
                        step.line(&line);
                    } else {
                        step.at(line);
                    }
                },
            );
        });
        let deadline = Instant::now() + BOOT_LIMIT;
        let result = host.wait_ready(deadline, || interrupts.is_set());
        over.store(true, Ordering::Relaxed);
        result
    });
    match result {
        Ok(()) => step.done(),
        Err(_) => step.clear(),
    }
    result
}

/// Calls `show` with each line of the log until it ends or `over` says so.
fn each_line(log: &Log, over: impl Fn() -> bool, show: impl Fn(String)) {
    let mut cursor = 0;
    loop {
        match log.next_line(&mut cursor, Instant::now() + Duration::from_millis(50)) {
            Next::Line(line) => show(line),
            Next::End => break,
            Next::Late if over() => break,
            Next::Late => {}
        }
    }
}

/// Shows what comes to the log from here on.
fn follow(log: &Log, over: impl Fn() -> bool) {
    let seen = log.text().lines().count();
    let line_number = std::cell::Cell::new(0);
    each_line(log, over, |line| {
        line_number.set(line_number.get() + 1);
        if line_number.get() > seen {
            println!("{line}");
        }
    });
}

/// How to run `xl` for a host.
struct Xl {
    bin: PathBuf,
    host: String,
}

impl Xl {
    /// A command that finds `xl` first on its PATH, and by it this host.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(self.bin.clone()).chain(std::env::split_paths(&path));
        let mut command = Command::new(program);
        command
            .env(
                "PATH",
                std::env::join_paths(path).context("PATH cannot be extended")?,
            )
            .env("XENOLITH_HOST", &self.host);
        Ok(command)
    }
}

/// Creates the demonstration guests, shows what each says first, and lists them.
fn create_demonstration_guests(
    workspace: &Workspace,
    host: &Host,
    xl: &Xl,
    interrupts: &Interrupts,
) -> Result<()> {
    for name in DEMONSTRATIONS {
        if interrupts.is_set() {
            return Ok(());
        }
        let config = workspace.guests().join(name).with_extension("cfg");
        let create = interrupts.run(xl.command("xl")?.arg("create").arg(&config), Key::Ends)?;
        let name = config
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        if create == 0
            && let Some(name) = name
        {
            match host.console_text(&name, SILENCE, BANNER_LIMIT) {
                Ok(text) => text
                    .trim()
                    .lines()
                    .for_each(|line| println!("{name}: {line}")),
                Err(error) => eprintln!("xtask: no console of {name}: {error:#}"),
            }
        }
    }
    interrupts.run(xl.command("xl")?.arg("list"), Key::Ends)?;
    Ok(())
}

/// The terminal's settings, for putting them back after a prompt that was killed.
struct Terminal(Option<rustix::termios::Termios>);

impl Terminal {
    fn remember() -> Self {
        let stdin = std::io::stdin();
        Self(
            stdin
                .is_terminal()
                .then(|| rustix::termios::tcgetattr(stdin).ok())
                .flatten(),
        )
    }

    fn restore(self) {
        if let Some(settings) = self.0 {
            // Without a terminal there is nothing to restore.
            let now = rustix::termios::OptionalActions::Now;
            let _ = rustix::termios::tcsetattr(std::io::stdin(), now, &settings);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_mib_unless_said_otherwise() {
        assert_eq!(parse_memory("512"), Ok(512));
        assert_eq!(parse_memory("512M"), Ok(512));
        assert_eq!(parse_memory("2G"), Ok(2048));
        for bad in ["", "G", "1.5G", "-1", "63", "99999999G"] {
            assert!(parse_memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_command_finds_this_hosts_xl_first() {
        let xl = Xl {
            bin: "/dist/bin".into(),
            host: "h".into(),
        };
        let command = xl.command("sh").unwrap();
        let env = |name: &str| {
            let found = command.get_envs().find(|(key, _)| *key == name);
            found
                .and_then(|(_, value)| value)
                .unwrap()
                .to_string_lossy()
                .into_owned()
        };
        assert!(env("PATH").starts_with("/dist/bin:"));
        assert_eq!(env("XENOLITH_HOST"), "h");
    }
}
