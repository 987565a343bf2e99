//! `HYPERVISOR_xen_version` (`xen/version.h`): what the hypervisor is and can.

use hypercall_abi::arch_x86::HYPERVISOR_VIRT_START;
use hypercall_abi::errno::Errno;
use hypercall_abi::features::*;
use hypercall_abi::version::*;
use hypercall_abi::xen::VMASST_TYPE_PAE_EXTENDED_CR3;
use zerocopy::FromZeros;

use crate::current::Current;
use crate::hypercall::{Args, HypercallResult};

/// The version of Xen whose interface this is: major and minor.
pub const INTERFACE_VERSION: (u32, u32) = (4, 17);
/// What stands behind the version: this hypervisor's own name.
const EXTRA_VERSION: &str = concat!(
    ".0-xl",
    env!("CARGO_PKG_VERSION_MAJOR"),
    ".",
    env!("CARGO_PKG_VERSION_MINOR")
);
/// The kinds of guest that run.
const CAPABILITIES: &str = "xen-3.0-x86_64";
/// Bytes of a command line.
const COMMAND_LINE_LEN: usize = 1024;
/// What a guest without the right to know reads, and no more: it need not have room for the whole.
const DENIED: &[u8] = b"<denied>\0";

/// `HYPERVISOR_xen_version(command, buffer)`.
///
/// # Errors
/// `EFAULT`; `EINVAL` for features that there are none of, a page size with a buffer, or a build id without room;
/// `EPERM`, or `ENODATA` as the image has none, for the build id; `ENOSYS` for an unknown command.
pub fn do_xen_version(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let [command, buffer, ..] = *args;
    // Guests make this call for its side effect, the delivery of events.
    if command as u32 == XENVER_VERSION {
        return Ok(u64::from(INTERFACE_VERSION.0 << 16 | INTERFACE_VERSION.1));
    }
    describe(cx, command as u32, buffer)
}

/// The commands that fill a buffer of the guest's.
#[inline(never)]
fn describe(cx: &mut Current<'_>, command: u32, buffer: u64) -> HypercallResult {
    match command {
        XENVER_EXTRAVERSION => {
            cx.write(buffer, &text::<XEN_EXTRAVERSION_LEN>(EXTRA_VERSION))?;
            Ok(0)
        }
        XENVER_COMPILE_INFO => {
            let mut info = CompileInfo::new_zeroed();
            info.compiler = text(concat!("rustc ", env!("CARGO_PKG_RUST_VERSION")));
            info.compile_by = text("xenolith");
            cx.write(buffer, &info)?;
            Ok(0)
        }
        XENVER_CAPABILITIES => {
            cx.write(buffer, &text::<XEN_CAPABILITIES_INFO_LEN>(CAPABILITIES))?;
            Ok(0)
        }
        XENVER_CHANGESET => {
            cx.write(buffer, &text::<XEN_CHANGESET_INFO_LEN>("unavailable"))?;
            Ok(0)
        }
        XENVER_PLATFORM_PARAMETERS => {
            cx.write(
                buffer,
                &PlatformParameters {
                    virt_start: HYPERVISOR_VIRT_START,
                },
            )?;
            Ok(0)
        }
        XENVER_GET_FEATURES => {
            let mut info: FeatureInfo = cx.read(buffer)?;
            if info.submap_idx >= XENFEAT_NR_SUBMAPS {
                return Err(Errno::EINVAL.into());
            }
            info.submap = features(
                cx.domain.privileged,
                cx.domain.assisted(VMASST_TYPE_PAE_EXTENDED_CR3),
            );
            cx.write(buffer, &info)?;
            Ok(0)
        }
        XENVER_PAGESIZE if buffer != 0 => Err(Errno::EINVAL.into()),
        XENVER_PAGESIZE => Ok(hv_machine::PAGE_SIZE as u64),
        XENVER_GUEST_HANDLE => {
            let handle = *cx.domain.handle.lock();
            cx.write(buffer, &handle)?;
            Ok(0)
        }
        XENVER_COMMANDLINE => {
            if cx.domain.privileged {
                let line = text::<COMMAND_LINE_LEN>(cx.hv.options.line.as_str());
                cx.write(buffer, &line)?;
            } else {
                cx.write_bytes(buffer, DENIED)?;
            }
            Ok(0)
        }
        XENVER_BUILD_ID if !cx.domain.privileged => Err(Errno::EPERM.into()),
        XENVER_BUILD_ID => {
            if buffer != 0 && cx.read::<u32>(buffer)? == 0 {
                return Err(Errno::EINVAL.into());
            }
            Err(Errno::ENODATA.into())
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// `XENFEAT_*` bits of the first submap.
fn features(privileged: bool, extended_cr3: bool) -> u32 {
    let common = 1 << XENFEAT_MMU_PT_UPDATE_PRESERVE_AD
        | 1 << XENFEAT_HIGHMEM_ASSIST
        | 1 << XENFEAT_GNTTAB_MAP_AVAIL_BITS
        | 1 << XENFEAT_MEMORY_OP_VNODE_SUPPORTED
        | 1 << XENFEAT_DIRECT_MAPPED;
    let extended = if extended_cr3 {
        1 << XENFEAT_PAE_PGDIR_ABOVE_4GB
    } else {
        0
    };
    common | extended | if privileged { 1 << XENFEAT_DOM0 } else { 0 }
}

/// A zero-terminated text in a field of `N` bytes, cut off where it is too long.
pub(crate) fn text<const N: usize>(value: &str) -> [u8; N] {
    let mut field = [0; N];
    for (slot, &byte) in field.iter_mut().take(N - 1).zip(value.as_bytes()) {
        *slot = byte;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DOM0, DOMU, Host, SCRATCH, SCRATCH_PAGES};
    use hypercall_abi::types::Domid;
    use hypercall_abi::xen::HYPERVISOR_XEN_VERSION;

    fn call(host: &Host, id: Domid, command: u32, buffer: u64) -> i64 {
        host.hypercall(id, HYPERVISOR_XEN_VERSION, &[u64::from(command), buffer])
    }

    #[test]
    fn the_interface_is_that_of_xen_4_17() {
        let host = Host::new();
        assert_eq!(call(&host, DOMU, XENVER_VERSION, 0), 0x40011);
        assert_eq!(call(&host, DOMU, XENVER_PAGESIZE, 0), 4096);
        let at = host.room(DOMU, 1024);
        assert_eq!(call(&host, DOMU, XENVER_CAPABILITIES, at), 0);
        assert!(
            host.get::<[u8; 1024]>(DOMU, at)
                .starts_with(b"xen-3.0-x86_64\0")
        );
        assert_eq!(call(&host, DOMU, XENVER_PLATFORM_PARAMETERS, at), 0);
        assert_eq!(host.get::<u64>(DOMU, at), 0xffff_8000_0000_0000);
    }

    #[test]
    fn features_tell_the_control_domain_apart() {
        let host = Host::new();
        let submap = |id| {
            let at = host.put(
                id,
                &FeatureInfo {
                    submap_idx: 0,
                    submap: 0,
                },
            );
            assert_eq!(call(&host, id, XENVER_GET_FEATURES, at), 0);
            host.get::<FeatureInfo>(id, at).submap
        };
        assert_eq!(submap(DOM0) ^ submap(DOMU), 1 << XENFEAT_DOM0);
        let at = host.put(
            DOMU,
            &FeatureInfo {
                submap_idx: 1,
                submap: 0,
            },
        );
        assert_eq!(
            call(&host, DOMU, XENVER_GET_FEATURES, at),
            Errno::EINVAL.to_return()
        );
    }

    #[test]
    fn secrets_are_kept_from_ordinary_domains() {
        let host = Host::new();
        let at = host.room(DOMU, 1024);
        assert_eq!(call(&host, DOMU, XENVER_COMMANDLINE, at), 0);
        assert!(host.get::<[u8; 1024]>(DOMU, at).starts_with(b"<denied>\0"));
        assert_eq!(
            call(&host, DOMU, XENVER_BUILD_ID, at),
            Errno::EPERM.to_return()
        );
        let build_id = |at| call(&host, DOM0, XENVER_BUILD_ID, at);
        assert_eq!(build_id(0), Errno::ENODATA.to_return());
        let room = host.put(DOM0, &20_u32);
        assert_eq!(build_id(room), Errno::ENODATA.to_return());
        let no_room = host.put(DOM0, &0_u32);
        assert_eq!(build_id(no_room), Errno::EINVAL.to_return());
    }

    #[test]
    fn a_guest_without_the_right_needs_room_for_the_refusal_alone() {
        let host = Host::new();
        let end = SCRATCH + SCRATCH_PAGES * 4096;
        assert_eq!(call(&host, DOMU, XENVER_COMMANDLINE, end - 9), 0);
        assert_eq!(host.get::<[u8; 9]>(DOMU, end - 9), *b"<denied>\0");
        assert_eq!(
            call(&host, DOMU, XENVER_COMMANDLINE, end - 8),
            Errno::EFAULT.to_return()
        );
    }

    #[test]
    fn what_has_no_answer_is_refused() {
        let host = Host::new();
        let at = host.room(DOMU, 8);
        let refused = call(&host, DOMU, XENVER_PAGESIZE, at);
        assert_eq!(refused, Errno::EINVAL.to_return());
        for command in [11, 99, u32::MAX] {
            let refused = call(&host, DOMU, command, at);
            assert_eq!(refused, Errno::ENOSYS.to_return());
        }
    }
}
