//! Writes regular files' data as they come, and finds the holes worth having.

use std::io::Read;

use super::AddError;
use crate::limits::LimitError;
use crate::ondisk::{BLOCK, BLOCK_SIZE};
use crate::output::Output;
use crate::tar::{Archive, Entry, TarError};
use crate::tree::{Data, Run};

/// Bytes read at once.
pub(super) const BUFFER_SIZE: usize = 256 << 10;
/// Zeros of fewer blocks don't make a file chunk-based, which costs 4 bytes for each chunk.
const MIN_HOLE_BLOCKS: u64 = 16;
/// A file's chunks are so large that it doesn't have more of them.
const MAX_CHUNKS: u64 = 1 << 16;

/// Copies the present entry's data from the archive to the output.
pub(super) fn write<R: Read>(
    archive: &mut Archive<R>,
    output: &mut Output<'_>,
    entry: &Entry,
    buffer: &mut [u8],
) -> Result<Data, AddError> {
    let mut file = FileWriter::new(output, entry.size)?;
    let mut offset = 0;
    for &(start, len) in &entry.pieces {
        file.zeros(start - offset)?;
        let mut left = len;
        while left > 0 {
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = archive.read_data(&mut buffer[..wanted])?;
            if read == 0 {
                return Err(AddError::Read(TarError::Truncated.into()));
            }
            file.bytes(&buffer[..read])?;
            left -= read as u64;
        }
        offset = start + len;
    }
    file.zeros(entry.size - offset)?;
    file.finish()
}

/// A file on its way to the disk. Blocks of zeros wait until it's known whether they're enough for
/// a hole.
struct FileWriter<'a, 'b> {
    output: &'a mut Output<'b>,
    chunk_bits: u8,
    /// Blocks that have their place on the disk.
    placed: u64,
    /// Blocks of zeros after those.
    zeros: u64,
    /// Bytes of an incomplete block after those.
    partial: Vec<u8>,
    runs: Vec<Run>,
    /// The last run goes on.
    in_run: bool,
}

impl<'a, 'b> FileWriter<'a, 'b> {
    fn new(output: &'a mut Output<'b>, size: u64) -> Result<Self, AddError> {
        output.pad_to_block().map_err(AddError::Write)?;
        let chunks = size.div_ceil(BLOCK_SIZE).div_ceil(MAX_CHUNKS);
        let chunk_bits = u8::try_from(chunks.next_power_of_two().trailing_zeros()).expect("< 64");
        let partial = Vec::with_capacity(BLOCK);
        let runs = Vec::new();
        Ok(Self { output, chunk_bits, placed: 0, zeros: 0, partial, runs, in_run: false })
    }

    /// Appends zeros without looking at each.
    fn zeros(&mut self, mut len: u64) -> Result<(), AddError> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        if !self.partial.is_empty() {
            let fill = (BLOCK - self.partial.len()).min(usize::try_from(len).unwrap_or(BLOCK));
            self.bytes(&ZEROS[..fill])?;
            len -= fill as u64;
        }
        self.zeros += len / BLOCK_SIZE;
        let rest = usize::try_from(len % BLOCK_SIZE).expect("less than a block");
        self.bytes(&ZEROS[..rest])
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), AddError> {
        if !self.partial.is_empty() {
            let (fill, rest) = bytes.split_at(bytes.len().min(BLOCK - self.partial.len()));
            self.partial.extend_from_slice(fill);
            bytes = rest;
            if self.partial.len() == BLOCK {
                self.partial_block()?;
            }
        }
        let (mut blocks, rest) = bytes.as_chunks::<BLOCK>();
        while let Some(block) = blocks.first() {
            let zero = is_zero(block);
            let count = blocks.iter().position(|block| is_zero(block) != zero);
            let (run, rest) = blocks.split_at(count.unwrap_or(blocks.len()));
            if zero {
                self.zeros += run.len() as u64
            } else {
                self.place(run.as_flattened())?
            }
            blocks = rest;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Appends the incomplete block, as it is or filled up.
    fn partial_block(&mut self) -> Result<(), AddError> {
        let mut block = std::mem::take(&mut self.partial);
        block.resize(BLOCK, 0);
        if is_zero(&block) {
            self.zeros += 1
        } else {
            self.place(&block)?
        }
        block.clear();
        self.partial = block;
        Ok(())
    }

    /// Puts whole blocks on the disk, after the zeros that wait.
    fn place(&mut self, blocks: &[u8]) -> Result<(), AddError> {
        self.settle_zeros(false)?;
        self.output.write(blocks).map_err(AddError::Write)?;
        self.placed += blocks.len() as u64 / BLOCK_SIZE;
        Ok(())
    }

    /// Decides about the zeros that wait: the whole chunks of them are a hole if they're enough,
    /// and anything else gets its place on the disk.
    fn settle_zeros(&mut self, at_end: bool) -> Result<(), AddError> {
        let chunk_blocks = 1 << self.chunk_bits;
        let next = self.placed + std::mem::take(&mut self.zeros);
        let hole_start = self.placed.next_multiple_of(chunk_blocks);
        let hole_end = match at_end {
            true => next.next_multiple_of(chunk_blocks),
            false => next / chunk_blocks * chunk_blocks,
        };
        if hole_end.saturating_sub(hole_start) >= MIN_HOLE_BLOCKS {
            self.place_zeros(hole_start)?;
            self.end_run();
            self.placed = if at_end { next } else { hole_end };
        }
        if self.placed == next && at_end {
            return Ok(());
        }
        if !self.in_run {
            self.begin_run()?;
        }
        self.place_zeros(next)
    }

    /// Gives zeros their place up to the block `end`; nothing is there to be filled outside of a
    /// run.
    fn place_zeros(&mut self, end: u64) -> Result<(), AddError> {
        let blocks = end - self.placed;
        self.placed = end;
        self.output.skip(blocks * BLOCK_SIZE).map_err(AddError::Write)
    }

    fn begin_run(&mut self) -> Result<(), AddError> {
        let block = self.output.block().ok_or(LimitError::Addresses)?;
        self.runs.push(Run { first_chunk: self.placed >> self.chunk_bits, chunks: 0, block });
        self.in_run = true;
        Ok(())
    }

    fn end_run(&mut self) {
        if let Some(run) = self.runs.last_mut().filter(|_| self.in_run) {
            run.chunks = self.placed.div_ceil(1 << self.chunk_bits) - run.first_chunk;
        }
        self.in_run = false;
    }

    fn finish(mut self) -> Result<Data, AddError> {
        if !self.partial.is_empty() {
            self.partial_block()?;
        }
        self.settle_zeros(true)?;
        self.end_run();
        let chunks = self.placed.div_ceil(1 << self.chunk_bits);
        Ok(match *self.runs {
            [] if chunks == 0 => Data::Flat { block: 0 },
            [run] if run.chunks == chunks => Data::Flat { block: run.block },
            _ => Data::Chunked { chunk_bits: self.chunk_bits, runs: self.runs.into_boxed_slice() },
        })
    }
}

fn is_zero(block: &[u8]) -> bool {
    block == [0; BLOCK]
}
