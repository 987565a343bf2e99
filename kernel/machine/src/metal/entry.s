// The ways into a guest and out of it, and the vectors.
//
// While a guest runs, TSS.RSP0 of its CPU points at what `enter_guest` pushed, and the CPU's block has the address of
// the guest's register file. Every way out stores the guest's registers in that file and returns from `enter_guest`
// with a code in %rax:
//
//   bits 0-31   error code
//   bits 32-47  vector, or one of the EXIT_ numbers
//   bits 48-63  for EXIT_BAD_FRAME: the vector that `iret` raised
//
// A CPU's stacks and its block are in its window (cpu.rs), so the block is found from any stack pointer.

.set WINDOW_MASK, -0x100000                // all stacks of a CPU and its block are in 1 MiB
.set BLOCK, 0x22000                        // offset of the block in the window
.set BLOCK_RSP0, 8                         // TSS.RSP0 in the block
.set BLOCK_SCRATCH, 0x70
.set BLOCK_REGISTERS, 0x78
.set ENTRY_TO_BLOCK, 0x1000                // from the entry page to the block

.set EXIT_SYSCALL, 0x100
.set EXIT_SYSCALL32, 0x101
.set EXIT_SYSENTER, 0x102

.set R15, 0
.set R14, 8
.set R13, 16
.set R12, 24
.set RBP, 32
.set RBX, 40
.set R11, 48
.set R10, 56
.set R9, 64
.set R8, 72
.set RAX, 80
.set RCX, 88
.set RDX, 96
.set RSI, 104
.set RDI, 112
.set RIP, 128
.set CS, 136
.set RFLAGS, 144
.set RSP, 152
.set SS, 160

.set RFLAGS_AC, 0x40000

.set HYPERVISOR_DS, 0xe010
.set GUEST_CS32, 0xe023
.set GUEST_SS, 0xe02b
.set GUEST_CS64, 0xe033

// Room for `clac` or `stac`, which boot.rs writes where the CPU has SMAP.
.macro SMAP_CLAC
771:
    .byte 0x0f, 0x1f, 0x00
    .pushsection .smap_patch, "a", @progbits
    .quad 771b
    .quad 0xca010f
    .popsection
.endm

// Stores all general registers but %rdi in the file at \file.
.macro STORE_GUEST file
    mov %r15, R15(\file)
    mov %r14, R14(\file)
    mov %r13, R13(\file)
    mov %r12, R12(\file)
    mov %rbp, RBP(\file)
    mov %rbx, RBX(\file)
    mov %r11, R11(\file)
    mov %r10, R10(\file)
    mov %r9, R9(\file)
    mov %r8, R8(\file)
    mov %rax, RAX(\file)
    mov %rcx, RCX(\file)
    mov %rdx, RDX(\file)
    mov %rsi, RSI(\file)
.endm

// With %rsp at what `enter_guest` pushed and the code in %rax: back to its caller. No register keeps a value of the
// guest's that speculation could use.
.macro RETURN_TO_HOST
    xor %ecx, %ecx
    xor %edx, %edx
    xor %esi, %esi
    xor %edi, %edi
    xor %r8d, %r8d
    xor %r9d, %r9d
    xor %r10d, %r10d
    xor %r11d, %r11d
    xor %r12d, %r12d
    xor %r13d, %r13d
    xor %r14d, %r14d
    xor %r15d, %r15d
    pop %rbp
    pop %rbx
    ret
.endm

.section .text.entry, "ax", @progbits

// enter_guest(registers: *mut CpuUserRegs, block: *mut Block) -> u64. Of the caller's registers it keeps %rbx, %rbp and
// %rsp alone.
.global enter_guest
enter_guest:
    push %rbx
    push %rbp
    mov %rdi, BLOCK_REGISTERS(%rsi)
    mov %rsp, BLOCK_RSP0(%rsi)

    // `sysret` gives what `iret` would if the frame looks like that of a `syscall`, and is much cheaper. Not to a
    // non-canonical address: the fault would be taken in ring 0 on the guest's stack. What differs gathers in %rdx, for
    // one branch: each costs as much as several instructions, most of all where code is translated.
    mov RIP(%rdi), %rcx
    mov RFLAGS(%rdi), %r11
    mov %rcx, %rdx
    shl $16, %rdx
    sar $16, %rdx
    xor %rcx, %rdx
    mov RCX(%rdi), %rax
    xor %rcx, %rax
    or %rax, %rdx
    mov R11(%rdi), %rax
    xor %r11, %rax
    or %rax, %rdx
    movzwl CS(%rdi), %eax
    xor $GUEST_CS64, %eax
    or %rax, %rdx
    movzwl SS(%rdi), %eax
    xor $GUEST_SS, %eax
    or %rax, %rdx
    mov %r11d, %eax
    and $0x30100, %eax                     // VM, RF, TF
    or %rax, %rdx
    jnz 1f
    mov R15(%rdi), %r15
    mov R14(%rdi), %r14
    mov R13(%rdi), %r13
    mov R12(%rdi), %r12
    mov RBP(%rdi), %rbp
    mov RBX(%rdi), %rbx
    mov R10(%rdi), %r10
    mov R9(%rdi), %r9
    mov R8(%rdi), %r8
    mov RAX(%rdi), %rax
    mov RDX(%rdi), %rdx
    mov RSI(%rdi), %rsi
    mov RSP(%rdi), %rsp
    mov RDI(%rdi), %rdi
    sysretq

1:
    movzwl SS(%rdi), %eax
    push %rax
    push RSP(%rdi)
    push %r11
    movzwl CS(%rdi), %eax
    push %rax
    push %rcx
    mov R15(%rdi), %r15
    mov R14(%rdi), %r14
    mov R13(%rdi), %r13
    mov R12(%rdi), %r12
    mov RBP(%rdi), %rbp
    mov RBX(%rdi), %rbx
    mov R11(%rdi), %r11
    mov R10(%rdi), %r10
    mov R9(%rdi), %r9
    mov R8(%rdi), %r8
    mov RAX(%rdi), %rax
    mov RCX(%rdi), %rcx
    mov RDX(%rdi), %rdx
    mov RSI(%rdi), %rsi
    mov RDI(%rdi), %rdi
.global guest_iret
guest_iret:
    iretq

// Where trap.rs continues when `guest_iret` faulted, with the code in %rax and %rsp as after the pushes above.
.global guest_iret_failed
guest_iret_failed:
    RETURN_TO_HOST

// The vector of page faults has an entry of its own: it is the most frequent by far.
.balign 16
.global page_fault_entry
page_fault_entry:
    pushq $14
// All vectors come here with the error code (or 0) and the vector pushed.
vector_common:
    testb $3, 24(%rsp)
    jz vector_from_host

    push %rdi
    mov %rsp, %rdi
    and $WINDOW_MASK, %rdi
    mov BLOCK + BLOCK_REGISTERS(%rdi), %rdi
    // AC is as the guest had it, and hardly ever set; `clac` costs more than a look.
    testb $RFLAGS_AC >> 16, 42(%rsp)
    jz 1f
    SMAP_CLAC
1:
    cld
    STORE_GUEST %rdi
    mov (%rsp), %rax
    mov %rax, RDI(%rdi)
    mov 24(%rsp), %rax
    mov %rax, RIP(%rdi)
    mov 32(%rsp), %rax
    mov %rax, CS(%rdi)
    mov 40(%rsp), %rax
    mov %rax, RFLAGS(%rdi)
    mov 48(%rsp), %rax
    mov %rax, RSP(%rdi)
    mov 56(%rsp), %rax
    mov %rax, SS(%rdi)
    // The exception has made SS null, with which the `sysret` of some processors would leave the guest's SS without
    // attributes. It is mended here, not there, so that all code between is run in one state of the processor: software
    // emulation translates and looks up code by the state that it runs in.
    mov $HYPERVISOR_DS, %eax
    mov %eax, %ss
    mov 16(%rsp), %eax
    mov 8(%rsp), %ecx
    shl $32, %rcx
    or %rcx, %rax
    mov %rsp, %rdi
    and $WINDOW_MASK, %rdi
    mov BLOCK + BLOCK_RSP0(%rdi), %rsp
    RETURN_TO_HOST

.text
vector_from_host:
    push %rdi
    push %rsi
    push %rdx
    push %rcx
    push %rax
    push %r8
    push %r9
    push %r10
    push %r11
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    SMAP_CLAC
    cld
    mov %rsp, %rdi
    mov %rsp, %rbx
    and $-16, %rsp
    call host_trap
    mov %rbx, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rax
    pop %rcx
    pop %rdx
    pop %rsi
    pop %rdi
    add $16, %rsp
    iretq

// The 256 entries, 16 bytes each. Vectors 8, 10-14, 17, 21, 29 and 30 have an error code of the processor's.
.balign 16
.global vector_entries
vector_entries:
.set vector, 0
.rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    push $0
    .endif
    pushq $vector
    jmp vector_common
    .set vector, vector + 1
.endr

// idle_wait(): lets interrupts in and sleeps until one has come. trap.rs clears IF in the frame that it returns to,
// so exactly one is taken; a non-maskable one continues behind `hlt`.
.global idle_wait
idle_wait:
    sti
.global idle_halt
idle_halt:
    hlt
.global idle_woken
idle_woken:
    cli
    ret

// unblock_nmi(): a guest left by a non-maskable interrupt; only `iret` lets the next one in.
.global unblock_nmi
unblock_nmi:
    mov %rsp, %rax
    mov %ss, %ecx
    push %rcx
    push %rax
    pushfq
    mov %cs, %ecx
    push %rcx
    lea 1f(%rip), %rax
    push %rax
    iretq
1:
    ret

.section .text.entry, "ax", @progbits

// Moves \count times 8 bytes from %rsi to %rdi.
.macro MOVE_WORDS count
    .set offset, 0
    .rept \count
    774:
        mov offset(%rsi), %rax
    775:
        mov %rax, offset(%rdi)
        .pushsection .fixup, "a", @progbits
        .quad 774b, copy_failed
        .quad 775b, copy_failed
        .popsection
        .set offset, offset + 8
    .endr
.endm

// read_guest(to: *mut u8, from: u64, len: usize) -> bool, and write_guest: true if all went well. A fault of the copy
// itself continues at `copy_failed`. A few words, as most copies are, are moved one by one: string instructions take
// their time to begin.
.macro GUEST_COPY name
.global \name
\name:
771:
    .byte 0x0f, 0x1f, 0x00
    .pushsection .smap_patch, "a", @progbits
    .quad 771b
    .quad 0xcb010f
    .popsection
    test $~0x78, %rdx
    jnz 5f
    test $64, %dl
    jz 1f
    MOVE_WORDS 8
    add $64, %rsi
    add $64, %rdi
1:
    test $32, %dl
    jz 2f
    MOVE_WORDS 4
    add $32, %rsi
    add $32, %rdi
2:
    test $16, %dl
    jz 3f
    MOVE_WORDS 2
    add $16, %rsi
    add $16, %rdi
3:
    test $8, %dl
    jz 4f
    MOVE_WORDS 1
4:
    mov $1, %eax
    SMAP_CLAC
    ret
5:
    cmp $4, %rdx
    jne 8f
10:
    mov (%rsi), %eax
11:
    mov %eax, (%rdi)
    jmp 4b
8:
    mov %rdx, %rcx
    shr $3, %rcx
6:
    rep movsq
    mov %edx, %ecx
    and $7, %ecx
7:
    rep movsb
    jmp 4b
    .pushsection .fixup, "a", @progbits
    .quad 10b, copy_failed
    .quad 11b, copy_failed
    .quad 6b, copy_failed
    .quad 7b, copy_failed
    .popsection
.endm

copy_failed:
    xor %eax, %eax
    SMAP_CLAC
    ret

GUEST_COPY read_guest
GUEST_COPY write_guest

// The entries without a stack of their own. This page is mapped in front of the block in every CPU's window, so
// that %rip leads to the block.
.section .cpu_entry, "ax", @progbits
.balign 16

.macro BLOCK_FIELD_LOAD field, register
    mov cpu_entry_start + ENTRY_TO_BLOCK + \field(%rip), \register
.endm
.macro BLOCK_FIELD_STORE register, field
    mov \register, cpu_entry_start + ENTRY_TO_BLOCK + \field(%rip)
.endm

.macro SYSCALL_ENTRY name, cs, code
.balign 16
.global \name
\name:
    // Nothing is pushed while the stack pointer is a pointer to the file: what can come here has a stack of its own.
    BLOCK_FIELD_STORE %rsp, BLOCK_SCRATCH
    BLOCK_FIELD_LOAD BLOCK_REGISTERS, %rsp
    STORE_GUEST %rsp
    mov %rdi, RDI(%rsp)
    mov %rcx, RIP(%rsp)
    mov %r11, RFLAGS(%rsp)
    BLOCK_FIELD_LOAD BLOCK_SCRATCH, %rax
    mov %rax, RSP(%rsp)
    movq $\cs, CS(%rsp)
    movq $GUEST_SS, SS(%rsp)
    movabs $\code << 32, %rax
    BLOCK_FIELD_LOAD BLOCK_RSP0, %rsp
    RETURN_TO_HOST
.endm

SYSCALL_ENTRY syscall_entry, GUEST_CS64, EXIT_SYSCALL
SYSCALL_ENTRY syscall32_entry, GUEST_CS32, EXIT_SYSCALL32

// `sysenter` keeps neither the stack nor the instruction pointer, and most flags as they were.
.balign 16
.global sysenter_entry
sysenter_entry:
    BLOCK_FIELD_LOAD BLOCK_REGISTERS, %rsp
    STORE_GUEST %rsp
    mov %rdi, RDI(%rsp)
    mov %rsp, %rdi
    BLOCK_FIELD_LOAD BLOCK_RSP0, %rsp
    pushfq
    pop %rax
    or $0x200, %eax
    mov %rax, RFLAGS(%rdi)
    push $2
    popfq
    movabs $EXIT_SYSENTER << 32, %rax
    RETURN_TO_HOST
