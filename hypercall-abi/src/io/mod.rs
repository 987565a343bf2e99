//! Protocols between domains: rings and pages that a frontend and a backend share (`xen/io/`).

pub mod blkif;
pub mod console;
pub mod netif;
pub mod protocols;
pub mod ring;
pub mod xenbus;
pub mod xs_wire;
