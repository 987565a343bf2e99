//! Where running hosts keep their sockets.
//!
//! Each host has a directory of its name under `$XDG_RUNTIME_DIR/xenolith`, or `/tmp/xenolith-UID`
//! where that variable is not set, with `control.sock` in it. Whoever runs the host holds a lock on
//! the file `lock` there, so that two hosts cannot take one name and what a killed one left behind
//! can be told from what is in use.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::string::{String, ToString};
use std::vec::Vec;

const SOCKET: &str = "control.sock";
const LOCK: &str = "lock";
/// The longest name of a host in bytes.
pub const MAX_NAME: usize = 48;
/// What fits `sun_path` with its terminating zero.
const MAX_SOCKET_PATH: usize = 107;

/// Why a host was not found, or not set up. Each text is one line, fit to be shown to the user.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// No host runs at all.
    #[error("no host is running; `cargo xtask run` starts one")]
    NoneRunning,
    /// Several run and none was named.
    #[error("several hosts are running ({}); choose one by --host", .0.join(", "))]
    Several(Vec<String>),
    /// That host does not run.
    #[error("host {0:?} is not running")]
    NotRunning(String),
    /// A host of that name runs already.
    #[error("host {0:?} is running already")]
    InUse(String),
    /// The name is none for a host.
    #[error(
        "{0:?} is no name for a host: letters, digits, '-', '_' and '.' are allowed, {MAX_NAME} at most"
    )]
    BadName(String),
    /// The directory belongs to somebody else, or others may write to it.
    #[error("{} is not a directory of yours alone", .0.display())]
    NotOurs(PathBuf),
    /// The directory's path leaves no room for the name of a socket.
    #[error("the path {} is too long for a socket", .0.display())]
    PathTooLong(PathBuf),
    /// The system's error.
    #[error("{}: {error}", path.display())]
    Io {
        /// What it happened to.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
}

/// A running host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The socket that xl connects to.
    pub socket: PathBuf,
}

/// The directory that has the hosts' directories.
#[derive(Clone, Debug)]
pub struct Hosts {
    base: PathBuf,
}

impl Hosts {
    /// Those of the user.
    pub fn of_user() -> Hosts {
        let runtime =
            std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| Path::new(dir).is_absolute());
        let base = match runtime {
            Some(dir) => Path::new(&dir).join("xenolith"),
            None => {
                let mut name = OsString::from("/tmp/xenolith-");
                name.push(rustix::process::getuid().as_raw().to_string());
                PathBuf::from(name)
            }
        };
        Hosts::at(base)
    }

    /// Those under another directory.
    pub fn at(base: impl Into<PathBuf>) -> Hosts {
        Hosts { base: base.into() }
    }

    /// The hosts that run, by name.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn running(&self) -> Result<Vec<Host>, HostsError> {
        let entries = match fs::read_dir(&self.base) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error(&self.base, error)),
        };
        self.check_ours()?;
        let mut hosts = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| io_error(&self.base, error))?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let host = Host {
                name,
                socket: entry.path().join(SOCKET),
            };
            if host.answers() {
                hosts.push(host);
            }
        }
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(hosts)
    }

    /// The host of that name, or the only one. A name with a slash in it is the path of a socket.
    ///
    /// # Errors
    /// When there is none, or no name and more than one.
    pub fn find(&self, name: Option<&str>) -> Result<Host, HostsError> {
        let Some(name) = name else {
            let mut hosts = self.running()?;
            return match hosts.pop() {
                Some(host) if hosts.is_empty() => Ok(host),
                Some(host) => {
                    hosts.push(host);
                    Err(HostsError::Several(
                        hosts.into_iter().map(|host| host.name).collect(),
                    ))
                }
                None => Err(HostsError::NoneRunning),
            };
        };
        let socket = if name.contains('/') {
            PathBuf::from(name)
        } else {
            check_name(name)?;
            if self.base.exists() {
                self.check_ours()?;
            }
            self.base.join(name).join(SOCKET)
        };
        let host = Host {
            name: name.into(),
            socket,
        };
        if host.answers() {
            Ok(host)
        } else {
            Err(HostsError::NotRunning(name.into()))
        }
    }

    /// Takes a name for a host that is about to start. What a dead host of that name left is
    /// cleared away.
    ///
    /// # Errors
    /// When the name is in use, or no name; when the directory cannot be made.
    pub fn claim(&self, name: &str) -> Result<HostDir, HostsError> {
        check_name(name)?;
        let path = self.base.join(name);
        if path.join(SOCKET).as_os_str().len() > MAX_SOCKET_PATH {
            return Err(HostsError::PathTooLong(path));
        }
        private_directory(&self.base)?;
        self.check_ours()?;
        // Between opening the lock and locking it, the one who had it may have removed it with the
        // whole directory; then a third party could hold a lock on a new file of that name.
        loop {
            private_directory(&path)?;
            let lock_path = path.join(LOCK);
            let lock = match File::create(&lock_path) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io_error(&lock_path, error)),
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(HostsError::InUse(name.into())),
                Err(TryLockError::Error(error)) => return Err(io_error(&lock_path, error)),
            }
            let ours = lock
                .metadata()
                .map_err(|error| io_error(&lock_path, error))?;
            let there = fs::metadata(&lock_path);
            if !there.is_ok_and(|there| there.ino() == ours.ino() && there.dev() == ours.dev()) {
                continue;
            }
            let dir = HostDir {
                name: name.into(),
                path,
                _lock: lock,
            };
            dir.clear();
            return Ok(dir);
        }
    }

    /// The directory must be the user's alone: who may write to it could put a socket there and get
    /// to see what xl sends.
    fn check_ours(&self) -> Result<(), HostsError> {
        let found =
            fs::symlink_metadata(&self.base).map_err(|error| io_error(&self.base, error))?;
        let ours = found.is_dir()
            && found.uid() == rustix::process::getuid().as_raw()
            && found.mode() & 0o022 == 0;
        if ours {
            Ok(())
        } else {
            Err(HostsError::NotOurs(self.base.clone()))
        }
    }
}

impl Host {
    /// Whether somebody listens on its socket.
    fn answers(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }
}

/// The directory of a host that this process runs. It is removed when this is dropped.
#[derive(Debug)]
pub struct HostDir {
    name: String,
    path: PathBuf,
    _lock: File,
}

impl HostDir {
    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory, for further files and sockets of the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where [`crate::mux::serve`] should listen.
    pub fn control_socket(&self) -> PathBuf {
        self.path.join(SOCKET)
    }

    /// Removes all but the lock.
    fn clear(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name() != LOCK {
                // What cannot be removed is met by whoever needs the name, with an error that says
                // so.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Drop for HostDir {
    fn drop(&mut self) {
        self.clear();
        let _ = fs::remove_file(self.path.join(LOCK));
        let _ = fs::remove_dir(&self.path);
    }
}

fn private_directory(path: &Path) -> Result<(), HostsError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error(path, error)),
        _ => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), HostsError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let good = !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with('.')
        && name.bytes().all(allowed);
    if good {
        Ok(())
    } else {
        Err(HostsError::BadName(name.into()))
    }
}

fn io_error(path: &Path, error: io::Error) -> HostsError {
    HostsError::Io {
        path: path.into(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn hosts() -> (tempfile::TempDir, Hosts) {
        let dir = tempfile::tempdir().unwrap();
        let hosts = Hosts::at(dir.path().join("xenolith"));
        (dir, hosts)
    }

    #[test]
    fn without_hosts_none_is_found() {
        let (_dir, hosts) = hosts();
        assert_eq!(hosts.running().unwrap(), []);
        assert!(matches!(hosts.find(None), Err(HostsError::NoneRunning)));
        assert!(matches!(
            hosts.find(Some("a")),
            Err(HostsError::NotRunning(_))
        ));
    }

    #[test]
    fn the_only_host_is_found_without_a_name_and_two_need_one() {
        let (_dir, hosts) = hosts();
        let first = hosts.claim("first").unwrap();
        let _listener = UnixListener::bind(first.control_socket()).unwrap();
        assert_eq!(hosts.find(None).unwrap().name, "first");
        let second = hosts.claim("second").unwrap();
        let _second = UnixListener::bind(second.control_socket()).unwrap();
        let several = hosts.find(None).unwrap_err().to_string();
        assert_eq!(
            several,
            "several hosts are running (first, second); choose one by --host"
        );
        assert_eq!(
            hosts.find(Some("second")).unwrap().socket,
            second.control_socket()
        );
    }

    #[test]
    fn a_name_in_use_is_refused_and_free_after_the_host_is_gone() {
        let (_dir, hosts) = hosts();
        let first = hosts.claim("one").unwrap();
        assert!(matches!(hosts.claim("one"), Err(HostsError::InUse(_))));
        let path = first.path().to_path_buf();
        drop(first);
        assert!(!path.exists());
        hosts.claim("one").unwrap();
    }

    #[test]
    fn what_a_killed_host_left_is_not_running_and_gives_way() {
        let (_dir, hosts) = hosts();
        let path = hosts.base.join("one");
        private_directory(&hosts.base).unwrap();
        private_directory(&path).unwrap();
        drop(UnixListener::bind(path.join(SOCKET)).unwrap());
        fs::write(path.join(LOCK), "").unwrap();
        fs::write(path.join("left"), "").unwrap();
        assert_eq!(hosts.running().unwrap(), []);
        assert!(matches!(
            hosts.find(Some("one")),
            Err(HostsError::NotRunning(_))
        ));
        let dir = hosts.claim("one").unwrap();
        assert!(!path.join("left").exists());
        UnixListener::bind(dir.control_socket()).unwrap();
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let (_dir, hosts) = hosts();
        for name in ["", "..", ".", "a/b", "a b", "\n", &"x".repeat(MAX_NAME + 1)] {
            assert!(
                matches!(hosts.claim(name), Err(HostsError::BadName(_))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let (_dir, hosts) = hosts();
        fs::create_dir(&hosts.base).unwrap();
        fs::set_permissions(&hosts.base, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(hosts.claim("one"), Err(HostsError::NotOurs(_))));
        assert!(matches!(hosts.running(), Err(HostsError::NotOurs(_))));
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_an_error() {
        let (dir, _) = hosts();
        let hosts = Hosts::at(dir.path().join("d".repeat(100)));
        assert!(matches!(
            hosts.claim("one"),
            Err(HostsError::PathTooLong(_))
        ));
    }
}
