//! The yardstick: Xen itself, from Debian's package. Guests must run under it as under ours.

use crate::package;
use crate::workspace::Workspace;
use anyhow::Result;
use flate2::bufread::GzDecoder;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::PathBuf;

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
    let packed = File::open(stage.path().join(format!("boot/{IMAGE}.gz")))?;
    let scratch = stage.path().join(IMAGE);
    io::copy(
        &mut GzDecoder::new(BufReader::new(packed)),
        &mut File::create(&scratch)?,
    )?;
    fs::rename(&scratch, &image)?;
    Ok(image)
}
