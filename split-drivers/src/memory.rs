//! Memory that another domain reads and writes at the same time.

/// Memory shared with another domain.
///
/// Having one means that the memory stays mapped while it is borrowed. It says nothing about the
/// contents: each access may give another value. Offsets come from the protocol, not from the peer,
/// so one beyond the end is a programming error and panics.
pub trait SharedMemory {
    /// Bytes there are.
    fn size(&self) -> usize;

    /// Reads the aligned 32-bit index at `offset`; later accesses do not happen before it
    /// (acquire).
    fn load_index(&self, offset: usize) -> u32;

    /// Writes the aligned 32-bit index at `offset`; earlier accesses do not happen after it
    /// (release).
    fn store_index(&self, offset: usize, value: u32);

    /// Copies bytes out.
    fn read(&self, offset: usize, bytes: &mut [u8]);

    /// Copies bytes in.
    fn write(&self, offset: usize, bytes: &[u8]);
}

impl<M: SharedMemory + ?Sized> SharedMemory for &M {
    fn size(&self) -> usize {
        (**self).size()
    }

    fn load_index(&self, offset: usize) -> u32 {
        (**self).load_index(offset)
    }

    fn store_index(&self, offset: usize, value: u32) {
        (**self).store_index(offset, value);
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        (**self).read(offset, bytes);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        (**self).write(offset, bytes);
    }
}

/// Makes a type [`SharedMemory`] by something that it has: `shared_memory_by!(Page, page => page.frame)`.
#[macro_export]
macro_rules! shared_memory_by {
    ($type:ty, $this:ident => $inner:expr) => {
        impl $crate::SharedMemory for $type {
            fn size(&self) -> usize {
                let $this = self;
                $crate::SharedMemory::size(&$inner)
            }

            fn load_index(&self, offset: usize) -> u32 {
                let $this = self;
                $crate::SharedMemory::load_index(&$inner, offset)
            }

            fn store_index(&self, offset: usize, value: u32) {
                let $this = self;
                $crate::SharedMemory::store_index(&$inner, offset, value);
            }

            fn read(&self, offset: usize, bytes: &mut [u8]) {
                let $this = self;
                $crate::SharedMemory::read(&$inner, offset, bytes);
            }

            fn write(&self, offset: usize, bytes: &[u8]) {
                let $this = self;
                $crate::SharedMemory::write(&$inner, offset, bytes);
            }
        }
    };
}
