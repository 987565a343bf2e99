//! Which cargo builds for bare metal.
//!
//! Rustup's toolchain does if it has the target, or can get it. Where rustup's servers are out of
//! reach but a Debian mirror is not, Debian's `rustc-web` does, with the standard library built
//! from `rust-web-src`.

use crate::image::Kind;
use crate::installer::Installer;
use crate::tool::Tool;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use wait_timeout::ChildExt;

/// The target of all bare-metal images.
pub const TARGET: &str = "x86_64-unknown-none";

/// How long `rustup target add` may take before it counts as out of reach.
const ADD_TARGET_LIMIT: Duration = Duration::from_secs(90);

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// The two ways to a bare-metal build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Route {
    /// The cargo that runs this program, with a prebuilt standard library for the target.
    Rustup,
    /// Debian's packages, with the standard library built from source.
    Debian,
}

/// A cargo that can build for [`TARGET`].
#[derive(Clone, Debug)]
pub struct Toolchain {
    route: Route,
    /// A linker, where the toolchain does not bring its own.
    linker: Option<PathBuf>,
}

impl Toolchain {
    /// Finds a toolchain, installing one if there is none.
    ///
    /// `wanted` forces a route; without it, rustup's is tried first.
    pub fn find(wanted: Option<Route>, installer: &mut Installer) -> Result<Self> {
        match wanted {
            Some(Route::Rustup) => Self::rustup(),
            Some(Route::Debian) => Self::debian(installer),
            None => Self::rustup().or_else(|rustup| {
                Self::debian(installer).map_err(|debian| {
                    anyhow::anyhow!(
                        "no toolchain for bare metal: {rustup:#}; {debian:#}; \
                         with a network, `rustup target add {TARGET}` is all it takes"
                    )
                })
            }),
        }
    }

    fn rustup() -> Result<Self> {
        let found = Self {
            route: Route::Rustup,
            linker: None,
        };
        if has_prebuilt_core()? {
            return Ok(found);
        }
        add_target()?;
        if has_prebuilt_core()? {
            Ok(found)
        } else {
            bail!("rustup's toolchain lacks {TARGET}")
        }
    }

    fn debian(installer: &mut Installer) -> Result<Self> {
        installer.need(&[Tool::DebianRust])?;
        let linker = match bundled_linker() {
            Some(linker) => linker,
            None => {
                installer.need(&[Tool::Lld])?;
                which::which("ld.lld").context("ld.lld is installed but not on PATH")?
            }
        };
        Ok(Self {
            route: Route::Debian,
            linker: Some(linker),
        })
    }

    /// Which route this is.
    pub fn route(&self) -> Route {
        self.route
    }

    /// Target directory for images of `kind`. The toolchains do not share one: each would throw
    /// away what the other built.
    pub fn target_dir(&self, workspace: &Workspace, kind: Kind) -> PathBuf {
        let route = match self.route {
            Route::Rustup => "rustup",
            Route::Debian => "debian",
        };
        workspace.target().join("bare").join(route).join(kind.dir())
    }

    /// `cargo SUBCOMMAND` set up for images of `kind`, with `extra` added to their rustc flags.
    pub fn cargo(
        &self,
        workspace: &Workspace,
        subcommand: &str,
        kind: Kind,
        extra: &[&str],
    ) -> Command {
        let mut flags = kind.rustflags(workspace);
        flags.extend(extra.iter().map(ToString::to_string));
        let mut command = match self.route {
            Route::Rustup => host_cargo(),
            Route::Debian => debian_cargo(),
        };
        command.arg(subcommand);
        if self.route == Route::Debian {
            command.args([
                "-Zbuild-std=core,alloc,compiler_builtins",
                "-Zbuild-std-features=compiler-builtins-mem",
            ]);
        }
        if let Some(linker) = &self.linker {
            command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", linker);
        }
        command
            .args(["--target", TARGET, "--release", "--target-dir"])
            .arg(self.target_dir(workspace, kind))
            .current_dir(workspace.root())
            .env("CARGO_PROFILE_RELEASE_LTO", kind.lto())
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", kind.codegen_units())
            .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", kind.checks())
            .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", kind.checks())
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET");
        command
    }
}

/// The cargo that runs this program.
pub fn host_cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn debian_cargo() -> Command {
    let mut command = Command::new(DEBIAN_CARGO);
    command
        .env("RUSTC", DEBIAN_RUSTC)
        .env("RUSTC_BOOTSTRAP", "1");
    // Left by rustup's proxy around this program, they would lead back to rustup's toolchain.
    for name in [
        "CARGO",
        "RUSTUP_TOOLCHAIN",
        "RUSTUP_HOME",
        "LD_LIBRARY_PATH",
        "RUSTC_WRAPPER",
    ] {
        command.env_remove(name);
    }
    command
}

fn rustc_prints(rustc: &Path, what: &[&str]) -> Result<String> {
    let output = Command::new(rustc)
        .args(what)
        .output()
        .with_context(|| format!("cannot run {}", rustc.display()))?;
    if !output.status.success() {
        bail!("{} {}: {}", rustc.display(), what.join(" "), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn host_rustc() -> PathBuf {
    std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from)
}

fn has_prebuilt_core() -> Result<bool> {
    let libdir = rustc_prints(
        &host_rustc(),
        &["--print", "target-libdir", "--target", TARGET],
    )?;
    let Ok(entries) = Path::new(&libdir).read_dir() else {
        return Ok(false);
    };
    Ok(entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-")))
}

fn add_target() -> Result<()> {
    let rustup = which::which("rustup").context("rustup is not installed")?;
    eprintln!("xtask: rustup target add {TARGET}");
    let mut child = Command::new(rustup)
        .args(["target", "add", TARGET])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run rustup")?;
    match child.wait_timeout(ADD_TARGET_LIMIT)? {
        Some(status) if status.success() => Ok(()),
        Some(_) => bail!("rustup cannot add {TARGET}"),
        None => {
            child.kill()?;
            child.wait()?;
            bail!(
                "rustup could not add {TARGET} in {} s",
                ADD_TARGET_LIMIT.as_secs()
            )
        }
    }
}

/// The `rust-lld` that rustup's toolchains bring.
fn bundled_linker() -> Option<PathBuf> {
    let sysroot = rustc_prints(&host_rustc(), &["--print", "sysroot"]).ok()?;
    let linker = Path::new(&sysroot).join("lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld");
    linker.is_file().then_some(linker)
}

/// Whether Debian's `rustc-web`, `cargo-web` and `rust-web-src` are here and of one version.
pub fn debian_is_installed() -> bool {
    let is_web = |version: String| {
        version.split_whitespace().nth(1).is_some_and(|number| {
            let mut parts = number.split('.').map(str::parse::<u32>);
            matches!((parts.next(), parts.next()), (Some(Ok(1)), Some(Ok(minor))) if minor >= 95)
        })
    };
    let rustc = Path::new(DEBIAN_RUSTC);
    rustc_prints(rustc, &["-V"]).is_ok_and(is_web)
        && rustc_prints(Path::new(DEBIAN_CARGO), &["-V"]).is_ok_and(is_web)
        && rustc_prints(rustc, &["--print", "sysroot"]).is_ok_and(|sysroot| {
            Path::new(&sysroot)
                .join("lib/rustlib/src/rust/library/core")
                .is_dir()
        })
}
