//! Protocols between domains: rings and pages that a frontend and a backend share (`xen/io/`).

pub mod console;
