//! The repository and its output directories.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Where sources are read and results are written. All paths are absolute.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace that this program was built from, with `CARGO_TARGET_DIR` honoured.
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .find(|dir| dir.join("Cargo.lock").is_file())
            .context("no Cargo.lock above tools/xtask: is this a checkout of Xenolith?")?
            .to_path_buf();
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), |dir| root.join(dir));
        Ok(Self { root, target })
    }

    /// The top of the checkout.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory for host crates.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// What a user boots: `xenolith`, `dom0`, `guests/`, `xenolith.iso`.
    pub fn dist(&self) -> PathBuf {
        self.target.join("dist")
    }

    /// Guest images, each with its `.cfg` beside it.
    pub fn guests(&self) -> PathBuf {
        self.dist().join("guests")
    }

    /// Things fetched from elsewhere and kept between runs.
    pub fn cache(&self) -> PathBuf {
        self.target.join("cache")
    }

    /// Names of the guest applications: the folders of `pv-guest/apps` that hold a package.
    pub fn guest_names(&self) -> Result<Vec<String>> {
        let apps = self.root.join("pv-guest/apps");
        let mut names = Vec::new();
        let entries = apps
            .read_dir()
            .with_context(|| format!("cannot list {}", apps.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.join("Cargo.toml").is_file()
                && let Some(name) = path.file_name().and_then(|name| name.to_str())
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}
