//! The guest `selftest`, which tries the hypercall interface from inside: under our hypervisor and
//! under Xen 4.17, as dom0 and as an ordinary guest.

use std::path::Path;
use tests::bare::Bare;
use tests::host::TestHost;
use tests::{dist, hypervisor, reference, wait_for};
use xtask::qemu::{Boot, Hardware, Module};

/// What it says at last if nothing failed.
const GOOD: &str = ", 0 failed";

/// Panics with its failed tests unless it reports none.
#[track_caller]
fn assert_good(report: &str) {
    let failed: Vec<&str> = report
        .lines()
        .filter(|line| line.starts_with("not ok"))
        .collect();
    let summary = report
        .lines()
        .find(|line| line.starts_with("# done"))
        .unwrap_or("no summary");
    assert!(
        summary.contains(GOOD) && failed.is_empty(),
        "{summary}\n{}",
        failed.join("\n")
    );
}

fn passes_as_dom0(image: &Path) {
    let boot = Boot::Kernel {
        image: image.to_path_buf(),
        command_line: "com1=115200,8n1 console=com1 noreboot dom0_mem=256M".to_owned(),
        modules: vec![Module {
            file: dist("guests/selftest"),
            arguments: String::new(),
        }],
    };
    let machine = Bare::boot(&Hardware::default(), &boot);
    machine.expect_line("# done");
    assert_good(&machine.text());
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn selftest_passes_as_dom0_under_our_hypervisor() {
    passes_as_dom0(&hypervisor());
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn selftest_passes_as_dom0_under_xen() {
    if let Some(xen) = reference() {
        passes_as_dom0(&xen);
    }
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn selftest_passes_as_an_ordinary_guest_on_each_processor() {
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        ..Hardware::default()
    });
    let config = dist("guests/selftest.cfg");
    // With events in queues, and without.
    for (words, cpu) in [("", "1"), ("xen.fifo_events=0", "0")] {
        let mut create = host.xl_command(["create", "-p"]);
        create.args([
            &config.display().to_string(),
            &format!("extra='{words}'"),
            &format!("cpus='{cpu}'"),
        ]);
        tests::program::run(&mut create).ok();
        let console = host.start_xl("console selftest");
        host.xl("unpause selftest").ok();
        console.expect_line("# done");
        assert_good(&console.text());
        wait_for("the guest to be gone", || {
            host.row("selftest").is_none().then_some(())
        });
    }
}
