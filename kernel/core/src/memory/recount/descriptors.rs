//! What descriptor tables of guests may hold, said apart from [`crate::descriptor::check`].

use std::format;
use std::string::String;

use hv_machine::{Platform, TABLE_ENTRIES};
use hypercall_abi::types::Mfn;

use crate::hypervisor::Hypervisor;

/// The first selector of the hypervisor's part of the GDT, and that of its code which guests may name.
const RESERVED: u64 = 0xe000;
const KERNEL_CODE: u64 = 0xe033;

/// Whether a descriptor table gives nobody more than ring 3.
pub(super) fn are_harmless(hv: &Hypervisor, mfn: Mfn) -> Result<(), String> {
    for index in 0..TABLE_ENTRIES {
        let descriptor = hv.machine.load_u64(mfn, index);
        let present = descriptor >> 47 & 1 != 0;
        let segment = descriptor >> 44 & 1 != 0;
        let level = descriptor >> 45 & 3;
        let harmless = match descriptor >> 40 & 0xf {
            _ if segment => level == 3,
            // The second half of a gate.
            0 => true,
            0xc => level == 0 && leads_to_a_guest(descriptor),
            _ => false,
        };
        if present && !harmless {
            return Err(format!("descriptor {index} of {mfn}: {descriptor:#x}"));
        }
    }
    Ok(())
}

/// Whether a call gate copies no parameters and leads to ring 3, by a selector of the guest's own tables or to the one
/// code segment of the hypervisor's that is for guests.
fn leads_to_a_guest(gate: u64) -> bool {
    let selector = gate >> 16 & 0xffff;
    let (local, level) = (selector & 4 != 0, selector & 3);
    gate >> 32 & 0xff == 0
        && level == 3
        && (local || selector < RESERVED || selector == KERNEL_CODE)
}
