//! The words of the command line that the machine itself obeys, in Xen's syntax: `com1=`, `com2=`, `console=`,
//! `noreboot`, `maxcpus=`, `nosmp`.

/// A serial port's settings: `<baud>[/<clock>][,<data bits><parity><stop bits>[,<port>[,<irq>]]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialOptions {
    /// Bits per second; `None` leaves the rate as the firmware set it (`auto`).
    pub baud: Option<u32>,
    /// Sixteenths of the input clock, per second.
    pub clock: u32,
    /// Line-control register: data bits, parity, stop bits.
    pub line: u8,
    /// First I/O port.
    pub port: u16,
    /// ISA interrupt; 0 for none.
    pub irq: u8,
}

/// What the command line says to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The port that the console is on.
    pub serial: Option<SerialOptions>,
    /// Stop instead of restarting the machine.
    pub no_reboot: bool,
    /// How many CPUs to use at most: `maxcpus=`, of which 0 means all, as is the default.
    pub max_cpus: usize,
}

const LINE_8N1: u8 = 3;

const COM1: SerialOptions = SerialOptions {
    baud: Some(115_200),
    clock: 115_200,
    line: LINE_8N1,
    port: 0x3f8,
    irq: 4,
};
const COM2: SerialOptions = SerialOptions {
    port: 0x2f8,
    irq: 3,
    ..COM1
};

impl Options {
    /// Reads a command line. What it does not understand it passes over; the last of several equal words counts.
    pub fn parse(command_line: &str) -> Self {
        let (mut com1, mut com2, mut console) = (None, None, None);
        let mut no_reboot = false;
        let mut max_cpus = usize::MAX;
        for word in command_line.split_ascii_whitespace() {
            match word.split_once('=') {
                Some(("com1", value)) => com1 = Some(parse_serial(value, COM1)),
                Some(("com2", value)) => com2 = Some(parse_serial(value, COM2)),
                Some(("console", value)) => console = Some(value),
                Some(("noreboot", value)) => {
                    no_reboot = !matches!(value, "0" | "no" | "off" | "false" | "disable");
                }
                None if word == "noreboot" => no_reboot = true,
                Some(("maxcpus", value)) => match number(value) {
                    Some(0) => max_cpus = usize::MAX,
                    Some(most) => max_cpus = most as usize,
                    None => {}
                },
                None if word == "nosmp" => max_cpus = 1,
                _ => {}
            }
        }
        let serial = match console {
            // The first port of the list; a flag such as `com1H` may follow the name.
            Some(list) => list.split(',').find_map(|name| match name.get(..4) {
                Some("com1") => Some(com1.unwrap_or(COM1)),
                Some("com2") => Some(com2.unwrap_or(COM2)),
                _ => None,
            }),
            None => com1.or(com2),
        };
        Self {
            serial,
            no_reboot,
            max_cpus,
        }
    }
}

fn parse_serial(value: &str, default: SerialOptions) -> SerialOptions {
    let mut options = default;
    let mut fields = value.split(',');
    if let Some(rate) = fields.next() {
        let (baud, clock) = match rate.split_once('/') {
            Some((baud, clock)) => (baud, Some(clock)),
            None => (rate, None),
        };
        if baud == "auto" {
            options.baud = None;
        } else if let Some(baud) = number(baud) {
            options.baud = Some(baud).filter(|&b| b != 0).or(options.baud);
        }
        if let Some(clock) = clock.and_then(number) {
            options.clock = (clock / 16).max(1);
        }
    }
    if let Some(line) = fields.next().and_then(line_control) {
        options.line = line;
    }
    if let Some(port) = fields
        .next()
        .and_then(number)
        .and_then(|p| u16::try_from(p).ok())
        && port != 0
    {
        options.port = port;
    }
    if let Some(irq) = fields.next().and_then(number)
        && irq < 16
    {
        options.irq = irq as u8;
    }
    options
}

/// The line-control register for `8n1` and the like.
fn line_control(text: &str) -> Option<u8> {
    let [data, parity, stop] = text.as_bytes() else {
        return None;
    };
    let data = match data {
        b'5'..=b'8' => data - b'5',
        _ => return None,
    };
    let parity = match parity {
        b'n' => 0,
        b'o' => 1,
        b'e' => 3,
        b'm' => 5,
        b's' => 7,
        _ => return None,
    };
    let stop = match stop {
        b'1' => 0,
        b'2' => 1,
        _ => return None,
    };
    Some(data | parity << 3 | stop << 2)
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_line_names_the_first_port() {
        let options = Options::parse("com1=115200,8n1 console=com1 noreboot dom0_mem=256M");
        assert_eq!(
            options,
            Options {
                serial: Some(COM1),
                no_reboot: true,
                max_cpus: usize::MAX,
            }
        );
    }

    #[test]
    fn every_field_of_a_serial_port_can_be_set() {
        let options = Options::parse("console=vga,com2 com2=9600/3686400,7e2,0x3e8,5");
        let serial = options.serial.unwrap();
        assert_eq!(serial.baud, Some(9600));
        assert_eq!(serial.clock, 230_400);
        assert_eq!(serial.line, 0b0001_1110);
        assert_eq!((serial.port, serial.irq), (0x3e8, 5));
    }

    #[test]
    fn the_number_of_cpus_is_limited_by_either_word() {
        let most = |line| Options::parse(line).max_cpus;
        assert_eq!(most("maxcpus=2"), 2);
        assert_eq!(most("maxcpus=4 nosmp"), 1);
        assert_eq!(most("nosmp maxcpus=0"), usize::MAX);
        assert_eq!(most("maxcpus=some"), usize::MAX);
        assert_eq!(most(""), usize::MAX);
    }

    #[test]
    fn a_rate_can_be_left_to_the_firmware() {
        assert_eq!(Options::parse("com1=auto").serial.unwrap().baud, None);
    }

    #[test]
    fn a_console_that_is_no_serial_port_gives_none() {
        assert_eq!(Options::parse("com1=115200 console=vga").serial, None);
        assert_eq!(Options::parse("").serial, None);
    }

    #[test]
    fn nonsense_leaves_the_defaults() {
        let serial = Options::parse("com1=x,99,zz,99 console=com1").serial;
        assert_eq!(serial, Some(COM1));
        assert_eq!(Options::parse("com1=0").serial, Some(COM1));
        assert!(!Options::parse("noreboot=no").no_reboot);
    }
}
