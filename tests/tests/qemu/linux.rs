//! Debian's kernels, as they are packaged, as guests.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tests::host::TestHost;
use tests::program::{self, Running};
use tests::{WORKSPACE, dist, wait_for};
use xtask::linux::{self, Kernel, Linux, READY};
use xtask::qemu::{Disk, Hardware};
use xtask::site;
use xtask::tool::administrative;

/// How long a kernel may take to its first program on a busy machine.
pub(crate) const BOOT: Duration = Duration::from_secs(120);

/// What it says wherever there is no local APIC, as under Xen: the identifier that none has is not the CPU's.
const KNOWN: &str = "APIC id mismatch. Firmware: ffff";

/// A kernel of Debian's, or a notice that there is none.
pub(crate) fn linux(kernel: Kernel) -> Option<Linux> {
    linux::linux(&WORKSPACE, kernel)
        .inspect_err(|error| eprintln!("skipped: {error:#}"))
        .ok()
}

/// Creates a guest called `linux`, with so many vCPUs and MiB and these lines of its configuration; its console, once it
/// has a shell.
pub(crate) fn shell(
    host: &TestHost,
    linux: &Linux,
    [vcpus, memory]: [u32; 2],
    lines: &str,
) -> Running {
    let text = format!(
        "name = 'linux'\nkernel = '{}'\nramdisk = '{}'\nvcpus = {vcpus}\nmemory = {memory}\n{lines}\n\
         extra = 'console=hvc0 earlyprintk=xen'\n",
        linux.kernel.display(),
        linux.ramdisk.display()
    );
    let config = host.file("linux.cfg", text);
    host.xl(&format!("create -q {}", config.display())).ok();
    let console = host.start_xl("console linux");
    console.expect_line_within(READY, BOOT);
    console
}

/// Sees that the kernel complained of nothing, and ends it.
pub(crate) fn is_content(host: &TestHost, mut console: Running) {
    console.say(&format!(
        "dmesg | grep -E 'WARN[I]NG:|B[U]G:|[Ff]irmware [Bb]ug' | grep -v '{KNOWN}'; echo nothing else is wrong"
    ));
    console.expect_line("nothing else is wrong");
    let text = console.text();
    for word in ["WARNING:", "BUG:", "irmware Bug"] {
        let mut lines = text.lines().filter(|line| line.contains(word));
        let wrong = lines.find(|line| !line.contains(KNOWN));
        assert_eq!(wrong, None, "{text}");
    }
    console.say("poweroff -f");
    wait_for("the guest to be gone", || {
        host.row("linux").is_none().then_some(())
    });
}

/// Boots a kernel with so many vCPUs and MiB, and sees what it made of them.
fn boots_to_a_shell(host: &TestHost, linux: &Linux, [vcpus, memory]: [u32; 2]) {
    let mut console = shell(host, linux, [vcpus, memory], "");
    // Some of its memory is the kernel's own.
    let least = memory / 2;
    console.say(&format!(
        "test $(nproc) = {vcpus} && test $(free -m | awk '/^Mem/ {{print $2}}') -ge {least} && echo as configured"
    ));
    console.expect_line("as configured");
    is_content(host, console);
}

/// Boots a kernel on as little as it may have, and on more.
fn boots_small_and_large(kernel: Kernel) {
    let Some(linux) = linux(kernel) else { return };
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        memory: 2048,
        ..Hardware::default()
    });
    boots_to_a_shell(&host, &linux, [1, 128]);
    boots_to_a_shell(&host, &linux, [4, 1024]);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn debians_kernel_for_virtual_machines_boots_to_a_shell() {
    boots_small_and_large(Kernel::Cloud);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn debians_kernel_for_any_machine_boots_to_a_shell() {
    boots_small_and_large(Kernel::Full);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn the_newest_kernel_of_debians_boots_to_a_shell() {
    boots_small_and_large(Kernel::Newest);
}

/// A disk of a file.
fn disk(serial: &str, file: &Path, read_only: bool) -> Disk {
    Disk {
        serial: serial.to_owned(),
        file: file.to_owned(),
        read_only,
    }
}

/// Makes a volume with ext4 of so many MiB.
pub(crate) fn ext4(file: &Path, mib: u64) {
    fs::File::create(file)
        .and_then(|image| image.set_len(mib << 20))
        .expect("an image");
    let mkfs = administrative("mkfs.ext4");
    program::run(Command::new(mkfs).arg("-q").arg(file)).ok();
}

/// Sees that there is nothing wrong with such a volume.
pub(crate) fn is_sound(file: &Path) {
    let e2fsck = administrative("e2fsck");
    program::run(Command::new(e2fsck).args(["-f", "-n"]).arg(file)).ok();
}

/// Has a kernel mount an ext4 volume, get an address, and fetch a page from another guest.
fn uses_devices(kernel: Kernel) {
    let Some(linux) = linux(kernel) else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name| dir.path().join(name);
    fs::create_dir(file("files")).expect("a directory");
    fs::write(file("files/index.html"), "the page of another guest\n").expect("a file");
    site::make(&file("files"), &file("www.img")).expect("a volume");
    let data = file("data.img");
    ext4(&data, 64);
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        disks: vec![
            disk("www", &file("www.img"), true),
            disk("data", &data, false),
        ],
        ..Hardware::default()
    });
    let config = dist("guests/httpd.cfg");
    host.xl(&format!("create -q {}", config.display())).ok();
    let server = host.start_xl("console httpd");
    server.expect("httpd: serves");
    let text = server.text();
    let (_, address) = text.split_once("at http://").expect("its address");
    let address = address.split('/').next().unwrap_or_default();

    let devices = "disk = ['phy:data,raw,xvda,w']\nvif = ['']";
    let mut console = shell(&host, &linux, [2, 256], devices);
    console.say("udhcpc -q -n -i eth0 -s /bin/dhcp");
    console.expect("lease of 10.0.2.");
    console.say(&format!("wget -q -O - http://{address}/"));
    console.expect_line("the page of another guest");
    console.say("mount -t ext4 /dev/xvda /mnt && echo mounted $(stat -f -c %T /mnt)");
    console.expect_line("mounted ext2/ext3");
    console.say("dd if=/dev/urandom of=/mnt/random bs=64k count=256 2>/dev/null && md5sum </mnt/random >/mnt/sum");
    console.say("umount /mnt && mount -t ext4 /dev/xvda /mnt && md5sum </mnt/random | cmp - /mnt/sum && echo as written");
    console.expect_line("as written");
    console.say("umount /mnt && echo unmounted");
    console.expect_line("unmounted");
    is_content(&host, console);
    host.xl("destroy httpd").ok();
    host.power_off();
    is_sound(&data);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn debians_kernel_for_virtual_machines_uses_a_volume_and_the_network() {
    uses_devices(Kernel::Cloud);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn debians_kernel_for_any_machine_uses_a_volume_and_the_network() {
    uses_devices(Kernel::Full);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn the_newest_kernel_of_debians_uses_a_volume_and_the_network() {
    uses_devices(Kernel::Newest);
}

/// Has the shell wait until something holds, and say so.
fn until(console: &mut Running, condition: &str, what: &str) {
    console.say(&format!(
        "until {condition}; do sleep 0.1; done; echo '{what}' is so"
    ));
    console.expect_line(&format!("{what} is so"));
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn debians_kernel_does_what_the_toolstack_asks() {
    let Some(linux) = linux(Kernel::Cloud) else {
        return;
    };
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        ..Hardware::default()
    });
    let lines = "maxvcpus = 4\nmaxmem = 384\non_crash = 'preserve'";
    let mut console = shell(&host, &linux, [2, 256], lines);

    until(&mut console, "test $(nproc) = 2", "two vCPUs");
    host.xl("vcpu-set linux 1").ok();
    until(&mut console, "test $(nproc) = 1", "one vCPU");
    host.xl("vcpu-set -i linux 4").ok();
    // It is for the guest's own rules to bring up what it is given.
    let all = "/sys/devices/system/cpu/cpu[123]/online";
    let online =
        format!("(for cpu in {all}; do echo 1 >$cpu; done) 2>/dev/null; test $(nproc) = 4");
    until(&mut console, &online, "four vCPUs");

    let free = || host.info("free_memory").parse::<u64>().expect("MiB");
    let before = free();
    host.xl("mem-set linux 160").ok();
    wait_for("its memory", || (free() >= before + 95).then_some(()));
    host.xl("mem-set linux 256").ok();
    wait_for("its memory back", || (free() <= before).then_some(()));

    host.xl("pause linux").ok();
    let is = |state| host.state("linux").is_some_and(|all| all.contains(state));
    assert!(is('p'));
    host.xl("unpause linux").ok();
    until(&mut console, "true", "that it goes on");
    host.xl("sysrq linux h").ok();
    console.expect("sysrq: HELP");

    let before = host.row("linux");
    let domid = |row: Option<Vec<String>>| row.and_then(|row| row.get(1).cloned());
    host.xl("reboot linux").ok();
    wait_for("another domain", || {
        let now = domid(host.row("linux"))?;
        (Some(now) != domid(before.clone())).then_some(())
    });
    let mut console = host.start_xl("console linux");
    console.expect_line_within(READY, BOOT);
    until(&mut console, "true", "that it has begun anew");

    console.say("echo c >/proc/sysrq-trigger");
    console.expect("Kernel panic");
    wait_for("the crash", || is('c').then_some(()));
    host.xl("destroy linux").ok();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn debians_kernel_ends_when_it_is_asked_to() {
    let Some(linux) = linux(Kernel::Cloud) else {
        return;
    };
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        ..Hardware::default()
    });
    let console = shell(&host, &linux, [2, 256], "");
    host.xl("shutdown -w linux").ok();
    console.expect("reboot: ");
    assert_eq!(host.row("linux"), None);
}
