//! Builds a PV domain: frames, kernel, phys-to-machine list, start info, page tables, first vCPU.
//!
//! The order is that of Xen's own toolstack. All that is written into the guest is written through
//! mappings of its frames, which are gone before its page tables become page tables: a frame that
//! is mapped writable cannot be one.

mod memory;

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
use hypercall_abi::types::{Domid, Mfn, Pfn, Port};
use hypercall_abi::xen::{SharedInfo, VcpuInfo};
use memory::{GuestMemory, Links};
use pv_image::{Layout, LayoutError, PvImage, Request, Role};
use split_drivers::SharedMemory;

use crate::scheduling;
use crate::xen::{Context, NewDomain, Xen};

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

/// A domain's end of a ring that it shares with this domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The frame of the page.
    pub frame: Mfn,
    /// The domain's port, which waits for ours.
    pub port: Port,
}

/// A domain that is ready to run. It is paused.
#[derive(Debug)]
pub struct Built<M> {
    /// Its id.
    pub domid: Domid,
    /// Its console's ring.
    pub console: Ring,
    /// The page of that, mapped.
    pub console_page: M,
    /// Its ring to the store.
    pub store: Ring,
}

/// What a domain may have beyond its memory, as xl allows it: room for a page more here and there.
pub const SLACK_KIB: u64 = 1024;
/// 2 MiB, the size of chunks that memory is asked for in.
const CHUNK_ORDER: u32 = 9;
const CHUNK: usize = 1 << CHUNK_ORDER;
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
        max_port: config.max_event_channels,
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
    scheduling::apply(xen, domid, &config.scheduling)?;
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
        store: ring(&p2m, layout.xenstore, store_port)?,
        console: ring(&p2m, layout.console, console_port)?,
    };
    let mut memory = GuestMemory::new(&mut *xen, domid, &p2m, layout.used_pages);
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
    let console_page = xen
        .map(domid, &[links.console.frame])
        .context("map the console page")?;
    Ok(Built {
        domid,
        console: links.console,
        console_page,
        store: links.store,
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

fn ring(p2m: &[u64], region: Option<pv_image::Region>, port: Port) -> Result<Ring, Error> {
    let region = region.ok_or(Errno::EINVAL).context("lay out the rings")?;
    let frame = machine(p2m, region.pfn)?;
    Ok(Ring { frame, port })
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
mod tests;
