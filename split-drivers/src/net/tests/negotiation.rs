//! What the ends tell each other in the store.

use std::collections::BTreeMap;

use hypercall_abi::types::{GrantRef, Port};

use crate::net::{Connection, Features, Mac, Ports};
use crate::nodes::Nodes;

fn lookup(nodes: Nodes) -> BTreeMap<String, String> {
    nodes.into_iter().collect()
}

fn connection(ports: Ports, features: Features) -> Connection {
    Connection {
        tx: GrantRef(8),
        rx: GrantRef(9),
        ports,
        features,
    }
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
            split_ports: bit(6),
        };
        let offered = lookup(features.nodes());
        assert_eq!(
            Features::read(|name| offered.get(name).cloned()),
            Ok(features)
        );
        let ports = match features.split_ports {
            false => Ports::One(Port(5)),
            true => Ports::Split {
                tx: Port(5),
                rx: Port(6),
            },
        };
        let asked = connection(ports, features);
        let nodes = lookup(asked.nodes());
        let read = Connection::read(&Features::ALL, |name| nodes.get(name).cloned());
        assert_eq!(read, Ok(asked));
    }
}

#[test]
fn a_frontend_cannot_ask_for_what_is_not_offered() {
    let split = Ports::Split {
        tx: Port(1),
        rx: Port(2),
    };
    let nodes = lookup(connection(split, Features::ALL).nodes());
    let read = |offer: Features, nodes: &BTreeMap<String, String>| {
        Connection::read(&offer, |name| nodes.get(name).cloned())
    };
    let no_split = Features {
        split_ports: false,
        ..Features::ALL
    };
    assert_eq!(read(no_split, &nodes).unwrap_err().name, "event-channel");
    let no_multicast = Features {
        multicast: false,
        ..Features::ALL
    };
    assert!(!read(no_multicast, &nodes).unwrap().features.multicast);
}

#[test]
fn a_connection_that_lacks_something_is_refused_by_its_name() {
    let good = lookup(connection(Ports::One(Port(1)), Features::ALL).nodes());
    for (name, value) in [
        ("tx-ring-ref", None),
        ("rx-ring-ref", Some("-1")),
        ("request-rx-copy", Some("0")),
        ("request-rx-copy", None),
        ("multi-queue-num-queues", Some("2")),
    ] {
        let mut nodes = good.clone();
        match value {
            Some(value) => _ = nodes.insert(name.into(), value.into()),
            None => _ = nodes.remove(name),
        }
        let error = Connection::read(&Features::ALL, |name| nodes.get(name).cloned()).unwrap_err();
        assert_eq!((error.name.as_str(), error.value.as_deref()), (name, value));
    }
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
