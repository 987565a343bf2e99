//! The two-level bitmap of event channels (`event_protocol::two_level`) in the shared info page, and which of its ports
//! are whose.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

use event_protocol::two_level::{self, Bits, place};
use hypercall_abi::types::Port;

use crate::shared::{SharedInfo, Vcpu};

/// A port's bits; `None` for a port beyond the bitmap.
fn bits(shared: &SharedInfo, port: Port) -> Option<Bits<&AtomicU64>> {
    let (word, bit) = place(port)?;
    Some(Bits {
        pending: &shared.evtchn_pending[word],
        mask: &shared.evtchn_mask[word],
        bit,
    })
}

/// Masks every port, as a guest does before it binds its first.
pub fn mask_all(shared: &SharedInfo) {
    for word in &shared.evtchn_mask {
        word.store(u64::MAX, SeqCst);
    }
}

/// Holds back upcalls for `port`. A port beyond the bitmap is ignored.
pub fn mask(shared: &SharedInfo, port: Port) {
    if let Some(bits) = bits(shared, port) {
        bits.mask();
    }
}

/// Lets `port` cause upcalls, unless it is pending: then it is the hypervisor's to do (`EVTCHNOP_unmask`), and the
/// answer `false`.
#[must_use = "an event that came while the port was masked would be lost"]
pub fn unmask(shared: &SharedInfo, port: Port) -> bool {
    bits(shared, port).is_none_or(|bits| bits.unmask())
}

/// Whether `port` is pending.
pub fn is_pending(shared: &SharedInfo, port: Port) -> bool {
    bits(shared, port).is_some_and(|bits| bits.is_pending())
}

/// Forgets that `port` is pending; whether it was.
pub fn clear(shared: &SharedInfo, port: Port) -> bool {
    bits(shared, port).is_some_and(|bits| bits.clear())
}

/// A bit for each port.
type Ports = [AtomicU64; 64];

/// The ports whose events a vCPU gets.
#[derive(Debug)]
pub struct Bound(Ports);

impl Bound {
    /// None.
    pub const fn none() -> Self {
        Self([const { AtomicU64::new(0) }; 64])
    }

    /// Adds a port. One beyond the bitmap is ignored.
    pub fn add(&self, port: Port) {
        if let Some((word, bit)) = place(port) {
            self.0[word].fetch_or(bit, SeqCst);
        }
    }

    /// Takes a port out.
    pub fn remove(&self, port: Port) {
        if let Some((word, bit)) = place(port) {
            self.0[word].fetch_and(!bit, SeqCst);
        }
    }
}

/// Takes every port of `bound` that is pending and not masked, clears it, and hands it to `serve`,
/// until none is left. `vcpu` is the one that they are bound to: ports of others share its words of
/// the bitmap, and are left to them.
pub fn take_pending(shared: &SharedInfo, vcpu: &Vcpu, bound: &Bound, serve: impl FnMut(Port)) {
    two_level::take_pending(
        &vcpu.upcall_pending,
        &vcpu.pending_sel,
        &shared.evtchn_pending,
        &shared.evtchn_mask,
        |word| bound.0[word].load(SeqCst),
        serve,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    use hypercall_abi::event_channel::EVTCHN_2L_NR_CHANNELS as PORTS;

    use event_protocol::two_level::{Raised, select};

    /// What the hypervisor does on an event.
    fn raise(shared: &SharedInfo, port: u32) {
        let bits = bits(shared, Port(port)).unwrap();
        let word = port as usize / 64;
        if bits.raise() == Raised::Ready && select(&shared.vcpu[0].pending_sel, word) {
            shared.vcpu[0].upcall_pending.store(1, SeqCst);
        }
    }

    /// Every port.
    fn all() -> Bound {
        let bound = Bound::none();
        (0..PORTS).for_each(|port| bound.add(Port(port)));
        bound
    }

    fn served(shared: &SharedInfo) -> Vec<u32> {
        let mut ports = Vec::new();
        take_pending(shared, &shared.vcpu[0], &all(), |port| ports.push(port.0));
        ports
    }

    #[test]
    fn every_pending_port_is_served_once_and_in_order() {
        let shared = SharedInfo::default();
        for port in [4095, 0, 64, 63, 64] {
            raise(&shared, port);
        }
        assert_eq!(served(&shared), [0, 63, 64, 4095]);
        assert_eq!(served(&shared), []);
    }

    #[test]
    fn a_masked_port_is_not_served_and_unmasking_reports_the_lost_edge() {
        let shared = SharedInfo::default();
        mask_all(&shared);
        raise(&shared, 70);
        assert_eq!(served(&shared), []);
        assert!(!unmask(&shared, Port(70)));
        assert!(unmask(&shared, Port(71)));
        raise(&shared, 71);
        assert_eq!(served(&shared), [71]);
        assert!(
            is_pending(&shared, Port(70)),
            "it is left to the hypervisor to unmask"
        );
        assert!(clear(&shared, Port(70)));
        assert!(!is_pending(&shared, Port(70)));
    }

    #[test]
    fn an_event_raised_while_serving_is_served_in_the_same_upcall() {
        let shared = SharedInfo::default();
        raise(&shared, 5);
        let mut ports = Vec::new();
        take_pending(&shared, &shared.vcpu[0], &all(), |port| {
            ports.push(port.0);
            if ports.len() == 1 {
                raise(&shared, 3);
                raise(&shared, 200);
            }
        });
        assert_eq!(ports, [5, 3, 200]);
    }

    #[test]
    fn a_masked_port_keeps_its_event_while_its_neighbours_are_served() {
        let shared = SharedInfo::default();
        raise(&shared, 9);
        mask(&shared, Port(9));
        raise(&shared, 10);
        assert_eq!(served(&shared), [10]);
        assert!(is_pending(&shared, Port(9)));
    }

    #[test]
    fn a_port_of_another_vcpu_is_left_to_it() {
        let shared = SharedInfo::default();
        let ours = Bound::none();
        [4, 6, 7].iter().for_each(|port| ours.add(Port(*port)));
        ours.remove(Port(6));
        for port in [4, 5, 6, 7] {
            raise(&shared, port);
        }
        let mut ports = Vec::new();
        take_pending(&shared, &shared.vcpu[0], &ours, |port| ports.push(port.0));
        assert_eq!(ports, [4, 7]);
        assert!(is_pending(&shared, Port(5)) && is_pending(&shared, Port(6)));
    }

    #[test]
    fn a_port_beyond_the_bitmap_is_ignored() {
        let shared = SharedInfo::default();
        mask(&shared, Port(PORTS));
        assert!(unmask(&shared, Port(PORTS)));
        assert!(!is_pending(&shared, Port(u32::MAX)));
        assert!(!clear(&shared, Port(u32::MAX)));
    }
}
