//! A thousand domains: what a request costs does not depend on how many others there are.

use xenstore::wire::Kind;

use crate::harness::{DOM0, Store, guest};

const NODES: usize = 50;
const WATCHES: usize = 5;

fn populated(domains: u16) -> Store {
    let mut store = Store::new();
    for domain in 1..=domains {
        let client = store.introduce(domain);
        for node in 0..NODES - 1 {
            store.ok(client, Kind::Write, &format!("device/{node}\0value"));
        }
        for watch in 0..WATCHES {
            store.ok(client, Kind::Watch, &format!("device/{watch}\0token\0"));
        }
        store.events(client);
    }
    store
}

/// What some requests of one domain, and its end, cost each.
fn costs(store: &mut Store) -> Vec<u64> {
    let client = guest(1);
    let mut costs = Vec::new();
    let mut note = |store: &mut Store| costs.push(store.server.work());
    note(store);
    store.ok(client, Kind::Write, "device/0\0other");
    note(store);
    store.ok(client, Kind::Read, "device/0\0");
    note(store);
    store.ok(client, Kind::Directory, "device\0");
    note(store);
    let transaction = store.start(client);
    note(store);
    store.ok_in(client, transaction, Kind::Write, "device/1\0other");
    note(store);
    store.commit(client, transaction).unwrap();
    note(store);
    store.ok(client, Kind::Remove, "device\0");
    note(store);
    store.ok(DOM0, Kind::Release, "1\0");
    note(store);
    costs.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn a_thousand_domains_cost_each_other_nothing() {
    let mut crowd = populated(1000);
    let mut few = populated(2);
    let costs_in_a_crowd = costs(&mut crowd);
    assert_eq!(costs_in_a_crowd, costs(&mut few));
    let [write, read, directory, start, write_in, commit, ..] = costs_in_a_crowd[..] else {
        panic!();
    };
    assert!(
        write < 15 && read < 3 && write_in < 5,
        "{costs_in_a_crowd:?}"
    );
    assert!(directory < NODES as u64 + 5, "{costs_in_a_crowd:?}");
    assert_eq!(start, 1);
    assert!(commit < 20, "{costs_in_a_crowd:?}");
    crowd.check();
}

#[test]
fn the_events_of_one_domain_are_its_own() {
    let mut store = populated(100);
    store.ok(DOM0, Kind::Write, "/local/domain/50/device/3\0other");
    for domain in 1..=100 {
        let expected = usize::from(domain == 50);
        assert_eq!(store.events(guest(domain)).len(), expected, "{domain}");
    }
}

#[test]
fn watches_of_strangers_on_the_root_cost_one_question_each() {
    let mut store = Store::with_guests(&[1, 2, 3]);
    store.ok(guest(1), Kind::Mkdir, "a\0");
    let cost = |store: &mut Store| {
        let before = store.server.work();
        store.ok(guest(1), Kind::Write, "a\0x");
        store.server.work() - before
    };
    let alone = cost(&mut store);
    for stranger in [2, 3] {
        for watch in 0..128 {
            store.ok(guest(stranger), Kind::Watch, &format!("/\0{watch}\0"));
        }
    }
    assert_eq!(cost(&mut store), alone + 2);
}
