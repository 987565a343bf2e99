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
    extract(&file, stage.path())?;
    Ok(stage)
}

/// What is in several packages and in the libraries that they need, in one folder that is removed with what this returns.
///
/// # Errors
/// When one of them cannot be had here.
pub fn unpack_with_libraries(workspace: &Workspace, packages: &[&str]) -> Result<TempDir> {
    let all = stage(workspace)?;
    let mut known: Vec<String> = packages.iter().map(|&name| name.to_owned()).collect();
    let mut next = 0;
    while let Some(package) = known.get(next) {
        let (stage, file) = download(workspace, package)?;
        extract(&file, all.path())?;
        for name in dependencies(stage.path(), &file)? {
            // Programs that a package wants beside it are for its user to choose.
            let library = name.starts_with("lib") || name == "zlib1g";
            if library && !known.contains(&name) {
                known.push(name);
            }
        }
        next += 1;
    }
    Ok(all)
}

/// The first package whose name begins with `prefix` among those that a package depends on.
///
/// # Errors
/// When the package cannot be had here, or has no such dependency.
pub fn dependency(workspace: &Workspace, package: &str, prefix: &str) -> Result<String> {
    let (stage, file) = download(workspace, package)?;
    dependencies(stage.path(), &file)?
        .into_iter()
        .find(|name| name.starts_with(prefix))
        .with_context(|| format!("{package} depends on no {prefix}"))
}

/// The packages that one depends on: where others would do as well, the first.
fn dependencies(folder: &Path, file: &Path) -> Result<Vec<String>> {
    let field = step(
        folder,
        Command::new("dpkg-deb")
            .arg("--field")
            .arg(file)
            .arg("Depends"),
    )?;
    let field = String::from_utf8_lossy(&field);
    let names = field
        .split(',')
        .filter_map(|it| it.split([' ', '\n', ':']).find(|word| !word.is_empty()));
    Ok(names.map(str::to_owned).collect())
}

fn extract(file: &Path, folder: &Path) -> Result<()> {
    let mut dpkg = Command::new("dpkg-deb");
    step(folder, dpkg.arg("--extract").arg(file).arg("."))?;
    Ok(())
}

/// A folder for what is fetched.
fn stage(workspace: &Workspace) -> Result<TempDir> {
    let cache = workspace.cache();
    fs::create_dir_all(&cache)?;
    Ok(tempfile::tempdir_in(&cache)?)
}

fn download(workspace: &Workspace, package: &str) -> Result<(TempDir, PathBuf)> {
    which::which("apt-get").with_context(|| format!("no apt-get, so no package {package}"))?;
    let stage = stage(workspace)?;
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
