//! The console page (io/console.h): two rings of bytes, `in` for what is typed and `out` for what
//! the guest prints.

use core::mem::offset_of;

use hypercall_abi::io::console::XenconsInterface;

use crate::byte_ring::{Consumer, Layout, Producer};
use crate::{RingError, SharedMemory};

const IN: Layout = Layout {
    data: offset_of!(XenconsInterface, in_),
    size: 1024,
    cons: offset_of!(XenconsInterface, in_cons),
    prod: offset_of!(XenconsInterface, in_prod),
};

const OUT: Layout = Layout {
    data: offset_of!(XenconsInterface, out),
    size: 2048,
    cons: offset_of!(XenconsInterface, out_cons),
    prod: offset_of!(XenconsInterface, out_prod),
};

/// The guest's end.
#[derive(Debug)]
pub struct Frontend<M> {
    memory: M,
    input: Consumer,
    output: Producer,
}

impl<M: SharedMemory> Frontend<M> {
    /// Takes up the console where its page says.
    ///
    /// # Panics
    ///
    /// If `memory` is smaller than the console page's struct.
    pub fn attach(memory: M) -> Self {
        assert!(memory.size() >= size_of::<XenconsInterface>());
        let (input, output) = (
            Consumer::attach(&memory, IN),
            Producer::attach(&memory, OUT),
        );
        Self {
            memory,
            input,
            output,
        }
    }

    /// Prints as much of `bytes` as there is room for; how many. The backend is to be notified
    /// unless it is 0.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, RingError> {
        self.output.write(&self.memory, bytes)
    }

    /// Reads what was typed; how many bytes. The backend is to be notified unless it is 0.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<usize, RingError> {
        self.input.read(&self.memory, bytes)
    }
}

/// The console daemon's end.
#[derive(Debug)]
pub struct Backend<M> {
    memory: M,
    input: Producer,
    output: Consumer,
}

impl<M: SharedMemory> Backend<M> {
    /// Takes up the console where its page says, which the guest had in its hands before: an error
    /// if it claims more than a ring holds.
    ///
    /// # Panics
    ///
    /// If `memory` is smaller than the console page's struct.
    pub fn attach(memory: M) -> Result<Self, RingError> {
        assert!(memory.size() >= size_of::<XenconsInterface>());
        let (input, output) = (
            Producer::attach(&memory, IN),
            Consumer::attach(&memory, OUT),
        );
        input.space(&memory)?;
        output.available(&memory)?;
        Ok(Self {
            memory,
            input,
            output,
        })
    }

    /// Types as much of `bytes` as there is room for; how many. The guest is to be notified unless
    /// it is 0.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, RingError> {
        self.input.write(&self.memory, bytes)
    }

    /// Reads what the guest printed; how many bytes. The guest is to be notified unless it is 0.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<usize, RingError> {
        self.output.read(&self.memory, bytes)
    }

    /// The page.
    pub fn memory(&self) -> &M {
        &self.memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_memory::Memory;

    #[test]
    fn what_the_guest_prints_the_daemon_reads_and_the_other_way_round() {
        let memory = Memory::new(4096);
        let mut front = Frontend::attach(&memory);
        let mut back = Backend::attach(&memory).unwrap();
        let mut bytes = [0; 4096];
        assert_eq!(front.write(&[b'o'; 3000]), Ok(2048));
        assert_eq!(back.write(&[b'i'; 3000]), Ok(1024));
        assert_eq!(back.read(&mut bytes), Ok(2048));
        assert!(bytes[..2048].iter().all(|byte| *byte == b'o'));
        assert_eq!(front.read(&mut bytes), Ok(1024));
        assert!(bytes[..1024].iter().all(|byte| *byte == b'i'));
    }

    #[test]
    fn an_end_that_attaches_anew_goes_on_where_it_was() {
        let memory = Memory::new(4096);
        let mut front = Frontend::attach(&memory);
        front.write(b"before after").unwrap();
        let mut bytes = [0; 6];
        Backend::attach(&memory).unwrap().read(&mut bytes).unwrap();
        assert_eq!(&bytes, b"before");
        assert_eq!(Backend::attach(&memory).unwrap().read(&mut bytes), Ok(6));
        assert_eq!(&bytes, b" after");
    }

    #[test]
    fn the_daemon_refuses_a_page_that_claims_more_than_it_holds() {
        let memory = Memory::new(4096);
        memory.store_index(OUT.prod, 2049);
        assert_eq!(
            Backend::attach(&memory).unwrap_err(),
            RingError {
                cons: 0,
                prod: 2049,
                size: 2048
            }
        );
    }
}
