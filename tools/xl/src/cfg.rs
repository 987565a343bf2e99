//! xl.cfg: how a domain is described.
//!
//! [`syntax`] is the grammar, as `xl.cfg(5)` and the reference's parser have it; [`document`] puts
//! the settings of a file and of the command line together and reads them by type; [`keys`] knows
//! which keys exist; [`mod@disk`] reads disks, [`vif`] network interfaces, and
//! [`domain`] makes a domain's description of them.

mod cpus;
pub mod disk;
pub mod document;
pub mod domain;
pub mod keys;
pub mod syntax;
pub mod vif;
