//! The yardstick: Xen itself, from Debian's package. Guests must run under it as under ours.

use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const PACKAGE: &str = "xen-hypervisor-4.17-amd64";
const IMAGE: &str = "xen-4.17-amd64";

/// Xen 4.17's image, fetched once and kept in `target/cache`.
///
/// # Errors
/// When it cannot be had here, with the reason.
pub fn xen(workspace: &Workspace) -> Result<PathBuf> {
    let cache = workspace.cache();
    let image = cache.join(IMAGE);
    if image.is_file() {
        return Ok(image);
    }
    which::which("apt-get").context("no apt-get, so no package of Xen 4.17")?;
    fs::create_dir_all(&cache)?;
    let stage = tempfile::tempdir_in(&cache)?;
    let step = |command: &mut Command| -> Result<Vec<u8>> {
        let output = command
            .current_dir(stage.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!("{}: {}", command.get_program().display(), output.status);
        }
        Ok(output.stdout)
    };
    step(Command::new("apt-get").args(["download", PACKAGE]))?;
    let package = fs::read_dir(stage.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded nothing")?;
    step(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(package)
            .arg("."),
    )?;
    let bytes = step(Command::new("gzip").args(["-dc", &format!("boot/{IMAGE}.gz")]))?;
    let scratch = stage.path().join(IMAGE);
    fs::write(&scratch, bytes)?;
    fs::rename(&scratch, &image)?;
    Ok(image)
}
