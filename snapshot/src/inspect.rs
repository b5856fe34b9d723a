//! What a snapshot is and whether it's whole, for people and for scripts.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::SnapshotError;
use crate::header::{Kind, SnapshotHeader};
use crate::memory::MemoryFile;
use crate::state::{self, READABLE_VERSIONS};

/// How much of the memory file is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Its length, and that it belongs to the state.
    #[default]
    Quick,
    /// All of its content, too.
    Content,
}

/// What [`inspect`] found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The state file.
    pub path: PathBuf,
    /// The format's version.
    pub format_version: u32,
    /// Whether this program can read what follows the header.
    pub readable: bool,
    /// The header.
    pub header: SnapshotHeader,
    /// Length of the state in bytes, if it could be read.
    pub state_bytes: Option<u64>,
    /// The memory file, if one was named.
    pub memory: Option<MemoryReport>,
    /// What stands against a restore on this machine; empty when nothing does.
    pub problems: Vec<String>,
}

/// What [`inspect`] found out about a memory file.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryReport {
    /// The file.
    pub path: PathBuf,
    /// Whether all of its content was read and is right.
    pub content_verified: bool,
    /// Bytes that it takes up on its disk.
    pub allocated_bytes: u64,
}

/// Looks at the snapshot whose state file is `state`, and at its `memory` file if that's given.
///
/// Whatever else is wrong becomes one of the report's problems.
///
/// # Errors
/// [`SnapshotError`] when there is no header to be read.
pub fn inspect(
    state: &Path,
    memory: Option<&Path>,
    verify: Verify,
) -> Result<Report, SnapshotError> {
    let (format_version, header) = state::read_version_and_header(state)?;
    let mut problems = Vec::new();
    let state_bytes = match state::open(state) {
        Ok(file) => Some(file.state.len() as u64),
        Err(error) => {
            problems.push(in_full(&error));
            None
        }
    };
    let memory = memory.map(|path| match look_at(path, &header, verify) {
        Ok(report) => report,
        Err(error) => {
            problems.push(in_full(&error));
            MemoryReport { path: path.to_owned(), content_verified: false, allocated_bytes: 0 }
        }
    });
    if header.kind == Kind::Diff {
        problems.push("it is differential: merge it with its base first".to_owned());
    }
    let readable = READABLE_VERSIONS.contains(&format_version);
    let path = state.to_owned();
    Ok(Report { path, format_version, readable, header, state_bytes, memory, problems })
}

fn look_at(
    path: &Path,
    header: &SnapshotHeader,
    verify: Verify,
) -> Result<MemoryReport, SnapshotError> {
    let file = MemoryFile::open_for(path, header)?;
    if verify == Verify::Content {
        file.verify()?;
    }
    let metadata = file.file().metadata().map_err(SnapshotError::io("read", path))?;
    Ok(MemoryReport {
        path: file.path().to_owned(),
        content_verified: verify == Verify::Content,
        allocated_bytes: std::os::unix::fs::MetadataExt::blocks(&metadata).saturating_mul(512),
    })
}

/// Returns an error with its causes, in one line.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = &self.header;
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<14}{value}");
        line("snapshot", &header.id)?;
        match (header.kind, header.parent) {
            (Kind::Full, _) => line("kind", &"full")?,
            (Kind::Diff, Some(parent)) => line("kind", &format_args!("changes since {parent}"))?,
            (Kind::Diff, None) => line("kind", &"changes since an unknown snapshot")?,
        }
        line("taken", &utc(header.created_unix_ms))?;
        line(
            "by",
            &format_args!("vmctl {}, format {}", header.vmctl_version, self.format_version),
        )?;
        line("guest", &format_args!("{}, {} vCPUs", header.architecture, header.vcpus))?;
        line("cpu", &format_args!("{} {}", header.cpu.vendor, header.cpu.model_name))?;
        line("memory", &format_args!("{} MiB", header.ram_bytes() >> 20))?;
        for region in &header.regions {
            let (start, size) = (region.guest_address, region.size_bytes);
            let end = start.saturating_add(size);
            line("", &format_args!("{start:#x}..{end:#x} ({} MiB)", size >> 20))?;
        }
        let data = header.memory.data_pages.saturating_mul(crate::memory::PAGE);
        line("  with content", &format_args!(" {} MiB", data >> 20))?;
        line("dirty log", &if header.tracks_dirty_pages { "on" } else { "off" })?;
        if let Some(bytes) = self.state_bytes {
            line("state", &format_args!("{bytes} bytes, checksum right"))?;
        }
        if let Some(memory) = &self.memory {
            let mib = memory.allocated_bytes >> 20;
            let verified = if memory.content_verified { ", checksum right" } else { "" };
            line("memory file", &format_args!("{:?}, {mib} MiB on disk{verified}", memory.path))?;
        }
        for problem in &self.problems {
            line("problem", problem)?;
        }
        Ok(())
    }
}

/// Writes a moment as `2026-01-31 12:34:56 UTC`.
fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut day) = (1970, days);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    // A damaged header may say anything.
    if days > 4_000_000 {
        return format!("{unix_ms} ms after 1970");
    }
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", day + 1)
}

#[cfg(test)]
mod tests;
