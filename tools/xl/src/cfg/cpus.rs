//! `cpus` and `cpus_soft`: which CPUs vCPUs may, and had better, run on.

use control::scheduling::CpuSet;

use super::document::{ConfigError, Document};
use super::syntax::Value;
use crate::cpus;

/// The CPUs of each vCPU by a key: a list has one entry for each, a string is for all.
///
/// # Errors
/// When an entry is not as `xl.cfg(5)` has it, or names no CPU.
pub fn affinity(document: &Document, key: &str, vcpus: u32) -> Result<Vec<CpuSet>, ConfigError> {
    let parse = |value: &Value| match value {
        Value::Atom(text) => cpus::parse(text).map_err(|why| document.wrong(key, why)),
        Value::List(_) => Err(document.wrong(key, "expected a list of strings")),
    };
    match document.value(key) {
        None => Ok(Vec::new()),
        // As with xl, entries for vCPUs that there are not do no harm.
        Some(Value::List(entries)) => entries.iter().take(vcpus as usize).map(parse).collect(),
        Some(value) => Ok(vec![parse(value)?; vcpus as usize]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affinity_of(text: &str, vcpus: u32) -> Result<Vec<CpuSet>, String> {
        let mut document = Document::new();
        document.add("d.cfg", text).unwrap();
        affinity(&document, "cpus", vcpus).map_err(|error| error.to_string())
    }

    #[test]
    fn a_string_is_for_all_vcpus_and_a_list_for_each() {
        assert_eq!(affinity_of("cpus_soft = '1'", 2), Ok(vec![]));
        let both = affinity_of("cpus = '0-3,^1,7'", 2).unwrap();
        assert_eq!(both, vec![CpuSet(vec![(0, 0), (2, 3), (7, 7)]); 2]);
        let each = affinity_of("cpus = ['1', 2, '9']", 2).unwrap();
        assert_eq!(each, [CpuSet(vec![(1, 1)]), CpuSet(vec![(2, 2)])]);
        let one = affinity_of("cpus = 3", 1).unwrap();
        assert_eq!(one, [CpuSet(vec![(3, 3)])]);
    }

    #[test]
    fn what_is_no_set_of_cpus_is_told_with_its_place() {
        let wrong = |text: &str| affinity_of(&format!("cpus={text}"), 1).unwrap_err();
        assert_eq!(wrong("'1,^1'"), "d.cfg:1:6: cpus: '1,^1' leaves no CPU");
        assert!(wrong("['x']").contains("expected CPUs"));
        assert!(wrong("[['1']]").contains("expected a list of strings"));
    }
}
