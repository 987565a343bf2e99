//! `cargo xtask fuzz`: runs a fuzz target of `fuzz/` by cargo-fuzz.

use crate::installer::{Consent, Installer};
use crate::tool::Tool;
use crate::toolchain::host_cargo;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use std::process::Stdio;

/// A fuzz target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Hypercalls that touch memory, with everything recounted behind each
    Dispatch,
    /// Instructions that store to page tables, carried out as the processor does it
    StoreDecoder,
    /// XenStore's messages, from guests and to them
    StoreWire,
    /// A guest that writes what it likes to its XenStore ring, beside one that does not
    StoreRing,
    /// A block frontend, whose backend keeps to nothing
    BlockFront,
    /// A block backend, whose frontend keeps to nothing
    BlockBack,
    /// A network frontend, whose backend keeps to nothing
    NetFront,
    /// A network backend, whose frontend keeps to nothing
    NetBack,
    /// dom0's own TCP/IP stack, whose neighbour keeps to nothing
    OwnStack,
}

/// Options of the command.
#[derive(clap::Args)]
pub struct Options {
    /// What is fuzzed
    target: Target,
    /// For how long
    #[arg(long, default_value_t = 300)]
    seconds: u32,
}

/// Runs the command. What the fuzzer finds it leaves in `fuzz/artifacts`.
pub fn run(workspace: &Workspace, consent: Consent, options: &Options) -> Result<()> {
    let name = match options.target {
        Target::Dispatch => "dispatch",
        Target::StoreDecoder => "store_decoder",
        Target::StoreWire => "store_wire",
        Target::StoreRing => "store_ring",
        Target::BlockFront => "block_front",
        Target::BlockBack => "block_back",
        Target::NetFront => "net_front",
        Target::NetBack => "net_back",
        Target::OwnStack => "own_stack",
    };
    Installer::new(consent).need(&[Tool::Cxx])?;
    need_cargo_fuzz(consent)?;
    let status = host_cargo()
        // Sanitizers are for unsafe code, of which there is none here, and want a nightly compiler.
        .args(["fuzz", "run", "--sanitizer", "none", name, "--"])
        // Long inputs from the beginning: a short one is too few steps to come far.
        .args([
            "-len_control=0".into(),
            format!("-max_total_time={}", options.seconds),
        ])
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(workspace.root().join("fuzz"))
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the fuzzer found something");
    Ok(())
}

fn need_cargo_fuzz(consent: Consent) -> Result<()> {
    let mut version = host_cargo();
    version.args(["fuzz", "--version"]);
    version.stdout(Stdio::null()).stderr(Stdio::null());
    if version.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let install = ["install", "--locked", "cargo-fuzz"];
    let shown = format!("cargo {}", install.join(" "));
    if !consent.obtain(&format!("xtask: run `{shown}`?"))? {
        bail!("missing: cargo-fuzz; install with `{shown}`");
    }
    let status = host_cargo().args(install).status()?;
    ensure!(status.success(), "`{shown}` fails");
    Ok(())
}
