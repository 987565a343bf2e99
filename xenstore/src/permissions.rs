//! Who may do what with a node: an owner, what all others may, and a list of exceptions.
//!
//! Permissions name domains by number, and numbers are used again. So they remember when they were
//! set: what they grant to a domain is void once a domain of that number has departed since.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use bitflags::bitflags;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use crate::wire;

bitflags! {
    /// What one may do with a node.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u8 {
        /// Read its value, children and permissions, and get events of watches.
        const READ = 1;
        /// Write its value, create below it, remove it.
        const WRITE = 2;
        /// Set its permissions.
        const OWN = 4;
    }
}

impl Access {
    fn letter(self) -> char {
        match (self.contains(Self::READ), self.contains(Self::WRITE)) {
            (true, true) => 'b',
            (true, false) => 'r',
            (false, true) => 'w',
            (false, false) => 'n',
        }
    }

    fn from_letter(letter: u8) -> Result<Self, Errno> {
        match letter {
            b'b' => Ok(Self::READ | Self::WRITE),
            b'r' => Ok(Self::READ),
            b'w' => Ok(Self::WRITE),
            b'n' => Ok(Self::empty()),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// When domains departed last, as generations of the store.
#[derive(Clone, Debug, Default)]
pub struct Departures(BTreeMap<Domid, u64>);

impl Departures {
    /// A domain departs.
    pub fn record(&mut self, domain: Domid, generation: u64) {
        self.0.insert(domain, generation);
    }

    /// Whether a domain of this number departed after `generation`.
    pub fn since(&self, domain: Domid, generation: u64) -> bool {
        self.0.get(&domain).is_some_and(|left| *left > generation)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The domain.
    pub domain: Domid,
    /// The domain that it acts for.
    pub target: Option<Domid>,
    /// Which domains of old are gone.
    pub departures: &'a Departures,
}

impl Caller<'_> {
    /// Whether permissions and quotas hold for it.
    pub fn is_privileged(&self) -> bool {
        self.domain == Domid(0)
    }

    fn is(&self, domain: Domid) -> bool {
        self.domain == domain || self.target == Some(domain)
    }
}

/// A node's permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Whose the node is; it counts for this domain's quotas.
    pub owner: Domid,
    /// What those may who are not in `list`.
    pub others: Access,
    /// What single domains may; the first entry of a domain holds.
    pub list: Vec<(Domid, Access)>,
    /// When they were set. No two different permissions have the same generation.
    pub generation: u64,
}

impl Permissions {
    /// Those of an owner who lets nobody else in.
    pub fn private(owner: Domid, generation: u64) -> Self {
        Self {
            owner,
            others: Access::empty(),
            list: Vec::new(),
            generation,
        }
    }

    /// Reads permissions as they are on the wire: `n5` for an owner, then `r6` and so on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there are none, or one is not a letter of `rwbn` and the number of a domain.
    pub fn parse(strings: &[&[u8]], generation: u64) -> Result<Self, Errno> {
        let mut entries = strings.iter().map(|string| {
            let (letter, number) = string.split_first().ok_or(Errno::EINVAL)?;
            let domain = Domid(wire::number(number)?);
            if !domain.is_ordinary() {
                return Err(Errno::EINVAL);
            }
            Ok((domain, Access::from_letter(*letter)?))
        });
        let (owner, others) = entries.next().ok_or(Errno::EINVAL)??;
        Ok(Self {
            owner,
            others,
            list: entries.collect::<Result<_, _>>()?,
            generation,
        })
    }

    /// How they are on the wire.
    pub fn to_wire(&self) -> Vec<u8> {
        core::iter::once(&(self.owner, self.others))
            .chain(&self.list)
            .flat_map(|(domain, access)| format!("{}{domain}\0", access.letter()).into_bytes())
            .collect()
    }

    /// Number of entries, the owner's included.
    pub fn entries(&self) -> usize {
        1 + self.list.len()
    }

    /// What the caller may.
    pub fn access(&self, caller: Caller) -> Access {
        if caller.is_privileged() || caller.is(self.owner) {
            return Access::all();
        }
        self.list
            .iter()
            .find(|(domain, _)| {
                caller.is(*domain) && !caller.departures.since(*domain, self.generation)
            })
            .map_or(self.others, |(_, access)| *access)
    }

    /// Whether the caller may do all of `access`.
    pub fn allow(&self, caller: Caller, access: Access) -> bool {
        self.access(caller).contains(access)
    }

    /// What of them is not void. With a new generation, and only so, that is all there is.
    pub fn valid(&self, departures: &Departures) -> Self {
        let mut valid = self.clone();
        valid
            .list
            .retain(|(domain, _)| !departures.since(*domain, self.generation));
        valid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(strings: &[&str]) -> Result<Permissions, Errno> {
        let strings: Vec<_> = strings.iter().map(|string| string.as_bytes()).collect();
        Permissions::parse(&strings, 10)
    }

    #[test]
    fn what_is_parsed_is_written_again() {
        let permissions = parse(&["r5", "w6", "b7", "n8"]).unwrap();
        assert_eq!(permissions.to_wire(), b"r5\0w6\0b7\0n8\0");
        assert_eq!(permissions.entries(), 4);
    }

    #[test]
    fn malformed_permissions_are_invalid() {
        for wrong in [
            &[][..],
            &[""],
            &["r"],
            &["x5"],
            &["5"],
            &["r5x"],
            &["r-5"],
            &["r32752"],
            &["n5", "r"],
        ] {
            assert_eq!(parse(wrong), Err(Errno::EINVAL), "{wrong:?}");
        }
    }

    #[test]
    fn owners_may_all_and_the_first_entry_holds() {
        let permissions = parse(&["r5", "n6", "b6", "w7"]).unwrap();
        let mut departures = Departures::default();
        let access = |domain, target: Option<u16>, departures: &Departures| {
            permissions.access(Caller {
                domain: Domid(domain),
                target: target.map(Domid),
                departures,
            })
        };
        assert_eq!(access(0, None, &departures), Access::all());
        assert_eq!(access(5, None, &departures), Access::all());
        assert_eq!(access(6, None, &departures), Access::empty());
        assert_eq!(access(7, None, &departures), Access::WRITE);
        assert_eq!(access(8, None, &departures), Access::READ);
        assert_eq!(access(8, Some(5), &departures), Access::all());
        assert_eq!(access(8, Some(7), &departures), Access::WRITE);

        departures.record(Domid(7), 9);
        assert_eq!(access(7, None, &departures), Access::WRITE);
        departures.record(Domid(7), 11);
        assert_eq!(access(7, None, &departures), Access::READ);
        let valid = permissions.valid(&departures);
        assert_eq!(valid.to_wire(), b"r5\0n6\0b6\0");
    }
}
