//! A kernel of Debian's at work, as a guest: what it computes and keeps is looked at.

use std::fs;
use std::process::Command;
use std::time::Duration;
use tests::host::TestHost;
use tests::program::Running;
use tests::{WORKSPACE, thorough};
use xtask::linux::{self, Kernel, Linux};
use xtask::qemu::Hardware;
use xtask::ramdisk::Ramdisk;
use xtask::tool::administrative;

use crate::disks::{disk, disk_file};
use crate::linux::{BOOT, ext4, is_content, is_sound, linux, shell};

/// Four processes that fork others, write files, and read, pack and unpack them again, beside one that reads a file larger
/// than memory; meanwhile there is more in a file system in memory than fits, on a volume for swap.
const LOAD: &str = "#!/bin/sh
mkswap /dev/xvdb >/dev/null && swapon /dev/xvdb || echo WRONG: no swap
mkdir /kept && mount -t tmpfs -o size=200m kept /kept || echo WRONG: no memory
mount -t ext4 /dev/xvda /mnt || echo WRONG: no volume
dd if=/dev/urandom of=/kept/file bs=64k count=800 2>/dev/null
kept=$(md5sum </kept/file)
dd if=/dev/urandom of=/mnt/large bs=64k count=1200 2>/dev/null
large=$(md5sum </mnt/large)
end=$(($(date +%s) + $1))
work() {
    rounds=0
    while test $(date +%s) -lt $end; do
        dd if=/dev/urandom of=/mnt/$1.first bs=4k count=50 2>/dev/null
        sum=$(md5sum </mnt/$1.first)
        cp /mnt/$1.first /mnt/$1.second
        test \"$(gzip -c </mnt/$1.second | gunzip -c | md5sum)\" = \"$sum\" || echo WRONG: $1
        rounds=$((rounds + 1))
    done
    test $rounds -gt 0 || echo WRONG: $1 has done nothing
    echo $1 did $rounds rounds
}
for worker in one two three four; do
    work $worker &
done
while test $(date +%s) -lt $end; do
    test \"$(md5sum </mnt/large)\" = \"$large\" || echo WRONG: large
done
wait
tail -n 1 /proc/swaps
test $(awk '/^.dev/ { print $4 }' /proc/swaps) -gt 0 || echo WRONG: nothing was swapped out
test \"$(md5sum </kept/file)\" = \"$kept\" || echo WRONG: kept
umount /mnt && umount /kept && swapoff /dev/xvdb && echo the load is over
";

/// Writes to a volume without end, and says when it has begun to repeat itself.
const WRITE: &str = "#!/bin/sh
mount -t ext4 /dev/xvda /mnt || echo WRONG: no volume
while :; do
    for name in one two three four; do
        mkdir -p /mnt/$name/$name
        dd if=/dev/urandom of=/mnt/$name/$name/file bs=4k count=200 conv=fsync 2>/dev/null
        mv /mnt/$name/$name/file /mnt/$name.file
        rm -r /mnt/$name
    done
    echo once more
done
";

/// The kernel with programs of ours beside busybox.
fn with(host: &TestHost, linux: &Linux, more: &[u8]) -> Linux {
    let mut ramdisk = fs::read(&linux.ramdisk).expect("the ramdisk");
    ramdisk.extend_from_slice(more);
    Linux {
        ramdisk: host.file("ramdisk", ramdisk),
        ..linux.clone()
    }
}

fn programs() -> Vec<u8> {
    let mut ramdisk = Ramdisk::default();
    for (name, text) in [("bin/load", LOAD), ("bin/write", WRITE)] {
        ramdisk.program(name, text.as_bytes()).expect("memory");
    }
    ramdisk.finish().expect("memory")
}

#[track_caller]
fn nothing_is_wrong(console: &Running) {
    let text = console.text();
    assert!(!text.contains("WRONG"), "{text}");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn what_debians_kernel_computes_swaps_and_keeps_under_load_is_right() {
    let Some(linux) = linux(Kernel::Cloud) else {
        return;
    };
    let seconds = if thorough() { 300 } else { 20 };
    let (data, swap) = (disk_file(256 << 20), disk_file(192 << 20));
    ext4(data.path(), 256);
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        disks: vec![disk("data", &data), disk("swap", &swap)],
        ..Hardware::default()
    });
    let linux = with(&host, &linux, &programs());
    let lines = "disk = ['phy:data,raw,xvda,w', 'phy:swap,raw,xvdb,w']";
    let mut console = shell(&host, &linux, [4, 144], lines);
    console.say(&format!("load {seconds}"));
    console.expect_line_within("the load is over", 4 * BOOT + Duration::from_secs(seconds));
    nothing_is_wrong(&console);
    is_content(&host, console);
    host.power_off();
    is_sound(data.path());
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_volume_that_debians_kernel_wrote_to_when_it_was_destroyed_is_sound() {
    let Some(linux) = linux(Kernel::Cloud) else {
        return;
    };
    let data = disk_file(64 << 20);
    ext4(data.path(), 64);
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        disks: vec![disk("data", &data)],
        ..Hardware::default()
    });
    let linux = with(&host, &linux, &programs());
    let mut console = shell(&host, &linux, [2, 192], "disk = ['phy:data,raw,xvda,w']");
    console.say("write");
    for _ in 0..3 {
        console.expect_line_within("once more", BOOT);
    }
    host.xl("destroy linux").ok();
    nothing_is_wrong(&console);
    host.power_off();
    // The journal is what it has for that.
    let replayed = Command::new(administrative("e2fsck"))
        .arg("-p")
        .arg(data.path())
        .status()
        .expect("e2fsck");
    assert!(matches!(replayed.code(), Some(0 | 1)), "{replayed}");
    is_sound(data.path());
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn debians_kernel_withstands_stress_ng() {
    let stress = linux::stress(&WORKSPACE).inspect_err(|error| eprintln!("skipped: {error:#}"));
    let (Some(linux), Ok(stress)) = (linux(Kernel::Cloud), stress) else {
        return;
    };
    let seconds = if thorough() { 60 } else { 4 };
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        memory: 2048,
        ..Hardware::default()
    });
    let linux = with(&host, &linux, &fs::read(stress).expect("the ramdisk"));
    let mut console = shell(&host, &linux, [4, 768], "");
    for stressor in [
        "fork 4",
        "vm 2 --vm-bytes 64m",
        "switch 4",
        "futex 2",
        "timer 2",
        "mmap 2 --mmap-bytes 64m",
    ] {
        console.say(&format!(
            "stress-ng --temp-path /tmp --verify --timeout {seconds} --{stressor} && echo '{stressor} is well'"
        ));
        let limit = BOOT + Duration::from_secs(seconds);
        console.expect_line_within(&format!("{stressor} is well"), limit);
    }
    is_content(&host, console);
}
