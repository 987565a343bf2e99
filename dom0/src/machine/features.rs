//! Features of a virtio device, as its transport negotiates them.

bitflags::bitflags! {
    /// Any bits; each driver knows its own.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        const _ = !0;
    }
}
