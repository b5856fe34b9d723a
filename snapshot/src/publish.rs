//! Files that appear whole or not at all.
//!
//! A file is written under a hidden name beside its place, made durable, and renamed over whatever
//! was there. Readers that have the older one open or mapped keep it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::SnapshotError;
use crate::id::SnapshotId;

/// Snapshots hold all that the guest has in memory: nobody else may read them.
const MODE: u32 = 0o600;

const SUFFIX: &str = ".partial";

/// A file that isn't in its place yet. Dropped, it's gone.
///
/// The name is `.NAME.ID.partial` in the target's directory. The file is locked (`flock`) as long as
/// its writer lives: what a killed one left is removed when the next snapshot of that name begins.
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl PendingFile {
    /// Creates an empty file that will be `target`.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn create(target: &Path) -> Result<Self, SnapshotError> {
        let fail = |source| SnapshotError::io("create", target)(source);
        let name = target.file_name().ok_or_else(|| fail(ErrorKind::InvalidInput.into()))?;
        let directory = directory_of(target);
        remove_abandoned(directory, name);
        let id = SnapshotId::random().map_err(fail)?;
        let temporary = directory.join(hidden(name, &format!(".{id}{SUFFIX}")));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&temporary)
            .map_err(fail)?;
        // A file system without locks can't tell what was abandoned; nothing else hangs on it.
        let _ = file.try_lock();
        Ok(Self { file, temporary, target: target.to_owned(), published: false })
    }

    /// Returns the file to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the name that it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Returns where it is meanwhile.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Makes what was written durable. Its name is still the hidden one.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn sync(&self) -> Result<(), SnapshotError> {
        self.file.sync_all().map_err(SnapshotError::io("write", &self.target))
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; the file of that name is as it was then, unless only the directory
    /// couldn't be made durable.
    pub fn publish(mut self) -> Result<(), SnapshotError> {
        self.sync()?;
        self.rename()?;
        sync_directory(&self.target)
    }

    fn rename(&mut self) -> Result<(), SnapshotError> {
        fs::rename(&self.temporary, &self.target)
            .map_err(SnapshotError::io("replace", &self.target))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// The moments at which a killed writer leaves different files behind; for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Both files are durable under hidden names.
    Written,
    /// The memory file that had the name is kept under another one, too.
    Kept,
    /// The memory file is in place.
    Memory,
    /// The state file is in place.
    State,
    /// Everything is done.
    Done,
}

/// Publishes a memory file and the state file that belongs to it.
///
/// Two renames are two steps. In between, the new memory file would stand beside the old state; so
/// the old memory file stays reachable as [`kept`] until the new state is in place, and
/// [`memory_candidates`] finds it. Whoever is killed leaves one valid pair.
///
/// # Errors
/// [`SnapshotError::Io`]; the older snapshot is valid then.
pub fn publish_pair(memory: PendingFile, state: PendingFile) -> Result<(), SnapshotError> {
    publish_pair_until(memory, state, |_| true)
}

/// Does as [`publish_pair`], and stops, as if killed, where `go_on` says no.
fn publish_pair_until(
    mut memory: PendingFile,
    mut state: PendingFile,
    go_on: impl Fn(Step) -> bool,
) -> Result<(), SnapshotError> {
    memory.sync()?;
    state.sync()?;
    if !go_on(Step::Written) {
        return Ok(());
    }
    let kept = kept(&memory.target);
    keep(&memory.target, &kept, &state.target)?;
    sync_directory(&memory.target)?;
    if !go_on(Step::Kept) {
        return Ok(());
    }
    memory.rename()?;
    sync_directory(&memory.target)?;
    if !go_on(Step::Memory) {
        return Ok(());
    }
    state.rename()?;
    sync_directory(&state.target)?;
    if !go_on(Step::State) {
        return Ok(());
    }
    // From here on nobody needs it; one that can't be removed only takes room.
    let _ = fs::remove_file(&kept);
    Ok(())
}

/// Gives the memory file at `memory` the second name `kept`, unless what `kept` names is what the
/// state file in place belongs to: after a kill between the two renames.
fn keep(memory: &Path, kept: &Path, state: &Path) -> Result<(), SnapshotError> {
    let wanted = crate::state::read_header(state).map(|header| header.id).ok();
    let is_wanted = |path: &Path| {
        let found = crate::memory::MemoryFile::open(path).map(|file| file.id()).ok();
        wanted.is_some() && found == wanted
    };
    if !is_wanted(memory) && is_wanted(kept) {
        return Ok(());
    }
    match fs::remove_file(kept) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(SnapshotError::io("replace", kept)(error));
        }
        _ => {}
    }
    match fs::hard_link(memory, kept) {
        // Nothing to keep; or a file system without links, where the window stays open.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(UNSUPPORTED | PERMISSION)) => {
            log::warn!("{memory:?} is on a file system without links: a crash now may cost it");
            Ok(())
        }
        result => result.map_err(SnapshotError::io("keep", memory)),
    }
}

const UNSUPPORTED: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
const PERMISSION: i32 = rustix::io::Errno::PERM.raw_os_error();

/// Returns where the memory file that `memory` replaces is kept meanwhile.
pub fn kept(memory: &Path) -> PathBuf {
    let name = memory.file_name().unwrap_or_default();
    directory_of(memory).join(hidden(name, ".kept"))
}

/// Returns where the memory of a state file may be that names `memory`, the likeliest first.
pub fn memory_candidates(memory: &Path) -> [PathBuf; 2] {
    [memory.to_owned(), kept(memory)]
}

fn hidden(name: &OsStr, suffix: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    hidden
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_directory(path: &Path) -> Result<(), SnapshotError> {
    let directory = directory_of(path);
    let sync = || -> io::Result<()> { File::open(directory)?.sync_all() };
    sync().map_err(SnapshotError::io("make durable the directory", directory))
}

/// Removes what killed writers of `name` left in `directory`, as far as that can be told and done.
fn remove_abandoned(directory: &Path, name: &OsStr) {
    let prefix = hidden(name, ".");
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let found = found.as_encoded_bytes();
        let ours = found
            .strip_prefix(prefix.as_encoded_bytes())
            .and_then(|rest| rest.strip_suffix(SUFFIX.as_bytes()))
            .is_some_and(|id| id.len() == 32 && id.iter().all(u8::is_ascii_hexdigit));
        if ours && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
