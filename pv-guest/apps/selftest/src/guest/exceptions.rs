//! Exceptions of the guest's kernel: which vector, which error code, which address, and what the
//! frame says.

use hypercall_abi::vcpu::VCPUOP_SEND_NMI;
use hypercall_abi::xen::HYPERVISOR_VCPU_OP;
use pv_guest::hypercall::trap;
use pv_guest::memory::{Frames, LINEAR_BASE, MAP_BASE, translate};
use pv_guest::{cpu, memory, traps};

use super::probe::{Trap, probe};
use super::tap::{OK, Tap};

/// An address that nothing is mapped at.
const UNMAPPED: u64 = MAP_BASE + (1 << 39);

/// An address that is no address.
const NON_CANONICAL: u64 = 0x1234_5678_0000_0000;

fn kind(trap: Option<Trap>) -> Option<(u64, u64)> {
    trap.map(|trap| (trap.vector, trap.error_code))
}

fn read(address: u64) -> Option<Trap> {
    // SAFETY: a read of mapped memory changes nothing, and any other traps.
    unsafe { probe!("mov al, [{address}]"; address = in(reg) address, out("al") _) }
}

fn write(address: u64) -> Option<Trap> {
    // SAFETY: the callers name addresses that cannot be written.
    unsafe { probe!("mov byte ptr [{address}], 0"; address = in(reg) address) }
}

fn jump(address: u64) -> Option<Trap> {
    // SAFETY: the callers name addresses that cannot be executed.
    unsafe { probe!("jmp {address}"; address = in(reg) address) }
}

pub fn run(tap: &mut Tap) {
    faults(tap);
    software_interrupts(tap);
    page_faults(tap);
    frame(tap);
    debug(tap);
    floating_point(tap);
    non_maskable(tap);
}

fn faults(tap: &mut Tap) {
    // SAFETY: each instruction traps and does nothing else.
    let traps = unsafe {
        [
            (
                "divide error",
                probe!("xor ecx, ecx", "div ecx";
                out("ecx") _, inout("eax") 1 => _, inout("edx") 0 => _),
                Some((0, 0)),
            ),
            ("ud2", probe!("ud2"), Some((6, 0))),
            (
                "read of a non-canonical address",
                read(NON_CANONICAL),
                Some((13, 0)),
            ),
            (
                "a selector beyond the GDT",
                probe!("mov ds, {s:e}"; s = in(reg) 0xffff_u32),
                Some((13, 0xfffc)),
            ),
            (
                "a null selector in ss",
                probe!("mov ss, {s:e}"; s = in(reg) 0),
                Some((13, 0)),
            ),
            (
                "an LDT selector without an LDT",
                probe!("mov es, {s:e}"; s = in(reg) 7),
                Some((13, 4)),
            ),
        ]
    };
    for (name, trap, wanted) in traps {
        tap.is(name, kind(trap), wanted);
    }
}

fn software_interrupts(tap: &mut Tap) {
    // SAFETY: each enters a handler, which returns, or traps.
    let traps = unsafe {
        [
            ("int3", probe!("int3"), Some((3, 0))),
            ("int 3, in two bytes", probe!(".byte 0xcd, 3"), Some((3, 0))),
            (
                "int 4, which everyone may raise",
                probe!("int 4"),
                Some((4, 0)),
            ),
            (
                "int 0x80, which everyone may raise",
                probe!("int 0x80"),
                Some((0x80, 0)),
            ),
            (
                "int 0x81, which has no handler",
                probe!("int 0x81"),
                Some((13, 0x81 << 3 | 2)),
            ),
            (
                "int 14, which no one may raise",
                probe!("int 14"),
                Some((13, 14 << 3 | 2)),
            ),
            (
                "int 0, which no one may raise",
                probe!("int 0"),
                Some((13, 2)),
            ),
            (
                "int 0x82, the hypervisor's own in old times",
                probe!("int 0x82"),
                Some((13, 0x82 << 3 | 2)),
            ),
        ]
    };
    for (name, trap, wanted) in traps {
        tap.is(name, kind(trap), wanted);
    }
}

fn page_faults(tap: &mut Tap) {
    let of = |trap: Option<Trap>| trap.map(|t| (t.vector, t.error_code, t.address));
    tap.is(
        "read where nothing is",
        of(read(UNMAPPED + 5)),
        Some((14, 0, UNMAPPED + 5)),
    );
    tap.is(
        "write where nothing is",
        of(write(UNMAPPED)),
        Some((14, 2, UNMAPPED)),
    );
    tap.is(
        "jump to where nothing is",
        of(jump(UNMAPPED)),
        Some((14, 0x10, UNMAPPED)),
    );
    tap.is(
        "read of the guest's lower half",
        of(read(0x1000)),
        Some((14, 0, 0x1000)),
    );

    let table = memory::pfn_of(memory::root()).expect("the root is ours");
    let table = LINEAR_BASE + table.0 * 4096;
    tap.is("read of a page table", of(read(table)), None);
    // A root's slots of the lower half are not a level-1 table's, so no emulation applies.
    tap.is(
        "write to a page table of level 4",
        of(write(table)),
        Some((14, 3, table)),
    );

    let page = Frames::zeroed(0).expect("there is memory");
    let address = LINEAR_BASE + page.pfn().0 * 4096;
    if translate(address).is_some_and(|entry| entry.0 >> 63 != 0) {
        tap.is(
            "jump to a page that is no code",
            of(jump(address)),
            Some((14, 0x11, address)),
        );
    } else {
        tap.skip("jump to a page that is no code", "no no-execute bit");
    }

    let hypervisor = [
        (
            "read of the machine-to-physical table",
            read(0xffff_8000_0000_0000),
            None,
        ),
        (
            "write to the machine-to-physical table",
            write(0xffff_8000_0000_0000),
            Some((14, 3, 0xffff_8000_0000_0000)),
        ),
    ];
    for (name, trap, wanted) in hypervisor {
        tap.is(name, of(trap), wanted);
    }
    // What the hypervisor has where is its own affair; that a guest cannot tell is not.
    for address in [
        0xffff_82d0_4020_0000,
        0xffff_8300_0000_0000,
        0xffff_87ff_ffff_f000,
    ] {
        let trap = read(address).map(|t| (t.vector, t.error_code & !1, t.address));
        tap.is(
            "read of the hypervisor's memory",
            trap,
            Some((14, 0, address)),
        );
    }
}

fn frame(tap: &mut Tap) {
    let before = cpu::vcpu()
        .upcall_mask
        .load(core::sync::atomic::Ordering::Relaxed);
    // SAFETY: it traps and does nothing else.
    let trap = unsafe { probe!("mov eax, 0x1234", "ud2"; out("rax") _) };
    let Some(trap) = trap else {
        tap.holds("a trap has a frame", false);
        return;
    };
    tap.is("upcalls are let in before the trap", before, 0);
    tap.is("the frame's code segment has level 0", trap.cs, 0xe030);
    tap.is("the frame's stack segment", trap.ss, 0xe02b);
    tap.is(
        "the frame's interrupt flag says that upcalls are let in",
        trap.rflags >> 9 & 1,
        1,
    );
    tap.is("the frame has the registers", trap.rax, 0x1234);
    tap.holds("upcalls are masked in the handler", trap.masked);
    let after = cpu::vcpu()
        .upcall_mask
        .load(core::sync::atomic::Ordering::Relaxed);
    tap.is("and let in again behind it", after, 0);

    cpu::disable_upcalls();
    // SAFETY: it traps and does nothing else.
    let trap = unsafe { probe!("ud2") };
    cpu::enable_upcalls();
    let flags = trap.map(|trap| (trap.cs, trap.rflags >> 9 & 1));
    tap.is(
        "with upcalls masked, the frame says so",
        flags,
        Some((0x1_0000_e030, 0)),
    );
}

fn debug(tap: &mut Tap) {
    trap::set_debugreg(6, 0xffff_0ff0).expect("the debug status can be reset");
    // SAFETY: it traps behind the nop, and the handler clears the flag.
    let trap = unsafe {
        probe!(
            "pushfq",
            "or qword ptr [rsp], 0x100",
            "popfq",
            "nop",
            "nop",
            "nop"
        )
    };
    tap.is("single step", kind(trap), Some((1, 0)));
    tap.is(
        "single step shows in DR6",
        trap::get_debugreg(6) & 0x400f,
        0x4000,
    );
    trap::set_debugreg(6, 0xffff_0ff0).expect("the debug status can be reset");

    let watched = 0_u64;
    let address = (&raw const watched).expose_provenance() as u64;
    tap.call(
        "a breakpoint address can be set",
        trap::set_debugreg(0, address),
        OK,
    );
    // Enabled, on an 8-byte write.
    tap.call(
        "and armed",
        trap::set_debugreg(7, 0x0009_0001 | 1 << 10),
        OK,
    );
    // SAFETY: it writes a local variable, to which no reference is used meanwhile.
    let trap = unsafe { probe!("mov qword ptr [{address}], 1", "nop"; address = in(reg) address) };
    tap.is("a watched write traps", kind(trap), Some((1, 0)));
    tap.is("it shows in DR6", trap::get_debugreg(6) & 0x400f, 1);
    tap.call("and disarmed", trap::set_debugreg(7, 0x400), OK);
    trap::set_debugreg(0, 0).expect("the breakpoint can be cleared");
    trap::set_debugreg(6, 0xffff_0ff0).expect("the debug status can be reset");
}

/// An NMI, which comes whether upcalls are masked or not.
fn non_maskable(tap: &mut Tap) {
    let entry = traps::entry_point(2).expect("there is an entry for each exception");
    // SAFETY: the entry has the form of one for NMIs.
    tap.call("an NMI handler", unsafe { trap::register_nmi(entry) }, OK);
    cpu::disable_upcalls();
    // Not through the hypercall page: going on elsewhere from in there would leave its return
    // address on the stack.
    // SAFETY: the hypercall sends this vCPU an NMI, and changes only these registers.
    let trap = unsafe {
        probe!("syscall", "nop";
            inlateout("rax") u64::from(HYPERVISOR_VCPU_OP) => _,
            inlateout("rdi") u64::from(VCPUOP_SEND_NMI) => _, inlateout("rsi") 0_u64 => _,
            inlateout("rdx") 0_u64 => _,
            lateout("rcx") _, lateout("r11") _)
    };
    cpu::enable_upcalls();
    tap.is("an NMI arrives", trap.map(|trap| trap.vector), Some(2));
    tap.call("no NMI handler", trap::unregister_nmi(), OK);
}

fn floating_point(tap: &mut Tap) {
    trap::fpu_taskswitch(true);
    // SAFETY: nothing uses the floating-point unit; the guest is built without.
    unsafe {
        tap.is(
            "use of the FPU after a task switch",
            kind(probe!("fninit")),
            Some((7, 0)),
        );
        tap.is("clts", kind(probe!("clts")), None);
        tap.is("use of the FPU after clts", kind(probe!("fninit")), None);
        trap::fpu_taskswitch(true);
        trap::fpu_taskswitch(false);
        tap.is(
            "use of the FPU after the switch is taken back",
            kind(probe!("fninit")),
            None,
        );
        let control: u16 = 0x037b;
        tap.is(
            "an unmasked x87 exception",
            kind(probe!(
            "fldcw [{control}]", "fld1", "fldz", "fdivp", "fwait";
            control = in(reg) &raw const control)),
            Some((16, 0)),
        );
        probe!("fninit");
    }
}
