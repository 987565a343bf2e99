//! The settings of a configuration file and of the command line, put together and read by type.

use std::fmt;
use std::sync::Arc;

use super::keys::{self, Key};
use super::syntax::{self, Position, SyntaxError, Value};

/// A place in a named text. Shown as `file:line:column`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    source: Arc<str>,
    at: Position,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source, self.at.line, self.at.column)
    }
}

/// A configuration that cannot be used. Shown as one line, with the place where it is known.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The text breaks the grammar.
    #[error("{place}: {error}")]
    Syntax {
        /// Where.
        place: Place,
        /// How.
        error: SyntaxError,
    },
    /// A setting has a value that its key does not take.
    #[error("{place}: {key}: {why}")]
    Value {
        /// Where.
        place: Place,
        /// Which key.
        key: String,
        /// What was expected.
        why: String,
    },
    /// A key that must be there is not.
    #[error("{from}: {0} must be given", from = .1)]
    Missing(&'static str, String),
}

/// A key and its value, after all assignments.
#[derive(Clone, Debug)]
pub struct Setting {
    key: String,
    value: Value,
    place: Place,
    /// Put together by `+=`.
    added: bool,
}

/// All settings, the last assignment of each key, in the order of their first.
#[derive(Debug, Default)]
pub struct Document {
    settings: Vec<Setting>,
    warnings: Vec<String>,
    /// The name of the first text.
    source: Option<Arc<str>>,
}

impl Document {
    /// Nothing set yet.
    pub fn new() -> Document {
        Document::default()
    }

    /// Adds the settings of a text; they overrule those that are there. `source` names the text in
    /// messages.
    ///
    /// # Errors
    /// When the text breaks the grammar, or adds a list to a string or the other way about.
    pub fn add(&mut self, source: &str, text: &str) -> Result<(), ConfigError> {
        let source: Arc<str> = source.into();
        self.source.get_or_insert_with(|| Arc::clone(&source));
        let place = |at| Place {
            source: Arc::clone(&source),
            at,
        };
        let assignments = syntax::parse(text).map_err(|error| ConfigError::Syntax {
            place: place(error.at),
            error,
        })?;
        for it in assignments {
            let key_at = place(it.key_at);
            match keys::look_up(&it.key) {
                Key::Supported => {}
                Key::Unsupported => self.warnings.push(format!(
                    "{key_at}: warning: {} is not supported by Xenolith yet and is ignored",
                    it.key
                )),
                Key::Unknown => self.warnings.push(format!(
                    "{key_at}: warning: unknown key {} is ignored",
                    it.key
                )),
            }
            let mut setting = Setting {
                key: it.key,
                value: it.value,
                place: place(it.value_at),
                added: it.adds,
            };
            let old = self.settings.iter_mut().find(|old| old.key == setting.key);
            match old {
                None => self.settings.push(setting),
                Some(old) => {
                    if it.adds {
                        setting.value =
                            join(&old.value, setting.value).map_err(|why| ConfigError::Value {
                                place: setting.place.clone(),
                                key: setting.key.clone(),
                                why: why.into(),
                            })?;
                    }
                    *old = setting;
                }
            }
        }
        Ok(())
    }

    /// What the user should know though it is no error, a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Adds a warning about a key, with its place if it is set.
    pub fn warn(&mut self, key: &str, what: &str) {
        let line = match self.find(key) {
            Some(setting) => format!("{}: warning: {what}", setting.place),
            None => format!("warning: {what}"),
        };
        self.warnings.push(line);
    }

    /// The error that a key has a wrong value.
    pub fn wrong(&self, key: &str, why: impl Into<String>) -> ConfigError {
        let why = why.into();
        match self.find(key) {
            Some(setting) => ConfigError::Value {
                place: setting.place.clone(),
                key: key.into(),
                why,
            },
            None => ConfigError::Value {
                place: Place {
                    source: self
                        .source
                        .clone()
                        .unwrap_or_else(|| "configuration".into()),
                    at: Position { line: 1, column: 1 },
                },
                key: key.into(),
                why,
            },
        }
    }

    /// The error that a key must be set.
    pub fn missing(&self, key: &'static str) -> ConfigError {
        let source = self.source.as_deref().unwrap_or("configuration");
        ConfigError::Missing(key, source.into())
    }

    /// Whether the key is set.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// A value as it is.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.find(key).map(|setting| &setting.value)
    }

    /// A string, or a number as it was written.
    ///
    /// # Errors
    /// When the value is a list.
    pub fn string(&self, key: &str) -> Result<Option<&str>, ConfigError> {
        match self.find(key) {
            None => Ok(None),
            Some(Setting {
                value: Value::Atom(text),
                ..
            }) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "expected a single value, found a list")),
        }
    }

    /// A number between two bounds, both allowed. As in xl, a string of digits is a number too.
    ///
    /// # Errors
    /// When the value is none, is outside the bounds, or was put together by `+=`.
    pub fn number(&self, key: &str, from: u64, to: u64) -> Result<Option<u64>, ConfigError> {
        let Some(text) = self.string(key)? else {
            return Ok(None);
        };
        if self.find(key).is_some_and(|setting| setting.added) {
            return Err(self.wrong(key, "a number cannot be set by +="));
        }
        let Some(number) = parse_number(text) else {
            return Err(self.wrong(key, format!("expected a number, found '{text}'")));
        };
        match u64::try_from(number) {
            Ok(number) if (from..=to).contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(key, format!("{text} is not between {from} and {to}"))),
        }
    }

    fn find(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }
}

/// What `old += new` gives.
fn join(old: &Value, new: Value) -> Result<Value, &'static str> {
    match (old, new) {
        (Value::Atom(old), Value::Atom(new)) => Ok(Value::Atom(format!("{old}{new}"))),
        (Value::List(old), Value::List(new)) => Ok(Value::List([old.clone(), new].concat())),
        (Value::Atom(_), Value::List(_)) => Err("a list cannot be added to a single value"),
        (Value::List(_), Value::Atom(_)) => Err("a single value cannot be added to a list"),
    }
}

/// A number as C's `strtol` with base 0 reads it, but nothing may follow it.
fn parse_number(text: &str) -> Option<i128> {
    let text = text.trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, base) = match digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        Some(digits) => (digits, 16),
        None if digits.len() > 1 && digits.starts_with('0') => (digits, 8),
        None => (digits, 10),
    };
    // from_str_radix takes a sign of its own.
    if !digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    i128::from_str_radix(digits, base)
        .ok()
        .map(|number| sign * number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        let mut document = Document::new();
        document.add("a.cfg", text).unwrap();
        document
    }

    #[test]
    fn the_last_assignment_counts_and_the_command_line_comes_last() {
        let mut document = document("memory=1\nmemory=2\nname='n'");
        assert_eq!(document.number("memory", 0, 9).unwrap(), Some(2));
        document.add("command line", "memory=3").unwrap();
        assert_eq!(document.number("memory", 0, 9).unwrap(), Some(3));
        assert_eq!(document.string("name").unwrap(), Some("n"));
    }

    #[test]
    fn adding_appends_to_strings_and_lists() {
        let document = document("extra='a'\nextra+=' b'\ncpus=['1']\ncpus+=['2']\nroot+='r'");
        assert_eq!(document.string("extra").unwrap(), Some("a b"));
        assert_eq!(document.string("root").unwrap(), Some("r"));
        let list = Value::List(vec![Value::Atom("1".into()), Value::Atom("2".into())]);
        assert_eq!(document.find("cpus").unwrap().value, list);
    }

    #[test]
    fn a_list_is_not_added_to_a_string() {
        let mut document = document("extra='a'");
        let error = document
            .add("command line", "extra+=['b']")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "command line:1:8: extra: a list cannot be added to a single value"
        );
        let error = document
            .add("b.cfg", "cpus=['b']\ncpus+='c'")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "b.cfg:2:7: cpus: a single value cannot be added to a list"
        );
    }

    #[test]
    fn numbers_are_decimal_hexadecimal_or_octal() {
        for (text, number) in [
            ("64", 64),
            ("0x40", 64),
            ("0100", 64),
            ("'64'", 64),
            ("0", 0),
        ] {
            let document = document(&format!("memory={text}"));
            assert_eq!(
                document.number("memory", 0, 99).unwrap(),
                Some(number),
                "{text}"
            );
        }
        for text in ["09", "0x", "12ab", "''", "'6 '", "'64M'", "'--1'", "'0x+1'"] {
            let document = document(&format!("memory={text}"));
            let error = document.number("memory", 0, 99).unwrap_err().to_string();
            assert!(
                error.starts_with("a.cfg:1:8: memory: expected a number"),
                "{error}"
            );
        }
    }

    #[test]
    fn numbers_outside_their_bounds_and_of_another_type_are_errors() {
        let error = |text: &str| {
            document(text)
                .number("memory", 1, 9)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error("memory=10"),
            "a.cfg:1:8: memory: 10 is not between 1 and 9"
        );
        assert_eq!(
            error("memory='-5'"),
            "a.cfg:1:8: memory: -5 is not between 1 and 9"
        );
        assert_eq!(error("memory='99999999999999999999'").lines().count(), 1);
        assert_eq!(
            error("memory=[5]"),
            "a.cfg:1:8: memory: expected a single value, found a list"
        );
        let added = "a.cfg:1:19: memory: a number cannot be set by +=";
        assert_eq!(error("memory=1;memory+= 1"), added);
    }

    #[test]
    fn unknown_and_unsupported_keys_are_warned_about_with_their_place() {
        let document = document("name='n'\n  kernal='x'\nvfb=['']");
        assert_eq!(
            document.warnings(),
            [
                "a.cfg:2:3: warning: unknown key kernal is ignored",
                "a.cfg:3:1: warning: vfb is not supported by Xenolith yet and is ignored",
            ]
        );
    }
}
