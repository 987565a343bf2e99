//! What a timeline calls things.

use hypercall_abi::xen::*;

/// A hypercall's name.
pub fn hypercall(number: u32) -> String {
    let name = match number {
        HYPERVISOR_SET_TRAP_TABLE => "set_trap_table",
        HYPERVISOR_MMU_UPDATE => "mmu_update",
        HYPERVISOR_SET_GDT => "set_gdt",
        HYPERVISOR_STACK_SWITCH => "stack_switch",
        HYPERVISOR_SET_CALLBACKS => "set_callbacks",
        HYPERVISOR_FPU_TASKSWITCH => "fpu_taskswitch",
        HYPERVISOR_SCHED_OP_COMPAT => "sched_op_compat",
        HYPERVISOR_PLATFORM_OP => "platform_op",
        HYPERVISOR_SET_DEBUGREG => "set_debugreg",
        HYPERVISOR_GET_DEBUGREG => "get_debugreg",
        HYPERVISOR_UPDATE_DESCRIPTOR => "update_descriptor",
        HYPERVISOR_MEMORY_OP => "memory_op",
        HYPERVISOR_MULTICALL => "multicall",
        HYPERVISOR_UPDATE_VA_MAPPING => "update_va_mapping",
        HYPERVISOR_SET_TIMER_OP => "set_timer_op",
        HYPERVISOR_EVENT_CHANNEL_OP_COMPAT => "event_channel_op_compat",
        HYPERVISOR_XEN_VERSION => "xen_version",
        HYPERVISOR_CONSOLE_IO => "console_io",
        HYPERVISOR_PHYSDEV_OP_COMPAT => "physdev_op_compat",
        HYPERVISOR_GRANT_TABLE_OP => "grant_table_op",
        HYPERVISOR_VM_ASSIST => "vm_assist",
        HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN => "update_va_mapping_otherdomain",
        HYPERVISOR_IRET => "iret",
        HYPERVISOR_VCPU_OP => "vcpu_op",
        HYPERVISOR_SET_SEGMENT_BASE => "set_segment_base",
        HYPERVISOR_MMUEXT_OP => "mmuext_op",
        HYPERVISOR_NMI_OP => "nmi_op",
        HYPERVISOR_SCHED_OP => "sched_op",
        HYPERVISOR_CALLBACK_OP => "callback_op",
        HYPERVISOR_EVENT_CHANNEL_OP => "event_channel_op",
        HYPERVISOR_PHYSDEV_OP => "physdev_op",
        HYPERVISOR_SYSCTL => "sysctl",
        HYPERVISOR_DOMCTL => "domctl",
        _ => return format!("hypercall {number}"),
    };
    name.into()
}

/// An exception's name.
pub fn exception(vector: u32) -> String {
    const NAMES: [&str; 20] = [
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "#09", "#TS", "#NP", "#SS",
        "#GP", "#PF", "#15", "#MF", "#AC", "#MC", "#XM",
    ];
    let name = NAMES.get(vector as usize).copied();
    name.map_or_else(|| format!("trap {vector}"), str::to_owned)
}
