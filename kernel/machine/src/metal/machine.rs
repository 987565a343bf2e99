//! [`Machine`]: the metal behind [`Platform`].

use alloc::string::String;
use alloc::vec::Vec;
use core::arch::asm;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;

use hypercall_abi::types::Mfn;
use zerocopy::{FromBytes, IntoBytes};

use super::fpu::Fpu;
use super::frames::{Frames, direct, raw_copy, raw_zero};
use super::interrupts::Interrupts;
use super::lock::Lock;
use super::paging::{self, Flags};
use super::processor::{self, Features, port};
use super::trap::{self, Left, PAGE_FAULT};
use super::{MachineToPhys, cpu, gdt, guest_copy, heap, power, secondary, segments, tlb, uart};
use crate::{
    BootModule, Exit, Fault, FpuState, GUEST_GDT_FRAMES, GeneralProtection, Guest,
    HYPERVISOR_SLOTS, IoWidth, Irq, MemoryKind, MemoryRegion, PAGE_SHIFT, PAGE_SIZE, Place,
    Platform, Polarity, SegmentBase, Segments, SelectorFault, TABLE_ENTRIES, TriggerMode, TscInfo,
    is_guest_range,
};

/// The machine.
#[derive(Debug)]
pub struct Machine {
    pub(super) memory_map: Vec<MemoryRegion>,
    pub(super) command_line: String,
    pub(super) modules: Vec<BootModule>,
    pub(super) frames: Frames,
    pub(super) machine_to_phys: MachineToPhys,
    pub(super) flags: Flags,
    pub(super) features: Features,
    pub(super) slots: [u64; HYPERVISOR_SLOTS],
    /// Stands in for missing frames of a guest's GDT.
    pub(super) zero_page: u64,
    pub(super) fpu: Fpu,
    pub(super) interrupts: Interrupts,
    pub(super) tsc: TscInfo,
    pub(super) boot_wall_clock: u64,
    pub(super) rsdp: Option<u64>,
    pub(super) sleep_ports: [Option<u16>; 2],
}

/// What was logged before the core keeps a log.
static BOOT_LOG: Lock<String> = Lock::new(String::new());

/// Prints a line on the console and keeps it for [`Platform::boot_log`].
pub(super) fn log_line(line: fmt::Arguments) {
    let mut log = BOOT_LOG.lock();
    let start = log.len();
    let _ = writeln!(log, "(XEN) {line}");
    if let Some(line) = log.get(start..) {
        uart::write(line.as_bytes());
    }
}

impl Machine {
    fn take_nmi(&self) -> bool {
        cpu::this().nmi_pending.take()
    }

    /// A guest left for none of the most frequent reasons, or was not entered because of a non-maskable interrupt.
    #[inline(never)]
    fn left_otherwise<G: Guest>(&self, guest: G, code: Option<trap::Code>) {
        let left = match code {
            Some(code) => trap::left(cpu::this(), code),
            None => {
                self.take_nmi();
                Left::Nmi
            }
        };
        guest.left(match left {
            Left::Exit(exit) => exit,
            Left::Interrupt(vector) => Exit::Interrupt(self.interrupts.take(vector)),
            Left::Nmi => Exit::Interrupt(Irq::Nmi),
        });
    }
}

impl Platform for Machine {
    fn memory_map(&self) -> &[MemoryRegion] {
        &self.memory_map
    }

    #[inline]
    fn frame_limit(&self) -> u64 {
        self.frames.limit()
    }

    #[inline]
    fn is_private(&self, mfn: Mfn) -> bool {
        const LOW_FRAMES: u64 = (1 << 20) >> PAGE_SHIFT;
        let Some(address) = mfn
            .0
            .checked_shl(PAGE_SHIFT)
            .filter(|a| a >> PAGE_SHIFT == mfn.0)
        else {
            return false;
        };
        let is_ram = || {
            self.memory_map
                .iter()
                .any(|r| r.kind == MemoryKind::Ram && (r.base..r.base + r.size).contains(&address))
        };
        mfn.0 < LOW_FRAMES || self.frames.is_closed(mfn) && is_ram()
    }

    fn command_line(&self) -> &str {
        &self.command_line
    }

    fn boot_modules(&self) -> &[BootModule] {
        &self.modules
    }

    fn donate_to_heap(&self, first: Mfn, order: u32) {
        let count = 1_u64 << order;
        self.frames.close(first, count);
        // SAFETY: the frames were untyped and not in use, says the caller; closed, no accessor reaches them.
        unsafe {
            heap::claim(
                direct(first.0 << PAGE_SHIFT),
                (count as usize) << PAGE_SHIFT,
            )
        };
    }

    fn heap_free(&self) -> usize {
        heap::free()
    }

    #[inline]
    fn load_u64(&self, mfn: Mfn, index: usize) -> u64 {
        self.frames.entry(mfn, index).load(Ordering::Acquire)
    }

    #[inline]
    fn peek_u64(&self, mfn: Mfn, index: usize) -> Option<u64> {
        self.frames.peek(mfn, index)
    }

    #[inline]
    fn store_u64(&self, mfn: Mfn, index: usize, value: u64) {
        self.frames
            .entry(mfn, index)
            .store(value, Ordering::Release);
    }

    #[inline]
    fn compare_exchange_u64(&self, mfn: Mfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        let entry = self.frames.entry(mfn, index);
        entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }

    #[inline]
    fn fetch_or_u64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        self.frames
            .entry(mfn, index)
            .fetch_or(bits, Ordering::AcqRel)
    }

    #[inline]
    fn fetch_and_u64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        self.frames
            .entry(mfn, index)
            .fetch_and(bits, Ordering::AcqRel)
    }

    #[inline]
    fn load_u32(&self, mfn: Mfn, index: usize) -> u32 {
        self.frames.half(mfn, index).load(Ordering::Acquire)
    }

    #[inline]
    fn store_u32(&self, mfn: Mfn, index: usize, value: u32) {
        self.frames.half(mfn, index).store(value, Ordering::Release);
    }

    #[inline]
    fn compare_exchange_u32(&self, mfn: Mfn, index: usize, old: u32, new: u32) -> Result<u32, u32> {
        let half = self.frames.half(mfn, index);
        half.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
    }

    #[inline]
    fn fetch_or_u32(&self, mfn: Mfn, index: usize, bits: u32) -> u32 {
        self.frames
            .half(mfn, index)
            .fetch_or(bits, Ordering::AcqRel)
    }

    #[inline]
    fn fetch_and_u32(&self, mfn: Mfn, index: usize, bits: u32) -> u32 {
        self.frames
            .half(mfn, index)
            .fetch_and(bits, Ordering::AcqRel)
    }

    #[inline]
    fn load_at(&self, place: &Place, index: usize) -> u64 {
        self.frames.word(place, index).load(Ordering::Acquire)
    }

    #[inline]
    fn store_at(&self, place: &Place, index: usize, value: u64) {
        let word = self.frames.word(place, index);
        word.store(value, Ordering::Release);
    }

    #[inline]
    fn set_at(&self, place: &Place, index: usize, bits: u64) {
        let word = self.frames.word(place, index);
        word.fetch_or(bits, Ordering::AcqRel);
    }

    #[inline]
    fn keep_at(&self, place: &Place, index: usize, bits: u64) {
        let word = self.frames.word(place, index);
        word.fetch_and(bits, Ordering::AcqRel);
    }

    #[inline]
    fn read_frame(&self, mfn: Mfn, offset: usize, out: &mut [u8]) {
        let from = self.frames.range(mfn, offset, out.len());
        // SAFETY: `range` has checked the frame and the range; `out` is Rust's and so not in an untyped frame.
        unsafe { raw_copy(out.as_mut_ptr(), from, out.len()) };
    }

    #[inline]
    fn write_frame(&self, mfn: Mfn, offset: usize, data: &[u8]) {
        let to = self.frames.range(mfn, offset, data.len());
        // SAFETY: as in `read_frame`.
        unsafe { raw_copy(to, data.as_ptr(), data.len()) };
    }

    #[inline]
    fn zero_frame(&self, mfn: Mfn) {
        // SAFETY: `address` has checked the frame.
        unsafe { raw_zero(self.frames.address(mfn), PAGE_SIZE) };
    }

    #[inline]
    fn copy_frame(&self, to: Mfn, from: Mfn) {
        if to == from {
            return;
        }
        // SAFETY: `address` has checked both frames, and they differ.
        unsafe {
            raw_copy(
                self.frames.address(to),
                self.frames.address(from),
                PAGE_SIZE,
            )
        };
    }

    #[inline]
    fn copy_bytes(&self, to: (Mfn, usize), from: (Mfn, usize), len: usize) {
        let to = self.frames.range(to.0, to.1, len);
        let from = self.frames.range(from.0, from.1, len);
        // SAFETY: `range` has checked frames and ranges; what is there is no Rust value.
        unsafe { raw_copy(to, from, len) };
    }

    #[inline]
    fn set_m2p(&self, mfn: Mfn, pfn: u64) {
        self.machine_to_phys.set(mfn, pfn);
    }

    #[inline]
    fn m2p(&self, mfn: Mfn) -> u64 {
        self.machine_to_phys.get(mfn)
    }

    fn m2p_extents(&self) -> Vec<Mfn> {
        self.machine_to_phys.extents()
    }

    fn hypervisor_slots(&self) -> [u64; HYPERVISOR_SLOTS] {
        self.slots
    }

    #[inline]
    fn load_root(&self, root: Mfn) {
        // SAFETY: the caller vouches for the hypervisor's slots; what is in the others, ring 0 never uses but in
        // the guest copies, which check addresses and survive faults.
        unsafe { tlb::load(root.0 << PAGE_SHIFT) };
    }

    fn load_root_without(&self, root: Mfn, va: u64) {
        let copies = cpu::this().table_copies;
        let mut table = root;
        for (level, (i, &copy)) in [4, 3, 2].into_iter().zip(copies.iter().enumerate()) {
            let index = (va >> (3 + 9 * level)) as usize & (TABLE_ENTRIES - 1);
            // SAFETY: `address` has checked the guest's table; the copy is a frame of this CPU's own, which the
            // processor uses only while it is loaded here, and the index is inside it. What the copies reach beside
            // the empty entry, the guest's own tables reach.
            unsafe {
                raw_copy(direct(copy), self.frames.address(table), PAGE_SIZE);
                let entry = direct(copy).cast::<u64>().add(index);
                let was = entry.read();
                table = Mfn((was & paging::ADDRESS) >> PAGE_SHIFT);
                entry.write(
                    copies
                        .get(i + 1)
                        .map_or(0, |next| was & !paging::ADDRESS | next),
                );
            }
        }
        // SAFETY: as in `load_root`.
        unsafe { tlb::load(copies[0]) };
    }

    #[inline]
    fn current_root(&self) -> Mfn {
        Mfn((processor::root() & paging::ADDRESS) >> PAGE_SHIFT)
    }

    fn load_idle_root(&self) {
        tlb::load_idle();
    }

    #[inline]
    fn flush_tlb(&self) {
        tlb::flush();
    }

    #[inline]
    fn flush_tlb_page(&self, va: u64) {
        processor::flush_tlb_page(va);
    }

    fn flush_tlb_on(&self, cpus: u64) {
        tlb::flush_on(cpus, |cpu| self.interrupts.send_ipi(cpu));
    }

    #[inline]
    fn leave_root(&self) {
        cpu::this().root_left.set(true);
    }

    #[inline]
    fn flush_time(&self) -> u64 {
        tlb::clock().now()
    }

    fn unflushed_since(&self, time: u64) -> u64 {
        tlb::clock().unflushed_since(time, self.cpu_count())
    }

    #[inline]
    fn copy_from_guest(&self, va: u64, out: &mut [u8]) -> Result<(), Fault> {
        if !is_guest_range(va, out.len() as u64) {
            return Err(Fault);
        }
        // SAFETY: the source is outside the hypervisor's range, and `out` is writable.
        let good = unsafe { guest_copy::read(out.as_mut_ptr(), va, out.len()) };
        if good { Ok(()) } else { Err(Fault) }
    }

    #[inline]
    fn read_from_guest<T: FromBytes + IntoBytes>(&self, va: u64) -> Result<T, Fault> {
        let len = size_of::<T>();
        if !is_guest_range(va, len as u64) {
            return Err(Fault);
        }
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: as in `copy_from_guest`; there is room for a value.
        if unsafe { guest_copy::read(value.as_mut_ptr().cast(), va, len) } {
            // SAFETY: all bytes are copied, and any are a `T`.
            Ok(unsafe { value.assume_init() })
        } else {
            Err(Fault)
        }
    }

    #[inline]
    fn copy_to_guest(&self, va: u64, data: &[u8]) -> Result<(), Fault> {
        if !is_guest_range(va, data.len() as u64) {
            return Err(Fault);
        }
        // SAFETY: the target is outside the hypervisor's range, so nothing of Rust's changes.
        let good = unsafe { guest_copy::write(va, data.as_ptr(), data.len()) };
        if good { Ok(()) } else { Err(Fault) }
    }

    #[inline(always)]
    fn enter_guest<G: Guest>(&self, mut guest: G) {
        let block = cpu::this();
        if block.nmi_pending.get() {
            return self.left_otherwise(guest, None);
        }
        let code = trap::run(block, guest.context());
        if code.is_syscall() {
            guest.left(Exit::Syscall);
        } else if let Some((error_code, fault_address)) = code.page_fault(block) {
            guest.left(Exit::Exception {
                vector: PAGE_FAULT,
                error_code,
                fault_address,
            });
        } else {
            self.left_otherwise(guest, Some(code));
        }
    }

    fn idle(&self) -> Irq {
        let woken_by = trap::idle();
        match woken_by {
            Some(vector) => self.interrupts.take(vector),
            None if self.take_nmi() => Irq::Nmi,
            None => Irq::Spurious,
        }
    }

    fn poll_until(&self, done: impl Fn() -> bool) -> Option<Irq> {
        match trap::poll_until(done) {
            Some(vector) => Some(self.interrupts.take(vector)),
            None => self.take_nmi().then_some(Irq::Nmi),
        }
    }

    fn load_segments(&self, segments: &Segments) -> Result<(), SelectorFault> {
        segments::load(&self.features, segments)
    }

    fn store_segments(&self) -> Segments {
        segments::store(&self.features)
    }

    #[inline]
    fn set_segment_base(&self, which: SegmentBase, base: u64) {
        segments::set_base(&self.features, which, base);
    }

    fn load_user_gs(&self, selector: u16) -> Result<(), SelectorFault> {
        segments::load_user_gs(selector)
    }

    #[inline]
    fn swap_gs(&self) {
        segments::swap_gs();
    }

    fn load_gdt(&self, frames: &[Mfn]) {
        assert!(
            frames.len() <= GUEST_GDT_FRAMES,
            "a GDT of {} frames",
            frames.len()
        );
        let block = cpu::this();
        let mapped = block.gdt_frames.replace(frames.len());
        for i in 0..mapped.max(frames.len()) {
            let entry = match frames.get(i) {
                Some(&mfn) => {
                    assert!(!self.frames.is_closed(mfn), "frame {mfn} in a GDT");
                    cpu::window_entry(&self.flags, mfn.0 << PAGE_SHIFT, true)
                }
                None => cpu::window_entry(&self.flags, self.zero_page, false),
            };
            let offset = cpu::GDT + (i * PAGE_SIZE) as u64;
            block.set_window_page(offset, entry);
            processor::flush_tlb_page(cpu::address(block.id, offset));
        }
    }

    fn load_ldt(&self, entries: u32) {
        let block = cpu::this();
        let mut pages = block.ldt_pages.take();
        while pages != 0 {
            let offset = cpu::LDT + u64::from(pages.trailing_zeros()) * PAGE_SIZE as u64;
            block.set_window_page(offset, 0);
            processor::flush_tlb_page(cpu::address(block.id, offset));
            pages &= pages - 1;
        }
        gdt::load_ldt(block, entries);
    }

    fn map_ldt_page(&self, index: usize, mfn: Mfn) {
        assert!(index < 16, "page {index} of an LDT");
        assert!(!self.frames.is_closed(mfn), "frame {mfn} in an LDT");
        let block = cpu::this();
        block.ldt_pages.set(block.ldt_pages.get() | 1 << index);
        let offset = cpu::LDT + (index * PAGE_SIZE) as u64;
        block.set_window_page(
            offset,
            cpu::window_entry(&self.flags, mfn.0 << PAGE_SHIFT, true),
        );
        processor::flush_tlb_page(cpu::address(block.id, offset));
    }

    fn save_fpu(&self, state: &mut FpuState) {
        self.fpu.save(state);
    }

    fn load_fpu(&self, state: &FpuState) {
        self.fpu.load(state);
    }

    fn set_extended_control(&self, xcr0: u64) {
        self.fpu.set_enabled(xcr0);
    }

    #[inline]
    fn set_control_bits(&self, cr4: u64) {
        processor::set_control_bits(cr4);
    }

    #[inline]
    fn set_task_switched(&self, on: bool) {
        processor::set_task_switched(on);
    }

    fn load_debug_registers(&self, dr: &[u64; 8]) {
        let block = cpu::this();
        let was_on = block.debug_control.replace(dr[7]) & 0xff != 0;
        if !was_on && dr[7] & 0xff == 0 && dr[..4].iter().all(|&address| address == 0) {
            // Nothing is armed and nothing will be; the status alone changes.
            // SAFETY: the caller has checked the value.
            unsafe { asm!("mov dr6, {}", in(reg) dr[6], options(nostack, preserves_flags)) };
            return;
        }
        // SAFETY: the caller has checked the values: no address is the hypervisor's.
        unsafe {
            asm!(
                "mov dr7, {off}",
                "mov dr0, {dr0}",
                "mov dr1, {dr1}",
                "mov dr2, {dr2}",
                "mov dr3, {dr3}",
                "mov dr6, {dr6}",
                "mov dr7, {dr7}",
                off = in(reg) 0x400_u64,
                dr0 = in(reg) dr[0],
                dr1 = in(reg) dr[1],
                dr2 = in(reg) dr[2],
                dr3 = in(reg) dr[3],
                dr6 = in(reg) dr[6],
                dr7 = in(reg) dr[7],
                options(nostack, preserves_flags),
            );
        }
    }

    fn take_debug_status(&self) -> u64 {
        const RESTING: u64 = 0xffff_0ff0;
        let status: u64;
        // SAFETY: the register only reports.
        unsafe {
            asm!("mov {}, dr6", "mov dr6, {}", out(reg) status, in(reg) RESTING,
                options(nostack, preserves_flags));
        }
        status
    }

    fn cpu_count(&self) -> u32 {
        self.interrupts.cpu_count()
    }

    #[inline]
    fn cpu_id(&self) -> u32 {
        cpu::this().id
    }

    fn release_cpus(&self) {
        secondary::release();
    }

    fn send_ipi(&self, cpu: u32) {
        self.interrupts.send_ipi(cpu);
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        processor::cpuid(leaf, subleaf)
    }

    fn rdmsr(&self, msr: u32) -> Result<u64, GeneralProtection> {
        processor::try_read_msr(msr).ok_or(GeneralProtection)
    }

    fn wrmsr(&self, msr: u32, value: u64) -> Result<(), GeneralProtection> {
        // SAFETY: the caller vouches for the effect.
        let good = unsafe { processor::try_write_msr(msr, value) };
        if good { Ok(()) } else { Err(GeneralProtection) }
    }

    fn control_registers(&self) -> (u64, u64) {
        processor::control_registers()
    }

    fn flush_caches(&self) {
        // SAFETY: nothing but time is lost.
        unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
    }

    fn port_in(&self, number: u16, width: IoWidth) -> u32 {
        // SAFETY: the core gives ports to those alone that may have them.
        unsafe {
            match width {
                IoWidth::Byte => port::in8(number).into(),
                IoWidth::Word => port::in16(number).into(),
                IoWidth::Long => port::in32(number),
            }
        }
    }

    fn port_out(&self, number: u16, width: IoWidth, value: u32) {
        // SAFETY: as in `port_in`.
        unsafe {
            match width {
                IoWidth::Byte => port::out8(number, value as u8),
                IoWidth::Word => port::out16(number, value as u16),
                IoWidth::Long => port::out32(number, value),
            }
        }
    }

    #[inline]
    fn tsc(&self) -> u64 {
        processor::tsc()
    }

    #[inline]
    fn tsc_lag(&self) -> u64 {
        cpu::this().tsc_lag.get()
    }

    #[inline]
    fn tsc_info(&self) -> TscInfo {
        self.tsc
    }

    fn boot_wall_clock(&self) -> u64 {
        self.boot_wall_clock
    }

    fn set_timer(&self, deadline: u64) {
        self.interrupts.set_timer(deadline);
    }

    fn gsi_count(&self) -> u32 {
        self.interrupts.gsi_count()
    }

    fn isa_gsi(&self, isa: u8) -> (u32, TriggerMode, Polarity) {
        self.interrupts.isa_gsi(isa)
    }

    fn route_gsi(&self, gsi: u32, trigger: TriggerMode, polarity: Polarity) {
        self.interrupts.route_gsi(gsi, trigger, polarity);
    }

    fn unmask_gsi(&self, gsi: u32) {
        self.interrupts.set_mask(gsi, false);
    }

    fn mask_gsi(&self, gsi: u32) {
        self.interrupts.set_mask(gsi, true);
    }

    fn allocate_vector(&self) -> Option<u8> {
        self.interrupts.allocate_vector()
    }

    fn release_vector(&self, vector: u8) {
        self.interrupts.release_vector(vector);
    }

    fn interrupt_message(&self, vector: u8) -> (u64, u32) {
        self.interrupts.message(vector)
    }

    fn sleep_ports(&self) -> [Option<u16>; 2] {
        self.sleep_ports
    }

    fn acpi_rsdp(&self) -> Option<u64> {
        self.rsdp
    }

    fn boot_log(&self) -> String {
        BOOT_LOG.lock().clone()
    }

    fn console_write(&self, text: &[u8]) {
        uart::write(text);
    }

    fn console_read(&self) -> Option<u8> {
        uart::read()
    }

    fn reboot(&self) -> ! {
        power::reboot()
    }

    fn halt(&self) -> ! {
        secondary::stop_others();
        processor::halt()
    }
}
