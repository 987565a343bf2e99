//! What guests are asked to do by the store.

use super::store::Guest;
use super::*;

#[test]
fn who_asks_a_guest_to_stop_is_answered_when_the_guest_has_heard() {
    for (how, word) in [(Stop::PowerOff, "poweroff"), (Stop::Reboot, "reboot")] {
        let mut host = Host::new();
        let config = host.config("web");
        let domid = host.create(config);
        let mut guest = Guest::new(&mut host, domid);
        guest.watch(&mut host, "control/shutdown");
        guest.events(&mut host);
        let channel = host.open();
        host.send(channel, stop(domid, how));
        assert_eq!(host.replies(channel), []);
        assert_eq!(guest.events(&mut host), ["control/shutdown"]);
        let path = "control/shutdown";
        assert_eq!(guest.read(&mut host, path).as_deref(), Ok(word));
        // The guest's own permission lets it acknowledge.
        guest.write(&mut host, path, "").unwrap();
        assert_eq!(host.replies(channel), [Reply::Done]);
        host.store_is_consistent();
    }
}

#[test]
fn a_guest_that_does_not_hear_is_told_of_when_the_time_is_up() {
    let mut host = Host::new();
    let config = host.config("deaf");
    let domid = host.create(config);
    let channels = [host.open(), host.open()];
    for channel in channels {
        host.send(channel, stop(domid, Stop::PowerOff));
    }
    host.xen().clock += 999_000_000;
    assert_eq!(host.replies(channels[0]), []);
    assert_eq!(host.server.deadline(), Some(1_000_000_000));
    host.xen().clock += 1_000_000;
    for channel in channels {
        let request = "poweroff".into();
        let error = Error::NotAcknowledged { domid, request };
        assert_eq!(host.replies(channel), [Reply::Error(error)]);
    }
    // It may hear later, and be asked again.
    let mut guest = Guest::new(&mut host, domid);
    guest.write(&mut host, "control/shutdown", "").unwrap();
    host.send(channels[0], stop(domid, Stop::PowerOff));
    assert_eq!(host.replies(channels[0]), []);
    guest.write(&mut host, "control/shutdown", "").unwrap();
    assert_eq!(host.replies(channels[0]), [Reply::Done]);
}

#[test]
fn a_guest_that_is_destroyed_or_stops_has_nothing_more_to_acknowledge() {
    let mut host = Host::new();
    for name in ["one", "two"] {
        let mut config = host.config(name);
        config.on.crash = Action::Preserve;
        let domid = host.create(config);
        let channel = host.open();
        host.send(channel, stop(domid, Stop::PowerOff));
        if name == "one" {
            let id = DomainRef::Id(domid);
            assert_eq!(host.ask(Request::Destroy(id)), Reply::Done);
        } else {
            host.guest_stops(domid, ShutdownReason::CRASH.0);
        }
        assert_eq!(host.replies(channel), [Reply::Done]);
    }
    host.store_is_consistent();
}

#[test]
fn memory_and_vcpus_are_asked_for_within_what_the_guest_may_have() {
    let mut host = Host::new();
    let mut config = host.config("web");
    config.max_memory_kib = 32 << 10;
    config.max_vcpus = 4;
    let uuid = config.uuid;
    let domid = host.create(config);
    let domain = || DomainRef::Id(domid);
    let target = |kib| Request::SetMemoryTarget {
        domain: domain(),
        kib,
    };
    let most = |kib| Request::SetMaxMemory {
        domain: domain(),
        kib,
    };
    let vcpus = |online| Request::SetVcpus {
        domain: domain(),
        online,
    };
    let home = format!("/local/domain/{domid}");

    assert_eq!(host.ask(target(24 << 10)), Reply::Done);
    let found = host.node(&format!("{home}/memory/target"));
    assert_eq!(found.as_deref(), Some("24576"));
    assert_eq!(
        host.node(&format!("/vm/{uuid}/memory")).as_deref(),
        Some("24")
    );
    // Beyond the target, it gets no memory but the slack that every domain has.
    assert_eq!(host.xen().domains[&domid].max_kib, (24 << 10) + 1024);
    assert!(matches!(
        host.error(target(33 << 10)),
        Error::BadConfig { field, .. } if field == "memory"
    ));

    assert_eq!(host.ask(most(64 << 10)), Reply::Done);
    let found = host.node(&format!("{home}/memory/static-max"));
    assert_eq!(found.as_deref(), Some("65536"));
    assert_eq!(host.xen().domains[&domid].max_kib, (64 << 10) + 1024);
    assert!(matches!(
        host.error(most(1 << 10)),
        Error::BadConfig { field, .. } if field == "maxmem"
    ));

    assert_eq!(host.ask(vcpus(3)), Reply::Done);
    let state: Vec<_> = (0..4)
        .map(|vcpu| {
            host.node(&format!("{home}/cpu/{vcpu}/availability"))
                .unwrap()
        })
        .collect();
    assert_eq!(state, ["online", "online", "online", "offline"]);
    for wrong in [0, 5] {
        assert!(matches!(host.error(vcpus(wrong)), Error::BadConfig { .. }));
    }
    for request in [
        Request::SetMemoryTarget {
            domain: DomainRef::Id(0),
            kib: 1,
        },
        Request::SetVcpus {
            domain: DomainRef::Id(0),
            online: 1,
        },
    ] {
        assert!(matches!(host.error(request), Error::NotPermitted(_)));
    }
}

#[test]
fn keys_and_triggers_reach_the_guest() {
    let mut host = Host::new();
    let config = host.config("web");
    let domid = host.create(config);
    let sysrq = |key| Request::Sysrq {
        domain: DomainRef::Id(domid),
        key,
    };
    assert_eq!(host.ask(sysrq(b's')), Reply::Done);
    let mut guest = Guest::new(&mut host, domid);
    let path = "control/sysrq";
    assert_eq!(guest.read(&mut host, path).as_deref(), Ok("s"));
    assert!(matches!(host.error(sysrq(0)), Error::BadRequest(_)));
    let trigger = |trigger, vcpu| Request::Trigger {
        domain: DomainRef::Id(domid),
        trigger,
        vcpu,
    };
    assert_eq!(host.ask(trigger(0, 0)), Reply::Done);
    assert!(matches!(host.error(trigger(0, 7)), Error::BadState { .. }));
    assert!(matches!(host.error(trigger(3, 0)), Error::NotSupported(_)));
}

#[test]
fn a_guest_reboots_into_the_configuration_that_it_was_given_since() {
    let mut host = Host::new();
    let config = host.config("web");
    let uuid = config.uuid;
    let domid = host.create(config.clone());
    let update = |config: DomainConfig| Request::UpdateConfig {
        domain: DomainRef::Id(domid),
        config: Box::new(config),
    };
    let mut wrong = config.clone();
    wrong.vcpus = 0;
    assert!(matches!(host.error(update(wrong)), Error::BadConfig { .. }));
    let mut other = config;
    other.name = "ignored".into();
    other.uuid = Uuid([99; 16]);
    other.cmdline = "changed".into();
    assert_eq!(host.ask(update(other)), Reply::Done);
    host.xen().clock += 2_000_000_000;
    host.guest_stops(domid, ShutdownReason::REBOOT.0);
    let (_, name) = host.names()[1].clone();
    assert_eq!(name, "web");
    let found = host.node(&format!("/vm/{uuid}/image/cmdline"));
    assert_eq!(found.as_deref(), Some("changed"));
}
