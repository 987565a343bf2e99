//! Events in queues (`event_protocol::fifo`), where the hypervisor has them: the pages for it, and this guest's end.
//!
//! A page has the control blocks of all vCPUs. Pages of words come as ports do that need them; each port is masked until
//! it is bound. The word `xen.fifo_events=0` of the command line, which Linux has too, leaves events with the two-level
//! bitmap.

use core::cell::RefCell;
use core::mem::offset_of;

use critical_section::Mutex;
use event_protocol::Word as _;
use event_protocol::fifo::{self, Array, Consumer, Control, MASKED, PENDING};
use hypercall_abi::event_channel::{
    EVTCHN_FIFO_NR_CHANNELS, EvtchnFifoControlBlock, EvtchnInitControl,
};
use hypercall_abi::types::Port;
use spin::Once;

use crate::hypercall::{Result, event_channel};
use crate::memory::{DmaMemory, SharedWord};
use crate::pte::PAGE_SIZE;
use crate::vcpus::MAX_VCPUS;
use crate::{boot, cpu, sync};

const WORD: usize = size_of::<u32>();
/// Words in a page.
const WORDS: usize = PAGE_SIZE / WORD;
const MAX_PAGES: usize = EVTCHN_FIFO_NR_CHANNELS as usize / WORDS;
/// Bytes between two control blocks.
const BLOCK: usize = PAGE_SIZE / MAX_VCPUS;
const _: () = assert!(BLOCK >= size_of::<EvtchnFifoControlBlock>());

/// The control blocks; not there as long as events are in the two-level bitmap.
static CONTROL: Once<DmaMemory> = Once::new();
static PAGES: [Once<DmaMemory>; MAX_PAGES] = [const { Once::new() }; MAX_PAGES];
/// Whoever adds a page has it.
static GROWTH: sync::Mutex<()> = sync::Mutex::new(());
/// By vCPU; one that serves its upcall has taken its own.
static CONSUMERS: [Mutex<RefCell<Consumer>>; MAX_VCPUS] =
    [const { Mutex::new(RefCell::new(Consumer::new())) }; MAX_VCPUS];

struct Words;

impl Array for Words {
    type Word = SharedWord<'static>;

    fn word(&self, port: Port) -> Option<SharedWord<'static>> {
        let page = PAGES.get(port.0 as usize / WORDS)?.get()?;
        Some(page.shared_word(port.0 as usize % WORDS * WORD))
    }
}

/// A vCPU's control block: its page, and its offset.
struct Block(&'static DmaMemory, usize);

impl Control for Block {
    type Word = SharedWord<'static>;

    fn ready(&self) -> SharedWord<'static> {
        let offset = offset_of!(EvtchnFifoControlBlock, ready);
        self.0.shared_word(self.1 + offset)
    }

    fn head(&self, queue: usize) -> SharedWord<'static> {
        let offset = offset_of!(EvtchnFifoControlBlock, head);
        self.0.shared_word(self.1 + offset + queue * WORD)
    }
}

/// Begins to use queues, if that is possible and wanted.
pub(crate) fn init() {
    let unwanted = |word| word == "xen.fifo_events=0";
    if boot::command_line().split(' ').any(unwanted) {
        return;
    }
    let Ok(page) = DmaMemory::new(PAGE_SIZE, 64) else {
        return;
    };
    if give_block(&page, 0).is_ok() {
        // An event for a vCPU without a block is lost, and one that is not up yet may be sent some. The first number
        // that is refused is no vCPU's.
        let mut others = 1..MAX_VCPUS as u32;
        while others
            .next()
            .is_some_and(|vcpu| give_block(&page, vcpu).is_ok())
        {}
        CONTROL.call_once(|| page);
        ensure(Port(0)).expect("there is memory for the words of the first ports");
    }
}

/// Whether events are in queues.
pub fn are_used() -> bool {
    CONTROL.is_completed()
}

fn give_block(page: &DmaMemory, vcpu: u32) -> Result<()> {
    let mut control = EvtchnInitControl {
        control_gfn: page.mfn().0,
        offset: vcpu * BLOCK as u32,
        vcpu,
        ..Default::default()
    };
    // SAFETY: the page is kept for this once it has the first block, which is for ever, and never behind a reference.
    unsafe { event_channel::init_control(&mut control) }
}

/// Makes sure that there is a word for a port.
pub(crate) fn ensure(port: Port) -> Result<()> {
    if !are_used() || Words.word(port).is_some() {
        return Ok(());
    }
    let _growing = GROWTH.lock();
    for page in PAGES.iter().take(port.0 as usize / WORDS + 1) {
        if page.is_completed() {
            continue;
        }
        let memory = DmaMemory::new(PAGE_SIZE, 64)?;
        for offset in (0..PAGE_SIZE).step_by(WORD) {
            memory.set(offset, MASKED);
        }
        // SAFETY: the page is kept for this, for ever, and never behind a reference.
        unsafe { event_channel::expand_array(memory.mfn().0) }?;
        page.call_once(|| memory);
    }
    Ok(())
}

/// Hands the ports of a vCPU that are pending and not masked to `serve`. Called with upcalls masked.
pub(crate) fn take_pending(vcpu: usize, serve: impl FnMut(Port)) {
    let Some(page) = CONTROL.get() else {
        return;
    };
    let kept = &CONSUMERS[vcpu];
    let mut own = critical_section::with(|cs| kept.take(cs));
    let block = Block(page, vcpu * BLOCK);
    own.take_pending(&cpu::vcpu().upcall_pending, &block, &Words, serve);
    critical_section::with(|cs| kept.replace(cs, own));
}

/// Masks a port.
pub(crate) fn mask(port: Port) {
    if let Some(word) = Words.word(port) {
        fifo::mask(&word);
    }
}

/// Unmasks a port, unless it is pending: then it is the hypervisor's to do, and the answer `false`.
#[must_use = "an event that came while the port was masked would be lost"]
pub(crate) fn unmask(port: Port) -> bool {
    Words.word(port).is_none_or(|word| fifo::unmask(&word))
}

/// Whether a port is pending.
pub(crate) fn is_pending(port: Port) -> bool {
    let held = Words.word(port).map(|word| word.load());
    held.is_some_and(|held| held & PENDING != 0)
}

/// Forgets that a port is pending; whether it was.
pub(crate) fn clear(port: Port) -> bool {
    let held = Words.word(port).map(|word| word.fetch_and(!PENDING));
    held.is_some_and(|held| held & PENDING != 0)
}
