//! What the ends of a network device write to the store, and read there. Names are relative to the end's
//! own directory.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hypercall_abi::types::{GrantRef, Port};

use super::MAX_QUEUES;
use crate::nodes::{BadNode, Nodes, Reader, flag, node};

/// How frames may be passed, as the backend offers it before the frontend makes its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Most queues.
    pub max_queues: u32,
    /// Whether a queue may have a port for each direction.
    pub split_ports: bool,
}

impl Transport {
    /// What the backend writes.
    pub fn nodes(&self) -> Nodes {
        [
            node("multi-queue-max-queues", self.max_queues),
            flag("feature-split-event-channels", self.split_ports),
        ]
        .into()
    }

    /// What the frontend reads, cut down to what is supported here. A backend that says nothing, or
    /// nonsense, has one queue.
    pub fn read(read: impl FnMut(&str) -> Option<String>) -> Self {
        let mut reader = Reader(read);
        let max_queues = reader.number("multi-queue-max-queues", Some(1), 1..=u32::MAX.into());
        Self {
            max_queues: max_queues.map_or(1, |most| MAX_QUEUES.min(most as u32)),
            split_ports: reader.flag("feature-split-event-channels"),
        }
    }
}

/// What an end can do beyond plain frames. Each end says so of what it takes from the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Frames in several pages.
    pub sg: bool,
    /// TCP on IPv4 that is still to be cut into segments.
    pub gso_tcp4: bool,
    /// The same on IPv6.
    pub gso_tcp6: bool,
    /// Blank checksums on IPv4.
    pub checksum4: bool,
    /// Blank checksums on IPv6.
    pub checksum6: bool,
    /// The backend: it heeds which multicast groups are asked for. The frontend: it asks.
    pub multicast: bool,
}

impl Features {
    /// Everything.
    pub const ALL: Self = Self {
        sg: true,
        gso_tcp4: true,
        gso_tcp6: true,
        checksum4: true,
        checksum6: true,
        multicast: true,
    };

    /// Those that both ends have.
    pub fn and(self, other: Self) -> Self {
        Self {
            sg: self.sg && other.sg,
            gso_tcp4: self.gso_tcp4 && other.gso_tcp4,
            gso_tcp6: self.gso_tcp6 && other.gso_tcp6,
            checksum4: self.checksum4 && other.checksum4,
            checksum6: self.checksum6 && other.checksum6,
            multicast: self.multicast && other.multicast,
        }
    }

    fn common(&self) -> Nodes {
        [
            flag("feature-sg", self.sg),
            flag("feature-gso-tcpv4", self.gso_tcp4),
            flag("feature-gso-tcpv6", self.gso_tcp6),
            flag("feature-no-csum-offload", !self.checksum4),
            flag("feature-ipv6-csum-offload", self.checksum6),
        ]
        .into()
    }

    fn read_common(reader: &mut Reader<impl FnMut(&str) -> Option<String>>) -> Self {
        let sg = reader.flag("feature-sg");
        Self {
            sg,
            // What is to be cut does not fit a page.
            gso_tcp4: sg && reader.flag("feature-gso-tcpv4"),
            gso_tcp6: sg && reader.flag("feature-gso-tcpv6"),
            checksum4: !reader.flag("feature-no-csum-offload"),
            checksum6: reader.flag("feature-ipv6-csum-offload"),
            ..Self::default()
        }
    }

    /// What the backend writes.
    pub fn nodes(&self) -> Nodes {
        let mut nodes = self.common();
        nodes.extend([
            flag("feature-rx-copy", true),
            flag("feature-rx-flip", false),
            flag("feature-multicast-control", self.multicast),
        ]);
        nodes
    }

    /// What the frontend reads.
    ///
    /// # Errors
    ///
    /// If the backend cannot copy.
    pub fn read(read: impl FnMut(&str) -> Option<String>) -> Result<Self, BadNode> {
        let mut reader = Reader(read);
        copies(&mut reader, "feature-rx-copy")?;
        Ok(Self {
            multicast: reader.flag("feature-multicast-control"),
            ..Self::read_common(&mut reader)
        })
    }
}

/// Data is copied, or there is no connection.
fn copies(
    reader: &mut Reader<impl FnMut(&str) -> Option<String>>,
    name: &str,
) -> Result<(), BadNode> {
    match reader.flag(name) {
        true => Ok(()),
        false => Err(BadNode {
            name: name.to_string(),
            value: (reader.0)(name),
        }),
    }
}

/// The frontend's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// One for both directions.
    One(Port),
    /// One each.
    Split {
        /// For what the frontend sends.
        tx: Port,
        /// For what it receives.
        rx: Port,
    },
}

/// What one queue has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueNodes {
    /// The ring for what the frontend sends.
    pub tx: GrantRef,
    /// The ring for what it receives.
    pub rx: GrantRef,
    /// Its ports.
    pub ports: Ports,
}

/// The connection as the frontend describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// At least one.
    pub queues: Vec<QueueNodes>,
    /// What it takes.
    pub features: Features,
}

impl Connection {
    /// What the frontend writes.
    pub fn nodes(&self) -> Nodes {
        let mut nodes = self.features.common();
        nodes.extend([
            flag("request-rx-copy", true),
            flag("feature-rx-notify", true),
            flag("request-multicast-control", self.features.multicast),
        ]);
        let several = self.queues.len() > 1;
        if several {
            nodes.push(node("multi-queue-num-queues", self.queues.len()));
        }
        for (nth, queue) in self.queues.iter().enumerate() {
            let place = match several {
                true => format!("queue-{nth}/"),
                false => String::new(),
            };
            let mut put = |name, value| nodes.push(node(format!("{place}{name}"), value));
            put("tx-ring-ref", queue.tx.0);
            put("rx-ring-ref", queue.rx.0);
            match queue.ports {
                Ports::One(port) => put("event-channel", port.0),
                Ports::Split { tx, rx } => {
                    put("event-channel-tx", tx.0);
                    put("event-channel-rx", rx.0);
                }
            }
        }
        nodes
    }

    /// What the backend reads, which offered this `transport` and to do this itself.
    ///
    /// # Errors
    ///
    /// Names the first node that is missing, or says what was not offered.
    pub fn read(
        transport: &Transport,
        offer: &Features,
        read: impl FnMut(&str) -> Option<String>,
    ) -> Result<Self, BadNode> {
        let mut reader = Reader(read);
        copies(&mut reader, "request-rx-copy")?;
        let most = transport.max_queues.into();
        let queues = reader.number("multi-queue-num-queues", Some(1), 1..=most)?;
        let queues = (0..queues)
            .map(|nth| {
                let place = match queues {
                    1 => String::new(),
                    _ => format!("queue-{nth}/"),
                };
                QueueNodes::read(&mut reader, &place, transport.split_ports)
            })
            .collect::<Result<_, _>>()?;
        let features = Features {
            // It takes what it takes, whatever is offered the other way.
            multicast: offer.multicast && reader.flag("request-multicast-control"),
            ..Features::read_common(&mut reader)
        };
        Ok(Self { queues, features })
    }
}

impl QueueNodes {
    /// A queue whose nodes are at that place.
    fn read(
        reader: &mut Reader<impl FnMut(&str) -> Option<String>>,
        place: &str,
        split_ports: bool,
    ) -> Result<Self, BadNode> {
        let mut number = |name: &str| {
            let name = format!("{place}{name}");
            let number = reader.number(&name, None, 0..=u32::MAX.into());
            number.map(|number| number as u32)
        };
        Ok(Self {
            tx: GrantRef(number("tx-ring-ref")?),
            rx: GrantRef(number("rx-ring-ref")?),
            ports: match number("event-channel") {
                Ok(port) => Ports::One(Port(port)),
                Err(_) if split_ports => Ports::Split {
                    tx: Port(number("event-channel-tx")?),
                    rx: Port(number("event-channel-rx")?),
                },
                Err(error) => return Err(error),
            },
        })
    }
}
