//! `cargo xtask build`: the images, stripped, in `target/dist`.

use crate::image::Image;
use crate::installer::{Consent, Installer};
use crate::progress::Step;
use crate::toolchain::{Route, Toolchain};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Options of the command.
#[derive(clap::Args, Debug, Default)]
pub struct Options {
    /// Images to build: xenolith, dom0 or the name of a guest (default: all)
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Build the hypervisor with debug assertions, as xenolith-checked
    #[arg(long, conflicts_with = "images")]
    pub checked: bool,
}

/// Runs the command.
pub fn run(
    workspace: &Workspace,
    route: Option<Route>,
    consent: Consent,
    options: &Options,
) -> Result<()> {
    let toolchain = Toolchain::find(route, &mut Installer::new(consent))?;
    if options.checked {
        let image = Image::checked_hypervisor(workspace);
        return image_into_dist(workspace, &toolchain, &image);
    }
    for image in chosen(workspace, &options.images)? {
        image_into_dist(workspace, &toolchain, &image)?;
    }
    Ok(())
}

/// All images, or those named.
fn chosen(workspace: &Workspace, names: &[String]) -> Result<Vec<Image>> {
    let all = Image::all(workspace)?;
    if let Some(unknown) = names
        .iter()
        .find(|name| !all.iter().any(|image| image.name == **name))
    {
        let known = all
            .iter()
            .map(|image| image.name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        bail!("no image is called {unknown}: there are {known}");
    }
    Ok(all
        .into_iter()
        .filter(|image| names.is_empty() || names.contains(&image.name))
        .collect())
}

/// Builds one image and puts it where users find it.
pub fn image_into_dist(workspace: &Workspace, toolchain: &Toolchain, image: &Image) -> Result<()> {
    let step = Step::start(format!("build {}", image.name));
    let linked = image.linked(&toolchain.target_dir(workspace, image.kind));
    if is_older(&linked, &image.kind.script(workspace)) {
        // Cargo does not know of the script: it would take the image for fresh.
        let mut clean = toolchain.cargo(workspace, "clean", image.kind, &[]);
        step.cargo(clean.args(["--package", &image.name]))?;
    }
    let mut cargo = toolchain.cargo(workspace, "build", image.kind, &[]);
    step.cargo(cargo.args(["--package", &image.name, "--bin", &image.name]))?;
    let parent = image.dist.parent().context("an image has a directory")?;
    fs::create_dir_all(parent)?;
    strip(&linked, &image.dist)?;
    if let Some(config) = &image.config {
        let text = fs::read_to_string(config)
            .with_context(|| format!("cannot read {}", config.display()))?;
        let text = with_kernel(&text, &image.dist);
        fs::write(image.dist.with_extension("cfg"), text)?;
    }
    step.done();
    Ok(())
}

/// Whether there is a `file`, last written before `source` was.
fn is_older(file: &Path, source: &Path) -> bool {
    let written = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    matches!((written(file), written(source)), (Ok(file), Ok(source)) if file < source)
}

/// Copies an ELF without symbols and debug information, which no loader reads. The file with
/// both stays in the target directory for a debugger.
fn strip(from: &Path, to: &Path) -> Result<()> {
    // A new file, then a rename: a QEMU that has the old one open keeps what it has.
    let scratch = to.with_extension("new");
    match which::which("strip") {
        Ok(strip) => {
            let status = Command::new(strip)
                .arg("-o")
                .arg(&scratch)
                .arg(from)
                .status()?;
            if !status.success() {
                bail!("strip {}: {status}", from.display());
            }
        }
        // Binutils come with every C toolchain; without them the image is just larger.
        Err(_) => {
            fs::copy(from, &scratch).with_context(|| format!("cannot copy {}", from.display()))?;
        }
    }
    fs::rename(&scratch, to).with_context(|| format!("cannot write {}", to.display()))
}

/// The configuration with `kernel` naming `image` by its absolute path: xl takes paths relative
/// to its working directory, and a configuration must work from any.
fn with_kernel(config: &str, image: &Path) -> String {
    let mut text = String::with_capacity(config.len());
    for line in config.lines() {
        let is_kernel = line
            .split_once('=')
            .is_some_and(|(key, _)| key.trim_end().trim_start() == "kernel");
        if is_kernel {
            text.push_str(&format!("kernel = \"{}\"", image.display()));
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_in_dist_names_its_kernel_by_absolute_path() {
        let config = "# kernel = no\nname = 'a'\nkernel='a'\nmemory = 64\n";
        let made = with_kernel(config, Path::new("/t/guests/a"));
        assert_eq!(
            made,
            "# kernel = no\nname = 'a'\nkernel = \"/t/guests/a\"\nmemory = 64\n"
        );
    }

    #[test]
    fn an_image_that_does_not_exist_is_refused_with_the_names_of_those_that_do() {
        let workspace = Workspace::find().unwrap();
        let error = chosen(&workspace, &["nothing".to_owned()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("nothing") && error.contains("xenolith, dom0"),
            "{error}"
        );
    }
}
