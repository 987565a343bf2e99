//! Guests and the store: what they find there, and what they do on the toolstack's orders.

use tests::host::TestHost;
use tests::{dist, wait_for};
use xtask::bench::store::{FLOODS, Times, rounds};
use xtask::qemu::Hardware;

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_reads_and_writes_the_store() {
    let host = TestHost::boot();
    host.create("reader", "", "").ok();
    let domid = host.xl("domid reader").ok();
    let domid = domid.trim();
    let mut console = host.start_xl("console reader");
    console.expect("Hello");
    for (path, value) in [
        ("name", "reader"),
        ("domid", domid),
        ("memory/static-max", "32768"),
        ("control/feature-poweroff", "1"),
        ("control/feature-reboot", "1"),
        ("absent", "the store says ENOENT"),
    ] {
        console.say(&format!("read {path}"));
        console.expect_line(&format!("{path}: {value}"));
    }
    console.say("write data/word abracadabra");
    console.expect_line("data/word: written");
    console.say(&format!("read /local/domain/{domid}/data/word"));
    console.expect_line("data/word: abracadabra");
    console.say("write name other");
    console.expect_line("name: the store says EACCES");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_ends_as_it_is_told_in_the_store() {
    let host = TestHost::boot();
    for (name, order) in [("one", "poweroff"), ("two", "halt")] {
        host.create(name, "on_poweroff = 'destroy'", "").ok();
        let mut console = host.start_xl(&format!("console {name}"));
        console.expect("Hello");
        // The node is the guest's own.
        console.say(&format!("write control/shutdown {order}"));
        console.expect_line("good bye");
        wait_for("it to be gone", || host.row(name).is_none().then_some(()));
    }
    host.create("three", "on_reboot = 'restart'", "").ok();
    let before = host.xl("domid three").ok();
    let mut console = host.start_xl("console three");
    console.expect("Hello");
    console.say("write control/shutdown suspend");
    console.expect_line("\"suspend\" is not understood");
    console.say("write control/sysrq s");
    console.expect_line("system request 's'");
    console.say("write control/shutdown reboot");
    wait_for("another id", || {
        let now = host.xl("domid three");
        (now.status.success() && now.stdout != before).then_some(())
    });
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_that_floods_the_store_slows_others_by_less_than_twice() {
    const TURNS: usize = 2;
    // Enough for a flood to be slowed down behind the burst that it may have.
    const ROUNDS: usize = 15;
    let host = TestHost::boot();
    let config = dist("guests/storeflood.cfg");
    let create = |name: &str, does: &str| {
        let config = config.display();
        host.xl(&format!("create {config} name='{name}' extra='{does}'"))
            .ok();
        host.start_xl(&format!("console {name}"))
    };
    let honest = create("honest", "measure");
    let measure = || {
        let before = rounds(&honest.text()).len();
        wait_for("measurements", || {
            let rounds = rounds(&honest.text());
            // The first may have been under way.
            let times: Vec<Times> = rounds.iter().skip(before + 1).map(|it| it.1).collect();
            (times.len() >= ROUNDS).then(|| Times::median(&times))?
        })
    };
    for (flood, sign) in FLOODS {
        // By turns, and the best counts: what else this machine does comes and goes.
        let [mut alone, mut flooded] = [Times::LONGEST; 2];
        for _ in 0..TURNS {
            alone = measure().or(alone);
            let hostile = create("hostile", flood);
            flooded = measure().or(flooded);
            hostile.expect_line(sign);
            host.xl("destroy hostile").ok();
        }
        let Times([read, write, _]) = flooded.over(alone);
        println!("{flood}: {alone:?} became {flooded:?}");
        assert!(
            read < 2.0 && write < 2.0,
            "{flood}: {alone:?} became {flooded:?}"
        );
    }
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn memory_that_a_guest_gives_up_ten_times_is_another_domains_each_time() {
    const ROUNDS: u32 = 10;
    // Beside dom0's 256 MiB there is room for one of the guests at full size, and not for both.
    let host = TestHost::boot_on(&Hardware {
        memory: 768,
        ..Hardware::default()
    });
    host.create("big", "memory = 256", "").ok();
    host.start_xl("console big").expect("Hello");
    let config = host.hello("other", "memory = 256");
    let create = format!("create -q {}", config.display());
    let memory = |value: &str| {
        host.xl(&format!("mem-set big {value}")).ok();
        wait_for("its memory", || {
            (host.row("big")?.get(2)? == value).then_some(())
        });
    };
    for round in 0..ROUNDS {
        host.xl(&create).refused();
        memory("64");
        host.xl(&create).ok();
        // It uses what it has.
        let mut other = host.start_xl("console other");
        other.expect("Hello");
        other.say("fill");
        other.expect_line("all as written");
        host.xl("destroy other").ok();
        memory("256");
        println!("round {round} is over");
    }
    let mut big = host.start_xl("console big");
    big.say("fill");
    big.expect_line("all as written");
    big.say("memory");
    big.expect_line("memory: 262144 KiB of at most 262144 KiB");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_target_that_cannot_be_met_leaves_a_guest_its_reserve_and_another_is_met_later() {
    let host = TestHost::boot();
    host.create("small", "memory = 64\nmaxmem = 128", "").ok();
    let mut console = host.start_xl("console small");
    console.expect("Hello");
    let set = |kib: u32| {
        let domid = host.xl("domid small").ok();
        host.xl(&format!(
            "xenstore write /local/domain/{}/memory/target {kib}",
            domid.trim()
        ))
        .ok();
    };
    let size = || -> Option<u32> { host.row("small")?.get(2)?.parse().ok() };
    set(0);
    wait_for("it to stop", || {
        let before = size()?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        (before < 32 && size()? == before).then_some(())
    });
    console.say("fill");
    console.expect_line("all as written");
    // More than there may be is as much as there may be.
    set(1 << 30);
    wait_for("it to grow", || (size()? == 128).then_some(()));
    console.say("fill");
    console.expect_line("all as written");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn the_tasks_of_a_vcpu_that_comes_back_go_on() {
    let host = TestHost::boot();
    host.create("host", "vcpus = 2", "").ok();
    let mut console = host.start_xl("console host");
    console.expect_line("vCPU 1 is up");
    // Asks until the vCPUs are those, and it has counted more than so many seconds.
    let mut counted = |vcpus: &str, more_than: u32| {
        wait_for(vcpus, || {
            let before = console.text().matches("s counted").count();
            console.say("vcpus");
            let text = wait_for("an answer", || {
                let text = console.text();
                (text.matches("s counted").count() > before).then_some(text)
            });
            let line = text.lines().rfind(|line| line.contains("s counted"))?;
            let (_, rest) = line.split_once(&format!("vcpus: {vcpus} up, "))?;
            let seconds: u32 = rest.split(' ').next()?.parse().ok()?;
            (seconds > more_than).then_some(seconds)
        })
    };
    let first = counted("[0, 1]", 0);
    for _ in 0..3 {
        host.xl("vcpu-set host 1").ok();
        let before = counted("[0]", first - 1);
        host.xl("vcpu-set -i host 2").ok();
        counted("[0, 1]", before);
    }
}
