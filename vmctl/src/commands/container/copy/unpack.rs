//! A container's archive, as files of the host. It's hostile: nothing of it leads out of the
//! directory that it's unpacked in, neither by its names nor by its links.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use tar::{Archive, Entry, EntryType};

use super::place::Target;
use crate::errors::containers::ContainerError;
use crate::errors::notice;
use crate::format::one_line;

/// Set-user-ID and set-group-ID: a container's word makes nobody root on the host.
const SET_ID: u32 = 0o6000;

/// Unpacks an archive of one file or of one directory; false if there's nothing in it. `target` is
/// told whether it's a directory, and says where it goes. Owners are kept, or all is this user's.
///
/// # Errors
/// The archive is malformed or hostile, or a file can't be written.
pub(super) fn unpack(
    archive: &mut impl Read,
    keep_owners: bool,
    target: impl FnOnce(bool) -> Result<Target, ContainerError>,
) -> Result<bool, ContainerError> {
    let mut archive = Archive::new(archive);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_preserve_ownerships(keep_owners);
    if !keep_owners {
        archive.set_mask(SET_ID);
    }
    let mut entries = archive.entries().map_err(malformed)?;
    let Some(first) = entries.next() else { return Ok(false) };
    let mut first = first.map_err(malformed)?;
    let target = target(first.header().entry_type().is_dir())?;
    let mut unpacker = Unpacker::new(&first, &target, keep_owners)?;
    unpacker.add(&mut first)?;
    for entry in entries {
        unpacker.add(&mut entry.map_err(malformed)?)?;
    }
    unpacker.finish();
    Ok(true)
}

fn malformed(source: io::Error) -> ContainerError {
    ContainerError::File { what: "read", path: PathBuf::from("the container's archive"), source }
}

struct Unpacker {
    /// What every name begins with.
    top: Option<String>,
    /// The directory, without links.
    root: PathBuf,
    /// What the archive's own top becomes.
    base: PathBuf,
    /// The directory that names were last found in.
    checked: Option<PathBuf>,
    /// New directories with their modes and times, which come last.
    directories: Vec<(PathBuf, u32, u64)>,
    mask: u32,
}

impl Unpacker {
    fn new(
        first: &Entry<'_, impl Read>,
        target: &Target,
        keep_owners: bool,
    ) -> Result<Self, ContainerError> {
        let dir = PathBuf::from(&target.dir);
        let failed = |source| ContainerError::File { what: "copy to", path: dir.clone(), source };
        let root = fs::canonicalize(&dir).map_err(failed)?;
        let base = target.name.as_ref().map_or(root.clone(), |name| root.join(name));
        let path = first.path().map_err(malformed)?;
        let top = match path.components().next() {
            Some(Component::Normal(name)) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        };
        let mask = if keep_owners { 0 } else { SET_ID };
        Ok(Self { top, root, base, checked: None, directories: Vec::new(), mask })
    }

    /// Where a name of the archive's is on the host.
    fn place(&self, name: &Path) -> Result<PathBuf, ContainerError> {
        let refused = || {
            let name = one_line(&name.to_string_lossy());
            ContainerError::Copy(format!("the container's archive has the name {name:?}"))
        };
        let mut parts = name.components().filter(|part| *part != Component::CurDir);
        if let Some(top) = &self.top {
            match parts.next() {
                Some(Component::Normal(first)) if first.to_string_lossy() == top.as_str() => {}
                _ => return Err(refused()),
            }
        }
        let mut place = self.base.clone();
        for part in parts {
            match part {
                Component::Normal(part) => place.push(part),
                _ => return Err(refused()),
            }
        }
        Ok(place)
    }

    /// Refuses a place whose directory leads elsewhere.
    fn check(&mut self, place: &Path) -> Result<(), ContainerError> {
        // The directory that was there before.
        if *place == self.root {
            return Ok(());
        }
        let dir = place.parent().unwrap_or(&self.root);
        if self.checked.as_deref() == Some(dir) {
            return Ok(());
        }
        let failed =
            |source| ContainerError::File { what: "copy to", path: dir.to_owned(), source };
        let real = fs::canonicalize(dir).map_err(failed)?;
        if !real.starts_with(&self.root) {
            let dir = dir.display();
            return Err(ContainerError::Copy(format!(
                "{dir} is a link that leads out of the copy"
            )));
        }
        self.checked = Some(dir.to_owned());
        Ok(())
    }

    fn add(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), ContainerError> {
        let name = entry.path().map_err(malformed)?.into_owned();
        let place = self.place(&name)?;
        self.check(&place)?;
        let failed = |source| ContainerError::File { what: "copy to", path: place.clone(), source };
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            let mode = entry.header().mode().map_err(malformed)? & 0o7777 & !self.mask;
            return self
                .make_dir(place.clone(), mode, entry.header().mtime().unwrap_or(0))
                .map_err(failed);
        }
        // A link here may be where a directory was.
        self.checked = None;
        if fs::symlink_metadata(&place).is_ok_and(|there| there.is_dir()) {
            let place = place.display();
            return Err(ContainerError::Copy(format!(
                "cannot overwrite the directory {place} with a file"
            )));
        }
        match kind {
            EntryType::Link => {
                let target = entry.link_name().map_err(malformed)?.unwrap_or_default();
                let target = self.place(&target)?;
                self.check(&target)?;
                replace(&place).and_then(|()| fs::hard_link(target, &place)).map_err(failed)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                notice(&format!(
                    "WARNING: {} is a device or a pipe, and left out",
                    one_line(&name.to_string_lossy())
                ));
                Ok(())
            }
            EntryType::XGlobalHeader => Ok(()),
            // It takes away a link that's there, rather than write through it.
            _ => replace(&place).and_then(|()| entry.unpack(&place)).map(drop).map_err(failed),
        }
    }

    fn make_dir(&mut self, place: PathBuf, mode: u32, mtime: u64) -> io::Result<()> {
        match fs::symlink_metadata(&place) {
            Ok(there) if there.is_dir() => return Ok(()),
            Ok(_) => {
                let problem = "cannot overwrite a file with a directory";
                return Err(io::Error::new(io::ErrorKind::NotADirectory, problem));
            }
            Err(_) => {}
        }
        fs::create_dir(&place)?;
        self.directories.push((place, mode, mtime));
        Ok(())
    }

    /// Sets what writing into directories would change, or wouldn't let happen.
    fn finish(self) {
        for (place, mode, mtime) in self.directories.iter().rev() {
            // A time or a mode that this file system can't keep isn't worth a failure.
            let time = UNIX_EPOCH.checked_add(Duration::from_secs(*mtime)).unwrap_or(UNIX_EPOCH);
            let _ = fs::File::open(place).and_then(|dir| dir.set_modified(time));
            let _ = fs::set_permissions(place, Permissions::from_mode(*mode));
        }
    }
}

/// Takes away what's at a place, if it's no directory.
fn replace(place: &Path) -> io::Result<()> {
    match fs::remove_file(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
