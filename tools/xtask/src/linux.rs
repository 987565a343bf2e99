//! Linux as Debian ships it, as a guest's kernel, with a ramdisk that has a shell.

use crate::package;
use crate::progress::Step;
use crate::ramdisk::Ramdisk;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use lzma_rust2::XzReader;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Options of the command.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Which of Debian's kernels
    #[arg(value_enum, default_value_t = Kernel::Cloud)]
    kernel: Kernel,
}

/// Runs the command: a guest's configuration for Debian's kernel, beside those of our own guests.
///
/// # Errors
/// When the kernel cannot be had here, with the reason.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let step = Step::start("fetch Debian's kernel");
    let linux = linux(workspace, options.kernel)?;
    step.done();
    let folder = workspace.dist().join("guests");
    fs::create_dir_all(&folder)?;
    let config = folder.join("linux.cfg");
    let text = format!(
        "# Debian's kernel, as it is packaged, with a shell.\nname = \"linux\"\nkernel = \"{}\"\n\
         ramdisk = \"{}\"\nmemory = 256\nvcpus = 2\nvif = ['']\nextra = \"console=hvc0\"\n",
        linux.kernel.display(),
        linux.ramdisk.display()
    );
    fs::write(&config, text)?;
    println!(
        "At the prompt of cargo xtask run: create -c {}",
        config.display()
    );
    Ok(())
}

/// A kernel of Debian's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kernel {
    /// For virtual machines
    Cloud,
    /// For any machine
    Full,
    /// The newest that Debian 12 has, from backports
    Newest,
}

impl Kernel {
    /// The package that depends on the newest of its kind.
    fn package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Full => "linux-image-amd64",
            Self::Newest => "linux-image-amd64/bookworm-backports",
        }
    }
}

/// What a guest boots.
#[derive(Clone, Debug)]
pub struct Linux {
    /// The boot image.
    pub kernel: PathBuf,
    /// What is mounted first: busybox, which runs a shell on the console.
    pub ramdisk: PathBuf,
    /// A ramdisk with nothing but the modules that a control domain needs, in `modules`.
    pub backends: PathBuf,
}

/// One of Debian's kernels, fetched once and kept in `target/cache`.
///
/// # Errors
/// When it cannot be had here, with the reason.
pub fn linux(workspace: &Workspace, kernel: Kernel) -> Result<Linux> {
    let folder = workspace.cache().join("linux").join(format!("{kernel:?}"));
    let linux = Linux {
        kernel: folder.join("vmlinuz"),
        ramdisk: folder.join("initrd"),
        backends: folder.join("backends"),
    };
    let base = folder.join("base");
    let files = [&linux.kernel, &base, &linux.backends];
    if !files.iter().all(|file| file.is_file()) {
        fetch(workspace, kernel, &linux, &base)?;
    }
    // Its own programs are as they are now, whenever the others were fetched.
    let ramdisk = [fs::read(&base)?, own()?].concat();
    if fs::read(&linux.ramdisk).ok().as_ref() != Some(&ramdisk) {
        let mut scratch = NamedTempFile::new_in(&folder)?;
        scratch.write_all(&ramdisk)?;
        scratch.persist(&linux.ramdisk)?;
    }
    Ok(linux)
}

/// Puts there what does not change.
fn fetch(workspace: &Workspace, kernel: Kernel, linux: &Linux, base: &Path) -> Result<()> {
    let wanted = kernel.package();
    let suite = wanted.find('/').map_or("", |at| &wanted[at..]);
    let image = package::dependency(workspace, wanted, "linux-image-")?;
    let stage = package::unpack(workspace, &format!("{image}{suite}"))?;
    let found = fs::read_dir(stage.path().join("boot"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .with_context(|| format!("{image} has no kernel"))?;
    let busybox = package::unpack(workspace, "busybox-static")?;
    let busybox = fs::read(busybox.path().join("bin/busybox"))?;
    let all = stage.path().join("lib/modules");
    let scratch = |name: &str| stage.path().join(name);
    let mut backends = Ramdisk::default();
    add_modules(&mut backends, &modules(&all, &BACKENDS)?)?;
    fs::write(scratch("backends"), backends.finish()?)?;
    let modules = modules(&all, &FRONTENDS)?;
    fs::write(scratch("base"), ramdisk(&busybox, &modules)?)?;
    fs::create_dir_all(base.parent().context("the cache")?)?;
    fs::rename(scratch("backends"), &linux.backends)?;
    fs::rename(&found, &linux.kernel)?;
    fs::rename(scratch("base"), base)?;
    Ok(())
}

/// A ramdisk with `stress-ng` and its libraries, to be put behind another, fetched once and kept in `target/cache`.
///
/// # Errors
/// When it cannot be had here, with the reason.
pub fn stress(workspace: &Workspace) -> Result<PathBuf> {
    let path = workspace.cache().join("stress-ng");
    if path.is_file() {
        return Ok(path);
    }
    let stage = package::unpack_with_libraries(workspace, &["stress-ng"])?;
    // Large, and of no use there.
    fs::remove_dir_all(stage.path().join("usr/lib/x86_64-linux-gnu/gconv"))?;
    let mut ramdisk = Ramdisk::default();
    for wanted in [
        "lib",
        "lib64",
        "usr/bin/stress-ng",
        "usr/lib/x86_64-linux-gnu",
    ] {
        ramdisk.tree(wanted, &stage.path().join(wanted))?;
    }
    let scratch = stage.path().join("ramdisk");
    fs::write(&scratch, ramdisk.finish()?)?;
    fs::rename(&scratch, &path)?;
    Ok(path)
}

/// What a guest has of a kernel's modules, as far as they are not in the kernel: the frontends, and ext4 with what that
/// needs.
const FRONTENDS: [&str; 9] = [
    "xen-blkfront",
    "xen-netfront",
    "crc16",
    "crc32c-intel",
    "crc32c_generic",
    "libcrc32c",
    "mbcache",
    "jbd2",
    "ext4",
];

/// What a control domain has of them: what its programs reach the hypervisor by, the backends, and what is behind those.
const BACKENDS: [&str; 11] = [
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xenfs",
    "xen-blkback",
    "xen-netback",
    "loop",
    "llc",
    "stp",
    "bridge",
];

/// Those of the `wanted` modules that there are in or below a folder, and what is in their files.
fn modules(folder: &Path, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(modules(&path, wanted)?);
            continue;
        }
        let Some(name) = path.file_name().and_then(OsStr::to_str) else {
            continue;
        };
        let Some((name, suffix)) = name.split_once('.') else {
            continue;
        };
        if !wanted.contains(&name) {
            continue;
        }
        let bytes = fs::read(&path)?;
        let bytes = match suffix {
            "ko" => bytes,
            "ko.xz" => {
                let mut module = Vec::new();
                XzReader::new(&*bytes, true).read_to_end(&mut module)?;
                module
            }
            _ => bail!("module {} is packed in an unknown way", path.display()),
        };
        found.push((name.to_owned(), bytes));
    }
    Ok(found)
}

/// The line that the first program prints when its shell is about to read.
pub const READY: &str = "ramdisk: the shell is ready";

/// The first program. The shell is the console's own, so that a job can be interrupted.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc /sys /run /tmp /mnt /sbin /usr/bin /usr/sbin /modules
/bin/busybox --install -s
mv /end/* /sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
exec >/dev/hvc0 2>&1 </dev/hvc0
stty -echo
# Which needs which is found by trying.
for round in 1 2 3 4; do
    for module in /modules/*; do
        insmod $module 2>/dev/null
    done
done
echo 'ramdisk: the shell is ready'
exec setsid -c sh
";

/// What `udhcpc` runs with what it was told.
const DHCP: &str = "#!/bin/sh
case $1 in
deconfig) ifconfig $interface 0.0.0.0 up ;;
bound | renew) ifconfig $interface $ip netmask $subnet && route add default gw $router ;;
esac
";

/// What the kernel runs when the toolstack asks for the end; nobody is there whom busybox could ask for it.
const ENDS: [(&str, &str); 2] = [
    (
        "end/poweroff",
        "#!/bin/sh\numount -a -r 2>/dev/null\nexec /bin/busybox poweroff -f\n",
    ),
    (
        "end/reboot",
        "#!/bin/sh\numount -a -r 2>/dev/null\nexec /bin/busybox reboot -f\n",
    ),
];

/// An archive with the first program, and what that and the kernel run.
fn own() -> io::Result<Vec<u8>> {
    let mut ramdisk = Ramdisk::default();
    ramdisk.program("init", INIT.as_bytes())?;
    ramdisk.program("bin/dhcp", DHCP.as_bytes())?;
    for (name, text) in ENDS {
        ramdisk.program(name, text.as_bytes())?;
    }
    ramdisk.finish()
}

/// An archive with busybox and a kernel's modules.
fn ramdisk(busybox: &[u8], modules: &[(String, Vec<u8>)]) -> io::Result<Vec<u8>> {
    let mut ramdisk = Ramdisk::default();
    ramdisk.program("bin/busybox", busybox)?;
    add_modules(&mut ramdisk, modules)?;
    ramdisk.finish()
}

fn add_modules(ramdisk: &mut Ramdisk, modules: &[(String, Vec<u8>)]) -> io::Result<()> {
    ramdisk.folder("modules")?;
    let mut modules = modules.iter();
    modules.try_for_each(|(name, bytes)| ramdisk.program(&format!("modules/{name}"), bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ramdisk::entries;

    #[test]
    fn the_ramdisk_has_busybox_and_a_first_program_that_says_when_it_is_ready() {
        let module = ("xen-blkfront".to_owned(), b"module".to_vec());
        let archive = ramdisk(b"busybox", &[module]).unwrap();
        let files = entries(&archive);
        let names: Vec<_> = files.iter().map(|(name, ..)| &**name).collect();
        assert_eq!(
            names,
            ["bin", "bin/busybox", "modules", "modules/xen-blkfront"]
        );
        assert_eq!(
            (&*files[1].2, &*files[3].2),
            (&b"busybox"[..], &b"module"[..])
        );
        let files = entries(&own().unwrap());
        let init = files.iter().find(|(name, ..)| name == "init").unwrap();
        let text = String::from_utf8_lossy(&init.2);
        assert!(text.starts_with("#!/bin/busybox sh\n") && text.contains(READY));
    }
}
