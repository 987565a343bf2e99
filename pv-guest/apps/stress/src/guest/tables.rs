//! Page tables: a page that becomes one and is a page again, and memory that comes as it is touched.

use hypercall_abi::types::Domid;
use hypercall_abi::xen::*;
use pv_guest::hypercall::{Result, mmu};
use pv_guest::memory::{DemandMemory, DmaMemory};
use pv_guest::pte::{ENTRIES, Flags, Pte};

use super::{Count, Dice, fail};

/// How often a page became a table.
pub static PINS: Count = Count::new();
/// How many pages came by being touched.
pub static PAGES: Count = Count::new();

/// A page that is a table by turns.
pub struct Scratch(DmaMemory);

impl Scratch {
    /// A page.
    pub fn new() -> Self {
        match DmaMemory::new(4096, 64) {
            Ok(memory) => Self(memory),
            Err(error) => fail(format_args!("no memory: {error}")),
        }
    }

    /// Makes it a table that maps itself, then a page that can be written.
    pub fn pin(&mut self) {
        let own = Pte::new(self.0.mfn(), Flags::READ).0;
        for place in 0..ENTRIES {
            self.0.set(place * 8, own);
        }
        if let Err(error) = self.become_table() {
            fail(format_args!("no table: {error}"));
        }
        self.0.fill(0, 4096, 0);
        PINS.add();
    }

    fn become_table(&self) -> Result<()> {
        self.protect(Flags::READ)?;
        self.operate(MMUEXT_PIN_L1_TABLE)?;
        self.operate(MMUEXT_UNPIN_TABLE)?;
        self.protect(Flags::READ_WRITE)
    }

    fn protect(&self, flags: Flags) -> Result<()> {
        let (address, entry) = (self.0.address(), Pte::new(self.0.mfn(), flags).0);
        // SAFETY: the same frame stays mapped; no reference is made to it.
        unsafe { mmu::update_va_mapping(address, entry, UVMF_INVLPG | UVMF_ALL) }
    }

    fn operate(&self, cmd: u32) -> Result<()> {
        let operation = MmuextOp {
            cmd,
            _pad0: 0,
            arg1: self.0.mfn().0,
            arg2: 0,
        };
        // SAFETY: the table is in no tree.
        unsafe { mmu::mmuext_op(&[operation], None, Domid::SELF) }
    }
}

/// Touches some pages, finds them zero and its own, and gives them back.
pub fn touch(dice: &mut Dice) {
    const PAGE: usize = 4096;
    let pages = 1 + dice.below(16) as usize;
    let mut memory = match DemandMemory::new(pages) {
        Ok(memory) => memory,
        Err(error) => fail(format_args!("no addresses: {error}")),
    };
    let mark = dice.below(255) as u8 + 1;
    for page in memory.as_mut_slice().chunks_mut(PAGE) {
        if page[mark as usize] != 0 {
            fail(format_args!("a new page is not zero"));
        }
        page.fill(mark);
        PAGES.add();
    }
    if memory.as_slice().iter().any(|&byte| byte != mark) {
        fail(format_args!("a page is not what was written"));
    }
}
