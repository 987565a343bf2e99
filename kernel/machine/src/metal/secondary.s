// How a CPU that is not the first comes to Rust: from real mode at secondary_start's copy in low memory, by way of the
// boot tables, which map low memory where it is, to the hypervisor's tables and the CPU's own stack.

.set TRAMPOLINE, 0x8000                    // as secondary.rs has it

.section .rodata.secondary, "a", @progbits
.balign 16
.code16
.global secondary_start
secondary_start:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    lgdtl TRAMPOLINE + secondary_gdtr - secondary_start
    mov $0x11, %eax                        // ET, PE
    mov %eax, %cr0
    ljmpl $0x08, $(TRAMPOLINE + secondary_32 - secondary_start)

.code32
secondary_32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x20, %eax                        // PAE
    mov %eax, %cr4
    mov TRAMPOLINE + secondary_boot_root - secondary_start, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or TRAMPOLINE + secondary_efer - secondary_start, %eax
    wrmsr
    mov $0x80010033, %eax
    mov %eax, %cr0
    ljmpl $0x18, $(TRAMPOLINE + secondary_64 - secondary_start)

.code64
secondary_64:
    mov TRAMPOLINE + secondary_root - secondary_start, %rbx
    mov TRAMPOLINE + secondary_stack - secondary_start, %rsp
    mov TRAMPOLINE + secondary_high_at - secondary_start, %rax
    jmp *%rax

.balign 8
secondary_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
secondary_gdtr:
    .short 31
    .long TRAMPOLINE + secondary_gdt - secondary_start
.balign 8
// What secondary.rs fills in: `Parameters`.
.global secondary_parameters
secondary_parameters:
secondary_root:
    .quad 0
secondary_stack:
    .quad 0
secondary_high_at:
    .quad 0
secondary_boot_root:
    .long 0
secondary_efer:
    .long 0
.global secondary_end
secondary_end:

.text
// %rbx: the hypervisor's root; %rsp: a stack that it maps.
.global secondary_high
secondary_high:
    mov %rbx, %cr3
    xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    xor %ebp, %ebp
    push %rbp
    jmp secondary_rust
