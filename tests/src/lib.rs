//! Integration tests: hosts in QEMU, driven by xl.
