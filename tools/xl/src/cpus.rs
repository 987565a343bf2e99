//! Sets of CPUs as xl writes them: `0-3,^1`, `all`.

use std::collections::BTreeSet;

use control::scheduling::CpuSet;

/// Reads a set: numbers and ranges of them with commas in between, each added, or with `^` before it taken away;
/// `all` is every CPU, and so is `node:0`, as there is one node.
///
/// # Errors
/// What is wrong, or that no CPU is left.
pub fn parse(text: &str) -> Result<CpuSet, String> {
    let mut cpus = BTreeSet::new();
    for item in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let (takes_away, range) = match item.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, item),
        };
        let (first, last) = range_of(range)?;
        if takes_away && range.ends_with("all") {
            return Err("^ and all cannot be combined".into());
        }
        for cpu in first..=last {
            if takes_away {
                cpus.remove(&cpu);
            } else {
                cpus.insert(cpu);
            }
        }
    }
    if cpus.is_empty() {
        return Err(format!("'{text}' leaves no CPU"));
    }
    Ok(CpuSet::of(cpus))
}

/// The first and the last CPU of `N`, `N-M` with M no less, `all`, or those after `node:`.
fn range_of(text: &str) -> Result<(u16, u16), String> {
    const ALL: (u16, u16) = (0, CpuSet::MAX_CPUS - 1);
    let nodes = text.strip_prefix("nodes:").or(text.strip_prefix("node:"));
    if nodes.unwrap_or(text) == "all" {
        return Ok(ALL);
    }
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits);
        number.filter(|cpu| *cpu < CpuSet::MAX_CPUS)
    };
    let range = nodes.unwrap_or(text);
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (number(first.trim()), number(last.trim())) {
        (Some(0), Some(0)) if nodes.is_some() => Ok(ALL),
        (Some(first), Some(last)) if first <= last => match nodes {
            Some(_) => Err(format!("'{text}': there is no node but 0")),
            None => Ok((first, last)),
        },
        _ => Err(format!("expected CPUs as in '0-3,^1', found '{text}'")),
    }
}

/// Writes a set of a host with so many CPUs.
pub fn show(set: &CpuSet, cpus: u32) -> String {
    let CpuSet(ranges) = CpuSet::of(set.cpus().filter(|cpu| u32::from(*cpu) < cpus));
    match ranges.as_slice() {
        [] => "none".into(),
        [(0, last)] if u32::from(*last) + 1 == cpus => "all".into(),
        _ => {
            let one = |(first, last): &(u16, u16)| match last - first {
                0 => first.to_string(),
                _ => format!("{first}-{last}"),
            };
            ranges.iter().map(one).collect::<Vec<_>>().join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_as_xl_reads_them() {
        let all = CpuSet::MAX_CPUS - 1;
        for (text, ranges) in [
            ("0", vec![(0, 0)]),
            ("1-3", vec![(1, 3)]),
            ("0-3,^1", vec![(0, 0), (2, 3)]),
            ("^0,0", vec![(0, 0)]),
            ("0, 2,,5-5", vec![(0, 0), (2, 2), (5, 5)]),
            ("all", vec![(0, all)]),
            ("all,^0", vec![(1, all)]),
            ("nodes:0,^0-62,^64-4094", vec![(63, 63)]),
            ("node:all", vec![(0, all)]),
        ] {
            assert_eq!(parse(text), Ok(CpuSet(ranges)), "{text}");
        }
        for text in [
            "",
            "^0",
            "1,^node:0",
            "^all",
            "^node:all",
            "x",
            "3-1",
            "1-",
            "-1",
            "1-2-3",
            "node:1",
            "node:",
            "+1",
            "4095",
            "99999",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sets_are_written_as_xl_writes_them() {
        let all = CpuSet::MAX_CPUS - 1;
        for (ranges, cpus, text) in [
            (vec![(0, all)], 4, "all"),
            (vec![(0, 0)], 1, "all"),
            (vec![], 4, "none"),
            (vec![(4, 4)], 4, "none"),
            (vec![(0, 2)], 4, "0-2"),
            (vec![(0, 0), (2, 3)], 4, "0,2-3"),
            (vec![(1, 1), (3, 5)], 4, "1,3"),
        ] {
            assert_eq!(show(&CpuSet(ranges), cpus), text);
        }
    }
}
