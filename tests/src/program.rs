//! Programs under test: run to their end, or followed while they run.

use crate::{LIMIT, deadline};
use std::io::{Read, Seek, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wait_timeout::ChildExt;
use xtask::log::Log;

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// Its standard output.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }

    /// What it told beside its output.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    pub fn told(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stderr
    }

    /// What it complained about.
    ///
    /// # Panics
    /// When it succeeded.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(!self.status.success(), "{self:#?}");
        self.stderr
    }
}

/// Runs a program to its end.
///
/// # Panics
/// When it cannot be started, or runs longer than [`LIMIT`].
#[track_caller]
pub fn run(command: &mut Command) -> Ended {
    let mut stdout = tempfile::tempfile().expect("a temporary file");
    let mut stderr = tempfile::tempfile().expect("a temporary file");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().expect("a file"))
        .stderr(stderr.try_clone().expect("a file"))
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = child.wait_timeout(LIMIT).expect("the program's status");
    let read = |file: &mut std::fs::File| {
        let mut bytes = Vec::new();
        file.rewind().expect("a file");
        file.read_to_end(&mut bytes).expect("a file");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = (read(&mut stdout), read(&mut stderr));
    let Some(status) = status else {
        child.kill().expect("the program can be killed");
        child.wait().expect("the program's status");
        panic!(
            "{command:?}: no end in {} s\n{stdout}\n{stderr}",
            LIMIT.as_secs()
        );
    };
    Ended {
        status,
        stdout,
        stderr,
    }
}

/// A program that is talked to while it runs. It is killed when this is dropped.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts a program; its standard error is followed along with its standard output.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let (output, ours) = std::io::pipe().expect("a pipe");
        command
            .stdin(Stdio::piped())
            .stdout(ours.try_clone().expect("a pipe"))
            .stderr(ours);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // The command holds the pipe's other end open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let log = Arc::new(Log::default());
        let reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || log.fill(output)
        });
        Self {
            stdin: child.stdin.take(),
            child,
            log,
            reader: Some(reader),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written.
    pub fn text(&self) -> String {
        self.log.text()
    }

    /// Waits until it has written `text`.
    ///
    /// # Panics
    /// After [`LIMIT`], or when it has ended without.
    #[track_caller]
    pub fn expect(&self, text: &str) {
        let found = self.log.wait_for(text, deadline());
        assert!(found, "no {text:?} in:\n{}", self.text());
    }

    /// Waits until it has written a whole line with `text` in it.
    ///
    /// # Panics
    /// After [`LIMIT`], or when it has ended without.
    #[track_caller]
    pub fn expect_line(&self, text: &str) {
        self.expect_line_within(text, LIMIT);
    }

    /// The same for what lasts.
    ///
    /// # Panics
    /// After `limit`, or when it has ended without.
    #[track_caller]
    pub fn expect_line_within(&self, text: &str, limit: Duration) {
        let found = self.log.wait_for_line(text, Instant::now() + limit);
        assert!(
            found.is_some(),
            "no line with {text:?} in:\n{}",
            self.text()
        );
    }

    /// Types a line.
    ///
    /// # Panics
    /// When it does not read.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("its standard input is open");
        writeln!(stdin, "{line}").expect("it reads its standard input");
    }

    /// Ends its standard input.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After [`LIMIT`].
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let status = self
            .child
            .wait_timeout(LIMIT)
            .expect("the program's status");
        status.unwrap_or_else(|| panic!("no end in {} s:\n{}", LIMIT.as_secs(), self.text()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
