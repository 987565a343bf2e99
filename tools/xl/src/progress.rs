//! A bar on a terminal, for what takes long.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What takes longer shows its progress.
const SHORT: Duration = Duration::from_millis(300);

/// The bar, on standard error if that is a terminal; gone when it is dropped.
pub struct Progress {
    bar: ProgressBar,
    start: Instant,
    quiet: bool,
}

impl Progress {
    /// A bar for so many bytes, with what is done to them; none if it is to be quiet.
    pub fn new(what: String, size: u64, quiet: bool) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::hidden());
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_message(what);
        Progress {
            bar,
            start: Instant::now(),
            quiet,
        }
    }

    /// So many bytes are done.
    pub fn advance(&mut self, position: u64) {
        if self.bar.is_hidden() && !self.quiet && self.start.elapsed() > SHORT {
            // Hidden all the same if that is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.quiet = self.bar.is_hidden();
        }
        self.bar.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
