//! The state file: what a snapshot is, and the state of vCPUs and devices.
//!
//! | bytes | what (numbers are little-endian) |
//! | --- | --- |
//! | 0..8 | `VMCTLSNP` |
//! | 8..12 | version of the format: how to read what follows the header |
//! | 12..16 | length of the header |
//! | 16..24 | length of the state |
//! | 24..28 | flags: none so far |
//! | 28..32 | zeros |
//! | 32.. | the header: a JSON object ([`SnapshotHeader`]), readable in every version |
//! | then | the state: bytes that this crate doesn't look into |
//! | last 32 | SHA-256 of everything before |
//!
//! # Versions
//! A change that an older reader would misunderstand raises [`FORMAT_VERSION`]; one that it may pass
//! over (a new field with a default) doesn't. [`READABLE_VERSIONS`] says which versions this program
//! restores. `tests/data` keeps a snapshot of each.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::SnapshotError;
use crate::header::SnapshotHeader;
use crate::memory::check_regions;
use crate::publish::PendingFile;

/// The format that this program writes.
pub const FORMAT_VERSION: u32 = 1;

/// The formats that this program reads, oldest first.
pub const READABLE_VERSIONS: &[u32] = &[1];

const MAGIC: [u8; 8] = *b"VMCTLSNP";
const PREAMBLE_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 32;

/// Longest header: 128 regions and some text take a tenth of it.
const MAX_HEADER_BYTES: u32 = 1 << 20;

/// Longest state. Hundreds of vCPUs and devices take some megabytes.
const MAX_STATE_BYTES: u64 = 256 << 20;

/// A state file whose every byte was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateFile {
    /// The format's version.
    pub version: u32,
    /// What the snapshot is.
    pub header: SnapshotHeader,
    /// The state of vCPUs and devices, as it was given to [`write`].
    pub state: Vec<u8>,
}

/// Reads and checks the state file at `path`, for restoring it on this machine.
///
/// # Errors
/// [`SnapshotError`], by what is wrong first: not a snapshot, cut off, of an unknown version,
/// damaged, of another architecture.
pub fn open(path: &Path) -> Result<StateFile, SnapshotError> {
    let file = read(path)?;
    let ours = std::env::consts::ARCH;
    if file.header.architecture != ours {
        return Err(SnapshotError::Architecture {
            path: path.to_owned(),
            theirs: file.header.architecture,
            ours: ours.to_owned(),
        });
    }
    Ok(file)
}

/// Reads and checks the state file at `path`, of whatever architecture.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> Result<StateFile, SnapshotError> {
    let mut reader = Reader::open(path)?;
    let preamble = reader.preamble()?;
    let header_bytes = reader.take(preamble.header_bytes.into())?;
    if !READABLE_VERSIONS.contains(&preamble.version) {
        let header = parse_header(path, &header_bytes);
        return Err(SnapshotError::Version {
            path: path.to_owned(),
            version: preamble.version,
            writer: header
                .map_or_else(|_| "an unknown version".to_owned(), |header| header.vmctl_version),
            readable: readable_versions(),
        });
    }
    reader.expect_length(&preamble)?;
    let state = reader.take(preamble.state_bytes)?;
    reader.check_sum()?;
    let header = parse_header(path, &header_bytes)?;
    check_regions(&header.regions).map_err(|reason| SnapshotError::damaged(path, reason))?;
    Ok(StateFile { version: preamble.version, header, state })
}

/// Reads the header of the state file at `path`, of whatever version, without checking what follows.
///
/// # Errors
/// [`SnapshotError`]: unreadable, not a snapshot, cut off, or damaged.
pub fn read_header(path: &Path) -> Result<SnapshotHeader, SnapshotError> {
    read_version_and_header(path).map(|(_, header)| header)
}

/// Reads the format's version, too.
pub(crate) fn read_version_and_header(path: &Path) -> Result<(u32, SnapshotHeader), SnapshotError> {
    let mut reader = Reader::open(path)?;
    let preamble = reader.preamble()?;
    let header = reader.take(preamble.header_bytes.into())?;
    Ok((preamble.version, parse_header(path, &header)?))
}

/// Writes a state file that will be at `path`. It has no name yet: see
/// [`publish_pair`](crate::publish::publish_pair).
///
/// # Errors
/// [`SnapshotError::Io`], also for a header or state that is too long to be read again.
pub fn write(
    path: &Path,
    header: &SnapshotHeader,
    state: &[u8],
) -> Result<PendingFile, SnapshotError> {
    write_version(path, FORMAT_VERSION, header, state)
}

fn write_version(
    path: &Path,
    version: u32,
    header: &SnapshotHeader,
    state: &[u8],
) -> Result<PendingFile, SnapshotError> {
    let fail = |source| SnapshotError::io("write", path)(source);
    let too_long = || fail(std::io::ErrorKind::FileTooLarge.into());
    let header = serde_json::to_vec(header).map_err(|error| fail(error.into()))?;
    let header_bytes = u32::try_from(header.len())
        .ok()
        .filter(|&len| len <= MAX_HEADER_BYTES)
        .ok_or_else(too_long)?;
    let state_bytes = Some(state.len() as u64).filter(|&len| len <= MAX_STATE_BYTES);
    let mut preamble = [0; PREAMBLE_BYTES];
    preamble[..8].copy_from_slice(&MAGIC);
    preamble[8..12].copy_from_slice(&version.to_le_bytes());
    preamble[12..16].copy_from_slice(&header_bytes.to_le_bytes());
    preamble[16..24].copy_from_slice(&state_bytes.ok_or_else(too_long)?.to_le_bytes());
    let pending = PendingFile::create(path)?;
    let mut sum = Sha256::new();
    let mut put = |bytes: &[u8]| {
        sum.update(bytes);
        pending.file().write_all(bytes).map_err(fail)
    };
    put(&preamble)?;
    put(&header)?;
    put(state)?;
    let sum = sum.finalize();
    pending.file().write_all(&sum).map_err(fail)?;
    Ok(pending)
}

/// Returns the readable versions in words, e.g. "1 to 3".
fn readable_versions() -> String {
    match READABLE_VERSIONS {
        [only] => format!("version {only}"),
        [first, .., last] => format!("versions {first} to {last}"),
        [] => "none".to_owned(),
    }
}

fn parse_header(path: &Path, bytes: &[u8]) -> Result<SnapshotHeader, SnapshotError> {
    serde_json::from_slice(bytes)
        .map_err(|error| SnapshotError::damaged(path, format!("its header doesn't parse: {error}")))
}

struct Preamble {
    version: u32,
    header_bytes: u32,
    state_bytes: u64,
}

/// Reads a state file from its start, and sums up what it has read.
struct Reader<'p> {
    path: &'p Path,
    file: File,
    file_bytes: u64,
    sum: Sha256,
}

impl<'p> Reader<'p> {
    fn open(path: &'p Path) -> Result<Self, SnapshotError> {
        // Not to hang on a FIFO that has the name.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(SnapshotError::io("open", path))?;
        let metadata = file.metadata().map_err(SnapshotError::io("read", path))?;
        if !metadata.is_file() {
            return Err(SnapshotError::Foreign { path: path.to_owned(), what: "snapshot" });
        }
        Ok(Self { path, file, file_bytes: metadata.len(), sum: Sha256::new() })
    }

    fn preamble(&mut self) -> Result<Preamble, SnapshotError> {
        let foreign = || SnapshotError::Foreign { path: self.path.to_owned(), what: "snapshot" };
        if self.file_bytes < MAGIC.len() as u64 {
            return Err(foreign());
        }
        let mut bytes = [0; PREAMBLE_BYTES];
        let here = usize::try_from(self.file_bytes).unwrap_or(usize::MAX).min(PREAMBLE_BYTES);
        self.file.read_exact(&mut bytes[..here]).map_err(SnapshotError::io("read", self.path))?;
        if bytes[..8] != MAGIC {
            return Err(foreign());
        }
        if here < PREAMBLE_BYTES {
            return Err(self.truncated((PREAMBLE_BYTES + CHECKSUM_BYTES) as u64));
        }
        self.sum.update(bytes);
        let [.., v0, v1, v2, v3, h0, h1, h2, h3] = *bytes.first_chunk::<16>().unwrap_or(&[0; 16]);
        let [s0, s1, s2, s3, s4, s5, s6, s7, ..] = *bytes.last_chunk::<16>().unwrap_or(&[0; 16]);
        let preamble = Preamble {
            version: u32::from_le_bytes([v0, v1, v2, v3]),
            header_bytes: u32::from_le_bytes([h0, h1, h2, h3]),
            state_bytes: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        };
        if preamble.header_bytes > MAX_HEADER_BYTES {
            return Err(SnapshotError::damaged(self.path, "its header is impossibly long"));
        }
        Ok(preamble)
    }

    /// Checks the length of the file before that much is read. Only of a version that is known.
    fn expect_length(&self, preamble: &Preamble) -> Result<(), SnapshotError> {
        if preamble.state_bytes > MAX_STATE_BYTES {
            return Err(SnapshotError::damaged(self.path, "its state is impossibly long"));
        }
        let frame = (PREAMBLE_BYTES + CHECKSUM_BYTES) as u64;
        let expected = frame + u64::from(preamble.header_bytes) + preamble.state_bytes;
        match self.file_bytes.cmp(&expected) {
            std::cmp::Ordering::Less => Err(self.truncated(expected)),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => {
                Err(SnapshotError::damaged(self.path, "something follows its end"))
            }
        }
    }

    /// Reads `len` bytes, which were checked to be a sane number.
    fn take(&mut self, len: u64) -> Result<Vec<u8>, SnapshotError> {
        let mut bytes = Vec::new();
        (&self.file)
            .take(len)
            .read_to_end(&mut bytes)
            .map_err(SnapshotError::io("read", self.path))?;
        if (bytes.len() as u64) < len {
            return Err(self.truncated((PREAMBLE_BYTES + CHECKSUM_BYTES) as u64 + len));
        }
        self.sum.update(&bytes);
        Ok(bytes)
    }

    fn check_sum(self) -> Result<(), SnapshotError> {
        let mut sum = [0; CHECKSUM_BYTES];
        (&self.file).read_exact(&mut sum).map_err(SnapshotError::io("read", self.path))?;
        if self.sum.finalize()[..] != sum {
            return Err(SnapshotError::damaged(self.path, "its checksum is wrong"));
        }
        Ok(())
    }

    fn truncated(&self, expected_bytes: u64) -> SnapshotError {
        let path = self.path.to_owned();
        SnapshotError::Truncated { path, actual_bytes: self.file_bytes, expected_bytes }
    }
}

#[cfg(test)]
mod tests;
