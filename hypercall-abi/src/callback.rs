//! Entry points of the guest's kernel, set one by one (`xen/callback.h`).

use crate::layout::{constants, structs};

constants! {
    /// Event delivery.
    pub const CALLBACKTYPE_EVENT: u16 = 0;
    /// A return to the guest failed.
    pub const CALLBACKTYPE_FAILSAFE: u16 = 1;
    /// The instruction `syscall` in 64-bit mode.
    pub const CALLBACKTYPE_SYSCALL: u16 = 2;
    /// The instruction `sysenter`, as it was.
    pub const CALLBACKTYPE_SYSENTER_DEPRECATED: u16 = 3;
    /// NMI.
    pub const CALLBACKTYPE_NMI: u16 = 4;
    /// The instruction `sysenter`.
    pub const CALLBACKTYPE_SYSENTER: u16 = 5;
    /// The instruction `syscall` in 32-bit mode.
    pub const CALLBACKTYPE_SYSCALL32: u16 = 7;
    /// `CallbackRegister::flags`: mask events on entry.
    pub const CALLBACKF_MASK_EVENTS: u16 = 1 << 0;
    /// Set an entry point: `CallbackRegister`.
    pub const CALLBACKOP_REGISTER: u32 = 0;
    /// Remove an entry point: `CallbackUnregister`.
    pub const CALLBACKOP_UNREGISTER: u32 = 1;
}

structs! {
    /// `CALLBACKOP_REGISTER`.
    pub struct CallbackRegister[16] = "struct callback_register" {
        /// `CALLBACKTYPE_*`.
        pub type_: u16,
        /// `CALLBACKF_MASK_EVENTS` or 0.
        pub flags: u16,
        /// Zero.
        pub _pad0: u32,
        /// Linear address.
        pub address: u64,
    }

    /// `CALLBACKOP_UNREGISTER`.
    pub struct CallbackUnregister[4] = "struct callback_unregister" {
        /// `CALLBACKTYPE_*`.
        pub type_: u16,
        /// Zero.
        pub _unused: u16,
    }
}
