//! A file on a disk, written and read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, OFlags, fadvise};

use super::fio;
use crate::ProbeError;
use crate::distribution::{latency, per_second};
use crate::error::in_range;
use crate::places::{self, Removed};
use crate::results::{DiskResult, Text, Throughput};

/// What a read or write from the beginning to the end has at a time.
pub(super) const SEQUENTIAL_BYTES: usize = 1 << 20;

/// How direct transfers must lie in memory and in the file.
const ALIGNMENT: usize = 4096;

/// The most random reads or writes.
const MAX_OPERATIONS: u64 = 1 << 24;

/// Flushes that are measured, unless there are fewer operations.
pub(super) const FLUSHES: u64 = 64;

/// What to write and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskJob {
    /// Where a file is made, and removed.
    pub directory: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The size of random reads and writes.
    pub block_bytes: u64,
    /// How many of either.
    pub operations: u64,
    /// Whether they should go past the kernel's cache, where the file system lets them.
    pub direct: bool,
    /// Whether the image's `fio` does the work, if there's one.
    pub fio: bool,
}

/// Measures a disk: by the image's `fio`, if it has one, and otherwise by itself.
///
/// # Errors
///
/// A number makes no sense, or the file can't be written or read. It's removed in any case.
pub fn disk(job: &DiskJob) -> Result<DiskResult, ProbeError> {
    in_range("--block", job.block_bytes, 512, SEQUENTIAL_BYTES as u64)?;
    if !job.block_bytes.is_power_of_two() {
        let message = format!("--block is {}: it must be a power of two", job.block_bytes);
        return Err(ProbeError::Argument(message));
    }
    in_range("--bytes", job.bytes, SEQUENTIAL_BYTES as u64, 1 << 40)?;
    in_range("--operations", job.operations, 1, MAX_OPERATIONS)?;
    let path = places::fresh(&job.directory);
    let file = Removed(path);
    let (direct, direct_error) = if job.direct { direct_io(&file.0)? } else { (false, None) };
    if let Some(program) = job.fio.then(fio::find).flatten() {
        return fio::run(&program, job, &file.0, direct, direct_error);
    }
    own(job, &file.0, direct, direct_error)
}

/// Finds out whether a file can be written past the kernel's cache.
fn direct_io(path: &Path) -> Result<(bool, Option<Text>), ProbeError> {
    File::create(path).map_err(at("create", path))?;
    let mut block = Aligned::new(ALIGNMENT);
    let tried = open(path, true).and_then(|file| file.write_all_at(block.get(), 0));
    fs::remove_file(path).map_err(at("remove", path))?;
    let _ = block.get_mut();
    match tried {
        Ok(()) => Ok((true, None)),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(at("write", path)(error)),
        Err(error) => Ok((false, Some(Text::from(error.to_string())))),
    }
}

fn own(
    job: &DiskJob,
    path: &Path,
    direct: bool,
    direct_error: Option<Text>,
) -> Result<DiskResult, ProbeError> {
    let sequential_write = write_all(job, path).map_err(at("write", path))?;
    let sequential_read = read_all(job, path).map_err(at("read", path))?;
    let file = open(path, direct).map_err(at("open", path))?;
    let random_read = random(job, |buffer, offset| file.read_exact_at(buffer.get_mut(), offset))
        .map_err(at("read", path))?;
    let random_write = random(job, |buffer, offset| file.write_all_at(buffer.get(), offset))
        .map_err(at("write", path))?;
    let flushed = DiskJob { operations: job.operations.min(FLUSHES), ..job.clone() };
    let mut times = Vec::new();
    random(&flushed, |buffer, offset| {
        file.write_all_at(buffer.get(), offset)?;
        let clock = Instant::now();
        file.sync_all()?;
        times.push(clock.elapsed());
        Ok(())
    })
    .map_err(at("flush", path))?;
    Ok(DiskResult {
        tool: Text::from("vmctl's own"),
        bytes: job.bytes,
        block_bytes: job.block_bytes,
        operations: job.operations,
        direct,
        direct_error,
        sequential_write,
        sequential_read,
        random_read,
        random_write,
        fsync: latency(times),
    })
}

fn at(what: &'static str, path: &Path) -> impl Fn(io::Error) -> ProbeError {
    move |source| ProbeError::File { what, path: path.to_owned(), source }
}

fn open(path: &Path, direct: bool) -> io::Result<File> {
    let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// Writes the file, and flushes it: until then it's only in the kernel's memory.
fn write_all(job: &DiskJob, path: &Path) -> io::Result<Throughput> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    // Not zeros, which some disks don't store.
    let mut content = vec![0; SEQUENTIAL_BYTES];
    fastrand::Rng::with_seed(1).fill(&mut content);
    let clock = Instant::now();
    let times = in_pieces(job.bytes, |size| file.write_all(&content[..size]))?;
    file.sync_all()?;
    Ok(throughput(job.bytes, times, clock.elapsed()))
}

/// Reads the file, of which the kernel should have nothing left in memory. In a virtual machine
/// that's the guest's kernel only.
fn read_all(job: &DiskJob, path: &Path) -> io::Result<Throughput> {
    let mut file = File::open(path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut content = vec![0; SEQUENTIAL_BYTES];
    let clock = Instant::now();
    let times = in_pieces(job.bytes, |size| file.read_exact(&mut content[..size]))?;
    Ok(throughput(job.bytes, times, clock.elapsed()))
}

/// Does something for each piece of the file, and returns how long each took.
fn in_pieces(
    bytes: u64,
    mut each: impl FnMut(usize) -> io::Result<()>,
) -> io::Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(SEQUENTIAL_BYTES);
        let clock = Instant::now();
        each(size)?;
        times.push(clock.elapsed());
        left -= size as u64;
    }
    Ok(times)
}

/// Does something for blocks anywhere in the file: the same ones in each run.
fn random(
    job: &DiskJob,
    mut each: impl FnMut(&mut Aligned, u64) -> io::Result<()>,
) -> io::Result<Throughput> {
    let mut random = fastrand::Rng::with_seed(2);
    let mut buffer = Aligned::new(usize::try_from(job.block_bytes).unwrap_or(ALIGNMENT));
    let blocks = job.bytes / job.block_bytes;
    let mut times = Vec::new();
    let clock = Instant::now();
    for _ in 0..job.operations {
        let offset = random.u64(..blocks) * job.block_bytes;
        let one = Instant::now();
        each(&mut buffer, offset)?;
        times.push(one.elapsed());
    }
    Ok(throughput(job.operations.saturating_mul(job.block_bytes), times, clock.elapsed()))
}

fn throughput(bytes: u64, times: Vec<Duration>, elapsed: Duration) -> Throughput {
    Throughput {
        bytes_per_second: per_second(bytes, elapsed),
        operations_per_second: per_second(times.len() as u64, elapsed),
        latency: latency(times),
    }
}

/// A buffer that direct transfers can use.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    size: usize,
}

impl Aligned {
    fn new(size: usize) -> Self {
        let bytes = vec![0x5a; size + ALIGNMENT];
        // The vector never grows: its bytes stay where they are.
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start, size }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.size]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(directory: &Path) -> DiskJob {
        DiskJob {
            directory: directory.to_owned(),
            bytes: (2 << 20) + 4096,
            block_bytes: 4096,
            operations: 20,
            direct: true,
            fio: false,
        }
    }

    fn is_empty(directory: &Path) -> bool {
        fs::read_dir(directory).unwrap().next().is_none()
    }

    #[test]
    fn disk_is_measured_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let result = disk(&job(directory.path())).unwrap();
        assert_eq!(result.random_read.latency.count, 20);
        assert_eq!(result.random_write.latency.count, 20);
        // Two pieces and the rest.
        assert_eq!(result.sequential_write.latency.count, 3);
        assert_eq!(result.sequential_read.latency.count, 3);
        assert_eq!(result.fsync.count, 20);
        assert_eq!(result.direct, result.direct_error.is_none());
        assert!(is_empty(directory.path()));
    }

    #[test]
    fn disk_that_gets_full_is_an_error_and_left_as_it_was() {
        // As full as a disk gets: writes to it fail.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let file = Removed(path.clone());
        let result = direct_io(&file.0);
        drop(file);
        assert!(
            matches!(result, Err(ProbeError::File { .. }) | Ok((false, Some(_)))),
            "{result:?}"
        );
        assert!(is_empty(directory.path()));
    }

    #[test]
    fn directory_that_is_not_there_is_an_error() {
        let result = disk(&job(Path::new("/no/such/directory")));
        assert!(matches!(result, Err(ProbeError::File { .. })), "{result:?}");
    }

    #[test]
    fn numbers_that_make_no_sense_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let good = job(directory.path());
        for wrong in [
            DiskJob { bytes: 0, ..good.clone() },
            DiskJob { bytes: u64::MAX, ..good.clone() },
            DiskJob { block_bytes: 0, ..good.clone() },
            DiskJob { block_bytes: 5000, ..good.clone() },
            DiskJob { block_bytes: u64::MAX, ..good.clone() },
            DiskJob { operations: 0, ..good.clone() },
            DiskJob { operations: u64::MAX, ..good.clone() },
        ] {
            assert!(disk(&wrong).is_err(), "{wrong:?}");
        }
        assert!(is_empty(directory.path()));
    }
}
