//! A build's context: a directory on the host without what `.dockerignore` names.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::BuildError;
use super::ignore::{self, Ignore};
use super::tree::{Kind, Meta, Tree, join};

/// A directory on the host. Links in it are followed only within it: see
/// [`resolve`](super::tree::resolve).
#[derive(Debug)]
pub(super) struct Context {
    root: PathBuf,
    ignore: Ignore,
}

impl Context {
    /// Opens a directory; `dockerfile` may have an ignore file of its own beside it,
    /// `NAME.dockerignore`.
    ///
    /// # Errors
    /// It's no directory, or its ignore file is wrong.
    pub(super) fn open(root: &Path, dockerfile: &Path) -> Result<Self, BuildError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| BuildError::Context { path, source }
        };
        if !fs::metadata(root).map_err(failed(root))?.is_dir() {
            return Err(failed(root)(io::Error::from(io::ErrorKind::NotADirectory)));
        }
        let own = dockerfile.with_added_extension("dockerignore");
        let path = if own.exists() { own } else { root.join(".dockerignore") };
        let text = match read_text(&path, ignore::MAX_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(failed(&path))?,
        };
        let ignore = Ignore::parse(&text).map_err(|(line, problem)| {
            failed(&path)(io::Error::other(format!("line {line}: {problem}")))
        })?;
        Ok(Self { root: root.to_owned(), ignore })
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
