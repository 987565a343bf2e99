//! Which IPv4 address a guest has, by what it sends and what it is told by DHCP.

use split_drivers::net::{Frame, Mac};

/// An IPv4 address.
pub type Address = [u8; 4];

const ETHERTYPE: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const UDP: u8 = 17;
/// From a DHCP server to a client.
const SERVER_TO_CLIENT: [u8; 4] = [0, 67, 0, 68];

// Offsets in a DHCP message.
const YOUR_ADDRESS: usize = 16;
const CLIENT_MAC: usize = 28;
const COOKIE: usize = 236;
const OPTIONS: usize = 240;

const MAGIC: [u8; 4] = [99, 130, 83, 99];
const OPTION_PAD: u8 = 0;
const OPTION_TYPE: u8 = 53;
const OPTION_END: u8 = 255;
const ACK: u8 = 5;

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The address that a frame's sender says it has.
pub fn senders(frame: &Frame) -> Option<Address> {
    let address = match part(&frame.bytes, ETHERTYPE)? {
        IPV4 => part(&frame.bytes, 26)?,
        ARP => part(&frame.bytes, 28)?,
        _ => return None,
    };
    // Who has none yet says so.
    (address != [0; 4]).then_some(address)
}

/// The address that a frame gives to a guest: a DHCP server's acknowledgement.
pub fn given(frame: &Frame, to: Mac) -> Option<Address> {
    let bytes = &frame.bytes;
    let [version] = part(bytes, 14)?;
    let udp = 14 + usize::from(version & 0xf) * 4;
    let is_reply = part(bytes, ETHERTYPE) == Some(IPV4)
        && part(bytes, 23) == Some([UDP])
        && part(bytes, udp) == Some(SERVER_TO_CLIENT);
    let message = bytes.get(udp + 8..).filter(|_| is_reply)?;
    if part(message, CLIENT_MAC) != Some(to.0) || part(message, COOKIE) != Some(MAGIC) {
        return None;
    }
    let mut at = OPTIONS;
    loop {
        at += match part(message, at)? {
            [OPTION_PAD] => 1,
            [OPTION_END] => return None,
            [OPTION_TYPE] => match part(message, at + 2)? {
                [ACK] => return part(message, YOUR_ADDRESS),
                [_] => return None,
            },
            [_] => {
                let [length] = part(message, at + 1)?;
                2 + usize::from(length)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Mac = Mac([0, 0x16, 0x3e, 1, 2, 3]);

    fn reply(kind: u8) -> Frame {
        let mut bytes = vec![0; 14 + 20 + 8 + OPTIONS];
        bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
        bytes[23] = UDP;
        bytes[26..30].copy_from_slice(&[10, 0, 2, 2]);
        bytes[34..38].copy_from_slice(&SERVER_TO_CLIENT);
        let message = &mut bytes[42..];
        message[YOUR_ADDRESS..][..4].copy_from_slice(&[10, 0, 2, 15]);
        message[CLIENT_MAC..][..6].copy_from_slice(&GUEST.0);
        message[COOKIE..][..4].copy_from_slice(&MAGIC);
        bytes.extend([0, 1, 4, 255, 255, 255, 0, 53, 1, kind, 255]);
        Frame::new(bytes)
    }

    #[test]
    fn an_acknowledgement_gives_its_guest_an_address() {
        assert_eq!(given(&reply(ACK), GUEST), Some([10, 0, 2, 15]));
        assert_eq!(given(&reply(ACK), Mac([2; 6])), None);
        assert_eq!(given(&reply(2), GUEST), None, "an offer is no address yet");
        assert_eq!(senders(&reply(ACK)), Some([10, 0, 2, 2]));
    }

    #[test]
    fn what_is_cut_off_gives_none() {
        let whole = reply(ACK);
        for length in 0..whole.bytes.len() - 1 {
            let frame = Frame::new(whole.bytes[..length].to_vec());
            assert_eq!(given(&frame, GUEST), None, "{length} bytes");
            _ = senders(&frame);
        }
    }
}
