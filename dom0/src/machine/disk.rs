//! A virtio disk whose requests do not wait for each other.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;

use dom0::storage::HostDisk;
use pv_guest::clock;
use split_drivers::block::SECTOR;
use split_drivers::block::back::{Finished, Operation};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{DeviceFunction, PciRoot};

use super::dma::{Buffer, Host};
use super::features::Features;
use super::pci::{self, Configuration, Interrupt};

/// Descriptors of the queue; a request takes up to three.
const QUEUE: usize = 128;
/// Bytes for what a request has beside data: its header, the sectors to discard, its status.
const SLOT: usize = 64;
const DISCARD_AT: usize = 16;
const STATUS_AT: usize = 32;
/// Requests at a time.
const SLOTS: usize = QUEUE / 3;
/// How long a disk may take for what is asked while it is set up, in nanoseconds.
const PATIENCE: u64 = 1_000_000_000;

// Features.
const RO: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;
const VERSION_1: u64 = 1 << 32;

// Types of requests.
const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;

/// Bytes of a serial number.
const ID: usize = 20;

/// What the device is given beside header and status.
enum Data {
    None,
    /// It reads this.
    Out(Buffer, usize),
    /// It writes this.
    In(Buffer, usize),
    /// It reads which sectors are to be discarded.
    Discard,
}

/// Memory that is named to the device.
type Parts = Vec<NonNull<[u8]>>;

struct Request {
    tag: u64,
    slot: usize,
    data: Data,
}

/// A disk.
pub struct Disk {
    device: DeviceFunction,
    transport: PciTransport,
    queue: VirtQueue<Host, QUEUE>,
    /// What requests have beside data.
    slots: Buffer,
    free: Vec<usize>,
    /// By token.
    under_way: BTreeMap<u16, Request>,
    /// What the queue did not take.
    failed: Vec<Finished<Buffer>>,
    most_discarded: u32,
    interrupt: Option<Interrupt>,
}

impl Disk {
    /// Takes up a disk; what it is.
    pub fn start(
        root: &mut PciRoot<Configuration>,
        configuration: &Configuration,
        device: DeviceFunction,
    ) -> Result<(Self, HostDisk), String> {
        pci::enable(root, device);
        let mut transport =
            PciTransport::new::<Host, _>(root, device).map_err(|error| error.to_string())?;
        let wanted = RO | BLK_SIZE | FLUSH | DISCARD | VERSION_1;
        let features: Features = transport.begin_init(Features::from_bits_retain(wanted));
        let has = |bit| features.bits() & bit != 0;
        let failed = |error: virtio_drivers::Error| error.to_string();
        let queue = VirtQueue::new(&mut transport, 0, false, false).map_err(failed)?;
        transport.finish_init();
        let word = |offset| transport.read_config_space::<u32>(offset).map_err(failed);
        let sectors = u64::from(word(0)?) | u64::from(word(4)?) << 32;
        let sector_size = if has(BLK_SIZE) { word(20)? } else { 512 };
        if !matches!(sector_size, 512 | 1024 | 2048 | 4096) {
            return Err(alloc::format!("sectors of {sector_size} bytes"));
        }
        let (most_discarded, unit) = match has(DISCARD) {
            true => (word(36)?, word(44)?.max(1)),
            false => (0, 1),
        };
        let interrupt = Interrupt::bind(configuration, device).unwrap_or_else(|error| {
            pv_guest::println!("{device}: no interrupt: {error}");
            None
        });
        let mut disk = Self {
            device,
            transport,
            queue,
            slots: Buffer::new(SLOTS * SLOT).ok_or("no memory")?,
            free: (0..SLOTS).collect(),
            under_way: BTreeMap::new(),
            failed: Vec::new(),
            most_discarded,
            interrupt,
        };
        let info = HostDisk {
            serial: disk.serial(),
            // Whole sectors of its own.
            sectors: sectors - sectors % u64::from(sector_size / SECTOR as u32),
            sector_size,
            read_only: has(RO),
            flush: has(FLUSH),
            discard: has(DISCARD).then_some(unit.saturating_mul(SECTOR as u32)),
            partitions: Vec::new(),
        };
        Ok((disk, info))
    }

    /// Its serial number.
    fn serial(&mut self) -> String {
        let Some(id) = self.wait_for(T_GET_ID, 0, ID) else {
            return String::new();
        };
        let mut bytes = [0; ID];
        id.window().copy_out(0, &mut bytes);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(ID);
        let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
        // It names a volume.
        text.chars()
            .filter(|c| !c.is_control() && !c.is_whitespace() && !matches!(c, '/' | ',' | ':'))
            .collect()
    }

    /// Reads sectors, and waits for them: for when the disk is taken up.
    pub fn read_now(&mut self, sector: u64, bytes: usize) -> Option<Buffer> {
        self.wait_for(T_IN, sector, bytes)
    }

    fn wait_for(&mut self, kind: u32, sector: u64, bytes: usize) -> Option<Buffer> {
        let buffer = Buffer::new(bytes)?;
        let slot = self.free.pop()?;
        self.submit(0, slot, kind, sector, Data::In(buffer, bytes));
        let until = clock::now() + PATIENCE;
        while clock::now() < until {
            if let Some(finished) = self.finished() {
                return finished.buffer.filter(|_| finished.done);
            }
            core::hint::spin_loop();
        }
        None
    }

    /// Whether it tells when it has done something; else it has to be asked.
    pub fn has_interrupt(&self) -> bool {
        self.interrupt.is_some()
    }

    /// Has it take its interrupt back.
    pub fn acknowledge(&mut self) {
        self.transport.ack_interrupt();
    }

    /// Begins an operation, or gives it back if there is no room.
    pub fn begin(
        &mut self,
        tag: u64,
        operation: Operation<Buffer>,
    ) -> Result<(), Operation<Buffer>> {
        let Some(slot) = self.free.pop() else {
            return Err(operation);
        };
        let (kind, at, data) = match operation {
            Operation::Read {
                sector,
                bytes,
                buffer,
            } => (T_IN, sector, Data::In(buffer, bytes)),
            Operation::Write {
                sector,
                bytes,
                buffer,
            } => (T_OUT, sector, Data::Out(buffer, bytes)),
            Operation::Flush => (T_FLUSH, 0, Data::None),
            Operation::Discard { sector, count, .. } => {
                // Discarding less than what is asked for does no harm.
                let count = u32::try_from(count)
                    .unwrap_or(u32::MAX)
                    .min(self.most_discarded);
                let mut segment = [0; 16];
                segment[..8].copy_from_slice(&sector.to_le_bytes());
                segment[8..12].copy_from_slice(&count.to_le_bytes());
                let place = slot * SLOT + DISCARD_AT;
                self.slots.window().copy_in(place, &segment);
                (T_DISCARD, sector, Data::Discard)
            }
        };
        self.submit(tag, slot, kind, at, data);
        Ok(())
    }

    fn submit(&mut self, tag: u64, slot: usize, kind: u32, sector: u64, data: Data) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.slots.window().copy_in(slot * SLOT, &header);
        self.slots.window().set(slot * SLOT + STATUS_AT, 0xff_u8);
        let request = Request { tag, slot, data };
        let (inputs, outputs) = self.parts(&request);
        // SAFETY: the parts belong to the request, which keeps them until `finished` has its token back;
        // nothing else refers to them, and the references end with the call.
        #[expect(unsafe_code, reason = "access to a device")]
        let added = unsafe {
            let inputs: Vec<&[u8]> = inputs.iter().map(|part| part.as_ref()).collect();
            let mut outputs: Vec<&mut [u8]> =
                outputs.into_iter().map(|mut part| part.as_mut()).collect();
            self.queue.add(&inputs, &mut outputs)
        };
        match added {
            Ok(token) => {
                self.under_way.insert(token, request);
                if self.queue.should_notify() {
                    self.transport.notify(0);
                }
            }
            // There is a descriptor for everything that has a slot.
            Err(error) => {
                pv_guest::println!("{self}: {error}");
                self.free.push(slot);
                self.failed.push(Finished {
                    tag,
                    done: false,
                    buffer: None,
                });
            }
        }
    }

    /// What the device reads of a request, and what it writes.
    fn parts(&self, request: &Request) -> (Parts, Parts) {
        let at = request.slot * SLOT;
        let mut inputs = Vec::from([self.slots.part(at, 16)]);
        let mut outputs = Vec::new();
        match &request.data {
            Data::None => {}
            Data::Out(buffer, bytes) => inputs.push(buffer.part(0, *bytes)),
            Data::In(buffer, bytes) => outputs.push(buffer.part(0, *bytes)),
            Data::Discard => inputs.push(self.slots.part(at + DISCARD_AT, 16)),
        }
        outputs.push(self.slots.part(at + STATUS_AT, 1));
        (inputs, outputs)
    }

    /// An operation that has ended.
    pub fn finished(&mut self) -> Option<Finished<Buffer>> {
        if let Some(failed) = self.failed.pop() {
            return Some(failed);
        }
        let token = self.queue.peek_used()?;
        let Some(request) = self.under_way.remove(&token) else {
            pv_guest::println!("{self}: an answer to nothing");
            return None;
        };
        let (inputs, outputs) = self.parts(&request);
        // SAFETY: these are the parts that were handed over for this token; the device is done with
        // them.
        #[expect(unsafe_code, reason = "access to a device")]
        let popped = unsafe {
            let inputs: Vec<&[u8]> = inputs.iter().map(|part| part.as_ref()).collect();
            let mut outputs: Vec<&mut [u8]> =
                outputs.into_iter().map(|mut part| part.as_mut()).collect();
            self.queue.pop_used(token, &inputs, &mut outputs)
        };
        let status: u8 = self.slots.window().get(request.slot * SLOT + STATUS_AT);
        self.free.push(request.slot);
        Some(Finished {
            tag: request.tag,
            done: popped.is_ok() && status == 0,
            buffer: match request.data {
                Data::In(buffer, _) => Some(buffer),
                Data::None | Data::Out(..) | Data::Discard => None,
            },
        })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtio disk at PCI {}, ", self.device)?;
        match &self.interrupt {
            Some(interrupt) => write!(f, "{interrupt}"),
            None => f.write_str("without interrupt"),
        }
    }
}
