//! The serial console: a 16550 at I/O ports.

use core::fmt;

use super::lock::Lock;
use super::options::SerialOptions;
use super::processor::port;

const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const DIVISOR_LOW: u16 = 0;
const DIVISOR_HIGH: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;

const ENABLE_RECEIVED: u8 = 1;
const FIFO_ON_AND_CLEAR: u8 = 0x07;
const DIVISOR_LATCH: u8 = 0x80;
const READY_AND_INTERRUPTS: u8 = 0x0b; // DTR, RTS, OUT2
const RECEIVED: u8 = 1;
const CAN_SEND: u8 = 1 << 5;
const FIFO_SIZE: u32 = 16;

/// The port, or none.
#[derive(Debug)]
pub struct Uart {
    port: Option<u16>,
    /// Bytes that can be sent without asking again.
    room: u32,
}

static CONSOLE: Lock<Uart> = Lock::new(Uart {
    port: None,
    room: 0,
});

/// Sets up the console's port.
pub fn configure(options: &SerialOptions) {
    let uart = Uart {
        port: Some(options.port),
        room: 0,
    };
    uart.write(INTERRUPT_ENABLE, 0);
    if let Some(baud) = options.baud {
        let [low, high] = ((options.clock / baud).clamp(1, 0xffff) as u16).to_le_bytes();
        uart.write(LINE_CONTROL, options.line | DIVISOR_LATCH);
        uart.write(DIVISOR_LOW, low);
        uart.write(DIVISOR_HIGH, high);
    }
    uart.write(LINE_CONTROL, options.line);
    uart.write(FIFO_CONTROL, FIFO_ON_AND_CLEAR);
    uart.write(MODEM_CONTROL, READY_AND_INTERRUPTS);
    // A port without a device reads as all ones.
    if uart.read(LINE_STATUS) != 0xff {
        *CONSOLE.lock() = uart;
    }
}

/// Lets the port raise its interrupt when a byte comes in.
pub fn enable_interrupt() {
    CONSOLE.lock().write(INTERRUPT_ENABLE, ENABLE_RECEIVED);
}

/// Prints bytes; `\n` becomes `\r\n`.
pub fn write(text: &[u8]) {
    CONSOLE.lock().print(text);
}

/// Takes a byte of input.
pub fn read() -> Option<u8> {
    let uart = CONSOLE.lock();
    uart.port?;
    if uart.read(LINE_STATUS) & RECEIVED != 0 {
        Some(uart.read(DATA))
    } else {
        None
    }
}

/// Frees the console for a CPU that is about to stop the machine, whoever holds it.
pub fn break_lock() {
    if CONSOLE.is_locked() {
        // SAFETY: the holder is this CPU, further up its stack, or another one that will not run on.
        unsafe { CONSOLE.force_unlock() };
    }
}

/// The console as a sink for `write!`.
#[derive(Debug)]
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text.as_bytes());
        Ok(())
    }
}

impl Uart {
    fn read(&self, register: u16) -> u8 {
        match self.port {
            // SAFETY: the port is the hypervisor's console.
            Some(port) => unsafe { port::in8(port + register) },
            None => 0,
        }
    }

    fn write(&self, register: u16, value: u8) {
        if let Some(port) = self.port {
            // SAFETY: the port is the hypervisor's console.
            unsafe { port::out8(port + register, value) };
        }
    }

    fn print(&mut self, text: &[u8]) {
        for &byte in text {
            if byte == b'\n' {
                self.send(b'\r');
            }
            self.send(byte);
        }
    }

    fn send(&mut self, byte: u8) {
        if self.room == 0 {
            // A receiver that holds the line up for ever must not hold up the machine.
            const PATIENCE: u32 = 1_000_000;
            for _ in 0..PATIENCE {
                if self.read(LINE_STATUS) & CAN_SEND != 0 {
                    break;
                }
                core::hint::spin_loop();
            }
            self.room = FIFO_SIZE;
        }
        self.room -= 1;
        self.write(DATA, byte);
    }
}
