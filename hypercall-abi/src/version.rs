//! Version, build and features of the hypervisor (`xen/version.h`).

use crate::layout::{constants, structs};

constants! {
    /// Returns major and minor version, 16 bits each. No argument.
    pub const XENVER_VERSION: u32 = 0;
    /// The rest of the version: `Extraversion`.
    pub const XENVER_EXTRAVERSION: u32 = 1;
    /// Who built it, when, with what: `CompileInfo`.
    pub const XENVER_COMPILE_INFO: u32 = 2;
    /// Guests that it can run, as words: `CapabilitiesInfo`.
    pub const XENVER_CAPABILITIES: u32 = 3;
    /// Commit it was built from: `ChangesetInfo`.
    pub const XENVER_CHANGESET: u32 = 4;
    /// Where it is in the address space: `PlatformParameters`.
    pub const XENVER_PLATFORM_PARAMETERS: u32 = 5;
    /// A word of feature bits: `FeatureInfo`.
    pub const XENVER_GET_FEATURES: u32 = 6;
    /// Returns the size of a page. No argument.
    pub const XENVER_PAGESIZE: u32 = 7;
    /// The caller's unique identifier: `DomainHandle`.
    pub const XENVER_GUEST_HANDLE: u32 = 8;
    /// The hypervisor's command line: `Commandline`.
    pub const XENVER_COMMANDLINE: u32 = 9;
    /// The linker's build identifier: `BuildId`; returns its length.
    pub const XENVER_BUILD_ID: u32 = 10;

    /// Length of `Extraversion` in bytes.
    pub const XEN_EXTRAVERSION_LEN: usize = 16;
    /// Length of `CapabilitiesInfo` in bytes.
    pub const XEN_CAPABILITIES_INFO_LEN: usize = 1024;
    /// Length of `ChangesetInfo` in bytes.
    pub const XEN_CHANGESET_INFO_LEN: usize = 64;
}

/// `XENVER_EXTRAVERSION`, zero-terminated (`xen_extraversion_t`).
pub type Extraversion = [u8; XEN_EXTRAVERSION_LEN];
/// `XENVER_CAPABILITIES`, zero-terminated (`xen_capabilities_info_t`).
pub type CapabilitiesInfo = [u8; XEN_CAPABILITIES_INFO_LEN];
/// `XENVER_CHANGESET`, zero-terminated (`xen_changeset_info_t`).
pub type ChangesetInfo = [u8; XEN_CHANGESET_INFO_LEN];
/// `XENVER_COMMANDLINE`, zero-terminated (`xen_commandline_t`).
pub type Commandline = [u8; 1024];

structs! {
    /// `XENVER_COMPILE_INFO`. All are zero-terminated.
    pub struct CompileInfo[144] = "struct xen_compile_info" {
        /// The compiler and its version.
        pub compiler: [u8; 64],
        /// Who built it.
        pub compile_by: [u8; 16],
        /// In which network domain.
        pub compile_domain: [u8; 32],
        /// When.
        pub compile_date: [u8; 32],
    }

    /// `XENVER_PLATFORM_PARAMETERS`.
    pub struct PlatformParameters[8] = "struct xen_platform_parameters" {
        /// First address that is the hypervisor's.
        pub virt_start: u64,
    }

    /// `XENVER_GET_FEATURES`.
    pub struct FeatureInfo[8] = "struct xen_feature_info" {
        /// In: which word, below `XENFEAT_NR_SUBMAPS`.
        pub submap_idx: u32,
        /// Out: the bits, `1 << XENFEAT_*`.
        pub submap: u32,
    }

    /// `XENVER_BUILD_ID`. The identifier's bytes follow.
    pub struct BuildId[4] = "struct xen_build_id" {
        /// In: room for it, in bytes.
        pub len: u32,
    }
}
