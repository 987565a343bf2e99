//! Version, console, assists and multicalls.

use zerocopy::{FromBytes, IntoBytes};

use crate::caller::{Result, address_of, address_of_mut, check, count_of, hypercall2, hypercall3};
use crate::version::*;
use crate::xen::*;

/// A query that fills in a `T`.
fn query<T: FromBytes + IntoBytes>(cmd: u32, mut answer: T) -> Result<T> {
    let argument = address_of_mut(&mut answer);
    // SAFETY: `T` is what the query writes.
    check(unsafe { hypercall2::<HYPERVISOR_XEN_VERSION>(u64::from(cmd), argument) })?;
    Ok(answer)
}

/// Major and minor version of the hypervisor.
#[inline]
pub fn version() -> (u16, u16) {
    // SAFETY: the query has no argument. It cannot fail.
    let version = unsafe { hypercall2::<HYPERVISOR_XEN_VERSION>(u64::from(XENVER_VERSION), 0) };
    ((version >> 16) as u16, version as u16)
}

/// The rest of the version.
#[inline]
pub fn extraversion() -> Result<Extraversion> {
    query(XENVER_EXTRAVERSION, Extraversion::default())
}

/// Who built the hypervisor, when, with what.
#[inline]
pub fn compile_info() -> Result<CompileInfo> {
    query(XENVER_COMPILE_INFO, CompileInfo::default())
}

/// Guests that it can run.
#[inline]
pub fn capabilities() -> Result<CapabilitiesInfo> {
    query(XENVER_CAPABILITIES, [0; XEN_CAPABILITIES_INFO_LEN])
}

/// Commit it was built from.
#[inline]
pub fn changeset() -> Result<ChangesetInfo> {
    query(XENVER_CHANGESET, [0; XEN_CHANGESET_INFO_LEN])
}

/// First address that is the hypervisor's.
#[inline]
pub fn platform_parameters() -> Result<PlatformParameters> {
    query(XENVER_PLATFORM_PARAMETERS, PlatformParameters::default())
}

/// Word `submap_idx` of the feature bits, `1 << XENFEAT_*`.
#[inline]
pub fn features(submap_idx: u32) -> Result<u32> {
    Ok(query(
        XENVER_GET_FEATURES,
        FeatureInfo {
            submap_idx,
            submap: 0,
        },
    )?
    .submap)
}

/// Size of a page in bytes.
#[inline]
pub fn page_size() -> Result<u64> {
    // SAFETY: the query has no argument.
    check(unsafe { hypercall2::<HYPERVISOR_XEN_VERSION>(u64::from(XENVER_PAGESIZE), 0) })
}

/// This domain's unique identifier.
#[inline]
pub fn domain_handle() -> Result<DomainHandle> {
    query(XENVER_GUEST_HANDLE, DomainHandle::default())
}

/// The hypervisor's command line.
#[inline]
pub fn commandline() -> Result<Commandline> {
    query(XENVER_COMMANDLINE, [0; 1024])
}

/// Writes to the hypervisor's console.
#[inline]
pub fn console_write(bytes: &[u8]) -> Result<()> {
    let (cmd, count) = (u64::from(CONSOLEIO_WRITE), count_of(bytes));
    // SAFETY: the call reads `bytes`.
    check(unsafe { hypercall3::<HYPERVISOR_CONSOLE_IO>(cmd, count, address_of(bytes)) })?;
    Ok(())
}

/// Reads what was typed on the hypervisor's console, and returns the number of bytes.
#[inline]
pub fn console_read(buffer: &mut [u8]) -> Result<usize> {
    let (cmd, count) = (u64::from(CONSOLEIO_READ), count_of(buffer));
    let buffer = address_of_mut(buffer);
    // SAFETY: the call writes no more than `count` bytes of `buffer`.
    Ok(check(unsafe { hypercall3::<HYPERVISOR_CONSOLE_IO>(cmd, count, buffer) })? as usize)
}

/// Switches an optional behaviour, `VMASST_TYPE_*`, on or off.
#[inline]
pub fn vm_assist(type_: u32, enable: bool) -> Result<()> {
    let cmd = u64::from(if enable {
        VMASST_CMD_ENABLE
    } else {
        VMASST_CMD_DISABLE
    });
    // SAFETY: the arguments are numbers.
    check(unsafe { hypercall2::<HYPERVISOR_VM_ASSIST>(cmd, u64::from(type_)) })?;
    Ok(())
}

/// Does several hypercalls in one. Their results are in the entries; an error of the multicall
/// itself is returned.
///
/// # Safety
///
/// Each of the calls is one that the caller may make.
#[inline]
pub unsafe fn multicall(calls: &mut [MulticallEntry]) -> Result<()> {
    let (count, calls) = (count_of(calls), address_of_mut(calls));
    // SAFETY: the call reads and writes `calls`; the rest is the caller's promise.
    check(unsafe { hypercall2::<HYPERVISOR_MULTICALL>(calls, count) })?;
    Ok(())
}
