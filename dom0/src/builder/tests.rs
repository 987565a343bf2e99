//! What is built, against a model of the hypervisor.

use super::*;
use crate::fake::Fake;
use control::scheduling::CpuSet;
use control::{Image, ImageHash, OnEvent, Uuid};
use hypercall_abi::elfnote::{XEN_ELFNOTE_INIT_P2M, XEN_ELFNOTE_MOD_START_PFN};
use hypercall_abi::xen::{SIF_MOD_START_PFN, StartInfo, StartInfoConsoleDomU};
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
        max_event_channels: 4095,
        kernel: Image {
            hash: ImageHash([0; 32]),
            size: 0,
            path: "/boot/guest".into(),
        },
        ramdisk: None,
        cmdline: "console=hvc0 quiet".into(),
        scheduling: Default::default(),
        disks: Vec::new(),
        vifs: Vec::new(),
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
    assert_eq!(domain.max_port, 4095);
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
        (Mfn(console_frame), built.console.port)
    );
    assert_eq!(
        (info.store_mfn, info.store_evtchn),
        (built.store.frame, built.store.port)
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
fn vcpus_are_scheduled_as_the_configuration_says() {
    let file = kernel().write();
    let image = PvImage::parse(&file).unwrap();
    let sources = Sources {
        kernel: &file,
        image: &image,
        ramdisk: None,
    };
    let mut xen = Fake::new(20_000);
    let mut config = config(16);
    config.scheduling.weight = Some(512);
    config.scheduling.hard = vec![CpuSet::of([1, 9])];
    config.scheduling.soft = vec![CpuSet::of([0])];
    let built = build(&mut xen, &config, &sources).unwrap();
    let share = xen.shares[&built.domid];
    assert_eq!((share.weight, share.cap), (512, 0));
    let affinity = (CpuSet::of([1]), CpuSet::of([0]));
    assert_eq!(xen.affinities[&(built.domid, 0)], affinity);
    config.scheduling.hard = vec![CpuSet::of([9])];
    let error = build(&mut xen, &config, &sources).unwrap_err();
    assert!(matches!(error, Error::BadConfig { field, .. } if field == "cpus"));
    assert_eq!(xen.domains.len(), 1);
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
