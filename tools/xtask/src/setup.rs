//! `cargo xtask setup`: everything that the other commands need, in one go.

use crate::installer::{Consent, Installer};
use crate::tool::Tool;
use crate::toolchain::{Route, Toolchain};
use crate::workspace::Workspace;
use anyhow::Result;

/// What a host in QEMU needs.
pub const TO_RUN: &[Tool] = &[Tool::Qemu, Tool::Setpriv];

/// What the ISO image needs.
pub const TO_MAKE_ISO: &[Tool] = &[
    Tool::GrubMkrescue,
    Tool::GrubBios,
    Tool::GrubEfi,
    Tool::Xorriso,
    Tool::Mtools,
];

/// What the tests need, beyond what running and the ISO image do.
pub const TO_TEST: &[Tool] = &[Tool::Cc, Tool::XenHeaders, Tool::Ovmf, Tool::E2fsprogs];

/// Runs the command.
pub fn run(_workspace: &Workspace, route: Option<Route>, consent: Consent) -> Result<()> {
    let mut installer = Installer::new(consent);
    installer.need(&[TO_RUN, TO_MAKE_ISO, TO_TEST].concat())?;
    let toolchain = Toolchain::find(route, &mut installer)?;
    let how = match toolchain.route() {
        Route::Rustup => "rustup's toolchain",
        Route::Debian => "Debian's rustc-web, with the standard library built from source",
    };
    eprintln!("xtask: all is there; bare-metal images are built with {how}");
    Ok(())
}
