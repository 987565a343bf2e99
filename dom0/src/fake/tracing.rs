//! The stand-in's tracer: buffers in ordinary frames, into which tests put bytes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;
use split_drivers::SharedMemory;

use super::{Fake, Frame, Mapping};
use crate::trace::{TraceInfo, Tracing};
use crate::xen::PAGE_SIZE;

/// CPUs with a buffer.
const CPUS: u16 = 2;
/// The description's frame; the buffers' follow.
const INFO: u64 = 0x9_0000;

/// What it was told, and what it has.
#[derive(Debug, Default)]
pub struct FakeTrace {
    pub on: bool,
    pub events: u32,
    frames: Vec<Rc<Frame>>,
    pages: u16,
}

impl FakeTrace {
    fn ring(&self, cpu: u16) -> Mapping {
        let pages = usize::from(self.pages);
        let first = 1 + usize::from(cpu) * pages;
        Mapping {
            frames: self.frames[first..first + pages].to_vec(),
            foreign: false,
        }
    }

    /// Bytes that are not read yet, and those that there is room for.
    pub fn unread(&self, cpu: u16) -> (u32, u32) {
        let ring = self.ring(cpu);
        let size = (ring.size() - 8) as u32;
        let (read, written) = (ring.load_index(0), ring.load_index(4));
        assert!(
            read < 2 * size && read % 4 == 0,
            "the reader's index is wrong"
        );
        let unread = (written + 2 * size - read) % (2 * size);
        (unread, size - unread)
    }

    /// Puts bytes into a buffer, as far as there is room and tracing is on; how many.
    pub fn put(&self, cpu: u16, bytes: &[u8]) -> usize {
        let (ring, (_, room)) = (self.ring(cpu), self.unread(cpu));
        let size = ring.size() - 8;
        let count = if self.on {
            bytes.len().min(room as usize)
        } else {
            0
        };
        let written = ring.load_index(4) as usize;
        for (at, byte) in (written..).zip(&bytes[..count]) {
            ring.write(8 + at % size, &[*byte]);
        }
        ring.store_index(4, ((written + count) % (2 * size)) as u32);
        count
    }
}

impl Tracing for Fake {
    type TracePages = Mapping;

    fn make_trace_buffers(&mut self, pages: u32) -> Result<(), Errno> {
        self.call("tbuf_op")?;
        if !self.trace.frames.is_empty() {
            return Err(Errno::EBUSY);
        }
        let pages = pages as u16;
        let all = 1 + CPUS * pages;
        let zero = || Frame {
            bytes: RefCell::new(vec![0; PAGE_SIZE]),
            mappings: Cell::new(0),
        };
        self.trace.frames = (0..all).map(|_| Rc::new(zero())).collect();
        self.trace.pages = pages;
        self.trace.on = true;
        let info = Mapping {
            frames: self.trace.frames[..1].to_vec(),
            foreign: false,
        };
        // The lists begin at word 2.
        for (index, half) in [pages, 2, 2 + pages].into_iter().enumerate() {
            info.write(2 * index, &half.to_le_bytes());
        }
        for page in 1..u32::from(all) {
            let mfn = INFO as u32 + page;
            info.write(4 * (1 + page as usize), &mfn.to_le_bytes());
        }
        Ok(())
    }

    fn trace_info(&mut self) -> Result<TraceInfo, Errno> {
        self.call("tbuf_op")?;
        Ok(TraceInfo {
            frame: Mfn(INFO),
            size: PAGE_SIZE,
        })
    }

    fn map_trace(&mut self, frames: &[Mfn], writable: bool) -> Result<Mapping, Errno> {
        self.call("map_trace")?;
        let frame = |mfn: &Mfn| {
            let index = mfn.0.checked_sub(INFO)? as usize;
            (index > 0 || !writable).then_some(())?;
            self.trace.frames.get(index).cloned()
        };
        let frames: Option<Vec<_>> = frames.iter().map(frame).collect();
        let frames = frames.ok_or(Errno::EINVAL)?;
        Ok(Mapping {
            frames,
            foreign: false,
        })
    }

    fn set_traced_events(&mut self, events: u32) -> Result<(), Errno> {
        self.trace.events = events;
        Ok(())
    }

    fn set_tracing(&mut self, on: bool) -> Result<(), Errno> {
        self.call("tbuf_op")?;
        self.trace.on = on;
        Ok(())
    }
}
