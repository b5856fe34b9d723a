//! Trees that `COPY` takes files from and looks for its destination in: a context on the host, or an
//! image's root file system.

use std::collections::BTreeMap;
use std::io::{self, Read};

use globset::GlobBuilder;

/// How many symbolic links a path may lead through, as in Linux.
const MAX_LINKS: usize = 40;

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    /// Its size in bytes.
    File(u64),
    /// Its target.
    Symlink(String),
    /// A device, a pipe or a socket, which isn't copied.
    Other,
}

/// What's known of a file besides its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) kind: Kind,
    /// Permission bits, set-user-ID and the like among them.
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Seconds since 1970.
    pub(super) mtime: u64,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
}

/// A tree. Paths are relative to its root, without `.`, `..` and a slash at either end; the root is
/// the empty path. No path leads out of it, whatever links are in it.
pub(super) trait Tree {
    /// Describes a file without following a link; `None` if there's none.
    fn meta(&self, path: &str) -> io::Result<Option<Meta>>;

    /// Lists a directory's names in order.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// Opens a file.
    fn open(&self, path: &str) -> io::Result<Box<dyn Read + '_>>;
}

/// Joins two paths of a tree.
pub(super) fn join(parent: &str, name: &str) -> String {
    match parent {
        "" => name.to_owned(),
        parent => format!("{parent}/{name}"),
    }
}

/// The last part of a path.
pub(super) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Follows all links in `path`, as if the tree's root were `/`. What isn't there stays as it is.
///
/// # Errors
/// Too many links, or the tree can't be read.
pub(super) fn resolve(tree: &dyn Tree, path: &str) -> io::Result<String> {
    let mut left: Vec<String> = parts(path).rev().map(str::to_owned).collect();
    let mut resolved: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        resolved.push(part);
        let Some(Meta { kind: Kind::Symlink(target), .. }) = tree.meta(&resolved.join("/"))? else {
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(io::Error::other(format!("too many links on the way to /{path}")));
        }
        resolved.pop();
        if target.starts_with('/') {
            resolved.clear();
        }
        left.extend(parts(&target).rev().map(str::to_owned));
    }
    Ok(resolved.join("/"))
}

fn parts(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

/// Finds the paths that a pattern (`*`, `?`, `[…]`, none of which matches a slash) names, in order.
///
/// # Errors
/// The pattern is none, or the tree can't be read.
pub(super) fn matches(tree: &dyn Tree, pattern: &str) -> io::Result<Vec<String>> {
    let pattern = super::ignore::clean(pattern);
    let mut found = vec![String::new()];
    for part in parts(&pattern) {
        let mut next = Vec::new();
        if !part.contains(['*', '?', '[', '\\']) {
            for parent in found {
                let path = join(&parent, part);
                // A link on the way, as `current/file`, leads on within the tree.
                let parent = resolve(tree, &parent)?;
                if tree.meta(&join(&parent, part))?.is_some() {
                    next.push(path);
                }
            }
        } else {
            let glob = GlobBuilder::new(part).literal_separator(true).build();
            let glob = glob.map_err(io::Error::other)?.compile_matcher();
            for parent in found {
                let resolved = resolve(tree, &parent)?;
                let is_directory =
                    tree.meta(&resolved)?.is_some_and(|meta| meta.kind == Kind::Directory);
                if is_directory {
                    let names = tree.list(&resolved)?;
                    let matching = names.into_iter().filter(|name| glob.is_match(name));
                    next.extend(matching.map(|name| join(&parent, &name)));
                }
            }
        }
        found = next;
    }
    Ok(found)
}
