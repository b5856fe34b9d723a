//! A build's context: a directory on the host without what `.dockerignore` names.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::BuildError;
use super::ignore::{self, Ignore};
use super::layer::as_archive;
use super::tree::{Kind, Meta, Tree, join, resolve};

/// What a context hides.
const IGNORE_FILE: &str = ".dockerignore";

/// A directory on the host. Links in it are followed only within it: see
/// [`resolve`](super::tree::resolve).
#[derive(Debug)]
pub(super) struct Context {
    root: PathBuf,
    ignore: Ignore,
}

impl Context {
    /// Opens a directory. What it hides is said by `ignore_file`, or by its own `.dockerignore`.
    ///
    /// # Errors
    /// It's no directory, or its ignore file is wrong.
    pub(super) fn open(root: &Path, ignore_file: Option<&Path>) -> Result<Self, BuildError> {
        if !fs::metadata(root).map_err(failed(root))?.is_dir() {
            return Err(failed(root)(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        let mut context = Self { root: root.to_owned(), ignore: Ignore::default() };
        let (path, text) = match ignore_file {
            Some(path) => (path.to_owned(), read_text(path, ignore::MAX_BYTES)),
            None => (root.join(IGNORE_FILE), context.read(IGNORE_FILE, ignore::MAX_BYTES)),
        };
        let text = match text {
            Err(error) if ignore_file.is_none() && error.kind() == io::ErrorKind::NotFound => {
                String::new()
            }
            text => text.map_err(failed(&path))?,
        };
        context.ignore = Ignore::parse(&text).map_err(|(line, problem)| {
            failed(&path)(io::Error::other(format!("line {line}: {problem}")))
        })?;
        Ok(context)
    }

    /// Reads a text of a reasonable size, wherever links within the context lead.
    fn read(&self, path: &str, max_bytes: u64) -> io::Result<String> {
        let resolved = resolve(self, path)?;
        match self.meta(&resolved)? {
            Some(meta) if matches!(meta.kind, Kind::File(_)) => {
                read_text(&self.root.join(resolved), max_bytes)
            }
            Some(_) => Err(io::Error::other("it's no file")),
            None if self.meta(path)?.is_some() => {
                Err(io::Error::other("it's a link that leads to nothing in the context"))
            }
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    /// Tells whether a path is there, but ignored.
    pub(super) fn hides(&self, path: &str) -> bool {
        let path = ignore::clean(path);
        self.ignore.is_ignored(&path) && self.root.join(path).symlink_metadata().is_ok()
    }

    /// Whether a directory that is ignored must be looked into all the same.
    fn is_hidden(&self, path: &str, is_directory: bool) -> bool {
        self.ignore.is_ignored(path) && (!is_directory || self.ignore.hides_all_below())
    }
}

/// Reads the Dockerfile `name` of a context that came from elsewhere: no link in it leads out of it.
///
/// # Errors
/// It isn't there, or is too large.
pub fn read_dockerfile(context: &Path, name: &str) -> Result<String, BuildError> {
    let context = Context { root: context.to_owned(), ignore: Ignore::default() };
    let text = context.read(&ignore::clean(name), super::parse::MAX_BYTES);
    text.map_err(failed(Path::new(name)))
}

/// Unpacks a context that's an archive, compressed or not, into an empty directory. What isn't an
/// archive is a Dockerfile without a context: its text is returned.
///
/// # Errors
/// It's neither, its files would lead out of the directory, or can't be written.
pub fn unpack_context(
    input: Box<dyn Read + '_>,
    into: &Path,
) -> Result<Option<String>, BuildError> {
    let failed = failed(Path::new("-"));
    match as_archive(input).map_err(&failed)? {
        Ok(archive) => unpack(archive, into).map(|()| None).map_err(failed),
        Err(text) => {
            let mut dockerfile = String::new();
            let max_bytes = super::parse::MAX_BYTES;
            let read = text.take(max_bytes + 1).read_to_string(&mut dockerfile);
            match read.map_err(&failed)? as u64 {
                0 => Err(failed(io::Error::other("it's empty: neither archive nor Dockerfile"))),
                length if length > max_bytes => {
                    Err(failed(io::Error::from(io::ErrorKind::FileTooLarge)))
                }
                _ => Ok(Some(dockerfile)),
            }
        }
    }
}

fn unpack(archive: impl Read, into: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let kind = entry.header().entry_type();
        let is_link = kind.is_symlink() || kind.is_hard_link();
        if !(kind.is_file() || kind.is_dir() || is_link || kind.is_pax_global_extensions()) {
            return Err(io::Error::other(format!("{path} is of a kind that isn't unpacked")));
        }
        entry.set_preserve_permissions(true);
        // Links that it has made itself aren't followed out of the directory.
        if !entry.unpack_in(into)? {
            return Err(io::Error::other(format!("{path} leads out of the context")));
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl Fn(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::Context { path: path.clone(), source }
}

/// Reads a file that has a reasonable size.
pub(super) fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(max_bytes + 1).read_to_string(&mut text)?;
    match text.len() as u64 > max_bytes {
        true => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        false => Ok(text),
    }
}

impl Tree for Context {
    fn meta(&self, path: &str) -> io::Result<Option<Meta>> {
        let full = self.root.join(path);
        let metadata = match fs::symlink_metadata(&full) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            metadata => metadata?,
        };
        if !path.is_empty() && self.is_hidden(path, metadata.is_dir()) {
            return Ok(None);
        }
        let kind = if metadata.is_dir() {
            Kind::Directory
        } else if metadata.is_file() {
            Kind::File(metadata.len())
        } else if metadata.is_symlink() {
            let target = fs::read_link(&full)?;
            let target = target.into_os_string().into_string();
            Kind::Symlink(target.map_err(|_| io::Error::other("a link's target isn't UTF-8"))?)
        } else {
            Kind::Other
        };
        Ok(Some(Meta {
            kind,
            mode: metadata.mode() & 0o7777,
            // Files of a context belong to root in the image.
            uid: 0,
            gid: 0,
            mtime: u64::try_from(metadata.mtime()).unwrap_or(0),
            xattrs: BTreeMap::new(),
        }))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(path))? {
            let entry = entry?;
            let name = entry.file_name().into_string();
            let name = name.map_err(|name| {
                io::Error::other(format!("the name {} isn't UTF-8", name.display()))
            })?;
            if !self.is_hidden(&join(path, &name), entry.file_type()?.is_dir()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(File::open(self.root.join(path))?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::build::testing::archive_bytes;

    fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, Result<Option<String>, String>) {
        let directory = tempfile::tempdir().unwrap();
        let result = unpack_context(Box::new(bytes), directory.path());
        let chain =
            |error: BuildError| format!("{error}: {}", std::error::Error::source(&error).unwrap());
        (directory, result.map_err(chain))
    }

    #[test]
    fn archives_are_unpacked_and_texts_are_dockerfiles() {
        let bytes = archive_bytes(&[("Dockerfile", b"FROM x"), ("d/f", b"f")]);
        let (directory, result) = unpacked(&bytes);
        assert_eq!(result, Ok(None));
        assert_eq!(read_dockerfile(directory.path(), "./Dockerfile").unwrap(), "FROM x");
        assert_eq!(fs::read(directory.path().join("d/f")).unwrap(), b"f");
        assert_eq!(unpacked(b"FROM x\n").1, Ok(Some("FROM x\n".to_owned())));
    }

    #[test]
    fn hostile_contexts_are_refused_and_write_nothing_outside() {
        let entry = |path: &str, kind, target: &str| {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(1);
            if !target.is_empty() {
                header.set_link_name(target).unwrap();
            }
            header.set_cksum();
            header.as_bytes().to_vec()
        };
        // A parent of its own: another program may have an `x` where temporary directories stand.
        let parent = tempfile::tempdir().unwrap();
        let into = parent.path().join("into");
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap();
        let link = entry("link", tar::EntryType::Symlink, target);
        let through = entry("link/written", tar::EntryType::Regular, "");
        for bytes in [
            entry("../x", tar::EntryType::Regular, ""),
            entry("a/../../x", tar::EntryType::Regular, ""),
            entry("pipe", tar::EntryType::Fifo, ""),
            entry("disk", tar::EntryType::Block, ""),
            [link, through].concat(),
            vec![],
            vec![0x1f, 0x8b, 1, 2, 3],
            vec![0xff, 0xfe],
        ] {
            fs::create_dir(&into).unwrap();
            let result = unpack_context(Box::new(&bytes[..]), &into);
            assert!(result.is_err(), "{result:?}");
            assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
            fs::remove_dir_all(&into).unwrap();
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_in_a_context_dont_make_files_outside_its_dockerfile_or_its_ignore_file() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        for name in ["Dockerfile", IGNORE_FILE] {
            let directory = tempfile::tempdir().unwrap();
            symlink(outside.path(), directory.path().join(name)).unwrap();
            let opened = Context::open(directory.path(), None);
            let read = read_dockerfile(directory.path(), name);
            assert!(read.is_err(), "{name}");
            assert_eq!(opened.is_err(), name == IGNORE_FILE);
        }
    }

    #[test]
    fn context_hides_what_its_ignore_file_says() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(IGNORE_FILE), "a\n").unwrap();
        fs::write(directory.path().join("own"), "b\n").unwrap();
        for name in ["a", "b"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let context = Context::open(directory.path(), None).unwrap();
        assert_eq!(context.list("").unwrap(), [IGNORE_FILE, "b", "own"]);
        assert!(context.hides("./a") && !context.hides("b") && !context.hides("c"));
        let own = directory.path().join("own");
        let context = Context::open(directory.path(), Some(&own)).unwrap();
        assert_eq!(context.list("").unwrap(), [IGNORE_FILE, "a", "own"]);
        assert!(Context::open(&own, None).is_err());
        assert!(Context::open(directory.path(), Some(Path::new("/none"))).is_err());
        fs::write(directory.path().join(IGNORE_FILE), "[\n").unwrap();
        assert!(Context::open(directory.path(), None).is_err());
    }
}
