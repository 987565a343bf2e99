//! What is traced: each event with the words that Xen's own have, so that Xen's tools can read them.

use hv_machine::Platform;
use hypercall_abi::trace::*;
use hypercall_abi::types::{Domid, Mfn, Port};
use hypercall_abi::xen::*;

use super::record;
use crate::hypercall::Args;
use crate::memory::Pte;
use crate::traps::vector;
use crate::{Current, Domain, Hypervisor, Vcpu};

/// Domain and vCPU in a word.
fn name(vcpu: &Vcpu) -> u32 {
    let domain = vcpu.domain.upgrade();
    let id = domain.map_or(Domid::INVALID, |domain| domain.id);
    u32::from(id.0) << 16 | vcpu.id
}

fn low_high(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// A vCPU's state changes.
#[cold]
#[inline(never)]
pub fn runstate(hv: &Hypervisor, vcpu: &Vcpu, old: u32, new: u32) {
    let event = TRC_SCHED_RUNSTATE_CHANGE | (old & 3) << 8 | (new & 3) << 4;
    record(hv, event, &[name(vcpu)]);
}

/// This CPU has chosen what it runs next.
#[cold]
#[inline(never)]
pub fn chosen(hv: &Hypervisor, next: Option<&Vcpu>) {
    let cpu = hv.machine.cpu_id();
    let next = next.map_or(u32::from(Domid::IDLE.0) << 16 | cpu, name);
    let before = match hv.tracer.ring(cpu) {
        Some(mut ring) => ring.running.replace(next).unwrap_or(next),
        None => return,
    };
    if before == next {
        record(hv, TRC_SCHED_CONTINUE_RUNNING, &[next]);
    } else {
        let [prev, next] = [before, next].map(|name| [name >> 16, name & 0xffff]);
        record(hv, TRC_SCHED_SWITCH, [prev, next].as_flattened());
    }
}

/// Something becomes of a vCPU (`TRC_SCHED_WAKE` and its like).
#[cold]
#[inline(never)]
pub fn vcpu(hv: &Hypervisor, event: u32, vcpu: &Vcpu) {
    let name = name(vcpu);
    record(hv, event, &[name >> 16, name & 0xffff]);
}

/// Something becomes of a domain (`TRC_DOM0_DOM_ADD` and its like).
#[cold]
#[inline(never)]
pub fn domain(hv: &Hypervisor, event: u32, id: Domid) {
    record(hv, event, &[id.0.into()]);
}

/// A hypercall, or one of a multicall: its number, and the arguments that say most.
#[cold]
#[inline(never)]
pub fn hypercall(cx: &Current<'_>, event: u32, number: u64, args: &Args) {
    let told: &[usize] = match number as u32 {
        HYPERVISOR_MMU_UPDATE | HYPERVISOR_MULTICALL | HYPERVISOR_MMUEXT_OP => &[1],
        HYPERVISOR_GRANT_TABLE_OP => &[0, 2],
        HYPERVISOR_VCPU_OP => &[0, 1],
        HYPERVISOR_SCHED_OP => &[0],
        _ => &[],
    };
    let mut data = [0; 3];
    data[0] = number as u32 & !TRC_PV_HYPERCALL_V2_ARG_MASK;
    for (&argument, place) in told.iter().zip(1..) {
        data[0] |= 1 << (20 + 2 * argument);
        data[place] = args[argument] as u32;
    }
    record(cx.hv, event, data.get(..=told.len()).unwrap_or(&data));
}

/// The guest's kernel is to handle an exception.
#[cold]
#[inline(never)]
pub fn exception(cx: &Current<'_>, vector: u8, error_code: Option<u32>) {
    let [low, high] = low_high(cx.state.context.regs.rip);
    let code = error_code.unwrap_or(0);
    if vector == vector::PAGE_FAULT {
        let [at, at_high] = low_high(cx.state.cr2);
        let data = [low, high, at, at_high, code];
        record(cx.hv, TRC_PV_PAGE_FAULT | TRC_64_FLAG, &data);
    } else {
        let has_code = u32::from(error_code.is_some());
        let data = [low, high, u32::from(vector) | has_code << 15 | code << 16];
        record(cx.hv, TRC_PV_TRAP | TRC_64_FLAG, &data);
    }
}

/// A privileged instruction is emulated.
#[cold]
#[inline(never)]
pub fn emulated(cx: &Current<'_>) {
    let rip = low_high(cx.state.context.regs.rip);
    record(cx.hv, TRC_PV_EMULATE_PRIVOP | TRC_64_FLAG, &rip);
}

/// A store to a page table is carried out.
#[cold]
#[inline(never)]
pub fn table_store(cx: &Current<'_>, va: u64, entry: Pte) {
    let data = [entry.0, va, cx.state.context.regs.rip].map(low_high);
    record(
        cx.hv,
        TRC_PV_PTWR_EMULATION | TRC_64_FLAG,
        data.as_flattened(),
    );
}

/// A port becomes pending.
#[cold]
#[inline(never)]
pub fn pending(hv: &Hypervisor, domain: &Domain, port: Port) {
    record(hv, TRC_XENOLITH_EVENT, &[domain.id.0.into(), port.0]);
}

/// A page table is unhooked, or hooked back, of which so many entries were changed.
#[cold]
#[inline(never)]
pub fn hooking(cx: &Current<'_>, event: u32, table: Mfn, changed: u32) {
    let [low, high] = low_high(table.0);
    record(cx.hv, event, &[name(cx.vcpu), low, high, changed]);
}
