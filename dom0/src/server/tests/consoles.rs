//! Consoles, with readers that are slow and guests that break them.

use super::*;

#[test]
fn a_console_shows_what_was_printed_before_and_what_comes() {
    let mut host = Host::new();
    let config = host.config("g");
    let domid = host.create(config);
    host.guest_prints(domid, b"banner\n");
    let attach = |scrollback| Request::AttachConsole {
        domain: DomainRef::Id(domid),
        scrollback,
    };
    let (old, new) = (host.open(), host.open());
    host.send(old, attach(true));
    host.send(new, attach(false));
    host.guest_prints(domid, b"tick\n");
    let replies = host.replies(old);
    assert_eq!(replies[0], Reply::Domid(domid));
    assert_eq!(output(&replies), "banner\ntick\n");
    assert_eq!(output(&host.replies(new)), "tick\n");

    host.send(old, Request::ConsoleInput(b"halt\n".to_vec()));
    let (mfn, port) = host.console(domid);
    assert_eq!(&host.xen().bytes(mfn)[..5], b"halt\n");
    assert_eq!(host.xen().notified.last(), Some(&port));
    host.ask(Request::Destroy(DomainRef::Id(domid)));
    for channel in [old, new] {
        assert_eq!(
            host.replies(channel),
            [Reply::ConsoleEnd(ConsoleEnd::Destroyed)]
        );
    }
    // The channel may be used for something else.
    host.send(old, Request::Hello);
    assert!(matches!(host.replies(old)[..], [Reply::Hello { .. }]));
}

#[test]
fn typed_bytes_wait_for_room_in_the_ring() {
    let mut host = Host::new();
    let config = host.config("g");
    let domid = host.create(config);
    let channel = host.open();
    host.send(
        channel,
        Request::AttachConsole {
            domain: DomainRef::Id(domid),
            scrollback: true,
        },
    );
    let typed: Vec<u8> = (0..3000).map(|n| b'a' + (n % 26) as u8).collect();
    host.send(channel, Request::ConsoleInput(typed.clone()));
    let (mfn, port) = host.console(domid);
    let mut seen = Vec::new();
    while seen.len() < typed.len() {
        let page = host.xen().bytes(mfn);
        let index = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
        let cons = index(offset_of!(XenconsInterface, in_cons));
        let prod = index(offset_of!(XenconsInterface, in_prod));
        assert_ne!(cons, prod, "nothing more came");
        seen.extend((cons..prod).map(|at| page[at as usize % 1024]));
        let at = offset_of!(XenconsInterface, in_cons);
        host.xen().poke(mfn, at, &prod.to_le_bytes());
        host.toolstack.on_port(Port(port));
        host.pump();
    }
    assert_eq!(seen, typed);
}

#[test]
fn a_guest_that_breaks_its_ring_loses_its_console_and_nothing_else() {
    let mut host = Host::new();
    let config = host.config("g");
    let domid = host.create(config);
    let (mfn, port) = host.console(domid);
    let at = offset_of!(XenconsInterface, out_prod);
    host.xen().poke(mfn, at, &0xdead_beef_u32.to_le_bytes());
    host.toolstack.on_port(Port(port));
    assert!(
        host.xen()
            .logged
            .iter()
            .any(|line| line.contains("given up"))
    );
    // What is left is that of the store.
    assert_eq!(host.xen().ports.len(), 1);
    assert_eq!(host.names().len(), 2);
    assert_eq!(
        host.ask(Request::Destroy(DomainRef::Id(domid))),
        Reply::Done
    );
    assert_eq!(host.xen().free.len(), 20_000);
}

#[test]
fn a_slow_reader_of_a_console_holds_up_nobody() {
    let mut host = Host::new();
    let config = host.config("g");
    let domid = host.create(config);
    let slow = host.open();
    host.send(
        slow,
        Request::AttachConsole {
            domain: DomainRef::Id(domid),
            scrollback: true,
        },
    );
    for round in 0..400 {
        let (mfn, port) = host.console(domid);
        let at = offset_of!(XenconsInterface, out_prod);
        let prod: u32 = (round + 1) * 2048;
        host.xen().poke(mfn, at, &prod.to_le_bytes());
        host.toolstack.on_port(Port(port));
        // The client reads nothing: its output never reaches it.
        host.server.advance(&mut host.toolstack);
    }
    let waiting = host.server.take_output(&mut host.toolstack);
    assert!(waiting.len() <= control::session::OUTPUT_LIMIT);
    host.client.receive(&waiting);
    assert!(matches!(host.ask(Request::Hello), Reply::Hello { .. }));
}
