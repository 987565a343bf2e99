//! [`Word`]: a word that both ends read and write.

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// A word of memory that both ends read and write at any moment. All operations on all words are in one order on which
/// everybody agrees.
pub trait Word<N> {
    /// What it holds.
    fn load(&self) -> N;
    /// Writes it.
    fn store(&self, value: N);
    /// Sets bits; what it held.
    fn fetch_or(&self, bits: N) -> N;
    /// Keeps only these bits; what it held.
    fn fetch_and(&self, bits: N) -> N;
    /// Writes `new` if it holds `old`.
    ///
    /// # Errors
    /// What it holds instead.
    fn compare_exchange(&self, old: N, new: N) -> Result<N, N>;
}

impl<N, W: Word<N>> Word<N> for &W {
    #[inline(always)]
    fn load(&self) -> N {
        (*self).load()
    }

    #[inline(always)]
    fn store(&self, value: N) {
        (*self).store(value);
    }

    #[inline(always)]
    fn fetch_or(&self, bits: N) -> N {
        (*self).fetch_or(bits)
    }

    #[inline(always)]
    fn fetch_and(&self, bits: N) -> N {
        (*self).fetch_and(bits)
    }

    #[inline(always)]
    fn compare_exchange(&self, old: N, new: N) -> Result<N, N> {
        (*self).compare_exchange(old, new)
    }
}

macro_rules! atomics {
    ($($atomic:ty: $value:ty),*) => {$(
        impl Word<$value> for $atomic {
            #[inline(always)]
            fn load(&self) -> $value {
                self.load(SeqCst)
            }

            #[inline(always)]
            fn store(&self, value: $value) {
                self.store(value, SeqCst);
            }

            #[inline(always)]
            fn fetch_or(&self, bits: $value) -> $value {
                self.fetch_or(bits, SeqCst)
            }

            #[inline(always)]
            fn fetch_and(&self, bits: $value) -> $value {
                self.fetch_and(bits, SeqCst)
            }

            #[inline(always)]
            fn compare_exchange(&self, old: $value, new: $value) -> Result<$value, $value> {
                self.compare_exchange(old, new, SeqCst, SeqCst)
            }
        }
    )*};
}

atomics!(AtomicU8: u8, AtomicU32: u32, AtomicU64: u64);
