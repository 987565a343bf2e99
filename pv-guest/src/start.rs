//! Start of day: the ELF notes that a domain builder looks for, the entry point, and the way from
//! there to the guest's `main`.

use core::arch::global_asm;
use core::sync::atomic::Ordering::SeqCst;

use hypercall_abi::arch_x86::HYPERVISOR_VIRT_START;
use hypercall_abi::{elfnote, features, xen::StartInfo};

use crate::{clock, console, cpu, evtchn_bits, memory, queues, traps, vcpus};

/// Where the image's ELF addresses begin, as in the linker script.
pub(crate) const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;

const SUPPORTED_FEATURES: u64 = 1 << features::XENFEAT_WRITABLE_PAGE_TABLES
    | 1 << features::XENFEAT_PAE_PGDIR_ABOVE_4GB
    | 1 << features::XENFEAT_MMU_PT_UPDATE_PRESERVE_AD
    | 1 << features::XENFEAT_DOM0;

global_asm!(
    r#"
    .macro pv_note type, desc:vararg
        .balign 4
        .long 4, 2f - 1f, \type
        .asciz "Xen"
    1:  \desc
    2:  .balign 4
    .endm

    .pushsection .note.Xen, "a", @note
    pv_note {xen_version}, .asciz "xen-3.0"
    pv_note {guest_os}, .asciz "xenolith"
    pv_note {guest_version}, .asciz "{version}"
    pv_note {loader}, .asciz "generic"
    pv_note {entry}, .quad _start
    pv_note {hypercall_page}, .quad hypercall_page
    pv_note {virt_base}, .quad {base}
    pv_note {paddr_offset}, .quad 0
    pv_note {features}, .asciz "writable_page_tables|pae_pgdir_above_4gb"
    pv_note {supported_features}, .quad {supported}
    pv_note {pae_mode}, .asciz "yes"
    // An entry carries a machine frame if its present bit is set.
    pv_note {l1_mfn_valid}, .quad 1, 1
    pv_note {hv_start_low}, .quad {hypervisor}
    pv_note {suspend_cancel}, .quad 1
    .popsection

    // The hypervisor or the domain builder fills it in before the guest starts.
    .pushsection .text.hypercall_page, "ax", @progbits
    .balign 4096
    .globl hypercall_page
    hypercall_page:
    .fill 4096, 1, 0xcc
    .popsection

    .pushsection .text._start, "ax", @progbits
    .globl _start
    _start:
        cld
        mov rdi, rsi
        mov rsi, rsp
        lea rsp, [rip + __stack_top]
        xor ebp, ebp
        call {start}
        ud2
    .popsection
    "#,
    xen_version = const elfnote::XEN_ELFNOTE_XEN_VERSION,
    guest_os = const elfnote::XEN_ELFNOTE_GUEST_OS,
    guest_version = const elfnote::XEN_ELFNOTE_GUEST_VERSION,
    version = const 1,
    loader = const elfnote::XEN_ELFNOTE_LOADER,
    entry = const elfnote::XEN_ELFNOTE_ENTRY,
    hypercall_page = const elfnote::XEN_ELFNOTE_HYPERCALL_PAGE,
    virt_base = const elfnote::XEN_ELFNOTE_VIRT_BASE,
    base = const VIRT_BASE,
    paddr_offset = const elfnote::XEN_ELFNOTE_PADDR_OFFSET,
    features = const elfnote::XEN_ELFNOTE_FEATURES,
    supported_features = const elfnote::XEN_ELFNOTE_SUPPORTED_FEATURES,
    supported = const SUPPORTED_FEATURES,
    pae_mode = const elfnote::XEN_ELFNOTE_PAE_MODE,
    l1_mfn_valid = const elfnote::XEN_ELFNOTE_L1_MFN_VALID,
    hv_start_low = const elfnote::XEN_ELFNOTE_HV_START_LOW,
    hypervisor = const HYPERVISOR_VIRT_START,
    suspend_cancel = const elfnote::XEN_ELFNOTE_SUSPEND_CANCEL,
    start = sym start,
);

unsafe extern "Rust" {
    /// What [`crate::entry`] defines.
    safe fn __pv_guest_main() -> !;
}

/// The first Rust code. `info` is the start info page, `stack` the top of the stack that the
/// builder made.
unsafe extern "C" fn start(info: *const StartInfo, stack: u64) -> ! {
    // SAFETY: the entry convention of PV guests puts the address of the start info, mapped and
    // initialised, into rsi.
    let info = unsafe { info.read() };
    // SAFETY: this is the first thing done.
    unsafe { vcpus::init_boot() };
    // SAFETY: this is the one call, before anything else is set up; the page is the one that the
    // start info names.
    unsafe { cpu::map_shared_info(&info) };
    cpu::vcpu().upcall_mask.store(1, SeqCst);
    evtchn_bits::mask_all(cpu::shared());
    traps::register();
    // SAFETY: this is the one call, on the stack of the image, and nothing but the image and the
    // builder's pages is in use.
    unsafe { memory::init(&info, stack) };
    queues::init();
    console::init();
    clock::init();
    cpu::enable_upcalls();
    __pv_guest_main()
}
