//! Drives, by their serials.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::fault::{AgentError, ErrorKind, Result};

/// How long a drive has to appear: the kernel may still be finding it, or it's being plugged in.
const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the device of the drive with this serial.
pub(crate) fn find(serial: &str) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(name) = find_in(Path::new("/sys/block"), serial) {
            return Ok(format!("/dev/{name}"));
        }
        if Instant::now() > deadline {
            let message = format!("no drive has the serial {serial:?}");
            return Err(AgentError::new(ErrorKind::Mount, message));
        }
        // Drives announce themselves by uevents, to sockets; one that's late is rare enough to look.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn find_in(blocks: &Path, serial: &str) -> Option<String> {
    let matches = |dir: &Path| {
        ["serial", "device/serial"].iter().any(|file| {
            fs::read_to_string(dir.join(file)).is_ok_and(|found| found.trim_end() == serial)
        })
    };
    let entries = fs::read_dir(blocks).ok()?.flatten();
    entries
        .filter(|entry| matches(&entry.path()))
        .find_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_are_told_by_their_serials() {
        let dir = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "image\n"), ("vdb", "upper"), ("vdc", "")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("serial"), serial).unwrap();
        }
        assert_eq!(find_in(dir.path(), "image").as_deref(), Some("vda"));
        assert_eq!(find_in(dir.path(), "upper").as_deref(), Some("vdb"));
        assert_eq!(find_in(dir.path(), "imag"), None);
    }
}
