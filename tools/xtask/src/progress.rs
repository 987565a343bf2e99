//! What a person sees while a step runs: a spinner on a terminal, plain lines elsewhere.

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{BufRead, BufReader, IsTerminal};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One step of a command, from its start to the line that says how long it took.
pub struct Step {
    bar: ProgressBar,
    what: String,
    start: Instant,
}

impl Step {
    /// Starts a step; `what` is a short phrase such as "build dom0".
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {wide_msg:.dim}") {
                bar.set_style(style);
            }
            bar.set_prefix(what.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        } else {
            ProgressBar::hidden()
        };
        Self {
            bar,
            what,
            start: Instant::now(),
        }
    }

    /// Shows a line above the spinner.
    pub fn line(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Says what the step is at.
    pub fn at(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }

    /// Ends the step with success.
    pub fn done(self) {
        self.bar.finish_and_clear();
        eprintln!(
            "xtask: {} ({:.1} s)",
            self.what,
            self.start.elapsed().as_secs_f64()
        );
    }

    /// Ends the step with nothing said.
    pub fn clear(self) {
        self.bar.finish_and_clear();
    }

    /// Runs a cargo command inside the step. Cargo's progress goes to the spinner; all else that
    /// it writes to standard error is shown.
    pub fn cargo(&self, command: &mut Command) -> Result<()> {
        let colour = if std::io::stderr().is_terminal() {
            "always"
        } else {
            "never"
        };
        let mut child = command
            .env("CARGO_TERM_COLOR", colour)
            .env("CARGO_TERM_PROGRESS_WHEN", "never")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run cargo")?;
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines() {
                let line = line?;
                match chatter(&line) {
                    Some(message) => self.at(message),
                    None => self.line(&line),
                }
            }
        }
        let status = child.wait()?;
        if !status.success() {
            self.bar.finish_and_clear();
            bail!("{}: cargo: {status}", self.what);
        }
        Ok(())
    }
}

/// The line without colours, if it is cargo telling how far it is.
fn chatter(line: &str) -> Option<String> {
    const VERBS: [&str; 14] = [
        "Compiling",
        "Checking",
        "Finished",
        "Fresh",
        "Updating",
        "Locking",
        "Adding",
        "Downloading",
        "Downloaded",
        "Blocking",
        "Building",
        "Dirty",
        "Running",
        "Removed",
    ];
    let plain = console::strip_ansi_codes(line);
    let first = plain.split_whitespace().next()?;
    // Cargo aligns its verbs to the right; a diagnostic's first word stands at the left margin.
    (plain.starts_with(' ') && VERBS.contains(&first)).then(|| plain.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_own_lines_are_chatter_and_diagnostics_are_not() {
        assert_eq!(
            chatter("\u{1b}[1m\u{1b}[92m   Compiling\u{1b}[0m dom0 v0.1.0").as_deref(),
            Some("Compiling dom0 v0.1.0")
        );
        assert_eq!(chatter("warning: unused variable"), None);
        assert_eq!(chatter("   --> src/lib.rs:3:4"), None);
    }
}
