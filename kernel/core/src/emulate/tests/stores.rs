//! Stores to page tables.

use super::*;

use hypercall_abi::xen::{
    HYPERVISOR_UPDATE_VA_MAPPING, UVMF_INVLPG, VMASST_TYPE_WRITABLE_PAGETABLES,
};

use crate::emulate::store_to_page_table;
use crate::memory::Pte;
use crate::testing::{RO, RW};

/// Gives the domain its own L1 table to read, at this address, and the assistance to write it.
fn map_own_l1(host: &Host) -> u64 {
    let va = SCRATCH + 63 * 4096;
    let table = host.layout(DOMU).tables[3];
    let args = [va, Pte::new(table, RO).0, UVMF_INVLPG];
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &args), 0);
    host.domain(DOMU)
        .vm_assist
        .store(1 << VMASST_TYPE_WRITABLE_PAGETABLES, Ordering::Relaxed);
    va
}

/// Executes `code`, which faults with a write to `va`.
fn store(host: &Host, va: u64, code: &[u8], set: impl FnOnce(&mut CpuUserRegs)) -> CpuUserRegs {
    host.as_guest(DOMU, |cx| {
        cx.write_bytes(CODE, code).expect("scratch memory");
        let regs = &mut cx.state.context.regs;
        regs.rip = CODE;
        regs.rsp = SCRATCH + 0x4000;
        set(regs);
        handle_exception(cx, 14, 7, va);
        cx.state.context.regs
    })
}

#[test]
fn a_store_to_a_page_table_is_checked_and_carried_out() {
    let host = host();
    let va = map_own_l1(&host);
    let table = host.layout(DOMU).tables[3];
    let entry = |index| host.hv.machine.load_u64(table, index);
    let spare = host.layout(DOMU).scratch[20];
    // mov [rdi], rax
    let mov = &[0x48, 0x89, 0x07];
    let after = store(&host, va + 8 * 100, mov, |regs| {
        regs.rax = Pte::new(spare, RW).0;
    });
    assert_eq!(after.rip, CODE + 3);
    assert_eq!(Pte(entry(100)).mfn(), spare);
    let types = host.hv.memory.state(spare).expect("a frame").types;
    assert_eq!(types, 2, "its own mapping and the new one");

    // xchg [rdi], rax gives the old entry back.
    let after = store(&host, va + 8 * 100, &[0x48, 0x87, 0x07], |regs| {
        regs.rax = 0
    });
    assert_eq!(Pte(after.rax).mfn(), spare);
    assert_eq!(entry(100), 0);
    assert_eq!(host.hv.memory.state(spare).expect("a frame").types, 1);

    // lock btr qword [rdi], 1; the bit was set.
    let before = entry(20);
    let after = store(
        &host,
        va + 8 * 20,
        &[0xf0, 0x48, 0x0f, 0xba, 0x37, 0x01],
        |regs| regs.rflags &= !1,
    );
    assert_eq!((after.rip, after.rflags & 1), (CODE + 6, 1));
    assert_eq!(entry(20), before & !2);
    // lock and byte [rdi], ~0x20.
    store(&host, va + 8 * 20, &[0xf0, 0x80, 0x27, 0xdf], |_| {});
    assert_eq!(entry(20), before & !0x22);
    // mov dword [rdi+4], imm32 of the upper half.
    store(
        &host,
        va + 8 * 20 + 4,
        &[0xc7, 0x47, 4, 0, 0, 0, 0x80],
        |_| {},
    );
    assert_eq!(entry(20), before & !0x22 | 1 << 63);
}

#[test]
fn an_exchange_of_an_entry_compares_first() {
    let host = host();
    let va = map_own_l1(&host);
    let table = host.layout(DOMU).tables[3];
    let old = host.hv.machine.load_u64(table, 21);
    let cmpxchg = &[0xf0, 0x48, 0x0f, 0xb1, 0x0f];
    let after = store(&host, va + 8 * 21, cmpxchg, |regs| {
        (regs.rax, regs.rcx) = (old ^ 1 << 60, 0);
    });
    assert_eq!((after.rax, after.rflags & 1 << 6), (old, 0));
    assert_eq!(host.hv.machine.load_u64(table, 21), old);
    let after = store(&host, va + 8 * 21, cmpxchg, |regs| {
        (regs.rax, regs.rcx) = (old, 0);
    });
    assert_eq!((after.rax, after.rflags & 1 << 6), (old, 1 << 6));
    assert_eq!(host.hv.machine.load_u64(table, 21), 0);
    // In 32 bits, of which the others of RAX are none.
    let after = store(&host, va + 8 * 21, &[0xf0, 0x0f, 0xb1, 0x0f], |regs| {
        (regs.rax, regs.rcx) = (5 << 32, 8);
    });
    assert_eq!((after.rax, after.rflags & 1 << 6), (5 << 32, 1 << 6));
    assert_eq!(host.hv.machine.load_u64(table, 21), 8);
}

#[test]
fn every_way_to_change_a_word_gives_its_value_and_its_flags() {
    const CF: u64 = 1;
    const PF: u64 = 1 << 2;
    const AF: u64 = 1 << 4;
    const ZF: u64 = 1 << 6;
    const SF: u64 = 1 << 7;
    const OF: u64 = 1 << 11;
    const ALL: u64 = CF | PF | AF | ZF | SF | OF;
    let host = host();
    let va = map_own_l1(&host) + 8 * 100;
    let table = host.layout(DOMU).tables[3];
    // The code, where in the word, the word before, RAX, the word afterwards, the flags where all were set before.
    // Entries that are not present may hold anything.
    type Case<'a> = (&'a [u8], u64, u64, u64, u64, u64);
    let cases: [Case<'_>; 18] = [
        (&[0x48, 0x01, 0x07], 0, 0x10, 0x20, 0x30, PF),
        (&[0x00, 0x07], 0, 0xfe, 0x02, 0, CF | PF | AF | ZF),
        (&[0x48, 0x01, 0x07], 0, 0x10, 0, 0x10, 0),
        (&[0x48, 0x29, 0x07], 0, 0x10, 0x12, !1, CF | AF | SF),
        (&[0x48, 0x29, 0x07], 0, 0x12, 0x12, 0, PF | ZF),
        (&[0x28, 0x07], 1, 0x8000, 1, 0x7f00, AF | OF),
        (
            &[0xf0, 0xff, 0x07],
            4,
            0x7fff_ffff << 32,
            0,
            0x8000_0000 << 32,
            ALL & !ZF,
        ),
        (&[0xfe, 0x07], 1, 0x7f00, 0, 0x8000, CF | AF | SF | OF),
        (&[0xff, 0x0f], 4, 0, 0, 0xffff_ffff << 32, CF | PF | AF | SF),
        (&[0x48, 0xf7, 0x1f], 0, 2, 0, !1, CF | AF | SF),
        (&[0x66, 0xf7, 0x17], 2, 0x5_0001_0000, 0, 0x5_fffe_0000, ALL),
        (&[0x48, 0x31, 0x07], 0, 0x6, 0x2, 0x4, 0),
        (&[0x48, 0x0f, 0xc1, 0x07], 0, 0x8, 0x2, 0xa, PF),
        (
            &[0x48, 0x0f, 0xab, 0x07],
            0,
            0,
            64 * 7 + 5,
            1 << 5,
            ALL & !CF,
        ),
        (&[0x0f, 0xb3, 0x07], 0, 0x30, !31 | 4, 0x20, ALL),
        (&[0x48, 0x0f, 0xba, 0x3f, 62], 0, 1 << 62, 0, 0, ALL),
        (
            &[0x48, 0xc7, 0x07, 0xfe, 0xff, 0xff, 0xff],
            0,
            0,
            0,
            !1,
            ALL,
        ),
        (&[0x66, 0x89, 0x07], 0, 0x9_9998, 0x10, 0x9_0010, ALL),
    ];
    for (code, offset, before, rax, value, rflags) in cases {
        host.hv.machine.store_u64(table, 100, before);
        let after = store(&host, va + offset, code, |regs| {
            (regs.rax, regs.rflags) = (rax, regs.rflags | ALL);
        });
        let found = host.hv.machine.load_u64(table, 100);
        assert_eq!(after.rip, CODE + code.len() as u64, "{code:x?}");
        assert_eq!((found, after.rflags & ALL), (value, rflags), "{code:x?}");
        if code == [0x48, 0x0f, 0xc1, 0x07] {
            assert_eq!(after.rax, before, "xadd gives the word before");
        }
    }
}

#[test]
fn a_pair_of_registers_is_exchanged_if_the_word_is_as_expected() {
    let host = host();
    let va = map_own_l1(&host) + 8 * 100;
    let table = host.layout(DOMU).tables[3];
    let cmpxchg8b = &[0xf0, 0x0f, 0xc7, 0x0f];
    let before = 0x1111_2222_3333_4444;
    host.hv.machine.store_u64(table, 100, before);
    let set = |expected: u64| {
        move |regs: &mut CpuUserRegs| {
            (regs.rdx, regs.rax) = (expected >> 32 | 5 << 40, expected & 0xffff_ffff);
            (regs.rcx, regs.rbx) = (0x5555_6666, 0x7777_8888);
        }
    };
    let after = store(&host, va, cmpxchg8b, set(before + 2));
    assert_eq!((after.rdx, after.rax), (0x1111_2222, 0x3333_4444));
    assert_eq!(after.rflags & 1 << 6, 0);
    assert_eq!(host.hv.machine.load_u64(table, 100), before);
    let after = store(&host, va, cmpxchg8b, set(before));
    assert_eq!(after.rflags & 1 << 6, 1 << 6);
    assert_eq!(after.rdx, 0x1111_2222 | 5 << 40, "left alone");
    assert_eq!(host.hv.machine.load_u64(table, 100), 0x5555_6666_7777_8888);
}

#[test]
fn a_store_that_no_guest_may_make_is_a_page_fault() {
    let host = host();
    let va = map_own_l1(&host);
    let table = host.layout(DOMU).tables[3];
    let mov = &[0x48, 0x89, 0x07];
    let foreign = Pte::new(host.layout(DOM0).scratch[0], RW).0;
    let own_table = Pte::new(table, RW).0;
    for entry in [foreign, own_table] {
        let after = store(&host, va + 8 * 100, mov, |regs| regs.rax = entry);
        assert_eq!(after.rip, HANDLER + 14);
        assert_eq!(host.hv.machine.load_u64(table, 100), 0);
    }
    // Across two entries, of a register that is not there, of two entries at once, to a register, and no store at all.
    let codes: [&[u8]; 5] = [
        mov,
        &[0x88, 0x27],
        &[0x48, 0x0f, 0xc7, 0x0f],
        &[0x48, 0x89, 0xc7],
        &[0x90],
    ];
    for (offset, code) in [4, 0, 0, 0, 0].into_iter().zip(codes) {
        let after = store(&host, va + 8 * 100 + offset, code, |regs| regs.rax = 0);
        assert_eq!(after.rip, HANDLER + 14, "{code:x?}");
    }
    host.domain(DOMU).vm_assist.store(0, Ordering::Relaxed);
    let after = store(&host, va + 8 * 100, mov, |regs| regs.rax = 0);
    assert_eq!(after.rip, HANDLER + 14, "without the assistance");
}

#[test]
fn only_what_a_kernel_may_not_write_is_carried_out() {
    let host = host();
    let va = map_own_l1(&host);
    let at = va + 8 * 100;
    let code = |cs: u16, mode: bool, error_code: u32, va: u64| {
        host.as_guest(DOMU, |cx| {
            // mov [rdi], rax
            cx.write_bytes(CODE, &[0x48, 0x89, 0x07])
                .expect("scratch memory");
            let regs = &mut cx.state.context.regs;
            (regs.rip, regs.cs, regs.rax) = (CODE, cs, 0xff0);
            cx.state.kernel_mode = mode;
            let done = store_to_page_table(cx, va, error_code);
            cx.state.kernel_mode = true;
            done
        })
    };
    // A page that is not there, a read, a reserved bit, a fetch.
    for error_code in [6, 5, 7 | 8, 7 | 16] {
        assert!(!code(FLAT_KERNEL_CS, true, error_code, at), "{error_code}");
    }
    assert!(!code(FLAT_KERNEL_CS, false, 7, at), "user mode");
    assert!(!code(FLAT_USER_CS32, true, 7, at), "32-bit code");
    let plain = host.make_read_only(DOMU, 62);
    let page = SCRATCH + 62 * 4096;
    assert!(!code(FLAT_KERNEL_CS, true, 7, page), "no table");
    assert_eq!(host.hv.machine.load_u64(plain, 0), 0);
    let [.., table] = host.layout(DOMU).tables;
    assert_eq!(host.hv.machine.load_u64(table, 100), 0);
    assert!(code(FLAT_KERNEL_CS, true, 7, at));
    assert_eq!(host.hv.machine.load_u64(table, 100), 0xff0);
}
