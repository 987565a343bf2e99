//! Debian's packages, looked into without being installed.

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Runs a program in a folder; its output.
fn step(folder: &Path, command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().display().to_string();
    let output = command
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .with_context(|| name.clone())?;
    if !output.status.success() {
        bail!("{name}: {}", output.status);
    }
    Ok(output.stdout)
}

/// What is in a package, in a folder that is removed with what this returns. `package` is as apt-get takes it: a name,
/// with `/SUITE` behind it if it is not to be the default's.
///
/// # Errors
/// When it cannot be had here.
pub fn unpack(workspace: &Workspace, package: &str) -> Result<TempDir> {
    let (stage, file) = download(workspace, package)?;
    step(
        stage.path(),
        Command::new("dpkg-deb").arg("--extract").arg(file).arg("."),
    )?;
    Ok(stage)
}

/// The first package whose name begins with `prefix` among those that a package depends on.
///
/// # Errors
/// When the package cannot be had here, or has no such dependency.
pub fn dependency(workspace: &Workspace, package: &str, prefix: &str) -> Result<String> {
    let (stage, file) = download(workspace, package)?;
    let field = step(
        stage.path(),
        Command::new("dpkg-deb")
            .arg("--field")
            .arg(file)
            .arg("Depends"),
    )?;
    let field = String::from_utf8_lossy(&field);
    let names = field
        .split(',')
        .filter_map(|it| it.split_whitespace().next());
    names
        .into_iter()
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .with_context(|| format!("{package} depends on no {prefix}"))
}

fn download(workspace: &Workspace, package: &str) -> Result<(TempDir, PathBuf)> {
    which::which("apt-get").with_context(|| format!("no apt-get, so no package {package}"))?;
    let cache = workspace.cache();
    fs::create_dir_all(&cache)?;
    let stage = tempfile::tempdir_in(&cache)?;
    step(
        stage.path(),
        Command::new("apt-get").arg("download").arg(package),
    )
    .with_context(|| format!("package {package}"))?;
    let file = fs::read_dir(stage.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get downloaded no {package}"))?;
    Ok((stage, file))
}
