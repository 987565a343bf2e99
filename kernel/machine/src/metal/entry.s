// The ways into a guest and out of it, and the vectors.
//
// While a guest runs, TSS.RSP0 of its CPU points at what `enter_guest` pushed: the address of the guest's register
// file, the callee-saved registers, the return address. Every way out stores the guest's registers in that file,
// takes the host's back from there, and returns from `enter_guest` with a code in %rax:
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

// Stores all general registers but %rdi, which is on the stack at (%rsp), in the file at %rdi.
.macro STORE_GUEST
    mov %r15, R15(%rdi)
    mov %r14, R14(%rdi)
    mov %r13, R13(%rdi)
    mov %r12, R12(%rdi)
    mov %rbp, RBP(%rdi)
    mov %rbx, RBX(%rdi)
    mov %r11, R11(%rdi)
    mov %r10, R10(%rdi)
    mov %r9, R9(%rdi)
    mov %r8, R8(%rdi)
    mov %rax, RAX(%rdi)
    mov %rcx, RCX(%rdi)
    mov %rdx, RDX(%rdi)
    mov %rsi, RSI(%rdi)
    mov (%rsp), %rax
    mov %rax, RDI(%rdi)
.endm

// With %rsp at the callee-saved registers and the code in %rax: back to the caller of `enter_guest`. No register
// keeps a value of the guest's that speculation could use.
.macro RETURN_TO_HOST
    xor %ecx, %ecx
    xor %edx, %edx
    xor %esi, %esi
    xor %edi, %edi
    xor %r8d, %r8d
    xor %r9d, %r9d
    xor %r10d, %r10d
    xor %r11d, %r11d
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
.endm

.text

// enter_guest(registers: *mut CpuUserRegs, block: *mut Block) -> u64
.global enter_guest
enter_guest:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    push %rdi
    mov %rsp, BLOCK_RSP0(%rsi)

    // `sysret` gives what `iret` would if the frame looks like that of a `syscall`, and is much cheaper. Not to a
    // non-canonical address: the fault would be taken in ring 0 on the guest's stack.
    mov RIP(%rdi), %rcx
    mov RFLAGS(%rdi), %r11
    cmp %rcx, RCX(%rdi)
    jne 1f
    cmp %r11, R11(%rdi)
    jne 1f
    cmpw $GUEST_CS64, CS(%rdi)
    jne 1f
    cmpw $GUEST_SS, SS(%rdi)
    jne 1f
    test $0x30100, %r11d                   // VM, RF, TF
    jnz 1f
    mov %rcx, %rax
    shl $16, %rax
    sar $16, %rax
    cmp %rcx, %rax
    jne 1f
    // An exception has made SS null, with which some processors would leave the guest's SS without attributes.
    mov %ss, %eax
    test %eax, %eax
    jnz 2f
    mov $HYPERVISOR_DS, %eax
    mov %eax, %ss
2:

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
    add $8, %rsp
    RETURN_TO_HOST

// All vectors come here with the error code (or 0) and the vector pushed.
.balign 16
vector_common:
    testb $3, 24(%rsp)
    jz vector_from_host

    push %rdi
    mov %rsp, %rdi
    and $WINDOW_MASK, %rdi
    mov BLOCK + BLOCK_RSP0(%rdi), %rdi
    mov (%rdi), %rdi
    SMAP_CLAC
    cld
    STORE_GUEST
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
    mov 16(%rsp), %eax
    mov 8(%rsp), %ecx
    shl $32, %rcx
    or %rcx, %rax
    mov %rsp, %rdi
    and $WINDOW_MASK, %rdi
    mov BLOCK + BLOCK_RSP0(%rdi), %rsp
    add $8, %rsp
    RETURN_TO_HOST

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

// idle_poll(): lets at most one waiting interrupt in. `sti` holds it back for one instruction; `pause` has software
// emulation look for one.
.global idle_poll
idle_poll:
    sti
    nop
    pause
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

// read_guest(to: *mut u8, from: u64, len: usize) -> bool, and write_guest: true if all went well. A fault of the copy
// itself continues at 3.
.macro GUEST_COPY name
.global \name
\name:
771:
    .byte 0x0f, 0x1f, 0x00
    .pushsection .smap_patch, "a", @progbits
    .quad 771b
    .quad 0xcb010f
    .popsection
    cmp $8, %rdx
    jne 1f
4:
    mov (%rsi), %rax
5:
    mov %rax, (%rdi)
    mov $1, %eax
    jmp 2f
1:
    mov %rdx, %rcx
    shr $3, %rcx
6:
    rep movsq
    mov %edx, %ecx
    and $7, %ecx
7:
    rep movsb
    mov $1, %eax
2:
    SMAP_CLAC
    ret
3:
    xor %eax, %eax
    jmp 2b
    .pushsection .fixup, "a", @progbits
    .quad 4b, 3b
    .quad 5b, 3b
    .quad 6b, 3b
    .quad 7b, 3b
    .popsection
.endm
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
    BLOCK_FIELD_STORE %rsp, BLOCK_SCRATCH
    BLOCK_FIELD_LOAD BLOCK_RSP0, %rsp
    push %rdi
    mov 8(%rsp), %rdi
    STORE_GUEST
    mov %rcx, RIP(%rdi)
    mov %r11, RFLAGS(%rdi)
    BLOCK_FIELD_LOAD BLOCK_SCRATCH, %rax
    mov %rax, RSP(%rdi)
    movq $\cs, CS(%rdi)
    movq $GUEST_SS, SS(%rdi)
    mov $\code, %eax
    shl $32, %rax
    add $16, %rsp
    RETURN_TO_HOST
.endm

SYSCALL_ENTRY syscall_entry, GUEST_CS64, EXIT_SYSCALL
SYSCALL_ENTRY syscall32_entry, GUEST_CS32, EXIT_SYSCALL32

// `sysenter` keeps neither the stack nor the instruction pointer, and most flags as they were.
.balign 16
.global sysenter_entry
sysenter_entry:
    BLOCK_FIELD_LOAD BLOCK_RSP0, %rsp
    push %rdi
    mov 8(%rsp), %rdi
    STORE_GUEST
    pushfq
    pop %rax
    or $0x200, %eax
    mov %rax, RFLAGS(%rdi)
    push $2
    popfq
    mov $EXIT_SYSENTER, %eax
    shl $32, %rax
    add $16, %rsp
    RETURN_TO_HOST
