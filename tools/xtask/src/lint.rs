//! `cargo xtask lint`: rustfmt's check, and clippy with warnings as errors.

use crate::image::Image;
use crate::installer::{Consent, Installer};
use crate::progress::Step;
use crate::toolchain::{Route, Toolchain, host_cargo};
use crate::workspace::Workspace;
use anyhow::Result;
use std::process::{Command, Stdio};

/// Runs the command.
pub fn run(workspace: &Workspace, route: Option<Route>, consent: Consent) -> Result<()> {
    let toolchain = Toolchain::find(route, &mut Installer::new(consent))?;
    all(workspace, &toolchain)
}

/// Runs all lints.
pub fn all(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    format(workspace)?;
    host(workspace)?;
    fuzzed(workspace)?;
    for image in Image::all(workspace)? {
        bare(workspace, toolchain, &image)?;
    }
    Ok(())
}

/// Whether rustup's component that brings `cargo SUBCOMMAND` is here; says how to get it if not.
fn has(subcommand: &str, component: &str) -> bool {
    let found = host_cargo()
        .args([subcommand, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!(
            "xtask: skipped, cargo {subcommand} is missing: `rustup component add {component}`"
        );
    }
    found
}

fn format(workspace: &Workspace) -> Result<()> {
    if !has("fmt", "rustfmt") {
        return Ok(());
    }
    let step = Step::start("check the format");
    step.cargo(
        host_cargo()
            .args(["fmt", "--all", "--check"])
            .current_dir(workspace.root()),
    )?;
    step.done();
    Ok(())
}

fn host(workspace: &Workspace) -> Result<()> {
    if !has("clippy", "clippy") {
        return Ok(());
    }
    let step = Step::start("lint the host crates");
    let mut cargo = host_cargo();
    cargo
        .args(["clippy", "--workspace", "--all-targets"])
        .current_dir(workspace.root());
    step.cargo(deny_warnings(&mut cargo))?;
    step.done();
    Ok(())
}

/// What fuzz targets look at is compiled for nothing else, and fails where nobody sees it.
fn fuzzed(workspace: &Workspace) -> Result<()> {
    let step = Step::start("check what is fuzzed");
    let mut cargo = host_cargo();
    cargo
        .args(["check", "--target-dir", "target/fuzzing"])
        .args(["-p", "hv-core", "-p", "split-drivers", "-p", "xenstore"])
        .args(["-p", "dom0"])
        .env("RUSTFLAGS", "--cfg fuzzing -D warnings")
        .current_dir(workspace.root());
    step.cargo(&mut cargo)?;
    step.done();
    Ok(())
}

fn bare(workspace: &Workspace, toolchain: &Toolchain, image: &Image) -> Result<()> {
    // Clippy works with the standard library of its own release only. Debian's toolchain has
    // none here, so there the compiler's own warnings must do.
    let step = Step::start(format!("lint {} for bare metal", image.name));
    let mut cargo = match toolchain.route() {
        Route::Rustup => {
            if !has("clippy", "clippy") {
                step.clear();
                return Ok(());
            }
            let mut cargo = toolchain.cargo(workspace, "clippy", image.kind, &[]);
            cargo.args(["--package", &image.name]);
            deny_warnings(&mut cargo);
            cargo
        }
        Route::Debian => {
            let mut cargo = toolchain.cargo(workspace, "check", image.kind, &[]);
            let deny = ["-Zwarnings", "--config", "build.warnings=\"deny\""];
            cargo.args(["--package", &image.name]).args(deny);
            cargo
        }
    };
    step.cargo(&mut cargo)?;
    step.done();
    Ok(())
}

fn deny_warnings(cargo: &mut Command) -> &mut Command {
    cargo.args(["--", "-D", "warnings"])
}
