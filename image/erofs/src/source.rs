//! What file systems are read from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::ondisk::BLOCK_SIZE;

/// Bytes at offsets: a file, memory, or a [`ConcatSource`].
pub trait ReadAt {
    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    ///
    /// As the source fails, and `UnexpectedEof` when it ends before the buffer does.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// The source's length in bytes.
    ///
    /// # Errors
    ///
    /// As the source fails.
    fn len_bytes(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| self.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.as_slice().len_bytes()
    }
}

impl<S: ReadAt + ?Sized> ReadAt for &S {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        (**self).len_bytes()
    }
}

impl<S: ReadAt + ?Sized> ReadAt for Box<S> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        (**self).len_bytes()
    }
}

/// Several sources one after the other, each padded with zeros to a multiple of 4096 bytes: a
/// merged image's metadata and the layers' blobs, as the guest's disk has them.
#[derive(Debug)]
pub struct ConcatSource<S = File> {
    parts: Vec<Part<S>>,
    len: u64,
}

#[derive(Debug)]
struct Part<S> {
    source: S,
    start: u64,
    len: u64,
}

impl<S: ReadAt> ConcatSource<S> {
    /// Joins sources whose lengths don't change from now on.
    ///
    /// # Errors
    ///
    /// When a source's length can't be found out, or the sum is larger than 64 bits.
    pub fn new(sources: impl IntoIterator<Item = S>) -> io::Result<Self> {
        let (mut parts, mut start) = (Vec::new(), 0_u64);
        for source in sources {
            let len = source.len_bytes()?;
            let padded = len.checked_next_multiple_of(BLOCK_SIZE);
            parts.push(Part { source, start, len });
            let end = padded.and_then(|padded| start.checked_add(padded));
            start = end.ok_or(io::ErrorKind::FileTooLarge)?;
        }
        Ok(Self { parts, len: start })
    }
}

impl<S: ReadAt> ReadAt for ConcatSource<S> {
    fn read_exact_at(&self, mut buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64).filter(|&end| end <= self.len);
        end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut offset = offset;
        let first = self.parts.partition_point(|part| part.start <= offset).saturating_sub(1);
        let mut parts = self.parts[first..].iter().peekable();
        while let Some(part) = parts.next() {
            let end = parts.peek().map_or(self.len, |next| next.start);
            let (here, rest) = buffer.split_at_mut(clamp(end - offset, buffer.len()));
            let in_part = offset - part.start;
            let (data, padding) =
                here.split_at_mut(clamp(part.len.saturating_sub(in_part), here.len()));
            if !data.is_empty() {
                part.source.read_exact_at(data, in_part)?;
            }
            padding.fill(0);
            if rest.is_empty() {
                break;
            }
            (buffer, offset) = (rest, end);
        }
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len)
    }
}

fn clamp(len: u64, most: usize) -> usize {
    usize::try_from(len).map_or(most, |len| len.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_sources_read_as_padded_pieces() {
        let parts = [vec![1; 5000], vec![], vec![2; 4096], vec![3; 1]];
        let source = ConcatSource::new(parts).unwrap();
        let mut all = vec![9; 4 * 4096];
        assert_eq!(source.len_bytes().unwrap(), all.len() as u64);
        source.read_exact_at(&mut all, 0).unwrap();
        let expected = [vec![1; 5000], vec![0; 3192], vec![2; 4096], vec![3], vec![0; 4095]];
        assert!(all == expected.concat());
        for (start, len) in [(4999, 2), (8191, 2), (8192, 0), (12_287, 3), (16_383, 1), (0, 1)] {
            let mut some = vec![9; len];
            source.read_exact_at(&mut some, start as u64).unwrap();
            assert_eq!(some, all[start..start + len]);
        }
    }

    #[test]
    fn reading_past_the_end_is_an_error() {
        let source = ConcatSource::new([vec![1; 10]]).unwrap();
        let eof = |offset, len| {
            let error = source.read_exact_at(&mut vec![0; len], offset).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        };
        eof(4096, 1);
        eof(4000, 97);
        eof(u64::MAX, 2);
    }
}
