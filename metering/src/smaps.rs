//! Tells a VMM's own memory from its guest's.

use std::fs;
use std::path::Path;

use crate::{MeterError, file};

/// One mapping of a process.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    size_bytes: u64,
    /// The proportional set size: a page that n processes share counts as 1/n of one.
    pss_kib: u64,
}

/// Returns the proportional set size of a process in KiB, without its guest's memory if it maps
/// that: the largest mapping of at least `guest_bytes`.
///
/// # Errors
///
/// Fails when the process is gone or not ours to look at.
pub fn own_pss_kib(process: u32, guest_bytes: u64) -> Result<u64, MeterError> {
    let path = format!("/proc/{process}/smaps");
    let path = Path::new(&path);
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    let mappings = parse(&text).ok_or_else(|| MeterError::Format { path: path.to_owned() })?;
    Ok(without_guest(&mappings, guest_bytes))
}

/// What a process has in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sums {
    /// The proportional set size in KiB.
    pub pss_kib: u64,
    /// What no other process maps and no file has, in KiB.
    pub unshared_kib: u64,
}

/// Returns what a process has in memory, guest memory included.
///
/// # Errors
///
/// Fails when the process is gone or not ours to look at.
pub fn sums(process: u32) -> Result<Sums, MeterError> {
    let path = format!("/proc/{process}/smaps_rollup");
    let path = Path::new(&path);
    let text = fs::read_to_string(path).map_err(file("read", path))?;
    parse_rollup(&text).ok_or_else(|| MeterError::Format { path: path.to_owned() })
}

fn parse_rollup(rollup: &str) -> Option<Sums> {
    let value = |name: &str| -> Option<u64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(Sums { pss_kib: value("Pss:")?, unshared_kib: value("Private_Dirty:")? })
}

fn without_guest(mappings: &[Mapping], guest_bytes: u64) -> u64 {
    let total: u64 = mappings.iter().map(|mapping| mapping.pss_kib).sum();
    let guest = mappings
        .iter()
        .filter(|mapping| mapping.size_bytes >= guest_bytes)
        .map(|mapping| mapping.pss_kib)
        .max();
    total - guest.unwrap_or(0)
}

fn parse(smaps: &str) -> Option<Vec<Mapping>> {
    let mut mappings = Vec::new();
    for line in smaps.lines() {
        let (name, rest) = line.split_once(char::is_whitespace)?;
        if let Some((start, end)) = name.split_once('-') {
            let address = |digits| u64::from_str_radix(digits, 16).ok();
            let size_bytes = address(end)?.checked_sub(address(start)?)?;
            mappings.push(Mapping { size_bytes, pss_kib: 0 });
        } else if name == "Pss:" {
            mappings.last_mut()?.pss_kib = rest.trim().strip_suffix(" kB")?.parse().ok()?;
        }
    }
    Some(mappings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0000000-55d0c0020000 r-xp 00000000 fe:00 12 /usr/bin/vmm
Size:                128 kB
Rss:                 100 kB
Pss:                  50 kB
Pss_Dirty:             0 kB
VmFlags: rd ex mr mw me
7f0000000000-7f0008000000 rw-p 00000000 00:00 0
Pss:               40000 kB
7f0010000000-7f0010100000 rw-p 00000000 00:00 0 [heap]
Pss:                   7 kB
";

    #[test]
    fn the_guests_mapping_is_left_out() {
        let mappings = parse(SMAPS).unwrap();
        assert_eq!(mappings.len(), 3);
        assert_eq!(without_guest(&mappings, 128 << 20), 57);
    }

    #[test]
    fn a_process_without_guest_memory_counts_whole() {
        assert_eq!(without_guest(&parse(SMAPS).unwrap(), 1 << 40), 40057);
    }

    #[test]
    fn sums_are_found_in_a_rollup() {
        let text = "5000-7fff ---p 00000000 00:00 0 [rollup]\nRss: 9 kB\nPss:    7 kB\n\
                    Pss_Dirty: 5 kB\nPrivate_Clean: 2 kB\nPrivate_Dirty:  4 kB\n";
        assert_eq!(parse_rollup(text), Some(Sums { pss_kib: 7, unshared_kib: 4 }));
        assert_eq!(parse_rollup("Pss: 7 kB\n"), None);
    }
}
