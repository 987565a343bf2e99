//! What the ends tell each other in the store.

use std::collections::BTreeMap;

use hypercall_abi::types::{GrantRef, Port};

use crate::net::{Connection, Features, MAX_QUEUES, Mac, Ports, QueueNodes, Transport};
use crate::nodes::{BadNode, Nodes};

fn lookup(nodes: Nodes) -> BTreeMap<String, String> {
    nodes.into_iter().collect()
}

const TRANSPORT: Transport = Transport {
    max_queues: 4,
    split_ports: true,
};

/// So many queues, with ports of one kind and the other in turn.
fn connection(queues: u32, split: bool, features: Features) -> Connection {
    let queue = |nth: u32| QueueNodes {
        tx: GrantRef(8 + nth),
        rx: GrantRef(9 + nth),
        ports: match split == nth.is_multiple_of(2) {
            false => Ports::One(Port(5 + nth)),
            true => Ports::Split {
                tx: Port(5 + nth),
                rx: Port(6 + nth),
            },
        },
    };
    Connection {
        queues: (0..queues).map(queue).collect(),
        features,
    }
}

fn read(
    transport: Transport,
    offer: Features,
    nodes: &BTreeMap<String, String>,
) -> Result<Connection, BadNode> {
    Connection::read(&transport, &offer, |name| nodes.get(name).cloned())
}

#[test]
fn each_end_reads_what_the_other_writes() {
    for bits in 0..128_u8 {
        let bit = |nth: u8| bits & 1 << nth != 0;
        let features = Features {
            sg: bit(0),
            gso_tcp4: bit(0) && bit(1),
            gso_tcp6: bit(0) && bit(2),
            checksum4: bit(3),
            checksum6: bit(4),
            multicast: bit(5),
        };
        let offered = lookup(features.nodes());
        assert_eq!(
            Features::read(|name| offered.get(name).cloned()),
            Ok(features)
        );
        for queues in 1..=4 {
            let asked = connection(queues, bit(6), features);
            let nodes = lookup(asked.nodes());
            assert_eq!(read(TRANSPORT, Features::ALL, &nodes), Ok(asked));
        }
    }
}

#[test]
fn a_transport_is_read_as_it_was_written_and_nonsense_is_one_queue() {
    let read = |nodes: Nodes| {
        let nodes = lookup(nodes);
        Transport::read(|name| nodes.get(name).cloned())
    };
    assert_eq!(read(TRANSPORT.nodes()), TRANSPORT);
    for (value, expected) in [
        ("1", 1),
        ("16", 16),
        ("17", MAX_QUEUES),
        ("4294967295", MAX_QUEUES),
        ("4294967297", 1),
        ("0", 1),
        ("-1", 1),
        ("many", 1),
    ] {
        let nodes = Nodes::from([("multi-queue-max-queues".into(), value.into())]);
        let expected = Transport {
            max_queues: expected,
            split_ports: false,
        };
        assert_eq!(read(nodes), expected, "{value}");
    }
    assert_eq!(read(Nodes::new()).max_queues, 1);
}

#[test]
fn nodes_of_queues_are_where_the_header_says() {
    let names = |queues| -> Vec<String> {
        let nodes = connection(queues, false, Features::ALL).nodes();
        let mut names: Vec<_> = nodes.into_iter().map(|(name, _)| name).collect();
        names.retain(|it| it.contains("ring") || it.contains("event") || it.contains("queue"));
        names
    };
    assert_eq!(names(1), ["tx-ring-ref", "rx-ring-ref", "event-channel"]);
    assert_eq!(
        names(2),
        [
            "multi-queue-num-queues",
            "queue-0/tx-ring-ref",
            "queue-0/rx-ring-ref",
            "queue-0/event-channel",
            "queue-1/tx-ring-ref",
            "queue-1/rx-ring-ref",
            "queue-1/event-channel-tx",
            "queue-1/event-channel-rx",
        ]
    );
}

#[test]
fn a_frontend_cannot_ask_for_what_is_not_offered() {
    let nodes = lookup(connection(1, true, Features::ALL).nodes());
    let no_split = Transport {
        split_ports: false,
        ..TRANSPORT
    };
    let error = read(no_split, Features::ALL, &nodes).unwrap_err();
    assert_eq!(error.name, "event-channel");
    let no_multicast = Features {
        multicast: false,
        ..Features::ALL
    };
    let asked = read(TRANSPORT, no_multicast, &nodes).unwrap();
    assert!(!asked.features.multicast);
    let nodes = lookup(connection(5, false, Features::ALL).nodes());
    let error = read(TRANSPORT, Features::ALL, &nodes).unwrap_err();
    assert_eq!(error.name, "multi-queue-num-queues");
}

#[test]
fn a_connection_that_lacks_something_is_refused_by_its_name() {
    for (queues, name, value) in [
        (1, "tx-ring-ref", None),
        (1, "rx-ring-ref", Some("-1")),
        (1, "request-rx-copy", Some("0")),
        (1, "request-rx-copy", None),
        (1, "multi-queue-num-queues", Some("0")),
        (1, "multi-queue-num-queues", Some("x")),
        (3, "multi-queue-num-queues", Some("5")),
        (3, "multi-queue-num-queues", Some("4294967297")),
        (2, "queue-1/tx-ring-ref", None),
        (2, "queue-1/event-channel-rx", None),
        (3, "queue-2/rx-ring-ref", Some("4294967296")),
    ] {
        let mut nodes = lookup(connection(queues, false, Features::ALL).nodes());
        match value {
            Some(value) => _ = nodes.insert(name.into(), value.into()),
            None => _ = nodes.remove(name),
        }
        let error = read(TRANSPORT, Features::ALL, &nodes).unwrap_err();
        assert_eq!((error.name.as_str(), error.value.as_deref()), (name, value));
    }
    // More queues than it describes.
    let mut nodes = lookup(connection(2, false, Features::ALL).nodes());
    nodes.insert("multi-queue-num-queues".into(), "3".into());
    let error = read(TRANSPORT, Features::ALL, &nodes).unwrap_err();
    assert_eq!(error.name, "queue-2/tx-ring-ref");
    let flip = lookup(Nodes::from([("feature-rx-copy".into(), "0".into())]));
    assert!(Features::read(|name| flip.get(name).cloned()).is_err());
}

#[test]
fn addresses_are_read_as_they_are_written() {
    let mac = Mac([0, 0x16, 0x3e, 0xab, 0x0c, 0xff]);
    assert_eq!(mac.to_string(), "00:16:3e:ab:0c:ff");
    assert_eq!(Mac::parse("0:16:3E:ab:c:FF"), Some(mac));
    for odd in [
        "",
        "0",
        "1:2:3:4:5",
        "1:2:3:4:5:6:7",
        "1:2:3:4:5:x",
        "1:2:3:4:5:+6",
        "1:2:3:4:5:006",
    ] {
        assert_eq!(Mac::parse(odd), None, "{odd}");
    }
}
