//! User mode: a second root, the way in and the way back.

use hypercall_abi::types::{Domid, Mfn};
use hypercall_abi::xen::*;
use pv_guest::hypercall::{Result, mmu, sched, trap};
use pv_guest::memory::{self, Frames, LINEAR_BASE};
use pv_guest::pte::{Flags, Pte, index};
use pv_guest::traps::{EVENT, Frame, SYSCALL, USER_CS, USER_SS};
use pv_guest::{clock, cpu, user};

use super::probe::Trap;
use super::tap::{OK, Tap};

/// Where the code is in user mode's address space; the stack is the page behind it.
const CODE: u64 = 0x40_0000;
const STACK: u64 = CODE + 0x1000;
const STACK_TOP: u64 = STACK + 0x1000;

struct UserSpace {
    code: Frames,
    _stack: Frames,
    _tables: [Frames; 4],
    kernel_stack: Frames,
    root: Mfn,
    /// How many came while user mode ran.
    upcalls: u32,
}

fn mfn(frames: &Frames) -> Mfn {
    memory::mfn_of(frames.pfn()).expect("it has a machine frame")
}

fn page() -> Frames {
    Frames::zeroed(0).expect("there is memory")
}

fn read_only(frames: &Frames) -> Result<()> {
    let va = LINEAR_BASE + frames.pfn().0 * 4096;
    // SAFETY: the page is about to be a table, and nothing refers to it.
    unsafe { mmu::update_va_mapping(va, Pte::new(mfn(frames), Flags::READ).0, UVMF_INVLPG) }
}

fn extended(cmd: u32, frame: Mfn) -> Result<()> {
    let op = MmuextOp {
        cmd,
        arg1: frame.0,
        ..MmuextOp::default()
    };
    // SAFETY: it concerns tables that the test made, and no mapping of the kernel's.
    unsafe { mmu::mmuext_op(&[op], None, Domid::SELF) }
}

impl UserSpace {
    /// Makes tables that map a page of code and a page of stack.
    fn new(tap: &mut Tap) -> Self {
        let (code, stack) = (page(), page());
        let mut tables = [(); 4].map(|()| page());
        let user = Flags::PRESENT | Flags::USER | Flags::ACCESSED | Flags::DIRTY;
        let entries = [
            (CODE, 1, Pte::new(mfn(&code), user)),
            (
                STACK,
                1,
                Pte::new(mfn(&stack), user | Flags::WRITABLE | Flags::NO_EXECUTE),
            ),
            (CODE, 2, Pte::new(mfn(&tables[0]), Flags::TABLE)),
            (CODE, 3, Pte::new(mfn(&tables[1]), Flags::TABLE)),
            (CODE, 4, Pte::new(mfn(&tables[2]), Flags::TABLE)),
        ];
        for (va, level, entry) in entries {
            let place = index(va, level) * 8;
            tables[level as usize - 1].as_mut_slice()[place..place + 8]
                .copy_from_slice(&entry.0.to_ne_bytes());
        }
        for table in &tables {
            read_only(table).expect("a page can be made read-only");
        }
        let root = mfn(&tables[3]);
        tap.call(
            "user mode's root is pinned",
            extended(MMUEXT_PIN_L4_TABLE, root),
            OK,
        );
        tap.call(
            "and made the user root",
            extended(MMUEXT_NEW_USER_BASEPTR, root),
            OK,
        );
        let kernel_stack = Frames::zeroed(2).expect("there is memory");
        let top = LINEAR_BASE + kernel_stack.pfn().0 * 4096 + 4 * 4096;
        // SAFETY: the stack is used for nothing else, and kept.
        tap.call(
            "the kernel's stack for traps",
            unsafe { trap::stack_switch(0xe02b, top) },
            OK,
        );
        Self {
            code,
            _stack: stack,
            _tables: tables,
            kernel_stack,
            root,
            upcalls: 0,
        }
    }

    /// Runs code in user mode until it traps.
    fn run(&mut self, code: &[u8]) -> Trap {
        self.run_with(code, 0x202)
    }

    fn run_with(&mut self, code: &[u8], rflags: u64) -> Trap {
        self.code.as_mut_slice()[..code.len()].copy_from_slice(code);
        let mut frame = Frame {
            rax: 0xaaaa,
            rip: CODE,
            rsp: STACK_TOP,
            rflags,
            cs: USER_CS.into(),
            ss: USER_SS.into(),
            ..Frame::default()
        };
        loop {
            cpu::disable_upcalls();
            // SAFETY: the user root and the kernel stack are set up; user mode can reach nothing of
            // the kernel's.
            unsafe { user::enter(&mut frame, 0) };
            let trap = Trap::of(&frame);
            // An upcall that came is made to the kernel; then user mode goes on.
            cpu::enable_upcalls();
            if trap.vector != EVENT {
                return trap;
            }
            self.upcalls += 1;
        }
    }
}

pub fn run(tap: &mut Tap) {
    let mut space = UserSpace::new(tap);
    system_calls(tap, &mut space);
    exceptions(tap, &mut space);
    upcalls(tap, &mut space);
    tap.call(
        "no user root",
        extended(MMUEXT_NEW_USER_BASEPTR, Mfn(0)),
        OK,
    );
    tap.call(
        "user mode's root is unpinned",
        extended(MMUEXT_UNPIN_TABLE, space.root),
        OK,
    );
    // The tables stay read-only, so they are not given back.
    core::mem::forget(space);
}

fn system_calls(tap: &mut Tap, space: &mut UserSpace) {
    // syscall
    let trap = space.run(&[0x0f, 0x05]);
    tap.is("a system call arrives", trap.vector, SYSCALL);
    tap.is("with rax as the iret hypercall loaded it", trap.rax, 0xaaaa);
    tap.is("from behind the instruction", trap.rip, CODE + 2);
    tap.is("and its stack", trap.rsp, STACK_TOP);
    tap.is("in user mode", trap.cs & 0xffff, 0xe033);
    tap.is("with user mode's stack segment", trap.ss, 0xe02b);
    tap.is("with upcalls let in before", trap.rflags >> 9 & 1, 1);
    tap.holds("and masked in the handler", trap.masked);
}

fn exceptions(tap: &mut Tap, space: &mut UserSpace) {
    let kind = |trap: Trap| (trap.vector, trap.error_code, trap.cs & 3);
    let cases: [(&str, &[u8], (u64, u64)); 12] = [
        ("int 0x80 in user mode", &[0xcd, 0x80], (0x80, 0)),
        ("int3 in user mode", &[0xcc], (3, 0)),
        ("int 14 in user mode", &[0xcd, 14], (13, 14 << 3 | 2)),
        ("int 0x81 in user mode", &[0xcd, 0x81], (13, 0x81 << 3 | 2)),
        ("ud2 in user mode", &[0x0f, 0x0b], (6, 0)),
        ("hlt in user mode", &[0xf4], (13, 0)),
        ("cli in user mode", &[0xfa], (13, 0)),
        ("mov rax, cr3 in user mode", &[0x0f, 0x20, 0xd8], (13, 0)),
        ("rdmsr in user mode", &[0x0f, 0x32], (13, 0)),
        ("in al, dx in user mode", &[0xec], (13, 0)),
        (
            "xor ecx, ecx; div ecx in user mode",
            &[0x31, 0xc9, 0xf7, 0xf1],
            (0, 0),
        ),
        ("clts in user mode", &[0x0f, 0x06], (13, 0)),
    ];
    for (name, code, (vector, error)) in cases {
        let trap = space.run(code);
        tap.is(name, kind(trap), (vector, error, 3));
    }
    // mov rax, imm64; then mov bl, [rax], mov [rax], bl, or jmp rax.
    let access = |space: &mut UserSpace, address: u64, instruction: [u8; 2]| {
        let mut code = [
            0x48,
            0xb8,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            instruction[0],
            instruction[1],
        ];
        code[2..10].copy_from_slice(&address.to_le_bytes());
        let trap = space.run(&code);
        (trap.vector, trap.error_code, trap.address)
    };
    let (read, write, jump) = ([0x8a, 0x18], [0x88, 0x18], [0xff, 0xe0]);
    tap.is(
        "user mode reads where nothing is",
        access(space, 0x1234, read),
        (14, 4, 0x1234),
    );
    tap.is(
        "user mode writes where nothing is",
        access(space, 0x1234, write),
        (14, 6, 0x1234),
    );
    tap.is(
        "user mode writes to its code",
        access(space, CODE, write),
        (14, 7, CODE),
    );
    tap.is(
        "user mode runs its stack",
        access(space, STACK, jump),
        (14, 0x15, STACK),
    );
    tap.is(
        "user mode reads the kernel",
        access(space, LINEAR_BASE, read),
        (14, 4, LINEAR_BASE),
    );
    let but_present = |(vector, error, at): (u64, u64, u64)| (vector, error & !1, at);
    let table = 0xffff_8000_0000_0000;
    let trap = but_present(access(space, table, read));
    tap.is(
        "user mode reads the machine-to-physical table",
        trap,
        (14, 4, table),
    );
    let code = 0xffff_82d0_4020_0000;
    let trap = but_present(access(space, code, read));
    tap.is("user mode reads the hypervisor", trap, (14, 4, code));
    // pushfq; pop rax; syscall
    let flags = space.run(&[0x9c, 0x58, 0x0f, 0x05]).rax & 0x3200;
    tap.is(
        "user mode's interrupt flag is on, and it has no I/O level",
        flags,
        0x200,
    );
    // With the trap flag: a single step.
    let trap = space.run_with(&[0x90, 0x90, 0x0f, 0x05], 0x302);
    tap.is(
        "a single step in user mode",
        (trap.vector, trap.rip),
        (1, CODE + 1),
    );
    trap::set_debugreg(6, 0xffff_0ff0).expect("the debug status can be reset");
}

/// An event that comes while user mode runs.
fn upcalls(tap: &mut Tap, space: &mut UserSpace) {
    // On a busy machine the timer may fire before user mode is reached.
    const ATTEMPTS: u32 = 20;
    let mut vector = SYSCALL;
    let mut attempts = 0;
    while space.upcalls == 0 && vector == SYSCALL && attempts < ATTEMPTS {
        sched::set_timer(clock::now() + 5_000_000).expect("a timer can be set");
        // mov ecx, 200000000; loop .; syscall: long enough for the timer to fire meanwhile, whose
        // upcall goes back here.
        let code = [
            0xb9, 0x00, 0xc2, 0xeb, 0x0b, 0xff, 0xc9, 0x75, 0xfc, 0x0f, 0x05,
        ];
        vector = space.run(&code).vector;
        attempts += 1;
    }
    tap.is("user mode goes on after an upcall", vector, SYSCALL);
    tap.holds("which came meanwhile", space.upcalls > 0);
    let used = space.kernel_stack.as_slice().iter().any(|byte| *byte != 0);
    tap.holds("traps from user mode use the kernel's stack", used);
}
