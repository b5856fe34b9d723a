//! The disk that a container writes to: a sparse file with an empty ext4, a copy of one that's made
//! once for each data root.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;

use crate::RuntimeError;
use crate::error::{file, system};
use crate::files::{self, LockFile};
use crate::paths::{Paths, make_dir};

/// What a container can write, in bytes; the file is as large as what it has written.
const SIZE_BYTES: u64 = 64 << 30;

/// The empty file system's name among the assets; another one when what's made changes.
const TEMPLATE: &str = "upper-1.img";

/// The program that makes file systems, and where it is for those whose `PATH` lacks it.
const MKFS: &str = "mke2fs";
const SYSTEM_DIRS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Sees that the disk is there. One that's there keeps what was written to it.
pub(super) fn provide(paths: &Paths, disk: &Path) -> Result<(), RuntimeError> {
    if disk.exists() {
        return Ok(());
    }
    let template = template(paths)?;
    let unfinished = disk.with_extension("tmp");
    copy_sparse(&template, &unfinished)
        .and_then(|()| fs::rename(&unfinished, disk))
        .map_err(file("create", disk))
}

/// The empty file system, made if it isn't there yet.
fn template(paths: &Paths) -> Result<PathBuf, RuntimeError> {
    let dir = paths.assets();
    let template = dir.join(TEMPLATE);
    if template.exists() {
        return Ok(template);
    }
    make_dir(&dir)?;
    let lock = dir.join("lock");
    let _lock = LockFile::take(&lock).map_err(file("lock", &lock))?;
    if template.exists() {
        return Ok(template);
    }
    let unfinished = dir.join("upper.tmp");
    files::remove_file(&unfinished).map_err(file("remove", &unfinished))?;
    create(&unfinished)
        .and_then(|file| file.set_len(SIZE_BYTES))
        .map_err(file("create", &unfinished))?;
    make_file_system(&unfinished)?;
    fs::rename(&unfinished, &template).map_err(file("create", &template))?;
    Ok(template)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)
}

/// Makes an ext4. In a file that's all holes nothing has to be zeroed, neither now nor by the
/// guest's kernel later; the journal is small, as all of it is written sooner or later.
fn make_file_system(path: &Path) -> Result<(), RuntimeError> {
    let program = find_mkfs()?;
    let mut command = Command::new(&program);
    command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-i", "16384", "-m", "0"]);
    command.args([
        "-O",
        "^resize_inode",
        "-J",
        "size=16",
        "-E",
        "root_owner=0:0,discard,lazy_journal_init=1",
    ]);
    let output = command
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(file("run", &program))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(system("make an empty file system")(io::Error::other(said)))
}

fn find_mkfs() -> Result<PathBuf, RuntimeError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(SYSTEM_DIRS.map(PathBuf::from));
    dirs.map(|dir| dir.join(MKFS)).find(|program| program.is_file()).ok_or_else(|| {
        let looked = "neither on the PATH nor in /usr/sbin: e2fsprogs has it".to_owned();
        RuntimeError::AssetMissing { what: MKFS, looked }
    })
}

/// Copies a file without its holes; where the file system can, nothing is copied at all.
fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (File::open(from)?, create(to)?);
    if ioctl_ficlone(&to, &from).is_ok() {
        return Ok(());
    }
    let size = from.metadata()?.len();
    to.set_len(size)?;
    let mut at = 0;
    loop {
        let start = match seek(&from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // There's no more data.
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(&from, SeekFrom::Hole(start))?;
        copy_range(&from, &to, start, end)?;
        at = end;
    }
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 64 << 10];
    let mut at = start;
    while at < end {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let piece = buffer.get_mut(..left).unwrap_or_default();
        from.read_exact_at(piece, at)?;
        to.write_all_at(piece, at)?;
        at += u64::try_from(left).unwrap_or(u64::MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn holes_stay_holes_and_data_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let source = create(&from).unwrap();
        source.set_len(1 << 30).unwrap();
        source.write_all_at(b"begin", 0).unwrap();
        source.write_all_at(b"middle", 500 << 20).unwrap();
        copy_sparse(&from, &to).unwrap();
        let copy = File::open(&to).unwrap();
        let mut text = [0; 6];
        copy.read_exact_at(&mut text, 500 << 20).unwrap();
        assert_eq!(&text, b"middle");
        let metadata = copy.metadata().unwrap();
        assert_eq!(metadata.len(), 1 << 30);
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    }

    #[test]
    fn disk_is_an_empty_ext4_that_takes_little_room_and_is_made_once() {
        if find_mkfs().is_err() {
            eprintln!("skipped: there's no {MKFS}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let options = crate::EngineOptions {
            data_root: Some(dir.path().join("data")),
            runtime_root: Some(dir.path().join("run")),
            ..crate::EngineOptions::default()
        };
        let paths = Paths::open(&options).unwrap();
        let disk = dir.path().join("upper.img");
        provide(&paths, &disk).unwrap();
        let metadata = fs::metadata(&disk).unwrap();
        assert_eq!(metadata.len(), SIZE_BYTES);
        assert!(metadata.blocks() * 512 < 4 << 20, "{} blocks", metadata.blocks());
        let mut magic = [0; 2];
        File::open(&disk).unwrap().read_exact_at(&mut magic, 1024 + 0x38).unwrap();
        assert_eq!(magic, [0x53, 0xef]);
        fs::write(&disk, "written").unwrap();
        provide(&paths, &disk).unwrap();
        assert_eq!(fs::read(&disk).unwrap(), b"written");
    }
}
