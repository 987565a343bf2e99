//! A guest's life, from `xl create` to `xl destroy`.

use std::time::Duration;
use tests::host::TestHost;
use tests::{dist, wait_for};

/// One of the states of a guest that is not paused: running, or blocked.
fn is_running(state: &str) -> bool {
    ["r-----", "-b----"].contains(&state)
}

/// The state of a guest that is paused: whether it was blocked before does not matter.
fn is_paused(state: &str) -> bool {
    ["--p---", "-bp---"].contains(&state)
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_is_created_paused_unpaused_and_destroyed() {
    let host = TestHost::boot();
    host.xl(&format!("create {}", dist("guests/hello.cfg").display()))
        .ok();
    assert!(host.state("hello").is_some_and(|state| is_running(&state)));
    host.xl("pause hello").ok();
    assert!(host.state("hello").is_some_and(|state| is_paused(&state)));
    host.xl("unpause hello").ok();
    assert!(host.state("hello").is_some_and(|state| is_running(&state)));
    host.xl("destroy hello").ok();
    assert_eq!(host.row("hello"), None);
    host.power_off();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_console_shows_what_was_printed_before_it_attached_and_takes_lines() {
    let host = TestHost::boot();
    host.create("talker", "", "").ok();
    let text = |host: &TestHost| {
        host.host()
            .console_text("talker", Duration::from_millis(100), Duration::from_secs(2))
            .unwrap_or_default()
    };
    wait_for("the banner", || text(&host).contains("Hello").then_some(()));
    let mut console = host.start_xl("console talker");
    console.expect("Hello");
    console.say("abracadabra");
    console.expect("abracadabra");
    console.say("help");
    console.expect("halt");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_created_paused_runs_nothing_until_it_is_unpaused() {
    let host = TestHost::boot();
    host.create("still", "", "-p").ok();
    assert_eq!(host.state("still").as_deref(), Some("--p---"));
    let time = |host: &TestHost| host.row("still").and_then(|row| row.into_iter().nth(5));
    assert_eq!(time(&host).as_deref(), Some("0.0"));
    host.xl("unpause still").ok();
    let state = wait_for("it to run", || {
        host.state("still").filter(|state| is_running(state))
    });
    assert!(is_running(&state));
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_that_halts_is_destroyed_and_one_that_crashes_may_be_preserved() {
    let host = TestHost::boot();
    host.create("halter", "on_poweroff = 'destroy'", "").ok();
    host.create("crasher", "on_crash = 'preserve'", "").ok();
    let mut halter = host.start_xl("console halter");
    halter.expect("Hello");
    halter.say("halt");
    wait_for("halter to be gone", || {
        host.row("halter").is_none().then_some(())
    });
    let mut crasher = host.start_xl("console crasher");
    crasher.expect("Hello");
    crasher.say("crash");
    wait_for("crasher's state", || {
        host.state("crasher")
            .is_some_and(|state| state.contains('c'))
            .then_some(())
    });
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_that_reboots_comes_back_under_its_name_with_another_id() {
    let host = TestHost::boot();
    host.create("phoenix", "on_reboot = 'restart'", "").ok();
    let before = host.xl("domid phoenix").ok();
    let mut console = host.start_xl("console phoenix");
    console.expect("Hello");
    console.say("reboot");
    wait_for("another id", || {
        let now = host.xl("domid phoenix");
        (now.status.success() && now.stdout != before).then_some(())
    });
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn two_hundred_rounds_of_create_and_destroy_leave_free_memory_where_it_was() {
    const ROUNDS: u32 = 200;
    let host = TestHost::boot();
    let config = host.hello("round", "");
    let create = format!("create -q {}", config.display());
    // The first round fills the cache of images.
    host.xl(&create).ok();
    host.xl("destroy round").ok();
    let before = host.info("free_memory");
    for _ in 0..ROUNDS {
        host.xl(&create).ok();
        host.xl("destroy round").ok();
    }
    assert_eq!(host.info("free_memory"), before);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_renamed_guest_is_known_by_its_new_name_only() {
    let host = TestHost::boot();
    host.create("old", "", "-p").ok();
    let domid = host.xl("domid old").ok();
    host.xl("rename old new").ok();
    assert_eq!(host.xl("domid new").ok(), domid);
    host.xl("domid old").refused();
    assert_eq!(
        host.xl(&format!("domname {}", domid.trim())).ok().trim(),
        "new"
    );
}
