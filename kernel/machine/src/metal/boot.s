// From the boot loader to Rust: the multiboot headers, and the way from 32-bit mode without paging to the image's
// linked address.
//
// The loader may have put the image anywhere (multiples of 2 MiB, below 4 GiB); %ebp holds where.

.set MULTIBOOT1_MAGIC, 0x1badb002
.set MULTIBOOT1_FLAGS, 0x00010003          // modules on page boundaries, memory map, address fields
.set MULTIBOOT2_MAGIC, 0xe85250d6

.set PTE_TABLE, 0x63                       // present, writable, accessed, dirty
.set PTE_LARGE, 0xe3                       // the same, 2 MiB

.section .multiboot, "ax", @progbits
.balign 8
.global multiboot1_header
multiboot1_header:
    .long MULTIBOOT1_MAGIC
    .long MULTIBOOT1_FLAGS
    .long -(MULTIBOOT1_MAGIC + MULTIBOOT1_FLAGS)
    .long header_phys
    .long load_phys
    .long load_end_phys
    .long image_end_phys
    .long entry_phys

.balign 8
multiboot2_header:
    .long MULTIBOOT2_MAGIC
    .long 0
    .long multiboot2_header_end - multiboot2_header
    .long -(MULTIBOOT2_MAGIC + (multiboot2_header_end - multiboot2_header))
    // Entry address.
    .short 3, 0
    .long 12
    .long entry_phys
    .balign 8
    // Modules on page boundaries.
    .short 6, 0
    .long 8
    .balign 8
    // Relocatable: lowest and highest address, alignment, prefer the lowest.
    .short 10, 1
    .long 24
    .long 0x200000
    .long 0xffffffff
    .long 0x200000
    .long 1
    .balign 8
    // End.
    .short 0, 0
    .long 8
multiboot2_header_end:

.section .boot, "ax", @progbits
.code32
.global boot_start
boot_start:
    cli
    cld
    mov %eax, %edi
    mov %ebx, %esi

    // Where are we? The loader promises no stack; the first word of its information structure makes one for a call.
    mov (%ebx), %edx
    lea 4(%ebx), %esp
    call boot_here
.global boot_here
boot_here:
    pop %ebp
    mov %edx, (%ebx)
    sub $boot_here_offset, %ebp
    lea boot_stack_offset(%ebp), %esp

    cmp $0x2badb002, %edi
    je 1f
    cmp $0x36d76289, %edi
    jne boot_refuse
1:
    // Long mode?
    mov $0x80000000, %eax
    cpuid
    cmp $0x80000001, %eax
    jb boot_refuse
    mov $0x80000001, %eax
    cpuid
    bt $29, %edx
    jnc boot_refuse

    // The low 4 GiB, at 0 and in the direct map's slot.
    lea boot_l4_offset(%ebp), %eax
    lea boot_l3_low_offset + PTE_TABLE(%ebp), %ecx
    mov %ecx, (%eax)
    mov %ecx, 262 * 8(%eax)
    lea boot_l3_image_offset + PTE_TABLE(%ebp), %ecx
    mov %ecx, 261 * 8(%eax)
    lea boot_l3_low_offset(%ebp), %eax
    lea boot_l2_low_offset + PTE_TABLE(%ebp), %ecx
    mov %ecx, (%eax)
    add $0x1000, %ecx
    mov %ecx, 8(%eax)
    add $0x1000, %ecx
    mov %ecx, 16(%eax)
    add $0x1000, %ecx
    mov %ecx, 24(%eax)
    lea boot_l2_low_offset(%ebp), %eax
    mov $PTE_LARGE, %ecx
    mov $2048, %edx
2:
    mov %ecx, (%eax)
    add $0x200000, %ecx
    add $8, %eax
    dec %edx
    jnz 2b

    // The image, 16 MiB from its linked address.
    lea boot_l3_image_offset(%ebp), %eax
    lea boot_l2_image_offset + PTE_TABLE(%ebp), %ecx
    mov %ecx, 0x141 * 8(%eax)
    lea boot_l2_image_offset + 8(%ebp), %eax
    lea PTE_LARGE(%ebp), %ecx
    mov $8, %edx
3:
    mov %ecx, (%eax)
    add $0x200000, %ecx
    add $8, %eax
    dec %edx
    jnz 3b

    // Long mode: PAE, the tables, EFER.LME, paging and write protection.
    mov $0x20, %eax
    mov %eax, %cr4
    lea boot_l4_offset(%ebp), %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax
    wrmsr
    mov $0x80010033, %eax
    mov %eax, %cr0

    lea boot_gdt_offset(%ebp), %eax
    push $0
    push %eax
    pushw $23
    lgdt (%esp)
    push $8
    lea boot_long_offset(%ebp), %eax
    push %eax
    lret

// Says on the first serial port that this cannot go on.
boot_refuse:
    lea boot_refuse_text_offset(%ebp), %esi
1:
    lodsb
    test %al, %al
    jz 2f
    mov $0x3f8, %dx
    out %al, %dx
    jmp 1b
2:
    hlt
    jmp 2b

.code64
.global boot_long
boot_long:
    movabs $boot_high, %rax
    jmp *%rax
boot_high:
    xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %eax, %fs
    mov %eax, %gs
    lea boot_stack_end(%rip), %rsp
    // boot_rust(magic, info, image_phys)
    mov %edi, %edi
    mov %esi, %esi
    mov %ebp, %edx
    xor %ebp, %ebp
    push %rbp
    jmp boot_rust

.balign 8
.global boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff

.global boot_refuse_text
boot_refuse_text:
    .asciz "xenolith: this needs a multiboot loader and a 64-bit processor\r\n"

.section .bss.boot, "aw", @nobits
.balign 4096
.global boot_l4
boot_l4: .skip 4096
.global boot_l3_low
boot_l3_low: .skip 4096
.global boot_l3_image
boot_l3_image: .skip 4096
.global boot_l2_low
boot_l2_low: .skip 4 * 4096
.global boot_l2_image
boot_l2_image: .skip 4096
.skip 64 * 1024
.global boot_stack_end
boot_stack_end:
