//! A machine in QEMU.
//!
//! A machine lives no longer than the program that started it, however that program ends: QEMU
//! gets SIGKILL when the thread that started it is gone, and that thread lives for the machine
//! alone.

use crate::log::Log;
use crate::qmp::Monitor;
use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::io::{PipeReader, Read};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Name of the port that carries the control protocol.
pub const CONTROL_PORT: &str = "org.xenolith.control";

/// Name of the socket of QEMU's monitor, in the machine's directory.
const MONITOR: &str = "monitor.sock";

/// How long QEMU may take from its start to its control connection.
const START_LIMIT: Duration = Duration::from_secs(30);

/// What runs the instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// QEMU's software emulation: runs everywhere.
    #[default]
    Tcg,
    /// The Linux kernel's: needs a usable /dev/kvm.
    Kvm,
    /// Software emulation, one instruction at a time, in which the time-stamp counter counts
    /// instructions.
    #[value(skip)]
    Counted,
}

/// A virtio disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The serial number, by which dom0 names it.
    pub serial: String,
    /// A raw or qcow2 file.
    pub file: PathBuf,
    /// Whether it can only be read, by several hosts at a time.
    pub read_only: bool,
}

/// The longest serial number of a virtio disk.
const MAX_SERIAL: usize = 20;

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((serial, file)) if !serial.is_empty() && !file.is_empty() => {
                if serial.len() > MAX_SERIAL {
                    return Err(format!(
                        "a serial number has at most {MAX_SERIAL} characters"
                    ));
                }
                Ok(Self {
                    serial: serial.to_owned(),
                    file: file.into(),
                    read_only: false,
                })
            }
            _ => Err("expected SERIAL=FILE".to_owned()),
        }
    }
}

impl Disk {
    fn format(&self) -> Result<&'static str> {
        let mut magic = Vec::new();
        fs::File::open(&self.file)
            .and_then(|file| file.take(4).read_to_end(&mut magic))
            .with_context(|| format!("cannot read disk {}", self.file.display()))?;
        Ok(if magic == b"QFI\xfb" { "qcow2" } else { "raw" })
    }
}

/// Hardware.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// Virtio disks.
    pub disks: Vec<Disk>,
    /// What runs the instructions.
    pub accel: Accel,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: 1024,
            disks: Vec::new(),
            accel: Accel::Tcg,
        }
    }
}

/// A boot module with its command line.
#[derive(Clone, Debug)]
pub struct Module {
    /// The file.
    pub file: PathBuf,
    /// Words of its command line, after its name.
    pub arguments: String,
}

/// Firmware for booting from a CD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

/// What the machine boots.
#[derive(Clone, Debug)]
pub enum Boot {
    /// A multiboot kernel, by QEMU's own loader.
    Kernel {
        /// The image.
        image: PathBuf,
        /// Its command line.
        command_line: String,
        /// Its modules; a PV hypervisor takes the first as dom0's kernel.
        modules: Vec<Module>,
    },
    /// A virtual CD.
    Cd {
        /// The ISO image.
        image: PathBuf,
        /// What looks for a boot loader on it.
        firmware: Firmware,
    },
}

impl Boot {
    /// Adds words to a kernel's command line; the boot loader on a CD has its own.
    pub fn add_words(&mut self, words: &str) {
        if let Self::Kernel { command_line, .. } = self {
            command_line.push(' ');
            command_line.push_str(words);
        }
    }

    /// Adds words to the command line of the first module, which is dom0's.
    pub fn add_dom0_words(&mut self, words: &str) {
        if let Self::Kernel { modules, .. } = self
            && let Some(dom0) = modules.first_mut()
        {
            if !dom0.arguments.is_empty() {
                dom0.arguments.push(' ');
            }
            dom0.arguments.push_str(words);
        }
    }
}

/// A running QEMU. It is killed when this is dropped.
pub struct Qemu {
    child: Arc<Mutex<Child>>,
    log: Arc<Log>,
    keeper: Option<JoinHandle<()>>,
    dir: PathBuf,
}

impl Qemu {
    /// Starts a machine. Its first serial port goes to [`Qemu::log`]; the stream is the host's end
    /// of its control port. `dir` is for sockets and links while the machine lives.
    pub fn start(dir: &Path, hardware: &Hardware, boot: &Boot) -> Result<(Self, UnixStream)> {
        let socket = dir.join("qemu.sock");
        // QEMU connects to us, not we to QEMU: so there is nothing to wait for but the connection,
        // and a QEMU whose parent is gone already ends at once.
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen on {}", socket.display()))?;
        let mut command = command_line(dir, hardware, boot)?;
        command
            .current_dir(dir)
            .stdin(Stdio::null())
            .process_group(0);

        let log = Arc::new(Log::default());
        let (sender, receiver) = mpsc::channel();
        let keeper = std::thread::Builder::new().name("qemu".into()).spawn({
            let log = Arc::clone(&log);
            move || match spawn(command) {
                Ok((child, output)) => {
                    let child = Arc::new(Mutex::new(child));
                    if sender.send(Ok(Arc::clone(&child))).is_ok() {
                        log.fill(output);
                    }
                    // No zombie: what closed its output is ending.
                    let _ = child.lock().unwrap_or_else(PoisonError::into_inner).wait();
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        })?;
        let child = receiver
            .recv()
            .map_err(|_| anyhow!("the thread that runs QEMU is gone"))??;
        let qemu = Self {
            child,
            log,
            keeper: Some(keeper),
            dir: dir.to_owned(),
        };
        let control = qemu.accept(&listener)?;
        // The link has served its purpose.
        let _ = fs::remove_file(&socket);
        Ok((qemu, control))
    }

    fn accept(&self, listener: &UnixListener) -> Result<UnixStream> {
        const LOOK: Timespec = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let mut fds = [PollFd::new(listener, PollFlags::IN)];
            match poll(&mut fds, Some(&LOOK)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(listener.accept()?.0),
                Err(error) => return Err(error.into()),
            }
            if self.log.has_ended() {
                bail!("QEMU did not start: {}", self.log.tail(3));
            }
            if Instant::now() > deadline {
                bail!("QEMU did not start in {} s", START_LIMIT.as_secs());
            }
        }
    }

    /// What the machine wrote to its first serial port, with QEMU's own complaints.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// A connection to QEMU's monitor.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn monitor(&self) -> Result<Monitor> {
        Monitor::connect(&self.dir.join(MONITOR))
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .id()
    }

    /// Waits for the machine to go down by itself; `None` if it is still up at `deadline`.
    pub fn wait(&self, deadline: Instant) -> Result<Option<ExitStatus>> {
        if !self.log.wait_for_end(deadline) {
            return Ok(None);
        }
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(child.wait()?))
    }

    /// Ends the machine at once.
    pub fn kill(&self) {
        // An error means that it is gone already.
        let _ = self
            .child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .kill();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
        if let Some(keeper) = self.keeper.take() {
            // It ends with QEMU's output.
            let _ = keeper.join();
        }
    }
}

fn spawn(mut command: Command) -> Result<(Child, PipeReader)> {
    let (output, ours) = std::io::pipe()?;
    command.stdout(ours.try_clone()?).stderr(ours);
    let child = command.spawn().context("cannot run setpriv")?;
    Ok((child, output))
}

fn command_line(dir: &Path, hardware: &Hardware, boot: &Boot) -> Result<Command> {
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    // Blocks of several instructions would do device accesses in their midst, which QEMU refuses
    // while it counts.
    let accel: &[&str] = match hardware.accel {
        Accel::Tcg => &["tcg", "-cpu", "max"],
        Accel::Kvm => &["kvm", "-cpu", "host"],
        Accel::Counted => &[
            "tcg,one-insn-per-tb=on",
            "-icount",
            "shift=0,sleep=off",
            "-cpu",
            "max",
        ],
    };
    qemu.arg("-accel").args(accel);
    qemu.args([
        "-m",
        &hardware.memory.to_string(),
        "-smp",
        &hardware.cpus.to_string(),
    ]);
    qemu.args([
        "-chardev",
        "stdio,id=log,signal=off",
        "-serial",
        "chardev:log",
    ]);
    qemu.args([
        "-chardev",
        &format!("socket,id=monitor,path={MONITOR},server=on,wait=off"),
        "-mon",
        "chardev=monitor,mode=control",
    ]);
    qemu.args(["-chardev", "socket,id=control,path=qemu.sock"]);
    qemu.args(["-device", "virtio-serial-pci,disable-legacy=on"]);
    qemu.args([
        "-device",
        &format!("virtconsole,chardev=control,name={CONTROL_PORT}"),
    ]);
    // A network of QEMU's own, which needs no privileges: it has a DHCP server, and leads out.
    qemu.args(["-netdev", "user,id=net"]);
    qemu.args([
        "-device",
        "virtio-net-pci,disable-legacy=on,netdev=net,romfile=",
    ]);
    for (index, disk) in hardware.disks.iter().enumerate() {
        let file = fs::canonicalize(&disk.file)
            .with_context(|| format!("cannot find disk {}", disk.file.display()))?;
        let format = disk.format()?;
        let read_only = if disk.read_only { "on" } else { "off" };
        let file = escaped(&file)?;
        qemu.args([
            "-drive",
            &format!("if=none,id=disk{index},format={format},readonly={read_only},file={file}"),
        ]);
        let serial = disk.serial.replace(',', ",,");
        let device = format!("virtio-blk-pci,disable-legacy=on,drive=disk{index},serial={serial}");
        qemu.args(["-device", &device]);
    }
    match boot {
        Boot::Kernel {
            image,
            command_line,
            modules,
        } => {
            qemu.args(["-kernel", &link(dir, image)?, "-append", command_line]);
            let mut initrd = Vec::new();
            for module in modules {
                let arguments = module.arguments.replace(',', ",,");
                initrd.push(
                    format!("{} {arguments}", link(dir, &module.file)?)
                        .trim()
                        .to_owned(),
                );
            }
            if !initrd.is_empty() {
                qemu.args(["-initrd", &initrd.join(",")]);
            }
        }
        Boot::Cd { image, firmware } => {
            let image = escaped(&fs::canonicalize(image)?)?;
            qemu.args([
                "-drive",
                &format!("media=cdrom,format=raw,readonly=on,file={image}"),
            ]);
            qemu.args(["-boot", "d"]);
            if *firmware == Firmware::Uefi {
                let code = crate::tool::ovmf_code().context("OVMF is not installed")?;
                let code = escaped(code)?;
                qemu.args([
                    "-drive",
                    &format!("if=pflash,format=raw,readonly=on,file={code}"),
                ]);
            }
        }
    }
    Ok(qemu)
}

/// A path as a value among QEMU's comma-separated options.
fn escaped(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{}: no UTF-8", path.display()))?;
    Ok(text.replace(',', ",,"))
}

/// Links `file` into the machine's directory and returns the name there. QEMU takes no spaces in
/// the paths of modules: it starts their command lines at the first.
fn link(dir: &Path, file: &Path) -> Result<String> {
    let file = fs::canonicalize(file).with_context(|| format!("cannot find {}", file.display()))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let stem: String = file
        .file_name()
        .map(|name| {
            name.to_string_lossy()
                .chars()
                .filter(|c| plain(*c))
                .collect()
        })
        .unwrap_or_default();
    for number in 0.. {
        let name = if number == 0 {
            stem.clone()
        } else {
            format!("{stem}-{number}")
        };
        if name.is_empty() {
            continue;
        }
        match symlink(&file, dir.join(&name)) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context("cannot link a boot file"),
        }
    }
    bail!("no name is left for {}", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> Vec<String> {
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_disk_is_a_serial_number_and_a_file() {
        let disk: Disk = "data=/tmp/a=b.img".parse().unwrap();
        assert_eq!(disk.serial, "data");
        assert_eq!(disk.file, Path::new("/tmp/a=b.img"));
        for bad in [
            "",
            "data",
            "=file",
            "data=",
            "a-serial-number-that-is-long=file",
        ] {
            assert!(bad.parse::<Disk>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn modules_in_odd_places_get_plain_names_and_keep_their_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a dir, with commas");
        fs::create_dir(&odd).unwrap();
        fs::write(odd.join("dom0"), "").unwrap();
        let work = dir.path().join("work");
        fs::create_dir(&work).unwrap();
        let module = |arguments: &str| Module {
            file: odd.join("dom0"),
            arguments: arguments.to_owned(),
        };
        let boot = Boot::Kernel {
            image: odd.join("dom0"),
            command_line: "console=com1".to_owned(),
            modules: vec![module("a=1,2"), module("")],
        };
        let command = command_line(&work, &Hardware::default(), &boot).unwrap();
        let words = words(&command);
        let initrd = words.iter().position(|word| word == "-initrd").unwrap();
        assert_eq!(words[initrd + 1], "dom0-1 a=1,,2,dom0-2");
        assert_eq!(
            fs::canonicalize(work.join("dom0-2")).unwrap(),
            odd.join("dom0")
        );
    }

    #[test]
    fn a_disk_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk {
            serial: "data".into(),
            file: "/nonexistent/disk".into(),
            read_only: false,
        };
        let hardware = Hardware {
            disks: vec![disk],
            ..Hardware::default()
        };
        let boot = Boot::Cd {
            image: "/dev/null".into(),
            firmware: Firmware::Bios,
        };
        let error = command_line(dir.path(), &hardware, &boot).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/disk"));
    }
}
