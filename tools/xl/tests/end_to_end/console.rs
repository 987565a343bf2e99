//! Consoles and the prompt, with pipes and with a terminal.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::bench::{Bench, eventually};

const PATIENCE: Duration = Duration::from_secs(20);

/// xl on a terminal.
struct Terminal {
    child: Child,
    keys: File,
    screen: Receiver<Vec<u8>>,
    shown: String,
    /// The other end, to see its modes.
    line: File,
}

impl Terminal {
    fn new(bench: &Bench, words: &[&str]) -> Terminal {
        Terminal::run(bench.command(words))
    }

    fn run(mut command: Command) -> Terminal {
        let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&pty).unwrap();
        unlockpt(&pty).unwrap();
        let name = ptsname(&pty, Vec::new()).unwrap().into_string().unwrap();
        let line = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name)
            .unwrap();
        let stdio = || Stdio::from(line.try_clone().unwrap());
        let child = command
            .env("TERM", "xterm")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let keys = File::from(pty);
        let mut output = keys.try_clone().unwrap();
        let (sender, screen) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal {
            child,
            keys,
            screen,
            shown: String::new(),
            line,
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    /// Waits until the text is shown, and forgets all up to it.
    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{text:?} did not come: {:?}", self.shown),
            }
        }
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.line)
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHO)
    }

    fn end(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap()
    }
}

#[test]
fn a_console_shows_what_was_printed_before_and_then_lives() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("hello", "")]);
    let mut terminal = Terminal::new(&bench, &["console", "hello"]);
    terminal.wait_for("Hello from hello\r\n");
    assert!(!terminal.echoes());
    terminal.press(b"typed\x03");
    terminal.wait_for("typed\x03");
    terminal.press(b"\x1d");
    assert!(!terminal.shown.contains("typed"));
    let line = terminal.line.try_clone().unwrap();
    assert_eq!(terminal.end(), 0);
    assert!(
        tcgetattr(&line)
            .unwrap()
            .local_modes
            .contains(LocalModes::ECHO)
    );
    assert!(bench.ok(&["list"]).contains("hello"));
}

#[test]
fn a_signal_ends_a_console_and_leaves_the_terminal_as_it_was() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("hello", "")]);
    let mut terminal = Terminal::new(&bench, &["console", "hello"]);
    terminal.wait_for("Hello");
    assert!(!terminal.echoes());
    let process = Pid::from_child(&terminal.child);
    kill_process(process, Signal::TERM).unwrap();
    let status = terminal.child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    assert!(terminal.echoes());
}

#[test]
fn an_interrupt_ends_a_command_and_not_the_prompt() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("hello", "")]);
    // As the leader of a session, which has the keys' signals sent.
    let xl = bench.command(&[]);
    let mut command = Command::new("setsid");
    command
        .arg("-c")
        .arg(xl.get_program())
        .arg("shell")
        .current_dir(bench.path());
    command.envs(
        xl.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let mut terminal = Terminal::run(command);
    terminal.wait_for("xl> ");
    terminal.press(b"create -F hello.cfg \"name='other'\"\r");
    terminal.wait_for("Parsing config");
    eventually(|| bench.xl(&["list", "other"]).code == 0);
    terminal.press(b"\x03");
    terminal.wait_for("xl> ");
    terminal.press(b"domid other\r");
    terminal.wait_for("2\r\n");
    terminal.press(b"exit\r");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_console_ends_with_its_domain() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("hello", "")]);
    let mut terminal = Terminal::new(&bench, &["console", "hello"]);
    terminal.wait_for("Hello");
    bench.ok(&["destroy", "hello"]);
    assert_eq!(terminal.end(), 0);
}

#[test]
fn create_with_a_console_misses_nothing() {
    let bench = Bench::new();
    let mut terminal = Terminal::new(&bench, &["create", "-c", &bench.config("hello", "")]);
    terminal.wait_for("Hello from hello\r\n");
    terminal.press(b"halt\r");
    terminal.wait_for("Halted.");
    assert_eq!(terminal.end(), 0);
    assert!(!bench.ok(&["list"]).contains("hello"));
}

#[test]
fn a_paused_domain_stays_paused_with_a_console() {
    let bench = Bench::new();
    let mut terminal = Terminal::new(&bench, &["create", "-pc", &bench.config("hello", "")]);
    eventually(|| bench.xl(&["list", "hello"]).out.contains("--p---"));
    bench.ok(&["unpause", "hello"]);
    terminal.wait_for("Hello from hello");
    terminal.press(b"\x1d");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn a_console_works_on_pipes() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("hello", "")]);
    let run = bench.xl_with_input(&["console", "hello"], b"abc\n\x1dnot this");
    assert_eq!(
        (run.code, run.out.as_str()),
        (0, "Hello from hello\r\nabc\n")
    );
    let run = bench.xl_with_input(&["console", "hello"], b"halt\n");
    assert!(run.out.ends_with("halt\n\r\nHalted.\r\n"), "{run:?}");
    assert_eq!(run.code, 0);
}

#[test]
fn output_goes_on_when_a_script_has_ended() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("hello", "")]);
    let mut child = bench
        .command(&["console", "hello"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "Hello from hello");
    let run = bench.xl_with_input(&["console", "hello"], b"later\n\x1d");
    assert_eq!(run.code, 0);
    assert_eq!(lines.next().unwrap().unwrap(), "later");
    bench.ok(&["destroy", "hello"]);
    assert!(child.wait().unwrap().success());
}

#[test]
fn large_input_and_output_pass_whole() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("hello", "")]);
    let text: Vec<u8> = (0..300_000u32)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    let expected = [b"Hello from hello\r\n", &*text].concat();
    let mut child = bench
        .command(&["console", "hello"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || {
        stdin.write_all(&text).unwrap();
        stdin
    });
    let mut stdout = child.stdout.take().unwrap();
    let mut output = vec![0; expected.len()];
    stdout.read_exact(&mut output).unwrap();
    assert!(output == expected);
    writer.join().unwrap().write_all(b"\x1d").unwrap();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    assert!(child.wait().unwrap().success());
}

#[test]
fn create_in_the_foreground_stays_until_the_domain_is_gone() {
    let bench = Bench::new();
    let child = bench
        .command(&["create", "-F", &bench.config("hello", "")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually(|| bench.xl(&["list", "hello"]).code == 0);
    thread::sleep(Duration::from_millis(50));
    bench.ok(&["destroy", "hello"]);
    let output = child.wait_with_output().unwrap();
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("Domain 1 has been destroyed.")
    );
}

#[test]
fn the_prompt_runs_commands_from_a_script() {
    let bench = Bench::new();
    let config = bench.config("hello", "");
    let script = format!("create -q '{config}'\n\nxl domid hello\nlist 'open\ndomid nobody\n");
    let run = bench.xl_with_input(&["shell"], script.as_bytes());
    assert!(run.out.contains("1\n"), "{run:?}");
    assert_eq!(
        run.err,
        "xl: a quote is not closed\nxl: no such domain: nobody\n"
    );
    assert_eq!(run.code, 1);
    assert_eq!(
        bench
            .xl_with_input(&["shell"], b"exit\ndestroy hello\n")
            .code,
        0
    );
    assert_eq!(bench.ok(&["domname", "1"]), "hello\n");
}

#[test]
fn the_prompt_completes_commands_and_domains_and_remembers() {
    let bench = Bench::new();
    bench.ok(&["create", &bench.config("hello", "")]);
    let mut terminal = Terminal::new(&bench, &["shell"]);
    terminal.wait_for("xl> ");
    terminal.press(b"domi\thel\t\r");
    terminal.wait_for("domid hello");
    terminal.wait_for("1\r\n");
    terminal.wait_for("xl> ");
    terminal.press(b"console hello\r");
    terminal.wait_for("Hello from hello\r\n");
    terminal.press(b"\x1d");
    terminal.wait_for("xl> ");
    terminal.press(b"\x04");
    assert_eq!(terminal.end(), 0);
    let history = bench.path().join("state/xenolith/xl_history");
    let history = std::fs::read_to_string(history).unwrap();
    assert!(
        history.contains("domid hello \nconsole hello\n"),
        "{history}"
    );
}

#[test]
fn the_prompt_says_when_the_host_is_gone() {
    let mut bench = Bench::new();
    let mut terminal = Terminal::new(&bench, &["--host", "fake", "shell"]);
    terminal.wait_for("xl> ");
    bench.kill_host();
    terminal.press(b"list\r");
    terminal.wait_for("host \"fake\" is not running");
    terminal.wait_for("xl> ");
    terminal.press(b"\x04");
    assert_eq!(terminal.end(), 1);
}
