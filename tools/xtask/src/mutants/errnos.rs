//! `cargo xtask mutants --errnos`: makes each error that a hypercall may answer another one, and looks whether a test
//! notices.
//!
//! An error has a mutant where it arises, and one more at each place where it passes on its way to the guest, so that
//! what several hypercalls have in common is asked of each. The tests run once without a mutant, to see which of them
//! reaches which mutant; each mutant then runs only those. What no test reaches or notices is explained in
//! `docs/errno-mutants.md`.

mod rewrite;

use super::{Options, SEARCH, TEST_LIMIT, build, explained, write};
use crate::progress::Step;
use crate::source;
use crate::toolchain::host_cargo;
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Mutants that live, with the reason.
const EXPLAINED: &str = "docs/errno-mutants.md";
/// What builds the control domain, before there is anybody to be told of an error.
const BOOT: &str = "dom0";
/// Tests that run together. The first that fails ends a mutant.
const TESTS: usize = 16;

/// The tests that reach each mutant; first those that reach the fewest, as they are most likely about it. The name is
/// empty for a thread that a test started.
type Reached = BTreeMap<usize, Vec<String>>;

/// Runs the command.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let dir = workspace.target().join("mutants/errnos");
    let core = workspace.root().join("kernel/core/src");
    let files = source::files(&core, &[BOOT])?;
    let runtime = include_bytes!("errnos/runtime.rs");
    let step = Step::start("write the mutants");
    let mutants = write(workspace, &dir.join("src"), runtime, |text, name, first| {
        let wanted = files.contains(&core.join(name));
        wanted.then(|| rewrite::rewrite(text, name, first))
    })?;
    step.done();
    let step = Step::start("build the mutants");
    let mut cargo = host_cargo();
    cargo
        .args(["--config", "profile.test.package.hv-core.debug=0"])
        .env("CARGO_TARGET_DIR", workspace.target());
    let program = build(&dir, &mut cargo)?;
    step.done();
    let tests = Tests {
        program,
        dir: dir.join("src/kernel/core"),
    };
    let step = Step::start("run the tests without a mutant");
    let reached = tests.reached(&dir.join("reached"))?;
    step.done();

    // In a closure, only running it tells that there can be an error.
    let (none, reached): (Reached, Reached) = reached
        .into_iter()
        .partition(|(_, names)| names.iter().any(|name| name == "!"));
    let mutants: BTreeMap<usize, String> = (1..)
        .zip(mutants)
        .filter(|(id, _)| !none.contains_key(id))
        .collect();
    let chosen: Vec<(&usize, &String)> = mutants
        .iter()
        .filter(|(_, what)| what.contains(&options.only))
        .collect();
    eprintln!(
        "{} mutants, {} of which a test reaches; {} to be tried",
        mutants.len(),
        reached.len(),
        chosen.len()
    );
    let living = Mutex::new(BTreeSet::new());
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some(&(id, what)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = match reached.get(id) {
                None => "unreached",
                Some(names) if tests.pass(*id, names)? => "unnoticed",
                Some(_) => continue,
            };
            eprintln!("{id} {name}: {what}");
            let mut living = living.lock().expect("nobody panics with it");
            living.insert(what.clone());
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.jobs).map(|_| scope.spawn(work)).collect();
        let mut threads = threads.into_iter();
        threads.try_for_each(|it| it.join().expect("no panic"))
    })?;
    let living = living.into_inner().expect("nobody panicked with it");
    let explained: BTreeSet<String> = explained(workspace, EXPLAINED)?
        .lives
        .into_iter()
        .filter(|what| what.contains(&options.only))
        .collect();
    println!(
        "{} noticed, {} not",
        chosen.len() - living.len(),
        living.len()
    );
    for what in living.difference(&explained) {
        println!("alive, but not explained: {what}");
    }
    for what in explained.difference(&living) {
        println!("explained, but dead or not there: {what}");
    }
    ensure!(
        living == explained,
        "the errors that nobody notices are not as {EXPLAINED} has them"
    );
    Ok(())
}

/// The tests of hv-core with all mutants.
struct Tests {
    program: PathBuf,
    dir: PathBuf,
}

impl Tests {
    fn command(&self, mutant: usize) -> Command {
        // By the processor's time: a mutant that hangs does so on a busy machine too.
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -t $LIMIT && exec \"$0\" \"$@\""])
            .arg(&self.program)
            // With one thread libtest does not name it by the test.
            .args(["--test-threads", "2"])
            .env("LIMIT", TEST_LIMIT.to_string())
            .env("MUTANT", mutant.to_string())
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true")
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .current_dir(&self.dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs all without a mutant.
    fn reached(&self, notes: &Path) -> Result<Reached> {
        let _ = fs::remove_file(notes);
        let mut command = self.command(0);
        command.args(["--skip", SEARCH]).env("MUTANTS_SEEN", notes);
        let status = command.status().context("cannot run the tests")?;
        ensure!(status.success(), "the tests fail without a mutant");
        let mut reached = Reached::new();
        let mut counts = BTreeMap::<String, usize>::new();
        for line in fs::read_to_string(notes)?.lines() {
            let (id, name) = line.split_once(' ').context("a note has no test")?;
            reached.entry(id.parse()?).or_default().push(name.into());
            *counts.entry(name.into()).or_default() += 1;
        }
        for names in reached.values_mut() {
            names.sort_by_key(|name| (name.is_empty(), counts[name]));
            names.dedup();
        }
        Ok(reached)
    }

    /// Whether the tests pass with a mutant in good time.
    fn pass(&self, mutant: usize, names: &[String]) -> Result<bool> {
        let unknown = names.iter().any(|name| name.is_empty());
        let known = names.iter().filter(|name| !name.is_empty());
        let known: Vec<_> = known.collect();
        for names in known.chunks(TESTS) {
            let status = self.command(mutant).arg("--exact").args(names).status();
            if !status.context("cannot run the tests")?.success() {
                return Ok(false);
            }
        }
        if unknown {
            let status = self.command(mutant).args(["--skip", SEARCH]).status();
            return Ok(status.context("cannot run the tests")?.success());
        }
        Ok(true)
    }
}
