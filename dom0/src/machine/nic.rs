//! The host's network card: virtio, without any offload.
#![allow(unsafe_code)]

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use dom0::nic::Nic;
use pv_guest::println;
use split_drivers::net::{Frame, Mac};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::bus::{DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::transport::{DeviceType, Transport};

use super::dma::{Buffer, Host};
use super::features::Features;
use super::hypervisor::Hypervisor;
use super::pci::{self, Configuration, Interrupt};

/// Descriptors of a queue; each has one buffer.
const QUEUE: usize = 64;
/// Bytes for a frame with its header.
const SLOT: usize = 2048;
/// The header before each frame.
const HEADER: usize = 12;
/// Queues.
const RX: u16 = 0;
const TX: u16 = 1;

const MAC: u64 = 1 << 5;
const VERSION_1: u64 = 1 << 32;

/// A queue whose buffers all have the same size.
struct Queue {
    queue: VirtQueue<Host, QUEUE>,
    buffer: Buffer,
    free: Vec<usize>,
    /// The slot and the bytes that each token stands for.
    used: BTreeMap<u16, (usize, usize)>,
}

impl Queue {
    fn new(transport: &mut PciTransport, index: u16) -> Result<Self, String> {
        let queue = VirtQueue::new(transport, index, false, false);
        Ok(Self {
            queue: queue.map_err(|error| error.to_string())?,
            buffer: Buffer::new(QUEUE * SLOT).ok_or("no memory")?,
            free: (0..QUEUE).collect(),
            used: BTreeMap::new(),
        })
    }

    /// Hands a slot over, of which the card reads so many bytes or, if it is for it to fill, writes.
    fn add(&mut self, slot: usize, bytes: usize, fill: bool) {
        let mut part = self.buffer.part(slot * SLOT, bytes);
        // SAFETY: the slot belongs to the token until `pop` has it back; nothing else refers to it, and the
        // reference ends with the call.
        let added = unsafe {
            match fill {
                true => self.queue.add(&[], &mut [part.as_mut()]),
                false => self.queue.add(&[part.as_ref()], &mut []),
            }
        };
        match added {
            Ok(token) => _ = self.used.insert(token, (slot, bytes)),
            // There is a descriptor for each slot.
            Err(_) => self.free.push(slot),
        }
    }

    /// A slot that the card is done with, and how many bytes it wrote.
    fn pop(&mut self, filled: bool) -> Option<(usize, usize)> {
        let token = self.queue.peek_used()?;
        let (slot, bytes) = self.used.remove(&token)?;
        let mut part = self.buffer.part(slot * SLOT, bytes);
        // SAFETY: this is the part that was handed over for this token; the card is done with it.
        let popped = unsafe {
            match filled {
                true => self.queue.pop_used(token, &[], &mut [part.as_mut()]),
                false => self.queue.pop_used(token, &[part.as_ref()], &mut []),
            }
        };
        let written = popped.map_or(0, |written| (written as usize).min(bytes));
        Some((slot, written))
    }
}

/// The card.
pub struct Card {
    device: DeviceFunction,
    transport: PciTransport,
    address: Mac,
    rx: Queue,
    tx: Queue,
    interrupt: Option<Interrupt>,
}

impl Card {
    /// Takes up the first card that there is.
    pub fn find() -> Option<Self> {
        let configuration = Configuration::acquire().ok()?;
        let mut root = PciRoot::new(configuration);
        let (device, _) = root
            .enumerate_bus(0)
            .find(|(_, info)| virtio_device_type(info) == Some(DeviceType::Network))?;
        match Self::start(&mut root, &configuration, device) {
            Ok(card) => {
                println!("network card {}: {card}", card.address);
                Some(card)
            }
            Err(error) => {
                println!("network card at PCI {device}: {error}");
                None
            }
        }
    }

    fn start(
        root: &mut PciRoot<Configuration>,
        configuration: &Configuration,
        device: DeviceFunction,
    ) -> Result<Self, String> {
        pci::enable(root, device);
        let mut transport =
            PciTransport::new::<Host, _>(root, device).map_err(|error| error.to_string())?;
        let features: Features = transport.begin_init(Features::from_bits_retain(MAC | VERSION_1));
        if features.bits() & MAC == 0 {
            return Err("it has no address".to_string());
        }
        let rx = Queue::new(&mut transport, RX)?;
        let tx = Queue::new(&mut transport, TX)?;
        transport.finish_init();
        let mut address = [0; 6];
        for (offset, byte) in address.iter_mut().enumerate() {
            *byte = transport
                .read_config_space(offset)
                .map_err(|error| error.to_string())?;
        }
        let interrupt = Interrupt::bind(configuration, device).unwrap_or_else(|error| {
            println!("{device}: no interrupt: {error}");
            None
        });
        let mut card = Self {
            device,
            transport,
            address: Mac(address),
            rx,
            tx,
            interrupt,
        };
        card.refill();
        Ok(card)
    }

    /// Has the card fill what is free.
    fn refill(&mut self) {
        while let Some(slot) = self.rx.free.pop() {
            self.rx.add(slot, SLOT, true);
        }
        if self.rx.queue.should_notify() {
            self.transport.notify(RX);
        }
    }

    fn receive(&mut self) -> Option<Frame> {
        loop {
            let Some((slot, written)) = self.rx.pop(true) else {
                // In one go for all that were taken.
                if !self.rx.free.is_empty() {
                    self.refill();
                }
                return None;
            };
            let mut bytes = vec![0; written.saturating_sub(HEADER)];
            let window = self.rx.buffer.window();
            window.copy_out(slot * SLOT + HEADER, &mut bytes);
            self.rx.free.push(slot);
            if self.rx.free.len() >= QUEUE / 2 {
                self.refill();
            }
            if !bytes.is_empty() {
                return Some(Frame::new(bytes));
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        while let Some((slot, _)) = self.tx.pop(false) {
            self.tx.free.push(slot);
        }
        if bytes.len() > SLOT - HEADER {
            return false;
        }
        let Some(slot) = self.tx.free.pop() else {
            return false;
        };
        let window = self.tx.buffer.window();
        window.copy_in(slot * SLOT, &[0; HEADER]);
        window.copy_in(slot * SLOT + HEADER, bytes);
        self.tx.add(slot, HEADER + bytes.len(), false);
        if self.tx.queue.should_notify() {
            self.transport.notify(TX);
        }
        true
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtio at PCI {}, ", self.device)?;
        match &self.interrupt {
            Some(interrupt) => write!(f, "{interrupt}"),
            None => f.write_str("without interrupt"),
        }
    }
}

impl Hypervisor {
    /// Has the card take its interrupt back. What comes in from now on makes it interrupt again.
    pub fn acknowledge_nic(&mut self) {
        if let Some(card) = &mut self.nic {
            card.transport.ack_interrupt();
        }
    }

    /// Whether the card has to be asked what has come in.
    pub fn has_silent_nic(&self) -> bool {
        self.nic
            .as_ref()
            .is_some_and(|card| card.interrupt.is_none())
    }
}

impl Nic for Hypervisor {
    fn nic_address(&self) -> Option<Mac> {
        self.nic.as_ref().map(|card| card.address)
    }

    fn receive_frame(&mut self) -> Option<Frame> {
        self.nic.as_mut()?.receive()
    }

    fn send_frame(&mut self, bytes: &[u8]) -> bool {
        self.nic.as_mut().is_some_and(|card| card.send(bytes))
    }
}
