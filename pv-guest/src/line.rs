//! A line discipline: typed bytes to lines, with what is to be shown of them.

use alloc::string::String;
use alloc::vec::Vec;

/// Longest line; what is typed beyond is dropped.
const LIMIT: usize = 256;

/// The line being typed.
#[derive(Debug, Default)]
pub struct LineEditor {
    line: Vec<u8>,
    after_return: bool,
}

impl LineEditor {
    /// An empty line.
    pub const fn new() -> Self {
        Self {
            line: Vec::new(),
            after_return: false,
        }
    }

    /// Takes a byte. What the terminal is to show is appended to `echo`; a line is returned when it
    /// ends, by a carriage return, a line feed or both.
    pub fn feed(&mut self, byte: u8, echo: &mut Vec<u8>) -> Option<String> {
        let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
        match byte {
            b'\n' if after_return => None,
            b'\r' | b'\n' => {
                echo.push(b'\n');
                let line = String::from_utf8_lossy(&self.line).into_owned();
                self.line.clear();
                Some(line)
            }
            // Backspace and delete.
            8 | 127 => {
                if self.line.pop().is_some() {
                    echo.extend(b"\x08 \x08");
                }
                None
            }
            b' '.. if self.line.len() < LIMIT => {
                self.line.push(byte);
                echo.push(byte);
                None
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> (Vec<String>, Vec<u8>) {
        let mut editor = LineEditor::new();
        let mut echo = Vec::new();
        let lines = bytes
            .iter()
            .filter_map(|byte| editor.feed(*byte, &mut echo))
            .collect();
        (lines, echo)
    }

    #[test]
    fn a_line_ends_by_return_line_feed_or_both() {
        let (lines, _) = typed(b"a\rb\nc\r\nd\n\r\n");
        assert_eq!(lines, ["a", "b", "c", "d", ""]);
    }

    #[test]
    fn backspace_takes_back_what_was_typed_and_no_more() {
        let (lines, echo) = typed(b"x\x7f\x08help\n");
        assert_eq!(lines, ["help"]);
        assert_eq!(echo, b"x\x08 \x08help\n");
    }

    #[test]
    fn control_characters_and_what_exceeds_the_limit_are_dropped() {
        let mut bytes = vec![b'y'; LIMIT + 5];
        bytes.extend(b"\x1b\n");
        let (lines, echo) = typed(&bytes);
        assert_eq!(lines[0].len(), LIMIT);
        assert_eq!(echo.len(), LIMIT + 1);
    }
}
