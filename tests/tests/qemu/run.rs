//! `cargo xtask run`, as a user has it: what it leaves behind, above all.

use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use tests::program::{self, Running};
use tests::{WORKSPACE, hypervisor, wait_for};

/// A directory in place of the user's, for running hosts.
fn runtime() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// `cargo xtask run` with what is built already, and these arguments.
fn xtask_run(runtime: &TempDir, arguments: &[&str]) -> Command {
    let xtask = std::env::var_os("XENOLITH_XTASK").expect("cargo xtask test says where it is");
    let mut command = Command::new(xtask);
    command
        .args(["run", "--no-build", "--hypervisor"])
        .arg(hypervisor())
        .args(arguments)
        .current_dir(WORKSPACE.root())
        .env("XDG_RUNTIME_DIR", runtime.path());
    command
}

/// The QEMU whose working directory is the host's.
fn qemu_of(runtime: &TempDir, host: &str) -> Option<u32> {
    let dir = runtime.path().join("xenolith").join(host);
    let processes = Path::new("/proc").read_dir().ok()?;
    processes.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let cwd = std::fs::read_link(process.path().join("cwd")).ok()?;
        let program = std::fs::read_to_string(process.path().join("comm")).ok()?;
        let is_qemu = program.starts_with("qemu-system");
        (is_qemu && cwd.starts_with(&dir)).then_some(pid)
    })
}

fn is_alive(pid: u32) -> bool {
    // A zombie has ended, too: it waits for its parent, and that may be anyone.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"))
    })
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn the_commands_status_is_the_exit_status_and_its_xl_reaches_the_host() {
    let runtime = runtime();
    let config = WORKSPACE.guests().join("hello.cfg");
    let script = format!(
        "xl create {} && xl list && xl pause hello && xl list && xl unpause hello && \
         xl destroy hello && exit 7",
        config.display()
    );
    let ended = program::run(&mut xtask_run(&runtime, &["--", "sh", "-c", &script]));
    assert_eq!(ended.status.code(), Some(7), "{ended:#?}");
    let states: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("hello "))
        .filter_map(|line| line.split_whitespace().nth(4))
        .collect();
    assert_eq!(states.len(), 2, "{ended:#?}");
    assert!(["r-----", "-b----"].contains(&states[0]), "{states:?}");
    assert!(["--p---", "-bp---"].contains(&states[1]), "{states:?}");
    assert_eq!(qemu_of(&runtime, "xenolith"), None);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn no_qemu_stays_behind_whatever_ends_the_command() {
    for (signal, code) in [
        (Signal::INT, Some(130)),
        (Signal::TERM, Some(143)),
        (Signal::HUP, Some(129)),
        (Signal::KILL, None),
    ] {
        let runtime = runtime();
        let mut run = Running::start(&mut xtask_run(
            &runtime,
            &["--headless", "--name", "mortal"],
        ));
        let qemu = wait_for("QEMU to start", || qemu_of(&runtime, "mortal"));
        let pid = i32::try_from(run.pid())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("xtask runs");
        assert_eq!(
            run.ended().code(),
            code,
            "after {signal:?}:\n{}",
            run.text()
        );
        wait_for("QEMU to end", || (!is_alive(qemu)).then_some(()));
    }
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_host_that_dies_at_boot_ends_the_command_with_the_end_of_its_log() {
    let runtime = runtime();
    // No PV kernel: the hypervisor cannot build dom0, and gives up.
    let xl = WORKSPACE.dist().join("bin/xl").display().to_string();
    let ended = program::run(&mut xtask_run(&runtime, &["--dom0", &xl, "--", "true"]));
    let complaint = ended.refused();
    assert!(complaint.contains("died at boot"), "{complaint}");
    assert!(
        complaint.contains("(XEN)"),
        "the end of its log: {complaint}"
    );
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn the_prompt_ends_with_its_input_and_the_host_with_the_prompt() {
    let runtime = runtime();
    let mut run = Running::start(&mut xtask_run(&runtime, &["--name", "talk"]));
    run.expect("Hello");
    let qemu = qemu_of(&runtime, "talk").expect("QEMU runs");
    run.say("rename hello salve");
    run.say("list");
    run.expect_line("salve");
    run.hang_up();
    assert!(run.ended().success(), "{}", run.text());
    assert!(!is_alive(qemu));
}
