//! [`FrameWord`]: a word of a guest's page, as the event protocols use it.

use event_protocol::Word;
use hv_machine::{MachineRef, Platform};
use hypercall_abi::types::Mfn;

/// A word of a frame that is held and untyped.
#[derive(Clone, Copy)]
pub(super) struct FrameWord<'a> {
    pub(super) machine: &'a MachineRef,
    pub(super) mfn: Mfn,
    /// Its number in the frame, counted in words of its own width.
    pub(super) index: usize,
}

macro_rules! frame_word {
    ($value:ty: $load:ident, $store:ident, $or:ident, $and:ident, $exchange:ident) => {
        impl Word<$value> for FrameWord<'_> {
            #[inline(always)]
            fn load(&self) -> $value {
                self.machine.$load(self.mfn, self.index)
            }

            #[inline(always)]
            fn store(&self, value: $value) {
                self.machine.$store(self.mfn, self.index, value);
            }

            #[inline(always)]
            fn fetch_or(&self, bits: $value) -> $value {
                self.machine.$or(self.mfn, self.index, bits)
            }

            #[inline(always)]
            fn fetch_and(&self, bits: $value) -> $value {
                self.machine.$and(self.mfn, self.index, bits)
            }

            #[inline(always)]
            fn compare_exchange(&self, old: $value, new: $value) -> Result<$value, $value> {
                self.machine.$exchange(self.mfn, self.index, old, new)
            }
        }
    };
}

frame_word!(u32: load_u32, store_u32, fetch_or_u32, fetch_and_u32, compare_exchange_u32);
frame_word!(u64: load_u64, store_u64, fetch_or_u64, fetch_and_u64, compare_exchange_u64);
