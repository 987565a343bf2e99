//! Processes by the library: areas, faults, and what fork shares.

use core::ops::Range;

use hypercall_abi::errno::Errno;
use pv_guest::memory;
use pv_guest::user::{self, Access, Exit, Fault, Space, Thread};

use super::tap::{OK, Tap};

const PAGE: u64 = 4096;
const CODE: Range<u64> = 0x40_0000..0x40_1000;
const DATA: Range<u64> = 0x40_2000..0x40_a000;
const CONSTANT: Range<u64> = 0x40_b000..0x40_c000;

/// What the process runs: each entry begins at a multiple of 16.
const PROGRAM: [&[u8]; 5] = [
    // mov [rdi], sil; syscall
    &[0x40, 0x88, 0x37, 0x0f, 0x05],
    // mov al, [rdi]; syscall
    &[0x8a, 0x07, 0x0f, 0x05],
    // jmp rdi
    &[0xff, 0xe7],
    // fninit; syscall
    &[0xdb, 0xe3, 0x0f, 0x05],
    // cli; syscall
    &[0xfa, 0x0f, 0x05],
];
const WRITE: u64 = CODE.start;
const READ: u64 = CODE.start + 16;
const JUMP: u64 = CODE.start + 32;
const FLOAT: u64 = CODE.start + 48;
const CLI: u64 = CODE.start + 64;

const NO_FAULT: Result<(), Fault> = Ok(());

pub fn run(tap: &mut Tap) {
    let Some(mut thread) = process(tap) else {
        return;
    };
    areas(tap, thread.space());
    faults(tap, &mut thread);
    privileges(tap, &mut thread);
    drop(thread);
    user::leave();
    // The first time also fills the heap.
    sharing(&mut Tap::default());
    sharing(tap);
}

/// Runs from `rip` on until something stops it.
fn step(thread: &mut Thread, rip: u64, address: u64, value: u64) -> Exit {
    let registers = thread.registers_mut();
    (registers.rip, registers.rdi, registers.rsi) = (rip, address, value);
    loop {
        match thread.run() {
            Exit::Event => {}
            exit => return exit,
        }
    }
}

fn fault(address: u64, fault: Fault) -> Exit {
    Exit::Fault { address, fault }
}

fn process(tap: &mut Tap) -> Option<Thread> {
    let Ok(space) = Space::new() else {
        tap.holds("an address space can be had", false);
        return None;
    };
    let areas = [
        (CODE, Access::Execute),
        (DATA, Access::Write),
        (CONSTANT, Access::Read),
    ];
    for (range, access) in areas {
        tap.call("an area", space.map(range, access), OK);
    }
    for (nth, code) in PROGRAM.iter().enumerate() {
        let address = CODE.start + nth as u64 * 16;
        tap.is("code is put there", space.load(address, code), NO_FAULT);
    }
    Some(Thread::new(space, CODE.start, DATA.end))
}

fn areas(tap: &mut Tap, space: &Space) {
    let mut map = |name, range, wanted| tap.call(name, space.map(range, Access::Read), wanted);
    map(
        "an area that begins in one",
        DATA.start + PAGE..DATA.end + PAGE,
        Err(Errno::EEXIST),
    );
    map(
        "an area around one",
        CODE.start - PAGE..CODE.end + PAGE,
        Err(Errno::EEXIST),
    );
    map(
        "an area of no pages",
        CODE.end..CODE.end,
        Err(Errno::EINVAL),
    );
    map(
        "an area of half a page",
        CODE.end..CODE.end + PAGE / 2,
        Err(Errno::EINVAL),
    );
    map(
        "an area beyond the end",
        user::END..user::END + PAGE,
        Err(Errno::EINVAL),
    );
    map("an area up to the end", user::END - PAGE..user::END, OK);
    map("an area just before one", CODE.start - PAGE..CODE.start, OK);

    let mut bytes = [0xff; 8];
    let read = space.read(DATA.start + PAGE - 4, &mut bytes);
    tap.is(
        "the kernel reads across pages",
        (read, bytes),
        (Ok(()), [0; 8]),
    );
    let written = space.write(DATA.end - 4, b"12345678");
    tap.is(
        "but writes not beyond an area",
        written,
        Err(Fault::Unmapped),
    );
    let written = space.write(CODE.start, &[0]);
    tap.is("nor where the process may not", written, Err(Fault::Denied));
}

fn faults(tap: &mut Tap, thread: &mut Thread) {
    let mut is = |name, rip, address, wanted| {
        tap.is(name, step(thread, rip, address, 7), wanted);
    };
    let last = DATA.end - 1;
    is("a process writes its data", WRITE, last, Exit::SystemCall);
    is(
        "and reads constants",
        READ,
        CONSTANT.start,
        Exit::SystemCall,
    );
    is(
        "which it cannot write",
        WRITE,
        CONSTANT.start,
        fault(CONSTANT.start, Fault::Denied),
    );
    is(
        "nor its code",
        WRITE,
        CODE.start,
        fault(CODE.start, Fault::Denied),
    );
    is(
        "it cannot run its data",
        JUMP,
        last,
        fault(last, Fault::Denied),
    );
    is(
        "nor read where it has nothing",
        READ,
        DATA.end,
        fault(DATA.end, Fault::Unmapped),
    );
    let kernel = memory::LINEAR_BASE;
    is(
        "nor where the kernel has",
        READ,
        kernel,
        fault(kernel, Fault::Unmapped),
    );
    let mut byte = [0];
    let read = thread.space().read(last, &mut byte);
    tap.is(
        "the kernel finds what it wrote",
        (read, byte),
        (Ok(()), [7]),
    );
}

fn privileges(tap: &mut Tap, thread: &mut Thread) {
    let exception = |vector| Exit::Exception {
        vector,
        error_code: 0,
    };
    for name in ["floating point is an exception", "and again"] {
        tap.is(name, step(thread, FLOAT, 0, 0), exception(7));
    }
    // As if the kernel had taken the registers from elsewhere.
    let registers = thread.registers_mut();
    (registers.cs, registers.ss, registers.rflags) = (0xe030, 0, 0x3000);
    tap.is(
        "a process has no I/O level",
        step(thread, CLI, 0, 0),
        exception(13),
    );
    tap.is("and is in user mode", thread.registers().cs & 3, 3);
    let exit = step(thread, 1 << 63, 0, 0);
    tap.is(
        "it runs no address that is none",
        exit,
        fault(user::END, Fault::Unmapped),
    );
}

/// How many frames there are fewer than `before` bytes.
fn taken(before: usize) -> i64 {
    (before as i64 - memory::free_bytes() as i64) / PAGE as i64
}

fn sharing(tap: &mut Tap) {
    let at_first = memory::free_bytes();
    let Some(mut parent) = process(tap) else {
        return;
    };
    for page in DATA.step_by(PAGE as usize) {
        step(&mut parent, WRITE, page, 1);
    }
    // Two roots, a table of each lower level, the code, and the data.
    tap.is(
        "a process takes tables and what it touched",
        taken(at_first),
        2 + 3 + 1 + 8,
    );
    let before = memory::free_bytes();
    let Ok(mut child) = parent.fork() else {
        tap.holds("it forks", false);
        return;
    };
    tap.is("a fork takes tables alone", taken(before), 2 + 3);
    let value = |thread: &Thread, page: u64| {
        let mut byte = [0];
        thread.space().read(page, &mut byte).map(|()| byte[0])
    };
    let second = DATA.start + PAGE;
    step(&mut child, READ, DATA.start, 0);
    tap.is("a child that reads", child.registers().rax & 0xff, 1);
    tap.is("takes no memory", taken(before), 2 + 3);
    step(&mut child, WRITE, DATA.start, 2);
    tap.is("one that writes takes a page", taken(before), 2 + 3 + 1);
    let values = [value(&parent, DATA.start), value(&child, DATA.start)];
    tap.is("which the parent does not see", values, [Ok(1), Ok(2)]);
    step(&mut parent, WRITE, DATA.start, 3);
    tap.is("the parent has its own again", taken(before), 2 + 3 + 1);
    step(&mut parent, WRITE, second, 4);
    tap.is("and copies what is shared", taken(before), 2 + 3 + 2);
    let values = [value(&parent, second), value(&child, second)];
    tap.is("which the child does not see", values, [Ok(4), Ok(1)]);
    drop(child);
    tap.is("a child that ends gives all of it back", taken(before), 0);
    drop(parent);
    user::leave();
    tap.is("and so does the parent", taken(at_first), 0);
}
