//! Words of the model checker.

use event_protocol::Word;
use loom::sync::atomic::Ordering::SeqCst;
use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize};

macro_rules! words {
    ($($name:ident, $atomic:ty, $value:ty;)*) => {$(
        /// A word both ends change.
        #[derive(Default)]
        pub struct $name($atomic);

        impl Word<$value> for $name {
            fn load(&self) -> $value {
                self.0.fetch_or(0, SeqCst)
            }

            fn store(&self, value: $value) {
                self.0.swap(value, SeqCst);
            }

            fn fetch_or(&self, bits: $value) -> $value {
                self.0.fetch_or(bits, SeqCst)
            }

            fn fetch_and(&self, bits: $value) -> $value {
                self.0.fetch_and(bits, SeqCst)
            }

            fn compare_exchange(&self, old: $value, new: $value) -> Result<$value, $value> {
                let result = self.0.compare_exchange(old, new, SeqCst, SeqCst);
                if result.is_err() {
                    // Who goes on trying waits for another.
                    loom::thread::yield_now();
                }
                result
            }
        }
    )*};
}

words! {
    Word8, AtomicU8, u8;
    Word32, AtomicU32, u32;
    Word64, AtomicU64, u64;
}

/// A counter.
#[derive(Default)]
pub struct Number(AtomicUsize);

impl Number {
    pub fn add(&self) {
        self.0.fetch_add(1, SeqCst);
    }

    pub fn set(&self, value: usize) {
        self.0.swap(value, SeqCst);
    }

    pub fn get(&self) -> usize {
        self.0.fetch_or(0, SeqCst)
    }
}
