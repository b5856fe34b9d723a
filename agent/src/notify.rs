//! Changes that someone made to shared files on the host, shown to watchers in the guest.
//!
//! inotify(7) tells of what is done *through this kernel*; a file that the host changes is just
//! different the next time. So the agent does something to the file that changes nothing, but passes
//! the kernel's hooks:
//!
//! | on the host | what the agent does | what a watcher of the file or of its directory sees |
//! | --- | --- | --- |
//! | created, modified | sets the modification time that it has | `IN_MODIFY`, with the name |
//! | attributes | sets the mode that it has | `IN_ATTRIB`, with the name |
//! | deleted | looks the name up, sets both times of the directory | `IN_ATTRIB` of the directory |
//!
//! On the way the kernel fetches the file's attributes, and drops what it had cached of a file whose
//! time or size changed: who then reads it reads what's new.
//!
//! What this can't do: make `IN_CREATE`, `IN_DELETE` or `IN_MOVED_*` happen, since that takes a file
//! that isn't there yet, or is no longer. Watchers that look at what has changed when *something*
//! has, as those of web servers' and compilers' development modes do, find it; those that act on
//! these events alone don't. The host's own watchers see the agent's doing as a change of attributes
//! or times: whoever forwards events has to leave out those that find a file as it was.

use agent_proto::{FileChange, FileChangeKind};
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, UTIME_OMIT, chmodat, stat, utimensat};

use crate::fault::{Context, Result};
use crate::in_root::proc_path;
use crate::volumes::open_share;

/// Shows changes. One that can't be shown (the file is gone again) isn't worth an error.
pub(crate) fn show(changes: &[FileChange]) {
    for change in changes {
        if let Err(error) = show_one(change) {
            eprintln!("agent: a change isn't shown: {error}");
        }
    }
}

fn show_one(change: &FileChange) -> Result<()> {
    let share = change.share;
    match change.kind {
        FileChangeKind::Created | FileChangeKind::Modified => {
            touch(&proc_path(open_share(share, &change.path)?), false)
        }
        FileChangeKind::Attributes => rewrite_mode(&proc_path(open_share(share, &change.path)?)),
        FileChangeKind::Deleted => {
            // The kernel learns that the name is gone.
            drop(open_share(share, &change.path));
            let parent =
                change.path.trim_end_matches('/').rsplit_once('/').map_or("", |(dir, _)| dir);
            touch(&proc_path(open_share(share, parent)?), true)
        }
    }
}

/// Sets a file's times to what they are: the modification time alone counts as a modification, both
/// as a change of attributes.
fn touch(path: &str, both: bool) -> Result<()> {
    let stat = stat(path).internal("cannot look at a shared file")?;
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let nanoseconds = |value| i64::try_from(value).unwrap_or(0);
    let last_access = if both {
        time(stat.st_atime, nanoseconds(stat.st_atime_nsec))
    } else {
        time(0, UTIME_OMIT)
    };
    let last_modification = time(stat.st_mtime, nanoseconds(stat.st_mtime_nsec));
    utimensat(CWD, path, &Timestamps { last_access, last_modification }, AtFlags::empty())
        .internal("cannot touch a shared file")
}

fn rewrite_mode(path: &str) -> Result<()> {
    let mode = stat(path).internal("cannot look at a shared file")?.st_mode;
    chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
        .internal("cannot touch a shared file's mode")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
    use std::fs::{self, File};
    use std::mem::MaybeUninit;

    fn events(work: impl FnOnce(&str, &str)) -> Vec<(ReadFlags, Option<String>)> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "content").unwrap();
        let fd = inotify::init(CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&fd, dir.path(), WatchFlags::ALL_EVENTS).unwrap();
        let (open_dir, file) =
            (File::open(dir.path()).unwrap(), File::open(dir.path().join("file")).unwrap());
        work(&proc_path(&open_dir), &proc_path(&file));
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        std::iter::from_fn(|| {
            let event = reader.next().ok()?;
            Some((
                event.events(),
                event.file_name().map(|name| name.to_string_lossy().into_owned()),
            ))
        })
        .filter(|(flags, _)| flags.intersects(ReadFlags::MODIFY | ReadFlags::ATTRIB))
        .collect()
    }

    #[test]
    fn watchers_see_a_modification_that_changes_nothing() {
        let seen = events(|_, file| {
            let before = stat(file).unwrap();
            touch(file, false).unwrap();
            let after = stat(file).unwrap();
            assert_eq!(
                (before.st_mtime, before.st_mtime_nsec),
                (after.st_mtime, after.st_mtime_nsec)
            );
        });
        assert_eq!(seen, [(ReadFlags::MODIFY, Some("file".into()))]);
    }

    #[test]
    fn watchers_see_attributes_change() {
        let seen = events(|dir, file| {
            rewrite_mode(file).unwrap();
            touch(dir, true).unwrap();
        });
        let attribute = ReadFlags::ATTRIB;
        assert_eq!(seen.first(), Some(&(attribute, Some("file".into()))));
        assert_eq!(seen.get(1), Some(&(attribute | ReadFlags::ISDIR, None)));
    }
}
