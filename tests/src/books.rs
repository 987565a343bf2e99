//! What the host has, counted: the same before a guest comes and after it has gone.

use crate::host::TestHost;

/// By how much what dom0 uses may grow, in bytes: tables that have had more in them.
const GROWTH: u64 = 128 * 1024;

/// Free memory, dom0's ports and memory, the store.
#[derive(Debug)]
pub struct Books {
    free_kib: u64,
    ports: u32,
    used: u64,
    tree: String,
}

impl Books {
    /// As they are.
    ///
    /// # Panics
    /// When the host does not tell.
    #[track_caller]
    pub fn of(host: &TestHost) -> Self {
        let info = host.host_info().expect("the host answers");
        Self {
            free_kib: info.free_memory_kib,
            ports: info.dom0_ports,
            used: info.dom0_used,
            tree: host.xl("xenstore ls -f").ok(),
        }
    }

    /// Everything that no guest has is as it was.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn assert_as_before(&self, before: &Self) {
        assert_eq!(self.free_kib, before.free_kib, "KiB of free memory");
        assert_eq!(self.ports, before.ports, "ports of dom0");
        assert_eq!(self.tree, before.tree);
    }

    /// The same, and dom0 uses no more, now that it has nothing to do.
    ///
    /// # Panics
    /// When it does.
    #[track_caller]
    pub fn assert_quiet_as_before(&self, before: &Self) {
        self.assert_as_before(before);
        let (used, before) = (self.used, before.used);
        eprintln!("dom0 uses {used} bytes, {before} before");
        assert!(used <= before + GROWTH, "{used} bytes, {before} before");
    }
}
