//! The report, in the Test Anything Protocol: a line per test, what was wrong beside it, and the
//! number of tests at the end.

use core::fmt::Debug;

use hypercall_abi::errno::Errno;
use pv_guest::hypercall::Result;
use pv_guest::println;

/// What a call should give: success, or an error.
pub const OK: core::result::Result<(), Errno> = Ok(());

/// Counts tests and prints their results.
#[derive(Default)]
pub struct Tap {
    count: u32,
    failed: u32,
    skipped: u32,
}

impl Tap {
    /// A test that passes where `got` is what was `wanted`.
    pub fn is<T: PartialEq + Debug>(&mut self, name: &str, got: T, wanted: T) {
        self.count += 1;
        if got == wanted {
            println!("ok {} - {name}", self.count);
        } else {
            self.failed += 1;
            println!(
                "not ok {} - {name} # got {got:x?}, wanted {wanted:x?}",
                self.count
            );
        }
    }

    /// A test that passes where something holds.
    pub fn holds(&mut self, name: &str, holds: bool) {
        self.is(name, holds, true);
    }

    /// A test of whether a call succeeds, or with which error it fails.
    pub fn call<T>(&mut self, name: &str, got: Result<T>, wanted: core::result::Result<(), Errno>) {
        let got = got.map(drop).map_err(|error| error.errno());
        self.is(name, got, wanted.map_err(Some));
    }

    /// A test that cannot be made here.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.count += 1;
        self.skipped += 1;
        println!("ok {} - {name} # SKIP {why}", self.count);
    }

    /// Prints the plan; whether any test failed.
    pub fn finish(self) -> bool {
        let Self {
            count,
            failed,
            skipped,
        } = self;
        println!("1..{count}");
        println!("# done: {count} tests, {failed} failed, {skipped} skipped");
        failed != 0
    }
}
