//! What files use on disk, and processes of the host's.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The unit of `st_blocks`, in bytes.
const BLOCK_BYTES: u64 = 512;

/// Bytes that a file or a directory with all that's in it takes on disk: holes don't count, a file
/// with several names counts once. What can't be looked at counts nothing.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    let mut seen = BTreeSet::new();
    let mut total = 0_u64;
    let mut waiting = vec![path.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.nlink() > 1
            && !metadata.is_dir()
            && !seen.insert((metadata.dev(), metadata.ino()))
        {
            continue;
        }
        total = total.saturating_add(metadata.blocks().saturating_mul(BLOCK_BYTES));
        if metadata.is_dir() {
            let children = fs::read_dir(&path).into_iter().flatten().flatten();
            waiting.extend(children.map(|child| child.path()));
        }
    }
    total
}

/// What a process of the host's has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessUsage {
    /// CPU time of all its threads, in nanoseconds.
    pub(crate) cpu_ns: u64,
    /// Resident memory, in bytes.
    pub(crate) memory_bytes: u64,
}

impl ProcessUsage {
    /// Reads `/proc`; zeros if the process has ended.
    pub(crate) fn of(pid: i32) -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let cpu_ns = read("stat").ok().and_then(|text| cpu_ns(&text)).unwrap_or_default();
        let pages = read("statm").ok().and_then(|text| resident_pages(&text)).unwrap_or_default();
        let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or_default();
        Self { cpu_ns, memory_bytes: pages.saturating_mul(page_bytes) }
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`: the program's name before them may have anything in it.
fn cpu_ns(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    Some(user.saturating_add(system).saturating_mul(tick_ns))
}

fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_second_names_take_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, vec![1; 1 << 20]).unwrap();
        let before = disk_bytes(dir.path());
        assert!(before >= 1 << 20, "{before}");
        fs::hard_link(&file, dir.path().join("link")).unwrap();
        fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("symlink")).unwrap();
        let after = disk_bytes(dir.path());
        assert!(after < before + (1 << 16), "{before} {after}");
        assert_eq!(disk_bytes(&dir.path().join("absent")), 0);
    }

    #[test]
    fn process_uses_something_and_one_that_ended_nothing() {
        let own = ProcessUsage::of(i32::try_from(std::process::id()).unwrap());
        assert!(own.memory_bytes > 0);
        assert_eq!(ProcessUsage::of(i32::MAX), ProcessUsage::default());
        let stat = "42 (a) R 9) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(cpu_ns(stat), Some(11 * (1_000_000_000 / ticks)));
        assert_eq!(cpu_ns("42 (short) S 1"), None);
    }
}
