//! What the rewritten hypervisor asks wherever an error arises or passes whether it is to be another one.
//!
//! This is no module of xtask: it is put into a copy of hv-core. `MUTANT` in the environment has the number of the
//! mutant; the file that `MUTANTS_SEEN` names gets the numbers of those that are reached, each with the test that
//! reaches it, or `!` where there can be no error.
#![allow(missing_docs, clippy::all)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{LazyLock, Mutex};

use hv_machine::sim::with_largest_block;
use hypercall_abi::errno::Errno;

use crate::hypercall::Stop;

static ACTIVE: LazyLock<usize> = LazyLock::new(|| {
    let number = std::env::var("MUTANT").ok();
    number.and_then(|text| text.parse().ok()).unwrap_or(0)
});
static NOTES: LazyLock<Option<Mutex<std::fs::File>>> = LazyLock::new(|| {
    let path = std::env::var_os("MUTANTS_SEEN")?;
    let file = std::fs::File::options().create(true).append(true).open(path);
    file.ok().map(Mutex::new)
});
thread_local! {
    // A thread is one test's, or one that it started.
    static SEEN: RefCell<BTreeSet<usize>> = const { RefCell::new(BTreeSet::new()) };
}

/// Whether the mutant that is reached is the one that is asked for. It is noted once for each test, or with `what` in
/// the place of the test's name.
fn is(id: usize, what: Option<&str>) -> bool {
    // A test may have taken the heap away.
    with_largest_block(usize::MAX, 0, || {
        if let Some(notes) = &*NOTES
            && SEEN.with_borrow_mut(|seen| seen.insert(id))
        {
            let thread = std::thread::current();
            let what = what.or(thread.name()).unwrap_or("");
            let _ = writeln!(notes.lock().expect("no panic there"), "{id} {what}");
        }
        *ACTIVE == id
    })
}

/// An error that no hypercall answers.
fn other(errno: Errno) -> Errno {
    match errno {
        Errno::EXDEV => Errno::EIO,
        _ => Errno::EXDEV,
    }
}

/// An error number.
pub fn errno(id: usize, real: Errno) -> Errno {
    if is(id, None) { other(real) } else { real }
}

/// A status of an operation on grants.
pub fn status(id: usize, real: i16) -> i16 {
    if is(id, None) { real - 100 } else { real }
}

/// The answer of a function.
pub fn answer<A: Answer>(id: usize, real: A) -> A {
    if real.is_error(id) && is(id, None) { real.wrong() } else { real }
}

/// What has an error in it, or has none.
pub trait Answer: Sized {
    fn is_error(&self, id: usize) -> bool;
    fn wrong(self) -> Self;
}

impl<T> Answer for Result<T, Errno> {
    // By `ERESTART` a hypercall goes on: it is no error that a guest sees.
    fn is_error(&self, id: usize) -> bool {
        self.as_ref().is_err_and(|it| *it != Errno::ERESTART)
    }
    fn wrong(self) -> Self {
        self.map_err(other)
    }
}

impl<T> Answer for Result<T, Stop> {
    fn is_error(&self, id: usize) -> bool {
        let restart = Stop::error(Errno::ERESTART);
        let none = [Stop::AGAIN, Stop::REGISTERS_SET, restart];
        self.as_ref().is_err_and(|it| !none.contains(it))
    }
    fn wrong(self) -> Self {
        self.map_err(|stop| match stop == Stop::error(Errno::EXDEV) {
            true => Stop::error(Errno::EIO),
            false => Stop::error(Errno::EXDEV),
        })
    }
}

impl<T> Answer for Result<T, i16> {
    fn is_error(&self, id: usize) -> bool {
        self.is_err()
    }
    fn wrong(self) -> Self {
        self.map_err(|status| status - 100)
    }
}

impl<T> Answer for Option<T> {
    fn is_error(&self, id: usize) -> bool {
        is(id, Some("!"));
        false
    }
    fn wrong(self) -> Self {
        self
    }
}
