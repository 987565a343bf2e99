//! The commands.

use control::scheduling::CpuSet;
use control::{DomainRef, SchedulingRequest};
use serde_json::Value;

use crate::bench::Bench;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_domain_is_created_listed_paused_and_destroyed() {
    let bench = Bench::new();
    let config = bench.config("hello", "memory = 64");
    let run = bench.xl(&["create", &config]);
    assert_eq!((run.code, run.out.as_str()), (0, ""));
    assert_eq!(run.err, format!("Parsing config from {config}\n"));

    let header = "Name                                        ID   Mem VCPUs\tState\tTime(s)\n";
    let dom0 = "Domain-0                                     0   256     1     r-----       1.2\n";
    let hello = |state: &str| {
        format!(
            "hello                                        1    64     1     {state}       0.1\n"
        )
    };
    assert_eq!(
        bench.ok(&["list"]),
        format!("{header}{dom0}{}", hello("-b----"))
    );
    bench.ok(&["pause", "hello"]);
    assert_eq!(
        bench.ok(&["list", "1"]),
        format!("{header}{}", hello("-bp---"))
    );
    bench.ok(&["unpause", "1"]);
    assert_eq!(
        bench.ok(&["list", "hello"]),
        format!("{header}{}", hello("-b----"))
    );
    bench.ok(&["destroy", "hello"]);
    assert_eq!(bench.ok(&["list"]), format!("{header}{dom0}"));
}

#[test]
fn verbose_lists_have_all_columns_of_xl() {
    let bench = Bench::new();
    let uuid = "12345678-9abc-def0-1234-56789abcdef0";
    let config = bench.config("hello", &format!("uuid='{uuid}'"));
    bench.ok(&["create", "-p", &config]);
    let list = bench.ok(&["list", "-v", "hello"]);
    let expected = format!(
        "Name                                        ID   Mem VCPUs\tState\tTime(s)   UUID                            Reason-Code\tSecurity Label\n\
         hello                                        1    32     1     --p---       0.1 {uuid}        -                -\n"
    );
    assert_eq!(list, expected);
    let list = bench.ok(&["list", "-Zcn", "hello"]);
    let expected = "Time(s)   Security Label         Cpupool NODE Affinity\n\
        hello                                        1    32     1     --p---       0.1                -          Pool-0 all\n";
    assert!(list.ends_with(expected), "{list}");
}

#[test]
fn long_lists_are_libxls_json() {
    let bench = Bench::new();
    bench.ok(&[
        "create",
        &bench.config(
            "hello",
            "memory=64;vcpus=2;maxvcpus=3;max_event_channels=99;on_crash='rename-restart'",
        ),
    ]);
    let list = json(&bench.ok(&["list", "-l"]));
    assert_eq!(list[0]["domid"], 0);
    assert_eq!(list[0]["config"]["c_info"]["name"], "Domain-0");
    let config = &list[1]["config"];
    assert_eq!(config["c_info"]["type"], "pv");
    assert_eq!(config["b_info"]["avail_vcpus"], json("[0,1]"));
    assert_eq!(config["b_info"]["max_vcpus"], 3);
    assert_eq!(config["b_info"]["event_channels"], 99);
    assert_eq!(config["b_info"]["target_memkb"], 65536);
    assert_eq!(config["on_crash"], "restart_rename");
    assert_eq!(config["on_reboot"], "restart");
}

#[test]
fn scripts_get_json() {
    let bench = Bench::new();
    let created = json(&bench.ok(&["create", "-q", "--json", &bench.config("hello", "")]));
    assert_eq!(created, json(r#"{"domid":1,"name":"hello"}"#));
    let list = json(&bench.ok(&["list", "--json", "hello"]));
    assert_eq!(
        (&list[0]["state"], &list[0]["blocked"]),
        (&"-b----".into(), &true.into())
    );
    assert_eq!(json(&bench.ok(&["info", "--json"]))["free_memory"], 256);
    assert_eq!(
        json(&bench.ok(&["uptime", "--json", "0"]))[0]["uptime_ms"],
        90_061_000
    );
    assert_eq!(
        json(&bench.ok(&["version", "--json"]))["host"]["name"],
        "fake"
    );
}

#[test]
fn settings_on_the_command_line_overrule_the_file() {
    let bench = Bench::new();
    let config = bench.config("hello", "memory=64\nextra='a'");
    bench.ok(&["create", &config, "memory=48", "extra+=' b'; name='other'"]);
    let list = json(&bench.ok(&["list", "-l", "other"]));
    assert_eq!(list[0]["config"]["b_info"]["target_memkb"], 48 * 1024);
    assert_eq!(list[0]["config"]["b_info"]["cmdline"], "a b");
    let kernel = bench.path().join("kernel").display().to_string();
    bench.ok(&["create", "name='bare'", &format!("kernel='{kernel}'")]);
    bench.ok(&["create", "-f", &config, "name='third'"]);
    assert_eq!(bench.ok(&["domid", "third"]), "3\n");
}

#[test]
fn a_dry_run_prints_the_configuration_and_needs_no_host() {
    let bench = Bench::without_hosts();
    let config = bench.config("hello", "memory=64");
    for words in [["create", "-n", &config], ["-N", "create", &config]] {
        let printed = json(&bench.ok(&words));
        assert_eq!(printed["b_info"]["max_memkb"], 65536);
    }
    assert_eq!(
        bench.fails(&["-N", "list"]),
        "this command does not implement -N (dryrun)"
    );
}

#[test]
fn a_kernel_is_uploaded_once() {
    let bench = Bench::new();
    let config = bench.config("hello", "");
    let ramdisk = bench
        .file("ramdisk", vec![1; 3_000_000])
        .display()
        .to_string();
    let ramdisk = format!("ramdisk='{ramdisk}'");
    bench.ok(&["create", &config, &ramdisk]);
    bench.ok(&["create", &config, &ramdisk, "name='second'"]);
    let seen = bench.seen.lock().unwrap();
    assert_eq!((seen.uploads, seen.uploaded), (2, 3_200_000));
}

#[test]
fn an_image_that_the_cache_lost_is_uploaded_again() {
    let bench = Bench::new();
    bench.seen.lock().unwrap().lose_images = 1;
    bench.ok(&["create", &bench.config("hello", "")]);
    assert_eq!(bench.seen.lock().unwrap().uploads, 2);
}

#[test]
fn a_relative_kernel_is_found_here_or_beside_the_config_file() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path().join("guests")).unwrap();
    bench.file("guests/k", vec![2; 5000]);
    bench.file("guests/g.cfg", "name='g'\nkernel='k'");
    bench.ok(&["create", "guests/g.cfg"]);
    bench.file("k", vec![3; 100]);
    let error = bench.fails(&["create", "guests/g.cfg", "name='h'"]);
    assert_eq!(
        error,
        "k: the kernel cannot be booted: there is no ELF header"
    );
}

#[test]
fn what_is_wrong_with_a_config_is_told_with_its_place() {
    let bench = Bench::new();
    let config = bench.config("bad", "memory = lots");
    let error = bench.fails(&["create", &config]);
    let value = "a value: a string in quotes, a number, or a list in brackets";
    assert_eq!(
        error,
        format!("{config}:3:10: expected {value}, found 'lots'")
    );
    let config = bench.config("bad", "memory = 'lots'");
    let error = bench.fails(&["create", &config]);
    assert_eq!(
        error,
        format!("{config}:3:10: memory: expected a number, found 'lots'")
    );
    let error = bench.fails(&["create", &bench.config("bad", ""), "memory=0"]);
    assert!(
        error.starts_with("command line:1:8: memory: 0 is not between"),
        "{error}"
    );
    let file = bench
        .file("latin1.cfg", b"name='a'\nextra='\xe4'")
        .display()
        .to_string();
    assert_eq!(
        bench.fails(&["create", &file]),
        format!("{file}:2: this is no UTF-8 text")
    );
    let error = bench.fails(&["create", "/nonexistent.cfg"]);
    assert_eq!(
        error,
        "config file /nonexistent.cfg: No such file or directory"
    );
    assert_eq!(
        bench.fails(&["create", "memory=5"]),
        "command line: name must be given"
    );
    assert_eq!(bench.ok(&["list"]).lines().count(), 2);
}

#[test]
fn keys_without_effect_are_warned_about() {
    let bench = Bench::new();
    let config = bench.config("hello", "vfb = ['']\nkernal = 'x'");
    let run = bench.xl(&["create", &config]);
    let expected = format!(
        "Parsing config from {config}\n\
         {config}:3:1: warning: vfb is not supported by Xenolith yet and is ignored\n\
         {config}:4:1: warning: unknown key kernal is ignored\n"
    );
    assert_eq!((run.code, run.err), (0, expected));
}

#[test]
fn files_that_are_no_kernels_are_refused_in_one_line() {
    let bench = Bench::new();
    let config = bench.config("hello", "");
    let dir = bench.path().display().to_string();
    let error = |kernel: &str| bench.fails(&["create", &config, &format!("kernel='{kernel}'")]);
    assert_eq!(
        error("/no/kernel"),
        "kernel /no/kernel: No such file or directory"
    );
    assert_eq!(error(&dir), format!("kernel {dir} is a directory"));
    assert_eq!(
        error("/dev/zero"),
        "kernel /dev/zero is not an ordinary file"
    );
    let empty = bench.file("empty", "").display().to_string();
    assert_eq!(error(&empty), format!("kernel {empty} is empty"));
    let text = bench.file("text", "no kernel").display().to_string();
    let expected = format!("{text}: the kernel cannot be booted: there is no ELF header");
    assert_eq!(error(&text), expected);
    let error = bench.fails(&["create", &config, "ramdisk='/no/ramdisk'"]);
    assert_eq!(error, "ramdisk /no/ramdisk: No such file or directory");
    let large = bench.path().join("large");
    std::fs::File::create(&large)
        .unwrap()
        .set_len(65 << 20)
        .unwrap();
    let error = bench.fails(&["create", &config, &format!("ramdisk='{}'", large.display())]);
    let expected = "does not fit the cache, which has room for 67108864";
    assert!(error.ends_with(expected), "{error}");
    assert_eq!(bench.ok(&["list"]).lines().count(), 2);
}

/// A boot image as Linux's build makes it, around an ELF file as it is.
fn boot_image(elf: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x66HdrS");
    image[0x206..0x208].copy_from_slice(&[15, 2]);
    image[0x24c..0x250].copy_from_slice(&(elf.len() as u32).to_le_bytes());
    image.extend_from_slice(elf);
    image
}

#[test]
fn the_host_gets_the_kernel_that_is_in_a_boot_image() {
    let bench = Bench::new();
    let config = bench.config("hello", "");
    let mut elf = b"\x7fELF".to_vec();
    elf.resize(5000, 1);
    let create = |name: &str, kernel: &[u8]| {
        let kernel = bench.file(name, kernel).display().to_string();
        let (name, setting) = (format!("name='{name}'"), format!("kernel='{kernel}'"));
        (kernel, bench.xl(&["create", &config, &name, &setting]))
    };
    let (_, bare) = create("bare", &elf);
    let (_, packed) = create("packed", &boot_image(&elf));
    assert_eq!((bare.code, packed.code), (0, 0), "{}", packed.err);
    {
        let seen = bench.seen.lock().unwrap();
        assert_eq!((seen.uploads, seen.uploaded), (1, 5000), "they are one");
    }

    let mut damaged = boot_image(&elf);
    damaged[1024] = 0;
    let (kernel, run) = create("damaged", &damaged);
    assert_eq!(run.code, 1);
    let line = format!(
        "kernel {kernel}: the boot image is packed in an unknown way: it begins with 00 45 4c 46\n"
    );
    assert!(run.err.ends_with(&line), "{}", run.err);
}

#[test]
fn a_name_in_use_and_memory_that_is_not_there_are_told() {
    let bench = Bench::new();
    let config = bench.config("hello", "");
    bench.ok(&["create", &config]);
    assert_eq!(
        bench.fails(&["create", &config]),
        "the name \"hello\" is in use by domain 1"
    );
    let error = bench.fails(&["create", &config, "name='big';memory=300"]);
    assert_eq!(
        error,
        "not enough memory: 307200 KiB needed, 262144 KiB free"
    );
}

#[test]
fn domains_that_do_not_exist_are_told_by_every_command() {
    let bench = Bench::new();
    for command in [
        "list", "console", "pause", "unpause", "shutdown", "reboot", "destroy", "domid",
    ] {
        assert_eq!(
            bench.fails(&[command, "nobody"]),
            "no such domain: nobody",
            "{command}"
        );
    }
    assert_eq!(bench.fails(&["domname", "7"]), "no such domain: 7");
    assert_eq!(bench.fails(&["domname", "x"]), "expected a domain id");
    assert_eq!(bench.fails(&["rename", "9", "n"]), "no such domain: 9");
    assert_eq!(bench.fails(&["uptime", "70000"]), "no such domain: 70000");
}

#[test]
fn ids_and_names_are_converted_and_changed() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("hello", "")]);
    assert_eq!(bench.ok(&["domid", "hello"]), "1\n");
    assert_eq!(bench.ok(&["domname", "1"]), "hello\n");
    bench.ok(&["rename", "hello", "bye"]);
    assert_eq!(bench.ok(&["domname", "1"]), "bye\n");
    let error = bench.fails(&["rename", "bye", "Domain-0"]);
    assert_eq!(error, "the name \"Domain-0\" is in use by domain 0");
}

#[test]
fn domain_0_is_not_destroyed() {
    let bench = Bench::new();
    assert_eq!(
        bench.fails(&["destroy", "0"]),
        "not destroying domain 0; use -f to force"
    );
    let error = bench.fails(&["destroy", "-f", "Domain-0"]);
    assert_eq!(error, "not permitted: domain 0 cannot be destroyed");
}

#[test]
fn shutdown_is_requested_and_waited_for() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("a", "")]);
    bench.ok(&["create", &bench.config("b", "")]);
    let run = bench.xl(&["shutdown", "-w", "a"]);
    let expected = "Shutting down domain 1\nWaiting for 1 domains\n\
        Domain 1 has been shut down, reason code 0\n";
    assert_eq!((run.code, run.err.as_str()), (0, expected));
    let run = bench.xl(&["reboot", "-a", "-w"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.err.contains("Rebooting domain 1\nRebooting domain 2\n"),
        "{run:?}"
    );
    assert!(run.err.contains("Domain 2 has been destroyed\n"), "{run:?}");
}

#[test]
fn a_guest_that_takes_no_requests_is_told_of() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("a", "")]);
    bench.seen.lock().unwrap().deaf = true;
    let run = bench.xl(&["shutdown", "a"]);
    let expected = "Shutting down domain 1\nxl: domain 1 did not acknowledge the poweroff request; destroy ends it\n";
    assert_eq!((run.code, run.err.as_str()), (1, expected));
    assert_eq!(bench.xl(&["shutdown", "-a"]).code, 1);
}

#[test]
fn affinities_and_shares_are_asked_for_as_they_are_written() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("a", "")]);
    for words in [
        &["vcpu-pin", "a", "all", "0-2,^1", "-"][..],
        &["vcpu-pin", "-f", "a", "1", "-", "all"],
        &["sched-credit", "-d", "a", "-c", "50"],
    ] {
        assert_eq!(bench.ok(words), "", "{words:?}");
    }
    let domain = DomainRef::Name("a".into());
    let expected = [
        SchedulingRequest::SetAffinity {
            domain: domain.clone(),
            vcpu: None,
            hard: Some(CpuSet::of([0, 2])),
            soft: None,
            force: false,
        },
        SchedulingRequest::SetAffinity {
            domain: domain.clone(),
            vcpu: Some(1),
            hard: None,
            soft: Some(CpuSet::of(0..CpuSet::MAX_CPUS)),
            force: true,
        },
        SchedulingRequest::SetShare {
            domain,
            weight: None,
            cap: Some(50),
        },
    ];
    let asked = bench.seen.lock().unwrap().asked.clone();
    assert_eq!(asked, expected.map(|request| format!("{request:?}")));
    for words in [
        &["vcpu-pin", "-f", "a", "all", "0"][..],
        &["vcpu-pin", "a", "0", "^0"],
        &["vcpu-pin", "a", "x", "0"],
        &["sched-credit", "-w", "512"],
        &["sched-credit", "-d", "a", "-s"],
        &["sched-credit", "-t", "5"],
        &["sched-credit", "-p", "other"],
    ] {
        assert_eq!(bench.xl(words).code, 1, "{words:?}");
    }
}

#[test]
fn guests_are_asked_for_memory_vcpus_and_keys() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("a", "")]);
    for words in [
        &["mem-set", "a", "64"][..],
        &["mem-max", "a", "1g"],
        &["vcpu-set", "-i", "a", "8"],
        &["vcpu-set", "a", "2"],
        &["sysrq", "a", "s"],
        &["trigger", "a", "nmi"],
        &["trigger", "a", "reset", "1"],
    ] {
        assert_eq!(bench.ok(words), "", "{words:?}");
    }
    let asked = bench.seen.lock().unwrap().asked.clone();
    let expected = [
        "memory 65536",
        "maxmem 1048576",
        "vcpus 8",
        "vcpus 2",
        "sysrq s",
        "trigger 0 0",
        "trigger 1 1",
    ];
    assert_eq!(asked, expected);
    assert!(
        bench
            .fails(&["vcpu-set", "a", "3"])
            .contains("--ignore-host")
    );
    assert_eq!(
        bench.fails(&["mem-set", "a", "x"]),
        "invalid memory size: x"
    );
    assert!(
        bench
            .fails(&["trigger", "a", "s3resume"])
            .contains("no such trigger")
    );
    assert_eq!(
        bench.fails(&["trigger", "a", "what"]),
        "invalid trigger \"what\""
    );
    let list = bench.ok(&["vm-list"]);
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines[0], "UUID                                  ID    name");
    assert!(lines[1].contains("  0    Domain-0 "), "{list}");
    assert!(lines[2].contains("  1    a ") && lines.len() == 3, "{list}");
}

#[test]
fn the_configuration_of_a_running_guest_is_replaced() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("a", "")]);
    let other = bench.config("b", "extra = 'changed'");
    let settings = ["memory=48", "vcpus=2", "cpus=['0', '1-2']", "cap=50"];
    bench.ok(&[&["config-update", "a", &other], &settings[..]].concat());
    let details = json(&bench.ok(&["list", "-l", "a"]));
    let build = &details[0]["config"]["b_info"];
    assert_eq!(build["cmdline"], "changed");
    assert_eq!(build["target_memkb"], 48 << 10);
    assert_eq!(
        build["vcpu_hard_affinity"],
        serde_json::json!([[0], [1, 2]])
    );
    assert_eq!(build["sched_params"], serde_json::json!({ "cap": 50 }));
    assert_eq!(bench.xl(&["config-update", "none", &other]).code, 1);
}

#[test]
fn info_has_xls_lines() {
    let bench = Bench::new();
    let info = bench.ok(&["info"]);
    for line in [
        "host                   : fake",
        "nr_cpus                : 2",
        "cpu_mhz                : 2000.042",
        "hw_caps                : bfebfbff:00000001:00000000:00000000:00000000:00000000:00000000:00000000",
        "virt_caps              : pv",
        "total_memory           : 1024",
        "free_memory            : 256",
        "xen_version            : 4.17.0-xenolith",
        "platform_params        : virt_start=0xffff800000000000",
        "xend_config_format     : 4",
        "dom0_address           : 10.0.2.15/24",
        "dom0_gateway           : 10.0.2.2",
    ] {
        assert!(info.lines().any(|found| found == line), "{line}\n{info}");
    }
    assert_eq!(info.lines().count(), 36);
    assert_eq!(bench.ok(&["info", "free_memory"]), "256\n");
    assert!(
        bench
            .ok(&["info", "-n"])
            .contains("cpu_topology           :\n")
    );
}

#[test]
fn the_log_is_printed_and_cleared() {
    let bench = Bench::new();
    assert_eq!(
        bench.ok(&["dmesg", "-c"]),
        "(XEN) first line\n(XEN) second line\n"
    );
    assert_eq!(bench.ok(&["dmesg"]), "");
}

#[test]
fn uptime_is_written_as_in_xl() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("hello", "")]);
    let expected = "Name                                ID Uptime\n\
        Domain-0                             0 1 day,  1:01:01\n\
        hello                                1  0:00:05\n";
    assert_eq!(bench.ok(&["uptime"]), expected);
    let short = bench.ok(&["uptime", "-s", "hello"]);
    assert!(short.ends_with(" up  0:00, hello (1)\n"), "{short}");
}

#[test]
fn help_and_version_need_no_host() {
    let bench = Bench::without_hosts();
    assert!(bench.ok(&["help"]).contains("create"));
    assert!(bench.ok(&["help", "list"]).contains("--long"));
    assert!(bench.ok(&["list", "--help"]).contains("--long"));
    assert_eq!(
        bench.fails(&["help", "nonsense"]),
        "there is no command \"nonsense\""
    );
    assert!(bench.ok(&["--version"]).starts_with("xl "));
    assert!(bench.ok(&["version"]).starts_with("xl "));
}

#[test]
fn wrong_usage_exits_with_2_and_commands_may_be_shortened() {
    let bench = Bench::new();
    for words in [
        &["list", "--nonsense"][..],
        &["pause"],
        &["nonsense"],
        &["shutdown"],
    ] {
        assert_eq!(bench.xl(words).code, 2, "{words:?}");
    }
    assert_eq!(bench.xl(&["create", "a", "b"]).code, 2);
    assert_eq!(bench.xl(&[]).code, 1);
    assert_eq!(
        bench.ok(&["doms", "0"].map(|word| if word == "doms" { "domn" } else { word })),
        "Domain-0\n"
    );
}

#[test]
fn the_host_is_the_only_one_or_the_named_one() {
    let mut bench = Bench::new();
    bench.ok(&["list"]);
    bench.add_host("other");
    let error = bench.fails(&["list"]);
    assert_eq!(
        error,
        "several hosts are running (fake, other); choose one by --host"
    );
    bench.ok(&["--host", "other", "list"]);
    bench.ok(&["list", "--host", "other"]);
    let version = bench
        .command(&["version"])
        .env("XENOLITH_HOST", "other")
        .output()
        .unwrap();
    assert!(
        String::from_utf8(version.stdout)
            .unwrap()
            .contains("host other: fake dom0")
    );
    assert_eq!(
        bench.fails(&["--host", "third", "list"]),
        "host \"third\" is not running"
    );
    let error = bench.fails(&["--host", "../x y", "list"]);
    assert_eq!(error, "host \"../x y\" is not running");
}

#[test]
fn a_host_that_is_gone_is_told_in_one_line() {
    let bench = Bench::without_hosts();
    let error = bench.fails(&["list"]);
    assert_eq!(error, "no host is running; `cargo xtask run` starts one");
    let mut bench = Bench::new();
    let socket = bench.kill_host();
    assert!(socket.exists());
    assert_eq!(
        bench.fails(&["--host", "fake", "list"]),
        "host \"fake\" is not running"
    );
    assert_eq!(
        bench.fails(&["list"]),
        "no host is running; `cargo xtask run` starts one"
    );
}

#[test]
fn a_reader_that_went_away_is_no_error_to_tell() {
    let bench = Bench::new();
    let mut child = bench
        .command(&["list"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
