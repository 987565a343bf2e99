//! What the builder told this guest: its start info, command line and module.

use hypercall_abi::types::{Mfn, Port};
use hypercall_abi::xen::{
    SIF_INITDOMAIN, SIF_MOD_START_PFN, SIF_PRIVILEGED, StartInfo, StartInfoConsoleDomU,
};
use spin::Once;

use crate::memory::LINEAR_BASE;
use crate::pte::PAGE_SIZE;

struct Boot {
    info: StartInfo,
    module: &'static [u8],
}

static BOOT: Once<Boot> = Once::new();

/// Keeps the start info; what is at an address in it is `offset` further, modulo 2^64, in the
/// linear map.
pub(crate) fn init(info: &StartInfo, offset: u64) {
    let address = if info.flags & SIF_MOD_START_PFN == 0 {
        info.mod_start.wrapping_add(offset)
    } else {
        LINEAR_BASE + info.mod_start * PAGE_SIZE as u64
    };
    let module = match info.mod_len {
        0 => &[][..],
        length => {
            let start = core::ptr::with_exposed_provenance(address as usize);
            // SAFETY: the module is mapped there, and its frames are given to no one.
            unsafe { core::slice::from_raw_parts(start, length as usize) }
        }
    };
    BOOT.call_once(|| Boot {
        info: *info,
        module,
    });
}

fn boot() -> &'static Boot {
    BOOT.get().expect("the start info is read first")
}

/// The start info as it was at start of day. Addresses in it are those of the builder's range,
/// which is gone.
pub fn start_info() -> &'static StartInfo {
    &boot().info
}

/// Which hypervisor it is: `xen-4.17-x86_64` or the like.
pub fn magic() -> &'static str {
    text(&boot().info.magic)
}

/// The command line.
pub fn command_line() -> &'static str {
    text(&boot().info.cmd_line)
}

/// The value of the first `name=value` on the command line.
pub fn option(name: &str) -> Option<&'static str> {
    command_line()
        .split_ascii_whitespace()
        .filter_map(|word| word.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

/// The bytes of the module (ramdisk), none if there is no module.
pub fn module() -> &'static [u8] {
    boot().module
}

/// Whether this is the initial domain.
pub fn is_initial_domain() -> bool {
    boot().info.flags & SIF_INITDOMAIN != 0
}

/// Whether this domain may use privileged hypercalls.
pub fn is_privileged() -> bool {
    boot().info.flags & SIF_PRIVILEGED != 0
}

/// The frame and port of the console, which the initial domain does not have.
pub fn console_ring() -> Option<(Mfn, Port)> {
    let console: StartInfoConsoleDomU = boot().info.console.get();
    (!is_initial_domain() && console.mfn.0 != 0).then_some((console.mfn, console.evtchn))
}

/// The frame and port of the store. The initial domain has none: it starts the store.
pub fn store_ring() -> Option<(Mfn, Port)> {
    let info = &boot().info;
    let named = !is_initial_domain() && info.store_mfn.0 != 0 && info.store_evtchn.0 != 0;
    named.then_some((info.store_mfn, info.store_evtchn))
}

/// Text up to its zero byte. What is not UTF-8 ends it too.
fn text(bytes: &'static [u8]) -> &'static str {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    match core::str::from_utf8(&bytes[..end]) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
    }
}
