//! The maps of GNU's sparse files: which parts of a file are in the archive.

use std::io::Read;

use zerocopy::FromZeros;

use super::header::{self, Header, RECORD};
use super::pax::{self, SparseRecords};
use super::{Archive, ArchiveError, Entry, TarError};

/// Where the old format's header has the map, the mark that more follows, and the real size.
const OLD_MAP: std::ops::Range<usize> = 386..482;
const OLD_IS_EXTENDED: usize = 482;
const OLD_REAL_SIZE: std::ops::Range<usize> = 483..495;
/// Bytes of a piece in the old format: offset and length.
const OLD_PIECE: usize = 24;
/// Where a further record of the old format has its mark.
const FURTHER_IS_EXTENDED: usize = 21 * OLD_PIECE;
/// Bytes that a piece takes in memory.
const PIECE_BYTES: u64 = 16;

impl<R: Read> Archive<R> {
    /// Sets a sparse entry's size and pieces; any other entry stays as it is.
    pub(super) fn apply_sparse_map(
        &mut self,
        header: &Header,
        records: SparseRecords,
        entry: &mut Entry,
    ) -> Result<(), ArchiveError> {
        let (real_size, map) = if header.is_gnu_sparse() {
            let real_size = number(&header.bytes()[OLD_REAL_SIZE])?;
            (real_size, self.read_old_map(header)?)
        } else if let Some(real_size) = records.real_size {
            let map = if records.map_in_data { self.read_map()? } else { pairs(&records.map)? };
            (real_size, map)
        } else {
            return Ok(());
        };
        check(&map, real_size, self.data_left)?;
        (entry.size, entry.pieces) = (real_size, map);
        Ok(())
    }

    /// The old format: 4 pieces in the header, then 21 in each further record.
    fn read_old_map(&mut self, header: &Header) -> Result<Vec<(u64, u64)>, ArchiveError> {
        let mut map = Vec::new();
        let mut more = add_old_pieces(&mut map, &header.bytes()[OLD_MAP])?
            && header.bytes()[OLD_IS_EXTENDED] != 0;
        while more {
            self.check_map_size(map.len())?;
            let mut record = Header::new_zeroed();
            self.read_exact(record.bytes_mut())?;
            let record = record.bytes();
            more = add_old_pieces(&mut map, &record[..FURTHER_IS_EXTENDED])?
                && record[FURTHER_IS_EXTENDED] != 0;
        }
        Ok(map)
    }

    /// Format 1.0: decimal lines at the beginning of the data, padded to a record.
    fn read_map(&mut self) -> Result<Vec<(u64, u64)>, ArchiveError> {
        let mut numbers = Numbers { record: [0; RECORD], next: RECORD };
        let count = numbers.read(self)?;
        let mut map = Vec::new();
        for _ in 0..count {
            self.check_map_size(map.len())?;
            map.push((numbers.read(self)?, numbers.read(self)?));
        }
        Ok(map)
    }

    fn check_map_size(&self, pieces: usize) -> Result<(), TarError> {
        let limit = self.extended_header_bytes;
        if pieces as u64 * PIECE_BYTES >= limit {
            return Err(TarError::ExtendedHeaderSize(limit));
        }
        Ok(())
    }
}

/// The lines of format 1.0's map.
struct Numbers {
    record: [u8; RECORD],
    next: usize,
}

impl Numbers {
    fn read<R: Read>(&mut self, archive: &mut Archive<R>) -> Result<u64, ArchiveError> {
        let mut digits = Vec::with_capacity(20);
        loop {
            if self.next == RECORD {
                if archive.read_data(&mut self.record)? < RECORD {
                    return Err(TarError::SparseMap.into());
                }
                self.next = 0;
            }
            let byte = self.record[self.next];
            self.next += 1;
            match byte {
                b'\n' => return Ok(pax::decimal(&digits).map_err(|_| TarError::SparseMap)?),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(TarError::SparseMap.into()),
            }
        }
    }
}

/// Appends the pieces of a header or record; whether it was full.
fn add_old_pieces(map: &mut Vec<(u64, u64)>, bytes: &[u8]) -> Result<bool, TarError> {
    for piece in bytes.chunks_exact(OLD_PIECE) {
        if piece[0] == 0 {
            return Ok(false);
        }
        map.push((number(&piece[..12])?, number(&piece[12..])?));
    }
    Ok(true)
}

fn number(field: &[u8]) -> Result<u64, TarError> {
    let value = header::number(field, "sparse map").map_err(|_| TarError::SparseMap)?;
    u64::try_from(value).map_err(|_| TarError::SparseMap)
}

fn pairs(numbers: &[u64]) -> Result<Vec<(u64, u64)>, TarError> {
    let (pairs, []) = numbers.as_chunks::<2>() else { return Err(TarError::SparseMap) };
    Ok(pairs.iter().map(|&[offset, len]| (offset, len)).collect())
}

/// Pieces must be in order, apart, within the file, and as long together as the data.
fn check(map: &[(u64, u64)], real_size: u64, stored: u64) -> Result<(), TarError> {
    let (mut end, mut total) = (0, 0_u64);
    for &(offset, len) in map {
        if offset < end {
            return Err(TarError::SparseMap);
        }
        end = offset.checked_add(len).ok_or(TarError::SparseMap)?;
        total = total.checked_add(len).ok_or(TarError::SparseMap)?;
    }
    if end > real_size || total != stored { Err(TarError::SparseMap) } else { Ok(()) }
}
