//! The yardstick: Xen itself, from Debian's packages. Guests must run under it as under ours, and `xl` do the same.

pub mod dom0;

use crate::package;
use crate::progress::Step;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use flate2::bufread::GzDecoder;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::time::Duration;

/// Options of the command.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// A shell script for Debian's dom0 to run
    script: PathBuf,
    /// A file that it finds there under its absolute name
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Seconds that boot and script may take
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

/// Runs the command: what `xl` 4.17 does where Debian's kernel is the control domain.
///
/// # Errors
/// When the host cannot be had here, or the script does not end.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let script = fs::read_to_string(&options.script)
        .with_context(|| options.script.display().to_string())?;
    let files = options.files.iter().map(std::path::absolute);
    let files = files.collect::<io::Result<Vec<_>>>()?;
    let step = Step::start("run the script under Xen 4.17");
    let dom0 = dom0::dom0(workspace)?;
    let said = dom0.run(&files, &script, Duration::from_secs(options.seconds))?;
    step.done();
    print!("{said}");
    Ok(())
}

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
