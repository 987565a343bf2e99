//! The simulated machine as a [`Platform`].

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;

use hypercall_abi::types::Mfn;
use zerocopy::{FromBytes, IntoBytes};

use super::cpu::CPU;
use super::script::Script;
use super::{FIRST_UNTYPED, Flush, Gsi, Machine, TSC_KHZ};
use crate::{
    BootModule, Exit, Fault, FpuState, GUEST_GDT_FRAMES, GeneralProtection, Guest,
    HYPERVISOR_SLOTS, IoWidth, Irq, MemoryRegion, PAGE_SIZE, Place, Platform, Polarity,
    SegmentBase, Segments, SelectorFault, TABLE_ENTRIES, TriggerMode, TscInfo, is_guest_range,
};

impl Platform for Machine {
    fn memory_map(&self) -> &[MemoryRegion] {
        &self.regions
    }

    fn frame_limit(&self) -> u64 {
        self.m2p.len() as u64
    }

    fn is_private(&self, mfn: Mfn) -> bool {
        let private = self.private.get(mfn.0 as usize);
        private.is_none_or(|private| private.load(SeqCst))
    }

    fn command_line(&self) -> &str {
        &self.command_line
    }

    fn boot_modules(&self) -> &[BootModule] {
        &self.modules
    }

    fn donate_to_heap(&self, first: Mfn, order: u32) {
        for private in self.private.iter().skip(first.0 as usize).take(1 << order) {
            private.store(true, SeqCst);
        }
        self.heap_free.fetch_add(PAGE_SIZE << order, SeqCst);
    }

    fn heap_free(&self) -> usize {
        self.heap_free.load(SeqCst)
    }

    fn load_u64(&self, mfn: Mfn, index: usize) -> u64 {
        self.word(mfn, index).load(SeqCst)
    }

    fn peek_u64(&self, mfn: Mfn, index: usize) -> Option<u64> {
        let open = mfn.0 < self.frame_limit() && !self.is_private(mfn);
        open.then(|| self.load_u64(mfn, index))
    }

    fn load_u32(&self, mfn: Mfn, index: usize) -> u32 {
        (self.load_u64(mfn, index / 2) >> (32 * (index % 2))) as u32
    }

    fn store_u32(&self, mfn: Mfn, index: usize, value: u32) {
        self.change_u32(mfn, index, |_| Some(value)).ok();
    }

    fn compare_exchange_u32(&self, mfn: Mfn, index: usize, old: u32, new: u32) -> Result<u32, u32> {
        self.change_u32(mfn, index, |held| (held == old).then_some(new))
    }

    fn fetch_or_u32(&self, mfn: Mfn, index: usize, bits: u32) -> u32 {
        let before = self.change_u32(mfn, index, |held| Some(held | bits));
        before.unwrap_or_else(|held| held)
    }

    fn fetch_and_u32(&self, mfn: Mfn, index: usize, bits: u32) -> u32 {
        let before = self.change_u32(mfn, index, |held| Some(held & bits));
        before.unwrap_or_else(|held| held)
    }

    fn load_at(&self, place: &Place, index: usize) -> u64 {
        let (mfn, offset) = place.get();
        self.load_u64(mfn, offset / 8 + index)
    }

    fn store_at(&self, place: &Place, index: usize, value: u64) {
        let (mfn, offset) = place.get();
        self.store_u64(mfn, offset / 8 + index, value);
    }

    fn set_at(&self, place: &Place, index: usize, bits: u64) {
        let (mfn, offset) = place.get();
        self.fetch_or_u64(mfn, offset / 8 + index, bits);
    }

    fn keep_at(&self, place: &Place, index: usize, bits: u64) {
        let (mfn, offset) = place.get();
        self.fetch_and_u64(mfn, offset / 8 + index, bits);
    }

    fn store_u64(&self, mfn: Mfn, index: usize, value: u64) {
        self.word_to_write(mfn, index).store(value, SeqCst);
    }

    fn compare_exchange_u64(&self, mfn: Mfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.word_to_write(mfn, index)
            .compare_exchange(old, new, SeqCst, SeqCst)
    }

    fn fetch_or_u64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        self.word_to_write(mfn, index).fetch_or(bits, SeqCst)
    }

    fn fetch_and_u64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        self.word_to_write(mfn, index).fetch_and(bits, SeqCst)
    }

    fn read_frame(&self, mfn: Mfn, offset: usize, out: &mut [u8]) {
        self.reads.fetch_add(1, SeqCst);
        self.read_bytes(mfn, offset, out);
    }

    fn write_frame(&self, mfn: Mfn, offset: usize, data: &[u8]) {
        self.write_bytes(mfn, offset, data);
    }

    fn zero_frame(&self, mfn: Mfn) {
        for index in 0..TABLE_ENTRIES {
            self.store_u64(mfn, index, 0);
        }
    }

    fn copy_frame(&self, to: Mfn, from: Mfn) {
        for index in 0..TABLE_ENTRIES {
            self.store_u64(to, index, self.load_u64(from, index));
        }
    }

    fn copy_bytes(&self, to: (Mfn, usize), from: (Mfn, usize), len: usize) {
        let mut bytes = vec![0; len];
        self.read_frame(from.0, from.1, &mut bytes);
        self.write_frame(to.0, to.1, &bytes);
    }

    fn set_m2p(&self, mfn: Mfn, pfn: u64) {
        if let Some(entry) = self.m2p.get(mfn.0 as usize) {
            entry.store(pfn, SeqCst);
        }
    }

    fn m2p(&self, mfn: Mfn) -> u64 {
        self.m2p
            .get(mfn.0 as usize)
            .map_or(u64::MAX, |entry| entry.load(SeqCst))
    }

    fn m2p_extents(&self) -> Vec<Mfn> {
        vec![Mfn(FIRST_UNTYPED - 1)]
    }

    fn hypervisor_slots(&self) -> [u64; HYPERVISOR_SLOTS] {
        // Present, supervisor: tables in private frames, one a slot.
        std::array::from_fn(|slot| (256 + slot as u64) << 12 | 0x63)
    }

    fn load_root(&self, root: Mfn) {
        assert!(!self.is_private(root), "a root in a private frame");
        for (slot, &entry) in self.hypervisor_slots().iter().enumerate() {
            let found = self.load_u64(root, 256 + slot);
            let hidden = slot == 0 && found == 0;
            assert!(found == entry || hidden, "slot {slot} of root {root:?}");
        }
        self.set_root(self.cpu_id(), Some(root), None);
    }

    fn load_root_without(&self, root: Mfn, va: u64) {
        self.set_root(self.cpu_id(), Some(root), Some(va));
    }

    fn current_root(&self) -> Mfn {
        self.this_cpu().root.unwrap_or(Mfn(FIRST_UNTYPED - 1))
    }

    fn load_idle_root(&self) {
        self.set_root(self.cpu_id(), None, None);
    }

    fn flush_tlb(&self) {
        let cpu = self.cpu_id();
        self.record().flushes.push(Flush::All(1 << cpu));
        self.flush(cpu);
    }

    fn flush_tlb_page(&self, va: u64) {
        let cpu = self.cpu_id();
        self.record().flushes.push(Flush::Page(cpu, va & !0xfff));
        self.tlb(cpu).forget_page(va);
    }

    fn flush_tlb_on(&self, cpus: u64) {
        self.record().flushes.push(Flush::All(cpus));
        for cpu in (0..self.cpu_count()).filter(|cpu| cpus >> cpu & 1 != 0) {
            if self.cpu_slot(cpu).root_left {
                self.set_root(cpu, None, None);
            } else {
                self.flush(cpu);
            }
        }
    }

    fn leave_root(&self) {
        self.this_cpu().root_left = true;
    }

    fn flush_time(&self) -> u64 {
        self.walk_eagerly();
        self.flush_clock.now()
    }

    fn unflushed_since(&self, time: u64) -> u64 {
        self.flush_clock.unflushed_since(time, self.cpu_count())
    }

    fn copy_from_guest(&self, va: u64, out: &mut [u8]) -> Result<(), Fault> {
        if !is_guest_range(va, out.len() as u64) {
            return Err(Fault);
        }
        let mut done = 0;
        while done < out.len() {
            let (mfn, offset) = self.translate(va.wrapping_add(done as u64), false)?;
            let count = (PAGE_SIZE - offset).min(out.len() - done);
            self.read_frame(mfn, offset, &mut out[done..done + count]);
            done += count;
        }
        Ok(())
    }

    fn read_from_guest<T: FromBytes + IntoBytes>(&self, va: u64) -> Result<T, Fault> {
        let mut value = T::new_zeroed();
        self.copy_from_guest(va, value.as_mut_bytes())?;
        Ok(value)
    }

    fn copy_to_guest(&self, va: u64, data: &[u8]) -> Result<(), Fault> {
        if !is_guest_range(va, data.len() as u64) {
            return Err(Fault);
        }
        let mut done = 0;
        while done < data.len() {
            let (mfn, offset) = self.translate(va.wrapping_add(done as u64), true)?;
            let count = (PAGE_SIZE - offset).min(data.len() - done);
            self.write_frame(mfn, offset, &data[done..done + count]);
            done += count;
        }
        Ok(())
    }

    fn enter_guest<G: Guest>(&self, mut guest: G) {
        let context = guest.context();
        let script = {
            let mut record = self.record();
            record.entered.push(*context);
            record.script.pop_front()
        };
        let exit = match script.expect("the script says what the guest does") {
            Script::Leave(exit, replace) => {
                if let Some(replace) = replace {
                    *context = *replace;
                }
                exit
            }
            Script::Program(program) => program(self, context),
        };
        guest.left(exit);
    }

    fn idle(&self) -> Irq {
        match self.record().script.pop_front() {
            Some(Script::Leave(Exit::Interrupt(irq), _)) => irq,
            other => panic!("the script has {other:?} where all vCPUs wait"),
        }
    }

    /// Looks at most twice, the second time after what another CPU does meanwhile.
    fn poll_until(&self, done: impl Fn() -> bool) -> Option<Irq> {
        let waiting = || {
            let mut record = self.record();
            match record.script.front() {
                Some(&Script::Leave(Exit::Interrupt(irq), _)) => {
                    record.script.pop_front();
                    Some(irq)
                }
                _ => None,
            }
        };
        waiting().or_else(|| {
            if done() {
                return None;
            }
            super::relax();
            waiting()
        })
    }

    fn load_segments(&self, segments: &Segments) -> Result<(), SelectorFault> {
        self.this_cpu().segments = *segments;
        Ok(())
    }

    fn store_segments(&self) -> Segments {
        self.this_cpu().segments
    }

    fn set_segment_base(&self, which: SegmentBase, base: u64) {
        let mut cpu = self.this_cpu();
        match which {
            SegmentBase::Fs => cpu.segments.fs_base = base,
            SegmentBase::Gs => cpu.segments.gs_base = base,
            SegmentBase::GsShadow => cpu.segments.gs_base_shadow = base,
        }
    }

    fn load_user_gs(&self, _selector: u16) -> Result<(), SelectorFault> {
        Ok(())
    }

    fn swap_gs(&self) {
        let mut cpu = self.this_cpu();
        let segments = &mut cpu.segments;
        std::mem::swap(&mut segments.gs_base, &mut segments.gs_base_shadow);
    }

    fn load_gdt(&self, frames: &[Mfn]) {
        assert!(frames.len() <= GUEST_GDT_FRAMES);
        self.this_cpu().gdt = frames.to_vec();
    }

    fn load_ldt(&self, entries: u32) {
        let mut cpu = self.this_cpu();
        cpu.ldt_entries = entries;
        cpu.ldt = [None; 16];
    }

    fn map_ldt_page(&self, index: usize, mfn: Mfn) {
        self.this_cpu().ldt[index] = Some(mfn);
    }

    fn save_fpu(&self, state: &mut FpuState) {
        let cpu = self.this_cpu();
        state.area.bytes[..cpu.fpu.len()].copy_from_slice(&cpu.fpu);
    }

    fn load_fpu(&self, state: &FpuState) {
        let mut cpu = self.this_cpu();
        cpu.fpu = state.area.bytes.to_vec();
        cpu.extended_control = state.enabled();
    }

    fn set_extended_control(&self, xcr0: u64) {
        self.this_cpu().extended_control = xcr0;
    }

    fn set_control_bits(&self, cr4: u64) {
        self.this_cpu().control_bits = cr4;
    }

    fn set_task_switched(&self, on: bool) {
        self.this_cpu().task_switched = on;
    }

    fn load_debug_registers(&self, dr: &[u64; 8]) {
        self.this_cpu().debug = *dr;
    }

    fn take_debug_status(&self) -> u64 {
        std::mem::replace(&mut self.this_cpu().debug_status, 0xffff_0ff0)
    }

    fn cpu_count(&self) -> u32 {
        self.cpus.len() as u32
    }

    fn cpu_id(&self) -> u32 {
        CPU.with(Cell::get)
    }

    fn release_cpus(&self) {}

    fn send_ipi(&self, cpu: u32) {
        self.record().interrupted |= 1 << cpu;
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.record()
            .cpuid
            .get(&(leaf, subleaf))
            .copied()
            .unwrap_or_default()
    }

    fn rdmsr(&self, msr: u32) -> Result<u64, GeneralProtection> {
        self.record()
            .msrs
            .get(&msr)
            .copied()
            .ok_or(GeneralProtection)
    }

    fn wrmsr(&self, msr: u32, value: u64) -> Result<(), GeneralProtection> {
        let mut record = self.record();
        let slot = record.msrs.get_mut(&msr).ok_or(GeneralProtection)?;
        *slot = value;
        Ok(())
    }

    fn control_registers(&self) -> (u64, u64) {
        (0x8005_0033, 0x3406b0)
    }

    fn flush_caches(&self) {
        self.record().cache_flushes += 1;
    }

    fn port_in(&self, port: u16, width: IoWidth) -> u32 {
        let all = self.record().ports.get(&port).copied().unwrap_or(u32::MAX);
        match width {
            IoWidth::Byte => all & 0xff,
            IoWidth::Word => all & 0xffff,
            IoWidth::Long => all,
        }
    }

    fn port_out(&self, port: u16, width: IoWidth, value: u32) {
        self.record().port_writes.push((port, width.bytes(), value));
    }

    fn tsc(&self) -> u64 {
        let reads = self.reads.swap(0, SeqCst);
        self.most_reads.fetch_max(reads, SeqCst);
        let first = self.tsc.fetch_add(self.tsc_step.load(SeqCst), SeqCst);
        first.wrapping_sub(self.tsc_lag())
    }

    fn tsc_lag(&self) -> u64 {
        self.this_cpu().tsc_lag
    }

    fn tsc_info(&self) -> TscInfo {
        TscInfo {
            hz: TSC_KHZ * 1000,
            at_boot: 0,
            synchronised: (0..self.cpu_count()).all(|cpu| self.cpu_slot(cpu).tsc_lag == 0),
        }
    }

    fn boot_wall_clock(&self) -> u64 {
        1_700_000_000
    }

    fn set_timer(&self, deadline: u64) {
        self.this_cpu().deadline = Some(deadline);
    }

    fn gsi_count(&self) -> u32 {
        24
    }

    fn isa_gsi(&self, isa: u8) -> (u32, TriggerMode, Polarity) {
        let gsi = if isa == 0 { 2 } else { u32::from(isa) };
        (gsi, TriggerMode::Edge, Polarity::High)
    }

    fn route_gsi(&self, gsi: u32, trigger: TriggerMode, polarity: Polarity) {
        self.record().gsis.insert(
            gsi,
            Gsi {
                trigger,
                polarity,
                masked: true,
            },
        );
    }

    fn unmask_gsi(&self, gsi: u32) {
        if let Some(gsi) = self.record().gsis.get_mut(&gsi) {
            gsi.masked = false;
        }
    }

    fn mask_gsi(&self, gsi: u32) {
        if let Some(gsi) = self.record().gsis.get_mut(&gsi) {
            gsi.masked = true;
        }
    }

    fn allocate_vector(&self) -> Option<u8> {
        let mut record = self.record();
        let vector = (0x40..0xe0).find(|vector| !record.vectors.contains(vector))?;
        record.vectors.push(vector);
        Some(vector)
    }

    fn release_vector(&self, vector: u8) {
        self.record().vectors.retain(|&taken| taken != vector);
    }

    fn interrupt_message(&self, vector: u8) -> (u64, u32) {
        (0xfee0_0000, u32::from(vector))
    }

    fn sleep_ports(&self) -> [Option<u16>; 2] {
        self.record().sleep_ports
    }

    fn acpi_rsdp(&self) -> Option<u64> {
        None
    }

    fn boot_log(&self) -> String {
        String::new()
    }

    fn console_write(&self, text: &[u8]) {
        self.record().output.extend_from_slice(text);
    }

    fn console_read(&self) -> Option<u8> {
        self.record().input.pop_front()
    }

    fn reboot(&self) -> ! {
        panic!("the simulated machine restarts");
    }

    fn halt(&self) -> ! {
        panic!("the simulated machine halts");
    }
}
