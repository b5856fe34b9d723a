//! Reads tar archives: ustar, GNU's and POSIX.1-2001's (pax) extensions, and GNU's sparse files.
//!
//! Written for hostile archives: everything that's kept in memory is bounded, and each way to be
//! wrong is an error of its own.

mod header;
mod pax;
mod sparse;

use std::io::{self, Read};

use crate::limits::{LimitError, Limits};
use header::{Header, RECORD};
use pax::Records;
use zerocopy::FromZeros;

/// How an archive isn't one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// A header's checksum doesn't match the header.
    #[error("a header's checksum is wrong")]
    Checksum,
    /// The archive ends within a header or a file's data.
    #[error("the archive is cut off")]
    Truncated,
    /// A header's number isn't one, or is out of its range.
    #[error("a header's {0} is no proper number")]
    Number(&'static str),
    /// A pax record isn't `LENGTH KEY=VALUE`, or its value isn't what the key needs.
    #[error("a pax record is malformed")]
    PaxRecord,
    /// Extended headers take more memory than [`crate::Limits::extended_header_bytes`].
    #[error("an entry's extended headers are larger than {0} bytes")]
    ExtendedHeaderSize(u64),
    /// An extended header isn't followed by the entry that it extends.
    #[error("an extended header has no entry")]
    NoEntry,
    /// A sparse file's map is malformed, unordered, or doesn't match the file's sizes.
    #[error("a sparse file's map is wrong")]
    SparseMap,
    /// An entry of a kind that a layer can't have.
    #[error("the entry's type is {0:?}, which is not supported")]
    Type(char),
}

/// Why an archive can't be read on.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It's malformed.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The archive is longer than it may be.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// What an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A file, with data.
    Regular,
    /// Another name of an entry before.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// An entry's description. Its data are read from the [`Archive`].
#[derive(Debug)]
pub struct Entry {
    /// As the archive has it: nothing is refused here.
    pub path: Vec<u8>,
    /// A link's target, as the archive has it.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) mtime_nsec: u32,
    /// The file's size in bytes, holes included.
    pub size: u64,
    /// The pieces of data, in order, as (offset, length); what they don't cover is zeros.
    pub(crate) pieces: Vec<(u64, u64)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) device: (u32, u32),
}

impl Entry {
    /// Whether the data that [`Archive::read_data`] gives are the file's, without holes.
    pub fn is_plain(&self) -> bool {
        matches!(self.pieces[..], [] | [(0, _)]) && self.pieces.iter().all(|it| it.1 == self.size)
    }
}

/// An archive that's being read. Memory is bounded, whatever it says.
#[derive(Debug)]
pub struct Archive<R> {
    reader: R,
    /// Bytes read so far.
    position: u64,
    /// Data of the present entry that are still to be read.
    data_left: u64,
    /// Padding after the data.
    padding: u64,
    archive_bytes: u64,
    extended_header_bytes: u64,
}

impl<R: Read> Archive<R> {
    /// Begins reading, within [`Limits::archive_bytes`] and [`Limits::extended_header_bytes`].
    pub fn new(reader: R, limits: &Limits) -> Self {
        let &Limits { archive_bytes, extended_header_bytes, .. } = limits;
        Self { reader, position: 0, data_left: 0, padding: 0, archive_bytes, extended_header_bytes }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Goes on to the next entry; what's left of the last one's data is skipped. `None` at the
    /// archive's end, marked or not: some tools leave the mark out.
    ///
    /// # Errors
    ///
    /// Reading fails, or what's there is no entry, or too large.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extended = Extended::default();
        loop {
            self.skip(self.data_left + self.padding)?;
            (self.data_left, self.padding) = (0, 0);
            let Some(header) = self.read_header()? else {
                return if extended.any { Err(TarError::NoEntry.into()) } else { Ok(None) };
            };
            let size = header.size()?;
            match header.type_flag() {
                b'L' => extended.path = Some(self.read_name(size)?),
                b'K' => extended.link = Some(self.read_name(size)?),
                b'x' | b'X' => extended.records = pax::parse(&self.read_extended(size)?)?,
                // Global records and volume labels say nothing about files.
                b'g' | b'V' => {
                    self.set_data(size)?;
                    continue;
                }
                _ => return self.entry(&header, extended).map(Some),
            }
            extended.any = true;
        }
    }

    /// Reads the present entry's data as they're stored, without holes. Less than `buffer` only at
    /// the data's end.
    ///
    /// # Errors
    ///
    /// Reading fails, or the archive ends before the data do.
    pub fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let left = usize::try_from(self.data_left).unwrap_or(usize::MAX);
        let len = buffer.len().min(left);
        self.read_exact(&mut buffer[..len])?;
        self.data_left -= len as u64;
        Ok(len)
    }

    /// Reads what's behind the archive's end.
    pub(crate) fn drain(&mut self) -> Result<(), ArchiveError> {
        // One byte more shows that there are too many.
        let most = self.archive_bytes.saturating_sub(self.position).saturating_add(1);
        self.position += io::copy(&mut self.reader.by_ref().take(most), &mut io::sink())?;
        self.check_length(0)
    }

    /// Checks that the archive may go on for `len` bytes.
    fn check_length(&self, len: u64) -> Result<(), ArchiveError> {
        let end = self.position.saturating_add(len);
        let limit = self.archive_bytes;
        if end > limit { Err(LimitError::ArchiveBytes(limit).into()) } else { Ok(()) }
    }

    /// `None` at the archive's end.
    fn read_header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let mut header = Header::new_zeroed();
        if self.read_up_to(header.bytes_mut())? == 0 {
            return Ok(None);
        }
        if header.is_zero() {
            // The second record of zeros, if it's there.
            let mut second = Header::new_zeroed();
            return match self.read_up_to(second.bytes_mut())? {
                0 => Ok(None),
                _ if second.is_zero() => Ok(None),
                _ => Err(TarError::Checksum.into()),
            };
        }
        header.check()?;
        Ok(Some(header))
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, ArchiveError> {
        let records = extended.records;
        let stored = records.size.map_or_else(|| header.size(), Ok)?;
        let path = records.sparse_name.or(records.path).or(extended.path);
        let mut path = path.unwrap_or_else(|| header.path());
        let kind = header.kind(&path)?;
        let has_data = kind == Kind::Regular;
        self.set_data(if has_data { stored } else { 0 })?;
        let (mtime, mtime_nsec) = records.mtime.map_or_else(|| header.mtime(), Ok)?;
        let mut entry = Entry {
            link: records.link.or(extended.link).unwrap_or_else(|| header.link()),
            kind,
            mode: header.mode()?,
            uid: records.uid.map_or_else(|| header.uid(), Ok)?,
            gid: records.gid.map_or_else(|| header.gid(), Ok)?,
            mtime,
            mtime_nsec,
            size: if has_data { stored } else { 0 },
            pieces: if has_data { vec![(0, stored)] } else { Vec::new() },
            xattrs: records.xattrs,
            device: match kind {
                Kind::CharDevice | Kind::BlockDevice => header.device()?,
                _ => (0, 0),
            },
            path: std::mem::take(&mut path),
        };
        if has_data {
            self.apply_sparse_map(header, records.sparse, &mut entry)?;
        }
        Ok(entry)
    }

    fn set_data(&mut self, size: u64) -> Result<(), ArchiveError> {
        let padded = size.checked_next_multiple_of(RECORD as u64);
        let padded = padded.filter(|&padded| padded < 1 << 63).ok_or(TarError::Number("size"))?;
        self.check_length(padded)?;
        (self.data_left, self.padding) = (size, padded - size);
        Ok(())
    }

    /// The data of an extended header, which must be within the limit.
    fn read_extended(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        if size > self.extended_header_bytes {
            return Err(TarError::ExtendedHeaderSize(self.extended_header_bytes).into());
        }
        self.set_data(size)?;
        let mut data = vec![0; usize::try_from(size).map_err(|_| TarError::Number("size"))?];
        self.read_data(&mut data)?;
        Ok(data)
    }

    /// A GNU long name, without the NUL at its end.
    fn read_name(&mut self, size: u64) -> Result<Vec<u8>, ArchiveError> {
        let mut name = self.read_extended(size)?;
        if name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        if self.read_up_to(buffer)? < buffer.len() {
            return Err(TarError::Truncated.into());
        }
        Ok(())
    }

    /// Fills the buffer, or reads nothing at the stream's end.
    fn read_up_to(&mut self, buffer: &mut [u8]) -> Result<usize, ArchiveError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(0),
                Ok(0) => return Err(TarError::Truncated.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.position += filled as u64;
        Ok(filled)
    }

    fn skip(&mut self, len: u64) -> Result<(), ArchiveError> {
        let read = io::copy(&mut self.reader.by_ref().take(len), &mut io::sink())?;
        self.position += read;
        if read < len { Err(TarError::Truncated.into()) } else { Ok(()) }
    }
}

/// What extended headers say about the entry after them.
#[derive(Default)]
struct Extended {
    any: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Records,
}

#[cfg(test)]
mod tests;
