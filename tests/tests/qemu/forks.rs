//! The guest `forks`, which runs a hundred processes with copy-on-write: on one vCPU and on two, as
//! an ordinary guest and as dom0, under our hypervisor and under Xen 4.17.

use std::path::Path;
use tests::bare::Bare;
use tests::host::TestHost;
use tests::{dist, hypervisor, reference, wait_for};
use xtask::qemu::{Boot, Hardware, Module};

/// What it says at last if all was right.
const GOOD: &str = "forks: 100 processes, all contents right";

/// How often each vCPU ran a process, by the report of a round.
fn runs(report: &str) -> Vec<u32> {
    let (_, list) = report.split_once('[').expect("a list of numbers");
    let (list, _) = list.split_once(']').expect("a list of numbers");
    list.split(", ")
        .map(|number| number.parse().expect("a number"))
        .collect()
}

/// Panics unless each of so many vCPUs ran processes in every round.
#[track_caller]
fn assert_shared(text: &str, vcpus: u32) {
    let rounds: Vec<Vec<u32>> = text
        .lines()
        .filter(|line| line.contains("vCPUs ran processes"))
        .map(runs)
        .collect();
    assert!(!rounds.is_empty(), "{text}");
    for round in rounds {
        assert_eq!(round.len(), vcpus as usize, "{text}");
        assert!(round.iter().all(|runs| *runs > 0), "{text}");
    }
}

fn passes_as_dom0(image: &Path) {
    for vcpus in [1, 2] {
        let boot = Boot::Kernel {
            image: image.to_path_buf(),
            command_line: format!(
                "com1=115200,8n1 console=com1 noreboot dom0_mem=256M dom0_max_vcpus={vcpus}"
            ),
            modules: vec![Module {
                file: dist("guests/forks"),
                arguments: String::new(),
            }],
        };
        let machine = Bare::boot(&Hardware::default(), &boot);
        machine.expect_line(GOOD);
        assert_shared(&machine.text(), vcpus);
    }
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_hundred_processes_find_their_memory_right_as_dom0_under_our_hypervisor() {
    passes_as_dom0(&hypervisor());
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_hundred_processes_find_their_memory_right_as_dom0_under_xen() {
    if let Some(xen) = reference() {
        passes_as_dom0(&xen);
    }
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_hundred_processes_find_their_memory_right_in_an_ordinary_guest() {
    let host = TestHost::boot();
    let config = dist("guests/forks.cfg");
    for vcpus in [1, 2] {
        host.xl(&format!("create -p {} vcpus={vcpus}", config.display()))
            .ok();
        let console = host.start_xl("console forks");
        host.xl("unpause forks").ok();
        console.expect_line(GOOD);
        assert_shared(&console.text(), vcpus);
        wait_for("the guest to be gone", || {
            host.row("forks").is_none().then_some(())
        });
    }
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_destroyed_while_it_forks_gives_all_its_memory_back() {
    const ROUNDS: u32 = 10;
    let host = TestHost::boot();
    let config = dist("guests/forks.cfg");
    let create = format!("create -q {} extra='forever'", config.display());
    let round = || {
        host.xl(&create).ok();
        let console = host.start_xl("console forks");
        console.expect("hello from user mode");
        host.xl("destroy forks").ok();
    };
    // The first round fills the cache of images.
    round();
    let before = host.info("free_memory");
    for _ in 0..ROUNDS {
        round();
    }
    assert_eq!(host.info("free_memory"), before);
}
