//! Docker's rules: what a copy makes of its source's and its destination's paths.

use crate::errors::containers::ContainerError;

/// What's at a path, links followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// What's copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Its own name.
    pub(super) name: String,
    pub(super) is_dir: bool,
    /// Whether a directory is copied without itself.
    pub(super) is_contents: bool,
}

/// Where a copy goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// A directory, which must be there.
    pub(super) dir: String,
    /// What the source becomes in it; none if its contents go there without it.
    pub(super) name: Option<String>,
}

/// Whether a path means a directory's contents.
pub(super) fn is_contents(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// A path in a container, from its root on.
pub(super) fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// A path without what only says that it's a directory.
pub(super) fn bare(path: &str) -> &str {
    let mut bare = path;
    while let Some(shorter) = bare.strip_suffix('/').or(bare.strip_suffix("/.")) {
        bare = shorter;
    }
    match bare {
        "" if path.starts_with('/') => "/",
        bare => bare,
    }
}

/// The last part of a path, if that's a name.
pub(super) fn name(path: &str) -> Option<String> {
    let name = bare(path).rsplit('/').next()?;
    (!matches!(name, "" | "." | "..")).then(|| name.to_owned())
}

/// What holds the last part of a path.
pub(super) fn parent(path: &str) -> &str {
    match bare(path).rsplit_once('/') {
        Some(("", _)) => "/",
        Some((parent, _)) => parent,
        None => ".",
    }
}

/// Where a copy goes: `path` as it was given, `resolved` what that leads to, `there` what's there.
///
/// # Errors
/// The source can't go there.
pub(super) fn target(
    source: &Source,
    path: &str,
    resolved: &str,
    there: Option<Kind>,
) -> Result<Target, ContainerError> {
    let refused = |problem: String| Err(ContainerError::Copy(problem));
    let wants_dir = path.ends_with('/') || is_contents(path);
    if source.is_contents && !source.is_dir {
        return refused(format!("{} is no directory", source.name));
    }
    match there {
        Some(Kind::Directory) => {
            let name = (!source.is_contents).then(|| source.name.clone());
            return Ok(Target { dir: resolved.to_owned(), name });
        }
        Some(Kind::File) if source.is_dir => {
            return refused(format!("cannot copy a directory to the file {path}"));
        }
        Some(Kind::File) if wants_dir => return refused(format!("{path} is no directory")),
        None if wants_dir && !source.is_dir => {
            return refused(format!("destination directory {path} must exist"));
        }
        _ => {}
    }
    match name(resolved) {
        Some(name) => Ok(Target { dir: parent(resolved).to_owned(), name: Some(name) }),
        None => refused(format!("{path} is no name for a copy")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(is_dir: bool, is_contents: bool) -> Source {
        Source { name: "s".to_owned(), is_dir, is_contents }
    }

    fn to(dir: &str, name: Option<&str>) -> Option<(String, Option<String>)> {
        Some((dir.to_owned(), name.map(str::to_owned)))
    }

    #[test]
    fn copies_go_where_docker_puts_them() {
        let (file, dir, contents) = (source(false, false), source(true, false), source(true, true));
        let (directory, plain) = (Some(Kind::Directory), Some(Kind::File));
        for (source, path, there, expected) in [
            (&file, "/a/b", None, to("/a", Some("b"))),
            (&file, "/a/b/", None, None),
            (&file, "/a/b", plain, to("/a", Some("b"))),
            (&file, "/a/b/", plain, None),
            (&file, "/a/b", directory, to("/a/b", Some("s"))),
            (&file, "/", directory, to("/", Some("s"))),
            (&dir, "/a/b", None, to("/a", Some("b"))),
            (&dir, "/a/b/", None, to("/a", Some("b"))),
            (&dir, "/a", plain, None),
            (&dir, "/a", directory, to("/a", Some("s"))),
            (&contents, "/a/b", None, to("/a", Some("b"))),
            (&contents, "/a", plain, None),
            (&contents, "/a/", directory, to("/a", None)),
            (&file, "b", None, to(".", Some("b"))),
            (&file, "..", None, None),
        ] {
            let found = target(source, path, bare(path), there).ok();
            assert_eq!(found.map(|it| (it.dir, it.name)), expected, "{source:?} {path} {there:?}");
        }
        assert!(target(&super::Source { is_dir: false, ..contents }, "/a", "/a", None).is_err());
    }

    #[test]
    fn paths_are_taken_apart() {
        for (path, expected, holder, last) in [
            ("/a/b", "/a/b", "/a", Some("b")),
            ("/a/b/", "/a/b", "/a", Some("b")),
            ("/a/b/./", "/a/b", "/a", Some("b")),
            ("/", "/", "/", None),
            ("/.", "/", "/", None),
            ("a", "a", ".", Some("a")),
            (".", ".", ".", None),
            ("..", "..", ".", None),
            ("a/..", "a/..", "a", None),
        ] {
            assert_eq!(bare(path), expected);
            assert_eq!(parent(path), holder, "{path}");
            assert_eq!(name(path).as_deref(), last, "{path}");
        }
        assert_eq!(absolute("a"), "/a");
        assert_eq!(absolute(""), "/");
        assert!(is_contents("a/.") && is_contents(".") && !is_contents("a."));
    }
}
