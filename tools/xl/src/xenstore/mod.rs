//! `xl xenstore`: the commands that Xen calls `xenstore-read`, `xenstore-ls` and so on. Called by such
//! a name, this program is that command.

mod connection;
mod tree;
mod value;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use hypercall_abi::errno::Errno;

use crate::host::Connection;
use crate::{Outcome, print_bytes};
use connection::Store;

/// The commands' names, by which this program may be called with `xenstore-` before them.
pub const COMMANDS: [&str; 8] = [
    "chmod", "exists", "list", "ls", "read", "rm", "watch", "write",
];

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set permissions: the owner's first, then others': b both read and write, r read, w write, n
    /// none, each with a domain id
    Chmod(ChmodArgs),
    /// Test for nodes: the exit status is 0 if all are there
    Exists(PathArgs),
    /// List the children of nodes
    List(PathArgs),
    /// List the tree below a node, with values
    Ls(LsArgs),
    /// Read values
    Read(ReadArgs),
    /// Remove nodes, with all below them
    Rm(RmArgs),
    /// Wait for changes, and print their paths
    Watch(WatchArgs),
    /// Write values
    Write(WriteArgs),
}

/// Options of `exists` and `list`.
#[derive(Debug, Args)]
pub struct PathArgs {
    /// Print the path before each name
    #[arg(short, long)]
    pub prefix: bool,
    /// Use a socket; that is what is done here in any case
    #[arg(short, hide = true)]
    pub socket: bool,
    /// The nodes' paths; relative ones start from dom0's
    #[arg(value_name = "key", required = true)]
    pub paths: Vec<String>,
}

/// Options of `ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Whole paths in place of an indented tree, and whole values
    #[arg(short, long)]
    pub flat: bool,
    /// Permissions too
    #[arg(short, long)]
    pub prefix: bool,
    /// Use a socket; that is what is done here in any case
    #[arg(short, hide = true)]
    pub socket: bool,
    /// Where to begin
    #[arg(value_name = "path", default_value = "/")]
    pub paths: Vec<String>,
}

/// Options of `read`.
#[derive(Debug, Args)]
pub struct ReadArgs {
    /// Print the path before each value
    #[arg(short, long)]
    pub prefix: bool,
    /// Use a socket; that is what is done here in any case
    #[arg(short, hide = true)]
    pub socket: bool,
    /// The values as they are, without escapes or line ends
    #[arg(short = 'R', long)]
    pub raw: bool,
    /// The nodes' paths
    #[arg(value_name = "key", required = true)]
    pub paths: Vec<String>,
}

/// Options of `write`.
#[derive(Debug, Args)]
pub struct WriteArgs {
    /// Use a socket; that is what is done here in any case
    #[arg(short, hide = true)]
    pub socket: bool,
    /// The values as they are given, without escapes
    #[arg(short = 'R', long)]
    pub raw: bool,
    /// The nodes' paths, each with its value
    #[arg(value_names = ["key", "value"], num_args = 2.., required = true, allow_hyphen_values = true)]
    pub pairs: Vec<String>,
}

/// Options of `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Also remove the directories that are empty then
    #[arg(short, long)]
    pub tidy: bool,
    /// Use a socket; that is what is done here in any case
    #[arg(short, hide = true)]
    pub socket: bool,
    /// The nodes' paths
    #[arg(value_name = "key", required = true)]
    pub paths: Vec<String>,
}

/// Options of `chmod`.
#[derive(Debug, Args)]
pub struct ChmodArgs {
    /// Also for all nodes above
    #[arg(short, long)]
    pub upto: bool,
    /// Also for all nodes below
    #[arg(short, long)]
    pub recurse: bool,
    /// Use a socket; that is what is done here in any case
    #[arg(short, hide = true)]
    pub socket: bool,
    /// The node's path
    #[arg(value_name = "key")]
    pub path: String,
    /// Permissions: n0, r1 and so on
    #[arg(value_name = "mode", required = true)]
    pub modes: Vec<String>,
}

/// Options of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// End after so many events
    #[arg(short, long, value_name = "NR")]
    pub number: Option<u64>,
    /// The paths to watch
    #[arg(value_name = "key", required = true)]
    pub paths: Vec<String>,
}

/// Runs a command.
pub fn run(host: &mut Connection, command: &Command) -> Outcome {
    let mut store = Store::attach(host)?;
    match command {
        Command::Chmod(args) => chmod(&mut store, args),
        Command::Exists(args) => exists(&mut store, &args.paths),
        Command::List(args) => list(&mut store, args),
        Command::Ls(args) => ls(&mut store, args),
        Command::Read(args) => read(&mut store, args),
        Command::Rm(args) => rm(&mut store, args),
        Command::Watch(args) => watch(&mut store, args),
        Command::Write(args) => write(&mut store, args),
    }
}

fn read(store: &mut Store<'_>, args: &ReadArgs) -> Outcome {
    let body = |store: &mut Store<'_>| {
        let mut out = Vec::new();
        for path in &args.paths {
            let value = store
                .read(path)?
                .map_err(|error| refused("read", path, error))?;
            if args.prefix {
                out.extend_from_slice(format!("{path}: ").as_bytes());
            }
            if args.raw {
                out.extend_from_slice(&value);
            } else {
                out.extend_from_slice(value::show(&value).as_bytes());
                out.push(b'\n');
            }
        }
        Ok(out)
    };
    let out = match &args.paths[..] {
        [_] => body(store)?,
        // Values that go together.
        _ => store.in_transaction(body)?,
    };
    print_bytes(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn write(store: &mut Store<'_>, args: &WriteArgs) -> Outcome {
    if args.pairs.len() % 2 == 1 {
        bail!("write takes paths and values in turn, and the last path has no value");
    }
    let body = |store: &mut Store<'_>| {
        for pair in args.pairs.chunks_exact(2) {
            let [path, value] = pair else { continue };
            let value = match args.raw {
                true => value.clone().into_bytes(),
                false => value::parse(value),
            };
            store
                .write(path, &value)?
                .map_err(|error| refused("write", path, error))?;
        }
        Ok(())
    };
    match args.pairs.len() {
        2 => body(store)?,
        _ => store.in_transaction(body)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn exists(store: &mut Store<'_>, paths: &[String]) -> Outcome {
    let all = store.in_transaction(|store| {
        for path in paths {
            match store.read(path)? {
                Ok(_) => {}
                Err(Errno::ENOENT) => return Ok(false),
                Err(error) => return Err(refused("read", path, error)),
            }
        }
        Ok(true)
    })?;
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn list(store: &mut Store<'_>, args: &PathArgs) -> Outcome {
    let out = store.in_transaction(|store| {
        let mut out = String::new();
        for path in &args.paths {
            let names = store
                .directory(path)?
                .map_err(|error| refused("list", path, error))?;
            for name in names {
                if args.prefix {
                    out += path;
                    out.push('/');
                }
                out += &name;
                out.push('\n');
            }
        }
        Ok(out)
    })?;
    print_bytes(out.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn ls(store: &mut Store<'_>, args: &LsArgs) -> Outcome {
    let style = tree::Style::new(args.flat, args.prefix);
    let mut out = String::new();
    for path in &args.paths {
        tree::show(store, path, &style, &mut out)?;
    }
    print_bytes(out.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn rm(store: &mut Store<'_>, args: &RmArgs) -> Outcome {
    store.in_transaction(|store| {
        for path in &args.paths {
            let mut path = path.as_str();
            loop {
                store
                    .remove(path)?
                    .map_err(|error| refused("remove", path, error))?;
                let parent = path.rsplit_once('/').map(|(parent, _)| parent);
                match parent.filter(|parent| args.tidy && !parent.is_empty()) {
                    Some(parent) if is_bare(store, parent)? => path = parent,
                    _ => break,
                }
            }
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a node has neither a value nor children.
fn is_bare(store: &mut Store<'_>, path: &str) -> anyhow::Result<bool> {
    let no_value = store.read(path)?.is_ok_and(|value| value.is_empty());
    Ok(no_value && store.directory(path)?.is_ok_and(|names| names.is_empty()))
}

fn chmod(store: &mut Store<'_>, args: &ChmodArgs) -> Outcome {
    for mode in &args.modes {
        let is_mode = mode.starts_with(['n', 'r', 'w', 'b'])
            && mode.get(1..).is_some_and(|id| id.parse::<u16>().is_ok());
        if !is_mode {
            bail!("{mode:?} is no permission: expected one of nrwb and a domain id");
        }
    }
    let modes: Vec<&str> = args.modes.iter().map(String::as_str).collect();
    store.in_transaction(|store| {
        let mut paths = vec![args.path.clone()];
        if args.upto {
            let above = |path: &String| {
                let (parent, _) = path.rsplit_once('/')?;
                (!parent.is_empty()).then(|| parent.to_owned())
            };
            let all = std::iter::successors(above(&args.path), above);
            paths.extend(all);
        }
        let mut below = match args.recurse {
            true => vec![args.path.clone()],
            false => Vec::new(),
        };
        while let Some(path) = below.pop() {
            let names = store.directory(&path)?;
            let names = names.map_err(|error| refused("list", &path, error))?;
            below.extend(names.iter().map(|name| tree::join(&path, name)));
            if path != args.path {
                paths.push(path);
            }
        }
        for path in &paths {
            store
                .set_permissions(path, &modes)?
                .map_err(|error| refused("set permissions of", path, error))?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn watch(store: &mut Store<'_>, args: &WatchArgs) -> Outcome {
    for path in &args.paths {
        store
            .watch(path)?
            .map_err(|error| refused("watch", path, error))?;
    }
    let mut left = args.number;
    let mut out = io::stdout().lock();
    while left != Some(0) {
        writeln!(out, "{}", store.next_event()?)?;
        out.flush()?;
        left = left.map(|left| left - 1);
    }
    Ok(ExitCode::SUCCESS)
}

fn refused(verb: &str, path: &str, error: Errno) -> anyhow::Error {
    anyhow::anyhow!("could not {verb} {path}: {error}")
}
