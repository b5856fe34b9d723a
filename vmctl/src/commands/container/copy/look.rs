//! What's at a path in a container.

use std::io;
use std::path::PathBuf;
use std::thread;

use runtime::{ErrorKind, Files};
use tar::{Archive, EntryType};

use super::no_pipe;
use super::place::{Kind, parent};
use crate::errors::containers::ContainerError;

/// As many links are followed as the kernel follows.
const MAX_LINKS: usize = 40;

/// What a path is, without following a link at its end.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Directory,
    File,
    Link(String),
}

/// What's at a path, links followed, and the path that they lead to.
pub(super) fn follow(files: &Files, path: &str) -> Result<(Option<Kind>, String), ContainerError> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let kind = match look(files, &path)? {
            Seen::Nothing => None,
            Seen::Directory => Some(Kind::Directory),
            Seen::File => Some(Kind::File),
            Seen::Link(target) => {
                path = joined(&path, &target);
                continue;
            }
        };
        return Ok((kind, path));
    }
    Err(ContainerError::Copy(format!("{path}: too many links")))
}

/// Where a link at `path` leads. What's above the root is the root.
fn joined(path: &str, target: &str) -> String {
    let whole = if target.starts_with('/') {
        PathBuf::from(target)
    } else {
        PathBuf::from(parent(path)).join(target)
    };
    whole.to_string_lossy().into_owned()
}

/// Reads the beginning of the archive of a path.
fn look(files: &Files, path: &str) -> Result<Seen, ContainerError> {
    let (reader, mut writer) = io::pipe().map_err(no_pipe)?;
    thread::scope(|scope| {
        let packing = scope.spawn(move || files.copy_out(path, &mut writer));
        let mut archive = Archive::new(reader);
        let seen = first(&mut archive);
        // The rest isn't wanted: this ends it.
        drop(archive);
        match (seen, packing.join()) {
            (_, Err(panic)) => std::panic::resume_unwind(panic),
            (Ok(Some(seen)), _) => Ok(seen),
            (_, Ok(Err(error))) if error.kind() == ErrorKind::NoObject => Ok(Seen::Nothing),
            (_, Ok(Err(error))) => Err(error.into()),
            (Ok(None), Ok(Ok(()))) => Ok(Seen::Nothing),
            (Err(source), Ok(Ok(()))) => {
                Err(ContainerError::File { what: "look at", path: PathBuf::from(path), source })
            }
        }
    })
}

/// What the first entry of an archive is.
fn first(archive: &mut Archive<impl io::Read>) -> io::Result<Option<Seen>> {
    let Some(entry) = archive.entries()?.next() else { return Ok(None) };
    let entry = entry?;
    Ok(Some(match entry.header().entry_type() {
        EntryType::Directory => Seen::Directory,
        EntryType::Symlink => {
            let target = entry.link_name()?.unwrap_or_default();
            Seen::Link(target.to_string_lossy().into_owned())
        }
        _ => Seen::File,
    }))
}

#[cfg(test)]
mod tests {
    use tar::{Builder, Header};

    use super::*;

    #[test]
    fn links_lead_on_from_where_they_are() {
        assert_eq!(joined("/a/l", "b"), "/a/b");
        assert_eq!(joined("/a/l", "../b"), "/a/../b");
        assert_eq!(joined("/a/l", "/b"), "/b");
    }

    #[test]
    fn first_entry_says_what_a_path_is() {
        let seen = |kind, target: Option<&str>| {
            let mut builder = Builder::new(Vec::new());
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            match target {
                Some(target) => builder.append_link(&mut header, "x", target).unwrap(),
                None => builder.append_data(&mut header, "x", io::empty()).unwrap(),
            }
            first(&mut Archive::new(&builder.into_inner().unwrap()[..])).unwrap()
        };
        assert_eq!(seen(EntryType::Directory, None), Some(Seen::Directory));
        assert_eq!(seen(EntryType::Regular, None), Some(Seen::File));
        assert_eq!(seen(EntryType::Symlink, Some("/y")), Some(Seen::Link("/y".to_owned())));
        assert_eq!(first(&mut Archive::new(&b""[..])).unwrap(), None);
        assert!(first(&mut Archive::new(&[7; 2048][..])).is_err());
    }
}
