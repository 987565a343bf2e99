//! The prompt: xl's commands without the word `xl`, with history and completion.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::CommandFactory;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter, Validator};

use crate::cli::Cli;
use crate::host::Connection;
use crate::{Outcome, tell};

const PROMPT: &str = "xl> ";
/// How long completion waits for the host.
const COMPLETION_PATIENCE: Duration = Duration::from_millis(500);
/// Commands whose arguments are domains.
const ON_DOMAINS: &[&str] = &[
    "config-update",
    "console",
    "destroy",
    "domid",
    "domname",
    "list",
    "mem-max",
    "mem-set",
    "pause",
    "reboot",
    "rename",
    "shutdown",
    "sysrq",
    "trigger",
    "unpause",
    "uptime",
    "vcpu-set",
];

/// Reads and runs commands until the input ends, or `exit`. Commands are for the host of that name,
/// or for the only one. Each is a process of its own, this program again, so that Ctrl-C ends a
/// command and not the prompt. The exit status is that of the last command.
///
/// # Errors
/// When the prompt cannot be set up.
pub fn shell(host: Option<&str>) -> Outcome {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .history_ignore_space(true)
        .max_history_size(1000)?
        .build();
    let mut editor: Editor<Prompt, DefaultHistory> = Editor::with_config(config)?;
    editor.set_helper(Some(Prompt::new(host)));
    let history = history_file();
    if let Some(file) = &history {
        // There is none the first time.
        let _ = editor.load_history(file);
    }
    // Noted and nothing else: it is meant for the command that runs.
    signal_hook::flag::register(
        signal_hook::consts::SIGINT,
        Arc::new(AtomicBool::new(false)),
    )?;
    let mut status = ExitCode::SUCCESS;
    loop {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        if line.trim().is_empty() {
            continue;
        }
        if editor.add_history_entry(&line).unwrap_or(false)
            && let Some(file) = &history
        {
            // A prompt without a history is still a prompt.
            let _ = editor.append_history(file);
        }
        let Some(words) = split(&line) else {
            tell("xl: a quote is not closed");
            status = ExitCode::FAILURE;
            continue;
        };
        match words.first().map(String::as_str) {
            None => {}
            Some("exit" | "quit") => break,
            Some("shell") => {
                tell("xl: this is the shell");
                status = ExitCode::FAILURE;
            }
            Some(_) => status = run(host, &words)?,
        }
    }
    Ok(status)
}

/// The words of a line, quoted as for a shell. None if a quote is not closed.
fn split(line: &str) -> Option<Vec<String>> {
    let mut words = shlex::split(line)?;
    // Habit types it.
    if words.first().is_some_and(|word| word == "xl") {
        words.remove(0);
    }
    Some(words)
}

fn run(host: Option<&str>, words: &[String]) -> anyhow::Result<ExitCode> {
    // Also right when the file was replaced since this process began.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("xl");
    if let Some(host) = host {
        command.args(["--host", host]);
    }
    let code = command.args(words).status()?.code();
    Ok(code
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

fn history_file() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|it| it.is_absolute())
    };
    let directory = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?
        .join("xenolith");
    std::fs::create_dir_all(&directory).ok()?;
    Some(directory.join("xl_history"))
}

/// What the editor asks for help.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Prompt {
    host: Option<String>,
    commands: Vec<String>,
    files: FilenameCompleter,
}

impl Prompt {
    fn new(host: Option<&str>) -> Prompt {
        let mut commands: Vec<String> = Cli::command()
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .filter(|name| name != "shell")
            .collect();
        commands.push("exit".into());
        commands.sort();
        Prompt {
            host: host.map(str::to_owned),
            commands,
            files: FilenameCompleter::new(),
        }
    }

    /// The names of the host's domains; none if it does not say at once.
    fn domains(&self) -> Vec<String> {
        let names = || -> anyhow::Result<Vec<String>> {
            let mut host = Connection::open_within(self.host.as_deref(), COMPLETION_PATIENCE)?;
            Ok(host
                .domains(&[])?
                .into_iter()
                .map(|domain| domain.name)
                .collect())
        };
        names().unwrap_or_default()
    }
}

impl Completer for Prompt {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = line.get(..position).unwrap_or(line);
        let start = before
            .rfind(char::is_whitespace)
            .map_or(0, |space| space + 1);
        let word = before.get(start..).unwrap_or_default();
        let mut earlier = before
            .get(..start)
            .unwrap_or_default()
            .split_whitespace()
            .peekable();
        if earlier.peek() == Some(&"xl") {
            earlier.next();
        }
        let candidates = match earlier.next() {
            None | Some("help") => matching(&self.commands, word),
            Some("create") => return self.files.complete(line, position, context),
            Some(command) if ON_DOMAINS.contains(&command) => matching(&self.domains(), word),
            Some(_) => Vec::new(),
        };
        Ok((start, candidates))
    }
}

fn matching(all: &[String], word: &str) -> Vec<Pair> {
    all.iter()
        .filter(|name| name.starts_with(word))
        .map(|name| Pair {
            display: name.clone(),
            replacement: shlex::try_quote(name).map_or_else(|_| name.clone(), Into::into) + " ",
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(line: &str) -> Vec<String> {
        let history = DefaultHistory::new();
        let (_, pairs) = Prompt::new(None)
            .complete(line, line.len(), &Context::new(&history))
            .unwrap();
        pairs.into_iter().map(|pair| pair.replacement).collect()
    }

    #[test]
    fn commands_are_completed() {
        assert_eq!(complete("cr"), ["create "]);
        assert_eq!(complete("xl un"), ["unpause "]);
        assert_eq!(complete("help do"), ["domid ", "domname "]);
        assert_eq!(complete("nothing "), [] as [&str; 0]);
    }

    #[test]
    fn files_are_completed_for_create() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("hello.cfg"), "").unwrap();
        let path = directory.path().join("hel");
        let found = complete(&format!("create {}", path.display()));
        assert!(
            found.len() == 1 && found[0].ends_with("hello.cfg"),
            "{found:?}"
        );
    }

    #[test]
    fn words_are_quoted_as_for_a_shell() {
        let words = split(r#"xl create a.cfg 'extra="a b"'"#).unwrap();
        assert_eq!(words, ["create", "a.cfg", "extra=\"a b\""]);
        assert_eq!(split("list 'open"), None);
    }
}
