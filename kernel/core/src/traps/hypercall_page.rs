//! The hypercall page: 128 stubs of 32 bytes, one per hypercall number.
//!
//! A stub keeps RCX and R11, which `syscall` overwrites. That of `iret` is jumped to, completes the frame on the
//! stack (`struct iret_context`) and does not return.

use hv_machine::PAGE_SIZE;
use hypercall_abi::xen::HYPERVISOR_IRET;

const STUB: usize = 32;
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const PUSH_RCX_R11: [u8; 3] = [0x51, 0x41, 0x53];
const PUSH_RAX: u8 = 0x50;
const MOV_EAX: u8 = 0xb8;
const POP_R11_RCX_RET: [u8; 4] = [0x41, 0x5b, 0x59, 0xc3];

/// The contents of a hypercall page. What no stub needs is `int3`.
pub fn hypercall_page() -> [u8; PAGE_SIZE] {
    let mut page = [0xcc; PAGE_SIZE];
    for (number, stub) in (0_u32..).zip(page.chunks_exact_mut(STUB)) {
        let mut code = stub.iter_mut();
        let mut emit = |bytes: &[u8]| {
            for (&byte, slot) in bytes.iter().zip(code.by_ref()) {
                *slot = byte;
            }
        };
        emit(&PUSH_RCX_R11);
        if number == HYPERVISOR_IRET {
            emit(&[PUSH_RAX]);
        }
        emit(&[MOV_EAX]);
        emit(&number.to_le_bytes());
        emit(&SYSCALL);
        if number != HYPERVISOR_IRET {
            emit(&POP_R11_RCX_RET);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_loads_its_number_and_restores_what_syscall_clobbers() {
        let page = hypercall_page();
        let stub = &page[17 * 32..18 * 32];
        assert_eq!(
            &stub[..14],
            &[
                0x51, 0x41, 0x53, 0xb8, 17, 0, 0, 0, 0x0f, 0x05, 0x41, 0x5b, 0x59, 0xc3
            ]
        );
    }

    #[test]
    fn the_iret_stub_pushes_the_rest_of_its_frame_and_does_not_return() {
        let page = hypercall_page();
        let stub = &page[23 * 32..24 * 32];
        assert_eq!(
            &stub[..12],
            &[0x51, 0x41, 0x53, 0x50, 0xb8, 23, 0, 0, 0, 0x0f, 0x05, 0xcc]
        );
    }

    #[test]
    fn the_last_stub_fills_the_page() {
        let page = hypercall_page();
        assert_eq!(page[127 * 32 + 4], 127);
    }
}
