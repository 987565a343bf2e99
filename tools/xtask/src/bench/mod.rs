//! `cargo xtask bench`: the figures of the README, measured on this machine.

mod block;
mod clock;
mod host;
mod machine;
mod network;
mod operations;
mod pairs;
pub mod store;

use crate::installer::{Consent, Installer};
use crate::qemu::Accel;
use crate::toolchain::{Route, Toolchain};
use crate::workspace::Workspace;
use crate::{build, run as hosts, setup};
use anyhow::Result;
use clap::ValueEnum;
use std::path::PathBuf;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Boots, domains made and destroyed, and sizes
    Host,
    /// Paravirtual operations, beside Xen 4.17's
    Operations,
    /// The same in instructions, which no other load on the machine changes
    Instructions,
    /// A guest's clock, beside this machine's
    Clock,
    /// A guest's disk, beside dom0's own use of it
    Block,
    /// TCP from guest to guest
    Network,
    /// The store, beside a guest that floods it
    Store,
}

/// Options of the command.
#[derive(clap::Args, Debug, Default)]
pub struct Options {
    /// What to measure (default: all)
    #[arg(value_name = "WHAT")]
    pub subjects: Vec<Subject>,
    /// Another hypervisor's multiboot image in place of ours
    #[arg(long, value_name = "FILE", hide = true)]
    pub hypervisor: Option<PathBuf>,
}

/// Runs the command.
pub fn run(
    workspace: &Workspace,
    route: Option<Route>,
    consent: Consent,
    options: &Options,
) -> Result<()> {
    let mut installer = Installer::new(consent);
    installer.need(setup::TO_RUN)?;
    let toolchain = Toolchain::find(route, &mut installer)?;
    for image in crate::image::Image::all(workspace)? {
        build::image_into_dist(workspace, &toolchain, &image)?;
    }
    hosts::build_xl(workspace)?;
    let hypervisor = options
        .hypervisor
        .clone()
        .unwrap_or_else(|| workspace.dist().join("xenolith"));
    let subjects = if options.subjects.is_empty() {
        Subject::value_variants()
    } else {
        &options.subjects
    };
    for subject in subjects {
        match subject {
            Subject::Host => host::run(workspace, &hypervisor)?,
            Subject::Network => network::run(workspace, &hypervisor)?,
            Subject::Store => store::run(workspace, &hypervisor)?,
            Subject::Block => block::run(workspace, &hypervisor)?,
            Subject::Clock => clock::run(workspace, &hypervisor)?,
            Subject::Operations => operations::run(workspace, &hypervisor, Accel::Tcg)?,
            Subject::Instructions => operations::run(workspace, &hypervisor, Accel::Counted)?,
        }
    }
    Ok(())
}
