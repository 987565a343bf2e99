//! Which queue a frame goes to: all of a flow to the same, so that they arrive in the order they were sent in.

use super::packet::Ip;

/// The queue of a frame, of so many; 0 if there are none.
///
/// It is a hash of the addresses and ports. A packet without ports goes by its addresses, and so do all fragments,
/// since only the first has them. What is not IP goes to the first queue.
pub fn queue(bytes: &[u8], queues: usize) -> usize {
    let Some(ip) = Ip::of(bytes).filter(|_| queues > 1) else {
        return 0;
    };
    let ports = Ip::of_transport(bytes).map_or(0..0, |ip| ip.payload..ip.payload + 4);
    let part = |range| bytes.get(range).unwrap_or_default();
    // FNV-1a.
    let hash = part(ip.addresses())
        .iter()
        .chain(part(ports))
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
    (hash >> 16 ^ hash) as usize % queues
}
