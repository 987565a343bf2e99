//! A part of the store as `xenstore-ls` shows it.

use std::fmt::Write;
use std::io;

use hypercall_abi::errno::Errno;

use super::connection::Store;
use super::{refused, value};

/// What is put around a value, when it is cut, too.
const AROUND: usize = " = \"...\"".len();
/// Where permissions begin if the value leaves room.
const PERMISSIONS_AT: usize = 60;
/// Columns where there is no terminal.
const COLUMNS: usize = 80;

/// How it is shown.
pub struct Style {
    /// Whole paths.
    flat: bool,
    permissions: bool,
    columns: usize,
}

impl Style {
    /// As the options say, and as wide as the terminal is.
    pub fn new(flat: bool, permissions: bool) -> Style {
        let terminal = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let columns = terminal.map_or(COLUMNS, |size| usize::from(size.ws_col).saturating_sub(2));
        Style {
            flat,
            permissions,
            columns: if flat { usize::MAX } else { columns },
        }
    }

    fn line(&self, path: &str, name: &str, depth: usize, value: &[u8], out: &mut String) {
        let begin = out.len();
        // Writing to a string does not fail.
        let _ = if self.flat {
            write!(out, "{path}")
        } else {
            let room = self.columns.saturating_sub(AROUND + depth);
            write!(out, "{:depth$}{name:.room$}", "")
        };
        let used = if self.flat { 0 } else { out.len() - begin };
        let text = value::show(value);
        if used + value.len() + AROUND > self.columns {
            let room = self.columns.saturating_sub(AROUND + used);
            let _ = write!(out, " = \"{text:.room$}\\...\"");
            return;
        }
        let _ = write!(out, " = \"{text}\"");
        if self.permissions {
            let end = if self.flat {
                0
            } else {
                PERMISSIONS_AT.min(self.columns)
            };
            out.push(' ');
            for column in out.len() - begin..end {
                out.push(if column % 2 == 1 { '.' } else { ' ' });
            }
        }
    }
}

/// Shows what is below a node.
///
/// # Errors
/// When it cannot be listed. What goes away meanwhile is left out.
pub fn show(
    store: &mut Store<'_>,
    path: &str,
    style: &Style,
    out: &mut String,
) -> anyhow::Result<()> {
    let names = store.directory(path)?;
    let names = names.map_err(|error| refused("list", path, error))?;
    let mut next: Vec<(String, String, usize)> = Vec::new();
    let add = |next: &mut Vec<_>, path: &str, names: Vec<String>, depth| {
        for name in names.into_iter().rev() {
            next.push((join(path, &name), name, depth));
        }
    };
    add(&mut next, path, names, 0);
    while let Some((path, name, depth)) = next.pop() {
        let value = match store.read(&path)? {
            Ok(value) => value,
            Err(Errno::ENOENT) => continue,
            Err(error) => return Err(refused("read", &path, error)),
        };
        style.line(&path, &name, depth, &value, out);
        if style.permissions
            && let Ok(permissions) = store.permissions(&path)?
        {
            let _ = write!(out, "  ({})", permissions.join(","));
        }
        out.push('\n');
        if let Ok(names) = store.directory(&path)? {
            add(&mut next, &path, names, depth + 1);
        }
    }
    Ok(())
}

/// The path of a node's child.
pub fn join(path: &str, name: &str) -> String {
    let path = path.strip_suffix('/').unwrap_or(path);
    format!("{path}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(style: &Style, depth: usize, value: &str) -> String {
        let mut out = String::new();
        style.line("/a/name", "name", depth, value.as_bytes(), &mut out);
        out
    }

    fn style(columns: usize, permissions: bool) -> Style {
        Style {
            flat: false,
            permissions,
            columns,
        }
    }

    #[test]
    fn values_are_cut_where_the_terminal_ends() {
        assert_eq!(line(&style(80, false), 2, "value"), "  name = \"value\"");
        let long = "v".repeat(90);
        let cut = line(&style(40, false), 1, &long);
        assert_eq!(cut, format!(" name = \"{}\\...\"", "v".repeat(27)));
    }

    #[test]
    fn permissions_are_in_a_column() {
        let short = line(&style(80, true), 0, "1");
        assert_eq!(short.len(), PERMISSIONS_AT);
        assert!(short.starts_with("name = \"1\" . . ."), "{short}");
    }

    #[test]
    fn a_flat_list_has_whole_paths_and_values() {
        let flat = Style {
            flat: true,
            permissions: true,
            columns: usize::MAX,
        };
        let long = "v".repeat(200);
        assert_eq!(line(&flat, 3, &long), format!("/a/name = \"{long}\" "));
    }

    #[test]
    fn the_children_of_the_root_have_one_slash() {
        assert_eq!(join("/", "vm"), "/vm");
        assert_eq!(join("/vm", "x"), "/vm/x");
    }
}
