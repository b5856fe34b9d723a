//! Reads a container's log, and waits for more of it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::decode;
use super::write::rotated;
use crate::RuntimeError;
use crate::error::file;
use crate::options::{LogLine, LogOptions, OutputStream};
use crate::watch::ContainerWatch;

/// The longest line of the file that's read: a piece of output, each byte of it as `\u00xx`, and
/// what surrounds it.
const MAX_ENTRY_BYTES: usize = 1 << 20;

/// A container's log; with `follow` reading waits for the next line until the container ends.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    options: LogOptions,
    /// What's read next, the oldest first; the last one is the current file.
    files: VecDeque<BufReader<File>>,
    /// A line whose end isn't written yet.
    partial: Vec<u8>,
    /// Lines that `tail` has chosen.
    tail: VecDeque<LogLine>,
    /// Tells of changes; none once there'll be no more.
    watch: Option<ContainerWatch>,
}

impl LogReader {
    /// Opens a log that may be written meanwhile; `watch` tells when there's more of it, and was
    /// made before.
    pub(crate) fn open(
        path: &Path,
        options: LogOptions,
        watch: Option<ContainerWatch>,
    ) -> Result<Self, RuntimeError> {
        let files = newer_files(path, None)?.into();
        let watch = watch.filter(|_| options.follow);
        let path = path.to_owned();
        let mut reader =
            Self { path, options, files, partial: Vec::new(), tail: VecDeque::new(), watch };
        reader.choose_tail()?;
        Ok(reader)
    }

    fn choose_tail(&mut self) -> Result<(), RuntimeError> {
        let Some(lines) = self.options.tail else { return Ok(()) };
        let (mut tail, mut ends) = (VecDeque::new(), 0_usize);
        while let Some(line) = self.read_line()? {
            tail.push_back(line);
            ends += usize::from(tail.back().is_some_and(ends_line));
            // What's cut into pieces counts once, and what has no end yet, too.
            let unfinished = tail.back().is_some_and(|line| !ends_line(line));
            while ends + usize::from(unfinished) > lines && drop_line(&mut tail) {
                ends -= 1;
            }
        }
        self.tail = tail;
        Ok(())
    }

    /// Reads the next line that's whole and fits; none if there's no more now.
    fn read_line(&mut self) -> Result<Option<LogLine>, RuntimeError> {
        while let Some(current) = self.files.front_mut() {
            let read = read_bounded(current, &mut self.partial)
                .map_err(|error| file("read", &self.path)(error))?;
            if !read {
                if self.files.len() > 1 {
                    self.files.pop_front();
                    self.partial.clear();
                    continue;
                }
                return Ok(None);
            }
            let line = decode(&self.partial);
            self.partial.clear();
            if let Some(line) = line.filter(|line| self.fits(line)) {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    fn fits(&self, line: &LogLine) -> bool {
        let wanted = match line.stream {
            OutputStream::Stdout => self.options.stdout,
            OutputStream::Stderr => self.options.stderr,
        };
        wanted
            && self.options.since.is_none_or(|since| line.time >= since)
            && self.options.until.is_none_or(|until| line.time <= until)
    }

    /// Finds the files that have taken the current one's place, if there are some. The current one
    /// is then read to its end first: what was written to it since the last look comes before.
    fn open_successors(&mut self) -> Result<bool, RuntimeError> {
        let current = self.files.back().map(|file| inode(file.get_ref())).transpose();
        let current = current.map_err(file("look at", &self.path))?;
        let newer = newer_files(&self.path, current)?;
        let found = !newer.is_empty();
        self.files.extend(newer);
        Ok(found)
    }

    fn advance(&mut self) -> Result<Option<LogLine>, RuntimeError> {
        loop {
            if let Some(line) = self.tail.pop_front() {
                return Ok(Some(line));
            }
            if let Some(line) = self.read_line()? {
                return Ok(Some(line));
            }
            let over = self.options.until.is_some_and(|until| SystemTime::now() > until);
            if over || self.watch.is_none() {
                return Ok(None);
            }
            if self.open_successors()? {
                continue;
            }
            if let Some(watch) = &mut self.watch
                && !watch.wait(self.options.until)?
            {
                // There may be something from between the last look and the end.
                self.watch = None;
                self.open_successors()?;
            }
        }
    }
}

impl Iterator for LogReader {
    type Item = Result<LogLine, RuntimeError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Opens the log's files that are newer than the one with the inode `than`, all unless it's said,
/// the oldest first.
pub(crate) fn newer_files(
    path: &Path,
    than: Option<u64>,
) -> Result<Vec<BufReader<File>>, RuntimeError> {
    let mut files = Vec::new();
    // From the newest to the oldest: one that's put aside meanwhile is met twice, not missed.
    let mut seen = Vec::new();
    for number in 0_u32.. {
        let name = if number == 0 { path.to_owned() } else { rotated(path, number) };
        let opened = match File::open(&name) {
            Ok(opened) => opened,
            // Just put aside, with no new one yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound && number == 0 => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(file("open", &name)(error)),
        };
        let inode = inode(&opened).map_err(file("look at", &name))?;
        if Some(inode) == than {
            break;
        }
        if !seen.contains(&inode) {
            seen.push(inode);
            files.push(BufReader::new(opened));
        }
    }
    files.reverse();
    Ok(files)
}

pub(crate) fn inode(file: &File) -> io::Result<u64> {
    file.metadata().map(|metadata| metadata.ino())
}

/// Reads on up to and with a newline; returns whether there was one. Of a line that's too long only
/// the beginning is kept, which is no entry.
pub(crate) fn read_bounded(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    loop {
        let buffer = match file.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            outcome => outcome?,
        };
        if buffer.is_empty() {
            return Ok(false);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(buffer.len(), |end| end + 1);
        let room = MAX_ENTRY_BYTES.saturating_sub(line.len());
        line.extend(buffer.iter().take(taken.min(room)));
        file.consume(taken);
        if end.is_some() {
            return Ok(true);
        }
    }
}

fn ends_line(line: &LogLine) -> bool {
    line.text.ends_with('\n')
}

/// Drops the first line of output, all its pieces; returns whether there was a whole one.
fn drop_line(lines: &mut VecDeque<LogLine>) -> bool {
    while let Some(line) = lines.pop_front() {
        if ends_line(&line) {
            return true;
        }
    }
    false
}
