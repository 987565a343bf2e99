//! `cargo xtask mutants`: makes the checks of memory validation wrong, one at a time, and looks whether a test notices.
//!
//! A build for each of several hundred mutants would take a day. So all of them are put into one copy of the sources,
//! which asks at every check whether it is the one that is wrong: one build, and as many runs. A mutant that the
//! search for broken isolation (`kernel/core/src/memory/search`) finds is dead, and so is one that another test
//! notices. Those that live are explained in `docs/page-table-mutants.md`; any other that lives is a failure.

mod rewrite;

use crate::progress::Step;
use crate::toolchain::host_cargo;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use rewrite::Constant;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What decides on a guest's memory, in `kernel/core/src`.
const FILES: [&str; 30] = [
    "descriptor.rs",
    "emulate/page_table.rs",
    "emulate/unhook.rs",
    "memory/claim.rs",
    "memory/frame.rs",
    "memory/frame/allocation.rs",
    "memory/frame/list.rs",
    "memory/frame/reference.rs",
    "memory/frame/type_count.rs",
    "memory/linear.rs",
    "memory/mod.rs",
    "memory/owner.rs",
    "memory/page_table.rs",
    "memory/pin.rs",
    "memory/pte.rs",
    "memory/renew.rs",
    "memory/teardown.rs",
    "memory/type_word.rs",
    "memory/unowned.rs",
    "memory/walk.rs",
    "memory_op.rs",
    "memory_op/exchange.rs",
    "memory_op/reservation.rs",
    "mmu/extended.rs",
    "mmu/fault.rs",
    "mmu/mod.rs",
    "mmu/update.rs",
    "vcpu_context.rs",
    "emulate/store.rs",
    "memory/heap.rs",
];

/// Constants that say which bits need no check.
const CONSTANTS: [Constant; 3] = [
    Constant {
        file: "memory/page_table.rs",
        from: "!HARMLESS",
        to: "!(HARMLESS | crate::mutant::bits(#, Pte::WRITABLE) | crate::mutant::bits(#, Pte::CACHE))",
    },
    Constant {
        file: "memory/pte.rs",
        from: "!allowed",
        to: "!(allowed | crate::mutant::bits(#, Self::PSE) | crate::mutant::bits(#, Self::PWT | Self::PCD) | crate::mutant::bits(#, Self::GLOBAL))",
    },
    Constant {
        file: "memory/pte.rs",
        from: "self.0 | Self::USER",
        to: "self.0 | (Self::USER & !crate::mutant::bits(#, Self::USER))",
    },
];

/// The test that is to find what breaks isolation.
const SEARCH: &str = "memory::search::tests::no_sequence_of_hypercalls_breaks_isolation_or_a_count";
/// Mutants that live, with the reason.
const EXPLAINED: &str = "docs/page-table-mutants.md";
/// Seconds of processor time after which a mutant hangs: in the tests, and for so many steps in the search.
const TEST_LIMIT: u64 = 60;
const STEPS_IN_A_SECOND: u64 = 2000;

/// Options of the command.
#[derive(clap::Args)]
pub struct Options {
    /// Steps that the search tries with each mutant
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// Only mutants whose descriptions contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Only mutants that no search has found in the last run
    #[arg(long)]
    again: bool,
    /// Mutants at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// What noticed a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Search,
    Tests,
    Alive,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Tests => "tests",
            Self::Alive => "alive",
        }
    }
}

/// What noticed each mutant, by its description.
type Fates = BTreeMap<String, String>;

/// Runs the command.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let dir = workspace.target().join("mutants");
    let step = Step::start("write the mutants");
    let mutants = write(workspace, &dir.join("src"))?;
    step.done();
    let step = Step::start("build the mutants");
    let program = build(&dir)?;
    step.done();

    let tests = Tests {
        program,
        dir: dir.join("src/kernel/core"),
        steps: options.steps,
    };
    let step = Step::start("run the tests without a mutant");
    let seen = dir.join("seen");
    let _ = fs::remove_file(&seen);
    let search_limit = TEST_LIMIT + options.steps / STEPS_IN_A_SECOND;
    let sound = tests.pass(0, true, Some(&seen), search_limit)?
        && tests.pass(0, false, None, TEST_LIMIT)?;
    ensure!(sound, "the tests fail without a mutant");
    step.done();
    let seen: BTreeSet<usize> = fs::read_to_string(&seen)?
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();

    let fates = dir.join("fates");
    let before = read_fates(&fates).unwrap_or_default();
    let chosen: Vec<usize> = (1..=mutants.len())
        .filter(|id| mutants[id - 1].contains(&options.only))
        .filter(|id| !options.again || before.get(&mutants[id - 1]).is_none_or(|it| it != "search"))
        .collect();
    eprintln!(
        "{} mutants, {} of which the search comes by; {} to be tried",
        mutants.len(),
        seen.len(),
        chosen.len()
    );
    let found = Mutex::new(before);
    let next = AtomicUsize::new(0);
    // All searches come first, because they say most.
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let search = number < chosen.len();
            let Some(&id) = chosen.get(number % chosen.len().max(1)) else {
                return Ok(());
            };
            if number >= 2 * chosen.len() {
                return Ok(());
            }
            let what = &mutants[id - 1];
            let known = |found: &Fates| found.get(what).is_some_and(|it| it == "search");
            let fate = match search {
                true if !seen.contains(&id) => Fate::Alive,
                true if tests.pass(id, true, None, search_limit)? => Fate::Alive,
                true => Fate::Search,
                false if known(&found.lock().expect("nobody panics with it")) => continue,
                false if tests.pass(id, false, None, TEST_LIMIT)? => Fate::Alive,
                false => Fate::Tests,
            };
            let unseen = if seen.contains(&id) { "" } else { ", unseen" };
            eprintln!("{id} {}{unseen}: {what}", fate.name());
            let mut found = found.lock().expect("nobody panics with it");
            found.insert(what.clone(), fate.name().into());
            let lines: String = found
                .iter()
                .map(|(what, fate)| format!("{fate} {what}\n"))
                .collect();
            fs::write(&fates, lines)?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.jobs).map(|_| scope.spawn(work)).collect();
        let mut threads = threads.into_iter();
        threads.try_for_each(|it| it.join().expect("no panic"))
    })?;
    let found = found.into_inner().expect("nobody panicked with it");
    report(workspace, &mutants, &found)
}

/// Says what became of the mutants; those that live must be explained, and those that are explained live.
fn report(workspace: &Workspace, mutants: &[String], fates: &Fates) -> Result<()> {
    let fate = |what: &String| fates.get(what).map_or("", String::as_str);
    for name in [Fate::Search, Fate::Tests, Fate::Alive].map(Fate::name) {
        let count = mutants.iter().filter(|&what| fate(what) == name).count();
        println!("{name}: {count}");
    }
    let text = fs::read_to_string(workspace.root().join(EXPLAINED)).unwrap_or_default();
    let explained: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("- "))
        .collect();
    let mut wrong = 0;
    for what in mutants {
        let is_explained = explained.contains(&**what);
        if fate(what) == Fate::Alive.name() && !is_explained {
            println!("alive, but not explained: {what}");
            wrong += 1;
        }
        if is_explained && !["", Fate::Alive.name()].contains(&fate(what)) {
            println!("explained, but dead: {what}");
            wrong += 1;
        }
    }
    for what in explained
        .iter()
        .filter(|&&it| !mutants.iter().any(|what| what == it))
    {
        println!("explained, but not there: {what}");
        wrong += 1;
    }
    if wrong > 0 {
        bail!("{wrong} mutants are not as {EXPLAINED} has it");
    }
    Ok(())
}

fn read_fates(path: &Path) -> Result<Fates> {
    let text = fs::read_to_string(path)?;
    let fates = text.lines().filter_map(|line| line.split_once(' '));
    Ok(fates
        .map(|(fate, what)| (what.into(), fate.into()))
        .collect())
}

/// Writes a copy of the workspace with all mutants; says what they are.
fn write(workspace: &Workspace, to: &Path) -> Result<Vec<String>> {
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
        if FILES.contains(&name) {
            let text = String::from_utf8(bytes)?;
            let rewritten = rewrite::rewrite(&text, name, mutants.len() + 1, &CONSTANTS)?;
            mutants.extend(rewritten.mutants);
            bytes = rewritten.text.into_bytes();
        } else if name == "lib.rs" {
            bytes.extend_from_slice(b"\n#[cfg(test)] mod mutant;\n");
        }
        put(&to.join(path), &bytes)?;
    }
    let runtime = include_bytes!("mutants/runtime.rs");
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

/// Builds the tests of the copy; gives the program.
fn build(dir: &Path) -> Result<PathBuf> {
    let mut cargo = host_cargo();
    cargo
        .args(["test", "--package", "hv-core", "--lib", "--no-run"])
        .args(["--config", "profile.test.package.hv-core.opt-level=2"])
        .args(["--config", "profile.test.package.hv-machine.opt-level=2"])
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .env("RUSTFLAGS", "--cap-lints=allow")
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

/// The tests of hv-core with all mutants.
struct Tests {
    program: PathBuf,
    dir: PathBuf,
    steps: u64,
}

impl Tests {
    /// Whether the search, or all other tests, pass with a mutant (0 for none) in good time.
    fn pass(&self, mutant: usize, search: bool, seen: Option<&Path>, limit: u64) -> Result<bool> {
        // By the processor's time: a mutant that hangs does so on a busy machine too.
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -t $LIMIT && exec \"$0\" \"$@\""])
            .arg(&self.program)
            .env("LIMIT", limit.to_string());
        match search {
            true => command.args(["--exact", SEARCH]),
            false => command.args(["--skip", SEARCH]),
        };
        command
            .env("MUTANT", mutant.to_string())
            .env("SEARCH_STEPS", self.steps.to_string())
            .env("SEARCH_SHRINK", "no")
            .current_dir(&self.dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(seen) = seen {
            command.env("MUTANTS_SEEN", seen);
        }
        let status = command.status().context("cannot run the tests")?;
        Ok(status.success())
    }
}
