//! What the toolstack keeps in the store about domains, as Xen's does
//! (`docs/misc/xenstore-paths.pandoc`).

use alloc::format;
use alloc::string::{String, ToString};

use control::{DomainConfig, Uuid};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use crate::builder::Ring;
use crate::store::{Nodes, Store};
use crate::xen::Xen;

/// The version of `xl` whose layout this is.
const DEVICE_MODEL: &str = "qemu_xen";
/// How much of a guest's output xenconsoled keeps by default, in bytes.
const CONSOLE_LIMIT: &str = "1048576";
/// `XenbusStateInitialising`.
const INITIALISING: &str = "1";
/// The longest path of a kernel or ramdisk that is noted.
const MAX_PATH: usize = 1024;

/// A new domain, as its nodes describe it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its id.
    pub domid: Domid,
    /// What it was created from.
    pub config: &'a DomainConfig,
    /// Its console's ring.
    pub console: Ring,
    /// Its ring to the store.
    pub store: Ring,
    /// When it was created, in seconds since 1970.
    pub start_time: u64,
}

/// A domain's part of the tree, where its relative paths start.
pub fn home(domid: Domid) -> String {
    format!("/local/domain/{domid}")
}

/// Where a domain is asked to shut down.
pub fn shutdown(domid: Domid) -> String {
    format!("{}/control/shutdown", home(domid))
}

/// The toolstack's own notes on a domain.
fn private(domid: Domid) -> String {
    format!("/libxl/{domid}")
}

fn of_vm(uuid: &Uuid) -> String {
    format!("/vm/{uuid}")
}

fn console_backend(domid: Domid) -> String {
    format!("/local/domain/0/backend/console/{domid}")
}

/// Whose a node is, and who else may read it.
struct Permissions {
    toolstack: [String; 1],
    readable: [String; 2],
    of_guest: [String; 1],
    of_guest_readable: [String; 2],
}

impl Permissions {
    fn new(domid: Domid) -> Self {
        Self {
            toolstack: ["n0".to_string()],
            readable: ["n0".to_string(), format!("r{domid}")],
            of_guest: [format!("n{domid}")],
            of_guest_readable: [format!("n{domid}"), "r0".to_string()],
        }
    }
}

fn node<X: Xen>(
    store: &mut Nodes<'_, X>,
    path: &str,
    value: &str,
    permissions: &[String],
) -> Result<(), Errno> {
    store.write(path, value)?;
    let [first, rest @ ..] = permissions else {
        return Err(Errno::EINVAL);
    };
    match rest {
        [] => store.set_permissions(path, &[first]),
        [second, ..] => store.set_permissions(path, &[first, second]),
    }
}

/// The control domain, and what there is beside domains.
///
/// # Errors
///
/// The store's.
pub fn begin<X: Xen>(store: &mut Store<X::Mapping>, xen: &mut X, name: &str) -> Result<(), Errno> {
    let store = &mut store.nodes(xen);
    for directory in ["/tool/xenstored", "/vm", "/libxl"] {
        store.write(directory, "")?;
    }
    store.write("/local/domain/0/domid", "0")?;
    store.write("/local/domain/0/name", name)?;
    store.write("/local/pool/0/name", "Pool-0")
}

/// Adds a new domain.
///
/// This is no transaction, which would take as long again: it is for the caller to introduce the
/// domain when its nodes are there, and to [`remove`] them when this fails.
///
/// # Errors
///
/// The store's.
pub fn add<X: Xen>(
    store: &mut Store<X::Mapping>,
    xen: &mut X,
    entry: &Entry<'_>,
) -> Result<(), Errno> {
    let store = &mut store.nodes(xen);
    let permissions = Permissions::new(entry.domid);
    add_home(store, entry, &permissions)?;
    add_vm(store, entry, &permissions)?;
    add_console(store, entry, &permissions)
}

fn add_home<X: Xen>(
    store: &mut Nodes<'_, X>,
    entry: &Entry<'_>,
    permissions: &Permissions,
) -> Result<(), Errno> {
    let (home, private) = (home(entry.domid), private(entry.domid));
    let config = entry.config;
    for path in [&home, &private] {
        store.remove(path)?;
    }
    node(store, &home, "", &permissions.readable)?;
    node(store, &private, "", &permissions.toolstack)?;
    store.write(&format!("{private}/type"), "pv")?;
    store.write(&format!("{private}/dm-version"), DEVICE_MODEL)?;

    // What is written below a node has its permissions, and so has what is created between.
    for (name, value) in [
        ("vm", of_vm(&config.uuid)),
        ("name", config.name.clone()),
        ("domid", entry.domid.to_string()),
        ("memory/static-max", config.max_memory_kib.to_string()),
        ("memory/target", config.memory_kib.to_string()),
        ("memory/videoram", "0".to_string()),
        (
            "control/platform-feature-multiprocessor-suspend",
            "1".to_string(),
        ),
        ("control/platform-feature-xs_reset_watches", "1".to_string()),
        ("store/port", entry.store.port.to_string()),
        ("store/ring-ref", entry.store.frame.0.to_string()),
    ] {
        store.write(&format!("{home}/{name}"), &value)?;
    }
    for vcpu in 0..config.max_vcpus {
        let path = format!("{home}/cpu/{vcpu}/availability");
        store.write(&path, availability(vcpu < config.vcpus))?;
    }
    for name in [
        "device/suspend/event-channel",
        "control/shutdown",
        "control/feature-poweroff",
        "control/feature-reboot",
        "control/feature-suspend",
        "control/sysrq",
        "data",
        "drivers",
        "feature",
        "attr",
        "error",
    ] {
        node(store, &format!("{home}/{name}"), "", &permissions.of_guest)?;
    }
    Ok(())
}

fn add_vm<X: Xen>(
    store: &mut Nodes<'_, X>,
    entry: &Entry<'_>,
    permissions: &Permissions,
) -> Result<(), Errno> {
    let config = entry.config;
    let vm = of_vm(&config.uuid);
    store.remove(&vm)?;
    node(store, &vm, "", &permissions.readable)?;
    let start_time = format!("{}.00", entry.start_time);
    for (name, value) in [
        ("uuid", config.uuid.to_string().as_str()),
        ("name", &config.name),
        ("image/ostype", "linux"),
        ("image/kernel", noted(&config.kernel.path)),
        ("start_time", &start_time),
    ] {
        store.write(&format!("{vm}/{name}"), value)?;
    }
    if let Some(ramdisk) = &config.ramdisk {
        store.write(&format!("{vm}/image/ramdisk"), noted(&ramdisk.path))?;
    }
    if !config.cmdline.is_empty() {
        store.write(&format!("{vm}/image/cmdline"), &config.cmdline)?;
    }
    Ok(())
}

/// As much of a path as is noted.
fn noted(path: &str) -> &str {
    let mut end = path.len().min(MAX_PATH);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    path.get(..end).unwrap_or_default()
}

fn add_console<X: Xen>(
    store: &mut Nodes<'_, X>,
    entry: &Entry<'_>,
    permissions: &Permissions,
) -> Result<(), Errno> {
    let domid = entry.domid;
    let frontend = format!("{}/console", home(domid));
    let backend = format!("{}/0", console_backend(domid));
    let notes = format!("{}/device/console/0", private(domid));
    // The guest may read where its console is, and not change it.
    node(store, &frontend, "", &permissions.readable)?;
    for (name, value) in [
        ("backend", backend.as_str()),
        ("limit", CONSOLE_LIMIT),
        ("type", "xenconsoled"),
        ("output", "pty"),
        ("tty", ""),
        ("port", &entry.console.port.to_string()),
        ("ring-ref", &entry.console.frame.0.to_string()),
    ] {
        store.write(&format!("{frontend}/{name}"), value)?;
    }
    node(
        store,
        &format!("{frontend}/backend-id"),
        "0",
        &permissions.of_guest_readable,
    )?;
    node(store, &backend, "", &permissions.readable)?;
    store.write(&format!("{notes}/backend"), &backend)?;
    for place in [&backend, &notes] {
        for (name, value) in [
            ("frontend", frontend.as_str()),
            ("frontend-id", &domid.to_string()),
            ("online", "1"),
            ("state", INITIALISING),
            ("protocol", "vt100"),
        ] {
            store.write(&format!("{place}/{name}"), value)?;
        }
    }
    Ok(())
}

/// Removes a domain, with all that it has written.
///
/// # Errors
///
/// The store's.
pub fn remove<X: Xen>(
    store: &mut Store<X::Mapping>,
    xen: &mut X,
    domid: Domid,
    uuid: &Uuid,
) -> Result<(), Errno> {
    let store = &mut store.nodes(xen);
    for path in [home(domid), private(domid), of_vm(uuid)] {
        store.remove(&path)?;
    }
    store.remove(&console_backend(domid))?;
    // The directories of backends are there as long as there is one.
    for parent in ["/local/domain/0/backend/console", "/local/domain/0/backend"] {
        if store.directory(parent)?.is_empty() {
            store.remove(parent)?;
        }
    }
    Ok(())
}

/// Gives a domain another name.
///
/// # Errors
///
/// The store's.
pub fn rename<X: Xen>(
    store: &mut Store<X::Mapping>,
    xen: &mut X,
    domid: Domid,
    uuid: &Uuid,
    name: &str,
) -> Result<(), Errno> {
    store.transaction(xen, |store| {
        store.write(&format!("{}/name", home(domid)), name)?;
        store.write(&format!("{}/name", of_vm(uuid)), name)
    })
}

/// Gives a domain that is kept for examination another name and another UUID, and leaves those that
/// it had to its successor.
///
/// # Errors
///
/// The store's.
pub fn set_aside<X: Xen>(
    store: &mut Store<X::Mapping>,
    xen: &mut X,
    entry: (Domid, &Uuid),
    uuid: &Uuid,
    name: &str,
) -> Result<(), Errno> {
    let (domid, old) = entry;
    let permissions = Permissions::new(domid);
    store.transaction(xen, |store| {
        let vm = of_vm(uuid);
        store.remove(&of_vm(old))?;
        node(store, &vm, "", &permissions.readable)?;
        store.write(&format!("{vm}/uuid"), &uuid.to_string())?;
        store.write(&format!("{vm}/name"), name)?;
        store.write(&format!("{}/vm", home(domid)), &vm)?;
        store.write(&format!("{}/name", home(domid)), name)
    })
}

/// Asks a domain to have so much memory, in KiB.
///
/// # Errors
///
/// The store's.
pub fn set_memory_target<X: Xen>(
    store: &mut Store<X::Mapping>,
    xen: &mut X,
    domid: Domid,
    uuid: &Uuid,
    kib: u64,
) -> Result<(), Errno> {
    store.transaction(xen, |store| {
        store.write(&format!("{}/memory/target", home(domid)), &kib.to_string())?;
        // In MiB, as Xen's toolstack has it.
        store.write(
            &format!("{}/memory", of_vm(uuid)),
            &(kib / 1024).to_string(),
        )
    })
}

/// Asks a domain to have its first `online` vCPUs of `all` online, and the others not.
///
/// # Errors
///
/// The store's.
pub fn set_vcpus<X: Xen>(
    store: &mut Store<X::Mapping>,
    xen: &mut X,
    domid: Domid,
    online: u32,
    all: u32,
) -> Result<(), Errno> {
    store.transaction(xen, |store| {
        (0..all).try_for_each(|vcpu| {
            let path = format!("{}/cpu/{vcpu}/availability", home(domid));
            store.write(&path, availability(vcpu < online))
        })
    })
}

fn availability(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}
