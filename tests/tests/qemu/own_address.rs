//! dom0's own address on the bridge, over QEMU's own network.

use std::time::Duration;

use control::{NetworkReply, NetworkRequest, OwnAddress, Reply, Request};
use tests::books::Books;
use tests::host::TestHost;
use tests::{LIMIT, deadline, dist, hypervisor, thorough, wait_for};
use xtask::qemu::Hardware;
use xtask::run;

/// A host whose dom0 has these words on its command line.
fn boot_with(words: &str) -> TestHost {
    let mut boot = run::boot(hypervisor(), dist("dom0"));
    boot.add_dom0_words(words);
    TestHost::boot_from(&Hardware::default(), &boot)
}

/// What a guest, which has an address beside that one, says of whether it is answered there.
fn ping(host: &TestHost, to: &str) -> String {
    let words = format!("address=10.0.2.51 ping={to}");
    let guest = host.create_app("netcheck", "asks", "vif = ['']", &words);
    guest.expect_line(&format!("netcheck: {to} "));
    let text = guest.text();
    host.xl("destroy asks").ok();
    text
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn dom0_is_given_an_address_and_guests_reach_it() {
    let host = TestHost::boot();
    let leased = || Some(host.info("dom0_address")).filter(|it| it != "none");
    let address = wait_for("dom0's address", leased);
    let (address, prefix) = address.split_once('/').expect("an address with its prefix");
    assert_eq!(prefix, "24");
    assert_eq!(host.info("dom0_gateway"), "10.0.2.2");
    let told = format!("this domain's address: {address}/24, by DHCP");
    assert!(host.host().log().wait_for(&told, deadline()));

    let said = ping(&host, address);
    assert!(said.contains(" answers in "), "{said}");

    // TCP, to a port that is open for that only.
    let send = |mib: u64| {
        let mut client = host.host().connect(LIMIT).expect("dom0 answers");
        let channel = client.open().expect("a channel");
        let request = Request::Network(NetworkRequest::Receive { port: 5001 });
        let reply = client.call(channel, &request).expect("dom0 listens");
        let Reply::Network(NetworkReply::Listening(OwnAddress { address: own, .. })) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(std::net::Ipv4Addr::from(own).to_string(), address);
        let words = format!("address=10.0.2.52 to={address} mib={mib}");
        let sender = host.create_app("netcheck", "sender", "vif = ['']", &words);
        // A busy machine sends 2 MiB in a second.
        let limit = LIMIT + Duration::from_secs(mib / 2);
        sender.expect_line_within(&format!("netcheck: {mib} MiB sent"), limit);
        sender.expect("all arrived");
        let reply = client.receive(channel).expect("dom0 counts");
        let Reply::Network(NetworkReply::Received { bytes, ns }) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(bytes, mib << 20);
        assert!(ns > 0);
        eprintln!("{} MiB/s", (mib * 1_000_000_000) / ns);
        host.xl("destroy sender").ok();
    };
    send(8);
    let before = Books::of(&host);
    send(if thorough() { 1024 } else { 64 });
    Books::of(&host).assert_quiet_as_before(&before);
    host.power_off();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn dom0_has_the_address_that_its_command_line_says() {
    let host = boot_with("ip=10.0.2.77/24 gateway=10.0.2.2");
    assert_eq!(host.info("dom0_address"), "10.0.2.77/24");
    assert_eq!(host.info("dom0_gateway"), "10.0.2.2");
    let said = ping(&host, "10.0.2.77");
    assert!(said.contains(" answers in "), "{said}");
    host.power_off();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn dom0_without_an_address_is_not_there_for_others() {
    let host = boot_with("ip=none");
    assert_eq!(host.info("dom0_address"), "none");
    let said = ping(&host, "10.0.2.15");
    assert!(said.contains(" does not answer"), "{said}");
    assert_eq!(host.info("dom0_address"), "none");
    host.power_off();
    // One that cannot be is told of, and not replaced by another.
    let host = boot_with("ip=10.0.2.255/24");
    let told = "no address: ip=10.0.2.255/24 is not";
    assert!(host.host().log().wait_for(told, deadline()));
    assert_eq!(host.info("dom0_address"), "none");
    host.power_off();
}
