//! Builds the control domain from the boot modules: the first is its kernel, the second, if any, its ramdisk.
//!
//! The start of day follows the comment above `struct start_info` in `xen/xen.h`; [`pv_image`] reads the image
//! and lays memory out.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering;

use hv_machine::{BootModule, LogLevel, MemoryKind, PAGE_SHIFT, PAGE_SIZE, Platform};
use hypercall_abi::arch_x86::{FLAT_KERNEL_CS, FLAT_KERNEL_SS};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn, Pfn};
use hypercall_abi::xen::{
    MAX_GUEST_CMDLINE, SIF_INITDOMAIN, SIF_MOD_START_PFN, SIF_PRIVILEGED, StartInfo,
    VMASST_TYPE_PAE_EXTENDED_CR3,
};
use pv_image::{ImageError, Layout, LayoutError, PaeMode, PvImage, Request, Role};
use zerocopy::{FromZeros, IntoBytes};

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::lifecycle::{self, NewDomain};
use crate::memory::{FrameType, Level, MAX_ORDER, Pte};
use crate::vcpu_context::guest_rflags;
use crate::{event, time};

/// The control domain's number.
const DOM0: Domid = Domid(0);
/// This much of free memory stays with the hypervisor, whatever `dom0_mem=` asks for: a sixteenth, at most 128 MiB.
const RESERVE_SHARE: u64 = 16;
const RESERVE_MOST: u64 = (128 << 20) >> PAGE_SHIFT;
/// Order of the blocks that the hypervisor's own heap grows by while it holds the image: 4 MiB.
const HEAP_GROWTH_ORDER: u32 = 10;
/// Heap that is to be left beside the image.
const HEAP_SPARE: usize = 2 << 20;
/// Frame numbers that I/O memory can have: 46-bit machine addresses.
const IO_FRAME_LIMIT: u64 = 1 << (46 - PAGE_SHIFT);

/// Why there is no control domain.
#[derive(Debug)]
pub enum BuildError {
    /// The boot loader gave no module.
    NoModule,
    /// The first module cannot be run.
    Image(ImageError),
    /// It does not fit.
    Layout(LayoutError),
    /// There is less memory free than asked for: pages wanted, pages free.
    Memory(u64, u64),
    /// The built domain was refused, which is a bug here.
    Refused(Errno),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoModule => f.write_str("the boot loader passed no module for dom0"),
            Self::Image(error) => write!(f, "the dom0 kernel cannot be run: {error}"),
            Self::Layout(error) => write!(f, "dom0 cannot be laid out: {error}"),
            Self::Memory(wanted, free) => {
                write!(
                    f,
                    "dom0 wants {} KiB of memory, {} KiB are free",
                    wanted * 4,
                    free * 4
                )
            }
            Self::Refused(errno) => write!(f, "dom0 was built wrongly: {}", errno.description()),
        }
    }
}

impl From<Errno> for BuildError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// Builds the control domain, ready to run, and frees the boot modules; from then on free memory is scrubbed.
///
/// # Errors
/// See [`BuildError`]; a domain that is half made is left behind, because the machine stops.
pub fn build(hv: &Hypervisor) -> Result<Arc<Domain>, BuildError> {
    let modules = hv.machine.boot_modules();
    let kernel = modules.first().ok_or(BuildError::NoModule)?;
    let file = read_module(hv, kernel);
    let image = PvImage::parse(&file).map_err(BuildError::Image)?;
    image.check_role(Role::Dom0).map_err(BuildError::Image)?;
    hv.log(
        LogLevel::Info,
        format_args!(
            "Dom0 kernel: {} {}, entry {:#x}, virt_base {:#x}",
            image.guest_os, image.guest_version, image.entry, image.virt_base
        ),
    );
    let ramdisk = modules.get(1);
    let free = hv.memory.free_frames();
    let most = free - (free / RESERVE_SHARE).min(RESERVE_MOST);
    let wanted = hv.options.dom0_mem.map(|bytes| bytes >> PAGE_SHIFT);
    let pages = wanted.map_or(most, |wanted| wanted.min(most));
    if let Some(wanted) = wanted.filter(|wanted| *wanted > pages) {
        hv.log(
            LogLevel::Warning,
            format_args!(
                "dom0_mem asks for {} KiB, dom0 gets {} KiB",
                wanted * 4,
                pages * 4
            ),
        );
    }
    let request = Request {
        role: Role::Dom0,
        nr_pages: pages,
        ramdisk: ramdisk.map_or(0, |module| module.len),
    };
    let layout = Layout::plan(&image, &request).map_err(BuildError::Layout)?;

    let new = NewDomain {
        id: DOM0,
        privileged: true,
        handle: [0; 16],
        max_vcpus: hv.options.dom0_max_vcpus,
        max_port: u32::MAX,
        grants: hv.options.grants.limits,
    };
    let domain = lifecycle::create(hv, &new)?;
    domain.owner.set_max_frames(pages);
    lifecycle::create_vcpus(hv, &domain, hv.options.dom0_max_vcpus)?;
    grant_access(hv, &domain)?;

    let p2m = allocate(hv, &domain, pages)?;
    // Only what the kernel is to find empty: the rest is as it was found, and dom0 may map all memory anyway.
    for &mfn in p2m.iter().take(layout.used_pages as usize) {
        hv.machine.zero_frame(mfn);
    }
    let mut memory = Writer { hv, p2m: &p2m };
    load_kernel(&mut memory, &image, &file, &layout);
    if let (Some(module), Some(place)) = (ramdisk, layout.ramdisk) {
        copy_frames(hv, module, &p2m, place.pfn);
    }
    for (index, mfn) in p2m.iter().enumerate() {
        memory.write(layout.p2m.region.pfn, index * 8, &mfn.0.to_le_bytes());
    }
    let start_info = start_info(&domain, &image, &layout, pages, &kernel.command_line);
    memory.write(layout.start_info.pfn, 0, start_info.as_bytes());
    let root = build_tables(hv, &layout, &p2m).ok_or(Errno::EINVAL)?;
    hv.memory.pin(root, DOM0, Level::L4, &mut || false)?;

    let vcpu = domain.vcpu(0).ok_or(Errno::EINVAL)?;
    {
        let mut state = vcpu.state.lock();
        let root = hv
            .memory
            .get_typed(root, DOM0, FrameType::Table(Level::L4))?;
        state.kernel_root = Some(root.into_bits());
        state.kernel_mode = true;
        state.cr4 = crate::cpuid::guest_cr4(hv, &domain, 0);
        state.initialised = true;
        let regs = &mut state.context.regs;
        regs.rip = image.entry;
        regs.rsp = layout.boot_stack.end();
        regs.rsi = layout.start_info.va;
        regs.cs = FLAT_KERNEL_CS;
        regs.ss = FLAT_KERNEL_SS;
        regs.rflags = guest_rflags(0);
    }
    for vcpu in domain.vcpus() {
        event::mask_upcalls(hv, &vcpu);
    }
    time::publish_wall_clock(hv, &domain);
    vcpu.down.store(false, Ordering::Release);
    if image.pae == PaeMode::ExtendedCr3 {
        domain
            .vm_assist
            .fetch_or(1 << VMASST_TYPE_PAE_EXTENDED_CR3, Ordering::Relaxed);
    }
    drop(file);
    hv.memory.distrust_free_frames();
    for module in modules {
        hv.memory
            .free_boot_frames(module.first, module.len.div_ceil(PAGE_SIZE as u64));
    }
    hv.log(
        LogLevel::Info,
        format_args!(
            "Dom0: {} KiB, {} vCPUs, start info {:#x}",
            pages * 4,
            domain.vcpu_count(),
            layout.start_info.va
        ),
    );
    lifecycle::toolstack_unpause(hv, &domain)?;
    Ok(domain)
}

/// Copies a module into the hypervisor's heap, which grows as needed.
fn read_module(hv: &Hypervisor, module: &BootModule) -> Vec<u8> {
    let len = module.len as usize;
    while hv.machine.heap_free() < len.saturating_add(HEAP_SPARE) {
        // One block that holds it all, because the heap does not join its blocks.
        let frames = (len + HEAP_SPARE).div_ceil(PAGE_SIZE);
        let order = frames
            .next_power_of_two()
            .trailing_zeros()
            .clamp(HEAP_GROWTH_ORDER, MAX_ORDER);
        if !hv.memory.donate_to_machine(order) {
            break;
        }
    }
    let mut file = vec![0; len];
    for (index, chunk) in file.chunks_mut(PAGE_SIZE).enumerate() {
        hv.machine
            .read_frame(Mfn(module.first.0 + index as u64), 0, chunk);
    }
    file
}

fn copy_frames(hv: &Hypervisor, module: &BootModule, p2m: &[Mfn], first: Pfn) {
    let count = module.len.div_ceil(PAGE_SIZE as u64) as usize;
    for (index, &to) in p2m.iter().skip(first.0 as usize).take(count).enumerate() {
        hv.machine
            .copy_frame(to, Mfn(module.first.0 + index as u64));
    }
}

/// All the domain's frames by pseudo-physical number, in blocks as large as there are: a domain that does DMA is
/// glad of contiguous memory.
fn allocate(hv: &Hypervisor, domain: &Domain, pages: u64) -> Result<Vec<Mfn>, BuildError> {
    let mut p2m = Vec::with_capacity(pages as usize);
    let mut order = MAX_ORDER;
    while (p2m.len() as u64) < pages {
        let left = pages - p2m.len() as u64;
        order = order.min(left.ilog2());
        match hv.memory.allocate(&domain.owner, order, u64::MAX) {
            Ok(first) => p2m.extend((first.0..first.0 + (1 << order)).map(Mfn)),
            Err(_) if order > 0 => order -= 1,
            Err(_) => {
                return Err(BuildError::Memory(
                    pages,
                    hv.memory.free_frames() + p2m.len() as u64,
                ));
            }
        }
    }
    for (pfn, &mfn) in p2m.iter().enumerate() {
        hv.machine.set_m2p(mfn, pfn as u64);
    }
    Ok(p2m)
}

/// Writes to the domain's pseudo-physical memory.
struct Writer<'a> {
    hv: &'a Hypervisor,
    p2m: &'a [Mfn],
}

impl Writer<'_> {
    /// Writes `data` from `offset` bytes behind the start of frame `first` on.
    fn write(&mut self, first: Pfn, offset: usize, mut data: &[u8]) {
        let mut pfn = first.0 as usize + offset / PAGE_SIZE;
        let mut inside = offset % PAGE_SIZE;
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(PAGE_SIZE - inside));
            if let Some(&mfn) = self.p2m.get(pfn) {
                self.hv.machine.write_frame(mfn, inside, now);
            }
            (data, pfn, inside) = (later, pfn + 1, 0);
        }
    }
}

/// Copies the segments; what they do not fill is zero already.
fn load_kernel(memory: &mut Writer<'_>, image: &PvImage, file: &[u8], layout: &Layout) {
    for segment in &image.segments {
        let Some(data) = file.get(segment.file.clone()) else {
            continue;
        };
        let offset = segment.vaddr.wrapping_sub(layout.region.va) as usize;
        memory.write(layout.region.pfn, offset, data);
    }
    if let Some(va) = image.hypercall_page {
        let offset = va.wrapping_sub(layout.region.va) as usize;
        memory.write(layout.region.pfn, offset, &crate::traps::hypercall_page());
    }
}

fn start_info(
    domain: &Domain,
    image: &PvImage,
    layout: &Layout,
    pages: u64,
    command_line: &str,
) -> StartInfo {
    let mut info = StartInfo::new_zeroed();
    let magic: &[u8] = match image.pae {
        PaeMode::No => b"xen-3.0-x86_64",
        PaeMode::Yes | PaeMode::ExtendedCr3 | PaeMode::Bimodal => b"xen-3.0-x86_64p",
    };
    info.magic[..magic.len()].copy_from_slice(magic);
    info.nr_pages = pages;
    info.shared_info = domain.shared_info.0 << PAGE_SHIFT;
    info.flags = SIF_PRIVILEGED | SIF_INITDOMAIN;
    info.pt_base = layout.page_tables.va;
    info.nr_pt_frames = layout.page_tables.pages;
    info.mfn_list = layout.p2m.region.va;
    if let Some(tables) = layout.p2m.outside {
        info.first_p2m_pfn = layout.p2m.region.pfn.0;
        info.nr_p2m_frames = layout.p2m.region.pages + tables;
    }
    if let Some(ramdisk) = layout.ramdisk {
        info.mod_start = ramdisk.va.unwrap_or(ramdisk.pfn.0);
        info.mod_len = ramdisk.bytes;
        info.flags |= if ramdisk.va.is_none() {
            SIF_MOD_START_PFN
        } else {
            0
        };
    }
    let line = command_line.as_bytes();
    let line = &line[..line.len().min(MAX_GUEST_CMDLINE - 1)];
    info.cmd_line[..line.len()].copy_from_slice(line);
    info
}

/// Writes the boot page tables; gives the root.
fn build_tables(hv: &Hypervisor, layout: &Layout, p2m: &[Mfn]) -> Option<Mfn> {
    let mut root = None;
    for table in layout.tables() {
        let &mfn = p2m.get(table.pfn.0 as usize)?;
        root = root.or(Some(mfn));
        for entry in table.entries() {
            let &target = p2m.get(entry.pfn.0 as usize)?;
            hv.machine.store_u64(
                mfn,
                usize::from(entry.index),
                Pte::new(target, entry.flags).0,
            );
        }
    }
    root
}

/// Lets the control domain have every port, interrupt line and I/O frame that is not the hypervisor's own.
fn grant_access(hv: &Hypervisor, domain: &Domain) -> Result<(), Errno> {
    let mut access = domain.access.lock();
    access.set_ports(0, 0xffff, true)?;
    // Interrupt controllers, interval timer, speaker gate; and the data of PCI configuration space, which goes
    // with an address that every domain has its own of.
    for (first, last) in [
        (0x20, 0x21),
        (0xa0, 0xa1),
        (0x4d0, 0x4d1),
        (0x40, 0x43),
        (0x61, 0x61),
        (0xcfc, 0xcff),
    ] {
        access.set_ports(first, last, false)?;
    }
    for base in hv.options.console_ports() {
        access.set_ports(base, base + 7, false)?;
    }
    access.set_irqs(0, hv.machine.gsi_count().saturating_sub(1), true)?;
    drop(access);

    let owner = &domain.owner;
    owner.set_io_memory(Mfn(0), Mfn(IO_FRAME_LIMIT - 1), true)?;
    for region in hv.machine.memory_map() {
        let first = region.base >> PAGE_SHIFT;
        let end = region
            .base
            .saturating_add(region.size)
            .div_ceil(PAGE_SIZE as u64);
        // Whatever memory the hypervisor itself lives in is RAM; the first megabyte is the firmware's.
        if region.kind == MemoryKind::Ram && end > FIRMWARE_FRAMES {
            owner.set_io_memory(Mfn(first.max(FIRMWARE_FRAMES)), Mfn(end - 1), false)?;
        }
    }
    // Local APICs, I/O APICs.
    owner.set_io_memory(Mfn(0xfee00), Mfn(0xfeeff), false)?;
    owner.set_io_memory(Mfn(0xfec00), Mfn(0xfec0f), false)?;
    Ok(())
}

/// Frames of the first megabyte.
const FIRMWARE_FRAMES: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    use hv_machine::MachineRef;
    use hv_machine::sim::Machine;
    use hypercall_abi::elfnote::{
        XEN_ELFNOTE_INIT_P2M, XEN_ELFNOTE_MOD_START_PFN, XEN_ELFNOTE_VIRT_BASE,
    };
    use pv_image::fixture::Kernel;
    use zerocopy::FromBytes;

    const BASE: u64 = 0xffff_ffff_8000_0000;

    fn hypervisor(command_line: &str, modules: &[(&[u8], &str)]) -> Hypervisor {
        let mut machine = Machine::new(8192);
        machine.set_command_line(command_line);
        for (image, line) in modules {
            machine.add_module(image, line);
        }
        Hypervisor::new(MachineRef::new(machine))
    }

    /// What the built domain reads at an address of its own.
    fn read<const N: usize>(hv: &Hypervisor, va: u64) -> [u8; N] {
        let domain = hv.domain(DOM0).expect("it was built");
        let root = domain
            .vcpu(0)
            .and_then(|vcpu| vcpu.state.lock().kernel_root)
            .expect("a root");
        hv.machine.load_root(root);
        let mut out = [0; N];
        hv.machine.copy_from_guest(va, &mut out).expect("mapped");
        out
    }

    fn start_info_of(hv: &Hypervisor) -> (StartInfo, u64) {
        let domain = hv.domain(DOM0).expect("it was built");
        let va = domain
            .vcpu(0)
            .map(|vcpu| vcpu.state.lock().context.regs.rsi)
            .expect("vCPU 0");
        let bytes: [u8; size_of::<StartInfo>()] = read(hv, va);
        (StartInfo::read_from_bytes(&bytes).expect("its size"), va)
    }

    #[test]
    fn dom0_finds_itself_as_the_start_info_page_says() {
        let code: Vec<u8> = (0..9000_u32).map(|i| i as u8).collect();
        let kernel = Kernel::small(&code, 5000).write();
        let ramdisk = [7_u8; 5000];
        let free = hypervisor("dom0_mem=16M", &[]).memory.free_frames();
        let hv = hypervisor("dom0_mem=16M", &[(&kernel, "one two"), (&ramdisk, "")]);
        let domain = build(&hv).expect("a good kernel");
        assert!(domain.vcpu(0).expect("vCPU 0").is_runnable());
        assert_eq!(domain.owner.frames(), 4096);
        // The modules' frames are free again: only the domain, its shared page and its grant table are gone.
        assert_eq!(hv.memory.free_frames(), free - 4096 - 2);

        let (info, va) = start_info_of(&hv);
        assert!(info.magic.starts_with(b"xen-3.0-x86_64\0"));
        assert_eq!(info.nr_pages, 4096);
        assert_eq!(info.flags, SIF_PRIVILEGED | SIF_INITDOMAIN);
        assert_eq!(info.shared_info, domain.shared_info.0 << 12);
        assert!(info.cmd_line.starts_with(b"one two\0"));
        assert_eq!(info.mod_len, 5000);
        assert_eq!(read::<4>(&hv, info.mod_start + 4996), [7; 4]);
        assert_eq!(read::<3>(&hv, BASE + 0x40_0000), [0, 1, 2]);
        // The hypercall page is in the second page of the kernel.
        assert_eq!(
            read::<3>(&hv, BASE + 0x40_1000),
            crate::traps::hypercall_page()[..3]
        );

        // Each entry of the list names the frame that maps there, and the machine-to-phys table agrees.
        for pfn in [0, 1024, (va - BASE) >> 12, 2047] {
            let mfn = Mfn(u64::from_le_bytes(read(&hv, info.mfn_list + pfn * 8)));
            assert_eq!(hv.machine.m2p(mfn), pfn);
            let root = domain
                .vcpu(0)
                .and_then(|vcpu| vcpu.state.lock().kernel_root)
                .expect("a root");
            assert_eq!(
                hv.memory.translate(root, BASE + (pfn << 12)).map(Pte::mfn),
                Some(mfn)
            );
        }
        let tables = info.pt_base..info.pt_base + info.nr_pt_frames * 4096;
        for table in tables.step_by(4096) {
            assert!(
                hv.machine.copy_to_guest(table, &[0]).is_err(),
                "page tables are read-only"
            );
        }
    }

    #[test]
    fn what_was_in_memory_before_boot_is_nobodys() {
        let kernel = Kernel::small(b"code", 0x4000).write();
        let hv = hypervisor("dom0_mem=16M", &[(&kernel, "")]);
        let module = hv.machine.boot_modules()[0].first.0;
        let frames = (0..hv.machine.frame_limit()).map(Mfn);
        for mfn in frames.filter(|&mfn| hv.memory.is_ram(mfn) && mfn.0.abs_diff(module) > 16) {
            (0..512).for_each(|index| hv.machine.store_u64(mfn, index, 0xdead_beef));
        }
        let domain = build(&hv).expect("a good kernel");
        let (info, _) = start_info_of(&hv);
        assert!(info.cmd_line.iter().all(|&byte| byte == 0));
        // Behind the code there is the empty rest of its segment; behind the page tables, the stack.
        let stack = info.pt_base + info.nr_pt_frames * 4096;
        for empty in [BASE + 0x40_2000, stack] {
            assert!(read::<4096>(&hv, empty).iter().all(|&byte| byte == 0));
        }
        assert_eq!(hv.machine.load_u64(domain.shared_info, 500), 0);

        let owner = hv.memory.create_owner(Domid(1), 1024);
        for order in [0, 9] {
            let first = hv.memory.allocate(&owner, order, u64::MAX).expect("room");
            let last = Mfn(first.0 + (1 << order) - 1);
            assert_eq!(hv.machine.load_u64(first, 0), 0);
            assert_eq!(hv.machine.load_u64(last, 511), 0);
        }
    }

    #[test]
    fn a_list_outside_the_region_and_an_unmapped_ramdisk_are_as_the_notes_ask() {
        const P2M: u64 = 0xffff_c900_0000_0000;
        let kernel = Kernel::small(b"code", 0x3000)
            .note(XEN_ELFNOTE_INIT_P2M, P2M)
            .note(XEN_ELFNOTE_MOD_START_PFN, 1)
            .write();
        let hv = hypervisor("dom0_mem=16M", &[(&kernel, ""), (&[9; 4096], "")]);
        build(&hv).expect("a good kernel");
        let (info, _) = start_info_of(&hv);
        assert_eq!(info.mfn_list, P2M);
        assert_ne!(info.flags & SIF_MOD_START_PFN, 0);
        let mfn = Mfn(u64::from_le_bytes(read(&hv, P2M + info.mod_start * 8)));
        assert_eq!(hv.machine.load_u64(mfn, 0), 0x0909_0909_0909_0909);
        assert!(info.nr_p2m_frames >= 4096 * 8 / 4096);
    }

    #[test]
    fn dom0_gets_what_memory_there_is_if_it_is_to_have_more() {
        let kernel = Kernel::small(b"code", 0x3000).write();
        let frames = |command_line: &str| {
            let hv = hypervisor(command_line, &[(&kernel, "")]);
            let domain = build(&hv).expect("a good kernel");
            assert_eq!(start_info_of(&hv).0.nr_pages, domain.owner.frames());
            domain.owner.frames()
        };
        let all = frames("");
        assert!((6000..8192).contains(&all), "{all}");
        assert_eq!(frames("dom0_mem=1G"), all);
        assert_eq!(frames("dom0_mem=16M"), 4096);
    }

    #[test]
    fn what_is_no_dom0_kernel_is_refused_with_a_reason() {
        let reason = |command_line: &str, modules: &[(&[u8], &str)]| {
            build(&hypervisor(command_line, modules))
                .err()
                .expect("refused")
                .to_string()
        };
        assert!(reason("", &[]).contains("no module"));
        assert!(reason("", &[(b"#!/bin/sh", "")]).contains("ELF"));
        let kernel = Kernel::small(b"code", 0x3000);
        assert!(
            reason("dom0_mem=4M", &[(&kernel.write(), "")]).starts_with("dom0 cannot be laid out")
        );
        let bad = kernel
            .note(XEN_ELFNOTE_VIRT_BASE, 0xffff_8000_0000_0000)
            .write();
        assert!(reason("dom0_mem=16M", &[(&bad, "")]).len() > 10);
    }

    #[test]
    fn dom0_may_map_devices_but_not_the_hypervisors_memory_or_apics() {
        let kernel = Kernel::small(b"code", 0x3000).write();
        let hv = hypervisor("dom0_mem=16M", &[(&kernel, "")]);
        let domain = build(&hv).expect("a good kernel");
        let allowed = |mfn: u64| domain.owner.io_memory_allowed(Mfn(mfn), Mfn(mfn));
        assert!(allowed(0xb8) && allowed(0xf_e000) && allowed(0x1_0000_0000));
        for mfn in [256, 260, 8191, 0xfee00, 0xfec00, IO_FRAME_LIMIT] {
            assert!(!allowed(mfn), "{mfn:#x}");
        }
        let access = domain.access.lock();
        assert!(access.ports_allowed(0x70, 0x71) && access.ports_allowed(0xcf8, 0xcfb));
        for port in [0x20, 0xa1, 0x40, 0x61, 0x3f8, 0xcfc] {
            assert!(!access.ports_allowed(port, port), "{port:#x}");
        }
    }
}
