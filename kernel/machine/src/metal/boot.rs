//! From the first Rust instruction to a running machine: memory map, own page tables, this CPU's window, heap,
//! interrupt controllers, clocks.
//!
//! It runs in two halves: on the boot stack and the boot page tables, and then on those that it has made.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::{asm, global_asm};

use hypercall_abi::types::Mfn;

use super::acpi;
use super::apic::Apic;
use super::fpu::Fpu;
use super::frames::{Frames, direct, raw_copy, raw_zero};
use super::interrupts::Interrupts;
use super::ioapic::{self, IoApics};
use super::memory::{FreeMemory, sanitize};
use super::multiboot::{self, BootInfo};
use super::options::Options;
use super::paging::{Builder, Flags, Purpose};
use super::processor::{self, Features};
use super::secondary::{self, MAX_CPUS, Roots};
use super::{
    Machine, MachineToPhys, cpu, device, efi, gdt, heap, idt, layout, log, power, rtc, tlb, tsc,
    uart,
};
use crate::{BootModule, MemoryKind, MemoryRegion, PAGE_SIZE, TscInfo};

global_asm!(include_str!("boot.s"), options(att_syntax));

unsafe extern "C" {
    static boot_l4: u8;
}

const PAGE: u64 = PAGE_SIZE as u64;
const LARGE_PAGE: u64 = 2 << 20;
/// What the boot page tables map.
const BOOT_LIMIT: u64 = 1 << 32;
/// Memory that nobody else gets: real-mode tables, the BIOS's data, frame buffers, option ROMs.
const LOW_MEMORY: u64 = 1 << 20;
/// Heap for what the core keeps per frame of memory.
const HEAP_PER_FRAME: u64 = 64;
/// Heap for everything else, until the core adds more.
const HEAP_BASE: u64 = 8 << 20;

/// What the first half hands to the second.
struct Prepared {
    command_line: String,
    options: Options,
    rsdp: Option<u64>,
    rsdp_copy: Option<Vec<u8>>,
    modules: Vec<BootModule>,
    memory_map: Vec<MemoryRegion>,
    frame_limit: u64,
    free: FreeMemory,
    features: Features,
    flags: Flags,
    root: u64,
    slots: [u64; crate::HYPERVISOR_SLOTS],
    zero_page: u64,
    machine_to_phys: MachineToPhys,
    tsc_at_boot: u64,
    /// Machine address of the image.
    image: u64,
}

/// Physical memory through the boot tables' direct map.
struct BootMemory;

impl multiboot::Memory for BootMemory {
    fn bytes(&self, address: u64, len: u64) -> Option<&[u8]> {
        let end = address.checked_add(len)?;
        if end > BOOT_LIMIT {
            return None;
        }
        // SAFETY: the boot tables map all of it, and nothing writes it while the slice lives: the loader is done,
        // and the heap is in the image.
        Some(unsafe { core::slice::from_raw_parts(direct(address), len as usize) })
    }
}

/// Where boot.s calls Rust.
///
/// # Safety
/// To be called by boot.s, once.
#[unsafe(no_mangle)]
unsafe extern "C" fn boot_rust(magic: u32, info: u32, image: u64) -> ! {
    let tsc_at_boot = processor::tsc();
    // SAFETY: this is the one call.
    unsafe { heap::begin() };
    let boot = multiboot::read(magic, info.into(), &BootMemory).unwrap_or_default();
    let options = Options::parse(&boot.command_line);
    power::set_no_reboot(options.no_reboot);
    if let Some(serial) = &options.serial {
        uart::configure(serial);
    }
    assert!(
        !boot.memory.is_empty(),
        "the boot loader gave no memory map"
    );

    let features = Features::detect();
    // SAFETY: the boot tables are in place.
    unsafe { features.enable() };
    if features.smap {
        // SAFETY: the boot tables map the text writable, and no other CPU runs it.
        unsafe { patch_for_smap() };
    }
    let prepared = Box::new(prepare(boot, options, features, image, tsc_at_boot));
    let prepared = Box::into_raw(prepared);

    // SAFETY: the new tables map the image where it runs, the direct map with the heap, and the window with the
    // stack. The old stack is left for good.
    unsafe {
        processor::set_root((*prepared).root);
        processor::flush_tlb(features.invpcid);
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "push rbp",
            "jmp {finish}",
            stack = in(reg) cpu::stack_top(0),
            finish = sym finish,
            in("rdi") prepared,
            options(noreturn),
        );
    }
}

/// Writes `stac` and `clac` where entry.s left room for them.
///
/// # Safety
/// The text is writable and no other CPU runs it.
unsafe fn patch_for_smap() {
    unsafe extern "C" {
        static smap_patch_start: [u64; 2];
        static smap_patch_end: [u64; 2];
    }
    let start = &raw const smap_patch_start;
    let end = &raw const smap_patch_end;
    // SAFETY: the linker script puts the table, and nothing else, between the two; each address is that of three
    // bytes of a `nop`.
    unsafe {
        for [address, code] in core::slice::from_raw_parts(start, end.offset_from_unsigned(start)) {
            let target = core::ptr::with_exposed_provenance_mut::<u8>(*address as usize);
            let code = code.to_le_bytes();
            core::ptr::copy_nonoverlapping(code.as_ptr(), target, 3);
        }
    }
}

fn prepare(
    boot: BootInfo,
    options: Options,
    features: Features,
    image: u64,
    tsc_at_boot: u64,
) -> Prepared {
    let memory_map = sanitize(&boot.memory);
    log!("Memory map:");
    for region in &memory_map {
        log!(
            "  {:#018x}-{:#018x} {:?}",
            region.base,
            region.base + region.size,
            region.kind
        );
    }
    let reach = (1 << features.physical_bits.min(52)).min(layout::DIRECT_MAP_SIZE);
    let frame_limit = memory_map
        .iter()
        .filter(|r| r.kind == MemoryKind::Ram)
        .map(|r| (r.base + r.size).min(reach) / PAGE)
        .max()
        .unwrap_or(0);

    let mut free = FreeMemory::new(&memory_map, frame_limit * PAGE);
    let image_size = layout::image().data.1 - layout::IMAGE;
    free.exclude(0, LOW_MEMORY);
    free.reserve(image, image + image_size);
    for module in &boot.modules {
        free.exclude(module.start, module.end);
    }
    let modules = boot
        .modules
        .into_iter()
        .map(|module| place(module, &mut free))
        .collect();

    let machine_to_phys = MachineToPhys::new(&memory_map, frame_limit, &mut free);
    let flags = Flags::new(&features);
    let zero_page = free
        .take(PAGE, PAGE, BOOT_LIMIT)
        .expect("no memory for a page of zeros");
    // SAFETY: the frame was free, and the boot tables' direct map reaches it.
    unsafe { raw_zero(direct(zero_page), PAGE_SIZE) };

    let mut tables = Builder::new(&features, &mut free);
    tables.map_ram(&memory_map);
    tables.map_image(image);
    device::build(&mut tables, flags);
    cpu::build(&mut tables, 0, image, zero_page);
    for (i, &chunk) in (0..).zip(machine_to_phys.chunks()) {
        if let Some(chunk) = chunk {
            tables.map(
                layout::M2P + i * LARGE_PAGE,
                chunk,
                LARGE_PAGE,
                Purpose::GuestReadable,
            );
        }
    }
    let (root, slots) = (tables.root(), tables.slots());
    Prepared {
        command_line: boot.command_line,
        options,
        rsdp: boot
            .efi_system_table
            .and_then(|table| efi::find_rsdp(table, &BootMemory)),
        rsdp_copy: boot.rsdp,
        modules,
        memory_map,
        frame_limit,
        free,
        features,
        flags,
        root,
        slots,
        zero_page,
        machine_to_phys,
        tsc_at_boot,
        image,
    }
}

/// Sees to it that a module is in whole frames of its own, and not in low memory.
fn place(module: multiboot::Module, free: &mut FreeMemory) -> BootModule {
    let len = module.end.saturating_sub(module.start);
    let size = len.next_multiple_of(PAGE);
    let mut start = module.start;
    if !start.is_multiple_of(PAGE) || start < LOW_MEMORY {
        start = free
            .take_for_others(size, PAGE, BOOT_LIMIT)
            .expect("no memory for a module");
        // SAFETY: the new frames were free, the module is the loader's, and the boot tables map both.
        unsafe { raw_copy(direct(start), direct(module.start), len as usize) };
    }
    // SAFETY: the rest of the last frame is nobody else's: what the loader left there has been read.
    unsafe { core::ptr::write_bytes(direct(start + len), 0, (size - len) as usize) };
    BootModule {
        first: Mfn(start / PAGE),
        len,
        command_line: module.command_line,
    }
}

/// The second half, on this CPU's own stack and the final page tables.
unsafe extern "C" fn finish(prepared: *mut Prepared) -> ! {
    // SAFETY: `boot_rust` made it of a box and gave it up.
    let prepared = *unsafe { Box::from_raw(prepared) };
    let Prepared {
        features,
        mut free,
        frame_limit,
        ..
    } = prepared;

    let block = cpu::this();
    // SAFETY: this is the one call on this CPU, whose window is mapped.
    unsafe {
        gdt::load(block);
        idt::fill();
        idt::load(block, &features);
    }

    // SAFETY: nothing changes them for worse.
    unsafe { tlb::set_idle_root(prepared.root) };

    let wanted = (frame_limit * HEAP_PER_FRAME + HEAP_BASE).next_multiple_of(LARGE_PAGE);
    let heap = free
        .take(wanted, PAGE, u64::MAX)
        .expect("no memory for the heap");
    // SAFETY: the frames were free, and the direct map has them.
    unsafe { heap::claim(direct(heap), wanted as usize) };
    let fpu = Fpu::new(&features);
    let firmware = acpi::read(prepared.rsdp, prepared.rsdp_copy.as_deref());
    let max_cpus = prepared.options.max_cpus.clamp(1, MAX_CPUS);
    let mut tables = Builder::resume(&features, &mut free, prepared.root);
    for cpu in 1..firmware.cpus.len().min(max_cpus) {
        cpu::build(&mut tables, cpu as u32, prepared.image, prepared.zero_page);
    }
    let frames = Frames::new(&prepared.memory_map, frame_limit, free.taken());
    if let Some(rsdp) = firmware.rsdp {
        log!("ACPI root pointer at {rsdp:#x}");
    }
    power::set_reset(firmware.reset);
    ioapic::silence_pics();
    let apic = Apic::new(&features, firmware.local_apic);
    apic.enable();
    let io_apics = IoApics::new(&firmware.io_apics);
    let rates = tsc::measure(&firmware, &apic);
    let first = apic.id();
    let others = firmware.cpus.iter().copied().filter(|&id| id != first);
    let others: Vec<u32> = others.take(max_cpus - 1).collect();
    let roots = Roots {
        boot: prepared.image + ((&raw const boot_l4).addr() as u64 - layout::IMAGE),
        hypervisor: prepared.root,
    };
    let present = secondary::wake(
        &apic,
        &features,
        &rates,
        &roots,
        &others,
        &prepared.memory_map,
    );
    log!(
        "{} of {} CPUs, {} GSIs, {}",
        present.apic_ids.len(),
        firmware.cpus.len(),
        io_apics.gsi_count(),
        if apic.is_x2apic() { "x2APIC" } else { "xAPIC" }
    );
    log!(
        "TSC {} Hz, APIC timer {} kHz, by the {}",
        rates.tsc_hz,
        rates.apic_hz / 1000,
        rates.reference
    );
    let wall_clock = rtc::read(firmware.century).unix_seconds();
    let since_boot = (processor::tsc() - prepared.tsc_at_boot) / rates.tsc_hz;
    log!(
        "{} KiB of heap, wall clock {wall_clock}",
        heap::free() / 1024
    );

    let interrupts = Interrupts::new(apic, present.apic_ids, io_apics, firmware.overrides, rates);
    if let Some(serial) = &prepared.options.serial
        && serial.irq != 0
    {
        interrupts.route_console(serial.irq);
        uart::enable_interrupt();
    }
    let machine = Box::leak(Box::new(Machine {
        memory_map: prepared.memory_map,
        command_line: prepared.command_line,
        modules: prepared.modules,
        frames,
        machine_to_phys: prepared.machine_to_phys,
        flags: prepared.flags,
        features,
        slots: prepared.slots,
        zero_page: prepared.zero_page,
        fpu,
        interrupts,
        tsc: TscInfo {
            hz: rates.tsc_hz,
            synchronised: present.tsc_synchronised,
            at_boot: prepared.tsc_at_boot,
        },
        boot_wall_clock: wall_clock - since_boot,
        rsdp: firmware.rsdp,
        sleep_ports: firmware.sleep_ports,
    }));
    secondary::set_machine(machine);
    unsafe extern "Rust" {
        fn xenolith_main(machine: &'static Machine) -> !;
    }
    // SAFETY: `entry!` in the image defines it with this type.
    unsafe { xenolith_main(machine) }
}
