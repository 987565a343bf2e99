//! What the two ends tell each other by the store.

use std::collections::BTreeMap;

use hypercall_abi::types::{GrantRef, Port};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::block::world::device;
use crate::block::{Connection, Device, Discard, MAX_INDIRECT, QueueNodes, Transport};

const WIDE: Transport = Transport {
    max_queues: 4,
    max_ring_order: 3,
};

fn reader(nodes: &[(&str, &str)]) -> impl FnMut(&str) -> Option<String> {
    let nodes: BTreeMap<String, String> = nodes
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    move |name| nodes.get(name).cloned()
}

fn from(nodes: Vec<(String, String)>) -> impl FnMut(&str) -> Option<String> {
    let nodes: BTreeMap<String, String> = nodes.into_iter().collect();
    move |name| nodes.get(name).cloned()
}

fn refused(nodes: &[(&str, &str)]) -> String {
    let error = Connection::read(&WIDE, reader(nodes)).unwrap_err();
    error.to_string()
}

#[test]
fn a_frontend_of_the_simplest_kind_is_understood() {
    let nodes = [("ring-ref", "8"), ("event-channel", "5")];
    let connection = Connection::read(&WIDE, reader(&nodes)).unwrap();
    let queue = QueueNodes {
        ring: vec![GrantRef(8)],
        port: Port(5),
    };
    assert_eq!(connection.queues, [queue]);
    assert!(!connection.persistent);
}

#[test]
fn a_single_page_may_be_numbered() {
    let nodes = [
        ("ring-page-order", "0"),
        ("ring-ref0", "9"),
        ("event-channel", "5"),
    ];
    let connection = Connection::read(&WIDE, reader(&nodes)).unwrap();
    assert_eq!(connection.queues[0].ring, [GrantRef(9)]);
}

#[test]
fn pages_may_be_counted_as_they_once_were() {
    let nodes = [
        ("num-ring-pages", "2"),
        ("ring-ref0", "9"),
        ("ring-ref1", "10"),
        ("event-channel", "5"),
    ];
    let connection = Connection::read(&WIDE, reader(&nodes)).unwrap();
    assert_eq!(connection.queues[0].ring, [GrantRef(9), GrantRef(10)]);
}

#[test]
fn what_was_not_offered_is_refused_by_name() {
    let base = [("ring-ref", "8"), ("event-channel", "5")];
    for (node, why) in [
        (("protocol", "x86_32-abi"), "protocol is \"x86_32-abi\""),
        (
            ("multi-queue-num-queues", "5"),
            "multi-queue-num-queues is \"5\"",
        ),
        (
            ("multi-queue-num-queues", "0"),
            "multi-queue-num-queues is \"0\"",
        ),
        (
            ("multi-queue-num-queues", "2"),
            "queue-0/ring-ref0 is missing",
        ),
        (("ring-page-order", "4"), "ring-page-order is \"4\""),
        (("ring-page-order", "-1"), "ring-page-order is \"-1\""),
        (("ring-page-order", "1"), "ring-ref0 is missing"),
        (("num-ring-pages", "3"), "num-ring-pages is \"3\""),
        (("num-ring-pages", "16"), "num-ring-pages is \"16\""),
        (("ring-ref", "4294967296"), "ring-ref is \"4294967296\""),
        (("event-channel", "x\ny"), "event-channel is \"x\\ny\""),
    ] {
        let nodes: Vec<_> = base.into_iter().chain([node]).collect();
        assert_eq!(refused(&nodes), why, "{node:?}");
    }
    assert_eq!(refused(&base[..1]), "event-channel is missing");
    assert_eq!(refused(&base[1..]), "ring-ref0 is missing");
}

#[test]
fn a_backend_that_offers_nothing_has_one_queue_of_one_page() {
    let one = Transport {
        max_queues: 1,
        max_ring_order: 0,
    };
    assert_eq!(Transport::read(|_| None), one);
    let nonsense = [
        ("multi-queue-max-queues", "0"),
        ("max-ring-page-order", "much"),
    ];
    assert_eq!(Transport::read(reader(&nonsense)), one);
    let much = [
        ("multi-queue-max-queues", "4000000000"),
        ("max-ring-page-order", "40"),
    ];
    let most = Transport {
        max_queues: 16,
        max_ring_order: 4,
    };
    assert_eq!(Transport::read(reader(&much)), most);
}

#[test]
fn a_disk_needs_a_size_and_sectors_that_fit_a_page() {
    assert!(Device::read(|_| None).is_err());
    let plain = Device::read(reader(&[("sectors", "100")])).unwrap();
    assert_eq!((plain.sectors, plain.sector_size), (100, 512));
    assert!(!plain.read_only && !plain.flush && plain.max_indirect == 0);
    for (name, value) in [
        ("sector-size", "513"),
        ("sector-size", "8192"),
        ("sector-size", "0"),
        ("sectors", "18446744073709551615"),
        ("sectors", "-1"),
        ("info", "read-only"),
    ] {
        let nodes = [("sectors", "100"), (name, value)];
        let error = Device::read(reader(&nodes)).unwrap_err();
        assert_eq!(error.name, name);
    }
}

proptest! {
    #[test]
    fn each_end_understands_the_other(
        queues in vec(vec(any::<u32>(), 8), 1..5), order in 0_u32..4, persistent in any::<bool>(),
    ) {
        let queues = queues
            .into_iter()
            .enumerate()
            .map(|(nth, grefs)| QueueNodes {
                ring: grefs[..1 << order].iter().copied().map(GrantRef).collect(),
                port: Port(nth as u32 + 3),
            })
            .collect();
        let connection = Connection { queues, persistent };
        prop_assert_eq!(Connection::read(&WIDE, from(connection.nodes())), Ok(connection));
    }

    #[test]
    fn a_transport_is_read_as_it_was_written(max_queues in 1_u32..17, max_ring_order in 0_u32..5) {
        let transport = Transport { max_queues, max_ring_order };
        prop_assert_eq!(Transport::read(from(transport.nodes())), transport);
    }

    #[test]
    fn a_device_is_read_as_it_was_written(
        sectors in 0..u64::MAX / 512, bits in any::<[bool; 6]>(), indirect in 0..=MAX_INDIRECT,
        large in any::<bool>(),
    ) {
        let [read_only, flush, barrier, discard, secure, persistent] = bits;
        let device = Device {
            read_only, flush, barrier, persistent,
            max_indirect: indirect,
            discard: discard.then_some(Discard { granularity: 4096, alignment: 512, secure }),
            ..device(sectors, if large { 4096 } else { 512 })
        };
        prop_assert_eq!(Device::read(from(device.nodes())), Ok(device));
    }
}
