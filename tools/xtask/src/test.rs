//! `cargo xtask test`: lint, host tests, bare-metal builds, then integration tests in QEMU.

use crate::image::Image;
use crate::installer::{Consent, Installer};
use crate::progress::Step;
use crate::toolchain::{Route, Toolchain, host_cargo};
use crate::workspace::Workspace;
use crate::{build, lint, reference, run, setup};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// Options of the command.
#[derive(clap::Args, Debug, Default)]
pub struct Options {
    /// Leave the lints out
    #[arg(long)]
    pub no_lint: bool,
    /// Another hypervisor's multiboot image in place of ours
    #[arg(long, value_name = "FILE", hide = true)]
    pub hypervisor: Option<PathBuf>,
    /// Only integration tests whose names contain this
    #[arg(value_name = "FILTER")]
    pub filter: Option<String>,
}

/// Runs the command.
pub fn run(
    workspace: &Workspace,
    route: Option<Route>,
    consent: Consent,
    options: &Options,
) -> Result<()> {
    let mut installer = Installer::new(consent);
    installer.need(&[setup::TO_RUN, setup::TO_MAKE_ISO, setup::TO_TEST].concat())?;
    let toolchain = Toolchain::find(route, &mut installer)?;
    if options.filter.is_none() {
        if !options.no_lint {
            lint::all(workspace, &toolchain)?;
        }
        host_tests(workspace)?;
    }
    let checked = Image::checked_hypervisor(workspace);
    for image in Image::all(workspace)?.into_iter().chain([checked]) {
        build::image_into_dist(workspace, &toolchain, &image)?;
    }
    run::build_xl(workspace)?;
    if let Err(error) = reference::xen(workspace) {
        eprintln!("xtask: no tests under Xen 4.17: {error:#}");
    }
    integration_tests(workspace, options)
}

fn host_tests(workspace: &Workspace) -> Result<()> {
    let step = Step::start("host tests");
    let mut cargo = host_cargo();
    cargo
        .args(["test", "--workspace", "--exclude", "tests"])
        .current_dir(workspace.root());
    step.cargo(&mut cargo)?;
    step.done();
    Ok(())
}

/// Runs last, with nothing between cargo and the terminal: its closing lines are ours.
fn integration_tests(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut cargo = host_cargo();
    cargo
        .args([
            "test",
            "--package",
            "tests",
            "--test",
            "qemu",
            "--",
            "--include-ignored",
        ])
        .args(&options.filter)
        .current_dir(workspace.root())
        .env("XENOLITH_XTASK", std::env::current_exe()?);
    if let Some(hypervisor) = &options.hypervisor {
        cargo.env("XENOLITH_HYPERVISOR", std::path::absolute(hypervisor)?);
    }
    let status = cargo.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("integration tests: {status}");
    }
    Ok(())
}
