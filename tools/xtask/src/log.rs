//! What a machine writes to its serial port, kept whole and followed by line.

use std::io::Read;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The log of one machine. One thread fills it, any number read and wait.
#[derive(Default)]
pub struct Log {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

/// What a wait for a line came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next line, without its end.
    Line(String),
    /// The log has ended, and there was no further line.
    End,
    /// No line came in time.
    Late,
}

impl Log {
    /// Reads `source` to its end into the log.
    pub fn fill(&self, mut source: impl Read) {
        let mut buffer = [0; 4096];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let read = buffer.get(..length).unwrap_or_default();
                    self.lock().bytes.extend_from_slice(read);
                    self.changed.notify_all();
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `check` finds what it looks for in the log so far, the log ends, or `deadline`.
    fn wait<T>(&self, deadline: Instant, check: impl Fn(&State) -> Option<T>) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(found) = check(&state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let (guard, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
        }
    }

    /// Waits for `text`; false if the log ended without it or `deadline` passed.
    pub fn wait_for(&self, text: &str, deadline: Instant) -> bool {
        let has = |bytes: &[u8]| {
            bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        self.wait(deadline, |state| {
            if has(&state.bytes) {
                Some(true)
            } else {
                state.ended.then_some(false)
            }
        })
        .unwrap_or(false)
    }

    /// Waits for a whole line with `text` in it; none if the log ended without one or `deadline`
    /// passed.
    pub fn wait_for_line(&self, text: &str, deadline: Instant) -> Option<String> {
        let mut cursor = 0;
        loop {
            match self.next_line(&mut cursor, deadline) {
                Next::Line(line) if line.contains(text) => return Some(line),
                Next::Line(_) => {}
                Next::End | Next::Late => return None,
            }
        }
    }

    /// Waits for the end; false if `deadline` passed.
    pub fn wait_for_end(&self, deadline: Instant) -> bool {
        self.wait(deadline, |state| state.ended.then_some(()))
            .is_some()
    }

    /// Whether the machine is gone.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// The line that starts at byte `cursor`, which moves past it.
    pub fn next_line(&self, cursor: &mut usize, deadline: Instant) -> Next {
        let from = *cursor;
        let found = self.wait(deadline, |state| {
            let rest = state.bytes.get(from..).unwrap_or_default();
            match rest.iter().position(|byte| *byte == b'\n') {
                Some(end) => Some(Some((shown(rest.get(..end).unwrap_or_default()), end + 1))),
                None if state.ended && !rest.is_empty() => Some(Some((shown(rest), rest.len()))),
                None => state.ended.then_some(None),
            }
        });
        match found {
            Some(Some((line, length))) => {
                *cursor += length;
                Next::Line(line)
            }
            Some(None) => Next::End,
            None => Next::Late,
        }
    }

    /// All of it, fit to be shown.
    pub fn text(&self) -> String {
        let state = self.lock();
        state
            .bytes
            .split(|byte| *byte == b'\n')
            .map(shown)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The last `count` lines that are not empty.
    pub fn tail(&self, count: usize) -> String {
        let text = self.text();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        lines
            .get(lines.len().saturating_sub(count)..)
            .unwrap_or_default()
            .join("\n")
    }
}

/// The line without what would move the cursor or change colours: guests write what they like.
pub fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    console::strip_ansi_codes(&text)
        .chars()
        .filter(|c| *c == '\t' || !c.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(1)
    }

    #[test]
    fn lines_come_one_by_one_and_the_last_needs_no_newline() {
        let log = Log::default();
        log.fill(&b"one\r\n\x1b[31mtwo\x1b[0m\nthree"[..]);
        let mut cursor = 0;
        let mut next = || log.next_line(&mut cursor, soon());
        assert_eq!(next(), Next::Line("one".into()));
        assert_eq!(next(), Next::Line("two".into()));
        assert_eq!(next(), Next::Line("three".into()));
        assert_eq!(next(), Next::End);
    }

    #[test]
    fn a_wait_ends_with_the_log() {
        let log = Log::default();
        let far = Instant::now() + Duration::from_secs(3600);
        log.fill(&b"booting\n"[..]);
        assert!(log.wait_for("boot", far));
        assert!(!log.wait_for("prompt", far));
        assert!(log.wait_for_end(far));
    }

    #[test]
    fn a_wait_for_a_line_gives_it_once_it_is_whole() {
        let log = Log::default();
        log.fill(&b"a wait\nto be seen\nhalf"[..]);
        assert_eq!(log.wait_for_line("be", soon()), Some("to be seen".into()));
        assert_eq!(log.wait_for_line("quarter", soon()), None);
        let unfinished = Log::default();
        unfinished.lock().bytes.extend_from_slice(b"half");
        assert_eq!(unfinished.wait_for_line("half", soon()), None);
    }

    #[test]
    fn a_wait_on_a_silent_machine_ends_at_the_deadline() {
        let log = Log::default();
        assert!(!log.wait_for("x", soon()));
        assert_eq!(log.next_line(&mut 0, soon()), Next::Late);
    }

    #[test]
    fn the_tail_is_the_last_lines_that_say_something() {
        let log = Log::default();
        log.fill(&b"a\nb\n\n\nc\n\n"[..]);
        assert_eq!(log.tail(2), "b\nc");
        assert_eq!(log.tail(9), "a\nb\nc");
    }
}
