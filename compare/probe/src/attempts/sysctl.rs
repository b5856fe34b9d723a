//! The kernel's settings.

use std::fs;
use std::path::{Component, Path};

use crate::results::{ProcSysResult, Text};
use crate::{ProbeError, files};

/// Writes a file of `/proc/sys`, and reads it back.
///
/// # Errors
///
/// The path leads elsewhere.
pub fn proc_sys(path: &str, value: &str) -> Result<ProcSysResult, ProbeError> {
    let relative = Path::new(path);
    let stays = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !stays {
        return Err(ProbeError::Argument(format!("{path:?} is no path below /proc/sys")));
    }
    let file = Path::new("/proc/sys").join(relative);
    // Not created, not truncated: it's there or not.
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .and_then(|mut opened| std::io::Write::write_all(&mut opened, value.as_bytes()));
    Ok(ProcSysResult {
        written: written.is_ok(),
        error: written.err().map(|error| Text::from(error.to_string())),
        value: files::read(&file).ok().map(|text| Text::from(text.trim())),
    })
}
