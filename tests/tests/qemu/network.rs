//! Network interfaces of guests, over QEMU's own network.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;
use std::{fs, io};

use tests::books::Books;
use tests::host::TestHost;
use tests::{LIMIT, dist, thorough, wait_for};
use xtask::forward::{Forward, Forwarder};
use xtask::qemu::{Disk, Hardware};
use xtask::site;

/// How long a server may be silent before the next attempt.
const SILENCE: Duration = Duration::from_secs(5);

/// A port of this machine that nobody has.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

/// Asks for a file once: head and content of the answer.
fn ask(port: u16, path: &str) -> io::Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(SILENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: guest\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n");
    let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
    let content = answer.split_off(end + 4);
    Ok((String::from_utf8_lossy(&answer).into_owned(), content))
}

/// Asks for a file until there is an answer.
fn fetch(port: u16, path: &str) -> (String, Vec<u8>) {
    // QEMU takes the connection, whether the guest does or not.
    wait_for(path, || ask(port, path).ok())
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn files_of_a_guests_disk_are_fetched_through_a_forwarded_port() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let large: Vec<u8> = (0..300_000_u32).flat_map(|at| at.to_le_bytes()).collect();
    let files = dir.path().join("files");
    fs::create_dir_all(files.join("below")).expect("a directory");
    fs::write(files.join("index.html"), "<p>the index").expect("a file");
    fs::write(files.join("below/a large file.bin"), &large).expect("a file");
    let image = dir.path().join("www.img");
    site::make(&files, &image).expect("a volume");
    let host = TestHost::boot_on(&Hardware {
        disks: vec![Disk {
            serial: "www".to_owned(),
            file: image,
            read_only: true,
        }],
        ..Hardware::default()
    });
    let free = host.info("free_memory");
    let tree = host.xl("xenstore ls -f").ok();
    let forward = Forward {
        port: free_port(),
        guest: "web".to_owned(),
        to: 80,
    };
    let port = forward.port;
    // The guest comes later, and is found.
    let forwarder = Forwarder::start(host.host(), &[forward]).expect("the port is forwarded");
    let config = dist("guests/httpd.cfg");
    let create = format!("create {} name=\"web\"", config.display());
    host.xl(&create).ok();

    let (head, content) = fetch(port, "/");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(content, b"<p>the index");
    let (_, content) = fetch(port, "/BELOW/a%20large%20file.bin");
    assert!(content == large, "{} bytes", content.len());
    let (head, _) = fetch(port, "/none");
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    let (_, content) = fetch(port, "/below");
    assert_eq!(content, b"a large file.bin\n");

    let list = host.xl("network-list web").ok();
    let row: Vec<&str> = list
        .lines()
        .nth(1)
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert!(
        row.starts_with(&["0", "0"]) && row.get(4) == Some(&"4"),
        "{list}"
    );
    assert!(row[2].starts_with("00:16:3e:"), "{list}");

    let top = host.xl("top -b -i 1").ok();
    let table: Vec<Vec<&str>> = top
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let web = table.iter().find(|row| row[0] == "web").expect(&top);
    let count = |head: &str| -> u64 {
        let column = table[0].iter().position(|it| *it == head).expect(head);
        web[column].parse().expect(head)
    };
    assert_eq!((count("NETS"), count("VBDS")), (1, 1), "{top}");
    let size = large.len() as u64;
    assert!(count("NETTX(k)") > size >> 10, "{top}");
    assert!((1..size >> 10).contains(&count("NETRX(k)")), "{top}");
    assert!(count("VBD_RD") > 0, "{top}");
    assert!(count("VBD_RSECT") >= size / 512, "{top}");
    assert_eq!((count("VBD_WR"), count("VBD_WSECT")), (0, 0), "{top}");

    // The interface goes and comes back, under the guest's feet.
    host.xl("network-detach web 0").ok();
    assert_eq!(host.xl("network-list web").ok().lines().count(), 1);
    // It may ask for an address, and use what it is given.
    let attach = format!("network-attach web mac={},ip=10.0.2.0/24", row[2]);
    host.xl(&attach).ok();
    let (_, content) = fetch(port, "/");
    assert_eq!(content, b"<p>the index");

    drop(forwarder);
    host.xl("destroy web").ok();
    assert_eq!(host.xl("xenstore ls -f").ok(), tree);
    assert_eq!(host.info("free_memory"), free);
    host.power_off();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn an_interface_that_cannot_be_had_is_refused_in_a_line_and_leaves_nothing() {
    let host = TestHost::boot();
    host.create("user", "vif = ['']", "").ok();
    wait_for("the guest to have written what it writes", || {
        let wish = host.xl("xenstore read /local/domain/1/control/feature-reboot");
        (wish.ok().trim() == "1").then_some(())
    });
    let before = host.xl("xenstore ls -f").ok();
    for (vif, why) in [
        ("bridge=br1", "there is no bridge \"br1\""),
        ("type=ioemu", "type=ioemu is not supported"),
        ("colour=blue", "a network interface has no key 'colour'"),
        ("rate=fast", "'fast' is no rate"),
        ("ip=10.0.2.x", "'10.0.2.x' is no IP address"),
    ] {
        for complaint in [
            host.create("other", &format!("vif = ['{vif}']"), "")
                .refused(),
            host.xl(&format!("network-attach user {vif}")).refused(),
        ] {
            assert!(complaint.contains(why), "{complaint}");
            let said = complaint
                .lines()
                .filter(|line| !line.starts_with("Parsing"));
            assert_eq!(said.count(), 1, "{complaint}");
        }
        assert_eq!(host.row("other"), None);
        assert_eq!(host.xl("xenstore ls -f").ok(), before);
    }
    host.xl("network-detach user 7").refused();
    host.power_off();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn what_one_guest_sends_another_by_tcp_arrives_and_leaves_nothing() {
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        ..Hardware::default()
    });
    let lines = "vcpus = 2\nvif = ['']";
    let send = |mib: u64| {
        let words = format!("address=10.0.2.51 to=10.0.2.50 mib={mib}");
        let receiver = host.create_app("netcheck", "receiver", lines, "address=10.0.2.50");
        let sender = host.create_app("netcheck", "sender", lines, &words);
        let arrived = format!("netcheck: {mib} MiB sent");
        // A busy machine sends 2 MiB in a second.
        sender.expect_line_within(&arrived, LIMIT + Duration::from_secs(mib / 2));
        sender.expect("all arrived");
        receiver.expect(&format!("netcheck: {mib} MiB received, as they were sent"));
        eprintln!("{}", sender.text());
        for name in ["sender", "receiver"] {
            host.xl(&format!("destroy {name}")).ok();
        }
    };
    // The first has dom0 keep the kernel, and what it needs at a time.
    send(16);
    let before = Books::of(&host);
    send(if thorough() { 1024 } else { 64 });
    Books::of(&host).assert_quiet_as_before(&before);
    host.power_off();
}
