//! Privileged instructions, which the hypervisor emulates or refuses.

use hypercall_abi::arch_x86::{
    SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, XEN_CPUID_FIRST_LEAF,
};
use hypercall_abi::errno::Errno;
use pv_guest::hypercall::{physdev, trap};
use pv_guest::pte::Pte;
use pv_guest::{boot, cpu, memory};

use super::probe::{Trap, probe};
use super::tap::{OK, Tap};

const GENERAL_PROTECTION: Option<(u64, u64)> = Some((13, 0));

const MSR_TSC: u32 = 0x10;
const MSR_APIC_BASE: u32 = 0x1b;
const MSR_PAT: u32 = 0x277;
const MSR_EFER: u32 = 0xc000_0080;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_FS_BASE: u32 = 0xc000_0100;
const MSR_GS_BASE: u32 = 0xc000_0101;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

fn kind(trap: Option<Trap>) -> Option<(u64, u64)> {
    trap.map(|trap| (trap.vector, trap.error_code))
}

/// The value of a model-specific register, or the trap.
fn rdmsr(register: u32) -> Result<u64, Option<(u64, u64)>> {
    let (low, high): (u32, u32);
    // SAFETY: reading a register changes nothing.
    let trap = unsafe {
        probe!("rdmsr"; in("ecx") register, inout("eax") 0 => low, inout("edx") 0 => high)
    };
    match trap {
        None => Ok(u64::from(high) << 32 | u64::from(low)),
        Some(_) => Err(kind(trap)),
    }
}

/// Writes a model-specific register.
///
/// # Safety
///
/// Nothing may rely on its old value.
unsafe fn wrmsr(register: u32, value: u64) -> Option<(u64, u64)> {
    // SAFETY: the caller's promise.
    kind(unsafe {
        probe!("wrmsr"; in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32)
    })
}

pub fn run(tap: &mut Tap) {
    cpuid(tap);
    control_registers(tap);
    model_specific_registers(tap);
    segment_bases(tap);
    refused(tap);
    ports(tap);
}

fn cpuid(tap: &mut Tap) {
    let leaf = cpu::cpuid(XEN_CPUID_FIRST_LEAF, 0);
    let name = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    tap.is(
        "the hypervisor's name in CPUID",
        name.as_flattened(),
        b"XenVMMXenVMM",
    );
    tap.holds(
        "the hypervisor has at least leaves 1 to 3",
        leaf.eax >= XEN_CPUID_FIRST_LEAF + 3,
    );
    let (major, minor) = pv_guest::hypercall::system::version();
    let version = cpu::cpuid(XEN_CPUID_FIRST_LEAF + 1, 0).eax;
    tap.is(
        "version in CPUID",
        version,
        u32::from(major) << 16 | u32::from(minor),
    );
    let leaf = cpu::cpuid(XEN_CPUID_FIRST_LEAF + 2, 0);
    tap.is(
        "one hypercall page, by register 0x40000000",
        (leaf.eax, leaf.ebx),
        (1, 0x4000_0000),
    );
    tap.is("a PV guest may preserve A and D bits", leaf.ecx & 1, 1);
    let features = cpu::cpuid(1, 0);
    tap.is(
        "the processor says that it is virtual",
        features.ecx >> 31,
        1,
    );
    tap.is(
        "no VMX, SMX or MONITOR",
        features.ecx & (1 << 5 | 1 << 6 | 1 << 3),
        0,
    );
    tap.is(
        "an FPU, TSC, MSRs, CX8, CMOV, FXSR, SSE2",
        features.edx & 0x0700_8131,
        0x0700_8131,
    );
    let structured = cpu::cpuid(7, 0).ebx;
    tap.is(
        "no SMEP, SMAP or INVPCID",
        structured & (1 << 7 | 1 << 20 | 1 << 10),
        0,
    );
    let extended = cpu::cpuid(0x8000_0001, 0);
    tap.is(
        "long mode and syscall",
        extended.edx & (1 << 29 | 1 << 11),
        1 << 29 | 1 << 11,
    );
    tap.is("no SVM", extended.ecx & (1 << 2), 0);
}

fn control_registers(tap: &mut Tap) {
    let (cr0, cr3, cr4): (u64, u64, u64);
    // SAFETY: reading changes nothing.
    let traps = unsafe {
        [
            kind(probe!("mov {value}, cr0"; value = out(reg) cr0)),
            kind(probe!("mov {value}, cr3"; value = out(reg) cr3)),
            kind(probe!("mov {value}, cr4"; value = out(reg) cr4)),
        ]
    };
    tap.is("cr0, cr3 and cr4 can be read", traps, [None; 3]);
    tap.is(
        "cr0 has PE, MP, ET, NE, WP, AM and PG, and not TS",
        cr0,
        0x8005_0033,
    );
    tap.is("cr3 is the root", cr3, memory::root().0 << 12);
    tap.is(
        "cr4 has PAE, and not VMXE, SMEP or SMAP",
        cr4 & 0x30_2020,
        0x20,
    );
    // SAFETY: what is written is what was read, or differs in what only traps of the FPU depend on.
    unsafe {
        tap.is(
            "cr0 can be written back",
            kind(probe!("mov cr0, {v}"; v = in(reg) cr0)),
            None,
        );
        let set = cr0 | 8;
        tap.is(
            "TS can be set in cr0",
            kind(probe!("mov cr0, {v}"; v = in(reg) set)),
            None,
        );
        let read: u64;
        probe!("mov {value}, cr0"; value = out(reg) read);
        tap.is("and is set", read, set);
        trap::fpu_taskswitch(false);
        let other = cr0 & !(1 << 16);
        tap.is(
            "WP cannot be cleared",
            kind(probe!("mov cr0, {v}"; v = in(reg) other)),
            GENERAL_PROTECTION,
        );
        tap.is(
            "cr4 can be written back",
            kind(probe!("mov cr4, {v}"; v = in(reg) cr4)),
            None,
        );
        tap.is(
            "cr2 can be written",
            kind(probe!("mov cr2, {v}"; v = in(reg) 0x1234_5000_u64)),
            None,
        );
        let read: u64;
        probe!("mov {value}, cr2"; value = out(reg) read);
        tap.is("and read", read, 0x1234_5000);
        tap.is(
            "cr8 cannot be read",
            kind(probe!("mov {v}, cr8"; v = out(reg) _)),
            GENERAL_PROTECTION,
        );
        tap.is(
            "cr3 cannot be loaded with a frame that is no root",
            kind(probe!(
            "mov cr3, {v}"; v = in(reg) 0xffff_f000_u64)),
            GENERAL_PROTECTION,
        );
        tap.is(
            "cr3 can be written back",
            kind(probe!("mov cr3, {v}"; v = in(reg) cr3)),
            None,
        );
        let dr7: u64;
        tap.is(
            "dr7 can be read",
            kind(probe!("mov {v}, dr7"; v = out(reg) dr7)),
            None,
        );
        tap.is("dr7 has its fixed bit", dr7, 0x400);
        tap.is(
            "dr0 can be written",
            kind(probe!("mov dr0, {v}"; v = in(reg) 0x1000_u64)),
            None,
        );
        tap.is("dr0 has what was written", trap::get_debugreg(0), 0x1000);
        let address = 0xffff_8300_0000_0000_u64;
        tap.is(
            "dr0 cannot watch the hypervisor",
            kind(probe!("mov dr0, {v}";
            v = in(reg) address)),
            GENERAL_PROTECTION,
        );
    }
    tap.call(
        "dr0 cannot watch the hypervisor, by hypercall",
        trap::set_debugreg(0, 0xffff_8300_0000_0000),
        Err(Errno::EPERM),
    );
    tap.call(
        "dr7 cannot have a reserved bit",
        trap::set_debugreg(7, 1 << 40),
        Err(Errno::EINVAL),
    );
    tap.call(
        "there is no dr8",
        trap::set_debugreg(8, 0),
        Err(Errno::ENODEV),
    );
    trap::set_debugreg(0, 0).expect("the breakpoint can be cleared");
}

fn model_specific_registers(tap: &mut Tap) {
    let efer = rdmsr(MSR_EFER).map(|efer| efer & 0xd01);
    tap.is("EFER has SCE, LME, LMA and NX", efer, Ok(0xd01));
    tap.is(
        "PAT is the hypervisor's",
        rdmsr(MSR_PAT),
        Ok(0x0501_0007_0406),
    );
    tap.holds(
        "APIC base",
        rdmsr(MSR_APIC_BASE).is_ok_and(|base| base >> 12 == 0xfee00),
    );
    tap.holds(
        "TSC goes on",
        rdmsr(MSR_TSC).is_ok_and(|tsc| cpu::tsc().wrapping_sub(tsc) < 1 << 40),
    );
    tap.is(
        "LSTAR cannot be read",
        rdmsr(MSR_LSTAR),
        Err(GENERAL_PROTECTION),
    );
    tap.is(
        "an unknown register cannot be read",
        rdmsr(0xdead_beef),
        Err(GENERAL_PROTECTION),
    );
    // SAFETY: none of the writes takes effect on anything that is used.
    unsafe {
        tap.is(
            "LSTAR cannot be written",
            wrmsr(MSR_LSTAR, 0),
            GENERAL_PROTECTION,
        );
        tap.is(
            "an unknown register cannot be written",
            wrmsr(0xdead_beef, 0),
            GENERAL_PROTECTION,
        );
        tap.is(
            "EFER cannot be cleared",
            wrmsr(MSR_EFER, 0),
            GENERAL_PROTECTION,
        );
        let efer = rdmsr(MSR_EFER).unwrap_or_default();
        tap.is("EFER can be written back", wrmsr(MSR_EFER, efer), None);
        let pat = rdmsr(MSR_PAT).unwrap_or_default();
        tap.is(
            "PAT cannot be written, not even as it is",
            wrmsr(MSR_PAT, pat),
            GENERAL_PROTECTION,
        );
        tap.is(
            "PAT cannot be changed",
            wrmsr(MSR_PAT, 0x0007_0406_0007_0406),
            GENERAL_PROTECTION,
        );
    }
}

fn segment_bases(tap: &mut Tap) {
    let non_canonical = 0x8000_0000_0000_0000_u64;
    let kernel_gs = rdmsr(MSR_GS_BASE).unwrap_or_default();
    let (somewhere, elsewhere) = (0xffff_8800_1234_5678, 0x1234_5678);
    let bases = [
        ("FS", SEGBASE_FS, MSR_FS_BASE, somewhere, elsewhere, 0),
        (
            "GS",
            SEGBASE_GS_KERNEL,
            MSR_GS_BASE,
            in_linear_map(kernel_gs),
            kernel_gs,
            kernel_gs,
        ),
        (
            "GS of user mode",
            SEGBASE_GS_USER,
            MSR_KERNEL_GS_BASE,
            somewhere,
            elsewhere,
            0,
        ),
    ];
    for (name, which, register, first, second, last) in bases {
        // SAFETY: the kernel uses no base but that of GS, and finds the same memory by each that it
        // gets here.
        unsafe {
            tap.call(name, trap::set_segment_base(which, first), OK);
            tap.is("reads back", rdmsr(register), Ok(first));
            tap.is("is written by wrmsr", wrmsr(register, second), None);
            tap.is("reads back", rdmsr(register), Ok(second));
            tap.is(
                "takes no address that is none",
                wrmsr(register, non_canonical),
                GENERAL_PROTECTION,
            );
            tap.call(
                "nor by hypercall",
                trap::set_segment_base(which, non_canonical),
                Err(Errno::EINVAL),
            );
            tap.call("goes back", trap::set_segment_base(which, last), OK);
        }
    }
    // SAFETY: there is no such base.
    tap.call(
        "there is no base 9",
        unsafe { trap::set_segment_base(9, 0) },
        Err(Errno::EINVAL),
    );
}

/// Where the linear map has what is at an address of the kernel.
fn in_linear_map(address: u64) -> u64 {
    let frame = memory::translate(address).and_then(Pte::frame);
    let pfn = frame
        .and_then(memory::pfn_of)
        .expect("it is the guest's own memory");
    memory::LINEAR_BASE + pfn.0 * 4096 + address % 4096
}

fn refused(tap: &mut Tap) {
    // SAFETY: each traps, or does nothing that lasts.
    let traps = unsafe {
        [
            ("hlt", probe!("hlt"), GENERAL_PROTECTION),
            ("cli, at I/O level 0", probe!("cli"), GENERAL_PROTECTION),
            ("sti, at I/O level 0", probe!("sti"), GENERAL_PROTECTION),
            ("swapgs", probe!("swapgs"), GENERAL_PROTECTION),
            ("invlpg", probe!("invlpg [rsp]"), GENERAL_PROTECTION),
            (
                "lgdt",
                probe!("lgdt [{p}]"; p = in(reg) &raw const TABLE),
                GENERAL_PROTECTION,
            ),
            (
                "lidt",
                probe!("lidt [{p}]"; p = in(reg) &raw const TABLE),
                GENERAL_PROTECTION,
            ),
            (
                "lldt",
                probe!("lldt {v:x}"; v = in(reg) 0),
                GENERAL_PROTECTION,
            ),
            (
                "ltr",
                probe!("ltr {v:x}"; v = in(reg) 0),
                GENERAL_PROTECTION,
            ),
            ("wbinvd", probe!("wbinvd"), None),
            ("sysret", probe!("sysretq"), GENERAL_PROTECTION),
            (
                "rdpmc",
                probe!("rdpmc"; in("ecx") 0, out("eax") _, out("edx") _),
                GENERAL_PROTECTION,
            ),
            (
                "a locked mov to cr0",
                probe!(".byte 0xf0, 0x0f, 0x22, 0xc0"),
                Some((6, 0)),
            ),
        ]
    };
    for (name, trap, wanted) in traps {
        tap.is(name, kind(trap), wanted);
    }
}

/// What the refused loads of a descriptor table would load.
static TABLE: [u16; 5] = [0; 5];

fn ports(tap: &mut Tap) {
    let read = |port: u16| {
        let value: u8;
        // SAFETY: reading these ports changes nothing.
        let trap = unsafe { probe!("in al, dx"; in("dx") port, inout("al") 0_u8 => value) };
        (kind(trap), value)
    };
    tap.call("I/O level 0", physdev::set_iopl(0), OK);
    tap.call(
        "there is no I/O level 4",
        physdev::set_iopl(4),
        Err(Errno::EINVAL),
    );
    tap.is(
        "in from a port, at level 0",
        read(0x71).0,
        GENERAL_PROTECTION,
    );
    tap.call("I/O level 1", physdev::set_iopl(1), OK);
    if boot::is_initial_domain() {
        tap.is("in from a port of one's own", read(0x61).0, None);
        tap.is(
            "in from the hypervisor's interrupt controller",
            read(0x21),
            (None, 0xff),
        );
    } else {
        tap.is(
            "in from a port without permission",
            read(0x71),
            (None, 0xff),
        );
    }
    // SAFETY: the guest's interrupt flag is not the processor's.
    let traps = unsafe { [kind(probe!("cli")), kind(probe!("sti"))] };
    tap.is("cli and sti, at level 1", traps, [None; 2]);
    tap.call("I/O level 0 again", physdev::set_iopl(0), OK);
}
