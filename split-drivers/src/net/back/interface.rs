//! What holds for an interface, whichever queue its frames go through: what its frontend may do and takes, and what
//! is counted.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use hypercall_abi::io::netif::{NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY};

use super::Policy;
use super::transmit::Packet;
use crate::net::credit::Credit;
use crate::net::{Counters, Features, Frame, Mac, offload};

/// Multicast groups that a frontend may ask for.
const MAX_GROUPS: usize = 64;

/// The interface.
#[derive(Debug)]
pub(super) struct Interface {
    /// What the frontend takes.
    features: Features,
    policy: Policy,
    pub credit: Credit,
    groups: BTreeSet<Mac>,
    /// What the frontend has sent.
    pub sent: Counters,
    /// What it was given.
    pub received: Counters,
}

impl Interface {
    pub fn new(features: Features, policy: Policy, now: u64) -> Self {
        Self {
            features,
            credit: Credit::new(policy.rate, now),
            policy,
            groups: BTreeSet::new(),
            sent: Counters::default(),
            received: Counters::default(),
        }
    }

    /// Frontends that say which groups they want get no others.
    pub fn wants(&self, frame: &Frame) -> bool {
        let group = frame.destination().filter(|to| to.is_group());
        match group {
            Some(group) if self.features.multicast && group != Mac::BROADCAST => {
                self.groups.contains(&group)
            }
            _ => true,
        }
    }

    /// A frame in a form that the frontend takes.
    pub fn fit(&mut self, frame: Frame) -> Vec<Frame> {
        let frames = offload::fit(frame, &self.features);
        if frames.is_empty() {
            self.received.count_dropped();
        }
        frames
    }

    /// Does what a packet is for; what to answer.
    pub fn pass(&mut self, packet: &Packet, frame: Option<Frame>, out: &mut Vec<Frame>) -> i16 {
        if let Some((group, join)) = packet.group {
            let done = match join {
                true if self.groups.len() >= MAX_GROUPS => self.groups.contains(&group),
                true => {
                    self.groups.insert(group);
                    true
                }
                false => {
                    self.groups.remove(&group);
                    true
                }
            };
            return if done {
                NETIF_RSP_OKAY
            } else {
                NETIF_RSP_ERROR
            };
        }
        let Some(frame) = frame.filter(offload::is_sound) else {
            self.sent.count_dropped();
            return NETIF_RSP_ERROR;
        };
        let Policy {
            source, addresses, ..
        } = &self.policy;
        let is_own = source.is_none_or(|only| frame.source() == Some(only))
            && addresses
                .as_ref()
                .is_none_or(|sources| sources.permit(&frame.bytes));
        if !is_own {
            self.sent.count_dropped();
            return NETIF_RSP_DROPPED;
        }
        self.sent.count(frame.bytes.len());
        out.push(frame);
        NETIF_RSP_OKAY
    }
}
