//! Checks of memory validation that are made wrong: which, and what is tried with each.
//!
//! The search tries the more the less is known: first a few sequences with each mutant; those that it does not find are
//! shown to the other tests, and those that live even then to the rest of the sequences.

use anyhow::{Result, ensure};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::draft::Rewritten;
use super::fates::{Fate, Fates};
use super::rewrite::{Constant, rewrite};
use super::trial::{Reached, Trial};
use super::{Options, make, report};
use crate::progress::Step;
use crate::workspace::Workspace;

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

/// What takes the recount apart, so that the mutants can leave out what would say nothing new.
const RECOUNT: &str = "memory/recount.rs";
const COMPARE: &str = "self.compare(hv)";

/// Mutants that live, with the reason.
const EXPLAINED: &str = "docs/page-table-mutants.md";
/// Sequences that are tried with every mutant.
const FIRST: usize = 12;
/// Sequences that are tried with all that live, before more are with any.
const ROUNDS: [usize; 3] = [100, 400, usize::MAX];
/// Sequences at a time: at first few, because most mutants die soon.
const AT_ONCE: std::ops::RangeInclusive<usize> = 4..=200;

/// Runs the command.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let dir = workspace.target().join("mutants");
    let runtime = include_bytes!("runtime.rs");
    let (mutants, program) = make(workspace, &dir, runtime, |text, name, first| match name {
        RECOUNT => Some(leave_out(text)),
        name => FILES
            .contains(&name)
            .then(|| rewrite(text, name, first, &CONSTANTS)),
    })?;
    let path = dir.join("fates");
    let fates = match options.again {
        true => resume(&path, &program)?,
        false => Fates::new(path),
    };
    let trial = Trial { program, dir };
    let step = Step::start("run the tests without a mutant");
    let tests = trial.reached_by_tests()?;
    step.done();
    let step = Step::start("run the search without a mutant");
    let sequences = trial.reached_by_search(options.steps, options.jobs)?;
    step.done();

    let run = Run {
        mutants,
        trial,
        tests,
        sequences,
        fates: Mutex::new(fates),
        jobs: options.jobs,
    };
    let chosen: Vec<usize> = (1..=run.mutants.len())
        .filter(|id| run.mutants[id - 1].contains(&options.only))
        .collect();
    eprintln!(
        "{} mutants, {} of which the search reaches and {} a test; {} to be tried",
        run.mutants.len(),
        run.sequences.len(),
        run.tests.len(),
        chosen.len()
    );
    run.whole(chosen)?;
    let fates = run.fates.into_inner().expect("nobody panicked with it");
    report(workspace, EXPLAINED, &run.mutants, &fates)
}

/// The fates of an earlier run. What that program did not notice, another may.
fn resume(path: &Path, program: &Path) -> Result<Fates> {
    let mut fates = Fates::read(path.into())?;
    let built = fs::metadata(program)?.modified()?;
    if !fs::metadata(path).is_ok_and(|it| it.modified().is_ok_and(|time| time > built)) {
        fates.retain(|record| record.fate == Fate::Search);
    }
    Ok(fates)
}

/// Has the recount ask whether it is needed.
fn leave_out(text: &str) -> Result<Rewritten> {
    ensure!(text.contains(COMPARE), "{RECOUNT} has no {COMPARE}");
    let asking = format!("if crate::mutant::must_recount(hv) {{ {COMPARE} }} else {{ Ok(()) }}");
    Ok(Rewritten {
        text: text.replace(COMPARE, &asking),
        mutants: Vec::new(),
    })
}

/// A run of the command.
struct Run {
    mutants: Vec<String>,
    trial: Trial,
    tests: Reached<String>,
    sequences: Reached<u64>,
    fates: Mutex<Fates>,
    jobs: usize,
}

impl Run {
    fn whole(&self, chosen: Vec<usize>) -> Result<()> {
        let with = |fate| -> Vec<usize> {
            let all = chosen.iter().copied();
            all.filter(|&id| self.fate(id) == fate).collect()
        };
        self.each(&with(Fate::Open), |id| self.search(id, FIRST))?;
        self.each(&with(Fate::Open), |id| self.test(id))?;
        for most in ROUNDS {
            let mut alive = with(Fate::Alive);
            alive.sort_by_key(|id| self.sequences.get(id).map_or(0, Vec::len));
            self.each(&alive, |id| self.search(id, most))?;
        }
        Ok(())
    }

    fn fate(&self, id: usize) -> Fate {
        let fates = self.fates.lock().expect("nobody panics with it");
        fates.get(&self.mutants[id - 1]).fate
    }

    /// Does something with each mutant, several at a time.
    fn each(&self, ids: &[usize], work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(&id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                work(id)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.jobs).map(|_| scope.spawn(work)).collect();
            let mut threads = threads.into_iter();
            threads.try_for_each(|it| it.join().expect("no panic"))
        })
    }

    /// Tries the first `most` of the sequences in which a mutant makes a difference.
    fn search(&self, id: usize, most: usize) -> Result<()> {
        let what = &self.mutants[id - 1];
        let sequences = self.sequences.get(&id).map_or(&[][..], |all| all);
        let fates = || self.fates.lock().expect("nobody panics with it");
        let mut record = fates().get(what);
        record.of = sequences.len();
        while record.fate != Fate::Search && record.tried < record.of.min(most) {
            let more = (9 * record.tried).clamp(*AT_ONCE.start(), *AT_ONCE.end());
            let end = (record.tried + more).min(record.of).min(most);
            let some = &sequences[record.tried..end];
            let (passed, felt) = self.trial.search_passes(id, some)?;
            record.tried = end;
            record.felt += felt;
            if !passed {
                record.fate = Fate::Search;
            }
            let mut fates = fates();
            fates.set(what, record);
            fates.save()?;
        }
        fates().set(what, record);
        eprintln!("{id} {record}: {what}");
        Ok(())
    }

    /// Shows a mutant to the other tests.
    fn test(&self, id: usize) -> Result<()> {
        let what = &self.mutants[id - 1];
        let passed = match self.tests.get(&id) {
            Some(names) => self.trial.tests_pass(id, names)?,
            None => true,
        };
        let mut fates = self.fates.lock().expect("nobody panics with it");
        let mut record = fates.get(what);
        record.fate = if passed { Fate::Alive } else { Fate::Tests };
        fates.set(what, record);
        fates.save()?;
        eprintln!("{id} {record}: {what}");
        Ok(())
    }
}
