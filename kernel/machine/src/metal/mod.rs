//! The metal: x86-64 PCs.
