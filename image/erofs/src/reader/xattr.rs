//! Files' extended attributes.

use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{Inode, ReadError, Reader};
use crate::ondisk::{self, BLOCK_SIZE, XATTR_HEADER_SIZE, XattrEntry, XattrHeader};
use crate::source::ReadAt;
use crate::tree::Xattr;

/// An extended attribute's whole name, and its value.
pub type XattrPair = (Vec<u8>, Vec<u8>);

impl<S: ReadAt> Reader<S> {
    /// A file's extended attributes: names and values.
    ///
    /// # Errors
    ///
    /// When they're damaged or can't be read.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<XattrPair>, ReadError> {
        let full = |xattr: &Xattr| {
            let prefix = ondisk::xattr_prefix(xattr.index).unwrap_or_default();
            ([prefix, &xattr.name].concat(), xattr.value.to_vec())
        };
        Ok(self.raw_xattrs(inode)?.iter().map(full).collect())
    }

    /// A file's extended attributes with their prefixes' numbers, which are known ones.
    pub(crate) fn raw_xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, ReadError> {
        let mut xattrs = Vec::new();
        if inode.xattr_len == 0 {
            return Ok(xattrs);
        }
        let damaged = || inode.corrupt("its extended attributes");
        let mut area = vec![0; usize::try_from(inode.xattr_len).map_err(|_| damaged())?];
        self.read_metadata(&mut area, inode.tail - inode.xattr_len)?;
        let (header, mut rest) =
            XattrHeader::read_from_prefix(area.as_slice()).map_err(|_| damaged())?;
        for _ in 0..header.shared_count {
            let (number, after) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
            xattrs.push(self.shared_xattr(inode, u32::from_le_bytes(*number))?);
            rest = after;
        }
        while !rest.is_empty() {
            let (entry, after) = XattrEntry::read_from_prefix(rest).map_err(|_| damaged())?;
            let (name_len, value_len) = lengths(entry);
            let name = after.get(..name_len).ok_or_else(damaged)?;
            let value = after.get(name_len..name_len + value_len).ok_or_else(damaged)?;
            xattrs.push(xattr(inode, entry.name_index, name.into(), value.into())?);
            let len = (size_of::<XattrEntry>() + name_len + value_len).next_multiple_of(4);
            rest = rest.get(len..).ok_or_else(damaged)?;
        }
        Ok(xattrs)
    }

    fn shared_xattr(&self, inode: &Inode, number: u32) -> Result<Xattr, ReadError> {
        let start = u64::from(self.superblock.xattr_block.get()) * BLOCK_SIZE;
        let position = start + 4 * u64::from(number);
        let mut entry = XattrEntry::new_zeroed();
        self.read_metadata(entry.as_mut_bytes(), position)?;
        let (name_len, value_len) = lengths(entry);
        let mut name = vec![0; name_len + value_len];
        self.read_metadata(&mut name, position + size_of::<XattrEntry>() as u64)?;
        let value = name.split_off(name_len);
        xattr(inode, entry.name_index, name, value)
    }
}

fn lengths(entry: XattrEntry) -> (usize, usize) {
    (entry.name_len.into(), entry.value_len.get().into())
}

fn xattr(inode: &Inode, index: u8, name: Vec<u8>, value: Vec<u8>) -> Result<Xattr, ReadError> {
    if ondisk::xattr_prefix(index).is_none() || name.contains(&0) {
        return Err(inode.corrupt("an extended attribute's name"));
    }
    Ok(Xattr { index, name: name.into(), value: value.into() })
}

/// The header is never larger than what its count covers.
const _: () = assert!(size_of::<XattrHeader>() as u64 == XATTR_HEADER_SIZE);
