//! What the container has changed: its overlay's upper directory, read.
//!
//! In it, a character device 0/0 stands for what was deleted, and the attribute
//! `trusted.overlay.opaque` for a directory whose lower one is hidden.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use agent_proto::{Change, ChangeKind, ChangeWriter};

use crate::copy::{Packer, sorted};
use crate::fault::{Context, Result};

/// An overlay's directories.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overlay<'a> {
    pub(crate) upper: &'a Path,
    pub(crate) lower: &'a Path,
    /// What was made to mount on, relative to the root.
    pub(crate) made: &'a [PathBuf],
}

/// Something in the upper directory.
struct Found<'a> {
    /// Relative to the root.
    path: &'a Path,
    metadata: &'a Metadata,
    kind: ChangeKind,
    /// A directory that hides the lower one.
    opaque: bool,
}

/// Writes the list of changes.
pub(crate) fn list(overlay: Overlay<'_>, to: impl io::Write) -> Result<()> {
    let mut writer = ChangeWriter::new(to);
    let mut push = |path: &Path, kind| {
        let path = format!("/{}", path.display());
        writer.push(Change { path, kind }).map_err(io::Error::other)
    };
    overlay
        .walk(&mut |found| {
            push(found.path, found.kind)?;
            if !found.opaque {
                return Ok(());
            }
            for hidden in sorted(&overlay.lower.join(found.path))? {
                let path = found.path.join(hidden.file_name());
                if fs::symlink_metadata(overlay.upper.join(&path)).is_err() {
                    push(&path, ChangeKind::Deleted)?;
                }
            }
            Ok(())
        })
        .internal("cannot list the changes")?;
    writer.finish().internal("cannot send the changes")
}

/// Writes the changes as a layer of an image (OCI image-spec, "Whiteouts").
pub(crate) fn pack_layer(overlay: Overlay<'_>, to: impl io::Write) -> Result<()> {
    let mut packer = Packer::new(to);
    overlay
        .walk(&mut |found| {
            if found.kind == ChangeKind::Deleted {
                let Some(name) = found.path.file_name() else { return Ok(()) };
                let mut marker = std::ffi::OsString::from(".wh.");
                marker.push(name);
                return packer.add_marker(&found.path.with_file_name(marker));
            }
            packer.add_one(&overlay.upper.join(found.path), found.path, found.metadata)?;
            if found.opaque {
                packer.add_marker(&found.path.join(".wh..wh..opq"))?;
            }
            Ok(())
        })
        .and_then(|()| packer.finish())
        .internal("cannot pack the changes")
}

impl Overlay<'_> {
    /// Visits everything that changed, directories before what's in them.
    fn walk(self, visit: &mut impl FnMut(&Found<'_>) -> io::Result<()>) -> io::Result<()> {
        // With each directory, whether the lower one shows through.
        let mut left = vec![(PathBuf::new(), true)];
        while let Some((dir, lower_shows)) = left.pop() {
            let mut below = Vec::new();
            for entry in sorted(&self.upper.join(&dir))? {
                let path = dir.join(entry.file_name());
                let Ok(metadata) = entry.metadata() else { continue };
                if self.is_ours(&path) {
                    continue;
                }
                let lower = fs::symlink_metadata(self.lower.join(&path)).ok();
                let lower = lower.filter(|_| lower_shows);
                if is_whiteout(&metadata) {
                    if lower.is_some() {
                        let kind = ChangeKind::Deleted;
                        visit(&Found { path: &path, metadata: &metadata, kind, opaque: false })?;
                    }
                    continue;
                }
                let kind = if lower.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
                let was_dir = lower.is_some_and(|lower| lower.is_dir());
                let opaque = metadata.is_dir() && was_dir && is_opaque(&self.upper.join(&path));
                visit(&Found { path: &path, metadata: &metadata, kind, opaque })?;
                if metadata.is_dir() {
                    below.push((path, was_dir && !opaque));
                }
            }
            left.extend(below.into_iter().rev());
        }
        Ok(())
    }

    /// Tells whether something is there only because the agent needed it to mount on.
    fn is_ours(&self, path: &Path) -> bool {
        if self.made.iter().any(|made| path == made || path.starts_with(made)) {
            return self.holds_nothing(path);
        }
        let above = self.made.iter().any(|made| made.starts_with(path));
        above
            && sorted(&self.upper.join(path)).is_ok_and(|entries| {
                !entries.is_empty()
                    && entries.iter().all(|entry| self.is_ours(&path.join(entry.file_name())))
            })
    }

    fn holds_nothing(&self, path: &Path) -> bool {
        let upper = self.upper.join(path);
        match fs::symlink_metadata(&upper) {
            Ok(metadata) if metadata.is_dir() => sorted(&upper).is_ok_and(|entries| {
                entries.iter().all(|entry| self.holds_nothing(&path.join(entry.file_name())))
            }),
            Ok(metadata) => metadata.is_file() && metadata.len() == 0,
            Err(_) => true,
        }
    }
}

fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 1];
    let length = rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value[..]);
    length.is_ok_and(|length| length == 1) && value == *b"y"
}

#[cfg(test)]
mod tests;
