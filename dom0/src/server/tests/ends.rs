//! Domains end, by themselves or by their destruction.

use super::*;

#[test]
fn a_reboot_builds_the_domain_anew_under_its_name() {
    let mut host = Host::new();
    let config = host.config("r");
    let first = host.create(config);
    let channel = host.open();
    host.send(
        channel,
        Request::AttachConsole {
            domain: DomainRef::Id(first),
            scrollback: true,
        },
    );
    let waiting = host.open();
    host.send(waiting, Request::WaitShutdown(DomainRef::Id(first)));
    host.xen().clock = 5_000_000_000;
    host.guest_prints(first, b"last words");
    host.guest_stops(first, 1);
    assert_eq!(
        host.replies(waiting),
        [Reply::ShutDown(Some(ShutdownReason::REBOOT))]
    );
    let names = host.names();
    assert_eq!(names.len(), 2);
    let second = names[1].0;
    assert_ne!(first, second);
    assert_eq!(names[1].1, "r");
    let replies = host.replies(channel);
    assert_eq!(output(&replies), "last words");
    assert_eq!(
        replies.last(),
        Some(&Reply::ConsoleEnd(ConsoleEnd::Restarted(second)))
    );
}

#[test]
fn a_domain_that_reboots_at_once_is_restarted_once_a_second() {
    let mut host = Host::new();
    let config = host.config("r");
    host.xen().clock = 10_000_000_000;
    let first = host.create(config);
    host.xen().clock += 1000;
    host.guest_stops(first, 1);
    assert_eq!(host.names()[1].0, first);
    assert_eq!(host.toolstack.deadline(), Some(11_000_000_000));
    host.xen().clock = 11_000_000_000;
    host.toolstack.tick();
    assert_ne!(host.names()[1].0, first);
    assert_eq!(host.toolstack.deadline(), None);
}

#[test]
fn a_crashed_domain_is_kept_if_so_configured() {
    let mut host = Host::new();
    let mut config = host.config("c");
    config.on.crash = Action::Preserve;
    let domid = host.create(config);
    host.guest_stops(domid, 3);
    match host.ask(Request::ListDomains(Some(DomainRef::Id(domid)))) {
        Reply::Domains { domains, .. } => {
            assert_eq!(domains[0].state.shutdown, Some(ShutdownReason::CRASH));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        host.ask(Request::WaitShutdown(DomainRef::Id(domid))),
        Reply::ShutDown(Some(ShutdownReason::CRASH))
    );
    assert!(matches!(
        host.error(stop(domid, Stop::PowerOff)),
        Error::BadState { .. }
    ));
    assert_eq!(
        host.ask(Request::Destroy(DomainRef::Id(domid))),
        Reply::Done
    );
    assert_eq!(host.xen().free.len(), 20_000);
}

#[test]
fn rename_restart_keeps_the_old_domain_and_its_console() {
    let mut host = Host::new();
    let mut config = host.config("c");
    config.on.crash = Action::RenameRestart;
    let first = host.create(config);
    host.xen().clock = 2_000_000_000;
    host.guest_stops(first, 3);
    let names = host.names();
    assert_eq!(names[1], (first, "c-20231114T2213Z".into()));
    assert_eq!(names[2].1, "c");
    let handles: Vec<_> = host.xen().domains.values().map(|d| d.handle).collect();
    assert_ne!(handles[0], handles[1]);
    host.guest_stops(first, 3);
    assert_eq!(host.names().len(), 3);
}

#[test]
fn a_domain_that_powers_off_is_gone() {
    let mut host = Host::new();
    let config = host.config("p");
    let domid = host.create(config);
    let waiting = host.open();
    host.send(waiting, Request::WaitShutdown(DomainRef::Id(domid)));
    host.guest_stops(domid, 0);
    assert_eq!(
        host.replies(waiting),
        [Reply::ShutDown(Some(ShutdownReason::POWEROFF))]
    );
    assert_eq!(host.names().len(), 1);
    assert_eq!(host.xen().free.len(), 20_000);
}

#[test]
fn destroy_is_answered_when_the_last_frame_is_free() {
    let mut host = Host::new();
    let config = host.config("d");
    let domid = host.create(config);
    let held = {
        let mfn = host.console(domid).0;
        host.xen()
            .map(Domid(domid), &[hypercall_abi::types::Mfn(mfn)])
    };
    let channel = host.open();
    host.send(channel, Request::Destroy(DomainRef::Id(domid)));
    assert_eq!(host.replies(channel), []);
    // The name is free, the id is not.
    let config = host.config("d");
    host.create(config);
    assert!(matches!(
        host.error(Request::Destroy(DomainRef::Id(domid))),
        Error::BadState { .. }
    ));
    drop(held);
    host.toolstack.tick();
    assert_eq!(host.replies(channel), [Reply::Done]);
}

#[test]
fn patience_with_a_lingering_domain_ends() {
    let mut host = Host::new();
    let config = host.config("d");
    let domid = host.create(config);
    let mfn = host.console(domid).0;
    let _held = host
        .xen()
        .map(Domid(domid), &[hypercall_abi::types::Mfn(mfn)]);
    let channel = host.open();
    host.send(channel, Request::Destroy(DomainRef::Id(domid)));
    assert_eq!(host.replies(channel), []);
    host.xen().clock = host.server.deadline().unwrap();
    assert!(matches!(
        host.replies(channel)[..],
        [Reply::Error(Error::BadState { .. })]
    ));
}

#[test]
fn two_hundred_rounds_of_create_and_destroy_leave_the_memory_as_it_was() {
    let mut host = Host::new();
    let config = host.config("again");
    for _ in 0..200 {
        let domid = host.create(config.clone());
        assert_eq!(
            host.ask(Request::Destroy(DomainRef::Id(domid))),
            Reply::Done
        );
    }
    assert_eq!(host.xen().free.len(), 20_000);
    assert!(host.xen().ports.is_empty());
}
