//! Random clients, guests and failures.

use super::*;

/// Things that clients, guests and the hypervisor do.
#[derive(Clone, Debug)]
enum Step {
    Create(u8, bool),
    Destroy(u8),
    Pause(u8),
    Unpause(u8),
    Rename(u8, u8),
    Attach(u8),
    Type(Vec<u8>),
    List,
    Wait(u8),
    CloseAll,
    GuestStops(u16, u8),
    GuestScribbles(u16, u32, u32),
    GuestScribblesStore(u16, usize, Vec<u8>),
    Stop(u8),
    SpeakWithStore(Vec<u8>),
    Garbage(Vec<u8>),
    FailSoon(u32),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..4, any::<bool>()).prop_map(|(name, paused)| Step::Create(name, paused)),
        2 => (0u8..4).prop_map(Step::Destroy),
        1 => (0u8..4).prop_map(Step::Pause),
        1 => (0u8..4).prop_map(Step::Unpause),
        1 => (0u8..4, 0u8..4).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (0u8..4).prop_map(Step::Attach),
        1 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(Step::Type),
        1 => Just(Step::List),
        1 => (0u8..4).prop_map(Step::Wait),
        1 => Just(Step::CloseAll),
        2 => (1u16..9, 0u8..7).prop_map(|(domid, reason)| Step::GuestStops(domid, reason)),
        1 => (1u16..9, any::<u32>(), any::<u32>())
            .prop_map(|(domid, prod, cons)| Step::GuestScribbles(domid, prod, cons)),
        // The rings' indices, and requests that may be understood.
        2 => (1u16..9, prop_oneof![Just(0), 2048usize..2080], small_bytes())
            .prop_map(|(domid, at, bytes)| Step::GuestScribblesStore(domid, at, bytes)),
        1 => (0u8..4).prop_map(Step::Stop),
        1 => small_bytes().prop_map(Step::SpeakWithStore),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Garbage),
        2 => (0u32..40).prop_map(Step::FailSoon),
        1 => (0u64..3_000_000_000).prop_map(Step::Later),
    ]
}

/// Bytes that make many small numbers, as requests to the store and indices of its rings are.
fn small_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop_oneof![2 => Just(0), 1 => 0u8..20, 1 => any::<u8>()],
        0..64,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_happens_names_are_unique_and_everything_can_be_given_back(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut host = Host::with(Fake::new(30_000));
        let tree = host.tree();
        let mut config = host.config("x");
        // The fixture's kernel is linked at 4 MiB.
        config.memory_kib = 8 << 10;
        config.max_memory_kib = 8 << 10;
        config.on.reboot = Action::Restart;
        config.on.watchdog = Action::RenameRestart;
        config.on.crash = Action::Preserve;
        let name = |n: u8| DomainRef::Name(format!("g{n}"));
        let mut channels = Vec::new();
        for step in steps {
            // A channel each, of which some are kept.
            if channels.len() > 40 {
                break;
            }
            let channel = host.open();
            channels.push(channel);
            match step {
                Step::Create(n, paused) => {
                    let mut config = config.clone();
                    config.name = format!("g{n}");
                    config.uuid = Uuid([n + 1; 16]);
                    let config = Box::new(config);
                    host.send(channel, Request::CreateDomain { config, paused });
                }
                Step::Destroy(n) => host.send(channel, Request::Destroy(name(n))),
                Step::Pause(n) => host.send(channel, Request::Pause(name(n))),
                Step::Unpause(n) => host.send(channel, Request::Unpause(name(n))),
                Step::Rename(from, to) => {
                    let (domain, name) = (name(from), format!("g{to}"));
                    host.send(channel, Request::Rename { domain, name });
                }
                Step::Attach(n) => {
                    let domain = name(n);
                    host.send(channel, Request::AttachConsole { domain, scrollback: true });
                }
                Step::Type(bytes) => {
                    for channel in channels.clone() {
                        host.send(channel, Request::ConsoleInput(bytes.clone()));
                    }
                }
                Step::List => host.send(channel, Request::ListDomains(None)),
                Step::Wait(n) => host.send(channel, Request::WaitShutdown(name(n))),
                Step::CloseAll => {
                    for channel in channels.drain(..) {
                        host.client.close(channel, CloseReason::Done);
                    }
                    host.pump();
                }
                Step::GuestStops(domid, reason) => {
                    if host.xen().domains.get(&domid).is_some_and(|d| !d.dying) {
                        host.guest_stops(domid, reason);
                    }
                }
                Step::GuestScribbles(domid, prod, cons) => {
                    // The store's port is its first, the console's its second.
                    if host.xen().ports.values().any(|port| *port == (domid, 2)) {
                        let (mfn, port) = host.console(domid);
                        let xen = host.xen();
                        let at = offset_of!(XenconsInterface, out_prod);
                        xen.poke(mfn, at, &prod.to_le_bytes());
                        let at = offset_of!(XenconsInterface, in_cons);
                        xen.poke(mfn, at, &cons.to_le_bytes());
                        host.toolstack.on_port(Port(port));
                        host.pump();
                    }
                }
                Step::GuestScribblesStore(domid, at, bytes) => {
                    if host.xen().ports.values().any(|port| *port == (domid, 1)) {
                        let page = host.start_info(domid).store_mfn.0;
                        host.xen().poke(page, at, &bytes);
                        let port = host.our_port(domid, Port(1));
                        host.toolstack.on_port(Port(port));
                        host.pump();
                    }
                }
                Step::Stop(n) => {
                    let (domain, how) = (name(n), Stop::Reboot);
                    let patience_ms = 500;
                    host.send(channel, Request::Stop { domain, how, patience_ms });
                }
                Step::SpeakWithStore(bytes) => {
                    host.send(channel, Request::AttachStore);
                    host.send(channel, Request::StoreInput(bytes));
                }
                Step::Garbage(bytes) => {
                    host.client.send(channel, &bytes).unwrap();
                    host.pump();
                }
                Step::FailSoon(calls) => host.xen().fail_in = Some(calls),
                Step::Later(nanoseconds) => {
                    host.xen().clock += nanoseconds;
                    host.toolstack.tick();
                    host.pump();
                }
            }
            let alive = host.xen().domains.values().filter(|d| !d.dying).count();
            let list = host.toolstack.list(None).unwrap().into_iter();
            let mut names: Vec<String> = list
                .filter(|domain| domain.domid != 0 && !domain.state.dying)
                .map(|domain| domain.name)
                .filter(|name| !name.is_empty())
                .collect();
            prop_assert_eq!(names.len(), alive, "a domain without a record");
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), alive, "two domains of one name");
        }
        for channel in channels {
            host.client.close(channel, CloseReason::Done);
        }
        host.pump();
        host.xen().fail_in = None;
        let left: Vec<u16> = host.xen().domains.keys().copied().collect();
        for domid in left {
            prop_assert_eq!(host.ask(Request::Destroy(DomainRef::Id(domid))), Reply::Done);
        }
        prop_assert_eq!(host.xen().free.len(), 30_000);
        prop_assert!(host.xen().ports.is_empty());
        prop_assert_eq!(host.tree(), tree);
        host.store_is_consistent();
    }
}
