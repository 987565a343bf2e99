//! What `cargo xtask` does, as a library: the integration tests boot hosts with the same code.
//!
//! | module | noun |
//! |---|---|
//! | [`workspace`] | the repository and its output directories |
//! | [`image`] | the bare-metal images and how each is built |
//! | [`toolchain`] | which cargo builds for bare metal |
//! | [`progress`] | what a person sees while a step runs |
//! | [`tool`] | programs that the commands need |
//! | [`installer`] | the system's package manager |
//! | [`log`] | what a machine writes to its serial port |
//! | [`qemu`] | a machine |
//! | [`host`] | a machine whose dom0 answers `xl` |
//! | [`qmp`] | its monitor |
//! | [`forward`] | ports that lead to guests |
//! | [`site`] | the disk of the demonstration's web server |
//! | [`interrupt`] | signals that end a command |
//! | [`source`] | sizes of source code |
//! | [`package`] | Debian's packages, looked into |
//! | [`ramdisk`] | what Linux unpacks before it starts |
//! | [`linux`] | Debian's kernels as guests, and what they run |
//! | [`reference`] | Xen itself, the yardstick |
//! | [`setup`], [`build`], [`run`], [`test`], [`iso`], [`lint`], [`bench`], [`mutants`], [`fuzz`] | the commands |
#![forbid(unsafe_code)]

pub mod bench;
pub mod build;
pub mod forward;
pub mod fuzz;
pub mod host;
pub mod image;
pub mod installer;
pub mod interrupt;
pub mod iso;
pub mod lint;
pub mod linux;
pub mod log;
pub mod mutants;
pub mod package;
pub mod progress;
pub mod qemu;
pub mod qmp;
pub mod ramdisk;
pub mod reference;
pub mod run;
pub mod setup;
pub mod site;
pub mod source;
pub mod test;
pub mod tool;
pub mod toolchain;
pub mod workspace;
