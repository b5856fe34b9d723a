//! Paths of an archive's entries: checked, split into components, and told apart by what their
//! last component means.

use super::EntryError;
use crate::limits::{LimitError, Limits};
use crate::ondisk::NAME_MAX;

use super::AddError;

/// What marks a whiteout (OCI image specification, "Whiteouts").
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// What marks AUFS's own files, which are none of the layer's.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";

/// What an entry's path means.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Target<'a> {
    Root,
    File {
        parents: Vec<&'a [u8]>,
        name: &'a [u8],
    },
    /// Lower layers' `name` is hidden.
    Whiteout {
        parents: Vec<&'a [u8]>,
        name: &'a [u8],
    },
    /// All that lower layers have in this directory is hidden.
    Opaque {
        directory: Vec<&'a [u8]>,
    },
    /// AUFS's own.
    Ignored,
}

/// Parses an entry's path. Absolute paths are taken as relative to the root, as Docker does it.
pub(super) fn parse<'a>(path: &'a [u8], limits: &Limits) -> Result<Target<'a>, AddError> {
    let mut parents = components(path, limits, EntryError::ParentComponent)?;
    let Some(name) = parents.pop() else { return Ok(Target::Root) };
    let is_aufs = |component: &[u8]| component.starts_with(AUFS_PREFIX);
    if parents.iter().any(|component| is_aufs(component)) {
        return Ok(Target::Ignored);
    }
    if parents.iter().any(|component| component.starts_with(WHITEOUT_PREFIX)) {
        return Err(EntryError::Whiteout.into());
    }
    if name == OPAQUE_NAME {
        return Ok(Target::Opaque { directory: parents });
    }
    if is_aufs(name) {
        return Ok(Target::Ignored);
    }
    match name.strip_prefix(WHITEOUT_PREFIX) {
        Some(b"" | b"." | b"..") => Err(EntryError::Whiteout.into()),
        Some(name) => Ok(Target::Whiteout { parents, name }),
        None => Ok(Target::File { parents, name }),
    }
}

/// Parses a hard link's target, which is a path from the layer's root too.
pub(super) fn parse_link<'a>(path: &'a [u8], limits: &Limits) -> Result<Vec<&'a [u8]>, AddError> {
    components(path, limits, EntryError::LinkLeavesRoot)
}

fn components<'a>(
    path: &'a [u8],
    limits: &Limits,
    parent_error: EntryError,
) -> Result<Vec<&'a [u8]>, AddError> {
    if path.contains(&0) {
        return Err(EntryError::Nul.into());
    }
    if path.len() > limits.path_bytes {
        return Err(LimitError::PathBytes(limits.path_bytes).into());
    }
    let is_some = |component: &&[u8]| !component.is_empty() && *component != b".";
    let components: Vec<&[u8]> = path.split(|&byte| byte == b'/').filter(is_some).collect();
    if components.iter().any(|component| *component == b"..") {
        return Err(parent_error.into());
    }
    if components.iter().any(|component| component.len() > NAME_MAX) {
        return Err(EntryError::NameLength.into());
    }
    if components.len() > limits.path_depth {
        return Err(LimitError::PathDepth(limits.path_depth).into());
    }
    Ok(components)
}
