//! The bare-metal images and how each is built.
//!
//! The hypervisor and the guests need different code models, so each kind of image has its own
//! flags and its own target directory. Packages are built one by one: features that one image
//! wants must not leak into another.

use crate::toolchain::TARGET;
use crate::workspace::Workspace;
use anyhow::Result;
use std::path::PathBuf;

/// How an image is compiled and linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Linked inside L4 slot 261, outside the top 2 GiB, so neither absolute nor kernel-model
    /// code reaches its symbols: position-independent code at a fixed address.
    Hypervisor,
    /// The same with debug assertions, lock order and arithmetic overflow among them.
    CheckedHypervisor,
    /// A PV kernel (dom0 included), linked wherever its script says.
    Guest,
}

struct Recipe {
    /// Subdirectory of the target directory.
    dir: &'static str,
    /// Linker script, from the top of the checkout.
    script: &'static str,
    flags: &'static [&'static str],
    /// Thin LTO merges only modules of one code model, and `core` as rustup ships it has the
    /// target's default one.
    lto: &'static str,
    /// Without LTO, nothing is inlined from one unit of a crate into another.
    codegen_units: &'static str,
}

impl Kind {
    const fn recipe(self) -> Recipe {
        match self {
            Self::CheckedHypervisor => Recipe {
                dir: "hypervisor-checked",
                ..Self::Hypervisor.recipe()
            },
            Self::Hypervisor => Recipe {
                dir: "hypervisor",
                script: "kernel/linker.ld",
                flags: &[
                    "-Crelocation-model=pie",
                    "-Cjump-tables=no",
                    "-Ccode-model=small",
                    "-Clink-arg=-no-pie",
                    "-Clink-arg=--no-dynamic-linker",
                ],
                lto: "off",
                codegen_units: "1",
            },
            Self::Guest => Recipe {
                dir: "guest",
                script: "pv-guest/guest.ld",
                flags: &["-Crelocation-model=static"],
                lto: "thin",
                codegen_units: "4",
            },
        }
    }

    /// Name of the target directory, under the one of the toolchain.
    pub const fn dir(self) -> &'static str {
        self.recipe().dir
    }

    /// The value of the release profile's `lto`.
    pub const fn lto(self) -> &'static str {
        self.recipe().lto
    }

    /// The value of the release profile's `codegen-units`.
    pub const fn codegen_units(self) -> &'static str {
        self.recipe().codegen_units
    }

    /// The value of the release profile's `debug-assertions` and `overflow-checks`.
    pub fn checks(self) -> &'static str {
        if self == Self::CheckedHypervisor {
            "true"
        } else {
            "false"
        }
    }

    /// The linker script.
    pub fn script(self, workspace: &Workspace) -> PathBuf {
        workspace.root().join(self.recipe().script)
    }

    /// Flags for rustc.
    pub fn rustflags(self, workspace: &Workspace) -> Vec<String> {
        let recipe = self.recipe();
        let script = self.script(workspace);
        let mut flags: Vec<String> = recipe.flags.iter().map(ToString::to_string).collect();
        flags.push(format!("-Clink-arg=-T{}", script.display()));
        flags
    }
}

/// One bare-metal image: a package with a binary of the same name.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name of the package, of its binary and of the file in `target/dist`.
    pub name: String,
    /// How it is compiled and linked.
    pub kind: Kind,
    /// Where the stripped image goes.
    pub dist: PathBuf,
    /// The xl configuration that goes beside it, for guests that have one.
    pub config: Option<PathBuf>,
}

impl Image {
    /// All images of the workspace: the hypervisor, dom0, then the guests by name.
    pub fn all(workspace: &Workspace) -> Result<Vec<Self>> {
        let dist = workspace.dist();
        let system =
            [("xenolith", Kind::Hypervisor), ("dom0", Kind::Guest)].map(|(name, kind)| Self {
                name: name.to_owned(),
                kind,
                dist: dist.join(name),
                config: None,
            });
        let mut images = Vec::from(system);
        for name in workspace.guest_names()? {
            let config = workspace
                .root()
                .join(format!("pv-guest/apps/{name}/{name}.cfg"));
            images.push(Self {
                dist: workspace.guests().join(&name),
                config: config.is_file().then_some(config),
                kind: Kind::Guest,
                name,
            });
        }
        Ok(images)
    }

    /// The hypervisor with debug assertions, beside the one without: for tests, and for whoever looks for a fault in it.
    pub fn checked_hypervisor(workspace: &Workspace) -> Self {
        Self {
            name: "xenolith".to_owned(),
            kind: Kind::CheckedHypervisor,
            dist: workspace.dist().join("xenolith-checked"),
            config: None,
        }
    }

    /// Where cargo leaves the linked binary, symbols included, given the target directory.
    pub fn linked(&self, target_dir: &std::path::Path) -> PathBuf {
        target_dir.join(TARGET).join("release").join(&self.name)
    }
}
