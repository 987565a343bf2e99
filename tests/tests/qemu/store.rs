//! The store: what the toolstack keeps there, and guests that are asked to do something by it.

use tests::host::TestHost;
use tests::{dist, program, wait_for};

/// The store with paths and permissions, a line for each node.
fn tree(host: &TestHost) -> Vec<String> {
    let list = host.xl("xenstore ls -f -p").ok();
    list.lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_new_guest_is_described_as_xl_describes_it_and_a_destroyed_one_is_not() {
    let host = TestHost::boot();
    let before = tree(&host);
    for node in [
        "/local/domain/0/name = \"Domain-0\"   (n0)",
        "/local/domain/0/domid = \"0\"   (n0)",
        "/tool/xenstored = \"\"   (n0)",
    ] {
        assert!(
            before.iter().any(|line| line == node),
            "{node}: {before:#?}"
        );
    }
    let uuid = "12345678-9abc-def0-1234-56789abcdef0";
    let more = format!("uuid = '{uuid}'\nmaxmem = 48\nmaxvcpus = 2\nextra = 'quiet'");
    host.create("web", &more, "-p").ok();
    let home = "/local/domain/1";
    let expected = [
        format!("{home} = \"\"   (n0,r1)"),
        format!("{home}/vm = \"/vm/{uuid}\"   (n0,r1)"),
        format!("{home}/name = \"web\"   (n0,r1)"),
        format!("{home}/domid = \"1\"   (n0,r1)"),
        format!("{home}/cpu/0/availability = \"online\"   (n0,r1)"),
        format!("{home}/cpu/1/availability = \"offline\"   (n0,r1)"),
        format!("{home}/memory/static-max = \"49152\"   (n0,r1)"),
        format!("{home}/memory/target = \"32768\"   (n0,r1)"),
        format!("{home}/memory/videoram = \"0\"   (n0,r1)"),
        format!("{home}/device/suspend/event-channel = \"\"   (n1)"),
        format!("{home}/control/shutdown = \"\"   (n1)"),
        format!("{home}/control/feature-poweroff = \"\"   (n1)"),
        format!("{home}/control/sysrq = \"\"   (n1)"),
        format!("{home}/control/platform-feature-xs_reset_watches = \"1\"   (n0,r1)"),
        format!("{home}/data = \"\"   (n1)"),
        format!("{home}/error = \"\"   (n1)"),
        format!("{home}/console/type = \"xenconsoled\"   (n0,r1)"),
        format!("/vm/{uuid}/name = \"web\"   (n0,r1)"),
        format!("/vm/{uuid}/image/ostype = \"linux\"   (n0,r1)"),
        format!("/vm/{uuid}/image/cmdline = \"quiet\"   (n0,r1)"),
        "/libxl/1/type = \"pv\"   (n0)".into(),
        "/local/domain/0/backend/console/1/0/state = \"1\"   (n0,r1)".into(),
    ];
    let found = tree(&host);
    for node in expected {
        assert!(found.contains(&node), "{node}: {found:#?}");
    }
    for ring in ["store", "console"] {
        for what in ["ring-ref", "port"] {
            let read = host.xl(&format!("xenstore read {home}/{ring}/{what}")).ok();
            assert!(read.trim().parse::<u64>().is_ok_and(|it| it > 0), "{read}");
        }
    }
    host.xl("rename web other").ok();
    for path in [format!("{home}/name"), format!("/vm/{uuid}/name")] {
        assert_eq!(host.xl(&format!("xenstore read {path}")).ok(), "other\n");
    }
    host.xl("mem-set other 40").ok();
    host.xl("vcpu-set -i other 2").ok();
    let read = host.xl(&format!(
        "xenstore read {home}/memory/target {home}/cpu/1/availability"
    ));
    assert_eq!(read.ok(), "40960\nonline\n");
    host.xl("mem-set other 49").refused();
    host.xl("destroy other").ok();
    assert_eq!(tree(&host), before);
    host.power_off();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn the_store_s_tools_go_by_xen_s_names() {
    let host = TestHost::boot();
    let run = |name: &str, line: &str| program::run(&mut host.command(name, line.split(' ')));
    run("xenstore-write", "/test/a 1 /test/b 2").ok();
    assert_eq!(run("xenstore-read", "/test/a /test/b").ok(), "1\n2\n");
    run("xenstore-chmod", "-r /test n0 r7").ok();
    assert_eq!(
        run("xenstore-ls", "-f -p /test").ok(),
        "/test/a = \"1\"   (n0,r7)\n/test/b = \"2\"   (n0,r7)\n"
    );
    run("xenstore-rm", "-t /test/a").ok();
    assert_eq!(run("xenstore-list", "/test").ok(), "b\n");
    run("xenstore-exists", "/test/b").ok();
    run("xenstore-exists", "/test/a").refused();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn watchers_hear_of_guests_and_the_store_outlives_one_that_crashes() {
    let host = TestHost::boot();
    let mut watch = host.start_xl("xenstore watch -n 4 @introduceDomain @releaseDomain");
    watch.expect("@introduceDomain\n@releaseDomain\n");
    host.create("crasher", "on_crash = 'preserve'", "").ok();
    watch.expect("@introduceDomain\n@releaseDomain\n@introduceDomain\n");
    let mut console = host.start_xl("console crasher");
    console.expect("Hello");
    console.say("crash");
    watch.expect("@introduceDomain\n@releaseDomain\n@introduceDomain\n@releaseDomain\n");
    assert!(watch.ended().success());
    let name = "xenstore read /local/domain/1/name";
    assert_eq!(host.xl(name).ok(), "crasher\n");
    host.xl("shutdown crasher").refused();
    host.xl("destroy crasher").ok();
    host.xl(name).refused();
    host.create("next", "", "").ok();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_that_does_not_acknowledge_a_request_is_told_of() {
    let host = TestHost::boot();
    // A paused guest acknowledges nothing.
    host.create("deaf", "", "-p").ok();
    let error = host.xl("shutdown --timeout 1 deaf").refused();
    assert!(
        error.contains("did not acknowledge the poweroff request"),
        "{error}"
    );
    let asked = host
        .xl("xenstore read /local/domain/1/control/shutdown")
        .ok();
    assert_eq!(asked, "poweroff\n");
    // Whoever acknowledges it: the node is what counts.
    let mut reboot = host.start_xl("reboot deaf");
    wait_for("the request", || {
        let asked = host
            .xl("xenstore read /local/domain/1/control/shutdown")
            .ok();
        (asked == "reboot\n").then_some(())
    });
    let mut write = host.xl_command(["xenstore", "write", "/local/domain/1/control/shutdown", ""]);
    program::run(&mut write).ok();
    assert!(reboot.ended().success());
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn guests_shut_down_and_reboot_when_they_are_asked_to() {
    let host = TestHost::boot();
    for name in ["one", "two", "three"] {
        host.create(name, "", "").ok();
        host.start_xl(&format!("console {name}")).expect("Hello");
    }
    let told = host.xl("shutdown -w one").told();
    assert!(told.contains("Shutting down domain 1\n"), "{told}");
    wait_for("it to be gone", || host.row("one").is_none().then_some(()));
    host.xl("shutdown -ww two").ok();
    assert_eq!(host.row("two"), None);

    host.xl("reboot -w three").ok();
    let id = wait_for("its successor", || {
        let domid = host.xl("domid three");
        (domid.status.success() && domid.stdout != "3\n").then_some(domid.stdout)
    });
    host.start_xl("console three").expect("Hello");
    assert_eq!(id, "4\n");
    host.create("five", "on_poweroff = 'preserve'", "").ok();
    host.start_xl("console five").expect("Hello");
    host.xl("shutdown -a -w").ok();
    wait_for("it to be gone", || {
        host.row("three").is_none().then_some(())
    });
    let state = host.state("five");
    assert!(state.is_some_and(|state| state.contains('s')));
    host.xl("destroy five").ok();
    host.power_off();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_follows_its_memory_target_and_its_vcpus() {
    let host = TestHost::boot();
    let error = host.create("g", "cpus = '7'", "").refused();
    assert!(error.contains("the host has none of the CPUs"), "{error}");
    let more = "maxmem = 40\nvcpus = 2\ncpus = '0'\ncpu_weight = 512\ncap = 90";
    host.create("g", more, "").ok();
    host.start_xl("console g").expect("Hello");
    let column = |at: usize, value: &str| {
        wait_for(value, || {
            let row = host.row("g")?;
            (row.get(at)? == value).then_some(())
        });
    };
    for memory in ["24", "32", "40"] {
        host.xl(&format!("mem-set g {memory}")).ok();
        column(2, memory);
    }
    host.xl("mem-set g 41").refused();
    host.xl("mem-max g 48").ok();
    column(3, "2");
    host.xl("vcpu-set g 1").ok();
    column(3, "1");
    host.xl("vcpu-set -i g 2").ok();
    column(3, "2");
    host.xl("vcpu-set -i g 3").refused();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn guests_that_flood_the_store_hold_up_neither_xl_nor_other_guests() {
    let host = TestHost::boot();
    let flood = dist("guests/storeflood.cfg");
    for name in ["flood1", "flood2"] {
        host.xl(&format!("create {} name='{name}'", flood.display()))
            .ok();
        host.start_xl(&format!("console {name}"))
            .expect_line("requests done");
    }
    host.create("honest", "on_reboot = 'restart'", "").ok();
    let console = host.start_xl("console honest");
    console.expect("Hello");
    host.xl("sysrq honest s").ok();
    console.expect_line("system request 's'");
    let other = host.hello("other", "extra = 'changed'");
    host.xl(&format!("config-update honest {}", other.display()))
        .ok();
    host.xl("reboot -w honest").ok();
    let path = wait_for("its successor", || {
        let vm = host.xl("xenstore read /local/domain/4/vm");
        vm.status.success().then_some(vm.stdout)
    });
    let cmdline = format!("xenstore read {}/image/cmdline", path.trim());
    assert_eq!(host.xl(&cmdline).ok(), "changed\n");
    for name in ["flood1", "flood2", "honest"] {
        host.xl(&format!("destroy {name}")).ok();
    }
    assert_eq!(host.xl("xenstore list /local/domain").ok(), "0\n");
}
