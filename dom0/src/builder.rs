//! Builds a PV domain: frames, kernel, phys-to-machine list, start info, page tables, first vCPU.
//!
//! The order is that of Xen's own toolstack. All that is written into the guest is written through
//! mappings of its frames, which are gone before its page tables become page tables: a frame that
//! is mapped writable cannot be one.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;

use control::{DomainConfig, Error};
use hypercall_abi::arch_x86::{
    FLAT_KERNEL_CS, FLAT_KERNEL_DS, FLAT_KERNEL_SS, VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext,
    XEN_LEGACY_MAX_VCPUS,
};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn, Pfn, Port, Union};
use hypercall_abi::xen::{
    SIF_MOD_START_PFN, SharedInfo, StartInfo, StartInfoConsoleDomU, VcpuInfo,
};
use pv_image::{Layout, LayoutError, PvImage, Request, Role};
use split_drivers::SharedMemory;
use zerocopy::IntoBytes;

use crate::xen::{Context, NewDomain, PAGE_SIZE, Xen, frames};

/// What a domain is built from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// The kernel's file.
    pub kernel: &'a [u8],
    /// What it says about itself.
    pub image: &'a PvImage,
    /// The ramdisk's file.
    pub ramdisk: Option<&'a [u8]>,
}

/// A domain that is ready to run. It is paused.
#[derive(Debug)]
pub struct Built<M> {
    /// Its id.
    pub domid: Domid,
    /// The page of its console, mapped.
    pub console: M,
    /// Its port for the console.
    pub console_port: Port,
    /// The frame of its page for the store.
    pub store_frame: Mfn,
    /// Its port for the store.
    pub store_port: Port,
}

/// What a domain may have beyond its memory, as xl allows it: room for a page more here and there.
const SLACK_KIB: u64 = 1024;
/// 2 MiB, the size of chunks that memory is asked for in.
const CHUNK_ORDER: u32 = 9;
const CHUNK: usize = 1 << CHUNK_ORDER;
/// Frames that are mapped at a time.
const WINDOW: u64 = 2048;
/// `RFLAGS.IF`.
const INTERRUPTS_ON: u64 = 1 << 9;
/// What DR6 and DR7 hold after a reset.
const DR6_DEFAULT: u64 = 0xffff_0ff0;
const DR7_DEFAULT: u64 = 0x400;

/// Builds a domain. If that fails, nothing of it is left.
pub fn build<X: Xen>(
    xen: &mut X,
    config: &DomainConfig,
    sources: &Sources<'_>,
) -> Result<Built<X::Mapping>, Error> {
    let nr_pages = config.memory_kib / 4;
    let layout = plan(config, sources, nr_pages)?;

    let needed_kib = nr_pages * 4;
    let free_kib = xen.free_memory_kib().context("physinfo")?;
    if free_kib < needed_kib {
        return Err(Error::NotEnoughMemory {
            needed_kib,
            free_kib,
        });
    }
    let domain = NewDomain {
        handle: config.uuid.0,
        max_vcpus: config.max_vcpus,
    };
    let domid = match xen.create_domain(&domain) {
        Err(Errno::ENOMEM) => return Err(no_memory(xen, needed_kib)),
        // Of what it is told, only this can be out of its range.
        Err(Errno::EINVAL | Errno::E2BIG) => {
            return Err(Error::BadConfig {
                field: String::from("maxvcpus"),
                why: format!("the hypervisor does not allow {}", config.max_vcpus),
            });
        }
        other => other.context("createdomain")?,
    };
    fill(xen, domid, config, sources, &layout, nr_pages).inspect_err(|_| {
        // The first error is the one to tell; this one could only be that the domain is gone.
        let _ = xen.destroy_domain(domid);
    })
}

fn plan(config: &DomainConfig, sources: &Sources<'_>, nr_pages: u64) -> Result<Layout, Error> {
    let request = Request {
        role: Role::DomU,
        nr_pages,
        ramdisk: sources.ramdisk.map_or(0, |bytes| bytes.len() as u64),
    };
    Layout::plan(sources.image, &request).map_err(|error| match error {
        LayoutError::OutOfMemory { .. } => Error::BadConfig {
            field: String::from("memory"),
            why: format!("{error}"),
        },
        LayoutError::OutOfAddressSpace { .. } => {
            Error::BadKernel(format!("{error} (kernel {})", config.kernel.path))
        }
    })
}

fn no_memory(xen: &mut impl Xen, needed_kib: u64) -> Error {
    let free_kib = xen.free_memory_kib().unwrap_or(0);
    Error::NotEnoughMemory {
        needed_kib,
        free_kib,
    }
}

fn fill<X: Xen>(
    xen: &mut X,
    domid: Domid,
    config: &DomainConfig,
    sources: &Sources<'_>,
    layout: &Layout,
    nr_pages: u64,
) -> Result<Built<X::Mapping>, Error> {
    match xen.set_max_vcpus(domid, config.max_vcpus) {
        Err(Errno::ENOMEM) => return Err(no_memory(xen, nr_pages * 4)),
        other => other.context("max_vcpus")?,
    }
    xen.set_max_memory(domid, config.max_memory_kib.saturating_add(SLACK_KIB))
        .context("max_mem")?;
    let p2m = populate(xen, domid, nr_pages)?;

    let store_port = xen.alloc_unbound(domid).context("alloc_unbound")?;
    let console_port = xen.alloc_unbound(domid).context("alloc_unbound")?;
    let shared_info = xen
        .domain_status(domid)
        .context("getdomaininfo")?
        .ok_or(Errno::ESRCH)
        .context("getdomaininfo")?
        .shared_info;

    let links = Links {
        shared_info,
        store: (ring_frame(&p2m, layout.xenstore)?, store_port),
        console: (ring_frame(&p2m, layout.console)?, console_port),
    };
    let mut memory = GuestMemory {
        xen: &mut *xen,
        domid,
        p2m: &p2m,
        limit: layout.used_pages,
        window: None,
    };
    memory.write_kernel(layout, sources)?;
    memory.write_p2m(layout)?;
    memory.write_start_info(layout, config, &links)?;
    memory.write_rings(layout)?;
    memory.write_tables(layout)?;
    drop(memory);

    if let Some(page) = sources.image.hypercall_page {
        let pfn = layout.pfn_of(page).ok_or(Errno::EINVAL);
        let frame = machine(&p2m, pfn.context("hypercall_init")?)?;
        xen.init_hypercall_page(domid, frame)
            .context("hypercall_init")?;
    }
    let root = machine(&p2m, layout.page_tables.pfn)?;
    xen.pin_root(domid, root).context("pin_l4_table")?;
    mask_events(xen, domid, shared_info)?;

    let context = boot_context(sources.image, layout, root);
    xen.set_vcpu_context(domid, 0, &context)
        .context("setvcpucontext")?;
    let console = xen
        .map(domid, &[links.console.0])
        .context("map the console page")?;
    Ok(Built {
        domid,
        console,
        console_port,
        store_frame: links.store.0,
        store_port,
    })
}

/// Gives the domain its memory; the machine frame of each guest frame.
fn populate(xen: &mut impl Xen, domid: Domid, nr_pages: u64) -> Result<Vec<u64>, Error> {
    let mut p2m: Vec<u64> = (0..nr_pages).collect();
    let mut chunks: Vec<u64> = p2m
        .chunks_exact(CHUNK)
        .filter_map(|chunk| chunk.first().copied())
        .collect();
    // Where memory is in pieces, some of the chunks, or all, have to be had page by page.
    let done = xen.populate(domid, CHUNK_ORDER, &mut chunks).unwrap_or(0);
    let (large, small) = p2m.split_at_mut(done.min(chunks.len()) * CHUNK);
    for (pages, first) in large.chunks_exact_mut(CHUNK).zip(&chunks) {
        for (page, frame) in pages.iter_mut().zip(*first..) {
            *page = frame;
        }
    }
    let wanted = small.len();
    if wanted > 0 {
        let done = match xen.populate(domid, 0, small) {
            Ok(done) => done,
            Err(Errno::ENOMEM) => 0,
            Err(errno) => Err(errno).context("populate_physmap")?,
        };
        if done < wanted {
            let missing = (wanted - done) as u64 * 4;
            let free_kib = xen.free_memory_kib().unwrap_or(0);
            return Err(Error::NotEnoughMemory {
                needed_kib: missing,
                free_kib,
            });
        }
    }
    Ok(p2m)
}

fn machine(p2m: &[u64], pfn: Pfn) -> Result<Mfn, Error> {
    let index = usize::try_from(pfn.0).ok();
    let frame = index.and_then(|index| p2m.get(index)).copied();
    frame
        .map(Mfn)
        .ok_or(Errno::EINVAL)
        .context("translate a frame")
}

fn ring_frame(p2m: &[u64], region: Option<pv_image::Region>) -> Result<Mfn, Error> {
    let region = region.ok_or(Errno::EINVAL).context("lay out the rings")?;
    machine(p2m, region.pfn)
}

/// What connects the domain with others.
struct Links {
    shared_info: Mfn,
    store: (Mfn, Port),
    console: (Mfn, Port),
}

/// The guest's memory, of which a window is mapped at a time.
struct GuestMemory<'a, X: Xen> {
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

impl<X: Xen> GuestMemory<'_, X> {
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

    fn write_kernel(&mut self, layout: &Layout, sources: &Sources<'_>) -> Result<(), Error> {
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

    fn write_p2m(&mut self, layout: &Layout) -> Result<(), Error> {
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

    fn write_start_info(
        &mut self,
        layout: &Layout,
        config: &DomainConfig,
        links: &Links,
    ) -> Result<(), Error> {
        self.limit(layout.boot_stack.pfn);
        let mut info = StartInfo {
            nr_pages: self.p2m.len() as u64,
            shared_info: links.shared_info.0 * PAGE_SIZE as u64,
            store_mfn: links.store.0,
            store_evtchn: links.store.1,
            console: Union::new(&StartInfoConsoleDomU {
                mfn: links.console.0,
                evtchn: links.console.1,
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

    fn write_rings(&mut self, layout: &Layout) -> Result<(), Error> {
        for region in [layout.xenstore, layout.console].into_iter().flatten() {
            self.zero(address(region.pfn), PAGE_SIZE as u64)?;
        }
        Ok(())
    }

    fn write_tables(&mut self, layout: &Layout) -> Result<(), Error> {
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

/// No vCPU takes events before its kernel is ready for them.
fn mask_events(xen: &mut impl Xen, domid: Domid, shared_info: Mfn) -> Result<(), Error> {
    let page = xen
        .map(domid, &[shared_info])
        .context("map the shared info")?;
    let first = offset_of!(SharedInfo, vcpu_info) + offset_of!(VcpuInfo, evtchn_upcall_mask);
    for vcpu in 0..XEN_LEGACY_MAX_VCPUS {
        page.write(first + vcpu * size_of::<VcpuInfo>(), &[1]);
    }
    Ok(())
}

fn boot_context(image: &PvImage, layout: &Layout, root: Mfn) -> VcpuGuestContext {
    let mut context = VcpuGuestContext {
        flags: VGCF_IN_KERNEL | VGCF_ONLINE,
        ..Default::default()
    };
    let regs = &mut context.user_regs;
    regs.rip = image.entry;
    regs.rsp = layout.boot_stack.end();
    regs.rsi = layout.start_info.va;
    regs.rflags = INTERRUPTS_ON;
    regs.cs = FLAT_KERNEL_CS;
    regs.ss = FLAT_KERNEL_SS;
    regs.ds = FLAT_KERNEL_DS;
    regs.es = FLAT_KERNEL_DS;
    regs.fs = FLAT_KERNEL_DS;
    regs.gs = FLAT_KERNEL_DS;
    context.kernel_ss = u64::from(FLAT_KERNEL_SS);
    context.kernel_sp = layout.boot_stack.end();
    // On x86-64, a CR3 in the interface is the table's machine address as it is.
    context.ctrlreg[3] = root.0 << 12;
    context.debugreg[6] = DR6_DEFAULT;
    context.debugreg[7] = DR7_DEFAULT;
    context
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use control::{Image, ImageHash, OnEvent, Uuid};
    use hypercall_abi::elfnote::{XEN_ELFNOTE_INIT_P2M, XEN_ELFNOTE_MOD_START_PFN};
    use pv_image::fixture::Kernel;
    use zerocopy::FromBytes;

    const BASE: u64 = 0xffff_ffff_8000_0000;

    fn config(mib: u64) -> DomainConfig {
        DomainConfig {
            name: "guest".into(),
            uuid: Uuid([7; 16]),
            memory_kib: mib << 10,
            max_memory_kib: mib << 10,
            vcpus: 1,
            max_vcpus: 2,
            kernel: Image {
                hash: ImageHash([0; 32]),
                size: 0,
                path: "/boot/guest".into(),
            },
            ramdisk: None,
            cmdline: "console=hvc0 quiet".into(),
            on: OnEvent::default(),
        }
    }

    fn kernel() -> Kernel {
        let code: Vec<u8> = (0..0x2345).map(|n| (n % 251) as u8).collect();
        Kernel::small(&code, 0x1800)
    }

    struct Outcome {
        xen: Fake,
        built: Built<crate::fake::Mapping>,
        layout: Layout,
        info: StartInfo,
        context: VcpuGuestContext,
    }

    fn built(kernel: &Kernel, ramdisk: Option<&[u8]>, mib: u64) -> Outcome {
        let mut xen = Fake::new(20_000);
        let file = kernel.write();
        let image = PvImage::parse(&file).unwrap();
        let sources = Sources {
            kernel: &file,
            image: &image,
            ramdisk,
        };
        let built = build(&mut xen, &config(mib), &sources).unwrap();
        let layout = plan(&config(mib), &sources, mib << 8).unwrap();
        let context = xen.domains[&built.domid.0].context.unwrap();
        let page = xen.peek(built.domid, context.user_regs.rsi, size_of::<StartInfo>());
        let info = StartInfo::read_from_bytes(&page).unwrap();
        Outcome {
            xen,
            built,
            layout,
            info,
            context,
        }
    }

    #[test]
    fn the_kernel_is_where_it_wants_to_be_and_its_bss_is_zero() {
        let kernel = kernel();
        let Outcome { xen, built, .. } = built(&kernel, None, 16);
        let (_, code, memsz) = &kernel.segments[0];
        let found = xen.peek(built.domid, BASE + 0x40_0000, *memsz as usize);
        assert_eq!(found[..0x1000], code[..0x1000]);
        assert_eq!(found[0x1000..0x100a], *b"hypercalls");
        assert_eq!(found[0x100a..code.len()], code[0x100a..]);
        assert!(found[code.len()..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn start_info_describes_what_is_there() {
        let Outcome {
            xen,
            built,
            layout,
            info,
            context,
        } = built(&kernel(), None, 16);
        assert!(info.magic.starts_with(b"xen-3.0-x86_64\0"));
        assert!(info.cmd_line.starts_with(b"console=hvc0 quiet\0"));
        assert_eq!(info.nr_pages, 4096);
        assert_eq!(info.flags, 0);
        let domain = &xen.domains[&built.domid.0];
        assert_eq!(info.shared_info, domain.shared_info << 12);
        assert_eq!((info.mod_start, info.mod_len), (0, 0));
        assert_eq!(info.nr_pt_frames, layout.page_tables.pages);
        assert_eq!(
            xen.walk(built.domid, info.pt_base),
            Some((domain.root.unwrap(), false))
        );

        let console: StartInfoConsoleDomU = info.console.get();
        let (console_frame, writable) = xen.walk(built.domid, layout.console.unwrap().va).unwrap();
        assert!(writable);
        assert_eq!(
            (console.mfn, console.evtchn),
            (Mfn(console_frame), built.console_port)
        );
        assert_eq!(
            (info.store_mfn, info.store_evtchn),
            (built.store_frame, built.store_port)
        );
        assert_ne!(info.store_evtchn, console.evtchn);
        for frame in [console.mfn.0, info.store_mfn.0] {
            assert!(xen.bytes(frame).iter().all(|byte| *byte == 0));
        }
        assert_eq!(context.user_regs.rip, BASE + 0x40_0000);
        assert_eq!(context.user_regs.rsp, layout.boot_stack.end());
        assert_eq!(context.kernel_sp, layout.boot_stack.end());
    }

    fn check_p2m(xen: &Fake, domid: Domid, info: &StartInfo) {
        let list = xen.peek(domid, info.mfn_list, info.nr_pages as usize * 8);
        let m2p = &xen.domains[&domid.0].m2p;
        for (pfn, entry) in list.chunks_exact(8).enumerate() {
            let mfn = u64::from_le_bytes(entry.try_into().unwrap());
            assert_eq!(m2p[&mfn], pfn as u64);
        }
    }

    #[test]
    fn the_list_of_frames_is_the_inverse_of_the_hypervisors() {
        let Outcome {
            xen, built, info, ..
        } = built(&kernel(), None, 20);
        check_p2m(&xen, built.domid, &info);
        assert_eq!((info.first_p2m_pfn, info.nr_p2m_frames), (0, 0));
    }

    #[test]
    fn a_list_outside_the_boot_region_is_mapped_where_the_kernel_wants_it() {
        let kernel = kernel().note(XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000);
        let Outcome {
            xen,
            built,
            layout,
            info,
            ..
        } = built(&kernel, None, 16);
        assert_eq!(info.mfn_list, 0x80_0000_0000);
        check_p2m(&xen, built.domid, &info);
        assert_eq!(info.first_p2m_pfn, layout.region.pages);
        assert_eq!(info.nr_p2m_frames, 8 + 3);
    }

    #[test]
    fn the_boot_region_maps_the_first_frames_and_page_tables_read_only() {
        let Outcome {
            xen, built, layout, ..
        } = built(&kernel(), None, 16);
        let m2p = &xen.domains[&built.domid.0].m2p;
        for page in 0..layout.region.pages {
            let (mfn, writable) = xen.walk(built.domid, BASE + (page << 12)).unwrap();
            assert_eq!(m2p[&mfn], page);
            assert_eq!(writable, !layout.is_table(Pfn(page)));
        }
        assert_eq!(xen.walk(built.domid, layout.region.end()), None);
    }

    #[test]
    fn a_ramdisk_is_mapped_or_given_by_its_frame_as_the_kernel_likes() {
        let ramdisk: Vec<u8> = (0..5000).map(|n| (n % 241) as u8).collect();
        let first = built(&kernel(), Some(&ramdisk), 16);
        assert_eq!(first.info.flags, 0);
        assert_eq!(first.info.mod_len, 5000);
        assert_eq!(
            first
                .xen
                .peek(first.built.domid, first.info.mod_start, 5000),
            ramdisk
        );

        let kernel = kernel().note(XEN_ELFNOTE_MOD_START_PFN, 1);
        let second = built(&kernel, Some(&ramdisk), 16);
        assert_eq!(second.info.flags, SIF_MOD_START_PFN);
        assert_eq!(second.info.mod_start, second.layout.region.pages);
        let m2p = &second.xen.domains[&second.built.domid.0].m2p;
        let frame = |pfn| *m2p.iter().find(|(_, p)| **p == pfn).unwrap().0;
        let first_page = second.xen.bytes(frame(second.info.mod_start));
        assert_eq!(first_page, ramdisk[..4096]);
        let second_page = second.xen.bytes(frame(second.info.mod_start + 1));
        assert_eq!(second_page[..904], ramdisk[4096..]);
        assert!(second_page[904..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn every_vcpu_begins_with_events_masked() {
        let Outcome { xen, built, .. } = built(&kernel(), None, 16);
        let page = xen.bytes(xen.domains[&built.domid.0].shared_info);
        let info = SharedInfo::read_from_prefix(&page).unwrap().0;
        assert!(
            info.vcpu_info
                .iter()
                .all(|vcpu| vcpu.evtchn_upcall_mask == 1)
        );
    }

    #[test]
    fn a_memory_in_pieces_does_as_well() {
        let mut xen = Fake::new(5000);
        xen.large_chunks = 1;
        let file = kernel().write();
        let image = PvImage::parse(&file).unwrap();
        let sources = Sources {
            kernel: &file,
            image: &image,
            ramdisk: None,
        };
        let built = build(&mut xen, &config(16), &sources).unwrap();
        assert_eq!(xen.domains[&built.domid.0].m2p.len(), 4096);
    }

    #[test]
    fn whichever_call_fails_nothing_is_left() {
        let file = kernel().note(XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000).write();
        let image = PvImage::parse(&file).unwrap();
        let sources = Sources {
            kernel: &file,
            image: &image,
            ramdisk: Some(b"ramdisk"),
        };
        let mut failures = 0;
        for call in 0.. {
            let mut xen = Fake::new(20_000);
            xen.fail_in = Some(call);
            let result = build(&mut xen, &config(16), &sources);
            let failed = xen.fail_in.is_none();
            match result {
                // Chunks that cannot be had are no failure.
                Ok(_) if failed => continue,
                Ok(_) => break,
                Err(error) => {
                    failures += 1;
                    assert!(failed, "{error}");
                    assert_eq!(xen.free.len(), 20_000, "after call {call}: {error}");
                    assert!(xen.domains.is_empty());
                }
            }
        }
        assert!(failures > 12);
    }

    #[test]
    fn memory_that_is_not_there_is_told_with_what_is_free() {
        let mut xen = Fake::new(3001);
        let file = kernel().write();
        let image = PvImage::parse(&file).unwrap();
        let sources = Sources {
            kernel: &file,
            image: &image,
            ramdisk: None,
        };
        assert_eq!(
            build(&mut xen, &config(16), &sources).unwrap_err(),
            Error::NotEnoughMemory {
                needed_kib: 16384,
                free_kib: 12004
            }
        );
        assert!(matches!(
            build(&mut xen, &config(4), &sources).unwrap_err(),
            Error::BadConfig { field, .. } if field == "memory"
        ));
        assert_eq!(xen.free.len(), 3001);
    }
}
