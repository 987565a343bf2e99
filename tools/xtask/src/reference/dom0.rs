//! Debian's own control domain under Xen 4.17: its kernel, xenstored, xenconsoled and `xl`, none of it installed here, in a
//! ramdisk. What `xl` does there is what ours is compared with.

use super::xen;
use crate::linux::{self, Kernel};
use crate::package;
use crate::qemu::{Boot, Hardware, Module, Qemu};
use crate::ramdisk::Ramdisk;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the programs come from. Some of Xen's scripts need bash.
const PACKAGES: [&str; 5] = [
    "xen-utils-4.17",
    "xen-utils-common",
    "xenstore-utils",
    "bash",
    "busybox-static",
];

/// What is taken of the packages, as far as it is there.
const WANTED: [&str; 9] = [
    "bin",
    "etc/xen",
    "lib",
    "lib64",
    "usr/bin",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/xen-4.17/bin",
    "usr/lib/xen-common",
    "usr/sbin",
];

/// What is large and of no use there, below what is wanted.
const UNWANTED: [&str; 1] = ["usr/lib/x86_64-linux-gnu/gconv"];

/// By which Xen's scripts wait for each other.
const FLOCK: &str = "usr/bin/flock";

/// What a control domain boots.
#[derive(Clone, Debug)]
pub struct Dom0 {
    /// Xen.
    pub xen: PathBuf,
    /// The kernel.
    pub kernel: PathBuf,
    /// The ramdisks, to be put one behind the other: the programs, and the kernel's modules. They lack a first program.
    ramdisks: [PathBuf; 2],
}

/// All that it takes, fetched once and kept in `target/cache`.
///
/// # Errors
/// When it cannot be had here, with the reason.
pub fn dom0(workspace: &Workspace) -> Result<Dom0> {
    let linux = linux::linux(workspace, Kernel::Full)?;
    let programs = workspace.cache().join("dom0-programs");
    let dom0 = Dom0 {
        xen: xen(workspace)?,
        kernel: linux.kernel,
        ramdisks: [programs.clone(), linux.backends],
    };
    if programs.is_file() {
        return Ok(dom0);
    }
    let stage = package::unpack_with_libraries(workspace, &PACKAGES)?;
    for unwanted in UNWANTED {
        fs::remove_dir_all(stage.path().join(unwanted)).context(unwanted)?;
    }
    let mut ramdisk = Ramdisk::default();
    for wanted in WANTED {
        ramdisk.tree(wanted, &stage.path().join(wanted))?;
    }
    // Of that package's programs only one is missing in busybox, and that one needs no libraries of its own.
    let more = package::unpack(workspace, "util-linux")?;
    ramdisk.tree(FLOCK, &more.path().join(FLOCK))?;
    let scratch = stage.path().join("ramdisk");
    fs::write(&scratch, ramdisk.finish()?)?;
    fs::rename(&scratch, &programs)?;
    Ok(dom0)
}

/// The words of Xen's command line. It is to write nothing into what the script prints.
const COMMAND_LINE: &str =
    "com1=115200,8n1 console=com1 noreboot dom0_mem=512M loglvl=error guest_loglvl=error";

/// The lines between which a script prints.
const BEGIN: &str = "dom0: the script begins";
const END: &str = "dom0: the script ended";

/// The first program. It makes what a device manager would, and the bridge `xenbr0`.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
/bin/busybox mkdir -p /dev /proc /sys /run/lock /run/xen /run/xenstored /sbin /tmp /var/lib/xen /var/log/xen
/bin/busybox --install -s
ln -s /run /var/run
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts
mount -t devpts pts /dev/pts
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
exec >/dev/hvc0 2>&1 </dev/hvc0
stty -echo
# Which needs which is found by trying.
for round in 1 2 3; do
    for module in /modules/*; do
        insmod $module 2>/dev/null
    done
done
mount -t xenfs xenfs /proc/xen
xenstored --pid-file /run/xenstored.pid
until xenstore-read -s / >/dev/null 2>&1; do sleep 0.1; done
/usr/lib/xen-4.17/bin/xen-init-dom0
mkdir -p /var/log/xen/console
xenconsoled --log=guest --pid-file=/run/xenconsoled.pid
brctl addbr xenbr0
ip link set xenbr0 up
echo 'dom0: the script begins'
sh /script
echo 'dom0: the script ended'
poweroff -f
";

impl Dom0 {
    /// Boots Xen with its control domain, has that run a shell script, and returns what it printed. The files are there under
    /// the names that they have here.
    ///
    /// # Errors
    /// When the host cannot be had or started, or the script has not ended when it may last no longer.
    pub fn run(&self, files: &[PathBuf], script: &str, limit: Duration) -> Result<String> {
        let stage = tempfile::tempdir()?;
        let mut ramdisk = Vec::new();
        for part in &self.ramdisks {
            ramdisk.extend(fs::read(part).with_context(|| part.display().to_string())?);
        }
        ramdisk.extend(own(files, script)?);
        let file = stage.path().join("ramdisk");
        fs::write(&file, ramdisk)?;
        let boot = Boot::Kernel {
            image: self.xen.clone(),
            command_line: COMMAND_LINE.to_owned(),
            modules: vec![
                Module {
                    file: self.kernel.clone(),
                    // Only what ends the kernel is worth a line between the script's.
                    arguments: "console=hvc0 loglevel=1".to_owned(),
                },
                Module {
                    file,
                    arguments: String::new(),
                },
            ],
        };
        let hardware = Hardware {
            memory: 2048,
            ..Hardware::default()
        };
        let (qemu, _control) = Qemu::start(stage.path(), &hardware, &boot)?;
        let log = qemu.log();
        let ended = log.wait_for_line(END, Instant::now() + limit).is_some();
        let text = log.text();
        let lines = text.lines().skip_while(|line| *line != BEGIN).skip(1);
        let said: String = lines
            .take_while(|line| *line != END)
            .map(|line| format!("{line}\n"))
            .collect();
        if !ended {
            bail!(
                "the reference host did not come to an end:\n{}",
                log.tail(60)
            );
        }
        Ok(said)
    }
}

/// The ramdisk with what is different from run to run, and the first program.
fn own(files: &[PathBuf], script: &str) -> Result<Vec<u8>> {
    let mut ramdisk = Ramdisk::default();
    ramdisk.program("init", INIT.as_bytes())?;
    ramdisk.program("script", script.as_bytes())?;
    for path in files {
        let name = path.to_str().context("a path that is no UTF-8")?;
        let name = name
            .strip_prefix('/')
            .with_context(|| format!("{name}: not an absolute path"))?;
        ramdisk.tree(name, path)?;
    }
    Ok(ramdisk.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ramdisk::entries;

    #[test]
    fn files_are_where_they_are_here_and_the_script_is_run_between_two_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guest");
        fs::write(&path, "an image").unwrap();
        let found = entries(&own(std::slice::from_ref(&path), "xl list").unwrap());
        let bytes = |name: &str| {
            let entry = found.iter().find(|(found, ..)| found == name);
            String::from_utf8_lossy(&entry.unwrap().2).into_owned()
        };
        assert_eq!(
            bytes(path.to_str().unwrap().trim_start_matches('/')),
            "an image"
        );
        assert_eq!(bytes("script"), "xl list");
        assert!(bytes("init").contains(&format!("echo '{BEGIN}'\nsh /script\necho '{END}'\n")));
        assert!(own(&["relative".into()], "").is_err());
    }
}
