//! `cargo xtask iso`: a GRUB image that boots a host from a CD, by BIOS or UEFI.

use crate::image::Image;
use crate::installer::{Consent, Installer};
use crate::progress::Step;
use crate::toolchain::{Route, Toolchain};
use crate::workspace::Workspace;
use crate::{build, setup, tool};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const GRUB_CONFIG: &str = "\
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=0
menuentry Xenolith {
    multiboot2 /boot/xenolith com1=115200,8n1 console=com1 loglvl=info dom0_mem=256M
    module2 /boot/dom0 dom0
}
";

/// Runs the command.
pub fn run(workspace: &Workspace, route: Option<Route>, consent: Consent) -> Result<()> {
    let mut installer = Installer::new(consent);
    installer.need(setup::TO_MAKE_ISO)?;
    let toolchain = Toolchain::find(route, &mut installer)?;
    for image in Image::all(workspace)? {
        if image.config.is_none() && image.dist.starts_with(workspace.dist()) {
            build::image_into_dist(workspace, &toolchain, &image)?;
        }
    }
    let iso = path(workspace);
    let dist = workspace.dist();
    make(&dist.join("xenolith"), &dist.join("dom0"), &iso)?;
    eprintln!("xtask: {}", iso.display());
    Ok(())
}

/// Where the image goes.
pub fn path(workspace: &Workspace) -> PathBuf {
    workspace.dist().join("xenolith.iso")
}

/// Makes an image that boots `hypervisor` with `dom0` as its module.
pub fn make(hypervisor: &Path, dom0: &Path, iso: &Path) -> Result<()> {
    let step = Step::start("make the ISO image");
    let stage = tempfile::tempdir()?;
    let boot = stage.path().join("boot");
    fs::create_dir_all(boot.join("grub"))?;
    fs::write(boot.join("grub/grub.cfg"), GRUB_CONFIG)?;
    for (from, name) in [(hypervisor, "xenolith"), (dom0, "dom0")] {
        fs::copy(from, boot.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let mkrescue = tool::grub_mkrescue().context("grub-mkrescue is not installed")?;
    let scratch = iso.with_extension("iso.new");
    let output = Command::new(mkrescue)
        .arg("-o")
        .arg(&scratch)
        .arg(stage.path())
        .output()?;
    if !output.status.success() {
        step.clear();
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("grub-mkrescue: {}\n{}", output.status, said.trim());
    }
    fs::rename(&scratch, iso).with_context(|| format!("cannot write {}", iso.display()))?;
    step.done();
    Ok(())
}
