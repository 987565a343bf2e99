//! What the ends of a network device write to the store, and read there. Names are relative to the end's
//! own directory.

use alloc::string::{String, ToString};

use hypercall_abi::types::{GrantRef, Port};

use crate::nodes::{BadNode, Nodes, Reader, flag, node};

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
    /// The backend: a port for each direction. The frontend says so by its ports.
    pub split_ports: bool,
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
        split_ports: true,
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
            split_ports: self.split_ports && other.split_ports,
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
            flag("feature-split-event-channels", self.split_ports),
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
            split_ports: reader.flag("feature-split-event-channels"),
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

/// The connection as the frontend describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The ring for what the frontend sends.
    pub tx: GrantRef,
    /// The ring for what it receives.
    pub rx: GrantRef,
    /// Its ports.
    pub ports: Ports,
    /// What it takes.
    pub features: Features,
}

impl Connection {
    /// What the frontend writes.
    pub fn nodes(&self) -> Nodes {
        let mut nodes = self.features.common();
        nodes.extend([
            node("tx-ring-ref", self.tx),
            node("rx-ring-ref", self.rx),
            flag("request-rx-copy", true),
            flag("feature-rx-notify", true),
            flag("request-multicast-control", self.features.multicast),
        ]);
        match self.ports {
            Ports::One(port) => nodes.push(node("event-channel", port)),
            Ports::Split { tx, rx } => {
                nodes.push(node("event-channel-tx", tx));
                nodes.push(node("event-channel-rx", rx));
            }
        }
        nodes
    }

    /// What the backend reads, which offered `offer`.
    ///
    /// # Errors
    ///
    /// Names the first node that is missing, or says what was not offered.
    pub fn read(
        offer: &Features,
        read: impl FnMut(&str) -> Option<String>,
    ) -> Result<Self, BadNode> {
        let mut reader = Reader(read);
        copies(&mut reader, "request-rx-copy")?;
        // There is but one queue, whatever the frontend hopes for.
        reader.number("multi-queue-num-queues", Some(1), 1..=1)?;
        let any = 0..=u64::from(u32::MAX);
        let tx = GrantRef(reader.number("tx-ring-ref", None, any.clone())? as u32);
        let rx = GrantRef(reader.number("rx-ring-ref", None, any.clone())? as u32);
        let mut port = |name: &str| {
            let number = reader.number(name, None, any.clone());
            number.map(|number| Port(number as u32))
        };
        let ports = match port("event-channel") {
            Ok(port) => Ports::One(port),
            Err(_) if offer.split_ports => Ports::Split {
                tx: port("event-channel-tx")?,
                rx: port("event-channel-rx")?,
            },
            Err(error) => return Err(error),
        };
        let asked = Features {
            multicast: reader.flag("request-multicast-control"),
            split_ports: matches!(ports, Ports::Split { .. }),
            ..Features::read_common(&mut reader)
        };
        Ok(Self {
            tx,
            rx,
            ports,
            features: Features {
                // It takes what it takes, whatever is offered the other way.
                multicast: asked.multicast && offer.multicast,
                ..asked
            },
        })
    }
}
