//! A container's output on disk, in Docker's format: a JSON object a line.
//!
//! ```text
//! {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}
//! ```
//!
//! A line of output longer than [`MAX_LINE_BYTES`] comes in pieces, of which only the last ends
//! with a newline. Bytes that aren't UTF-8 are replaced by U+FFFD: who needs them attaches.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::options::{LogLine, OutputStream};

pub use self::read::LogReader;
pub(crate) use self::read::{inode, newer_files, read_bounded};
pub(crate) use self::write::{LogWriter, Rotation, rotated};

/// The longest piece of a line, in bytes: Docker's.
pub(crate) const MAX_LINE_BYTES: usize = 16 << 10;

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    stream: OutputStream,
    time: std::borrow::Cow<'a, str>,
}

fn encode(out: &mut Vec<u8>, text: &[u8], stream: OutputStream, time: SystemTime) {
    let time = humantime::format_rfc3339_nanos(time).to_string();
    let entry = Entry { log: String::from_utf8_lossy(text), stream, time: time.into() };
    let start = out.len();
    if serde_json::to_writer(&mut *out, &entry).is_err() {
        // Writing to memory and to text doesn't fail; half a line would spoil the next.
        out.truncate(start);
        return;
    }
    out.push(b'\n');
}

/// Reads a line; none if it's damaged, as the last one is after the host's crash.
fn decode(line: &[u8]) -> Option<LogLine> {
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let time = humantime::parse_rfc3339(&entry.time).ok()?;
    Some(LogLine { time, stream: entry.stream, text: entry.log.into_owned() })
}
