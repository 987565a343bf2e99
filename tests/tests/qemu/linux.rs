//! Debian's kernels, as they are packaged, as guests.

use std::time::Duration;
use tests::host::TestHost;
use tests::{WORKSPACE, wait_for};
use xtask::linux::{self, Kernel, READY};
use xtask::qemu::Hardware;

/// How long a kernel may take to its first program on a busy machine.
const BOOT: Duration = Duration::from_secs(120);

/// What it says wherever there is no local APIC, as under Xen: the identifier that none has is not the CPU's.
const KNOWN: &str = "APIC id mismatch. Firmware: ffff";

/// Boots a kernel with so many vCPUs and MiB, and sees what it made of them.
fn boots_to_a_shell(host: &TestHost, kernel: Kernel, [vcpus, memory]: [u32; 2]) {
    let linux = match linux::linux(&WORKSPACE, kernel) {
        Ok(linux) => linux,
        Err(error) => return eprintln!("skipped: {error:#}"),
    };
    let text = format!(
        "name = 'linux'\nkernel = '{}'\nramdisk = '{}'\nvcpus = {vcpus}\nmemory = {memory}\n\
         extra = 'console=hvc0 earlyprintk=xen'\n",
        linux.kernel.display(),
        linux.ramdisk.display()
    );
    let config = host.file("linux.cfg", text);
    host.xl(&format!("create -q {}", config.display())).ok();
    let mut console = host.start_xl("console linux");
    console.expect_line_within(READY, BOOT);
    // Some of its memory is the kernel's own.
    let least = memory / 2;
    console.say(&format!(
        "test $(nproc) = {vcpus} && test $(free -m | awk '/^Mem/ {{print $2}}') -ge {least} && echo as configured"
    ));
    console.expect_line("as configured");
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

/// Boots a kernel on as little as it may have, and on more.
fn boots_small_and_large(kernel: Kernel) {
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        memory: 2048,
        ..Hardware::default()
    });
    boots_to_a_shell(&host, kernel, [1, 128]);
    boots_to_a_shell(&host, kernel, [4, 1024]);
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
