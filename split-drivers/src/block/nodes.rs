//! What the ends of a block device write to the store, and read there. Each part has the same two
//! methods: `nodes` for who writes it, `read` for who reads it. Names are relative to the end's own
//! directory.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hypercall_abi::io::blkif::VDISK_READONLY;
use hypercall_abi::io::protocols::XEN_IO_PROTO_ABI_X86_64;
use hypercall_abi::types::{GrantRef, Port};

use super::{Device, Discard, MAX_INDIRECT, MAX_QUEUES, MAX_RING_ORDER, SECTOR};
use crate::nodes::{BadNode, Nodes, Reader, flag, node};

/// How requests may be passed, as the backend offers it before the frontend makes its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Most queues.
    pub max_queues: u32,
    /// Most pages of a ring, as a power of two.
    pub max_ring_order: u32,
}

impl Transport {
    /// What the backend writes.
    pub fn nodes(&self) -> Nodes {
        [
            node("multi-queue-max-queues", self.max_queues),
            node("max-ring-page-order", self.max_ring_order),
            node("max-ring-pages", 1_u32 << self.max_ring_order),
        ]
        .into()
    }

    /// What the frontend reads, cut down to what is supported here. A backend that says nothing, or
    /// nonsense, has one queue of one page.
    pub fn read(read: impl FnMut(&str) -> Option<String>) -> Self {
        let mut reader = Reader(read);
        let mut number = |name: &str, default: u32, most: u32| {
            let all = 0..=u64::from(u32::MAX);
            let value = reader.number(name, Some(default.into()), all);
            value.map_or(default, |value| most.min(value as u32).max(default))
        };
        Self {
            max_queues: number("multi-queue-max-queues", 1, MAX_QUEUES),
            max_ring_order: number("max-ring-page-order", 0, MAX_RING_ORDER),
        }
    }
}

/// What one queue has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueNodes {
    /// The pages of its ring.
    pub ring: Vec<GrantRef>,
    /// The frontend's port.
    pub port: Port,
}

/// The connection as the frontend describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// At least one; all rings have as many pages.
    pub queues: Vec<QueueNodes>,
    /// Whether the frontend uses the same grants again.
    pub persistent: bool,
}

impl Connection {
    /// What the frontend writes.
    pub fn nodes(&self) -> Nodes {
        let mut nodes = Nodes::new();
        nodes.push(node("protocol", XEN_IO_PROTO_ABI_X86_64));
        nodes.push(flag("feature-persistent", self.persistent));
        let several = self.queues.len() > 1;
        if several {
            nodes.push(node("multi-queue-num-queues", self.queues.len()));
        }
        let pages = self.queues.first().map_or(1, |queue| queue.ring.len());
        if pages > 1 {
            nodes.push(node("ring-page-order", pages.ilog2()));
            nodes.push(node("num-ring-pages", pages));
        }
        for (nth, queue) in self.queues.iter().enumerate() {
            let place = match several {
                true => format!("queue-{nth}/"),
                false => String::new(),
            };
            for (page, reference) in queue.ring.iter().enumerate() {
                let name = match queue.ring.len() {
                    1 => format!("{place}ring-ref"),
                    _ => format!("{place}ring-ref{page}"),
                };
                nodes.push(node(name, reference));
            }
            nodes.push(node(format!("{place}event-channel"), queue.port));
        }
        nodes
    }

    /// What the backend reads, which offered `transport`.
    ///
    /// # Errors
    ///
    /// Names the first node that is missing or says what was not offered.
    pub fn read(
        transport: &Transport,
        read: impl FnMut(&str) -> Option<String>,
    ) -> Result<Self, BadNode> {
        let mut reader = Reader(read);
        if let Some(protocol) = (reader.0)("protocol")
            && protocol != XEN_IO_PROTO_ABI_X86_64
        {
            return Err(BadNode {
                name: "protocol".to_string(),
                value: Some(protocol),
            });
        }
        let queues = reader.number(
            "multi-queue-num-queues",
            Some(1),
            1..=transport.max_queues.into(),
        )?;
        let order = reader.number(
            "ring-page-order",
            Some(u64::MAX),
            0..=transport.max_ring_order.into(),
        )?;
        let pages = match order {
            // Before there were orders, there were numbers of pages.
            u64::MAX => {
                let most = 1_u64 << transport.max_ring_order;
                reader.number("num-ring-pages", Some(1), 1..=most)?
            }
            order => 1 << order,
        };
        if !pages.is_power_of_two() {
            return Err(BadNode {
                name: "num-ring-pages".to_string(),
                value: Some(pages.to_string()),
            });
        }
        let persistent = reader.flag("feature-persistent");
        let queues = (0..queues)
            .map(|nth| {
                let place = match queues {
                    1 => String::new(),
                    _ => format!("queue-{nth}/"),
                };
                Self::read_queue(&mut reader, &place, pages)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { queues, persistent })
    }

    /// A queue whose ring has so many pages.
    fn read_queue(
        reader: &mut Reader<impl FnMut(&str) -> Option<String>>,
        place: &str,
        pages: u64,
    ) -> Result<QueueNodes, BadNode> {
        let any = 0..=u64::from(u32::MAX);
        let mut ring = Vec::new();
        for page in 0..pages {
            let mut name = format!("{place}ring-ref");
            // A single page may have either name.
            if pages > 1 || (reader.0)(&name).is_none() {
                name = format!("{name}{page}");
            }
            ring.push(GrantRef(reader.number(&name, None, any.clone())? as u32));
        }
        let port = reader.number(&format!("{place}event-channel"), None, any)?;
        Ok(QueueNodes {
            ring,
            port: Port(port as u32),
        })
    }
}

impl Device {
    /// What the backend writes.
    pub fn nodes(&self) -> Nodes {
        let mut info = 0;
        if self.read_only {
            info |= VDISK_READONLY;
        }
        let mut nodes = Nodes::from([
            node("sectors", self.sectors),
            node("sector-size", self.sector_size),
            node("physical-sector-size", self.physical_sector_size),
            node("info", info),
            flag("feature-flush-cache", self.flush),
            flag("feature-barrier", self.barrier),
            flag("feature-persistent", self.persistent),
            flag("feature-discard", self.discard.is_some()),
        ]);
        if let Some(discard) = self.discard {
            nodes.push(node("discard-granularity", discard.granularity));
            nodes.push(node("discard-alignment", discard.alignment));
            nodes.push(flag("discard-secure", discard.secure));
        }
        if self.max_indirect > 0 {
            nodes.push(node("feature-max-indirect-segments", self.max_indirect));
        }
        nodes
    }

    /// What the frontend reads.
    ///
    /// # Errors
    ///
    /// If the size is missing, or a value makes no sense.
    pub fn read(read: impl FnMut(&str) -> Option<String>) -> Result<Self, BadNode> {
        let mut reader = Reader(read);
        let number = u64::from(u32::MAX);
        let sector_size = reader.number("sector-size", Some(512), 512..=4096)?;
        if !sector_size.is_power_of_two() {
            return Err(BadNode {
                name: "sector-size".to_string(),
                value: Some(sector_size.to_string()),
            });
        }
        let physical = reader.number("physical-sector-size", Some(sector_size), 0..=number)? as u32;
        // So that every sector has a byte offset.
        let sectors = reader.number("sectors", None, 0..=u64::MAX / SECTOR as u64)?;
        let info = reader.number("info", Some(0), 0..=number)? as u32;
        let discard = match reader.flag("feature-discard") {
            false => None,
            true => {
                let unit = Some(sector_size);
                let granularity = reader.number("discard-granularity", unit, 0..=number)?;
                let alignment = reader.number("discard-alignment", Some(0), 0..=number)?;
                Some(Discard {
                    granularity: granularity as u32,
                    alignment: alignment as u32,
                    secure: reader.flag("discard-secure"),
                })
            }
        };
        let indirect = reader.number("feature-max-indirect-segments", Some(0), 0..=number)?;
        Ok(Self {
            sectors,
            sector_size: sector_size as u32,
            physical_sector_size: physical,
            read_only: info & VDISK_READONLY != 0,
            flush: reader.flag("feature-flush-cache"),
            barrier: reader.flag("feature-barrier"),
            discard,
            max_indirect: indirect.min(MAX_INDIRECT.into()) as u16,
            persistent: reader.flag("feature-persistent"),
        })
    }
}
