//! Writes a container's log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{MAX_LINE_BYTES, encode};
use crate::options::OutputStream;

/// When a log is put aside, and how many of them are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// The size at which it is, in bytes.
    pub(crate) max_size_bytes: u64,
    /// How many files there are at most, the current one included.
    pub(crate) max_files: u32,
}

/// A container's log, open for appending. Each output has its own unfinished line.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    rotation: Option<Rotation>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Lines on their way to the file, kept to save allocations.
    buffer: Vec<u8>,
}

impl LogWriter {
    pub(crate) fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<Self> {
        let file = append_to(path)?;
        let size = file.metadata()?.len();
        let mut writer = Self {
            path: path.to_owned(),
            file,
            size,
            rotation,
            stdout: Vec::new(),
            stderr: Vec::new(),
            buffer: Vec::new(),
        };
        writer.mend()?;
        Ok(writer)
    }

    /// Ends a line that a crash has cut off: the next one would be lost with it.
    fn mend(&mut self) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let Some(last) = self.size.checked_sub(1) else { return Ok(()) };
        let mut byte = [0];
        File::open(&self.path)?.read_exact_at(&mut byte, last)?;
        if byte != *b"\n" {
            self.file.write_all(b"\n")?;
            self.size += 1;
        }
        Ok(())
    }

    /// Takes output, and writes the lines that are whole.
    pub(crate) fn write(&mut self, stream: OutputStream, mut bytes: &[u8]) -> io::Result<()> {
        let time = SystemTime::now();
        let mut buffer = std::mem::take(&mut self.buffer);
        let pending = self.pending(stream);
        while !bytes.is_empty() {
            let room = MAX_LINE_BYTES.saturating_sub(pending.len()).max(1).min(bytes.len());
            let (head, _) = bytes.split_at(room);
            let (piece, ends) = match head.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (room, pending.len() + room >= MAX_LINE_BYTES),
            };
            let (piece, rest) = bytes.split_at(piece);
            bytes = rest;
            if !ends {
                pending.extend_from_slice(piece);
            } else if pending.is_empty() {
                encode(&mut buffer, piece, stream, time);
            } else {
                pending.extend_from_slice(piece);
                encode(&mut buffer, pending, stream, time);
                pending.clear();
            }
        }
        self.append(buffer)
    }

    /// Writes what an output ended with, without a newline.
    pub(crate) fn finish(&mut self, stream: OutputStream) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let pending = std::mem::take(self.pending(stream));
        if !pending.is_empty() {
            encode(&mut buffer, &pending, stream, SystemTime::now());
        }
        self.append(buffer)
    }

    const fn pending(&mut self, stream: OutputStream) -> &mut Vec<u8> {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    fn append(&mut self, mut buffer: Vec<u8>) -> io::Result<()> {
        let written = self.rotate_if_full().and_then(|()| self.file.write_all(&buffer));
        self.size = self.size.saturating_add(buffer.len() as u64);
        buffer.clear();
        self.buffer = buffer;
        written
    }

    fn rotate_if_full(&mut self) -> io::Result<()> {
        let Some(rotation) = self.rotation.filter(|it| self.size >= it.max_size_bytes) else {
            return Ok(());
        };
        let old = |number: u32| rotated(&self.path, number);
        for number in (1..rotation.max_files.saturating_sub(1)).rev() {
            ignore_missing(fs::rename(old(number), old(number + 1)))?;
        }
        if rotation.max_files > 1 {
            fs::rename(&self.path, old(1))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        self.file = append_to(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// The name of a log that was put aside: the higher the number, the older.
pub(crate) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn ignore_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
