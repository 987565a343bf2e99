//! Paths: `/`-separated names of letters, digits and `-_@`.

use alloc::borrow::Borrow;
use alloc::format;
use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;

use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::{XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX};
use hypercall_abi::types::Domid;

/// The path of a node, from the root on: it begins with a `/`, ends with none unless it is the
/// root, has no empty names, no characters but those allowed, and at most
/// [`XENSTORE_ABS_PATH_MAX`] bytes.
///
/// Paths are ordered as their bytes are. All that are below one path are neighbours in that order,
/// and a path comes before what is below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Arc<str>);

impl Path {
    /// The root.
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Where relative paths of a domain start.
    pub fn of_domain(domain: Domid) -> Self {
        Self(format!("/local/domain/{domain}").into())
    }

    /// The path that a domain means by `text`, which is relative unless it begins with a `/`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is none. What begins with an `@` is an event's name.
    pub fn resolve(text: &[u8], domain: Domid) -> Result<Self, Errno> {
        let text = core::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let path = if text.starts_with('/') {
            Self(text.into())
        } else if text.len() <= XENSTORE_REL_PATH_MAX && !text.starts_with('@') {
            Self(format!("{}/{text}", Self::of_domain(domain)).into())
        } else {
            return Err(Errno::EINVAL);
        };
        if is_valid(&path) {
            Ok(path)
        } else {
            Err(Errno::EINVAL)
        }
    }

    /// The path of a node that is in a tree, or above a path.
    pub(crate) fn of_node(path: &str) -> Self {
        Self(path.into())
    }
}

fn is_valid(path: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(&byte);
    path.len() <= XENSTORE_ABS_PATH_MAX
        && path.bytes().all(allowed)
        && (path == "/" || (!path.ends_with('/') && !path.contains("//")))
}

impl Deref for Path {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Path {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path one name shorter; none for the root.
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path.len() == 1 => None,
        0 => Some("/"),
        end => Some(&path[..end]),
    }
}

/// The path itself, its parent, and so on up to the root.
pub fn and_above(path: &str) -> impl Iterator<Item = &str> {
    core::iter::successors(Some(path), |path| parent(path))
}

/// How many names `path` is below `top`, 0 for `top` itself; none if it is elsewhere.
pub fn depth_below(path: &str, top: &str) -> Option<usize> {
    let rest = path.strip_prefix(if top == "/" { "" } else { top })?;
    if rest.is_empty() || rest == "/" {
        return Some(0);
    }
    rest.starts_with('/')
        .then(|| rest.bytes().filter(|byte| *byte == b'/').count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    fn resolve(text: &str) -> Result<Path, Errno> {
        Path::resolve(text.as_bytes(), Domid(7))
    }

    #[test]
    fn relative_paths_start_at_the_domains_node() {
        assert_eq!(&*resolve("a/b").unwrap(), "/local/domain/7/a/b");
        assert_eq!(&*resolve("/a/b").unwrap(), "/a/b");
        assert_eq!(&*resolve("/").unwrap(), "/");
        assert_eq!(&*resolve("/Az09-_@/x").unwrap(), "/Az09-_@/x");
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for wrong in [
            "", "//", "/a/", "/a//b", "a/", "/a b", "/a\u{e4}", "/a.b", "/a+", "/~",
        ] {
            assert_eq!(resolve(wrong), Err(Errno::EINVAL), "{wrong}");
        }
        assert_eq!(Path::resolve(b"/\xff", Domid(0)), Err(Errno::EINVAL));
    }

    #[test]
    fn lengths_are_limited() {
        let of = |length: usize| "a".repeat(length);
        assert!(resolve(&of(XENSTORE_REL_PATH_MAX)).is_ok());
        assert!(resolve(&of(XENSTORE_REL_PATH_MAX + 1)).is_err());
        assert!(resolve(&("/".to_string() + &of(XENSTORE_ABS_PATH_MAX - 1))).is_ok());
        assert!(resolve(&("/".to_string() + &of(XENSTORE_ABS_PATH_MAX))).is_err());
    }

    #[test]
    fn above_a_path_are_its_parents() {
        let above: Vec<_> = and_above("/a/bc/d").collect();
        assert_eq!(above, ["/a/bc/d", "/a/bc", "/a", "/"]);
        assert_eq!(and_above("/").count(), 1);
    }

    #[test]
    fn depth_counts_names() {
        assert_eq!(depth_below("/a/b/c", "/a"), Some(2));
        assert_eq!(depth_below("/a/b/c", "/"), Some(3));
        assert_eq!(depth_below("/a", "/a"), Some(0));
        assert_eq!(depth_below("/", "/"), Some(0));
        assert_eq!(depth_below("/ab", "/a"), None);
        assert_eq!(depth_below("/", "/a"), None);
    }
}
