//! Programs and files that the commands need, how to tell that they are here, and the packages
//! that bring them.

use crate::installer::Manager;
use crate::toolchain;
use std::path::{Path, PathBuf};
use std::process::Command;

/// QEMU before this release pushes a wrong error code for the #GP of `int n` in long mode
/// (n*16+2 for n*8+2), which breaks guests that use software interrupts.
pub const OLDEST_QEMU: u32 = 8;

/// One thing that a command needs beyond Rust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Debian's rustc, cargo and library source, recent enough.
    DebianRust,
    /// A linker for bare-metal images.
    Lld,
    /// `qemu-system-x86_64`, [`OLDEST_QEMU`] or later.
    Qemu,
    /// `setpriv`, which ties QEMU's life to ours.
    Setpriv,
    /// A C compiler, for comparing layouts with Xen's headers.
    Cc,
    /// A C++ compiler, for libFuzzer.
    Cxx,
    /// Xen's public headers.
    XenHeaders,
    /// `grub-mkrescue`.
    GrubMkrescue,
    /// GRUB's modules for BIOS.
    GrubBios,
    /// GRUB's modules for 64-bit UEFI.
    GrubEfi,
    /// `xorriso`, which `grub-mkrescue` runs.
    Xorriso,
    /// `mformat`, which `grub-mkrescue` runs for UEFI.
    Mtools,
    /// UEFI firmware for QEMU.
    Ovmf,
    /// `mkfs.ext4` and `e2fsck`.
    E2fsprogs,
}

/// Where distributions put OVMF's code image.
const OVMF_PATHS: &[&str] = &[
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
    "/usr/share/qemu/ovmf-x86_64-code.bin",
];

/// The UEFI firmware's code image, if one is installed.
pub fn ovmf_code() -> Option<&'static Path> {
    OVMF_PATHS.iter().map(Path::new).find(|path| path.is_file())
}

/// The name of the program that makes rescue images: Fedora and openSUSE call GRUB `grub2`.
pub fn grub_mkrescue() -> Option<std::path::PathBuf> {
    ["grub-mkrescue", "grub2-mkrescue"]
        .iter()
        .find_map(|name| which::which(name).ok())
}

impl Tool {
    /// Whether it is here and good enough.
    pub fn is_present(self) -> bool {
        let on_path = |name: &str| which::which(name).is_ok();
        let grub_modules = |platform: &str| {
            ["/usr/lib/grub", "/usr/share/grub2"]
                .iter()
                .any(|dir| Path::new(dir).join(platform).join("modinfo.sh").is_file())
        };
        match self {
            Self::DebianRust => toolchain::debian_is_installed(),
            Self::Lld => on_path("ld.lld"),
            Self::Qemu => qemu_version().is_some_and(|major| major >= OLDEST_QEMU),
            Self::Setpriv => on_path("setpriv"),
            Self::Cc => on_path("cc"),
            Self::Cxx => on_path("c++"),
            Self::XenHeaders => Path::new("/usr/include/xen/xen.h").is_file(),
            Self::GrubMkrescue => grub_mkrescue().is_some(),
            Self::GrubBios => grub_modules("i386-pc"),
            Self::GrubEfi => grub_modules("x86_64-efi"),
            Self::Xorriso => on_path("xorriso"),
            Self::Mtools => on_path("mformat"),
            Self::Ovmf => ovmf_code().is_some(),
            Self::E2fsprogs => administrative("mkfs.ext4").is_file(),
        }
    }

    /// Its name, for a person.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DebianRust => "Debian's rustc-web",
            Self::Lld => "ld.lld",
            Self::Qemu => "QEMU 8 or later",
            Self::Setpriv => "setpriv",
            Self::Cc => "a C compiler",
            Self::Cxx => "a C++ compiler",
            Self::XenHeaders => "Xen's public headers",
            Self::GrubMkrescue => "grub-mkrescue",
            Self::GrubBios => "GRUB for BIOS",
            Self::GrubEfi => "GRUB for UEFI",
            Self::Xorriso => "xorriso",
            Self::Mtools => "mtools",
            Self::Ovmf => "OVMF",
            Self::E2fsprogs => "e2fsprogs",
        }
    }

    /// The packages that bring it; empty where the distribution has none.
    pub const fn packages(self, manager: Manager) -> &'static [&'static str] {
        use Manager::{Apk, Apt, Dnf, Pacman, Zypper};
        match (self, manager) {
            (Self::DebianRust, Apt) => &["rustc-web", "cargo-web", "rust-web-src"],
            (Self::DebianRust, _) => &[],
            (Self::Lld, _) => &["lld"],
            (Self::Qemu, Apt | Pacman) => &["qemu-system-x86"],
            (Self::Qemu, Dnf) => &["qemu-system-x86-core"],
            (Self::Qemu, Zypper) => &["qemu-x86"],
            (Self::Qemu, Apk) => &["qemu-system-x86_64"],
            (Self::Setpriv, Apk) => &["setpriv"],
            (Self::Setpriv, _) => &["util-linux"],
            (Self::Cc, Apt) => &["gcc", "libc6-dev"],
            (Self::Cc, Apk) => &["gcc", "musl-dev"],
            (Self::Cc, _) => &["gcc"],
            (Self::Cxx, Dnf | Zypper) => &["gcc-c++"],
            (Self::Cxx, Pacman) => &["gcc"],
            (Self::Cxx, Apt | Apk) => &["g++"],
            (Self::XenHeaders, Apt) => &["libxen-dev"],
            (Self::XenHeaders, Dnf | Zypper) => &["xen-devel"],
            (Self::XenHeaders, Apk) => &["xen-dev"],
            (Self::XenHeaders, Pacman) => &[],
            (Self::GrubMkrescue, Apt) => &["grub-common"],
            (Self::GrubMkrescue, Dnf) => &["grub2-tools-extra"],
            (Self::GrubMkrescue, Zypper) => &["grub2"],
            (Self::GrubMkrescue, Pacman | Apk) => &["grub"],
            (Self::GrubBios, Apt) => &["grub-pc-bin"],
            (Self::GrubBios, Dnf) => &["grub2-pc-modules"],
            (Self::GrubBios, Zypper) => &["grub2-i386-pc"],
            (Self::GrubBios, Pacman) => &["grub"],
            (Self::GrubBios, Apk) => &["grub-bios"],
            (Self::GrubEfi, Apt) => &["grub-efi-amd64-bin"],
            (Self::GrubEfi, Dnf) => &["grub2-efi-x64-modules"],
            (Self::GrubEfi, Zypper) => &["grub2-x86_64-efi"],
            (Self::GrubEfi, Pacman) => &["grub"],
            (Self::GrubEfi, Apk) => &["grub-efi"],
            (Self::Xorriso, Pacman) => &["libisoburn"],
            (Self::Xorriso, _) => &["xorriso"],
            (Self::Mtools, _) => &["mtools"],
            (Self::Ovmf, Apt | Apk) => &["ovmf"],
            (Self::Ovmf, Dnf | Pacman) => &["edk2-ovmf"],
            (Self::Ovmf, Zypper) => &["qemu-ovmf-x86_64"],
            (Self::E2fsprogs, _) => &["e2fsprogs"],
        }
    }
}

/// A program for administrators, whose folder is not on everybody's path.
pub fn administrative(name: &str) -> PathBuf {
    which::which(name).unwrap_or_else(|_| Path::new("/usr/sbin").join(name))
}

/// Major version of the installed QEMU.
pub fn qemu_version() -> Option<u32> {
    let output = Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .ok()?;
    parse_qemu_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_qemu_version(text: &str) -> Option<u32> {
    text.strip_prefix("QEMU emulator version ")?
        .split('.')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_version_is_the_number_before_the_first_dot() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        assert_eq!(parse_qemu_version(debian), Some(10));
        assert_eq!(parse_qemu_version("QEMU emulator version 7.2.19"), Some(7));
        assert_eq!(parse_qemu_version("qemu: not found"), None);
    }
}
