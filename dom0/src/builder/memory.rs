//! A new domain's memory, written to through windows of foreign mappings.

use alloc::vec::Vec;

use control::{DomainConfig, Error};
use hypercall_abi::types::{Domid, Mfn, Pfn, Union};
use hypercall_abi::xen::{SIF_MOD_START_PFN, StartInfo, StartInfoConsoleDomU};
use pv_image::Layout;
use split_drivers::SharedMemory;
use zerocopy::IntoBytes;

use super::{Ring, Sources, machine};
use crate::xen::{Context, PAGE_SIZE, Xen, frames};

/// Frames that are mapped at a time.
const WINDOW: u64 = 2048;

/// What connects the domain with others.
pub(super) struct Links {
    /// The frame of its shared info.
    pub shared_info: Mfn,
    /// Its ring to the store.
    pub store: Ring,
    /// Its console's ring.
    pub console: Ring,
}

/// The guest's memory, of which a window is mapped at a time.
pub(super) struct GuestMemory<'a, X: Xen> {
    xen: &'a mut X,
    domid: Domid,
    p2m: &'a [u64],
    /// Frames from here on are nobody's business.
    limit: u64,
    window: Option<Window<X::Mapping>>,
}

struct Window<M> {
    first: u64,
    pages: u64,
    mapping: M,
}

impl<'a, X: Xen> GuestMemory<'a, X> {
    /// The memory that `p2m` lists, of which the first `limit` frames are written to.
    pub fn new(xen: &'a mut X, domid: Domid, p2m: &'a [u64], limit: u64) -> Self {
        Self {
            xen,
            domid,
            p2m,
            limit,
            window: None,
        }
    }

    /// Calls `write` for each mapped stretch of the bytes from `start` on, `length` in all: with
    /// the mapping, the offset in it, and the range of the bytes that it has.
    fn each(
        &mut self,
        start: u64,
        length: u64,
        mut write: impl FnMut(&X::Mapping, usize, core::ops::Range<usize>),
    ) -> Result<(), Error> {
        let mut done = 0;
        while done < length {
            let position = start + done;
            let window = self.window(position / PAGE_SIZE as u64)?;
            let offset = position - window.first * PAGE_SIZE as u64;
            let count = (length - done).min(window.pages * PAGE_SIZE as u64 - offset);
            // All of these are within a window.
            let range = done as usize..(done + count) as usize;
            write(&window.mapping, offset as usize, range);
            done += count;
        }
        Ok(())
    }

    fn window(&mut self, pfn: u64) -> Result<&Window<X::Mapping>, Error> {
        let window = match self.window.take() {
            Some(window) if (window.first..window.first + window.pages).contains(&pfn) => window,
            other => {
                drop(other);
                let pages = self.limit.saturating_sub(pfn).clamp(1, WINDOW);
                let frames: Vec<Mfn> = frames(Pfn(pfn), pages)
                    .map(|pfn| machine(self.p2m, pfn))
                    .collect::<Result<_, _>>()?;
                let mapping = self
                    .xen
                    .map(self.domid, &frames)
                    .context("map the domain's memory")?;
                Window {
                    first: pfn,
                    pages,
                    mapping,
                }
            }
        };
        Ok(self.window.insert(window))
    }

    fn write(&mut self, start: u64, bytes: &[u8]) -> Result<(), Error> {
        self.each(start, bytes.len() as u64, |mapping, offset, range| {
            mapping.write(offset, bytes.get(range).unwrap_or_default());
        })
    }

    fn zero(&mut self, start: u64, length: u64) -> Result<(), Error> {
        const ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
        self.each(start, length, |mapping, offset, range| {
            let mut at = offset;
            let end = offset + range.len();
            while at < end {
                let count = (end - at).min(PAGE_SIZE);
                mapping.write(at, ZEROES.get(..count).unwrap_or_default());
                at += count;
            }
        })
    }

    /// Lets windows reach only so far: what follows is of no use to the next writes.
    fn limit(&mut self, end: Pfn) {
        self.limit = end.0;
    }

    /// Writes the kernel's segments, with zeroes behind them, and the ramdisk.
    pub fn write_kernel(&mut self, layout: &Layout, sources: &Sources<'_>) -> Result<(), Error> {
        self.limit(layout.boot_stack.pfn);
        for segment in &sources.image.segments {
            let start = segment.vaddr.saturating_sub(layout.region.va);
            let bytes = sources.kernel.get(segment.file.clone()).unwrap_or_default();
            self.write(start, bytes)?;
            let length = bytes.len() as u64;
            self.zero(start + length, segment.memsz.saturating_sub(length))?;
        }
        if let (Some(ramdisk), Some(bytes)) = (layout.ramdisk, sources.ramdisk) {
            if ramdisk.va.is_none() {
                self.limit(Pfn(ramdisk.pfn.0 + ramdisk.pages));
            }
            self.write(address(ramdisk.pfn), bytes)?;
            let padding = ramdisk.pages * PAGE_SIZE as u64 - ramdisk.bytes;
            self.zero(address(ramdisk.pfn) + ramdisk.bytes, padding)?;
            self.limit(layout.boot_stack.pfn);
        }
        Ok(())
    }

    /// Writes the list of frames.
    pub fn write_p2m(&mut self, layout: &Layout) -> Result<(), Error> {
        let region = layout.p2m.region;
        if layout.p2m.outside.is_some() {
            self.limit(Pfn(layout.used_pages));
        }
        let list = self.p2m.as_bytes();
        self.write(address(region.pfn), list)?;
        // Behind the list there are no frames.
        let rest = region.pages * PAGE_SIZE as u64 - list.len() as u64;
        let none = [0xff; PAGE_SIZE];
        self.write(
            address(region.pfn) + list.len() as u64,
            none.get(..rest as usize).unwrap_or_default(),
        )
    }

    /// Writes the page that the kernel is started with.
    pub fn write_start_info(
        &mut self,
        layout: &Layout,
        config: &DomainConfig,
        links: &Links,
    ) -> Result<(), Error> {
        self.limit(layout.boot_stack.pfn);
        let mut info = StartInfo {
            nr_pages: self.p2m.len() as u64,
            shared_info: links.shared_info.0 * PAGE_SIZE as u64,
            store_mfn: links.store.frame,
            store_evtchn: links.store.port,
            console: Union::new(&StartInfoConsoleDomU {
                mfn: links.console.frame,
                evtchn: links.console.port,
                ..Default::default()
            }),
            pt_base: layout.page_tables.va,
            nr_pt_frames: layout.page_tables.pages,
            mfn_list: layout.p2m.region.va,
            ..Default::default()
        };
        copy_string(&mut info.magic, "xen-3.0-x86_64");
        copy_string(&mut info.cmd_line, &config.cmdline);
        if let Some(ramdisk) = layout.ramdisk {
            info.mod_len = ramdisk.bytes;
            match ramdisk.va {
                Some(va) => info.mod_start = va,
                None => {
                    info.mod_start = ramdisk.pfn.0;
                    info.flags |= SIF_MOD_START_PFN;
                }
            }
        }
        if let Some(tables) = layout.p2m.outside {
            info.first_p2m_pfn = layout.p2m.region.pfn.0;
            info.nr_p2m_frames = layout.p2m.region.pages + tables;
        }
        let mut page = [0; PAGE_SIZE];
        for (to, from) in page.iter_mut().zip(info.as_bytes()) {
            *to = *from;
        }
        self.write(address(layout.start_info.pfn), &page)
    }

    /// Clears the pages of the rings.
    pub fn write_rings(&mut self, layout: &Layout) -> Result<(), Error> {
        for region in [layout.xenstore, layout.console].into_iter().flatten() {
            self.zero(address(region.pfn), PAGE_SIZE as u64)?;
        }
        Ok(())
    }

    /// Writes the boot page tables.
    pub fn write_tables(&mut self, layout: &Layout) -> Result<(), Error> {
        for table in layout.tables() {
            let behind_region = table.pfn.0 >= layout.region.pages;
            self.limit(if behind_region {
                Pfn(layout.used_pages)
            } else {
                layout.boot_stack.pfn
            });
            let mut entries = [0u64; PAGE_SIZE / 8];
            for entry in table.entries() {
                if let Some(slot) = entries.get_mut(usize::from(entry.index)) {
                    *slot = machine(self.p2m, entry.pfn)?.0 << 12 | entry.flags;
                }
            }
            self.write(address(table.pfn), entries.as_bytes())?;
        }
        Ok(())
    }
}

/// The pseudo-physical address of a frame.
fn address(pfn: Pfn) -> u64 {
    pfn.0 * PAGE_SIZE as u64
}

/// Copies as much as leaves a zero at the end.
fn copy_string(to: &mut [u8], from: &str) {
    let room = to.len().saturating_sub(1);
    for (to, from) in to.iter_mut().zip(from.bytes().take(room)) {
        *to = from;
    }
}
