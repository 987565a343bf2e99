//! The protocol between xl and dom0.
