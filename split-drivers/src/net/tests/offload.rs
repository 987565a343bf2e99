//! Checksums and segments.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::net::offload::{complete, fit, is_checksum_right, is_fit, is_sound, leave};
use crate::net::world::{large_tcp, plain, tcp};
use crate::net::{Checksum, Features, Frame, Gso, GsoKind};

#[test]
fn a_checksum_is_that_of_rfc_1071() {
    // UDP from 10.0.0.1:1 to 10.0.0.2:2, "ab": 0x0a00+1+0x0a00+2+17+10 + 1+2+10 + 0x6162.
    let mut bytes = vec![0; 12];
    bytes.extend([
        8, 0, 0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    bytes.extend([0, 1, 0, 2, 0, 10, 0, 0, 0x61, 0x62]);
    let sum: u16 = 0x0a00 + 1 + 0x0a00 + 2 + 17 + 10 + 1 + 2 + 10 + 0x6162;
    let mut frame = Frame {
        bytes,
        checksum: Checksum::Blank,
        gso: None,
    };
    assert!(complete(&mut frame));
    assert_eq!(frame.bytes[40..42], (!sum).to_be_bytes());
    assert!(is_checksum_right(&frame.bytes));
    frame.bytes[43] ^= 1;
    assert!(!is_checksum_right(&frame.bytes));
}

#[test]
fn nobody_has_a_frame_cut_into_thousands_of_segments() {
    let bytes = [1; 60_000];
    let most = large_tcp(false, &bytes, 118);
    assert_eq!(fit(most, &Features::default()).len(), 509);
    let more = large_tcp(false, &bytes, 117);
    assert!(!is_sound(&more));
    assert!(fit(more, &Features::default()).is_empty());
}

#[test]
fn a_checksum_that_is_left_to_others_has_the_sum_of_the_addresses_in_its_place() {
    let mut frame = tcp(false, &[1, 2, 3]);
    leave(&mut frame);
    // 10.0.0.1, 10.0.0.2, TCP, 23 bytes.
    let sum: u16 = 0x0a00 + 1 + 0x0a00 + 2 + 6 + 23;
    assert_eq!(frame.bytes[50..52], sum.to_be_bytes());
    assert_eq!(frame.checksum, Checksum::Blank);
    assert!(complete(&mut frame) && is_checksum_right(&frame.bytes));
    let mut other = plain(60, 1);
    leave(&mut other);
    assert_eq!(other, plain(60, 1));
}

#[test]
fn what_is_cut_off_or_is_no_tcp_is_not_sound() {
    for v6 in [false, true] {
        let whole = large_tcp(v6, &[1; 100], 50);
        assert!(is_sound(&whole));
        for length in 0..whole.bytes.len() {
            let mut frame = whole.clone();
            frame.bytes.truncate(length);
            assert!(!is_sound(&frame), "{length} bytes");
            assert!(fit(frame, &Features::default()).is_empty());
        }
        let mut udp = whole.clone();
        udp.bytes[if v6 { 20 } else { 23 }] = 17;
        assert!(!is_sound(&udp));
        let mut other = whole.clone();
        other.gso = other.gso.map(|gso| Gso {
            kind: if v6 { GsoKind::Tcp4 } else { GsoKind::Tcp6 },
            ..gso
        });
        assert!(!is_sound(&other));
        let mut header = whole;
        let transport = if v6 { 54 } else { 34 };
        for words in [0, 4] {
            header.bytes[transport + 12] = words << 4;
            assert!(!is_sound(&header), "a header of {words} words");
        }
    }
    // A part of a packet has no checksum of its own.
    let mut fragment = tcp(false, &[0; 8]);
    fragment.bytes[20] = 0x20;
    assert!(!is_sound(&fragment));
}

#[test]
fn who_takes_everything_is_given_it_as_it_is() {
    for frame in [
        tcp(false, &[1; 10]),
        large_tcp(true, &[2; 9000], 1000),
        plain(5000, 1),
    ] {
        assert_eq!(fit(frame.clone(), &Features::ALL), [frame]);
    }
    assert!(fit(plain(5000, 1), &Features::default()).is_empty());
}

#[test]
fn a_frame_is_fit_for_whom_it_stays_as_it_is() {
    for bits in 0..32_u8 {
        let bit = |nth: u8| bits & 1 << nth != 0;
        let features = Features {
            sg: bit(0),
            gso_tcp4: bit(1),
            gso_tcp6: bit(2),
            checksum4: bit(3),
            checksum6: bit(4),
            multicast: false,
        };
        let mut frames = vec![plain(60, 1), plain(5000, 1)];
        for v6 in [false, true] {
            frames.push(tcp(v6, &[5; 99]));
            frames.push(large_tcp(v6, &[5; 9000], 1448));
        }
        for frame in frames {
            let stays = fit(frame.clone(), &features) == [frame.clone()];
            assert_eq!(is_fit(&frame, &features), stays, "{features:?} {frame:?}");
        }
    }
}

proptest! {
    #[test]
    fn segments_are_the_whole_with_right_checksums(
        v6 in any::<bool>(), payload in vec(any::<u8>(), 0..9000), size in 1_u16..3000,
    ) {
        let size = size.max(payload.len() as u16 / 60 + 1);
        let segments = fit(large_tcp(v6, &payload, size), &Features::default());
        let headers = if v6 { 74 } else { 54 };
        let transport = headers - 20;
        let mut whole = Vec::new();
        for (nth, segment) in segments.iter().enumerate() {
            let bytes = &segment.bytes;
            prop_assert!(bytes.len() <= headers + usize::from(size));
            prop_assert!(is_checksum_right(bytes));
            prop_assert_eq!(segment.checksum, Checksum::Valid);
            let number = u32::from_be_bytes(bytes[transport + 4..transport + 8].try_into().unwrap());
            prop_assert_eq!(number as usize, 7 + whole.len());
            let last = nth + 1 == segments.len();
            let flags = 0x10 | if last { 9 } else { 0 } | if nth == 0 { 0x80 } else { 0 };
            prop_assert_eq!(bytes[transport + 13], flags);
            if !v6 {
                let number = u16::from_be_bytes([bytes[18], bytes[19]]);
                prop_assert_eq!(number, 0x1234 + nth as u16);
                let total = u16::from_be_bytes([bytes[16], bytes[17]]);
                prop_assert_eq!(usize::from(total), bytes.len() - 14);
                let mut sum: u32 = bytes[14..34]
                    .chunks(2)
                    .map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])))
                    .sum();
                sum = (sum & 0xffff) + (sum >> 16);
                prop_assert_eq!(sum, 0xffff);
            }
            whole.extend_from_slice(&bytes[headers..]);
        }
        prop_assert!(whole == payload, "payload was changed");
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200), blank in any::<bool>(), v6 in any::<bool>()) {
        let mut bytes = bytes;
        let model = tcp(v6, &[]);
        for (place, byte) in bytes.iter_mut().zip(&model.bytes) {
            // Mostly like a packet.
            if *place > 40 { *place = *byte; }
        }
        let frame = Frame {
            bytes,
            checksum: if blank { Checksum::Blank } else { Checksum::Valid },
            gso: Some(Gso { kind: if v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 }, size: 7 }),
        };
        let sound = is_sound(&frame);
        let cut = fit(frame, &Features::default());
        prop_assert_eq!(sound, !cut.is_empty());
    }
}
