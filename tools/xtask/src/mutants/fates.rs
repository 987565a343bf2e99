//! [`Fates`]: what became of each mutant, kept in a file so that an interrupted run can be gone on with.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

/// What noticed a mutant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// Nothing yet, and not everything was tried.
    #[default]
    Open,
    /// The search.
    Search,
    /// Another test.
    Tests,
    /// Nothing.
    Alive,
}

impl Fate {
    /// All, with their names.
    pub const ALL: [(Self, &str); 4] = [
        (Self::Open, "open"),
        (Self::Search, "search"),
        (Self::Tests, "tests"),
        (Self::Alive, "alive"),
    ];
}

/// What is known of a mutant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What noticed it.
    pub fate: Fate,
    /// How many sequences of the search were tried.
    pub tried: usize,
    /// In how many it makes a difference.
    pub of: usize,
    /// In how many of those tried something came of that.
    pub felt: usize,
}

impl Record {
    /// Whether the search has nothing left to try.
    pub fn is_searched(&self) -> bool {
        self.tried >= self.of
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Fate::ALL.iter().find(|it| it.0 == self.fate);
        let name = name.map_or("", |it| it.1);
        write!(f, "{name} {} {} {}", self.tried, self.of, self.felt)
    }
}

impl FromStr for Record {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split(' ');
        let mut next = || words.next().context("a record is too short");
        let name = next()?;
        let fate = Fate::ALL.iter().find(|it| it.1 == name);
        Ok(Self {
            fate: fate.context("no fate has this name")?.0,
            tried: next()?.parse()?,
            of: next()?.parse()?,
            felt: next()?.parse()?,
        })
    }
}

/// The records, by the mutants' descriptions.
pub struct Fates {
    path: PathBuf,
    records: BTreeMap<String, Record>,
}

impl Fates {
    /// None yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            records: BTreeMap::new(),
        }
    }

    /// Those of an earlier run, where there was one.
    pub fn read(path: PathBuf) -> Result<Self> {
        let mut fates = Self::new(path);
        for line in fs::read_to_string(&fates.path).unwrap_or_default().lines() {
            let (record, what) = line.split_once(": ").context("a fate is of nothing")?;
            fates.records.insert(what.into(), record.parse()?);
        }
        Ok(fates)
    }

    /// The record of a mutant.
    pub fn get(&self, what: &str) -> Record {
        self.records.get(what).copied().unwrap_or_default()
    }

    /// Changes the record of a mutant.
    pub fn set(&mut self, what: &str, record: Record) {
        self.records.insert(what.into(), record);
    }

    /// Forgets all records but these.
    pub fn retain(&mut self, which: impl Fn(&Record) -> bool) {
        self.records.retain(|_, record| which(record));
    }

    /// Writes the file.
    pub fn save(&self) -> Result<()> {
        let records = self.records.iter();
        let lines: String = records
            .map(|(what, record)| format!("{record}: {what}\n"))
            .collect();
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, lines)?;
        Ok(fs::rename(&fresh, &self.path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().expect("a place");
        let path = dir.path().join("fates");
        let record = Record {
            fate: Fate::Tests,
            tried: 40,
            of: 1200,
            felt: 7,
        };
        let mut fates = Fates::new(path.clone());
        fates.set("f.rs f: `a: b` is true", record);
        fates.save().expect("room");
        let fates = Fates::read(path).expect("it is there");
        assert_eq!(fates.get("f.rs f: `a: b` is true"), record);
        assert_eq!(fates.get("another").fate, Fate::Open);
    }
}
