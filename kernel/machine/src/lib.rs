//! The machine under the hypervisor: bare metal, or simulated on the host.
#![cfg_attr(not(test), no_std)]
