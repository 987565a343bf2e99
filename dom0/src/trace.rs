//! The hypervisor's trace: its buffers, as Xen's `trace.h` has them, emptied for one client.
//!
//! Nothing is kept here: records are read only when the client has room for them, and stay in the
//! hypervisor's buffers until then. Once these are full, records are lost, and the hypervisor counts
//! how many.

use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;
use split_drivers::SharedMemory;

use crate::xen::PAGE_SIZE;

/// Pages of each CPU's buffer, as `xentrace` has it.
const PAGES: u32 = 32;
/// Bytes in a buffer before its records: the indices of the reader and of the writer.
const HEADER: usize = 8;
/// How often buffers are looked at that are not half full, in nanoseconds.
const INTERVAL: u64 = 100_000_000;

/// What `XEN_SYSCTL_TBUFOP_get_info` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceInfo {
    /// The first frame of the description, which they follow.
    pub frame: Mfn,
    /// Its bytes.
    pub size: usize,
}

/// The part of the hypervisor's interface that is about tracing: `XEN_SYSCTL_tbuf_op`. Errors are
/// the hypercalls' own.
pub trait Tracing {
    /// Frames of the hypervisor's that are mapped.
    type TracePages: SharedMemory;

    /// Makes buffers of so many pages; `EBUSY` or `EINVAL` where there are some.
    fn make_trace_buffers(&mut self, pages: u32) -> Result<(), Errno>;
    /// Where they are.
    fn trace_info(&mut self) -> Result<TraceInfo, Errno>;
    /// Maps frames of `DOMID_XEN`; the description is mapped to be read only.
    fn map_trace(&mut self, frames: &[Mfn], writable: bool) -> Result<Self::TracePages, Errno>;
    /// Chooses the events that are recorded.
    fn set_traced_events(&mut self, events: u32) -> Result<(), Errno>;
    /// Turns it on or off.
    fn set_tracing(&mut self, on: bool) -> Result<(), Errno>;
}

/// The buffers, once they are mapped, and how far they are read.
#[derive(Debug)]
pub struct Trace<B> {
    rings: Vec<Ring<B>>,
    phase: Phase,
    /// When they are looked at next.
    next: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nobody is interested.
    Off,
    On,
    /// What there was when the client had enough is read with tracing still on: so the hypervisor
    /// finds room to say what was lost.
    Ending,
    /// It is off, and the rest is read.
    Ended,
}

/// A CPU's buffer.
#[derive(Debug)]
struct Ring<B> {
    buffer: B,
    /// Up to where it is read in this round.
    end: u32,
}

/// What there is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Records of a CPU.
    Records(u32, Vec<u8>),
    /// None at present.
    Nothing,
    /// No more.
    End,
}

impl<B: SharedMemory> Trace<B> {
    /// Without buffers.
    pub const fn new() -> Self {
        Self {
            rings: Vec::new(),
            phase: Phase::Off,
            next: 0,
        }
    }

    /// Whether a client traces.
    pub fn is_taken(&self) -> bool {
        self.phase != Phase::Off
    }

    /// Begins to trace these events; what was left in the buffers is dropped.
    ///
    /// # Errors
    /// What the hypervisor says.
    pub fn begin(
        &mut self,
        xen: &mut impl Tracing<TracePages = B>,
        events: u32,
        cpus: u32,
    ) -> Result<(), Errno> {
        if self.rings.is_empty() {
            match xen.make_trace_buffers(PAGES) {
                Ok(()) | Err(Errno::EBUSY | Errno::EINVAL) => xen.set_tracing(false)?,
                Err(errno) => return Err(errno),
            }
            self.rings = map(xen, cpus)?;
        }
        for ring in &mut self.rings {
            ring.end = ring.written();
            ring.set_read(ring.end);
        }
        xen.set_traced_events(events)?;
        xen.set_tracing(true)?;
        self.phase = Phase::On;
        self.next = 0;
        Ok(())
    }

    /// A buffer is half full.
    pub fn on_half_full(&mut self) {
        self.next = 0;
    }

    /// The client wants no more than there is.
    pub fn end(&mut self) {
        if self.phase == Phase::On {
            self.phase = Phase::Ending;
            self.look();
        }
    }

    /// The client is gone.
    pub fn abandon(&mut self, xen: &mut impl Tracing) {
        if self.is_taken() {
            // Where this fails, the buffers fill up, and that is all.
            let _ = xen.set_tracing(false);
            self.phase = Phase::Off;
        }
    }

    /// When to read again at the latest.
    pub fn deadline(&self) -> Option<u64> {
        (self.phase == Phase::On).then_some(self.next)
    }

    /// Reads what there is, up to `most` bytes. Buffers are read in rounds: what comes during one
    /// waits for the next, lest reading be traced and read for ever.
    pub fn read(&mut self, xen: &mut impl Tracing, now: u64, most: usize) -> Piece {
        loop {
            for (cpu, ring) in (0..).zip(&mut self.rings) {
                let bytes = ring.read(most);
                if !bytes.is_empty() {
                    return Piece::Records(cpu, bytes);
                }
            }
            match self.phase {
                Phase::On if now < self.next => return Piece::Nothing,
                Phase::On => self.next = now.saturating_add(INTERVAL),
                Phase::Ending => {
                    let _ = xen.set_tracing(false);
                    self.phase = Phase::Ended;
                }
                Phase::Off | Phase::Ended => {
                    self.phase = Phase::Off;
                    return Piece::End;
                }
            }
            self.look();
        }
    }

    /// Begins a round.
    fn look(&mut self) {
        for ring in &mut self.rings {
            ring.end = ring.written();
        }
    }
}

impl<B: SharedMemory> Default for Trace<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: SharedMemory> Ring<B> {
    /// Bytes for records.
    fn size(&self) -> u32 {
        (self.buffer.size() - HEADER) as u32
    }

    fn read_up_to(&self) -> u32 {
        self.buffer.load_index(0)
    }

    fn set_read(&self, index: u32) {
        self.buffer.store_index(0, index);
    }

    fn written(&self) -> u32 {
        self.buffer.load_index(4)
    }

    /// Takes up to `most` bytes of this round.
    fn read(&mut self, most: usize) -> Vec<u8> {
        let (size, index) = (self.size(), self.read_up_to());
        let whole = 2 * size;
        let unread = (self.end % whole + whole - index % whole) % whole;
        let to_end = size - index % size;
        let count = unread.min(to_end).min(most as u32) & !3;
        let mut bytes = vec![0; count as usize];
        self.buffer
            .read(HEADER + (index % size) as usize, &mut bytes);
        if count > 0 {
            self.set_read((index + count) % whole);
        }
        bytes
    }
}

/// Maps the buffers, by their description. A CPU that has none is the last of which something is known.
fn map<X: Tracing>(xen: &mut X, cpus: u32) -> Result<Vec<Ring<X::TracePages>>, Errno> {
    let TraceInfo { frame, size } = xen.trace_info()?;
    let frames: Vec<Mfn> = (frame.0..)
        .take(size.div_ceil(PAGE_SIZE))
        .map(Mfn)
        .collect();
    let info = xen.map_trace(&frames, false)?;
    let mut bytes = vec![0; info.size()];
    info.read(0, &mut bytes);
    let half = |index: usize| {
        let at = bytes.get(2 * index..2 * index + 2);
        at.map_or(0, |at| usize::from(u16::from_le_bytes([at[0], at[1]])))
    };
    let pages = half(0);
    let frame_at = |index: usize| {
        let at = bytes.get(4 * index..4 * index + 4)?;
        Some(Mfn(u32::from_le_bytes(at.try_into().ok()?).into()))
    };
    let mut rings = Vec::new();
    for cpu in 0..cpus as usize {
        let first = half(1 + cpu);
        if first == 0 || pages == 0 {
            break;
        }
        let frames: Option<Vec<Mfn>> = (first..first + pages).map(frame_at).collect();
        let buffer = xen.map_trace(&frames.ok_or(Errno::EINVAL)?, true)?;
        rings.push(Ring { buffer, end: 0 });
    }
    Ok(rings)
}
