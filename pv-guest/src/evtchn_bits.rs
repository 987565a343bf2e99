//! The two-level bitmap of event channels (event_channel.h): which ports are pending, in what order
//! they are served, and how one is masked without losing an event.
//!
//! The hypervisor sets a port's pending bit, then, unless the port is masked, the bit of that word
//! in the vCPU's selector, then the vCPU's pending flag. The guest clears them the other way round,
//! so an event that arrives in between is found in the next round and none is lost.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, SeqCst};

use hypercall_abi::types::Port;

use crate::shared::{SharedInfo, Vcpu};

/// Ports that the two-level bitmap has room for.
pub const PORTS: u32 = 64 * 64;

fn place(port: Port) -> Option<(usize, u64)> {
    (port.0 < PORTS).then(|| ((port.0 / 64) as usize, 1 << (port.0 % 64)))
}

/// Masks every port, as a guest does before it binds its first.
pub fn mask_all(shared: &SharedInfo) {
    for word in &shared.evtchn_mask {
        word.store(u64::MAX, SeqCst);
    }
}

/// Holds back upcalls for `port`. A port beyond the bitmap is ignored.
pub fn mask(shared: &SharedInfo, port: Port) {
    if let Some((word, bit)) = place(port) {
        shared.evtchn_mask[word].fetch_or(bit, SeqCst);
    }
}

/// Lets `port` cause upcalls. `false` means that it is pending, so that the event's edge is lost:
/// it is masked still, and the caller must have the hypervisor unmask it (`EVTCHNOP_unmask`, which
/// does nothing for a port that is not masked).
#[must_use = "an event that came while the port was masked would be lost"]
pub fn unmask(shared: &SharedInfo, port: Port) -> bool {
    let Some((word, bit)) = place(port) else {
        return true;
    };
    shared.evtchn_mask[word].fetch_and(!bit, SeqCst);
    // An event from here on makes its upcall. If it came before, or its upcall is held back, this
    // sees it.
    let pending = shared.evtchn_pending[word].load(SeqCst) & bit != 0;
    if pending {
        shared.evtchn_mask[word].fetch_or(bit, SeqCst);
    }
    !pending
}

/// Whether `port` is pending.
pub fn is_pending(shared: &SharedInfo, port: Port) -> bool {
    place(port).is_some_and(|(word, bit)| shared.evtchn_pending[word].load(Acquire) & bit != 0)
}

/// Forgets that `port` is pending; whether it was.
pub fn clear(shared: &SharedInfo, port: Port) -> bool {
    place(port)
        .is_some_and(|(word, bit)| shared.evtchn_pending[word].fetch_and(!bit, SeqCst) & bit != 0)
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
pub fn take_pending(shared: &SharedInfo, vcpu: &Vcpu, bound: &Bound, mut serve: impl FnMut(Port)) {
    while vcpu.upcall_pending.swap(0, SeqCst) != 0 {
        let mut selector = vcpu.pending_sel.swap(0, SeqCst);
        while selector != 0 {
            let word = selector.trailing_zeros();
            selector &= selector - 1;
            let pending = &shared.evtchn_pending[word as usize];
            let mut ready = pending.load(SeqCst)
                & !shared.evtchn_mask[word as usize].load(SeqCst)
                & bound.0[word as usize].load(SeqCst);
            while ready != 0 {
                let bit = ready.trailing_zeros();
                ready &= ready - 1;
                pending.fetch_and(!(1 << bit), SeqCst);
                serve(Port(word * 64 + bit));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the hypervisor does on an event.
    fn raise(shared: &SharedInfo, port: u32) {
        let (word, bit) = place(Port(port)).unwrap();
        if shared.evtchn_pending[word].fetch_or(bit, SeqCst) & bit != 0
            || shared.evtchn_mask[word].load(SeqCst) & bit != 0
        {
            return;
        }
        if shared.vcpu[0].pending_sel.fetch_or(1 << word, SeqCst) & (1 << word) == 0 {
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
