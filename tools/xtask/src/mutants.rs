//! `cargo xtask mutants`: makes the checks of memory validation wrong, one at a time, and looks whether a test notices.
//!
//! A build for each of several hundred mutants would take a day. So all of them are put into one copy of the sources,
//! which asks at every check whether it is the one that is wrong: one build, and as many runs. A mutant that the
//! search for broken isolation (`kernel/core/src/memory/search`) finds is dead, and so is one that another test
//! notices. Those that live are explained in `docs/page-table-mutants.md`; any other that lives is a failure.
//!
//! Nor is everything run with each mutant: only those tests, and those sequences of the search, in which it makes a
//! difference, by what was noted in a run without one. All others are as they are without it.

mod checks;
mod draft;
mod errnos;
mod fates;
mod rewrite;
mod trial;

use crate::progress::Step;
use crate::toolchain::host_cargo;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use draft::Rewritten;
use fates::{Fate, Fates};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The test that is to find what breaks isolation.
const SEARCH: &str = "memory::search::tests::no_sequence_of_hypercalls_breaks_isolation_or_a_count";
/// Seconds of processor time after which a mutant hangs in the tests.
const TEST_LIMIT: u64 = 60;

/// Options of the command.
#[derive(clap::Args)]
pub struct Options {
    /// Steps that the search tries with each mutant
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// Only mutants whose descriptions contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Go on where the last run was, and with what the search has not found in it if the sources have changed
    #[arg(long)]
    again: bool,
    /// Errors that are other ones, in the place of checks of memory validation
    #[arg(long, conflicts_with_all = ["steps", "again"])]
    errnos: bool,
    /// Mutants at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// Runs the command.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    match options.errnos {
        true => errnos::run(workspace, options),
        false => checks::run(workspace, options),
    }
}

/// Says what became of the mutants; those that live must be explained, and those that are explained live.
fn report(
    workspace: &Workspace,
    explained_in: &str,
    mutants: &[String],
    fates: &Fates,
) -> Result<()> {
    for (fate, name) in Fate::ALL {
        let these = mutants.iter().map(|what| fates.get(what));
        let these: Vec<_> = these.filter(|record| record.fate == fate).collect();
        let searched = these.iter().filter(|record| record.is_searched()).count();
        let felt = these.iter().filter(|record| record.felt > 0).count();
        println!(
            "{name}: {} ({searched} searched to the end, {felt} felt in it)",
            these.len()
        );
    }
    let Explained { lives, may_live } = explained(workspace, explained_in)?;
    let mut wrong = 0;
    let mut say = |what: &str, of: &str| {
        println!("{what}: {of}");
        wrong += 1;
    };
    for what in mutants {
        let record = fates.get(what);
        let is_explained = lives.contains(what) || may_live.contains(what);
        match record.fate {
            Fate::Alive if !is_explained => say("alive, but not explained", what),
            Fate::Alive if !record.is_searched() => say("not searched to the end", what),
            Fate::Search | Fate::Tests if lives.contains(what) => say("explained, but dead", what),
            _ => {}
        }
    }
    let explained = lives.iter().chain(&may_live);
    for what in explained.filter(|it| !mutants.contains(it)) {
        say("explained, but not there", what);
    }
    if wrong > 0 {
        bail!("{wrong} mutants are not as {explained_in} has it");
    }
    Ok(())
}

/// The mutants that a document explains, one in each line of a list.
struct Explained {
    /// Those that nothing can notice: `- ` is before each.
    lives: BTreeSet<String>,
    /// Those that luck may notice, where threads run against each other: `* ` is before each.
    may_live: BTreeSet<String>,
}

fn explained(workspace: &Workspace, document: &str) -> Result<Explained> {
    let path = workspace.root().join(document);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {document}"))?;
    let list = |mark: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(mark));
        lines.map(String::from).collect()
    };
    Ok(Explained {
        lives: list("- "),
        may_live: list("* "),
    })
}

/// Rewrites a file of the hypervisor, named by its path in `kernel/core/src`, if it is to have mutants, the first of
/// which gets this number.
trait Rewrite: Fn(&str, &str, usize) -> Option<Result<Rewritten>> {}
impl<F: Fn(&str, &str, usize) -> Option<Result<Rewritten>>> Rewrite for F {}

/// Writes a copy of the workspace with all mutants and what they ask at run time, and builds the tests of hv-core; says
/// what the mutants are, and where the program is.
fn make(
    workspace: &Workspace,
    dir: &Path,
    runtime: &[u8],
    rewrite: impl Rewrite,
) -> Result<(Vec<String>, PathBuf)> {
    let step = Step::start("write the mutants");
    let mutants = write(workspace, &dir.join("src"), runtime, rewrite)?;
    step.done();
    let step = Step::start("build the mutants");
    let mut cargo = host_cargo();
    cargo
        .args(["--config", "profile.test.debug=0"])
        .args(["--config", "profile.test.package.hv-core.opt-level=2"])
        .args(["--config", "profile.test.package.hv-machine.opt-level=2"])
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .env("RUSTFLAGS", "--cap-lints=allow");
    let program = build(dir, &mut cargo)?;
    step.done();
    Ok((mutants, program))
}

/// Writes a copy of the workspace with all mutants and with what they ask at run time; says what they are.
fn write(
    workspace: &Workspace,
    to: &Path,
    runtime: &[u8],
    rewrite: impl Rewrite,
) -> Result<Vec<String>> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(workspace.root())
        .output()
        .context("cannot run git")?;
    ensure!(listed.status.success(), "git ls-files fails");
    let listed = String::from_utf8(listed.stdout)?;
    let core = "kernel/core/src";
    let mut mutants = Vec::new();
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        let from = workspace.root().join(path);
        let Ok(mut bytes) = fs::read(&from) else {
            continue;
        };
        let name = path.strip_prefix("kernel/core/src/").unwrap_or("");
        if name == "lib.rs" {
            bytes.extend_from_slice(b"\n#[cfg(test)] mod mutant;\n");
        } else if name.ends_with(".rs") {
            let text = String::from_utf8(bytes)?;
            bytes = match rewrite(&text, name, mutants.len() + 1).transpose()? {
                Some(rewritten) => {
                    mutants.extend(rewritten.mutants);
                    rewritten.text.into_bytes()
                }
                None => text.into_bytes(),
            };
        }
        put(&to.join(path), &bytes)?;
    }
    put(&to.join(core).join("mutant.rs"), runtime)?;
    Ok(mutants)
}

/// Writes a file, unless it is the same already: cargo goes by the time.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|before| before == bytes) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Builds the tests of the copy by a `cargo` with options; gives the program.
fn build(dir: &Path, cargo: &mut Command) -> Result<PathBuf> {
    cargo
        .args(["test", "--package", "hv-core", "--lib", "--no-run"])
        .current_dir(dir.join("src"));
    let output = cargo.output().context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the mutants do not build:\n{text}");
    let program = text
        .lines()
        .filter(|line| line.contains("Executable"))
        .find_map(|line| line.split_once('(')?.1.strip_suffix(')'));
    Ok(dir
        .join("src")
        .join(program.context("cargo names no program")?))
}
