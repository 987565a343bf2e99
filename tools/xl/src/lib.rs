//! The toolstack's command line: what `xl` does, and the prompt of `cargo xtask run`.
//!
//! [`cli`] has the commands and options, [`mod@cfg`] reads configuration files; each command is a
//! function in a module of its kind. A command asks the host over one [`host::Connection`], and
//! writes to standard output only when it has all that it is to write.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

mod block;
pub mod cfg;
pub mod cli;
mod console;
mod cpus;
mod create;
pub mod host;
mod image;
mod info;
mod lifecycle;
mod list;
mod network;
mod progress;
mod requests;
mod sched_credit;
pub mod shell;
mod top;
mod trace;
mod unpack;
mod upload;
mod vcpu;
mod volume;
pub mod xenstore;

use cli::{Cli, Command};
use host::Connection;

/// A command's outcome: its exit status, or an error to be told in one line.
pub type Outcome = anyhow::Result<ExitCode>;

/// Runs one command line, the first word of which is the program's name, and tells errors on
/// standard error.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(by_name(words.into_iter().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            let failed = error.print().is_err() || error.use_stderr();
            return if failed {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    run(&cli).unwrap_or_else(|error| report(&error))
}

/// The command line of `xl` that a program of this name and with these arguments stands for:
/// `xenstore-ls` is `xl xenstore ls`.
fn by_name(mut words: Vec<OsString>) -> Vec<OsString> {
    let name = words.first().map(Path::new).and_then(Path::file_name);
    let command = name
        .and_then(|name| name.to_str()?.strip_prefix("xenstore-"))
        .and_then(|name| xenstore::COMMANDS.into_iter().find(|it| *it == name));
    if let Some(command) = command {
        words.splice(..1, ["xl", "xenstore", command].map(OsString::from));
    }
    words
}

/// Tells an error in one line. A reader of our output that went away is told nothing.
fn report(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if !broken_pipe {
        let line = format!("{error:#}").replace(['\n', '\r'], " ");
        // Where even this cannot be written, the exit status must do.
        let _ = writeln!(io::stderr(), "xl: {line}");
    }
    ExitCode::FAILURE
}

fn run(cli: &Cli) -> Outcome {
    let Some(command) = &cli.command else {
        print(&Cli::command().render_help().to_string())?;
        return Ok(ExitCode::FAILURE);
    };
    let can_dry_run = matches!(command, Command::Create(_) | Command::ConfigUpdate(_));
    if cli.dry_run && !can_dry_run {
        anyhow::bail!("this command does not implement -N (dryrun)");
    }
    let connect = || {
        let host = Connection::open(cli.host.as_deref())?;
        if cli.verbose > 0 {
            tell(&format!("Host {}", host.name()));
        }
        Ok(host)
    };
    match command {
        Command::Create(args) => create::create(args, cli.dry_run, connect),
        Command::List(args) => list::list(&mut connect()?, args),
        Command::VcpuList { domains } => vcpu::list(&mut connect()?, domains),
        Command::VcpuPin(args) => vcpu::pin(&mut connect()?, args),
        Command::SchedCredit(args) => sched_credit::sched_credit(&mut connect()?, args),
        Command::Uptime(args) => list::uptime(&mut connect()?, args),
        Command::Console(args) => console::console(&mut connect()?, args),
        Command::Pause(args) => lifecycle::pause(&mut connect()?, &args.domain),
        Command::Unpause(args) => lifecycle::unpause(&mut connect()?, &args.domain),
        Command::Shutdown(args) => lifecycle::shutdown(&mut connect()?, args),
        Command::Reboot(args) => lifecycle::reboot(&mut connect()?, args),
        Command::Destroy(args) => lifecycle::destroy(&mut connect()?, args),
        Command::Domid { name } => lifecycle::domid(&mut connect()?, name),
        Command::Domname { domid } => lifecycle::domname(&mut connect()?, domid),
        Command::Rename { domain, name } => lifecycle::rename(&mut connect()?, domain, name),
        Command::Sysrq { domain, key } => requests::sysrq(&mut connect()?, domain, *key),
        Command::Trigger(args) => requests::trigger(&mut connect()?, args),
        Command::MemSet(args) => requests::set_memory(&mut connect()?, args),
        Command::MemMax(args) => requests::set_max_memory(&mut connect()?, args),
        Command::VcpuSet(args) => requests::set_vcpus(&mut connect()?, args),
        Command::BlockAttach(args) => block::attach(&mut connect()?, args),
        Command::BlockList { domains } => block::list(&mut connect()?, domains),
        Command::BlockDetach(args) => block::detach(&mut connect()?, args),
        Command::NetworkAttach(args) => network::attach(&mut connect()?, args),
        Command::NetworkList { domains } => network::list(&mut connect()?, domains),
        Command::NetworkDetach(args) => network::detach(&mut connect()?, args),
        Command::Volume { command } => volume::volume(&mut connect()?, command),
        Command::VmList => list::vm_list(&mut connect()?),
        Command::ConfigUpdate(args) => create::update(args, cli.dry_run, connect),
        Command::Top(args) => top::top(&mut connect()?, args),
        Command::Trace(args) => trace::trace(&mut connect()?, args),
        Command::Xenstore { command } => xenstore::run(&mut connect()?, command),
        Command::Info(args) => info::info(&mut connect()?, args),
        Command::Dmesg { clear } => info::dmesg(&mut connect()?, *clear),
        Command::Version { json } => info::version(connect(), *json),
        Command::Shell => shell::shell(cli.host.as_deref()),
        Command::Help { command } => help(command.as_deref()),
    }
}

fn help(command: Option<&str>) -> Outcome {
    let mut xl = Cli::command();
    xl.build();
    let Some(name) = command.filter(|&name| name != "help") else {
        print(&xl.render_help().to_string())?;
        return Ok(ExitCode::SUCCESS);
    };
    let matches: Vec<_> = xl
        .get_subcommands()
        .filter(|it| it.get_name().starts_with(name))
        .collect();
    let exact = matches.iter().find(|it| it.get_name() == name);
    match (exact, matches.as_slice()) {
        (Some(found), _) | (None, [found]) => {
            let text = (*found).clone().render_long_help().to_string();
            print(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        (None, []) => anyhow::bail!("there is no command {name:?}"),
        (None, _) => anyhow::bail!("{name:?} is the beginning of more than one command"),
    }
}

/// Writes text to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Writes a value to standard output, indented for a reader if that is a terminal.
fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let text = if io::stdout().is_terminal() {
        format!("{value:#}")
    } else {
        value.to_string()
    };
    print(&(text + "\n"))
}

/// Tells something on standard error that is no error.
fn tell(line: &str) {
    // Where it cannot be written there is nobody to read it.
    let _ = writeln!(io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_s_commands_may_be_called_by_their_own_names() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let line = by_name(words("/usr/bin/xenstore-ls -f /vm"));
        assert_eq!(line, words("xl xenstore ls -f /vm"));
        assert_eq!(by_name(words("xl list")), words("xl list"));
        assert_eq!(by_name(words("xenstore-what")), words("xenstore-what"));
    }
}
