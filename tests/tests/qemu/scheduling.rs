//! Shares of the processors, and where vCPUs run, as `xl` sets and shows them.

use tests::host::TestHost;
use tests::{dist, wait_for};
use xtask::qemu::Hardware;
use xtask::run;

/// A host with two processors.
fn host() -> TestHost {
    TestHost::boot_on(&Hardware {
        cpus: 2,
        ..Hardware::default()
    })
}

/// Creates a guest that spins on its vCPU, with these lines in its configuration.
pub fn spinner(host: &TestHost, name: &str, lines: &str) {
    stressed(host, name, "spin", lines);
}

/// Creates a `stress` guest with these words, and these lines in its configuration.
pub fn stressed(host: &TestHost, name: &str, words: &str, lines: &str) {
    let kernel = dist("guests/stress");
    let text = format!(
        "name = \"{name}\"\nkernel = \"{}\"\nmemory = 16\nextra = \"{words}\"\n{lines}\n",
        kernel.display()
    );
    let config = host.file(&format!("{name}.cfg"), text);
    host.xl(&format!("create -q {}", config.display())).ok();
}

/// Seconds of processor time that a domain has used.
fn time(host: &TestHost, name: &str) -> f64 {
    let row = host.row(name).expect("the domain is there");
    row[5].parse().expect("a number")
}

/// What each domain uses while the first uses `until` seconds.
pub fn used<const N: usize>(host: &TestHost, names: [&str; N], until: f64) -> [f64; N] {
    let before = names.map(|name| time(host, name));
    wait_for("processor time", || {
        (time(host, names[0]) >= before[0] + until).then_some(())
    });
    let after = names.map(|name| time(host, name));
    std::array::from_fn(|index| after[index] - before[index])
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn domains_on_one_processor_get_its_time_by_weight() {
    let host = host();
    spinner(&host, "light", "cpus = \"1\"");
    spinner(&host, "heavy", "cpus = \"1\"\ncpu_weight = 512");
    let [heavy, light] = used(&host, ["heavy", "light"], 5.0);
    // The columns have a tenth of a second, and the two are read one after the other.
    let ratio = heavy / light;
    assert!((1.8..2.2).contains(&ratio), "{heavy} s and {light} s");
    host.xl("sched-credit -d light -w 1024").ok();
    let [light, heavy] = used(&host, ["light", "heavy"], 5.0);
    let ratio = light / heavy;
    assert!((1.8..2.2).contains(&ratio), "{light} s and {heavy} s");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn what_is_set_of_scheduling_is_shown_as_xl_shows_it() {
    let host = host();
    let config =
        "vcpus = 2\ncpus = [\"0\", \"0-1\"]\ncpus_soft = \"1\"\ncpu_weight = 300\ncap = 50";
    let hello = host.hello("hello", config);
    host.xl(&format!("create -q -p {}", hello.display())).ok();
    let affinities = || -> Vec<String> {
        let list = host.xl("vcpu-list hello").ok();
        let rows = list.lines().skip(1);
        rows.map(|row| row.rsplit("  ").next().unwrap_or_default().to_owned())
            .collect()
    };
    assert_eq!(affinities(), ["0 / 1", "all / 1"]);
    host.xl("vcpu-pin hello all 1 all").ok();
    assert_eq!(affinities(), ["1 / all", "1 / all"]);
    host.xl("vcpu-pin hello 0 all,^1 -").ok();
    assert_eq!(affinities(), ["0 / all", "1 / all"]);
    assert!(!host.xl("vcpu-pin hello 0 ^0").status.success());
    assert!(!host.xl("vcpu-pin hello 2 0").status.success());
    assert_eq!(
        host.xl("sched-credit -d hello").ok(),
        "Name                                ID Weight  Cap\n\
         hello                                1    300   50\n"
    );
    host.xl("sched-credit -d hello -c 200").ok();
    assert!(!host.xl("sched-credit -d hello -c 201").status.success());
    host.xl("sched-credit -s -t 5 -r 500").ok();
    assert_eq!(
        host.xl("sched-credit").ok(),
        "Cpupool Pool-0: tslice=5ms ratelimit=500us migration-delay=0us\n\
         Name                                ID Weight  Cap\n\
         Domain-0                             0    256    0\n\
         hello                                1    300  200\n"
    );
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn the_null_scheduler_gives_each_vcpu_a_processor() {
    let hardware = Hardware {
        cpus: 3,
        ..Hardware::default()
    };
    let mut boot = run::boot(tests::hypervisor(), dist("dom0"));
    boot.add_words("sched=null");
    let host = TestHost::boot_from(&hardware, &boot);
    assert_eq!(host.info("xen_scheduler"), "null");
    assert_eq!(host.xl("sched-credit").ok(), "");
    let parameters = "Cpupool Pool-0: [sched params unavailable]\n";
    assert_eq!(host.xl("sched-credit -s").ok(), parameters);
    spinner(&host, "first", "");
    spinner(&host, "second", "");
    let [first, second] = used(&host, ["first", "second"], 2.0);
    assert!(
        second > first * 0.7 && first > second * 0.7,
        "{first} {second}"
    );
    // A third finds no processor, until another goes.
    spinner(&host, "third", "");
    let [_, third] = used(&host, ["first", "third"], 1.0);
    assert!(third < 0.05, "{third}");
    host.xl("destroy first").ok();
    let [third] = used(&host, ["third"], 1.0);
    assert!(third >= 1.0);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_cap_is_kept_beside_one_that_takes_the_rest() {
    let host = host();
    spinner(&host, "capped", "cap = 25\ncpus = \"1\"");
    spinner(&host, "free", "cpus = \"1\"");
    let [free, capped] = used(&host, ["free", "capped"], 5.0);
    let points = capped / (capped + free) * 100.0;
    assert!((21.0..27.5).contains(&points), "{points} % of a processor");
}
