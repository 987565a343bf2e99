//! The console: of a domain, its ring; of the initial domain, the hypervisor's own.
//!
//! Printing never waits. What the ring has no room for is kept, up to a limit beyond which the
//! oldest is lost, and follows when the daemon at the other end made room.

use alloc::collections::VecDeque;
use core::cell::RefCell;
use core::fmt::{self, Write};

use critical_section::Mutex;
use hypercall_abi::types::Port;
use hypercall_abi::xen::VIRQ_CONSOLE;
use spin::Once;
use split_drivers::console::Frontend;

use crate::boot;
use crate::events::EventChannel;
use crate::hypercall::{sched, system};
use crate::memory::{Window, ring_page};

/// Bytes kept for a ring that is full.
const BACKLOG: usize = 64 * 1024;

enum Device {
    /// The hypervisor's console, by hypercall.
    Hypervisor,
    Ring {
        ring: Frontend<Window>,
        backlog: VecDeque<u8>,
    },
}

static DEVICE: Mutex<RefCell<Device>> = Mutex::new(RefCell::new(Device::Hypervisor));

/// Fires when there may be input or room for output.
static CHANNEL: Once<EventChannel> = Once::new();

/// Takes up the console.
pub(crate) fn init() {
    let channel = if let Some((mfn, port)) = boot::console_ring()
        // SAFETY: the start info names it.
        && let Some(window) = unsafe { ring_page(mfn) }
    {
        let device = Device::Ring {
            ring: Frontend::attach(window),
            backlog: VecDeque::new(),
        };
        critical_section::with(|cs| DEVICE.replace(cs, device));
        Some(EventChannel::from_builder(port))
    } else {
        // A domain that may not read the hypervisor's console can still print.
        EventChannel::bind_virq(VIRQ_CONSOLE).ok()
    };
    if let Some(channel) = channel {
        CHANNEL.call_once(|| channel).set_handler(|_: Port| drain());
    }
}

impl Device {
    fn write(&mut self, bytes: &[u8]) {
        match self {
            // The hypervisor may refuse; then there is nobody to tell.
            Self::Hypervisor => _ = system::console_write(bytes),
            Self::Ring { backlog, .. } => {
                for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                    match line.strip_suffix(b"\n") {
                        // Terminals at the other end are raw: they need both.
                        Some(text) => {
                            backlog.extend(text);
                            backlog.extend(b"\r\n");
                        }
                        None => backlog.extend(line),
                    }
                }
                self.drain();
            }
        }
    }

    /// Moves what was kept into the ring.
    fn drain(&mut self) {
        let Self::Ring { ring, backlog } = self else {
            return;
        };
        let mut moved = 0;
        loop {
            let (front, _) = backlog.as_slices();
            // A ring whose indices make no sense is a daemon gone wrong: nothing can be printed.
            match ring.write(front) {
                Ok(count) if count > 0 => {
                    backlog.drain(..count);
                    moved += count;
                }
                _ => break,
            }
        }
        let excess = backlog.len().saturating_sub(BACKLOG);
        backlog.drain(..excess);
        if moved > 0 {
            notify();
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        match self {
            Self::Hypervisor => system::console_read(bytes).unwrap_or(0),
            Self::Ring { ring, .. } => {
                let count = ring.read(bytes).unwrap_or(0);
                if count > 0 {
                    notify();
                }
                count
            }
        }
    }
}

fn notify() {
    if let Some(channel) = CHANNEL.get() {
        // The port is bound for ever; a daemon that is gone needs no notice.
        _ = channel.notify();
    }
}

fn drain() {
    critical_section::with(|cs| DEVICE.borrow_ref_mut(cs).drain());
}

/// Prints bytes.
pub fn write(bytes: &[u8]) {
    critical_section::with(|cs| DEVICE.borrow_ref_mut(cs).write(bytes));
}

/// Prints, whatever state the console is in: for the last words of a guest.
pub(crate) fn write_emergency(bytes: &[u8]) {
    let ring = critical_section::with(|cs| match DEVICE.borrow(cs).try_borrow_mut() {
        Ok(mut device) => {
            device.write(bytes);
            matches!(*device, Device::Ring { .. })
        }
        Err(_) => true,
    });
    if ring {
        // Where the hypervisor lets any domain print, its log has the words too.
        _ = system::console_write(bytes);
    }
}

/// Gives the daemon a chance to take what is left, before the domain ends.
pub(crate) fn flush() {
    const ROUNDS: usize = 1000;
    for _ in 0..ROUNDS {
        let done = critical_section::with(|cs| match DEVICE.borrow(cs).try_borrow_mut() {
            Ok(mut device) => {
                device.drain();
                !matches!(&*device, Device::Ring { backlog, .. } if !backlog.is_empty())
            }
            Err(_) => true,
        });
        if done {
            return;
        }
        sched::yield_now();
    }
}

/// Waits for input; how many bytes were read, at least one.
pub async fn read(bytes: &mut [u8]) -> usize {
    loop {
        let count = critical_section::with(|cs| DEVICE.borrow_ref_mut(cs).read(bytes));
        if count > 0 || bytes.is_empty() {
            return count;
        }
        match CHANNEL.get() {
            Some(channel) => channel.wait().await,
            // There is no input, ever.
            None => core::future::pending().await,
        }
    }
}

struct Printer(fn(&[u8]));

impl Write for Printer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        (self.0)(text.as_bytes());
        Ok(())
    }
}

/// What [`crate::print!`] calls.
pub fn print(arguments: fmt::Arguments<'_>) {
    // One call per piece would cost the initial domain a hypercall each.
    match arguments.as_str() {
        Some(text) => write(text.as_bytes()),
        None => write(alloc::fmt::format(arguments).as_bytes()),
    }
}

/// Prints by [`write_emergency`], without the heap.
pub(crate) fn print_emergency(arguments: fmt::Arguments<'_>) {
    // The printer never fails.
    _ = Printer(write_emergency).write_fmt(arguments);
}

/// Prints on the console.
#[macro_export]
macro_rules! print {
    ($($arguments:tt)*) => {
        $crate::console::print(::core::format_args!($($arguments)*))
    };
}

/// Prints a line on the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arguments:tt)*) => {
        $crate::console::print(::core::format_args!(
            "{}\n", ::core::format_args!($($arguments)*)
        ))
    };
}
