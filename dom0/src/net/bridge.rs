//! A learning bridge: which port a frame goes to.
//!
//! It learns where stations are from what they send. What is for a station that it does not know, or for a
//! group, goes to all ports but that which it came from. What it knows is bounded, for all ports and for each,
//! so that nobody who makes addresses up has it forget others'.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use split_drivers::net::{ETHERNET_HEADER, Frame, Mac};

/// A port's number.
pub type PortId = u64;

/// How long a station is known that sends nothing, in nanoseconds.
pub const AGE: u64 = 300_000_000_000;
/// Stations that are known at a time.
pub const MAX_STATIONS: usize = 4096;
/// Stations at one port.
pub const MAX_AT_PORT: usize = 256;

/// What went through a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Frames that came in by it.
    pub frames_in: u64,
    /// Frames that went out by it.
    pub frames_out: u64,
}

#[derive(Debug, Default)]
struct Port {
    passed: Passed,
    stations: usize,
}

#[derive(Debug)]
struct Station {
    port: PortId,
    /// When it last sent something.
    seen: u64,
}

/// The bridge.
#[derive(Debug, Default)]
pub struct Bridge {
    ports: BTreeMap<PortId, Port>,
    stations: BTreeMap<Mac, Station>,
    /// The same, from the one that was silent for longest on.
    by_age: BTreeSet<(u64, Mac)>,
    /// The host's own station, which is where it is whatever others send.
    own: Option<(Mac, PortId)>,
}

impl Bridge {
    /// Adds a port.
    pub fn add(&mut self, port: PortId) {
        self.ports.entry(port).or_default();
    }

    /// Adds the port of the host's own station. Nobody else has its address, and it gets nothing that is for others.
    pub fn add_own(&mut self, port: PortId, mac: Mac) {
        self.add(port);
        self.own = Some((mac, port));
    }

    /// Removes a port, and forgets the stations at it.
    pub fn remove(&mut self, port: PortId) {
        self.ports.remove(&port);
        let here: Vec<Mac> = self
            .stations
            .iter()
            .filter(|(_, station)| station.port == port)
            .map(|(mac, _)| *mac)
            .collect();
        for mac in here {
            self.forget(mac);
        }
    }

    /// What went through a port.
    pub fn passed(&self, port: PortId) -> Option<Passed> {
        self.ports.get(&port).map(|port| port.passed)
    }

    /// How many stations are known.
    pub fn stations(&self) -> usize {
        self.stations.len()
    }

    /// Which ports a frame goes to that came in by one at a time, in nanoseconds.
    pub fn forward(&mut self, from: PortId, frame: &Frame, now: u64) -> Vec<PortId> {
        let (Some(to), Some(source)) = (frame.destination(), frame.source()) else {
            return Vec::new();
        };
        let Some(port) = self.ports.get_mut(&from) else {
            return Vec::new();
        };
        // No station is a group, and no frame is shorter than its header.
        if source.is_group() || frame.bytes.len() < ETHERNET_HEADER {
            return Vec::new();
        }
        let (own, own_port) = self.own.unzip();
        if own == Some(source) && own_port != Some(from) {
            return Vec::new();
        }
        port.passed.frames_in += 1;
        self.expire(now);
        if own != Some(source) {
            self.learn(source, from, now);
        }
        let known = match self.stations.get(&to) {
            _ if own == Some(to) => own_port,
            Some(station) if !to.is_group() => Some(station.port),
            _ => None,
        };
        let out = match known {
            // It has heard it already.
            Some(port) if port == from => Vec::new(),
            Some(port) => Vec::from([port]),
            None => self
                .ports
                .keys()
                .copied()
                .filter(|it| *it != from && (to.is_group() || Some(*it) != own_port))
                .collect(),
        };
        for port in &out {
            if let Some(port) = self.ports.get_mut(port) {
                port.passed.frames_out += 1;
            }
        }
        out
    }

    fn learn(&mut self, mac: Mac, at: PortId, now: u64) {
        if let Some(station) = self.stations.get_mut(&mac) {
            if station.port == at {
                self.by_age.remove(&(station.seen, mac));
                station.seen = now;
                self.by_age.insert((now, mac));
                return;
            }
            self.forget(mac);
        }
        let Some(port) = self.ports.get_mut(&at) else {
            return;
        };
        if port.stations >= MAX_AT_PORT || self.stations.len() >= MAX_STATIONS {
            return;
        }
        port.stations += 1;
        self.stations.insert(
            mac,
            Station {
                port: at,
                seen: now,
            },
        );
        self.by_age.insert((now, mac));
    }

    fn expire(&mut self, now: u64) {
        while let Some((seen, mac)) = self.by_age.first().copied() {
            if now.saturating_sub(seen) < AGE {
                return;
            }
            self.forget(mac);
        }
    }

    fn forget(&mut self, mac: Mac) {
        if let Some(station) = self.stations.remove(&mac) {
            self.by_age.remove(&(station.seen, mac));
            if let Some(port) = self.ports.get_mut(&station.port) {
                port.stations -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(number: u16) -> Mac {
        let [high, low] = number.to_be_bytes();
        Mac([2, 0, 0, 0, high, low])
    }

    fn frame(to: Mac, from: Mac) -> Frame {
        let mut bytes = Vec::from(to.0);
        bytes.extend(from.0);
        bytes.extend([0x08, 0x06, 0, 0]);
        Frame::new(bytes)
    }

    fn bridge(ports: PortId) -> Bridge {
        let mut bridge = Bridge::default();
        (0..ports).for_each(|port| bridge.add(port));
        bridge
    }

    #[test]
    fn a_station_that_was_heard_is_known_by_its_port() {
        let mut bridge = bridge(4);
        assert_eq!(bridge.forward(1, &frame(mac(2), mac(1)), 0), [0, 2, 3]);
        assert_eq!(bridge.forward(2, &frame(mac(1), mac(2)), 1), [1]);
        assert_eq!(bridge.forward(1, &frame(mac(2), mac(1)), 2), [2]);
        assert_eq!(
            bridge.forward(1, &frame(Mac::BROADCAST, mac(1)), 3),
            [0, 2, 3]
        );
        // It has moved.
        assert_eq!(bridge.forward(3, &frame(mac(1), mac(2)), 4), [1]);
        assert_eq!(bridge.forward(1, &frame(mac(2), mac(1)), 5), [3]);
        assert_eq!(bridge.forward(3, &frame(mac(2), mac(7)), 6), []);
        let passed = Passed {
            frames_in: 4,
            frames_out: 2,
        };
        assert_eq!(bridge.passed(1), Some(passed));
    }

    #[test]
    fn the_hosts_own_station_is_nobody_elses_and_hears_nothing_that_is_not_for_it() {
        let mut bridge = bridge(3);
        bridge.add_own(7, mac(70));
        // Before it has sent anything, and for as long as it is silent.
        assert_eq!(bridge.forward(1, &frame(mac(70), mac(1)), 0), [7]);
        assert_eq!(bridge.forward(1, &frame(mac(9), mac(1)), AGE), [0, 2]);
        assert_eq!(
            bridge.forward(1, &frame(Mac::BROADCAST, mac(1)), AGE),
            [0, 2, 7]
        );
        assert_eq!(bridge.forward(7, &frame(mac(1), mac(70)), AGE), [1]);
        assert_eq!(bridge.forward(7, &frame(mac(9), mac(70)), AGE), [0, 1, 2]);
        // Somebody pretends to be it.
        assert_eq!(bridge.forward(2, &frame(mac(1), mac(70)), AGE), []);
        assert_eq!(bridge.forward(1, &frame(mac(70), mac(1)), AGE), [7]);
        assert_eq!(bridge.stations(), 1);
    }

    #[test]
    fn a_station_that_is_silent_is_forgotten() {
        let mut bridge = bridge(3);
        bridge.forward(1, &frame(mac(9), mac(1)), 0);
        bridge.forward(2, &frame(mac(9), mac(2)), AGE / 2);
        assert_eq!(bridge.forward(0, &frame(mac(1), mac(3)), AGE - 1), [1]);
        assert_eq!(bridge.forward(0, &frame(mac(1), mac(3)), AGE), [1, 2]);
        assert_eq!(bridge.forward(0, &frame(mac(2), mac(3)), AGE), [2]);
    }

    #[test]
    fn what_is_no_frame_or_comes_from_nowhere_goes_nowhere() {
        let mut bridge = bridge(3);
        assert_eq!(bridge.forward(7, &frame(mac(1), mac(2)), 0), []);
        assert_eq!(bridge.forward(1, &frame(mac(1), Mac::BROADCAST), 0), []);
        for length in 0..ETHERNET_HEADER {
            let mut frame = frame(mac(1), mac(2));
            frame.bytes.truncate(length);
            assert_eq!(bridge.forward(1, &frame, 0), []);
        }
        assert_eq!(bridge.stations(), 0);
    }

    #[test]
    fn who_makes_addresses_up_has_nobody_forgotten() {
        let mut bridge = bridge(3);
        bridge.forward(1, &frame(mac(2), mac(1)), 0);
        for number in 1000..60_000 {
            bridge.forward(2, &frame(mac(1), mac(number)), 1);
        }
        assert_eq!(bridge.stations(), 1 + MAX_AT_PORT);
        assert_eq!(bridge.forward(0, &frame(mac(1), mac(5)), 2), [1]);
        bridge.remove(2);
        assert_eq!(bridge.stations(), 2);
        assert_eq!(bridge.passed(2), None);
        assert_eq!(bridge.forward(0, &frame(mac(1000), mac(5)), 3), [1]);
    }
}
