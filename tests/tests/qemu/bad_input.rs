//! What bad input gets: a reason that helps, and nothing left of the half-made domain.

use tests::dist;
use tests::host::TestHost;

/// What must be as before after a refused creation.
fn state(host: &TestHost) -> (String, String) {
    (
        host.info("free_memory"),
        host.xl("list").ok().lines().skip(1).map(name).collect(),
    )
}

fn name(line: &str) -> String {
    line.split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" ")
        + "\n"
}

/// Runs `xl create` on a configuration that must be refused, and returns its complaint.
#[track_caller]
fn refused(host: &TestHost, config: &str) -> String {
    let before = state(host);
    let path = host.file("bad.cfg", config);
    let complaint = host.xl(&format!("create {}", path.display())).refused();
    assert_eq!(state(host), before, "something was left behind");
    complaint
}

fn config(kernel: &str, extra: &str) -> String {
    format!("name = 'bad'\nkernel = '{kernel}'\nmemory = 32\n{extra}\n")
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn every_bad_creation_is_refused_with_its_reason_and_leaves_nothing() {
    let host = TestHost::boot();
    let hello = dist("guests/hello").display().to_string();
    // So that the cache of images, which is dom0's memory, has it already.
    host.create("good", "", "").ok();

    let syntax = refused(&host, "name = 'bad'\nmemory = = 3\n");
    assert!(
        syntax.contains("bad.cfg:2:10"),
        "file, line and column: {syntax}"
    );

    let xl = dist("bin/xl").display().to_string();
    let no_kernel = refused(&host, &config(&xl, ""));
    assert!(
        no_kernel.contains("note"),
        "what the kernel lacks: {no_kernel}"
    );

    let text = host.file("text", "no ELF at all").display().to_string();
    let no_elf = refused(&host, &config(&text, ""));
    assert!(no_elf.contains("ELF"), "what the kernel lacks: {no_elf}");

    let missing = refused(&host, &config("/no/such/kernel", ""));
    assert!(
        missing.contains("/no/such/kernel"),
        "the file's name: {missing}"
    );

    let greedy = refused(&host, &config(&hello, "memory = 1000000"));
    assert!(greedy.contains("free"), "how much is free: {greedy}");

    let domid = host.xl("domid good").ok();
    let taken = refused(&host, &config(&hello, "name = 'good'"));
    assert!(taken.contains(domid.trim()), "who has the name: {taken}");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn an_unknown_key_is_warned_about_by_line_and_does_no_harm() {
    let host = TestHost::boot();
    let ended = host.create("odd", "frobnicate = 1", "-p");
    assert!(ended.stderr.contains("odd.cfg:4"), "{ended:#?}");
    assert!(ended.stderr.contains("frobnicate"), "{ended:#?}");
    ended.ok();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_domain_that_is_not_there_is_an_error_of_one_line() {
    let host = TestHost::boot();
    for command in [
        "pause", "unpause", "destroy", "domid", "console", "shutdown", "reboot",
    ] {
        let complaint = host.xl(&format!("{command} nobody")).refused();
        assert_eq!(
            complaint.trim().lines().count(),
            1,
            "{command}: {complaint}"
        );
        assert!(complaint.contains("nobody"), "{command}: {complaint}");
    }
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_host_that_is_gone_is_an_error_of_one_line() {
    let host = TestHost::boot();
    let mut list = host.xl_command(["list"]);
    host.power_off();
    // The test's directory of hosts is gone with it: as for a user whose host was never there.
    list.current_dir("/");
    let complaint = tests::program::run(&mut list).refused();
    assert_eq!(complaint.trim().lines().count(), 1, "{complaint}");
}
