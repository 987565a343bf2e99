//! The yardstick: Xen itself, from Debian's package. Guests must run under it as under ours.

use crate::package;
use crate::workspace::Workspace;
use anyhow::Result;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const PACKAGE: &str = "xen-hypervisor-4.17-amd64";
const IMAGE: &str = "xen-4.17-amd64";

/// Xen 4.17's image, fetched once and kept in `target/cache`.
///
/// # Errors
/// When it cannot be had here, with the reason.
pub fn xen(workspace: &Workspace) -> Result<PathBuf> {
    let image = workspace.cache().join(IMAGE);
    if image.is_file() {
        return Ok(image);
    }
    let stage = package::unpack(workspace, PACKAGE)?;
    let packed = format!("boot/{IMAGE}.gz");
    let bytes = package::step(stage.path(), Command::new("gzip").args(["-dc", &packed]))?;
    let scratch = stage.path().join(IMAGE);
    fs::write(&scratch, bytes)?;
    fs::rename(&scratch, &image)?;
    Ok(image)
}
