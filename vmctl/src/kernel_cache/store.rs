//! The cache's directory: who may write it, what's in it, and how long that stays.

use std::env;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::process::geteuid;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::bzimage::{HEADER_BYTES, Payload, is_bzimage};
use super::{CacheError, io_error};

/// How many unpacked kernels stay: those that were used last.
const MAX_KERNELS: usize = 8;

/// The largest bzImage that's read.
const MAX_IMAGE_BYTES: u64 = 256 << 20;

/// How long ago a file must have changed for its times to stand for its content, in seconds.
const SETTLED_S: u64 = 2;

/// The mode bits that let others write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The directory of unpacked kernels.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens the user's cache, making it if it isn't there.
    pub(super) fn open() -> Result<Self, CacheError> {
        let given = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = given("XDG_CACHE_HOME")
            .or_else(|| given("HOME").map(|home| home.join(".cache")))
            .ok_or(CacheError::NoDirectory)?;
        Self::open_at(caches.join("vmctl/unpacked"))
    }

    /// Opens a directory that nobody else may write to: a kernel from there is trusted like the one
    /// that the user named.
    pub(super) fn open_at(dir: PathBuf) -> Result<Self, CacheError> {
        let seen = dir.join("seen");
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&seen).map_err(io_error("the cache can't be made"))?;
        // It travels as JSON, which has no other strings.
        if dir.to_str().is_none() {
            return Err(CacheError::NoDirectory);
        }
        for dir in [&dir, &seen] {
            let meta =
                fs::symlink_metadata(dir).map_err(io_error("the cache can't be looked at"))?;
            let is_own = meta.uid() == geteuid().as_raw();
            if !meta.is_dir() || !is_own || meta.mode() & WRITABLE_BY_OTHERS != 0 {
                return Err(CacheError::Untrusted(dir.clone()));
            }
        }
        Ok(Self { dir })
    }

    /// Where the unpacked kernel is, after unpacking it if need be. `now` is the wall clock's time.
    pub(super) fn unpacked(&self, kernel: &Path, now: SystemTime) -> Result<PathBuf, CacheError> {
        const READ: &str = "the kernel can't be read";
        let mut file = File::open(kernel).map_err(io_error(READ))?;
        let before = file.metadata().map_err(io_error(READ))?;
        let mut image = Vec::with_capacity(HEADER_BYTES);
        (&mut file).take(HEADER_BYTES as u64).read_to_end(&mut image).map_err(io_error(READ))?;
        if !before.is_file() || before.len() > MAX_IMAGE_BYTES || !is_bzimage(&image) {
            return Err(CacheError::NotPacked);
        }
        let path = kernel.canonicalize().map_err(io_error(READ))?;
        let seen = self.dir.join("seen").join(key(&path, &before));
        if let Some(unpacked) = self.known(&seen) {
            return Ok(unpacked);
        }
        (&mut file).take(MAX_IMAGE_BYTES).read_to_end(&mut image).map_err(io_error(READ))?;
        let unpacked = self.dir.join(format!("{:x}.vmlinux", Sha256Hex(&[&image])));
        if !unpacked.is_file() {
            self.prune();
            self.insert(&image, &unpacked)?;
        }
        let after = file.metadata().map_err(io_error(READ))?;
        if key(&path, &after) == key(&path, &before) && is_settled(&after, now) {
            remember(&seen, &unpacked);
        }
        Ok(unpacked)
    }

    /// The unpacked kernel of a file that was seen before.
    fn known(&self, seen: &Path) -> Option<PathBuf> {
        let target = fs::read_link(seen).ok()?;
        let unpacked = self.dir.join(target.file_name()?);
        if !unpacked.is_file() {
            return None;
        }
        // Used just now: the last to be removed. Should that fail, it's merely unpacked again one
        // day.
        let _ = File::open(&unpacked).and_then(|file| file.set_modified(SystemTime::now()));
        Some(unpacked)
    }

    /// Unpacks into a file that gets its name only once it's whole.
    fn insert(&self, image: &[u8], unpacked: &Path) -> Result<(), CacheError> {
        const WRITE: &str = "the cache can't be written";
        let payload = Payload::find(image)?;
        let mut file = NamedTempFile::new_in(&self.dir).map_err(io_error(WRITE))?;
        payload.unpack(&mut file)?;
        // A name must not outlive its content in a crash of the host.
        file.as_file().sync_data().map_err(io_error(WRITE))?;
        file.persist(unpacked).map_err(|error| io_error(WRITE)(error.error))?;
        Ok(())
    }

    /// Removes the kernels that were used longest ago, to leave room for one more, with what an
    /// interrupted run left, and the links that lead nowhere then. Best effort.
    fn prune(&self) {
        let mut files: Vec<_> = entries(&self.dir)
            .filter(|(_, meta)| meta.is_file())
            .filter_map(|(path, meta)| Some((meta.modified().ok()?, path)))
            .collect();
        files.sort();
        let surplus = (files.len() + 1).saturating_sub(MAX_KERNELS);
        for (_, path) in files.iter().take(surplus) {
            let _ = fs::remove_file(path);
        }
        for (link, _) in entries(&self.dir.join("seen")) {
            if !link.exists() {
                let _ = fs::remove_file(link);
            }
        }
    }
}

/// What a directory has, with the links themselves rather than what they lead to.
fn entries(dir: &Path) -> impl Iterator<Item = (PathBuf, Metadata)> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        let meta = fs::symlink_metadata(&path).ok()?;
        Some((path, meta))
    })
}

/// Names a file's content by what changes with it: nobody sets `ctime`. Numbers of devices and
/// inodes aren't in it, as network and overlay file systems make them up anew.
fn key(path: &Path, meta: &Metadata) -> String {
    let times = format!(
        "/{}/{}.{}/{}.{}",
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    );
    format!("{:x}", Sha256Hex(&[path.as_os_str().as_bytes(), times.as_bytes()]))
}

/// Whether a further change would show in the file's times, whose clock ticks in milliseconds.
fn is_settled(meta: &Metadata, now: SystemTime) -> bool {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(meta.ctime()).is_ok_and(|changed| changed + SETTLED_S <= now.as_secs())
}

/// Links the key of a file to what it unpacks to. Should that fail, it's merely hashed again.
fn remember(seen: &Path, unpacked: &Path) {
    if let Some(name) = unpacked.file_name() {
        let _ = fs::remove_file(seen);
        let _ = symlink(Path::new("..").join(name), seen);
    }
}

/// The SHA-256 of some pieces, in hexadecimal.
struct Sha256Hex<'a>(&'a [&'a [u8]]);

impl std::fmt::LowerHex for Sha256Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut hash = Sha256::new();
        self.0.iter().for_each(|piece| hash.update(piece));
        hash.finalize().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
