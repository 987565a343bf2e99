//! The control port: a virtio console as a byte stream that never waits.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use virtio_drivers::queue::{OwningQueue, VirtQueue};
use virtio_drivers::transport::pci::bus::{DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::transport::{DeviceType, Transport};

use super::dma::Host;
use super::pci::{self, Configuration, Interrupt};

/// The queues of the console's first port.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Buffers of each queue.
const BUFFERS: usize = 16;
/// Bytes of a buffer for what comes.
const RECEIVE_SIZE: usize = 4096;
/// The most bytes that are sent in one buffer.
const TRANSMIT_SIZE: usize = 32 * 1024;
/// `VIRTIO_F_VERSION_1`: of the features, the one that a driver of today needs.
const VERSION_1: u64 = 1 << 32;

/// The byte stream.
pub struct Stream {
    device: DeviceFunction,
    transport: PciTransport,
    receive: OwningQueue<Host, BUFFERS, RECEIVE_SIZE>,
    transmit: VirtQueue<Host, BUFFERS>,
    /// What the device is sending, by token.
    sending: BTreeMap<u16, Box<[u8]>>,
    /// What is to be sent next.
    waiting: VecDeque<Box<[u8]>>,
    interrupt: Option<Interrupt>,
}

impl Stream {
    /// Takes up the first virtio console there is.
    pub fn find() -> Result<Self, String> {
        let configuration = Configuration::acquire().map_err(|error| error.to_string())?;
        let mut root = PciRoot::new(configuration);
        let device = root
            .enumerate_bus(0)
            .find(|(_, info)| virtio_device_type(info) == Some(DeviceType::Console))
            .map(|(device, _)| device)
            .ok_or("there is no virtio console on PCI bus 0")?;
        pci::enable(&mut root, device);
        let transport =
            PciTransport::new::<Host, _>(&mut root, device).map_err(|error| error.to_string())?;
        let interrupt = match Interrupt::bind(&configuration, device) {
            Ok(interrupt) => interrupt,
            Err(error) => {
                pv_guest::println!("{device}: no interrupt: {error}");
                None
            }
        };
        Self::start(device, transport, interrupt).map_err(|error| error.to_string())
    }

    fn start(
        device: DeviceFunction,
        mut transport: PciTransport,
        interrupt: Option<Interrupt>,
    ) -> virtio_drivers::Result<Self> {
        let _: Features = transport.begin_init(Features::from_bits_retain(VERSION_1));
        let receive = VirtQueue::new(&mut transport, RECEIVE, false, false)?;
        let transmit = VirtQueue::new(&mut transport, TRANSMIT, false, false)?;
        let receive = OwningQueue::new(receive)?;
        transport.finish_init();
        transport.notify(RECEIVE);
        Ok(Self {
            device,
            transport,
            receive,
            transmit,
            sending: BTreeMap::new(),
            waiting: VecDeque::new(),
            interrupt,
        })
    }

    /// Whether the device tells when it has something; else it has to be asked.
    pub fn has_interrupt(&self) -> bool {
        self.interrupt.is_some()
    }

    /// Has the device take its interrupt back. What comes from now on makes it interrupt again.
    pub fn acknowledge(&mut self) {
        self.transport.ack_interrupt();
    }

    /// Passes bytes that have come to `consume`; whether there were any.
    pub fn receive(&mut self, consume: impl FnOnce(&[u8])) -> bool {
        let result = self.receive.poll(&mut self.transport, |bytes| {
            consume(bytes);
            Ok(Some(()))
        });
        match result {
            Ok(found) => found.is_some(),
            Err(error) => {
                pv_guest::println!("{self}: receiving: {error}");
                false
            }
        }
    }

    /// Whether there is no more output waiting than the device can have at once.
    pub fn wants_output(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether all output is sent.
    pub fn is_idle(&self) -> bool {
        self.sending.is_empty() && self.waiting.is_empty()
    }

    /// Sends bytes as the device takes them.
    pub fn send(&mut self, bytes: Vec<u8>) {
        let pieces = bytes.chunks(TRANSMIT_SIZE).map(Box::from);
        self.waiting.extend(pieces);
    }

    /// Takes back what is sent, and gives the device what is to be sent.
    pub fn pump_output(&mut self) {
        while let Some(token) = self.transmit.peek_used() {
            if let Err(error) = self.take_back(token) {
                pv_guest::println!("{self}: sending: {error}");
                return;
            }
        }
        let mut any = false;
        while self.sending.len() < BUFFERS {
            let Some(bytes) = self.waiting.pop_front() else {
                break;
            };
            if let Err(error) = self.hand_over(bytes) {
                pv_guest::println!("{self}: sending: {error}");
                break;
            }
            any = true;
        }
        if any && self.transmit.should_notify() {
            self.transport.notify(TRANSMIT);
        }
    }

    fn hand_over(&mut self, bytes: Box<[u8]>) -> virtio_drivers::Result {
        // SAFETY: the bytes are kept in `sending`, unchanged, until `take_back` has the token back.
        #[expect(unsafe_code, reason = "access to a device")]
        let token = unsafe { self.transmit.add(&[&bytes], &mut []) }?;
        self.sending.insert(token, bytes);
        Ok(())
    }

    fn take_back(&mut self, token: u16) -> virtio_drivers::Result {
        let bytes = self
            .sending
            .remove(&token)
            .ok_or(virtio_drivers::Error::WrongToken)?;
        // SAFETY: these are the bytes that were handed over for this token.
        #[expect(unsafe_code, reason = "access to a device")]
        unsafe { self.transmit.pop_used(token, &[&bytes], &mut []) }?;
        Ok(())
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtio console at PCI {}, ", self.device)?;
        match &self.interrupt {
            Some(interrupt) => write!(f, "{interrupt}"),
            None => f.write_str("without interrupt"),
        }
    }
}

bitflags::bitflags! {
    /// Features as the transport negotiates them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        const _ = !0;
    }
}
