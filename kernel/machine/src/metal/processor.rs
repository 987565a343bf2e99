//! What the processor can do, its control registers and model-specific registers.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

/// Model-specific registers that the machine itself uses.
pub mod msr {
    pub const APIC_BASE: u32 = 0x1b;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const PAT: u32 = 0x277;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const X2APIC: u32 = 0x800;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const SFMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

const EFER_SCE: u64 = 1;
const EFER_NXE: u64 = 1 << 11;

/// Page attribute table as guests of Xen know it: WB, WT, UC-, UC, WC, WP, UC, UC.
const PAT: u64 = 0x0000_0501_0007_0406;

const CR0: u64 = 0x8005_0033; // PG, AM, WP, NE, ET, MP, PE
const CR0_TS: u64 = 1 << 3;

const CR4_TSD: u64 = 1 << 2;
const CR4_DE: u64 = 1 << 3;
/// What guests choose.
const CR4_GUEST: u64 = CR4_TSD | CR4_DE;
const CR4_PAE: u64 = 1 << 5;
const CR4_MCE: u64 = 1 << 6;
const CR4_PGE: u64 = 1 << 7;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_UMIP: u64 = 1 << 11;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;

/// Features that the machine makes use of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    pub nx: bool,
    pub gib_pages: bool,
    pub smep: bool,
    pub smap: bool,
    pub umip: bool,
    pub fsgsbase: bool,
    pub invpcid: bool,
    pub xsave: bool,
    pub x2apic: bool,
    pub tsc_deadline: bool,
    pub sysenter: bool,
    pub mce: bool,
    pub pge: bool,
    pub physical_bits: u32,
}

/// CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = __cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

impl Features {
    /// By CPUID.
    pub fn detect() -> Self {
        let bit = |word: u32, n: u32| word >> n & 1 != 0;
        let [max_basic, ..] = cpuid(0, 0);
        let [max_extended, ..] = cpuid(0x8000_0000, 0);
        let [_, _, c1, d1] = cpuid(1, 0);
        let [_, b7, c7, _] = if max_basic >= 7 { cpuid(7, 0) } else { [0; 4] };
        let [_, _, _, d81] = cpuid(0x8000_0001, 0);
        let [widths, ..] = if max_extended >= 0x8000_0008 {
            cpuid(0x8000_0008, 0)
        } else {
            [36, 0, 0, 0]
        };
        Self {
            nx: bit(d81, 20),
            gib_pages: bit(d81, 26),
            smep: bit(b7, 7),
            smap: bit(b7, 20),
            umip: bit(c7, 2),
            fsgsbase: bit(b7, 0),
            invpcid: bit(b7, 10),
            xsave: bit(c1, 26),
            x2apic: bit(c1, 21),
            tsc_deadline: bit(c1, 24),
            sysenter: bit(d1, 11),
            mce: bit(d1, 7),
            pge: bit(d1, 13),
            physical_bits: widths & 0xff,
        }
    }

    /// Turns on what this CPU has, for this CPU.
    ///
    /// # Safety
    /// The hypervisor's tables, or the boot tables, are in place.
    pub unsafe fn enable(&self) {
        let mut cr4 = CR4_PAE | CR4_DE | CR4_OSFXSR | CR4_OSXMMEXCPT;
        for (has, bit) in [
            (self.pge, CR4_PGE),
            (self.mce, CR4_MCE),
            (self.umip, CR4_UMIP),
            (self.fsgsbase, CR4_FSGSBASE),
            (self.xsave, CR4_OSXSAVE),
            (self.smep, CR4_SMEP),
            (self.smap, CR4_SMAP),
        ] {
            if has {
                cr4 |= bit;
            }
        }
        // SAFETY: all of these are allowed in long mode where CPUID has them, and none takes away a mapping that
        // the image needs: no page of the image or the heap is a user page.
        unsafe {
            asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
            asm!("mov cr0, {}", in(reg) CR0, options(nostack, preserves_flags));
            let nx = if self.nx { EFER_NXE } else { 0 };
            write_msr(msr::PAT, PAT);
            write_msr(msr::EFER, read_msr(msr::EFER) | EFER_SCE | nx);
        }
    }
}

/// Reads a model-specific register.
///
/// # Safety
/// The CPU has it.
pub unsafe fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise; reading the registers in use here changes nothing.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes a model-specific register.
///
/// # Safety
/// The CPU has it and takes the value, and the effect on the hypervisor is intended.
pub unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Reads a model-specific register that may not exist.
pub fn try_read_msr(msr: u32) -> Option<u64> {
    let (low, high, failed): (u32, u32, u64);
    // SAFETY: a fault of the instruction continues behind it, by the fix-up table, with the mark left set.
    unsafe {
        asm!(
            "2: rdmsr",
            "xor {failed:e}, {failed:e}",
            "3:",
            ".pushsection .fixup, \"a\", @progbits",
            ".quad 2b, 3b",
            ".popsection",
            failed = inout(reg) 1_u64 => failed,
            in("ecx") msr,
            inout("eax") 0 => low,
            inout("edx") 0 => high,
            options(nostack),
        );
    }
    (failed == 0).then_some(u64::from(high) << 32 | u64::from(low))
}

/// Writes a model-specific register that may not exist or may refuse the value; whether it took it.
///
/// # Safety
/// The effect on the hypervisor is intended.
pub unsafe fn try_write_msr(msr: u32, value: u64) -> bool {
    let failed: u64;
    // SAFETY: as in `try_read_msr`; the effect is the caller's.
    unsafe {
        asm!(
            "2: wrmsr",
            "xor {failed:e}, {failed:e}",
            "3:",
            ".pushsection .fixup, \"a\", @progbits",
            ".quad 2b, 3b",
            ".popsection",
            failed = inout(reg) 1_u64 => failed,
            in("ecx") msr,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack),
        );
    }
    failed == 0
}

/// Reads memory that may not be mapped.
pub fn try_read_u64(address: u64) -> Option<u64> {
    let (value, failed): (u64, u64);
    // SAFETY: as in `try_read_msr`; where something is mapped, it is memory of the hypervisor's.
    unsafe {
        asm!(
            "2: mov {value}, [{address}]",
            "xor {failed:e}, {failed:e}",
            "3:",
            ".pushsection .fixup, \"a\", @progbits",
            ".quad 2b, 3b",
            ".popsection",
            failed = inout(reg) 1_u64 => failed,
            address = in(reg) address,
            value = out(reg) value,
            options(nostack),
        );
    }
    (failed == 0).then_some(value)
}

/// CR0 and CR4.
pub fn control_registers() -> (u64, u64) {
    let (cr0, cr4): (u64, u64);
    // SAFETY: reading them changes nothing.
    unsafe {
        asm!("mov {}, cr0", "mov {}, cr4", out(reg) cr0, out(reg) cr4,
            options(nomem, nostack, preserves_flags));
    }
    (cr0, cr4)
}

/// Takes TSD and DE from a guest's CR4.
#[inline]
pub fn set_control_bits(cr4: u64) {
    let (_, current) = control_registers();
    let wanted = current & !CR4_GUEST | cr4 & CR4_GUEST;
    if wanted != current {
        // SAFETY: the two bits change what ring 3 may read of the time-stamp counter and the debug registers, which
        // the hypervisor reads by the names that they always have.
        unsafe { asm!("mov cr4, {}", in(reg) wanted, options(nostack, preserves_flags)) };
    }
}

/// CR2: the address of the last page fault.
#[inline]
pub fn fault_address() -> u64 {
    let cr2: u64;
    // SAFETY: reading it changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags)) };
    cr2
}

/// Sets or clears CR0.TS.
#[inline]
pub fn set_task_switched(on: bool) {
    if on {
        // SAFETY: with TS set floating-point instructions fault; the hypervisor uses none but in `fpu`, which
        // clears TS before.
        unsafe { asm!("mov cr0, {}", in(reg) CR0 | CR0_TS, options(nostack, preserves_flags)) };
    } else {
        // SAFETY: this takes nothing away.
        unsafe { asm!("clts", options(nostack, preserves_flags)) };
    }
}

/// CR3.
#[inline]
pub fn root() -> u64 {
    let cr3: u64;
    // SAFETY: reading it changes nothing.
    unsafe { asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags)) };
    cr3
}

/// Sets CR3.
///
/// # Safety
/// The table maps the hypervisor as [`super::layout`] has it.
#[inline]
pub unsafe fn set_root(address: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) address, options(nostack, preserves_flags)) };
}

/// Forgets every translation of this CPU, global ones too.
pub fn flush_tlb(invpcid: bool) {
    if invpcid {
        let descriptor = [0_u64; 2];
        // SAFETY: the CPU has the instruction; forgetting translations is always allowed.
        unsafe {
            asm!("invpcid {}, [{}]", in(reg) 2_u64, in(reg) &descriptor,
                options(nostack, preserves_flags));
        }
    } else {
        let (_, cr4) = control_registers();
        // SAFETY: switching PGE off and on again only forgets translations.
        unsafe {
            asm!("mov cr4, {}", in(reg) cr4 & !CR4_PGE, options(nostack, preserves_flags));
            asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
        }
    }
}

/// Forgets this CPU's translations of a page.
#[inline]
pub fn flush_tlb_page(va: u64) {
    // SAFETY: forgetting translations is always allowed.
    unsafe { asm!("invlpg [{}]", in(reg) va, options(nostack, preserves_flags)) };
}

/// The time-stamp counter, not before all that was done earlier.
#[inline]
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading it changes nothing.
    unsafe {
        asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off nothing wakes it but a non-maskable one, after which it sleeps again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// I/O ports.
pub mod port {
    use core::arch::asm;

    /// Reads a byte.
    ///
    /// # Safety
    /// The device behind the port is the caller's.
    pub unsafe fn in8(port: u16) -> u8 {
        let value: u8;
        // SAFETY: the caller's promise.
        unsafe {
            asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags))
        };
        value
    }

    /// Reads 2 bytes.
    ///
    /// # Safety
    /// The device behind the port is the caller's.
    pub unsafe fn in16(port: u16) -> u16 {
        let value: u16;
        // SAFETY: the caller's promise.
        unsafe {
            asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack, preserves_flags))
        };
        value
    }

    /// Reads 4 bytes.
    ///
    /// # Safety
    /// The device behind the port is the caller's.
    pub unsafe fn in32(port: u16) -> u32 {
        let value: u32;
        // SAFETY: the caller's promise.
        unsafe {
            asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags));
        }
        value
    }

    /// Writes a byte.
    ///
    /// # Safety
    /// The device behind the port is the caller's, and what it does with the value is intended.
    pub unsafe fn out8(port: u16, value: u8) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags))
        };
    }

    /// Writes 2 bytes.
    ///
    /// # Safety
    /// As for [`out8`].
    pub unsafe fn out16(port: u16, value: u16) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack, preserves_flags))
        };
    }

    /// Writes 4 bytes.
    ///
    /// # Safety
    /// As for [`out8`].
    pub unsafe fn out32(port: u16, value: u32) {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags));
        }
    }
}
