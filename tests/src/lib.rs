//! Integration tests: hosts in QEMU, driven by xl.
//!
//! The harness is here, the tests are in `tests/`. They need QEMU and built images, so they are
//! ignored by a plain `cargo test`; `cargo xtask test` runs them. Every wait has a limit, and a
//! test that fails shows what the hypervisor and the guests printed.
#![forbid(unsafe_code)]

pub mod bare;
pub mod books;
pub mod host;
pub mod program;
pub mod timeline;

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use xtask::workspace::Workspace;

/// How long a boot, or anything that a guest does, may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The workspace under test.
pub static WORKSPACE: LazyLock<Workspace> =
    LazyLock::new(|| Workspace::find().expect("the tests run in a checkout"));

/// A file of `target/dist`.
///
/// # Panics
/// When it was not built.
pub fn dist(name: &str) -> PathBuf {
    let path = WORKSPACE.dist().join(name);
    assert!(
        path.exists(),
        "{} is missing: `cargo xtask build`",
        path.display()
    );
    path
}

/// The hypervisor under test: ours, or what `XENOLITH_HYPERVISOR` names.
pub fn hypervisor() -> PathBuf {
    std::env::var_os("XENOLITH_HYPERVISOR").map_or_else(|| dist("xenolith"), PathBuf::from)
}

/// Xen 4.17's image, or `None` where it cannot be had.
pub fn reference() -> Option<PathBuf> {
    xtask::reference::xen(&WORKSPACE)
        .inspect_err(|error| eprintln!("skipped under Xen 4.17: {error:#}"))
        .ok()
}

/// Whether tests are to take the time that they need to be sure, not that of CI: if `XENOLITH_THOROUGH` is set.
pub fn thorough() -> bool {
    std::env::var_os("XENOLITH_THOROUGH").is_some()
}

/// The end of a wait that starts now.
pub fn deadline() -> Instant {
    Instant::now() + LIMIT
}

/// Repeats `attempt` until it gives something.
///
/// # Panics
/// After [`LIMIT`], with what was waited for.
pub fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = deadline();
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(
            Instant::now() < deadline,
            "waited {} s for {what}",
            LIMIT.as_secs()
        );
        // Between attempts the machine under test gets the CPU.
        std::thread::sleep(Duration::from_millis(20));
    }
}
