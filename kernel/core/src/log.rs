//! The log and the console: the hypervisor's own lines, what guests print, and what is typed.

use alloc::collections::VecDeque;
use alloc::string::String;
use core::fmt::{self, Write};

use hv_machine::{LogLevel, LogRing, Platform};
use hypercall_abi::xen::VIRQ_CONSOLE;

use crate::event;
use crate::hypervisor::Hypervisor;
use crate::lock::{Mutex, rank};
use crate::options::Options;

/// What stands before each line of the hypervisor's.
const PREFIX: &str = "(XEN) ";
/// Typed bytes that are kept until the control domain reads them; more are lost.
const INPUT_SIZE: usize = 16 << 10;

/// The log ring and the console's input.
pub struct Log {
    ring: Mutex<LogRing, { rank::LAST }>,
    input: Mutex<VecDeque<u8>, { rank::LAST }>,
}

impl Log {
    /// A log that begins with what the machine has printed before.
    pub fn new(options: &Options, boot_log: &str) -> Self {
        let mut ring = LogRing::new(options.log_ring_size);
        ring.push(boot_log.as_bytes());
        Self {
            ring: Mutex::new(ring),
            input: Mutex::new(VecDeque::new()),
        }
    }

    /// The ring, for `XEN_SYSCTL_readconsole`.
    pub fn ring(&self) -> &Mutex<LogRing, { rank::LAST }> {
        &self.ring
    }

    /// Takes up to `out.len()` typed bytes; gives how many.
    pub fn read_input(&self, out: &mut [u8]) -> usize {
        let mut input = self.input.lock();
        let count = out.len().min(input.len());
        for (slot, byte) in out.iter_mut().zip(input.drain(..count)) {
            *slot = byte;
        }
        count
    }
}

impl Hypervisor {
    /// Logs a message of the hypervisor's, a line or several; it is printed where `loglvl=` lets it.
    pub fn log(&self, level: LogLevel, message: fmt::Arguments<'_>) {
        if level <= self.options.log_level {
            self.print_lines(message);
        }
    }

    /// Logs a message that a guest caused; it is printed where `guest_loglvl=` lets it.
    pub fn guest_log(&self, level: LogLevel, message: fmt::Arguments<'_>) {
        if level <= self.options.guest_log_level {
            self.print_lines(message);
        }
    }

    /// Prints bytes on the console as they are, and keeps them in the log.
    pub fn print(&self, text: &[u8]) {
        self.log.ring.lock().push(text);
        self.machine.console_write(text);
    }

    /// Moves typed bytes from the machine to the control domain.
    pub fn console_interrupt(&self) {
        {
            let mut input = self.log.input.lock();
            while let Some(byte) = self.machine.console_read() {
                if input.len() < INPUT_SIZE {
                    input.push_back(byte);
                }
            }
            if input.is_empty() {
                return;
            }
        }
        event::send_host_virq(self, VIRQ_CONSOLE);
    }

    fn print_lines(&self, message: fmt::Arguments<'_>) {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            Lines {
                out: &mut text,
                at_start: true
            },
            "{message}"
        );
        if !text.ends_with('\n') {
            text.push('\n');
        }
        self.print(text.as_bytes());
    }
}

/// Puts [`PREFIX`] before each line.
struct Lines<'a> {
    out: &'a mut String,
    at_start: bool,
}

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            if self.at_start {
                self.out.push_str(PREFIX);
            }
            self.out.push_str(part);
            self.at_start = part.ends_with('\n');
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use core::mem::offset_of;

    use hypercall_abi::xen::SharedInfo;

    use crate::testing::{DOM0, DOMU, Host};

    #[test]
    fn every_line_has_its_prefix_and_is_kept() {
        let host = Host::new();
        host.hv.machine.take_output();
        host.hv.log(LogLevel::Error, format_args!("one\ntwo"));
        host.hv.log(LogLevel::Debug, format_args!("unseen"));
        assert_eq!(host.hv.machine.take_output(), "(XEN) one\n(XEN) two\n");
        let mut kept = [0; 64];
        let (_, len) = host.hv.log.ring().lock().read(0, &mut kept);
        assert_eq!(&kept[..len], b"(XEN) one\n(XEN) two\n");
    }

    #[test]
    fn typed_bytes_wait_for_the_control_domain() {
        let host = Host::new();
        host.hv.machine.type_input(b"hi");
        host.hv.console_interrupt();
        let mut out = [0; 8];
        assert_eq!(host.hv.log.read_input(&mut out), 2);
        assert_eq!(&out[..2], b"hi");
        assert_eq!(host.hv.log.read_input(&mut out), 0);
    }

    #[test]
    fn the_domain_that_handles_the_consoles_interrupt_hears_of_typed_bytes() {
        let host = Host::new();
        for id in [DOM0, DOMU] {
            event::bind_virq(&host.domain(id), VIRQ_CONSOLE, 0).expect("a port");
        }
        let pending = |id| host.shared::<u64>(id, offset_of!(SharedInfo, evtchn_pending)) != 0;
        host.hv.machine.type_input(b"1");
        host.hv.console_interrupt();
        assert!(pending(DOM0) && !pending(DOMU));
        event::set_virq_handler(&host.hv, &host.domain(DOMU), VIRQ_CONSOLE).expect("global");
        host.hv.machine.type_input(b"2");
        host.hv.console_interrupt();
        assert!(pending(DOMU));
    }
}
