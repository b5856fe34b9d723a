//! Copies as tar archives, out of and into the container's root.
//!
//! What is copied out or in is looked up by a thread whose root *is* the container's
//! ([`in_container`]): links and `..` lead nowhere else, however the container's processes change
//! them meanwhile. Devices, pipes and sockets aren't unpacked.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::thread;

use rustix::thread::UnshareFlags;
use tar::{Archive, Builder, EntryType, Header};

use crate::fault::{AgentError, Context, ErrorKind, Result, fault};
use crate::{in_root, sys, volumes};

/// Stacks of threads that copy.
const STACK: usize = 512 << 10;

/// The longest extended attribute that is kept (`XATTR_SIZE_MAX`).
const MAX_XATTR_BYTES: usize = 64 << 10;

/// Runs `work` on a thread for which `root` is the root directory.
pub(crate) fn in_container<T: Send>(
    root: impl AsFd + Sync,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let enter = || -> io::Result<()> {
        sys::unshare(UnshareFlags::FS)?;
        rustix::process::fchdir(&root)?;
        Ok(rustix::process::chroot(".")?)
    };
    let work = || {
        enter().internal("cannot enter the container's root")?;
        work()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("copy".into()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, work).internal("cannot start a thread")?;
        thread.join().unwrap_or_else(|_| fault(ErrorKind::Internal, "a copy ended early"))
    })
}

/// Packs a path: one top-level entry, by the path's last part.
pub(crate) fn copy_out(path: &str, to: impl Write) -> Result<()> {
    let what = || format!("cannot copy {path}");
    let path = Path::new("/").join(path);
    let name = match path.components().next_back() {
        Some(Component::Normal(name)) => PathBuf::from(name),
        _ => PathBuf::from("."),
    };
    fs::symlink_metadata(&path).context(ErrorKind::NoSuchPath, what)?;
    let mut packer = Packer::new(to);
    packer.add_tree(&path, &name).context(ErrorKind::Internal, what)?;
    packer.finish().context(ErrorKind::Internal, what)
}

/// Unpacks an archive in a directory.
pub(crate) fn copy_in(path: &str, from: impl Read, keep_owners: bool, replace: bool) -> Result<()> {
    let dir = Path::new("/").join(path);
    let what = || format!("cannot copy to {path}");
    let metadata = fs::metadata(&dir).context(ErrorKind::NoSuchPath, what)?;
    if !metadata.is_dir() {
        return fault(ErrorKind::Invalid, format!("{path} is no directory"));
    }
    // Without links in it, what the archive's entries are checked against is plain.
    let dir = fs::canonicalize(&dir).context(ErrorKind::NoSuchPath, what)?;
    unpack(from, &dir, keep_owners, replace)
}

/// Copies what the image has at `target` to the volume `source`, if that's empty.
pub(crate) fn fill(target: impl AsFd, source: impl AsFd) -> Result<()> {
    let (from, to) = (in_root::proc_path(target) + "/", in_root::proc_path(source) + "/");
    if !volumes::is_empty(&to).internal("cannot list a volume")?
        || volumes::is_empty(&from).internal("cannot list a directory of the image")?
    {
        return Ok(());
    }
    let metadata = fs::metadata(&from).internal("cannot look at a directory of the image")?;
    std::os::unix::fs::chown(&to, Some(metadata.uid()), Some(metadata.gid()))
        .internal("cannot set a volume's owner")?;
    fs::set_permissions(&to, metadata.permissions()).internal("cannot set a volume's mode")?;
    let (reader, writer) = io::pipe().internal("cannot make a pipe")?;
    thread::scope(|scope| {
        let pack = || -> io::Result<()> {
            let mut packer = Packer::new(writer);
            packer.add_children(Path::new(&from), Path::new(""))?;
            packer.finish()
        };
        let thread = thread::Builder::new().stack_size(STACK);
        let packing = thread.spawn_scoped(scope, pack).internal("cannot start a thread")?;
        let to = fs::canonicalize(&to).internal("cannot find a volume")?;
        let unpacked = unpack(reader, &to, true, false);
        let packed = packing.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        // When unpacking fails, packing does because of that.
        unpacked.and(packed.internal("cannot read a directory of the image"))
    })
}

/// Writes an archive.
pub(crate) struct Packer<W: Write> {
    builder: Builder<W>,
    /// The names of files with several names, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { builder: Builder::new(to), links: HashMap::new() }
    }

    /// Adds a file or a directory with everything in it, under `name`.
    pub(crate) fn add_tree(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(path)?;
        self.add_one(path, name, &metadata)?;
        if metadata.is_dir() { self.add_children(path, name) } else { Ok(()) }
    }

    /// Adds everything in a directory, under `name`.
    fn add_children(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        // Directories can be nested deeper than a stack.
        let mut left = vec![(path.to_owned(), name.to_owned())];
        while let Some((dir, name)) = left.pop() {
            for entry in sorted(&dir)? {
                let (path, name) = (entry.path(), name.join(entry.file_name()));
                let Some(metadata) = still_there(fs::symlink_metadata(&path))? else { continue };
                self.add_one(&path, &name, &metadata)?;
                if metadata.is_dir() {
                    left.push((path, name));
                }
            }
        }
        Ok(())
    }

    /// Adds one file, or a directory by itself.
    pub(crate) fn add_one(
        &mut self,
        path: &Path,
        name: &Path,
        metadata: &Metadata,
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        header.set_size(0);
        let kind = metadata.file_type();
        if metadata.nlink() > 1 && !kind.is_dir() {
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&key) {
                header.set_entry_type(EntryType::Link);
                return self.builder.append_link(&mut header, name, first);
            }
            self.links.insert(key, name.to_owned());
        }
        if kind.is_socket() {
            return Ok(());
        }
        if kind.is_symlink() {
            let target = fs::read_link(path)?;
            header.set_entry_type(EntryType::Symlink);
            return self.builder.append_link(&mut header, name, target);
        }
        if kind.is_char_device() || kind.is_block_device() {
            header.set_device_major(rustix::fs::major(metadata.rdev()))?;
            header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
        }
        self.add_xattrs(path)?;
        if !kind.is_file() {
            return self.builder.append_data(&mut header, name, io::empty());
        }
        let file = File::open(path)?;
        header.set_size(metadata.len());
        // A file that changes meanwhile keeps the size that was announced.
        let content = file.chain(io::repeat(0)).take(metadata.len());
        self.builder.append_data(&mut header, name, content)
    }

    /// Adds an empty file.
    pub(crate) fn add_marker(&mut self, name: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(0);
        self.builder.append_data(&mut header, name, io::empty())
    }

    /// Keeps file capabilities, access lists and users' own attributes.
    fn add_xattrs(&mut self, path: &Path) -> io::Result<()> {
        let mut names = vec![0; MAX_XATTR_BYTES];
        // A file system without attributes has none.
        let Ok(length) = rustix::fs::llistxattr(path, &mut names[..]) else { return Ok(()) };
        let names = names.get(..length).unwrap_or_default();
        let mut kept = Vec::new();
        for name in names.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok())
        {
            let wanted = name.starts_with("user.")
                || ["security.capability", "system.posix_acl_access", "system.posix_acl_default"]
                    .contains(&name);
            let mut value = vec![0; MAX_XATTR_BYTES];
            if wanted && let Ok(length) = rustix::fs::lgetxattr(path, name, &mut value[..]) {
                value.truncate(length);
                kept.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        let kept = kept.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.builder.append_pax_extensions(kept)
    }

    /// Ends the archive.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.builder.into_inner()?.flush()
    }
}

/// Lists a directory in the order of names; nothing if it's gone meanwhile.
pub(crate) fn sorted(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    let Some(entries) = still_there(fs::read_dir(dir))? else { return Ok(Vec::new()) };
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

fn still_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Unpacks an archive in a directory, which none of its entries leaves.
fn unpack(from: impl Read, dir: &Path, keep_owners: bool, replace: bool) -> Result<()> {
    let mut archive = Archive::new(from);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_preserve_ownerships(keep_owners);
    let bad = "cannot read the archive";
    let mut directories = Vec::new();
    for entry in archive.entries().context(ErrorKind::Invalid, || bad.into())? {
        let mut entry = entry.context(ErrorKind::Invalid, || bad.into())?;
        let name = entry.path().context(ErrorKind::Invalid, || bad.into())?.into_owned();
        check_name(&name)?;
        let kind = entry.header().entry_type();
        // Without a slash at its end, which would have a file looked up as a directory.
        let place: PathBuf = dir.join(&name).components().collect();
        match kind {
            EntryType::Char | EntryType::Block | EntryType::Fifo => continue,
            EntryType::XGlobalHeader => continue,
            _ => make_way(&place, kind.is_dir(), replace)?,
        }
        let inside = entry.unpack_in(dir).map_err(|error| unpack_error(&name, &error))?;
        if !inside {
            return fault(
                ErrorKind::Invalid,
                format!("{} leads out of the target", name.display()),
            );
        }
        if kind.is_dir() {
            directories.push((place, entry.header().mtime().unwrap_or(0)));
        }
    }
    // What was unpacked in them has changed their times.
    for (place, seconds) in directories.iter().rev() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(*seconds);
        // A time that this file system can't keep isn't worth a failure.
        let _ = File::open(place).and_then(|dir| dir.set_modified(time));
    }
    Ok(())
}

/// Refuses names that lead elsewhere, rather than skipping them in silence.
fn check_name(name: &Path) -> Result<()> {
    let plain = |component| matches!(component, Component::Normal(_) | Component::CurDir);
    if name.components().all(plain) && !name.as_os_str().as_bytes().contains(&0) {
        return Ok(());
    }
    fault(ErrorKind::Invalid, format!("the archive has the name {}", name.display()))
}

/// Sees to it that a directory comes where none or a directory is, and a file where no directory is.
fn make_way(place: &Path, directory: bool, replace: bool) -> Result<()> {
    let Ok(there) = fs::symlink_metadata(place) else { return Ok(()) };
    if there.is_dir() == directory || (directory && place.is_dir()) {
        return Ok(());
    }
    if !replace {
        let (new, old) = if directory { ("directory", "file") } else { ("file", "directory") };
        let message = format!("cannot overwrite the {old} {} with a {new}", place.display());
        return fault(ErrorKind::Invalid, message);
    }
    let removed = if there.is_dir() { fs::remove_dir_all(place) } else { fs::remove_file(place) };
    removed.context(ErrorKind::Internal, || format!("cannot replace {}", place.display()))
}

/// The `tar` crate's errors keep what matters in their sources.
fn unpack_error(name: &Path, error: &io::Error) -> AgentError {
    let mut message = format!("cannot unpack {}: {error}", name.display());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message += &format!(": {cause}");
        source = cause.source();
    }
    AgentError::new(ErrorKind::Internal, message)
}

#[cfg(test)]
mod tests;
