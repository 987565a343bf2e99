//! A machine that boots a hypervisor with some PV kernel as its dom0.

use crate::{LIMIT, deadline};
use tempfile::TempDir;
use xtask::qemu::{Boot, Hardware, Qemu};

/// The machine; what it wrote is shown if its test fails.
pub struct Bare {
    qemu: Qemu,
    /// Holds the links that QEMU boots from.
    _dir: TempDir,
}

impl Bare {
    /// Boots it.
    ///
    /// # Panics
    /// When QEMU does not start.
    pub fn boot(hardware: &Hardware, boot: &Boot) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (qemu, _) = Qemu::start(dir.path(), hardware, boot).expect("QEMU starts");
        Self { qemu, _dir: dir }
    }

    /// Waits until `text` was written to the serial port.
    ///
    /// # Panics
    /// After [`LIMIT`], or when the machine is gone.
    pub fn expect(&self, text: &str) {
        let found = self.qemu.log().wait_for(text, deadline());
        assert!(
            found,
            "no {text:?} in {} s, or before the machine went down",
            LIMIT.as_secs()
        );
    }

    /// Waits for a whole line with `text` in it.
    ///
    /// # Panics
    /// After [`LIMIT`], or when the machine is gone.
    pub fn expect_line(&self, text: &str) {
        let found = self.qemu.log().wait_for_line(text, deadline());
        assert!(
            found.is_some(),
            "no line with {text:?} in {} s, or before the machine went down",
            LIMIT.as_secs()
        );
    }

    /// All that was written to the serial port.
    pub fn text(&self) -> String {
        self.qemu.log().text()
    }

    /// Waits until the machine has gone down by itself.
    ///
    /// # Panics
    /// After [`LIMIT`].
    pub fn expect_down(&self) {
        let gone = self.qemu.wait(deadline()).expect("QEMU's status");
        assert!(gone.is_some(), "still up after {} s", LIMIT.as_secs());
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- serial port\n{}", self.qemu.log().tail(100));
        }
    }
}
