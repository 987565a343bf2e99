//! QEMU's monitor (QMP): lines of JSON on a socket.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the monitor.
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the monitor's socket.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("cannot reach QEMU's monitor")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Self {
            stream: BufReader::new(stream),
        };
        // It introduces itself.
        monitor.message()?;
        monitor.execute(&json!({"execute": "qmp_capabilities"}))?;
        Ok(monitor)
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        let count = self.stream.read_line(&mut line);
        if count.context("QEMU's monitor does not answer")? == 0 {
            bail!("QEMU's monitor has hung up");
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn execute(&mut self, command: &Value) -> Result<Value> {
        let stream = self.stream.get_mut();
        writeln!(stream, "{command}")?;
        loop {
            let message = self.message()?;
            if let Some(value) = message.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = message.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            // Events are of no interest.
        }
    }

    /// A command of the monitor for people; what it prints, which is nothing if all is well.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn human(&mut self, line: &str) -> Result<String> {
        let answer = self.execute(&json!({
            "execute": "human-monitor-command",
            "arguments": {"command-line": line},
        }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }
}
