//! `cpus`: which CPUs vCPUs may run on.

use std::collections::BTreeSet;

use control::scheduling::CpuSet;

use super::document::{ConfigError, Document};
use super::syntax::Value;

const KEY: &str = "cpus";

/// The CPUs of each vCPU: a list has one entry for each, a string is for all.
///
/// # Errors
/// When an entry is not as `xl.cfg(5)` has it, or names no CPU.
pub fn affinity(document: &Document, vcpus: u32) -> Result<Vec<CpuSet>, ConfigError> {
    let parse = |value: &Value| match value {
        Value::Atom(text) => set(text).map_err(|why| document.wrong(KEY, why)),
        Value::List(_) => Err(document.wrong(KEY, "expected a list of strings")),
    };
    match document.value(KEY) {
        None => Ok(Vec::new()),
        // As with xl, entries for vCPUs that there are not do no harm.
        Some(Value::List(entries)) => entries.iter().take(vcpus as usize).map(parse).collect(),
        Some(value) => Ok(vec![parse(value)?; vcpus as usize]),
    }
}

/// Numbers, ranges and `all`, with commas between; `^` takes away.
fn set(text: &str) -> Result<CpuSet, String> {
    let mut cpus = BTreeSet::new();
    for token in text.split(',').map(str::trim) {
        let (takes_away, range) = match token.strip_prefix('^') {
            Some(rest) => (true, rest),
            None => (false, token),
        };
        let (first, last) = range_of(range)?;
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

fn range_of(text: &str) -> Result<(u16, u16), String> {
    if text == "all" {
        return Ok((0, CpuSet::MAX_CPUS - 1));
    }
    if text.starts_with("node") {
        return Err(format!("'{text}': nodes are not supported"));
    }
    let number = |text: &str| {
        let number = text.trim().parse().ok();
        number.filter(|cpu| *cpu < CpuSet::MAX_CPUS)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(format!("expected CPUs as in '0-3,^1', found '{text}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affinity_of(text: &str, vcpus: u32) -> Result<Vec<CpuSet>, String> {
        let mut document = Document::new();
        document.add("d.cfg", text).unwrap();
        affinity(&document, vcpus).map_err(|error| error.to_string())
    }

    #[test]
    fn a_string_is_for_all_vcpus_and_a_list_for_each() {
        assert_eq!(affinity_of("", 2), Ok(vec![]));
        let both = affinity_of("cpus = '0-3,^1,7'", 2).unwrap();
        assert_eq!(both, vec![CpuSet(vec![(0, 0), (2, 3), (7, 7)]); 2]);
        let each = affinity_of("cpus = ['1', 2, '9']", 2).unwrap();
        assert_eq!(each, [CpuSet(vec![(1, 1)]), CpuSet(vec![(2, 2)])]);
        let one = affinity_of("cpus = 3", 1).unwrap();
        assert_eq!(one, [CpuSet(vec![(3, 3)])]);
        let all = affinity_of("cpus = 'all,^0'", 1).unwrap();
        assert!(!all[0].contains(0) && all[0].contains(1));
    }

    #[test]
    fn what_is_no_set_of_cpus_is_told_with_its_place() {
        let wrong = |text: &str| affinity_of(&format!("cpus={text}"), 1).unwrap_err();
        assert_eq!(wrong("'1,^1'"), "d.cfg:1:6: cpus: '1,^1' leaves no CPU");
        for text in [
            "'x'", "''", "'3-1'", "'-1'", "'1-'", "'4095'", "'1,,2'", "'99999'",
        ] {
            assert!(wrong(text).contains("expected CPUs"), "{text}");
        }
        assert!(wrong("'node:0'").contains("nodes are not supported"));
        assert!(wrong("[['1']]").contains("expected a list of strings"));
    }
}
