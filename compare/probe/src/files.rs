//! Small files of the kernel.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The most that is read of a file.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the beginning of a file.
pub(crate) fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns what stands after `key` and a colon in a file of lines like `Seccomp:\t2`.
pub(crate) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
}

/// Returns the size of a line like `MemTotal: 2048 kB` in bytes.
pub(crate) fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let number = field(text, key)?.strip_suffix("kB")?.trim();
    number.parse::<u64>().ok()?.checked_mul(1024)
}
