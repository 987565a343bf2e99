//! Values as they are shown and typed: what is no printing ASCII character is escaped.

/// A value as it is shown: `\t`, `\n`, `\r`, `\\`, `\001` to `\007`, and `\x1b` for the rest.
pub fn show(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for &byte in value {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(byte.into()),
            b'\t' => text.push_str("\\t"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            0..=7 => text.push_str(&format!("\\{byte:03o}")),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

/// The value that was typed: undoes [`show`]. A backslash before any other character stands for
/// that, and one at the end for nothing.
pub fn parse(text: &str) -> Vec<u8> {
    let mut value = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'\\', []) => break,
            (b'\\', [b't', after @ ..]) => (b'\t', after),
            (b'\\', [b'n', after @ ..]) => (b'\n', after),
            (b'\\', [b'r', after @ ..]) => (b'\r', after),
            (b'\\', [b'x', after @ ..]) => digits(after, 16, 2),
            (b'\\', [b'0'..=b'7', ..]) => digits(after, 8, 3),
            (b'\\', [other, after @ ..]) => (*other, after),
            (other, after) => (*other, after),
        };
        value.push(byte);
        rest = after;
    }
    value
}

/// The number that at most so many digits make, its low byte, and what follows them.
fn digits(text: &[u8], radix: u32, most: usize) -> (u8, &[u8]) {
    let is_digit = |byte: &&u8| char::from(**byte).is_digit(radix);
    let count = text.iter().take(most).take_while(is_digit).count();
    let (digits, rest) = text.split_at(count);
    let add = |sum, byte: &u8| sum * radix + char::from(*byte).to_digit(radix).unwrap_or(0);
    (digits.iter().fold(0, add) as u8, rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_shown_as_xenstore_read_shows_them() {
        assert_eq!(show(b"plain \"text\""), "plain \"text\"");
        assert_eq!(show(b"a\tb\nc\rd\\e"), "a\\tb\\nc\\rd\\\\e");
        assert_eq!(
            show(&[0, 7, 8, 0x1b, 0x7f, 0xff]),
            "\\000\\007\\x08\\x1b\\x7f\\xff"
        );
    }

    #[test]
    fn what_is_typed_may_be_escaped_in_other_ways() {
        assert_eq!(parse("\\101\\x42\\q\\x4g\\"), b"ABq\x04g");
        assert_eq!(parse("ä"), "ä".as_bytes());
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_typed(value in proptest::collection::vec(any::<u8>(), 0..50)) {
            prop_assert_eq!(parse(&show(&value)), value);
        }
    }
}
