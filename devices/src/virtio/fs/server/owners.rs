//! Whose files are: as on the host where this process may give files away, else as it's noted with
//! them.

use std::os::fd::AsRawFd;

use rustix::fs::{FileType, Gid, Uid, XattrFlags, getxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::attributes::{chmod, chown, drop_set_id};
use super::host::{self, Metadata, path_of};
use super::nodes::File;

/// The attribute that says whose a file is to the guest: `UID:GID`. The guest itself has no access.
const NOTE: &str = "user.vmctl.owner";

/// How all attributes begin that are for the server alone.
pub(super) const OWN_PREFIX: &[u8] = b"user.vmctl.";

/// The longest note, in bytes.
const NOTE_BYTES: usize = 21;

/// The owner's right to write.
const OWNER_WRITE: u32 = 0o200;

/// A user and a group.
pub(super) type Owner = (u32, u32);

/// Whose the files are that a guest makes, and how their owners look to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Owners {
    /// As on the host: the VMM may give files to anybody.
    Kept,
    /// On the host all belong to this user and group, who are 0 in the guest. Whom the guest gives
    /// a file to is noted with it.
    Noted {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

impl Owners {
    /// Decides by what this process may do.
    pub(in super::super) fn of_process() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() {
            return Self::Kept;
        }
        Self::Noted { uid: uid.as_raw(), gid: gid.as_raw() }
    }

    /// Returns whose the file is to the guest.
    pub(super) fn seen(self, fd: &impl AsRawFd, metadata: &Metadata) -> Owner {
        let (uid, gid) = (metadata.stx_uid, metadata.stx_gid);
        let Self::Noted { uid: own, gid: group } = self else { return (uid, gid) };
        // What others note with their files, they might note to mislead.
        let noted = if uid == own { read(fd, metadata) } else { None };
        let zero_if_own = |id, own| if id == own { 0 } else { id };
        noted.unwrap_or_else(|| (zero_if_own(uid, own), zero_if_own(gid, group)))
    }

    /// Gives a file that's there to somebody else.
    ///
    /// # Errors
    /// The host's answer; `EPERM` where it can't be noted.
    pub(super) fn change(
        self,
        file: &File,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), Errno> {
        let Self::Noted { uid: own, .. } = self else {
            return chown(file, uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        };
        let metadata = host::metadata(&*file.fd)?;
        let present = self.seen(&*file.fd, &metadata);
        let wanted = (uid.unwrap_or(present.0), gid.unwrap_or(present.1));
        // Nobody asks for a link's owner.
        if wanted == present || file.kind == FileType::Symlink {
            return Ok(());
        }
        if metadata.stx_uid != own || !can_note(file.kind) {
            return Err(Errno::PERM);
        }
        let mode = u32::from(metadata.stx_mode);
        let mut noted = write(file, wanted);
        if noted == Err(Errno::ACCESS) && mode & OWNER_WRITE == 0 {
            // The host asks its owner for the right to write, whom the guest's root is to it.
            chmod(file, mode | OWNER_WRITE)?;
            noted = write(file, wanted);
            chmod(file, mode)?;
        }
        noted?;
        if file.kind == FileType::RegularFile { drop_set_id(file) } else { Ok(()) }
    }

    /// Gives a file that was just made to whoever made it; without a group, it stays its
    /// directory's.
    ///
    /// # Errors
    /// The host's answer.
    pub(super) fn give_new(
        self,
        file: &File,
        (uid, gid): Owner,
        inherited: Option<Owner>,
    ) -> Result<(), Errno> {
        // Not the numbers that mean "as it is" to the host.
        if uid == u32::MAX || gid == u32::MAX {
            return Ok(());
        }
        match self {
            Self::Kept => {
                // In such a directory, the host's kernel has chosen the group.
                let gid = inherited.is_none().then(|| Gid::from_raw(gid));
                chown(file, Some(Uid::from_raw(uid)), gid)
            }
            Self::Noted { .. } if can_note(file.kind) => {
                match (uid, inherited.map_or(gid, |(_, group)| group)) {
                    (0, 0) => Ok(()),
                    // Where nothing can be noted, it's root's.
                    wanted => write(file, wanted).or(Ok(())),
                }
            }
            Self::Noted { .. } => Ok(()),
        }
    }
}

/// Tells whether files of this sort can have a note.
fn can_note(kind: FileType) -> bool {
    matches!(kind, FileType::RegularFile | FileType::Directory)
}

fn read(fd: &impl AsRawFd, metadata: &Metadata) -> Option<Owner> {
    if !can_note(host::kind(metadata)) {
        return None;
    }
    let mut note = [0; NOTE_BYTES];
    let len = getxattr(path_of(fd), NOTE, &mut note[..]).ok()?;
    let (uid, gid) = std::str::from_utf8(note.get(..len)?).ok()?.split_once(':')?;
    let number = |text: &str| text.parse().ok().filter(|id| *id != u32::MAX);
    Some((number(uid)?, number(gid)?))
}

/// Notes whose a file is: nothing, for root's.
fn write(file: &File, (uid, gid): Owner) -> Result<(), Errno> {
    let path = path_of(&*file.fd);
    let written = if (uid, gid) == (0, 0) {
        removexattr(path, NOTE)
    } else {
        setxattr(path, NOTE, format!("{uid}:{gid}").as_bytes(), XattrFlags::empty())
    };
    match written {
        Err(Errno::NODATA) => Ok(()),
        Err(Errno::OPNOTSUPP) => Err(Errno::PERM),
        result => result,
    }
}
