//! Domains are created, named and listed.

use super::*;

#[test]
fn what_the_cpus_were_used_for_is_told_with_the_domains() {
    let mut host = Host::new();
    host.xen().clock = 5_000_000;
    let config = host.config("g");
    let domid = host.create(config);
    let channel = host.open();
    host.send(channel, Request::Usage);
    let replies = host.replies(channel);
    let [
        Reply::Usage(usage),
        Reply::Domains {
            domains,
            more: false,
        },
    ] = &replies[..]
    else {
        panic!("{replies:?}");
    };
    assert_eq!(usage.idle_ns, [1000, 2000]);
    assert_eq!(usage.time_ns, host.xen().clock);
    let domids: Vec<u16> = domains.iter().map(|it| it.domid).collect();
    assert_eq!(domids, [0, domid]);
}

#[test]
fn upcalls_are_told_of_domains_where_the_hypervisor_counts_them() {
    let mut host = Host::new();
    let config = host.config("g");
    host.create(config);
    let channel = host.open();
    let told = |host: &mut Host, request| -> Vec<Option<u32>> {
        host.send(channel, request);
        match host.replies(channel).pop() {
            Some(Reply::Domains { domains, .. }) => domains.iter().map(|it| it.upcalls).collect(),
            other => panic!("{other:?}"),
        }
    };
    host.xen().upcalls = vec![5, u32::MAX];
    let both = [Some(5), Some(u32::MAX)];
    assert_eq!(told(&mut host, Request::Usage), both);
    assert_eq!(told(&mut host, Request::ListDomains(None)), [None, None]);
    // Which of three is the guest's is not known, where two are listed.
    host.xen().upcalls = vec![5, 6, 7];
    assert_eq!(told(&mut host, Request::Usage), [None, None]);
    host.xen().upcalls = vec![5, 6];
    host.xen().fail_in = Some(0);
    assert_eq!(told(&mut host, Request::Usage), [None, None]);
    assert_eq!(told(&mut host, Request::Usage), [Some(5), Some(6)]);
}

#[test]
fn a_domain_is_created_listed_paused_and_destroyed() {
    let mut host = Host::new();
    let config = host.config("web");
    let free = host.xen().free.len();
    let domid = host.create(config.clone());
    assert_eq!(
        host.names(),
        [(0, "Domain-0".into()), (domid, "web".into())]
    );
    let web = || DomainRef::Name("web".into());
    assert_eq!(host.ask(Request::Domid(web())), Reply::Domid(domid));
    assert_eq!(
        host.ask(Request::DomainName(DomainRef::Id(domid))),
        Reply::Name("web".into())
    );
    assert_eq!(
        host.ask(Request::DomainConfig(web())),
        Reply::Config {
            domid,
            config: Some(Box::new(config))
        }
    );
    for _ in 0..2 {
        assert_eq!(host.ask(Request::Pause(web())), Reply::Done);
        assert_eq!(host.xen().domains[&domid].pauses, 1);
    }
    for _ in 0..2 {
        assert_eq!(host.ask(Request::Unpause(web())), Reply::Done);
        assert_eq!(host.xen().domains[&domid].pauses, 0);
    }
    assert_eq!(host.ask(Request::Destroy(web())), Reply::Done);
    assert_eq!(host.names(), [(0, "Domain-0".into())]);
    assert_eq!(host.xen().free.len(), free);
    assert!(host.xen().ports.is_empty());
    assert_eq!(
        host.error(Request::Destroy(web())),
        Error::NoSuchDomain(web())
    );
}

#[test]
fn names_and_uuids_are_unique_among_the_living() {
    let mut host = Host::new();
    let config = host.config("a");
    let domid = host.create(config.clone());
    let mut other = config.clone();
    other.uuid = Uuid([9; 16]);
    assert_eq!(
        host.error(Request::CreateDomain {
            config: Box::new(other.clone()),
            paused: true
        }),
        Error::NameInUse {
            name: "a".into(),
            domid
        }
    );
    other.name = "b".into();
    other.uuid = config.uuid;
    assert_eq!(
        host.error(Request::CreateDomain {
            config: Box::new(other.clone()),
            paused: true
        }),
        Error::UuidInUse { domid }
    );
    other.uuid = Uuid([9; 16]);
    let second = host.create(other);
    let rename = |name: &str| Request::Rename {
        domain: DomainRef::Id(second),
        name: name.into(),
    };
    assert_eq!(
        host.error(rename("a")),
        Error::NameInUse {
            name: "a".into(),
            domid
        }
    );
    assert_eq!(
        host.error(rename("Domain-0")),
        Error::NameInUse {
            name: "Domain-0".into(),
            domid: 0
        }
    );
    assert!(matches!(host.error(rename("17")), Error::BadConfig { .. }));
    assert_eq!(host.ask(rename("c")), Reply::Done);
    assert_eq!(host.names()[2].1, "c");
}

#[test]
fn dom0_is_left_alone() {
    let mut host = Host::new();
    let dom0 = || DomainRef::Name("Domain-0".into());
    for request in [
        Request::Destroy(dom0()),
        Request::Pause(dom0()),
        Request::Rename {
            domain: dom0(),
            name: "x".into(),
        },
        stop(0, Stop::PowerOff),
    ] {
        assert!(matches!(host.error(request), Error::NotPermitted(_)));
    }
    assert_eq!(
        host.ask(Request::DomainConfig(dom0())),
        Reply::Config {
            domid: 0,
            config: None
        }
    );
}

#[test]
fn a_configuration_that_cannot_be_leaves_nothing_behind() {
    let mut host = Host::new();
    let good = host.config("x");
    let mut refuse = |change: &dyn Fn(&mut DomainConfig), field: &str| {
        let mut config = good.clone();
        change(&mut config);
        let request = Request::CreateDomain {
            config: Box::new(config),
            paused: false,
        };
        match host.error(request) {
            Error::BadConfig { field: found, .. } => assert_eq!(found, field),
            other => panic!("{other}"),
        }
        assert_eq!(host.names().len(), 1);
        assert_eq!(host.xen().free.len(), 20_000);
    };
    refuse(&|c| c.name = "5".into(), "name");
    refuse(&|c| c.name = "a/b".into(), "name");
    refuse(&|c| c.memory_kib = 0, "memory");
    refuse(
        &|c| (c.memory_kib, c.max_memory_kib) = (4096, 4096),
        "memory",
    );
    refuse(&|c| c.max_memory_kib = 1, "maxmem");
    refuse(&|c| c.vcpus = 0, "vcpus");
    refuse(&|c| c.vcpus = 2, "maxvcpus");
    refuse(&|c| c.cmdline = "x".repeat(1024), "extra");
    refuse(&|c| c.on.crash = Action::CoredumpRestart, "on_crash");
    let mut config = good.clone();
    config.kernel = host.upload(b"no kernel");
    let request = Request::CreateDomain {
        config: Box::new(config.clone()),
        paused: false,
    };
    assert!(matches!(host.error(request), Error::BadKernel(_)));
    config.kernel.hash = ImageHash([1; 32]);
    let request = Request::CreateDomain {
        config: Box::new(config),
        paused: false,
    };
    assert!(matches!(host.error(request), Error::NoSuchImage(_)));
}

#[test]
fn whichever_hypercall_of_a_create_fails_nothing_is_left() {
    for call in 0.. {
        let mut host = Host::new();
        let config = Box::new(host.config("x"));
        host.xen().fail_in = Some(call);
        let request = Request::CreateDomain {
            config,
            paused: false,
        };
        let reply = host.ask(request);
        let failed = host.xen().fail_in.take().is_none();
        match reply {
            Reply::Domid(_) if failed => {}
            Reply::Domid(_) => return,
            Reply::Error(_) => {
                assert_eq!(host.xen().free.len(), 20_000, "call {call}");
                assert!(host.xen().ports.is_empty(), "call {call}");
                assert_eq!(host.names().len(), 1);
            }
            other => panic!("{other:?}"),
        }
    }
}
