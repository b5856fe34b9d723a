//! Directories' entries.

use zerocopy::FromBytes;

use super::{FileType, Inode, ReadError, Reader};
use crate::ondisk::{BLOCK, BLOCK_SIZE, DIRENT_SIZE, Dirent, NAME_MAX};
use crate::source::ReadAt;

/// A name in a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DirEntry {
    /// The name: 1 to 255 bytes without `/` and NUL.
    pub name: Box<[u8]>,
    /// The number of the file's inode.
    pub nid: u64,
}

impl<S: ReadAt> Reader<S> {
    /// A directory's entries, sorted by name, without `.` and `..`.
    ///
    /// # Errors
    ///
    /// When `inode` isn't a directory, is damaged or can't be read.
    pub fn read_dir(&self, inode: &Inode) -> Result<Vec<DirEntry>, ReadError> {
        let mut entries: Vec<DirEntry> = Vec::new();
        self.each_block(inode, |block| {
            parse_block(inode, block, |name, nid| {
                let sorted = entries.last().is_none_or(|last| &*last.name < name);
                if !sorted {
                    return Err(inode.corrupt("its entries aren't sorted"));
                }
                entries.push(DirEntry { name: name.into(), nid });
                Ok(())
            })?;
            Ok(true)
        })?;
        entries.retain(|entry| *entry.name != *b"." && *entry.name != *b"..");
        Ok(entries)
    }

    /// A directory's entry of that name, if there is one.
    ///
    /// # Errors
    ///
    /// When `directory` isn't one, is damaged or can't be read.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<DirEntry>, ReadError> {
        let mut found = None;
        self.each_block(directory, |block| {
            parse_block(directory, block, |other, nid| {
                if other == name {
                    found = Some(DirEntry { name: name.into(), nid });
                }
                Ok(())
            })?;
            Ok(found.is_none())
        })?;
        Ok(found)
    }

    /// Reads a directory block by block, until `visit` returns false.
    fn each_block(
        &self,
        inode: &Inode,
        mut visit: impl FnMut(&[u8]) -> Result<bool, ReadError>,
    ) -> Result<(), ReadError> {
        inode.expect(FileType::Directory, "directory")?;
        let mut buffer = [0; BLOCK];
        let mut offset = 0;
        while offset < inode.size {
            let len = (inode.size - offset).min(BLOCK_SIZE);
            let block = &mut buffer[..usize::try_from(len).expect("at most a block")];
            self.read_content(inode, offset, block)?;
            if !visit(block)? {
                break;
            }
            offset += len;
        }
        Ok(())
    }
}

/// Calls `visit` with each name and inode number of a directory's block.
fn parse_block(
    inode: &Inode,
    block: &[u8],
    mut visit: impl FnMut(&[u8], u64) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let damaged = || inode.corrupt("a directory entry");
    let dirent = |index: usize| {
        let start = index * DIRENT_SIZE;
        let bytes = block.get(start..).ok_or_else(damaged)?;
        let (dirent, _) = Dirent::read_from_prefix(bytes).map_err(|_| damaged())?;
        Ok::<_, ReadError>(dirent)
    };
    // The first name begins where the entries end.
    let names = usize::from(dirent(0)?.name_offset.get());
    if names == 0 || names % DIRENT_SIZE != 0 || names > block.len() {
        return Err(damaged());
    }
    let count = names / DIRENT_SIZE;
    for index in 0..count {
        let this = dirent(index)?;
        let start = usize::from(this.name_offset.get());
        let name = if index + 1 < count {
            let end = usize::from(dirent(index + 1)?.name_offset.get());
            block.get(start..end)
        } else {
            // The last name is as long as the block, or ends at a NUL.
            let rest = block.get(start..).unwrap_or_default();
            rest.split(|&byte| byte == 0).next()
        };
        let name = name.filter(|name| (1..=NAME_MAX).contains(&name.len()) && start >= names);
        let name = name.ok_or_else(damaged)?;
        if name.iter().any(|&byte| byte == 0 || byte == b'/') {
            return Err(damaged());
        }
        visit(name, this.nid.get())?;
    }
    Ok(())
}
