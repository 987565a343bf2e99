//! Tests of whole instructions: bytes and registers in, registers and ports out.

use core::sync::atomic::Ordering;

use hv_machine::sim::Machine;
use hv_machine::{MachineRef, Platform};
use hypercall_abi::arch_x86::{
    CpuUserRegs, FLAT_KERNEL_CS, FLAT_KERNEL_SS, FLAT_USER_CS32, TrapInfo,
};
use hypercall_abi::types::Domid;
use hypercall_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL;
use proptest::prelude::*;

use super::{forced_emulation, privileged_instruction};
use crate::testing::{DOM0, DOMU, Host, SCRATCH, UNMAPPED};
use crate::traps::{dr6, flags, handle_bad_frame, handle_exception};

mod stores;

const HANDLER: u64 = 0xffff_8880_0000_0000;
/// Where the tests' code is.
const CODE: u64 = SCRATCH + 0x6000;
/// Where their data are.
const DATA: u64 = SCRATCH + 0x9000;
const IN_AL_DX: &[u8] = &[0xec];
const OUT_DX_EAX: &[u8] = &[0xef];

/// A host whose guests have handlers for everything, a stack and a CPU with the usual features.
fn host() -> Host {
    let machine = Machine::new(1024);
    machine.set_cpuid(0, 0, [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
    machine.set_cpuid(1, 0, [0x306c3, 0x0010_0800, 0xffff_ffff, 0xffff_ffff]);
    machine.set_cpuid(7, 0, [0, 0xffff_ffff, 0, 0]);
    machine.set_cpuid(0xd, 0, [7, 832, 832, 0]);
    machine.set_cpuid(0xd, 2, [256, 576, 0, 0]);
    machine.set_cpuid(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]);
    machine.set_cpuid(0x8000_0001, 0, [0, 0, 0x121, 0x2c10_0800]);
    let host = Host::with_machine(MachineRef::new(machine));
    for id in [DOM0, DOMU] {
        host.as_guest(id, |cx| {
            for (vector, slot) in (0..=255).zip(cx.state.traps.iter_mut()) {
                *slot = TrapInfo {
                    vector,
                    address: HANDLER + u64::from(vector),
                    ..Default::default()
                };
            }
            let regs = &mut cx.state.context.regs;
            regs.cs = FLAT_KERNEL_CS;
            regs.rflags = flags::IF | 2;
            regs.rsp = SCRATCH + 0x4000;
        });
    }
    host
}

/// Runs one instruction through the #GP that it raises; the registers before and after.
fn run(
    host: &Host,
    id: Domid,
    code: &[u8],
    set: impl FnOnce(&mut CpuUserRegs),
) -> (CpuUserRegs, CpuUserRegs) {
    host.as_guest(id, |cx| {
        cx.write_bytes(CODE, code).expect("scratch memory");
        let regs = &mut cx.state.context.regs;
        regs.rip = CODE;
        set(regs);
        let before = *regs;
        handle_exception(cx, 13, 0, 0);
        (before, cx.state.context.regs)
    })
}

fn allow_ports(host: &Host, id: Domid, first: u32, last: u32) {
    let domain = host.domain(id);
    domain
        .access
        .lock()
        .set_ports(first, last, true)
        .expect("room for a range");
    host.as_guest(id, |cx| cx.state.iopl = 1);
}

#[test]
fn the_machine_status_word_is_read_in_the_width_of_the_register() {
    let host = host();
    for (code, expected) in [
        (&[0x66, 0x0f, 0x01, 0xe0][..], !0xffff | 0x0033),
        (&[0x0f, 0x01, 0xe0], 0x8005_0033),
        (&[0x48, 0x0f, 0x01, 0xe0], 0x8005_0033),
    ] {
        let (_, after) = run(&host, DOMU, code, |regs| regs.rax = u64::MAX);
        assert_eq!(after.rax, expected);
        assert_eq!(after.rip, CODE + code.len() as u64);
    }
}

#[test]
fn a_port_is_read_by_who_has_it_and_may() {
    let host = host();
    host.hv.machine.set_port(0x3f8, 0x1234_5678);
    let dx = |regs: &mut CpuUserRegs| (regs.rdx, regs.rax) = (0x3f8, u64::MAX);
    // No I/O privilege level.
    let (_, after) = run(&host, DOMU, IN_AL_DX, dx);
    assert_eq!(after.rip, HANDLER + 13);
    // The level, but not the port: ones.
    host.as_guest(DOMU, |cx| cx.state.iopl = 1);
    let (_, after) = run(&host, DOMU, IN_AL_DX, |regs| {
        (regs.rdx, regs.rax) = (0x3f8, 0)
    });
    assert_eq!((after.rip, after.rax), (CODE + 1, 0xff));
    allow_ports(&host, DOMU, 0x3f8, 0x3ff);
    let (_, after) = run(&host, DOMU, IN_AL_DX, dx);
    assert_eq!(
        (after.rip, after.rax),
        (CODE + 1, 0xffff_ffff_ffff_ff78),
        "a byte leaves the rest"
    );
    let (_, after) = run(&host, DOMU, &[0x66, 0xed], dx);
    assert_eq!(after.rax, 0xffff_ffff_ffff_5678);
    let (_, after) = run(&host, DOMU, &[0xed], dx);
    assert_eq!(after.rax, 0x1234_5678, "32 bits clear the upper half");
}

#[test]
fn a_write_reaches_the_ports_that_the_domain_has_and_no_others() {
    let host = host();
    let set = |regs: &mut CpuUserRegs| (regs.rdx, regs.rax) = (0x80, 0x4433_2211);
    host.as_guest(DOMU, |cx| cx.state.iopl = 1);
    let (_, after) = run(&host, DOMU, OUT_DX_EAX, set);
    assert_eq!(after.rip, CODE + 1);
    assert_eq!(host.hv.machine.take_port_writes(), []);
    allow_ports(&host, DOMU, 0x80, 0x83);
    run(&host, DOMU, OUT_DX_EAX, set);
    assert_eq!(host.hv.machine.take_port_writes(), [(0x80, 4, 0x4433_2211)]);
    host.domain(DOMU)
        .access
        .lock()
        .set_ports(0x81, 0x82, false)
        .expect("room for a range");
    run(&host, DOMU, OUT_DX_EAX, set);
    assert_eq!(
        host.hv.machine.take_port_writes(),
        [(0x80, 1, 0x4433_2211), (0x83, 1, 0x44)]
    );
}

#[test]
fn an_access_at_the_end_of_the_port_space_is_no_reason_to_panic() {
    let host = host();
    allow_ports(&host, DOM0, 0, 0xffff);
    for code in [IN_AL_DX, OUT_DX_EAX, &[0xed], &[0x66, 0xef]] {
        let (_, after) = run(&host, DOM0, code, |regs| regs.rdx = 0xffff);
        assert_eq!(after.rip, CODE + code.len() as u64);
    }
}

#[test]
fn user_mode_needs_level_3_or_the_bitmap() {
    let host = host();
    allow_ports(&host, DOMU, 0x60, 0x6f);
    host.hv.machine.set_port(0x64, 0x1c);
    host.as_guest(DOMU, |cx| {
        cx.state.user_root = cx.state.kernel_root;
        cx.state.kernel_sp = SCRATCH + 0x4000;
        cx.state.io_bitmap = DATA;
        cx.write(DATA, &[0xff_u8; 32]).expect("scratch memory");
        cx.write(DATA + 12, &0xef_u8).expect("scratch memory");
    });
    let in_user_mode = |set: &dyn Fn(&mut CpuUserRegs)| {
        host.as_guest(DOMU, |cx| {
            if cx.state.kernel_mode {
                assert!(crate::vcpu::toggle_mode(cx));
            }
        });
        run(&host, DOMU, IN_AL_DX, set).1
    };
    let port = |port: u64| move |regs: &mut CpuUserRegs| (regs.rdx, regs.rax) = (port, 0);
    assert_eq!(in_user_mode(&port(0x64)).rip, HANDLER + 13);
    host.as_guest(DOMU, |cx| cx.state.io_bitmap_ports = 0x80);
    let after = in_user_mode(&port(0x64));
    assert_eq!((after.rip, after.rax), (CODE + 1, 0x1c));
    assert_eq!(in_user_mode(&port(0x65)).rip, HANDLER + 13);
    host.as_guest(DOMU, |cx| cx.state.io_bitmap = UNMAPPED);
    assert_eq!(in_user_mode(&port(0x64)).rip, HANDLER + 13);
    host.as_guest(DOMU, |cx| cx.state.iopl = 3);
    assert_eq!(in_user_mode(&port(0x65)).rip, CODE + 1);
}

#[test]
fn level_0_is_enough_for_a_kernel_that_asked_for_the_architectural_rule() {
    let host = host();
    let (_, after) = run(&host, DOMU, &[0xfa], |_| {});
    assert_eq!(after.rip, HANDLER + 13);
    host.domain(DOMU)
        .vm_assist
        .store(1 << VMASST_TYPE_ARCHITECTURAL_IOPL, Ordering::Relaxed);
    let (before, after) = run(&host, DOMU, &[0xfb], |_| {});
    assert_eq!(after.rip, CODE + 1);
    assert_eq!(after.rflags, before.rflags);
}

#[test]
fn each_domain_has_its_own_index_of_the_cmos_and_of_pci() {
    let host = host();
    allow_ports(&host, DOM0, 0, 0xffff);
    host.as_guest(DOMU, |cx| cx.state.iopl = 1);
    host.hv.machine.set_port(0x71, 0x42);
    host.hv.machine.set_port(0xcfe, 0x1237_8086);
    let out = |id, port: u64, value: u64, code: &[u8]| {
        run(&host, id, code, |regs| (regs.rdx, regs.rax) = (port, value))
    };
    out(DOMU, 0x70, 0x0d, &[0xee]);
    assert_eq!(host.hv.machine.take_port_writes(), []);
    let (_, after) = out(DOMU, 0x70, 0, IN_AL_DX);
    assert_eq!(after.rax, 0x0d);
    let (_, after) = out(DOMU, 0x71, 0, IN_AL_DX);
    assert_eq!(after.rax, 0xff, "it has no CMOS");

    out(DOM0, 0x70, 0x8a, &[0xee]);
    assert_eq!(host.hv.machine.take_port_writes(), []);
    let (_, after) = out(DOM0, 0x71, 0, IN_AL_DX);
    assert_eq!(after.rax, 0x42);
    assert_eq!(host.hv.machine.take_port_writes(), [(0x70, 1, 0x0a)]);

    out(DOM0, 0xcf8, 0x8000_0800, OUT_DX_EAX);
    out(DOMU, 0xcf8, 0x8000_1000, OUT_DX_EAX);
    assert_eq!(host.hv.machine.take_port_writes(), []);
    host.domain(DOM0)
        .access
        .lock()
        .set_ports(0xcfc, 0xcff, false)
        .expect("room for a range");
    let (_, after) = out(DOM0, 0xcfe, 0, &[0x66, 0xed]);
    assert_eq!(after.rax, 0x8086);
    assert_eq!(
        host.hv.machine.take_port_writes(),
        [(0xcf8, 4, 0x8000_0800)]
    );
    let (_, after) = out(DOMU, 0xcfc, 0, &[0xed]);
    assert_eq!(after.rax, 0xffff_ffff);
    assert_eq!(host.hv.machine.take_port_writes(), []);
}

#[test]
fn strings_of_io_move_their_elements_and_registers() {
    let host = host();
    allow_ports(&host, DOMU, 0x1f0, 0x1f7);
    host.hv.machine.set_port(0x1f0, 0xbeef);
    let (_, after) = run(&host, DOMU, &[0xf3, 0x66, 0x6d], |regs| {
        (regs.rdx, regs.rdi, regs.rcx) = (0x1f0, DATA, 3);
    });
    assert_eq!((after.rcx, after.rdi), (0, DATA + 6));
    assert_eq!(after.rip, CODE + 3);
    assert_eq!(host.get::<[u16; 3]>(DOMU, DATA), [0xbeef; 3]);

    host.put_at(DOMU, DATA, &[1_u8, 2, 3]);
    let (_, after) = run(&host, DOMU, &[0xf3, 0x6e], |regs| {
        (regs.rdx, regs.rsi, regs.rcx) = (0x1f1, DATA + 2, 3);
        regs.rflags |= flags::DF;
    });
    assert_eq!((after.rcx, after.rsi), (0, DATA - 1));
    assert_eq!(
        host.hv.machine.take_port_writes(),
        [(0x1f1, 1, 3), (0x1f1, 1, 2), (0x1f1, 1, 1)]
    );
    let (_, after) = run(&host, DOMU, &[0xf3, 0x6c], |regs| regs.rcx = 0);
    assert_eq!(after.rip, CODE + 2);
}

#[test]
fn a_long_string_is_continued_by_the_next_trap() {
    let host = host();
    allow_ports(&host, DOMU, 0x1f0, 0x1f7);
    let (_, after) = run(&host, DOMU, &[0xf3, 0x6c], |regs| {
        (regs.rdx, regs.rdi, regs.rcx) = (0x1f0, DATA, 300);
        regs.rflags &= !flags::DF;
    });
    assert_eq!((after.rip, after.rcx, after.rdi), (CODE, 44, DATA + 256));
    host.as_guest(DOMU, |cx| assert!(privileged_instruction(cx)));
    host.as_guest(DOMU, |cx| {
        let regs = &cx.state.context.regs;
        assert_eq!((regs.rip, regs.rcx), (CODE + 2, 0));
    });
}

#[test]
fn a_string_stops_at_a_page_that_is_not_there() {
    let host = host();
    allow_ports(&host, DOMU, 0x1f0, 0x1f7);
    let end = SCRATCH + 64 * 4096;
    let (_, after) = run(&host, DOMU, &[0xf3, 0x6d], |regs| {
        (regs.rdx, regs.rdi, regs.rcx) = (0x1f0, end - 6, 4);
    });
    assert_eq!(after.rip, HANDLER + 14);
    host.as_guest(DOMU, |cx| {
        let rcx: u64 = cx.read(after.rsp).expect("the frame");
        assert_eq!((rcx, after.rdi), (3, end - 2), "one element was moved");
        assert_eq!(cx.state.cr2, end);
        let code: u64 = cx.read(after.rsp + 16).expect("the frame");
        assert_eq!(code, 2, "a write");
    });
    let (_, after) = run(&host, DOMU, &[0x6e], |regs| {
        (regs.rdx, regs.rsi) = (0x1f0, hv_machine::HYPERVISOR_VIRT_START);
        regs.rsp = SCRATCH + 0x4000;
    });
    assert_eq!(after.rip, HANDLER + 13);
}

#[test]
fn control_registers_show_the_guests_own_machine() {
    let host = host();
    let (cr0, _) = host.hv.machine.control_registers();
    let read = |register: u8| {
        let modrm = 0xc0 | register << 3 | 3;
        let (_, after) = run(&host, DOMU, &[0x0f, 0x20, modrm], |regs| regs.rbx = 0);
        (after.rip, after.rbx)
    };
    let write = |register: u8, value: u64| {
        let modrm = 0xc0 | register << 3 | 3;
        run(&host, DOMU, &[0x0f, 0x22, modrm], |regs| {
            regs.rbx = value;
            regs.rsp = SCRATCH + 0x4000;
        })
        .1
        .rip
    };
    assert_eq!(read(0), (CODE + 3, cr0 & !8));
    assert_eq!(write(0, cr0 | 8), CODE + 3);
    assert_eq!(read(0), (CODE + 3, cr0 | 8));
    assert_eq!(
        write(0, cr0 ^ 1 << 16),
        HANDLER + 13,
        "write protection stays"
    );
    let (_, after) = run(&host, DOMU, &[0x0f, 0x06], |_| {});
    assert_eq!(after.rip, CODE + 2);
    assert_eq!(read(0).1 & 8, 0);

    assert_eq!(write(2, 0x1234), CODE + 3);
    assert_eq!(read(2), (CODE + 3, 0x1234));

    let root = host.layout(DOMU).tables[0].0 << 12;
    assert_eq!(read(3), (CODE + 3, root));
    assert_eq!(write(3, root), CODE + 3);
    let foreign = host.layout(DOM0).tables[0].0 << 12;
    assert_eq!(write(3, foreign), HANDLER + 13);

    assert_eq!(write(4, u64::MAX), CODE + 3);
    let (_, cr4) = read(4);
    assert_ne!(cr4 & 1 << 18, 0, "OSXSAVE is its own choice");
    assert_eq!(cr4 & (1 << 13 | 1 << 20 | 1 << 7), 0, "VMX, SMEP, PGE");

    assert_eq!(write(8, 0), HANDLER + 13);
}

#[test]
fn debug_registers_follow_the_hypercalls_rules() {
    let host = host();
    let write = |modrm: u8, value: u64| {
        run(&host, DOMU, &[0x0f, 0x23, modrm], |regs| {
            regs.rax = value;
            regs.rsp = SCRATCH + 0x4000;
        })
        .1
        .rip
    };
    assert_eq!(write(0xc0, 0x5000), CODE + 3);
    assert_eq!(write(0xc8, hv_machine::HYPERVISOR_VIRT_START), HANDLER + 13);
    let (_, after) = run(&host, DOMU, &[0x0f, 0x21, 0xc0], |_| {});
    assert_eq!(after.rax, 0x5000);
    host.as_guest(DOMU, |cx| cx.state.cr4 |= 8);
    assert_eq!(write(0xe0, 0), HANDLER + 6, "DR4");
}

#[test]
fn xcr0_takes_what_the_policy_has_once_osxsave_is_set() {
    let host = host();
    let set = |value: u64| {
        run(&host, DOMU, &[0x0f, 0x01, 0xd1], |regs| {
            (regs.rax, regs.rdx, regs.rcx) = (value & 0xffff_ffff, value >> 32, 0);
            regs.rsp = SCRATCH + 0x4000;
        })
        .1
        .rip
    };
    assert_eq!(set(7), HANDLER + 6);
    host.as_guest(DOMU, |cx| cx.state.cr4 |= 1 << 18);
    assert_eq!(set(7), CODE + 3);
    host.as_guest(DOMU, |cx| assert_eq!(cx.state.fpu.enabled(), 7));
    assert_eq!(host.hv.machine.cpu(0).extended_control, 7);
    for bad in [0, 2, 5, 0x27, 1 << 9 | 7, u64::MAX] {
        assert_eq!(set(bad), HANDLER + 13, "{bad:#x}");
    }
}

#[test]
fn the_tsc_is_user_modes_unless_its_kernel_says_no() {
    let host = host();
    host.hv.machine.set_msr(0xc000_0103, 0);
    let (_, after) = run(&host, DOMU, &[0x0f, 0x31], |_| {});
    let tsc = host.hv.machine.tsc();
    assert_eq!(after.rdx << 32 | after.rax, tsc);
    let (_, after) = run(&host, DOMU, &[0x0f, 0x30], |regs| {
        (regs.rcx, regs.rax, regs.rdx) = (0xc000_0103, 0x77, 0);
    });
    assert_eq!(after.rip, CODE + 2);
    let (_, after) = run(&host, DOMU, &[0x0f, 0x01, 0xf9], |_| {});
    assert_eq!(after.rcx, 0x77);
    host.as_guest(DOMU, |cx| {
        cx.state.cr4 |= 4;
        cx.state.user_root = cx.state.kernel_root;
        cx.state.kernel_sp = SCRATCH + 0x4000;
        assert!(crate::vcpu::toggle_mode(cx));
    });
    let (_, after) = run(&host, DOMU, &[0x0f, 0x31], |_| {});
    assert_eq!(after.rip, HANDLER + 13);
}

#[test]
fn msrs_are_split_over_edx_and_eax() {
    let host = host();
    let (_, after) = run(&host, DOMU, &[0x0f, 0x32], |regs| regs.rcx = 0x277);
    assert_eq!((after.rdx, after.rax), (0x0501, 0x0007_0406));
    let (_, after) = run(&host, DOMU, &[0x0f, 0x32], |regs| regs.rcx = 0xdead);
    assert_eq!(after.rip, HANDLER + 13);
    let (_, after) = run(&host, DOMU, &[0x0f, 0x30], |regs| {
        (regs.rcx, regs.rdx, regs.rax) = (0xc000_0101, 0xffff_8880, 0x1000);
        regs.rsp = SCRATCH + 0x4000;
    });
    assert_eq!(after.rip, CODE + 2);
    assert_eq!(
        host.hv.machine.cpu(0).segments.gs_base,
        0xffff_8880_0000_1000
    );
}

#[test]
fn user_mode_gets_its_fault() {
    let host = host();
    for code in [
        &[0x0f, 0x32][..],
        &[0x0f, 0x30],
        &[0x0f, 0x06],
        &[0x0f, 0x09],
        &[0x0f, 0x20, 0xc0],
        &[0x0f, 0x22, 0xc0],
        &[0x0f, 0x21, 0xc0],
        &[0x0f, 0x01, 0xd1],
        &[0xfa],
    ] {
        host.as_guest(DOMU, |cx| {
            cx.state.user_root = cx.state.kernel_root;
            cx.state.kernel_sp = SCRATCH + 0x4000;
            if cx.state.kernel_mode {
                assert!(crate::vcpu::toggle_mode(cx));
            }
        });
        let (_, after) = run(&host, DOMU, code, |_| {});
        assert_eq!(after.rip, HANDLER + 13, "{code:x?}");
    }
}

#[test]
fn an_instruction_across_a_missing_page_is_a_page_fault_there() {
    let host = host();
    let end = SCRATCH + 64 * 4096;
    host.put_at(DOMU, end - 1, &0x0f_u8);
    host.as_guest(DOMU, |cx| {
        cx.state.context.regs.rip = end - 1;
        handle_exception(cx, 13, 0, 0);
        assert_eq!(cx.state.context.regs.rip, HANDLER + 14);
        assert_eq!(cx.state.cr2, end);
    });
}

#[test]
fn a_single_step_ends_behind_the_instruction() {
    let host = host();
    let (_, after) = run(&host, DOMU, &[0x0f, 0x06], |regs| {
        regs.rflags |= flags::TF | flags::RF;
    });
    assert_eq!(after.rip, HANDLER + 1);
    host.as_guest(DOMU, |cx| {
        assert_eq!(cx.state.debug[6], dr6::RESTING | dr6::STEP);
        let frame: [u64; 5] = cx.read(after.rsp).expect("the frame");
        assert_eq!(frame[2], CODE + 2);
        assert_eq!(frame[4] & flags::RF, 0);
    });
}

#[test]
fn an_io_breakpoint_traps_behind_the_access() {
    let host = host();
    allow_ports(&host, DOMU, 0x3f8, 0x3ff);
    host.as_guest(DOMU, |cx| {
        cx.state.cr4 |= 8;
        crate::debugreg::write(cx, 2, 0x3f8).expect("an address");
        crate::debugreg::write(cx, 7, 1 << 4 | 2 << 24).expect("an I/O breakpoint");
    });
    let (_, after) = run(&host, DOMU, IN_AL_DX, |regs| regs.rdx = 0x3f8);
    assert_eq!(after.rip, HANDLER + 1);
    host.as_guest(DOMU, |cx| assert_eq!(cx.state.debug[6], dr6::RESTING | 4));
}

#[test]
fn forced_emulation_is_cpuid_behind_its_prefix_and_nothing_else() {
    let host = host();
    let ud = |code: &[u8]| {
        host.as_guest(DOMU, |cx| {
            cx.write_bytes(CODE, code).expect("scratch memory");
            let regs = &mut cx.state.context.regs;
            (regs.rip, regs.rax, regs.rcx) = (CODE, 0x4000_0000, 0);
            regs.rsp = SCRATCH + 0x4000;
            handle_exception(cx, 6, 0, 0);
            cx.state.context.regs
        })
    };
    let after = ud(b"\x0f\x0bxen\x0f\xa2");
    assert_eq!(after.rip, CODE + 7);
    assert_eq!(after.rax, 0x4000_0005);
    let name = [after.rbx, after.rcx, after.rdx].map(|word| (word as u32).to_le_bytes());
    assert_eq!(name.concat(), b"XenVMMXenVMM");
    for other in [
        &b"\x0f\x0bxen\x0f\xa1"[..],
        b"\x0f\x0bxem\x0f\xa2",
        b"\x0f\x0b",
        b"\x90\x90\x90\x90\x90\x90\x90",
    ] {
        assert_eq!(ud(other).rip, HANDLER + 6, "{other:x?}");
    }
}

#[test]
fn a_prefix_before_a_missing_page_is_a_page_fault() {
    let host = host();
    let end = SCRATCH + 64 * 4096;
    host.as_guest(DOMU, |cx| {
        cx.write_bytes(end - 5, b"\x0f\x0bxen").expect("scratch");
        cx.state.context.regs.rip = end - 5;
        assert!(forced_emulation(cx));
        assert_eq!(cx.state.context.regs.rip, HANDLER + 14);
        assert_eq!(cx.state.cr2, end);
    });
}

#[test]
fn compatibility_mode_has_32_bit_addresses() {
    let host = host();
    allow_ports(&host, DOMU, 0x1f0, 0x1f7);
    // The scratch area is above 4 GiB: an offset of 32 bits does not reach it.
    let (_, after) = run(&host, DOMU, &[0x6e], |regs| regs.cs = FLAT_USER_CS32);
    assert_eq!(after.rip, HANDLER + 13);
}

proptest! {
    #[test]
    fn whatever_a_guest_executes_the_hypervisor_survives(
        code in prop::collection::vec(any::<u8>(), 1..16),
        opcode in prop::sample::select(vec![
            vec![], vec![0x0f, 0x20], vec![0x0f, 0x22], vec![0x0f, 0x21], vec![0x0f, 0x23], vec![0x0f, 0x30],
            vec![0x0f, 0x32], vec![0xf3, 0x6c], vec![0xf3, 0x6f], vec![0x66, 0xef], vec![0xed], vec![0x0f, 0x01],
        ]),
        registers in any::<[u64; 6]>(),
        small in any::<u16>(),
        rip in prop::sample::select(vec![CODE, CODE + 0xffa, u64::MAX - 3, 0, UNMAPPED]),
        rflags in any::<u64>(),
        cs in prop::sample::select(vec![FLAT_KERNEL_CS, FLAT_USER_CS32, 0, 0xffff, 0x0f, 0x0b]),
        iopl in 0_u32..4,
        vector in prop::sample::select(vec![6_u8, 13]),
        error_code in prop::sample::select(vec![0_u32, 0, 0, 0x402, 0xffff]),
    ) {
        let host = host();
        host.domain(DOMU).access.lock().set_ports(0, 0xffff, true).expect("room for a range");
        host.as_guest(DOMU, |cx| {
            let code: Vec<u8> = opcode.iter().chain(&code).copied().collect();
            let _ = cx.write_bytes(rip, &code);
            cx.state.iopl = iopl;
            let regs = &mut cx.state.context.regs;
            [regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsi, regs.rdi] = registers;
            regs.rcx = u64::from(small);
            regs.rip = rip;
            regs.rflags = crate::vcpu_context::guest_rflags(rflags);
            regs.cs = cs | 3;
            handle_exception(cx, vector, error_code, 0);
            let regs = &cx.state.context.regs;
            prop_assert_eq!(regs.cs & 3, 3);
            prop_assert_eq!(regs.rflags & (flags::IF | flags::IOPL), flags::IF);
            Ok(())
        })?;
    }
}

#[test]
fn user_mode_reads_system_registers_that_say_nothing() {
    let host = host();
    host.as_guest(DOMU, |cx| {
        cx.state.user_root = cx.state.kernel_root;
        cx.state.kernel_sp = SCRATCH + 0x4000;
        assert!(crate::vcpu::toggle_mode(cx));
    });
    // sgdt [rdi]
    let (_, after) = run(&host, DOMU, &[0x0f, 0x01, 0x07], |regs| regs.rdi = DATA);
    assert_eq!(after.rip, CODE + 3);
    assert_eq!(
        host.get::<[u16; 5]>(DOMU, DATA),
        [0, 0, 0xfffe, 0xffff, 0xffff]
    );
    // smsw eax
    let (cr0, _) = host.hv.machine.control_registers();
    let (_, after) = run(&host, DOMU, &[0x0f, 0x01, 0xe0], |regs| regs.rax = u64::MAX);
    assert_eq!((after.rip, after.rax), (CODE + 3, cr0 & 0xffff_ffff & !8));
    // sldt ax
    let (_, after) = run(&host, DOMU, &[0x66, 0x0f, 0x00, 0xc0], |regs| {
        regs.rax = 0x1_2345;
    });
    assert_eq!(after.rax, 0x1_0000);
    // str [rdi], where nothing is.
    let (_, after) = run(&host, DOMU, &[0x0f, 0x00, 0x0f], |regs| regs.rdi = UNMAPPED);
    assert_eq!(after.rip, HANDLER + 14);
    host.as_guest(DOMU, |cx| {
        assert_eq!(cx.state.cr2, UNMAPPED);
        let code: u64 = cx.read(after.rsp + 16).expect("the frame");
        assert_eq!(code, 6, "a write by user mode");
    });
}

#[test]
fn nothing_is_emulated_in_a_frame_that_cannot_be_returned_to() {
    let host = host();
    // What never gets further by itself, and what does.
    for code in [[0xf3, 0x6c], [0x0f, 0xa2], [0xfa, 0x90]] {
        host.as_guest(DOMU, |cx| {
            cx.write_bytes(CODE, &code).expect("scratch memory");
            cx.state.iopl = 3;
            let regs = &mut cx.state.context.regs;
            (regs.rip, regs.rdi, regs.rcx) = (CODE, DATA, u64::MAX);
            // A null SS, which raises #GP(0).
            regs.ss = 3;
            handle_bad_frame(cx, 13, 0);
            let regs = &cx.state.context.regs;
            let rcx: u64 = cx.read(regs.rsp).expect("the frame");
            assert_eq!((regs.rip, rcx), (HANDLER + 13, u64::MAX));
            assert_eq!((regs.cs, regs.ss), (FLAT_KERNEL_CS, FLAT_KERNEL_SS));
        });
    }
}
