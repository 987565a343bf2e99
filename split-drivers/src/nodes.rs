//! Nodes by which two ends tell each other about a device.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// Names of nodes with their values.
pub type Nodes = Vec<(String, String)>;

/// Nodes that cannot be made sense of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadNode {
    /// Its name.
    pub name: String,
    /// What it says, if it is there.
    pub value: Option<String>,
}

impl fmt::Display for BadNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.value {
            // What the peer wrote must not become more than one line of a log.
            Some(value) => write!(f, "{name} is {:.60?}", value),
            None => write!(f, "{name} is missing"),
        }
    }
}

impl core::error::Error for BadNode {}

/// A node that has a value.
pub(crate) fn node(name: impl Into<String>, value: impl ToString) -> (String, String) {
    (name.into(), value.to_string())
}

/// A node that says yes or no.
pub(crate) fn flag(name: &str, on: bool) -> (String, String) {
    node(name, u8::from(on))
}

/// Reads nodes by name.
pub(crate) struct Reader<F>(pub F);

impl<F: FnMut(&str) -> Option<String>> Reader<F> {
    /// A number within bounds, or what it is if there is none.
    pub fn number(
        &mut self,
        name: &str,
        default: Option<u64>,
        bounds: core::ops::RangeInclusive<u64>,
    ) -> Result<u64, BadNode> {
        let value = (self.0)(name);
        let number = match &value {
            None => default,
            Some(value) => value.trim().parse().ok().filter(|it| bounds.contains(it)),
        };
        number.ok_or_else(|| BadNode {
            name: name.to_string(),
            value,
        })
    }

    /// Whether a node says yes.
    pub fn flag(&mut self, name: &str) -> bool {
        (self.0)(name).is_some_and(|value| value.trim() == "1")
    }
}
