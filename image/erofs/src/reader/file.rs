//! Where files' content lies, and reading it.

use std::io;

use super::{FileType, Inode, ReadError, Reader};
use crate::metadata;
use crate::ondisk::{self, BLOCK_SIZE, layout};
use crate::source::ReadAt;
use crate::tree::{Data, Run};

/// Piece of a file's content.
struct Extent {
    /// Where it lies; `None`: it's zeros.
    position: Option<u64>,
    len: u64,
}

impl<S: ReadAt> Reader<S> {
    /// Reads a regular file from `offset` on and returns how many bytes there were: fewer than
    /// `buffer` takes only at the file's end.
    ///
    /// # Errors
    ///
    /// When it isn't a regular file, is damaged or can't be read.
    pub fn read_at(
        &self,
        inode: &Inode,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, ReadError> {
        inode.expect(FileType::Regular, "regular file")?;
        let left = usize::try_from(inode.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        self.read_content(inode, offset, &mut buffer[..len])?;
        Ok(len)
    }

    /// Reads a whole regular file of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// When it's larger, isn't a regular file, is damaged or can't be read.
    pub fn read_file(&self, inode: &Inode, limit: u64) -> Result<Vec<u8>, ReadError> {
        inode.expect(FileType::Regular, "regular file")?;
        let len = usize::try_from(inode.size).ok().filter(|_| inode.size <= limit);
        let mut content = vec![0; len.ok_or(ReadError::FileSize { nid: inode.nid, limit })?];
        self.read_content(inode, 0, &mut content)?;
        Ok(content)
    }

    /// Opens a regular file for reading from its beginning.
    ///
    /// # Errors
    ///
    /// When it isn't a regular file.
    pub fn open_file(&self, inode: &Inode) -> Result<FileReader<'_, S>, ReadError> {
        inode.expect(FileType::Regular, "regular file")?;
        Ok(FileReader { reader: self, inode: inode.clone(), offset: 0 })
    }

    /// Fills `buffer` from any inode's content, of which there must be as much.
    pub(super) fn read_content(
        &self,
        inode: &Inode,
        mut offset: u64,
        mut buffer: &mut [u8],
    ) -> Result<(), ReadError> {
        while !buffer.is_empty() {
            let extent = self.extent(inode, offset)?;
            let len = usize::try_from(extent.len).unwrap_or(usize::MAX).min(buffer.len());
            let (here, rest) = buffer.split_at_mut(len);
            match extent.position {
                None => here.fill(0),
                Some(position) if inode.file_type == FileType::Regular => {
                    let result = self.source.read_exact_at(here, position);
                    result.map_err(|source| ReadError::Io { offset: position, len, source })?;
                }
                Some(position) => self.read_metadata(here, position)?,
            }
            offset += len as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// Where the content at `offset` lies, and how much of it is there in one piece.
    fn extent(&self, inode: &Inode, offset: u64) -> Result<Extent, ReadError> {
        let left = inode.size.checked_sub(offset).filter(|&left| left > 0);
        let left = left.ok_or_else(|| inode.corrupt("its content is too short"))?;
        match inode.layout {
            layout::CHUNK_BASED => self.chunk(inode, offset, left),
            layout::FLAT_INLINE => {
                let tail_start = (inode.size - 1) / BLOCK_SIZE * BLOCK_SIZE;
                if offset < tail_start {
                    return self.mapped(inode, inode.data, offset, tail_start - offset);
                }
                let position = inode.tail.checked_add(offset - tail_start);
                let position =
                    position.filter(|position| position % BLOCK_SIZE + left <= BLOCK_SIZE);
                let position = position.ok_or_else(|| inode.corrupt("its content's tail"))?;
                Ok(Extent { position: Some(position), len: left })
            }
            _ => self.mapped(inode, inode.data, offset, left),
        }
    }

    fn chunk(&self, inode: &Inode, offset: u64, left: u64) -> Result<Extent, ReadError> {
        let chunk_size = chunk_size(inode)?;
        let (number, in_chunk) = (offset / chunk_size, offset % chunk_size);
        let len = left.min(chunk_size - in_chunk);
        let entry = number.checked_mul(4).and_then(|entry| entry.checked_add(inode.tail));
        let entry = entry.ok_or_else(|| inode.corrupt("its chunks' map"))?;
        let mut block = [0; 4];
        self.read_metadata(&mut block, entry)?;
        match u32::from_le_bytes(block) {
            ondisk::HOLE => Ok(Extent { position: None, len }),
            block => self.mapped(inode, block, in_chunk, len),
        }
    }

    /// The `len` bytes at `offset` behind a block, which must be within the file system.
    fn mapped(
        &self,
        inode: &Inode,
        block: u32,
        offset: u64,
        len: u64,
    ) -> Result<Extent, ReadError> {
        let position = (u64::from(block) * BLOCK_SIZE).checked_add(offset);
        let end = position.and_then(|position| position.checked_add(len));
        if end.is_none_or(|end| end > self.len_bytes()) {
            return Err(inode.corrupt("its content is out of range"));
        }
        Ok(Extent { position, len })
    }

    /// Where a regular file's data lie, which must be within `limit` blocks and have at most
    /// `max_chunks` chunks.
    pub(crate) fn data(
        &self,
        inode: &Inode,
        limit: u64,
        max_chunks: u64,
    ) -> Result<Data, ReadError> {
        let out_of_range = || inode.corrupt("its content is out of range");
        let check = |block: u32, blocks: u64| {
            let end = u64::from(block).checked_add(blocks).filter(|&end| end <= limit);
            end.map(|_| ()).ok_or_else(out_of_range)
        };
        match inode.layout {
            layout::FLAT_PLAIN if inode.size == 0 => Ok(Data::Flat { block: 0 }),
            layout::FLAT_PLAIN => {
                check(inode.data, inode.size.div_ceil(BLOCK_SIZE))?;
                Ok(Data::Flat { block: inode.data })
            }
            layout::CHUNK_BASED => {
                let chunk_blocks = chunk_size(inode)? / BLOCK_SIZE;
                let chunk_bits = u8::try_from(inode.data).map_err(|_| out_of_range())?;
                let count = metadata::chunk_count(inode.size, chunk_bits);
                if count > max_chunks {
                    return Err(inode.corrupt("it has too many chunks"));
                }
                let mut runs: Vec<Run> = Vec::new();
                for (chunk, block) in (0..).zip(self.chunk_blocks(inode, count)?) {
                    if block == ondisk::HOLE {
                        continue;
                    }
                    let first = chunk * chunk_blocks;
                    check(block, chunk_blocks.min(inode.size.div_ceil(BLOCK_SIZE) - first))?;
                    append(&mut runs, chunk, block, chunk_blocks);
                }
                Ok(Data::Chunked { chunk_bits, runs: runs.into_boxed_slice() })
            }
            _ => Err(ReadError::Unsupported("regular files with inline content")),
        }
    }

    /// A chunk-based file's map.
    fn chunk_blocks(&self, inode: &Inode, count: u64) -> Result<Vec<u32>, ReadError> {
        let end = count.checked_mul(4).and_then(|len| len.checked_add(inode.tail));
        let map_error = || inode.corrupt("its chunks' map");
        // So that no more is allocated than is there, whatever the superblock says.
        let source_len = self.source.len_bytes();
        let source_len =
            source_len.map_err(|source| ReadError::Io { offset: inode.tail, len: 0, source })?;
        if end.is_none_or(|end| end > source_len) {
            return Err(map_error());
        }
        let mut bytes = vec![0; usize::try_from(count * 4).map_err(|_| map_error())?];
        self.read_metadata(&mut bytes, inode.tail)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|&block| u32::from_le_bytes(block)).collect())
    }
}

/// Adds a chunk to the last run if it goes on there, else to a new one.
fn append(runs: &mut Vec<Run>, chunk: u64, block: u32, chunk_blocks: u64) {
    if let Some(run) = runs.last_mut() {
        let next_block = u64::from(run.block) + run.chunks * chunk_blocks;
        if run.first_chunk + run.chunks == chunk && next_block == block.into() {
            run.chunks += 1;
            return;
        }
    }
    runs.push(Run { first_chunk: chunk, chunks: 1, block });
}

/// The bytes of a chunk: what's beyond 32-bit block addresses makes no sense.
fn chunk_size(inode: &Inode) -> Result<u64, ReadError> {
    // At most 31 bits: `Reader::inode` checked it.
    BLOCK_SIZE.checked_shl(inode.data).ok_or_else(|| inode.corrupt("its chunks' format"))
}

/// A regular file being read.
#[derive(Debug)]
pub struct FileReader<'a, S> {
    reader: &'a Reader<S>,
    inode: Inode,
    offset: u64,
}

impl<S: ReadAt> io::Read for FileReader<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read_at(&self.inode, self.offset, buffer);
        let read = read.map_err(io::Error::other)?;
        self.offset += read as u64;
        Ok(read)
    }
}
