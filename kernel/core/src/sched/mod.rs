//! Who runs next.
mod credit;

pub use credit::Credit;

/// A scheduling policy.
pub trait Scheduler {}

use alloc::sync::Arc;

use crate::{Hypervisor, Vcpu};

/// Takes a vCPU in.
pub fn insert(_hv: &Hypervisor, _vcpu: &Arc<Vcpu>) {}

/// Lets a vCPU go for good.
pub fn remove(_hv: &Hypervisor, _vcpu: &Arc<Vcpu>) {}

/// A vCPU may have become runnable.
pub fn wake(_hv: &Hypervisor, _vcpu: &Arc<Vcpu>) {}

/// A vCPU may have ceased to be runnable.
pub fn sleep(_hv: &Hypervisor, _vcpu: &Arc<Vcpu>) {}
