//! Frames for tests and fuzzing, and peers that do whatever some bytes say.

use hypercall_abi::io::netif::*;
use hypercall_abi::types::GrantRef;
use zerocopy::IntoBytes;

use super::back::{Back, Policy};
use super::front::Front;
use super::sources::Sources;
use super::{Checksum, Features, Frame, Gso, GsoKind, Mac, PAGE};
use crate::SharedMemory;
use crate::grants::Pages;
use crate::world::{Choices, ENTRIES, Guest, GuestPage, Host, INDICES, Memory};

/// A TCP packet with so much payload, whose checksum is blank.
pub fn tcp(v6: bool, payload: &[u8]) -> Frame {
    let mut bytes = Vec::from([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    let length = 20 + payload.len();
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([6, 64]);
        bytes.extend([0xfd; 32]);
    } else {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((length as u16 + 20).to_be_bytes());
        bytes.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    }
    bytes.extend([0, 80, 4, 0, 0, 0, 0, 7, 0, 0, 0, 9]);
    // FIN, PSH, ACK and CWR.
    bytes.extend([0x50, 0x99, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(payload);
    Frame {
        bytes,
        checksum: Checksum::Blank,
        gso: None,
    }
}

/// The same, to be cut into segments of `size`.
pub fn large_tcp(v6: bool, payload: &[u8], size: u16) -> Frame {
    Frame {
        gso: Some(Gso {
            kind: if v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 },
            size,
        }),
        ..tcp(v6, payload)
    }
}

/// A frame that is as it comes, from the second station to the first.
pub fn plain(length: usize, seed: u8) -> Frame {
    let mut bytes: Vec<u8> = (0..length).map(|at| at as u8 ^ seed).collect();
    let header = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    for (place, byte) in bytes.iter_mut().zip(header) {
        *place = byte;
    }
    Frame::new(bytes)
}

/// A frontend that does what `bytes` say, against the backend: what is wrong panics.
pub fn hostile_front(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    // Beyond the end, the choices are over.
    let _ = play_front(&mut choices);
}

fn features(kind: u8) -> Features {
    Features {
        sg: kind & 1 == 0,
        gso_tcp4: kind & 3 == 0,
        gso_tcp6: kind & 5 == 0,
        checksum4: kind & 8 == 0,
        checksum6: kind & 16 == 0,
        multicast: kind & 32 == 0,
    }
}

/// The rings of up to three queues.
fn rings(choices: &mut Choices<'_>) -> Option<Vec<(Memory, Memory)>> {
    let new = |_| (Memory::new(PAGE), Memory::new(PAGE));
    Some((0..=choices.index(3)?).map(new).collect())
}

/// Gives a frame of TCP another port, so that its queue may be another.
fn other_flow(frame: &mut Frame, port: u8) {
    let at = if frame.bytes.get(12) == Some(&8) {
        35
    } else {
        55
    };
    if let Some(place) = frame.bytes.get_mut(at) {
        *place = port;
    }
}

/// Whether a receiver with these features can take a frame.
pub fn takes(features: &Features, frame: &Frame) -> bool {
    let v6 = frame.bytes.get(12..14) == Some(&[0x86, 0xdd]);
    let blank = if v6 {
        features.checksum6
    } else {
        features.checksum4
    };
    let gso = match frame.gso {
        None => true,
        Some(gso) => match gso.kind {
            GsoKind::Tcp4 => features.gso_tcp4,
            GsoKind::Tcp6 => features.gso_tcp6,
        },
    };
    (features.sg || frame.bytes.len() <= PAGE)
        && (blank || frame.checksum != Checksum::Blank)
        && gso
}

fn play_front(choices: &mut Choices<'_>) -> Option<()> {
    let features = features(choices.byte()?);
    let rings = rings(choices)?;
    let mut guest = Guest::default();
    let mut host = Host::new(&guest);
    let mut pages: Vec<GuestPage> = (0..8).filter_map(|nth| guest.page(nth % 3 == 0)).collect();
    let held = choices.byte()? & 1 == 0;
    let policy = Policy {
        source: Some(Mac([2, 0, 0, 0, 0, 2])),
        addresses: held.then(|| Sources::parse("10.0.0.1").ok()).flatten(),
        rate: None,
    };
    let mut back = Back::attach(rings.clone(), features, policy, 0).ok()?;
    let mut closed = false;
    let mut out = Vec::new();
    while let Some(strike) = choices.byte() {
        let (tx, rx) = &rings[choices.index(rings.len())?];
        let ring = if strike & 128 == 0 { tx } else { rx };
        match strike % 10 {
            0 => ring.store_index(INDICES[choices.index(4)?], choices.word()?),
            1 => {
                let index = INDICES[choices.index(4)?];
                let value = ring.load_index(index).wrapping_add(choices.byte()?.into());
                ring.store_index(index, value);
            }
            2 => {
                let place = ENTRIES + choices.index(256)? * NETIF_RX_ENTRY_SIZE;
                ring.write(place, &choices.bytes::<NETIF_RX_ENTRY_SIZE>()?);
            }
            // Something that may be good, at the place of the next request.
            3..=5 => {
                let place = ring.load_index(0) as usize % 256;
                if strike & 128 == 0 {
                    let entry = sent(choices, &pages)?;
                    tx.write(ENTRIES + place * NETIF_TX_ENTRY_SIZE, &entry);
                } else {
                    let request = NetifRxRequest {
                        id: choices.byte()?.into(),
                        gref: gref(choices, &pages)?,
                        ..Default::default()
                    };
                    rx.write(ENTRIES + place * NETIF_RX_ENTRY_SIZE, request.as_bytes());
                }
                ring.store_index(0, ring.load_index(0).wrapping_add(1));
            }
            6 => {
                let page = &pages[choices.index(pages.len())?];
                let frame = match choices.byte()? {
                    kind @ 0..128 => tcp(kind & 1 != 0, &[kind; 100]),
                    kind => plain(60, kind),
                };
                page.write(choices.index(64)?, &frame.bytes);
                page.write(choices.index(100)?, &[choices.byte()?]);
            }
            7 => {
                let nth = choices.index(pages.len())?;
                pages[nth] = guest.page(choices.byte()? & 1 == 0)?;
            }
            8 => {
                let payload = vec![strike; choices.index(255)? * 40];
                let mut frame = match strike & 0x60 {
                    0 => plain(payload.len() + 14, strike),
                    0x20 => tcp(strike & 16 != 0, &payload),
                    _ => large_tcp(strike & 16 != 0, &payload, choices.byte()?.max(1).into()),
                };
                frame.bytes[0] = choices.byte()?;
                other_flow(&mut frame, choices.byte()?);
                back.deliver(frame);
            }
            _ => {
                let before = out.len();
                let budget = choices.index(40)?;
                let result = back.turn(&mut host, 0, budget, &mut out);
                assert!(out.len() - before <= budget, "more than it may");
                assert!(!closed || result.is_ok(), "it was closed before");
                closed |= result.is_err();
                for frame in &out[before..] {
                    assert_eq!(frame.source(), Some(Mac([2, 0, 0, 0, 0, 2])));
                    assert!(super::offload::is_sound(frame), "{frame:?}");
                    if held && frame.bytes[12..15] == [8, 0, 0x45] {
                        let asks_dhcp = frame.bytes.get(34..38) == Some(&[0, 68, 0, 67]);
                        assert!(asks_dhcp || frame.bytes[26..30] == [10, 0, 0, 1]);
                    }
                    let fit = super::offload::fit(frame.clone(), &Features::default());
                    assert!(fit.iter().all(|it| takes(&Features::default(), it)));
                }
            }
        }
    }
    drop(back);
    assert_eq!(host.room.get(), 2 << 20, "buffers are left");
    Some(())
}

fn gref(choices: &mut Choices<'_>, pages: &[GuestPage]) -> Option<GrantRef> {
    let choice = choices.byte()?;
    Some(match pages.get(usize::from(choice)) {
        Some(page) => page.gref,
        None if choice < 200 => pages[usize::from(choice) % pages.len()].gref,
        None => GrantRef(u32::from(choice) << (choice & 24)),
    })
}

fn sent(choices: &mut Choices<'_>, pages: &[GuestPage]) -> Option<[u8; NETIF_TX_ENTRY_SIZE]> {
    let [kind, size, flags] = choices.bytes()?;
    if kind % 4 == 0 {
        let mut entry = [0; NETIF_TX_ENTRY_SIZE];
        // Mostly extras that there are.
        entry[0] = kind / 4 % 6;
        entry[1] = flags & 1;
        entry[2..8].copy_from_slice(&[size, 0, 1 + (flags & 1), 0, 0, 0]);
        return Some(entry);
    }
    let request = NetifTxRequest {
        gref: gref(choices, pages)?,
        offset: u16::from(flags >> 4) * if kind > 250 { 300 } else { 4 },
        flags: (flags & 15).into(),
        id: size.into(),
        size: u16::from(size) * if kind > 200 { 250 } else { 2 },
    };
    request.as_bytes().try_into().ok()
}

/// A backend that does what `bytes` say, against the frontend: what is wrong panics.
pub fn hostile_back(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let _ = play_back(&mut choices);
}

fn play_back(choices: &mut Choices<'_>) -> Option<()> {
    let features = features(choices.byte()?);
    let mut guest = Guest::default();
    let rings = rings(choices)?;
    let mut front = Front::new(rings.clone(), features, 32);
    let mut answers = vec![0_u32; rings.len()];
    while let Some(strike) = choices.byte() {
        let queue = choices.index(rings.len())?;
        let (tx, rx) = &rings[queue];
        let answers = &mut answers[queue];
        let ring = if strike & 128 == 0 { tx } else { rx };
        match strike % 8 {
            0 => {
                let payload = vec![0x5a; choices.index(255)? * 40];
                let mut frame = match strike & 0x60 {
                    0 => plain(payload.len(), strike),
                    0x20 => tcp(strike & 16 != 0, &payload),
                    _ => large_tcp(strike & 16 != 0, &payload, 1400),
                };
                other_flow(&mut frame, choices.byte()?);
                // Whatever it does, there is an answer.
                _ = front.send(&mut guest, &frame);
            }
            1 => _ = front.group(Mac([1, 0, 0, 0, 0, strike]), strike & 16 != 0),
            2 => {
                front.fill(&mut guest);
                _ = front.publish(queue);
            }
            3 if strike & 64 == 0 => ring.store_index(INDICES[choices.index(4)?], choices.word()?),
            // An answer, mostly to something that was asked.
            3..=5 => {
                let place = ring.load_index(8) as usize % 256;
                if strike & 128 == 0 {
                    let [id, status] = choices.bytes()?;
                    let response = NetifTxResponse {
                        id: id.into(),
                        status: i16::from(status as i8) / 60,
                    };
                    tx.write(ENTRIES + place * NETIF_TX_ENTRY_SIZE, response.as_bytes());
                } else {
                    let [kind, flags, size, offset] = choices.bytes()?;
                    let mut response = NetifRxResponse {
                        id: *answers as u16 % 256,
                        offset: u16::from(offset) * if kind > 250 { 200 } else { 1 },
                        flags: (flags & 15).into(),
                        status: i16::from(size as i8) * if kind > 200 { 32 } else { 1 },
                    };
                    if kind % 32 == 0 {
                        response.id ^= u16::from(kind);
                    }
                    rx.write(ENTRIES + place * NETIF_RX_ENTRY_SIZE, response.as_bytes());
                    *answers = answers.wrapping_add(1);
                }
                ring.store_index(8, ring.load_index(8).wrapping_add(1));
            }
            6 => {
                let grefs: Vec<GrantRef> = guest.table.borrow().keys().copied().collect();
                if let Some(gref) = grefs.get(choices.index(grefs.len().max(1))?) {
                    let (page, _) = guest.granted(*gref)?;
                    page.write(choices.index(PAGE)?, &[choices.byte()?]);
                }
            }
            _ => match front.turn() {
                Ok(frames) => {
                    let bytes = |frame: &Frame| frame.bytes.len();
                    assert!(frames.iter().all(|frame| bytes(frame) <= super::MAX_FRAME));
                    assert!(
                        frames.len() <= 256 * rings.len(),
                        "more than there were pages"
                    );
                }
                Err(_) => break,
            },
        }
    }
    front.fail();
    assert!(front.turn().is_ok_and(|frames| frames.is_empty()));
    drop(front);
    assert_eq!(guest.grants(), 0, "grants are left");
    Some(())
}
