//! The columns of the table, as xentop has them, and behind those what xentop has not.

use std::cmp::Ordering;

use control::DeviceUse;

use super::sample::{NO_LIMIT, Row, more_first};

/// A column.
pub struct Column {
    /// Its head.
    pub head: &'static str,
    /// Its least width.
    pub width: usize,
    /// What it has of a domain.
    pub cell: fn(&Row) -> String,
    /// The order of two domains, where the table is sorted by it.
    pub order: fn(&Row, &Row) -> Ordering,
}

/// A column of a number, the largest first.
macro_rules! number {
    ($head:literal, $width:literal, $of:expr) => {
        Column {
            head: $head,
            width: $width,
            cell: |row| {
                let of: fn(&DeviceUse) -> u64 = $of;
                of(&row.domain.info.devices).to_string()
            },
            order: |a, b| {
                let of: fn(&DeviceUse) -> u64 = $of;
                more_first(of(&a.domain.info.devices), of(&b.domain.info.devices))
            },
        }
    };
}

/// All of them. The first is the name, which is cut off at its width unless it is to be shown in full.
pub const COLUMNS: [Column; 21] = [
    Column {
        head: "NAME",
        width: 10,
        cell: |row| row.domain.info.name.clone(),
        order: |a, b| {
            let lower = |row: &Row| row.domain.info.name.to_lowercase();
            lower(a).cmp(&lower(b))
        },
    },
    Column {
        head: "STATE",
        width: 6,
        cell: letters,
        order: |a, b| more_first(flags(a), flags(b)),
    },
    Column {
        head: "CPU(sec)",
        width: 10,
        cell: |row| (row.domain.info.cpu_time_ns / 1_000_000_000).to_string(),
        order: |a, b| more_first(a.domain.info.cpu_time_ns, b.domain.info.cpu_time_ns),
    },
    Column {
        head: "CPU(%)",
        width: 6,
        cell: |row| format!("{:.1}", row.cpu_percent),
        order: |a, b| more_first(a.cpu_percent, b.cpu_percent),
    },
    Column {
        head: "MEM(k)",
        width: 10,
        cell: |row| row.domain.info.memory_kib.to_string(),
        order: by_memory,
    },
    Column {
        head: "MEM(%)",
        width: 6,
        cell: |row| format!("{:.1}", row.memory_percent),
        order: by_memory,
    },
    Column {
        head: "MAXMEM(k)",
        width: 10,
        cell: |row| match row.domain.info.max_memory_kib {
            NO_LIMIT.. => "no limit".into(),
            kib => kib.to_string(),
        },
        order: by_max_memory,
    },
    Column {
        head: "MAXMEM(%)",
        width: 9,
        cell: |row| {
            let percent = row.max_percent;
            known(percent.map(|percent| format!("{percent:.1}")))
        },
        order: by_max_memory,
    },
    Column {
        head: "VCPUS",
        width: 5,
        cell: |row| row.domain.info.vcpus.to_string(),
        order: |a, b| more_first(a.domain.info.vcpus, b.domain.info.vcpus),
    },
    number!("NETS", 4, |it| it.vifs.into()),
    number!("NETTX(k)", 8, |it| it.sent / 1024),
    number!("NETRX(k)", 8, |it| it.received / 1024),
    number!("VBDS", 4, |it| it.vbds.into()),
    number!("VBD_OO", 8, |it| it.held),
    number!("VBD_RD", 8, |it| it.reads),
    number!("VBD_WR", 8, |it| it.writes),
    number!("VBD_RSECT", 10, |it| it.sectors_read),
    number!("VBD_WSECT", 10, |it| it.sectors_written),
    Column {
        head: "SSID",
        width: 4,
        cell: |row| row.domain.info.ssidref.to_string(),
        order: |a, b| a.domain.info.ssidref.cmp(&b.domain.info.ssidref),
    },
    // How often events interrupted the domain: several that came at once are one.
    Column {
        head: "EVENTS",
        width: 10,
        cell: |row| known(row.domain.info.upcalls),
        order: |a, b| more_first(a.domain.info.upcalls, b.domain.info.upcalls),
    },
    Column {
        head: "EVENTS/s",
        width: 8,
        cell: |row| known(row.events_per_second.map(f64::round)),
        order: |a, b| more_first(a.events_per_second, b.events_per_second),
    },
];

/// A number, where the host tells it.
fn known(number: Option<impl ToString>) -> String {
    number.map_or_else(|| "n/a".into(), |number| number.to_string())
}

fn by_memory(a: &Row, b: &Row) -> Ordering {
    more_first(a.domain.info.memory_kib, b.domain.info.memory_kib)
}

fn by_max_memory(a: &Row, b: &Row) -> Ordering {
    more_first(a.domain.info.max_memory_kib, b.domain.info.max_memory_kib)
}

/// What is so of a domain, what is most remarkable first.
fn flags(row: &Row) -> [bool; 6] {
    let state = &row.domain.info.state;
    [
        state.dying,
        row.is_down(),
        state.blocked,
        row.is_crashed(),
        state.paused,
        state.running,
    ]
}

fn letters(row: &Row) -> String {
    let pairs = flags(row).into_iter().zip("dsbcpr".chars());
    pairs
        .map(|(set, letter)| if set { letter } else { '-' })
        .collect()
}

/// A column's text, as wide as the column is at least.
fn fit(text: &str, width: usize) -> String {
    format!("{text:>width$}")
}

/// The width of the name's column.
pub fn name_width(rows: &[Row], full: bool) -> usize {
    let least = COLUMNS[0].width;
    let names = rows.iter().filter(|_| full);
    let lengths = names.map(|row| row.domain.info.name.chars().count());
    lengths.max().unwrap_or(0).max(least)
}

/// The heads of the columns.
pub fn heads(name_width: usize) -> Vec<String> {
    let mut heads: Vec<String> = COLUMNS
        .iter()
        .map(|column| fit(column.head, column.width))
        .collect();
    heads[0] = fit(COLUMNS[0].head, name_width);
    heads
}

/// A domain's cells.
pub fn cells(row: &Row, name_width: usize) -> Vec<String> {
    let mut cells: Vec<String> = COLUMNS
        .iter()
        .map(|column| fit(&(column.cell)(row), column.width))
        .collect();
    let name: String = row.domain.info.name.chars().take(name_width).collect();
    cells[0] = fit(&name, name_width);
    cells
}

/// The lines about a domain's vCPUs, five in each.
pub fn vcpu_lines(row: &Row) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, five) in row.domain.vcpus.chunks(5).enumerate() {
        let begin = if index == 0 {
            "VCPUs(sec): "
        } else {
            "        "
        };
        let vcpus = five
            .iter()
            .map(|(id, ns)| format!(" {id:>2}: {:>10}s", ns / 1_000_000_000));
        lines.push(begin.to_owned() + &vcpus.collect::<String>());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::sample::Sample;
    use crate::top::sample::tests::sample;
    use control::{DomainState, ShutdownReason};

    fn rows(column: &str) -> Vec<String> {
        let mut sample = sample(
            1,
            [(0, "Domain-0", 900), (1, "beta", 100), (2, "Alpha", 500)],
            [0, 0],
        );
        sample.domains[1].info.memory_kib = 1 << 20;
        sample.domains[2].info.state.blocked = true;
        sample.domains[1].info.devices.vbds = 1;
        sample.domains[2].info.devices.sent = 5 << 10;
        let index = COLUMNS.iter().position(|it| it.head == column);
        let rows = sample.rows(None, index).into_iter();
        rows.map(|row| row.domain.info.name).collect()
    }

    #[test]
    fn each_column_orders_as_in_xentop() {
        assert_eq!(rows("NAME"), ["Alpha", "beta", "Domain-0"]);
        assert_eq!(rows("CPU(sec)"), ["Domain-0", "Alpha", "beta"]);
        assert_eq!(rows("MEM(k)"), ["beta", "Domain-0", "Alpha"]);
        assert_eq!(rows("STATE"), ["Alpha", "Domain-0", "beta"]);
        assert_eq!(rows("VBDS"), ["beta", "Domain-0", "Alpha"]);
        assert_eq!(rows("NETTX(k)"), ["Alpha", "Domain-0", "beta"]);
        assert_eq!(
            rows("NETRX(k)"),
            ["Domain-0", "beta", "Alpha"],
            "as they were"
        );
    }

    #[test]
    fn a_state_has_xentops_letters() {
        let of = |state: DomainState| {
            let mut sample = sample(1, [(0, "a", 0), (1, "b", 0), (2, "c", 0)], [0, 0]);
            sample.domains[0].info.state = state;
            letters(&sample.rows(None, None)[0])
        };
        let running = DomainState {
            running: true,
            ..DomainState::default()
        };
        assert_eq!(of(running), "-----r");
        let down = |reason| DomainState {
            shutdown: Some(reason),
            blocked: true,
            ..DomainState::default()
        };
        assert_eq!(of(down(ShutdownReason::POWEROFF)), "-sb---");
        assert_eq!(of(down(ShutdownReason::CRASH)), "--bc--");
        let rest = DomainState {
            dying: true,
            paused: true,
            ..DomainState::default()
        };
        assert_eq!(of(rest), "d---p-");
    }

    #[test]
    fn devices_are_told_of_as_in_xentop() {
        let mut sample = sample(1, [(0, "a", 0), (1, "b", 0), (2, "c", 0)], [0, 0]);
        sample.domains[0].info.devices = DeviceUse {
            vifs: 2,
            sent: 10 << 10,
            received: (3 << 10) - 1,
            vbds: 3,
            held: 4,
            reads: 5,
            writes: 6,
            sectors_read: 70,
            sectors_written: 80,
        };
        let cells = cells(&sample.rows(None, None)[0], 10);
        let all: Vec<(&str, &str)> = COLUMNS
            .iter()
            .map(|it| it.head)
            .zip(cells.iter().map(|it| it.trim()))
            .collect();
        let devices = [
            ("NETS", "2"),
            ("NETTX(k)", "10"),
            ("NETRX(k)", "2"),
            ("VBDS", "3"),
            ("VBD_OO", "4"),
            ("VBD_RD", "5"),
            ("VBD_WR", "6"),
            ("VBD_RSECT", "70"),
            ("VBD_WSECT", "80"),
        ];
        assert_eq!(all[9..18], devices);
    }

    #[test]
    fn events_are_told_in_all_and_by_the_second_where_the_host_counts_them() {
        let at = |time, upcalls: [Option<u32>; 3]| {
            let mut sample = sample(time, [(0, "a", 0), (1, "b", 0), (2, "c", 0)], [0, 0]);
            for (domain, upcalls) in sample.domains.iter_mut().zip(upcalls) {
                domain.info.upcalls = upcalls;
            }
            sample
        };
        let before = at(10, [Some(100), None, Some(u32::MAX - 9)]);
        let now = at(14, [Some(103), None, Some(2000)]);
        let told = |before: Option<&Sample>, head: &str| -> Vec<[String; 3]> {
            let index = COLUMNS.iter().position(|it| it.head == head);
            let rows = now.rows(before, index).into_iter();
            rows.map(|row| {
                let cells = cells(&row, 1);
                [0, 19, 20].map(|column| cells[column].trim().to_owned())
            })
            .collect()
        };
        let [a, b, c] = [["a", "103", "1"], ["b", "n/a", "n/a"], ["c", "2000", "503"]];
        assert_eq!(told(Some(&before), "EVENTS"), [c, a, b]);
        assert_eq!(told(Some(&before), "EVENTS/s"), [c, a, b]);
        let first = told(None, "EVENTS");
        assert_eq!(first, [["c", "2000", "0"], ["a", "103", "0"], b]);
    }

    #[test]
    fn vcpus_are_five_in_a_line() {
        let mut sample = sample(1, [(0, "a", 0), (1, "b", 0), (2, "c", 0)], [0, 0]);
        sample.domains[0].vcpus = (0..7)
            .map(|id| (id, u64::from(id) * 2_500_000_000))
            .collect();
        let lines = vcpu_lines(&sample.rows(None, None)[0]);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("VCPUs(sec):   0:          0s  1:          2s"));
        assert_eq!(lines[1], "          5:         12s  6:         15s");
    }
}
