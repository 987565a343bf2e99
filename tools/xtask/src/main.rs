//! `cargo xtask`: build, run and test Xenolith.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xtask::installer::Consent;
use xtask::toolchain::Route;
use xtask::workspace::Workspace;
use xtask::{bench, build, fuzz, iso, lint, linux, mutants, reference, run, setup, test};

/// Build, run and test Xenolith. Every command does the set-up that it needs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    /// Toolchain for the bare-metal images: rustup's, or Debian's rustc-web with -Zbuild-std
    #[arg(long, global = true, env = "XENOLITH_TOOLCHAIN", value_name = "WHICH")]
    toolchain: Option<Route>,
    /// Install missing packages without asking (as with CI=true)
    #[arg(long, short, global = true)]
    yes: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need
    Setup,
    /// Build the hypervisor, dom0 and the guests into target/dist
    Build(build::Options),
    /// Boot a host in QEMU, with demonstration guests and a prompt, or for one command
    Run(run::Options),
    /// Fetch Debian's kernel, and write a configuration of a guest for it
    Linux(linux::Options),
    /// Run a script under Xen 4.17 with Debian's dom0 and its xl, to compare ours with
    Reference(reference::Options),
    /// Build target/dist/xenolith.iso, which boots by BIOS and UEFI
    Iso,
    /// Check formatting, and run clippy over host crates and bare-metal images
    Lint,
    /// Lint, host tests, bare-metal builds, and integration tests in QEMU
    Test(test::Options),
    /// Measure the README's figures on this machine
    Bench(bench::Options),
    /// Make each check of memory validation wrong, and look whether a test notices
    Mutants(mutants::Options),
    /// Run a fuzz target for a while
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find()?;
    let consent = Consent::from_environment(cli.yes);
    match &cli.command {
        Command::Setup => setup::run(&workspace, cli.toolchain, consent)?,
        Command::Build(options) => build::run(&workspace, cli.toolchain, consent, options)?,
        Command::Run(options) => {
            return Ok(run::run(&workspace, cli.toolchain, consent, options)?.into());
        }
        Command::Linux(options) => linux::run(&workspace, options)?,
        Command::Reference(options) => reference::run(&workspace, options)?,
        Command::Iso => iso::run(&workspace, cli.toolchain, consent)?,
        Command::Lint => lint::run(&workspace, cli.toolchain, consent)?,
        Command::Bench(options) => bench::run(&workspace, cli.toolchain, consent, options)?,
        Command::Fuzz(options) => fuzz::run(&workspace, consent, options)?,
        Command::Mutants(options) => mutants::run(&workspace, options)?,
        Command::Test(options) => test::run(&workspace, cli.toolchain, consent, options)?,
    }
    Ok(ExitCode::SUCCESS)
}
