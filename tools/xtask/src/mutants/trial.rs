//! [`Trial`]: the tests of hv-core with all mutants, run with one of them or none.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{SEARCH, TEST_LIMIT};

/// Seconds of processor time after which a mutant hangs in some tests, and in the search where it is short.
const SOME_TESTS_LIMIT: u64 = 20;
const SEARCH_LIMIT: u64 = 4;
/// Tests that run together. The first that fails ends a mutant.
const TOGETHER: usize = 16;

/// All tests but the search and some of other things, which take seconds.
const ALL_TESTS: [&str; 6] = [
    "--skip",
    SEARCH,
    "--skip",
    "sched::credit::promises",
    "--skip",
    "hypercall::tests::pieces::a_multicall_is_made_in_pieces",
];

/// Where each mutant would make a difference: names of tests, or numbers of sequences of the search.
pub type Reached<T> = BTreeMap<usize, Vec<T>>;

/// The program, and where it runs.
pub struct Trial {
    /// It.
    pub program: PathBuf,
    /// The folder of all that is made for it.
    pub dir: PathBuf,
}

impl Trial {
    fn command(&self, mutant: usize, limit: u64) -> Command {
        // By the processor's time: a mutant that hangs does so on a busy machine too.
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -t $LIMIT && exec \"$0\" \"$@\""])
            .arg(&self.program)
            .env("LIMIT", limit.to_string())
            .env("MUTANT", mutant.to_string())
            .env("MUTANT_PRINTS", self.prints())
            .env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true")
            .env("PROPTEST_MAX_SHRINK_ITERS", "0")
            .env("SEARCH_SHRINK", "no")
            .current_dir(self.dir.join("src/kernel/core"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn prints(&self) -> PathBuf {
        self.dir.join("prints")
    }

    /// Runs something without a mutant, unless that was done before; the lines that the mutants noted.
    fn notes(&self, name: &str, run: impl FnOnce(&Path) -> Result<bool>) -> Result<String> {
        let built = fs::metadata(&self.program)?.modified()?;
        let notes = self.dir.join(name);
        if !fs::metadata(&notes).is_ok_and(|it| it.modified().is_ok_and(|time| time > built)) {
            let fresh = notes.with_extension("new");
            let _ = fs::remove_file(&fresh);
            ensure!(run(&fresh)?, "the tests fail without a mutant");
            fs::rename(&fresh, &notes)?;
        }
        Ok(fs::read_to_string(&notes)?)
    }

    /// The tests but the search that reach each mutant; first those that reach the fewest, as they are most likely about
    /// it. The name is empty for a thread that a test started.
    pub fn reached_by_tests(&self) -> Result<Reached<String>> {
        let notes = self.notes("seen-by-tests", |seen| {
            let mut command = self.command(0, TEST_LIMIT);
            // With one thread libtest does not name it by the test.
            command.args(ALL_TESTS).args(["--test-threads", "2"]);
            let status = command.env("MUTANTS_SEEN", seen).status();
            Ok(status.context("cannot run the tests")?.success())
        })?;
        let mut reached = Reached::<String>::new();
        let mut counts = BTreeMap::<&str, usize>::new();
        for line in notes.lines() {
            let (id, name) = line.split_once(' ').context("a note has no test")?;
            reached.entry(id.parse()?).or_default().push(name.into());
            *counts.entry(name).or_default() += 1;
        }
        for names in reached.values_mut() {
            names.sort_by_key(|name| (name.is_empty(), counts.get(&**name).copied()));
            names.dedup();
        }
        Ok(reached)
    }

    /// The sequences of the search in which each mutant would make a difference, the soonest first.
    pub fn reached_by_search(&self, steps: u64, jobs: usize) -> Result<Reached<u64>> {
        let notes = self.notes(&format!("seen-by-search-{steps}"), |seen| {
            fs::create_dir_all(self.prints())?;
            let mut command = self.command(0, TEST_LIMIT + steps / 1000);
            command
                .args(["--exact", SEARCH])
                .env("SEARCH_STEPS", steps.to_string())
                .env("RUST_TEST_THREADS", jobs.to_string())
                .env("MUTANTS_SEEN", seen);
            let status = command.status().context("cannot run the tests")?;
            Ok(status.success())
        })?;
        let mut reached = Reached::<(u64, u64)>::new();
        for line in notes.lines() {
            let Some((id, rest)) = line.split_once(" search ") else {
                continue;
            };
            let (number, looks) = rest.split_once(' ').context("a note has no place")?;
            let place = (looks.parse()?, number.parse()?);
            reached.entry(id.parse()?).or_default().push(place);
        }
        let sorted = reached.into_iter().map(|(id, mut places)| {
            places.sort();
            (id, places.into_iter().map(|(_, number)| number).collect())
        });
        Ok(sorted.collect())
    }

    /// Whether these tests pass with a mutant in good time.
    pub fn tests_pass(&self, mutant: usize, names: &[String]) -> Result<bool> {
        let run = |args: &[&str]| -> Result<bool> {
            let mut command = self.command(mutant, SOME_TESTS_LIMIT);
            let status = command.args(["--test-threads", "1"]).args(args).status();
            Ok(status.context("cannot run the tests")?.success())
        };
        let known = names.iter().map(|name| &**name);
        let known: Vec<&str> = known.filter(|name| !name.is_empty()).collect();
        for names in known.chunks(TOGETHER) {
            if !run(&[&["--exact"], names].concat())? {
                return Ok(false);
            }
        }
        Ok(known.len() == names.len() || run(&ALL_TESTS)?)
    }

    /// Whether these sequences of the search pass with a mutant in good time, and in how many of them anything is
    /// different from how it is without.
    pub fn search_passes(&self, mutant: usize, sequences: &[u64]) -> Result<(bool, usize)> {
        let felt = self.dir.join(format!("felt-{mutant}"));
        let _ = fs::remove_file(&felt);
        let list: Vec<_> = sequences.iter().map(u64::to_string).collect();
        let mut command = self.command(mutant, SEARCH_LIMIT + sequences.len() as u64 / 4);
        command
            .args(["--exact", SEARCH])
            .env("SEARCH_SEQUENCES", list.join(","))
            .env("RUST_TEST_THREADS", "1")
            .env("MUTANT_FELT", &felt);
        let status = command.status().context("cannot run the tests")?;
        let count = fs::read_to_string(&felt).map_or(0, |text| text.lines().count());
        let _ = fs::remove_file(&felt);
        Ok((status.success(), count))
    }
}
