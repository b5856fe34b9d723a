//! Files of the host, as an archive.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::errors::containers::ContainerError;

/// Packs a file, or a directory with all that's in it, under the name `top`. Owners are kept, or
/// all is root's. Sockets, pipes and devices are left out.
///
/// # Errors
/// A file can't be read, or the archive can't be written.
pub(super) fn pack(
    source: &Path,
    top: &Path,
    keep_owners: bool,
    out: impl Write,
) -> Result<(), ContainerError> {
    let mut packer = Packer {
        builder: Builder::new(io::BufWriter::new(out)),
        links: HashMap::new(),
        keep_owners,
    };
    // Directories can be nested deeper than a stack.
    let mut left = vec![(source.to_owned(), top.to_owned())];
    while let Some((path, name)) = left.pop() {
        let failed = |source| ContainerError::File { what: "copy", path: path.clone(), source };
        let metadata = fs::symlink_metadata(&path).map_err(failed)?;
        packer.add(&path, &name, &metadata).map_err(failed)?;
        if metadata.is_dir() {
            let mut entries = fs::read_dir(&path)
                .and_then(Iterator::collect::<io::Result<Vec<_>>>)
                .map_err(failed)?;
            // The last one comes first.
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
            left.extend(entries.iter().map(|entry| (entry.path(), name.join(entry.file_name()))));
        }
    }
    let failed =
        |error| ContainerError::File { what: "copy", path: source.to_owned(), source: error };
    packer.builder.into_inner().and_then(|mut out| out.flush()).map_err(failed)
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// The names of files with several names, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    keep_owners: bool,
}

impl<W: Write> Packer<W> {
    /// Adds one file, or a directory by itself.
    fn add(&mut self, path: &Path, name: &Path, metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        if kind.is_socket() || kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        header.set_metadata(metadata);
        header.set_size(0);
        if !self.keep_owners {
            header.set_uid(0);
            header.set_gid(0);
        }
        if metadata.nlink() > 1 && kind.is_file() {
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = self.links.get(&key) {
                header.set_entry_type(EntryType::Link);
                return self.builder.append_link(&mut header, name, first);
            }
            self.links.insert(key, name.to_owned());
        }
        if kind.is_symlink() {
            return self.builder.append_link(&mut header, name, fs::read_link(path)?);
        }
        if kind.is_dir() {
            return self.builder.append_data(&mut header, name, io::empty());
        }
        let file = File::open(path)?;
        header.set_size(metadata.len());
        // A file that changes meanwhile keeps the size that was announced.
        let content = file.chain(io::repeat(0)).take(metadata.len());
        self.builder.append_data(&mut header, name, content)
    }
}
