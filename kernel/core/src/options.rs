//! The hypervisor's command line, word by word as Xen's (`docs/misc/xen-command-line`).

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use hv_machine::LogLevel;

use crate::grant::Limits;

/// What the command line asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `dom0_mem=`: memory of the control domain in bytes; `None` for all but a reserve.
    pub dom0_mem: Option<u64>,
    /// `dom0_max_vcpus=`: its vCPUs.
    pub dom0_max_vcpus: u32,
    /// `loglvl=`: the least important level of the hypervisor's own messages that is printed.
    pub log_level: LogLevel,
    /// `guest_loglvl=`: the same for messages that guests cause.
    pub guest_log_level: LogLevel,
    /// `conring_size=`: bytes of the log ring.
    pub log_ring_size: usize,
    /// `console=`: the serial ports that the hypervisor prints on: 1 and 2 for `com1` and `com2`.
    pub consoles: Vec<u8>,
    /// `noreboot`: halt where a reboot is due.
    pub no_reboot: bool,
    /// `gnttab_max_frames=`, `gnttab_max_maptrack_frames=` and `gnttab=`: grants.
    pub grants: Grants,
    /// `sched=`: the scheduler; see [`crate::sched::policy`].
    pub scheduler: String,
    /// `unhook=`: page tables that a guest goes on storing to are its own to write for a while.
    pub unhook: bool,
    /// The whole line, for `xl info`.
    pub line: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dom0_mem: None,
            dom0_max_vcpus: 1,
            log_level: LogLevel::Warning,
            guest_log_level: LogLevel::Error,
            log_ring_size: 16 << 10,
            consoles: vec![1],
            no_reboot: false,
            grants: Grants::default(),
            scheduler: String::new(),
            unhook: true,
            line: String::new(),
        }
    }
}

/// What of grants there is on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grants {
    /// What a domain may have unless it is created for less, and at most.
    pub limits: Limits,
    /// Copies from and to grants of grants.
    pub transitive: bool,
    /// Frames that become another domain's.
    pub transfer: bool,
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            limits: Limits {
                max_frames: 64,
                max_maptrack_frames: 1024,
                max_version: 2,
            },
            transitive: true,
            transfer: true,
        }
    }
}

impl Grants {
    /// `gnttab=`: `max-ver:VERSION`, `transitive` and `transfer`, comma-separated; the last two with `no-` before or a
    /// switch behind.
    fn parse(&mut self, value: &str) {
        for part in value.split(',') {
            let (name, on) = match (part.strip_prefix("no-"), part.split_once('=')) {
                (Some(name), _) => (name, Some(false)),
                (None, Some((name, switch))) => (name, parse_switch(switch)),
                (None, None) => (part, Some(true)),
            };
            match (name, on) {
                ("transitive", Some(on)) => self.transitive = on,
                ("transfer", Some(on)) => self.transfer = on,
                ("max-ver:1" | "max_ver:1", _) => self.limits.max_version = 1,
                ("max-ver:2" | "max_ver:2", _) => self.limits.max_version = 2,
                _ => {}
            }
        }
    }
}

impl Options {
    /// Reads a command line. Words it does not know and values it cannot read are passed over, because a machine
    /// that does not boot helps nobody.
    pub fn parse(line: &str) -> Self {
        let mut options = Self {
            line: line.into(),
            ..Self::default()
        };
        for word in line.split_ascii_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "dom0_mem" => options.dom0_mem = parse_dom0_mem(value).or(options.dom0_mem),
                "dom0_max_vcpus" => {
                    let count = value.split('-').next_back().and_then(|n| n.parse().ok());
                    options.dom0_max_vcpus = count.unwrap_or(1).clamp(1, crate::domain::MAX_VCPUS);
                }
                "loglvl" => options.log_level = parse_level(value).unwrap_or(options.log_level),
                "guest_loglvl" => {
                    options.guest_log_level = parse_level(value).unwrap_or(options.guest_log_level)
                }
                "console" => {
                    let port = |name: &str| {
                        name.strip_prefix("com")
                            .and_then(|n| n.get(..1)?.parse().ok())
                    };
                    options.consoles = value.split(',').filter_map(port).collect();
                }
                "conring_size" => {
                    let size = parse_size(value, 1).unwrap_or(0) as usize;
                    options.log_ring_size = size.clamp(options.log_ring_size, 64 << 20);
                }
                "gnttab" => options.grants.parse(value),
                "gnttab_max_frames" => {
                    let limits = &mut options.grants.limits;
                    limits.max_frames = parse_limit(value, 1).unwrap_or(limits.max_frames);
                }
                "gnttab_max_maptrack_frames" => {
                    let limits = &mut options.grants.limits;
                    let most = parse_limit(value, 0);
                    limits.max_maptrack_frames = most.unwrap_or(limits.max_maptrack_frames);
                }
                "noreboot" => options.no_reboot = parse_switch(value).unwrap_or(true),
                "sched" => options.scheduler = value.into(),
                "unhook" => options.unhook = parse_switch(value).unwrap_or(options.unhook),
                "reboot" => options.no_reboot = value == "no" || value == "n",
                _ => {}
            }
        }
        options
    }

    /// First I/O port of each serial port that the hypervisor keeps for itself.
    pub fn console_ports(&self) -> impl Iterator<Item = u32> {
        self.consoles.iter().filter_map(|port| match port {
            1 => Some(0x3f8),
            2 => Some(0x2f8),
            _ => None,
        })
    }
}

/// `yes`, `on`, `true`, `enable`, `1` and their opposites; `None` for anything else.
fn parse_switch(value: &str) -> Option<bool> {
    match value {
        "1" | "yes" | "on" | "true" | "enable" => Some(true),
        "0" | "no" | "off" | "false" | "disable" => Some(false),
        _ => None,
    }
}

/// A number from `least` on that a signed 32-bit one can be, decimal, or hexadecimal behind `0x`.
fn parse_limit(value: &str, least: u32) -> Option<u32> {
    let number = match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => value.parse(),
    };
    let good = |number: &u32| (least..=i32::MAX as u32).contains(number);
    number.ok().filter(good)
}

/// `loglvl=level` or `loglvl=level/rate-limited level`: the first, which is printed in any case.
fn parse_level(value: &str) -> Option<LogLevel> {
    match value.split('/').next()? {
        "none" | "error" => Some(LogLevel::Error),
        "warning" => Some(LogLevel::Warning),
        "info" => Some(LogLevel::Info),
        "debug" | "all" => Some(LogLevel::Debug),
        _ => None,
    }
}

/// A number with a suffix `b`, `k`, `m`, `g` or `t`, in either case; without one it counts in `unit` bytes.
fn parse_size(value: &str, unit: u64) -> Option<u64> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match value.get(digits.len()..)?.to_ascii_lowercase().as_str() {
        "" => unit,
        "b" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(scale)
}

/// `dom0_mem=SIZE`, `min:SIZE`, `max:SIZE`, comma-separated; plain sizes count in KiB. The plain size wins, then
/// the maximum, then the minimum.
fn parse_dom0_mem(value: &str) -> Option<u64> {
    let (mut plain, mut max, mut min) = (None, None, None);
    for part in value.split(',') {
        match part.split_once(':') {
            Some(("max", size)) => max = parse_size(size, 1 << 10),
            Some(("min", size)) => min = parse_size(size, 1 << 10),
            Some(_) => {}
            None => plain = parse_size(part, 1 << 10),
        }
    }
    plain.or(max).or(min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_xen_reads_them() {
        let options = Options::parse(
            "com1=115200,8n1 dom0_mem=256M,max:512M loglvl=all guest_loglvl=info/debug noreboot",
        );
        assert_eq!(options.dom0_mem, Some(256 << 20));
        assert_eq!(options.log_level, LogLevel::Debug);
        assert_eq!(options.guest_log_level, LogLevel::Info);
        assert!(options.no_reboot);
    }

    #[test]
    fn dom0_memory_counts_in_kib_without_a_suffix() {
        assert_eq!(Options::parse("dom0_mem=262144").dom0_mem, Some(256 << 20));
        assert_eq!(Options::parse("dom0_mem=max:1G").dom0_mem, Some(1 << 30));
        assert_eq!(Options::parse("dom0_mem=99999999999999999T").dom0_mem, None);
        assert_eq!(Options::parse("dom0_mem=lots").dom0_mem, None);
    }

    #[test]
    fn grants_have_limits() {
        let grants = |line| Options::parse(line).grants;
        let limits = |line| {
            let limits = grants(line).limits;
            (
                limits.max_frames,
                limits.max_maptrack_frames,
                limits.max_version,
            )
        };
        assert_eq!(limits(""), (64, 1024, 2));
        assert_eq!(
            limits("gnttab_max_frames=0x20 gnttab_max_maptrack_frames=0 gnttab=max-ver:1"),
            (32, 0, 1)
        );
        assert_eq!(
            limits("gnttab_max_frames=0 gnttab_max_maptrack_frames=4294967295 gnttab=max-ver:3"),
            (64, 1024, 2)
        );
        let switches = |line| (grants(line).transitive, grants(line).transfer);
        assert_eq!(switches("gnttab=max_ver:2"), (true, true));
        assert_eq!(
            switches("gnttab=no-transitive,transfer=off"),
            (false, false)
        );
        assert_eq!(
            switches("gnttab=transitive=0,no-transfer,transfer"),
            (false, true)
        );
    }

    #[test]
    fn what_cannot_be_read_leaves_the_default() {
        let options = Options::parse("loglvl=shout noreboot=maybe dom0_max_vcpus=0 quiet splash");
        assert_eq!(options.log_level, LogLevel::Warning);
        assert!(options.no_reboot);
        assert_eq!(options.dom0_max_vcpus, 1);
        assert!(options.unhook && !Options::parse("unhook=off").unhook);
    }
}
