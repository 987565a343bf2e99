//! What the processes run, in user mode.
//!
//! It is position-independent and has no data of its own, so it is copied into each first process as
//! it is. The number of a system call is in rax, arguments are in rdi and rsi, the result comes in
//! rax; rcx and r11 are lost.

use core::arch::global_asm;
use core::ops::Range;

/// Children of the first process.
pub const CHILDREN: u32 = 100;

/// Where the program is.
pub const CODE: Range<u64> = 0x40_0000..0x40_1000;

/// What the processes share at first: [`PAGES`] pages.
pub const DATA: Range<u64> = 0x10_0000_0000..0x10_0000_0000 + PAGES * 4096;

/// The stack.
pub const STACK: Range<u64> = 0x7fff_0000_0000..0x7fff_0000_4000;

const PAGES: u64 = 16;

/// Pages that each child writes to.
const OWN: u64 = 4;

/// System calls.
pub mod call {
    /// Ends the process, with the number of wrong words it found.
    pub const EXIT: u64 = 0;
    /// Makes another process: 0 there, its number here, a negative value where it fails.
    pub const FORK: u64 = 1;
    /// Lets another process run.
    pub const YIELD: u64 = 2;
    /// Prints the text at an address, of a length.
    pub const WRITE: u64 = 3;
    /// Waits until all children are there.
    pub const MEET: u64 = 4;
    /// Waits until all children ended; how many of them found something wrong.
    pub const WAIT: u64 = 5;
}

global_asm!(
    r#"
    .pushsection .rodata.forks_program, "a", @progbits
    .globl forks_program
    forks_program:
        // ebx: the number of this process. The first fills all pages with its pattern.
        xor ebx, ebx
        movabs rdi, {data}
        mov ecx, {pages} * 512
        call fill
        lea rdi, [rip + greeting]
        lea rsi, [rip + greeting_end]
        sub rsi, rdi
        mov eax, {write}
        syscall
        xor r12d, r12d
        // Between forks it writes to its stack: each child is to find its own number there, not what
        // came later.
    1:  inc r12d
        push r12
        mov eax, {fork}
        syscall
        test rax, rax
        js failed
        jz child
        add rsp, 8
        cmp r12d, {children}
        jb 1b
        mov eax, {wait}
        syscall
        mov r13, rax
        movabs rdi, {data}
        mov ecx, {pages} * 512
        xor edx, edx
        call check
        lea rdi, [rdx + r13]
        jmp exit
    failed:
        mov edi, 1
    exit:
        mov eax, {exit}
        syscall
        ud2

    child:
        // Its number goes to its stack too, and its pattern to some of the pages. r13: how many
        // words are before these.
        mov ebx, r12d
        push rbx
        mov eax, ebx
        xor edx, edx
        mov ecx, {pages} - {own} + 1
        div ecx
        mov r13d, edx
        shl r13d, 9
        movabs rdi, {data}
        lea rdi, [rdi + r13 * 8]
        mov ecx, {own} * 512
        call fill
        mov eax, {yield_}
        syscall
        // Long enough to be interrupted now and then.
        mov ecx, 200000
    1:  dec ecx
        jnz 1b
        mov eax, {meet}
        syscall
        // All have written. edx: how many words are wrong here.
        xor edx, edx
        pop rax
        cmp rax, rbx
        setne dl
        pop rax
        cmp rax, r12
        je 1f
        inc edx
    1:
        movabs rdi, {data}
        mov ebx, 0
        mov ecx, r13d
        call check
        mov ebx, r12d
        mov ecx, {own} * 512
        call check
        mov ebx, 0
        mov ecx, ({pages} - {own}) * 512
        sub ecx, r13d
        call check
        mov edi, edx
        jmp exit

    // The word that process ebx has at rdi, in rax.
    pattern:
        lea rax, [rbx + 1]
        movabs rsi, 0x9e3779b97f4a7c15
        imul rax, rsi
        add rax, rdi
        ret

    // Fills ecx words from rdi on with the pattern of process ebx.
    fill:
        call pattern
        mov [rdi], rax
        add rdi, 8
        dec ecx
        jnz fill
        ret

    // Adds to edx how many of ecx words from rdi on are not what process ebx wrote.
    check:
        test ecx, ecx
        jz 2f
    1:  call pattern
        cmp rax, [rdi]
        je 3f
        inc edx
    3:  add rdi, 8
        dec ecx
        jnz 1b
    2:  ret

    greeting:
        .ascii "forks: hello from user mode\n"
    greeting_end:
    .globl forks_program_end
    forks_program_end:
    .popsection
    "#,
    data = const DATA.start,
    pages = const PAGES,
    own = const OWN,
    children = const CHILDREN,
    exit = const call::EXIT,
    fork = const call::FORK,
    yield_ = const call::YIELD,
    write = const call::WRITE,
    meet = const call::MEET,
    wait = const call::WAIT,
);

unsafe extern "C" {
    static forks_program: u8;
    static forks_program_end: u8;
}

/// The program.
pub fn text() -> &'static [u8] {
    let start = &raw const forks_program;
    let size = (&raw const forks_program_end).addr() - start.addr();
    // SAFETY: the bytes between the two are constants of this image.
    unsafe { core::slice::from_raw_parts(start, size) }
}
