//! Other processes' memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{forbids, not_done};
use crate::facts::{Process, others};
use crate::files;
use crate::results::AttemptResult;

/// The most names in the result's sentence.
const MAX_NAMES: usize = 8;

/// Reads a byte of the memory of each process that can be seen and isn't of this instance (its own
/// control group's); what it read is not told.
pub fn memory() -> AttemptResult {
    let processes = others();
    let mut names = Vec::new();
    let mut error: Option<io::Error> = None;
    let mut succeeded = 0_u64;
    for process in &processes {
        match read_byte(process.pid) {
            Ok(()) => {
                succeeded += 1;
                if names.len() < MAX_NAMES {
                    names.push(format!("{} ({})", process.name, process.pid));
                }
            }
            // Prefer to tell of what was forbidden: others may just have ended.
            Err(failed) if error.as_ref().is_none_or(|known| !forbids(known)) => {
                error = Some(failed);
            }
            Err(_) => {}
        }
    }
    sum_up(&processes, succeeded, &names, error)
}

fn sum_up(
    processes: &[Process],
    succeeded: u64,
    names: &[String],
    error: Option<io::Error>,
) -> AttemptResult {
    let tried = processes.len() as u64;
    let what = "memory";
    let result = match error {
        None if tried == 0 => AttemptResult {
            what: what.into(),
            detail: "no process is visible but this instance's own".into(),
            ..AttemptResult::default()
        },
        Some(error) if succeeded == 0 => not_done(
            what,
            &error,
            format!("{tried} processes of others are visible, no memory could be read"),
        ),
        _ => super::done(
            what,
            format!("memory of {succeeded} of {tried} others was read: {}", names.join(", ")),
        ),
    };
    AttemptResult { tried: Some(tried), succeeded: Some(succeeded), ..result }
}

/// Reads the first byte of what a process has mapped first.
pub(super) fn read_byte(pid: u32) -> io::Result<()> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let maps = files::read(format!("/proc/{pid}/maps"))?;
    let start = maps
        .lines()
        .filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with('r')))
        .find_map(|line| u64::from_str_radix(line.split_once('-')?.0, 16).ok())
        .ok_or_else(|| io::Error::other("it has no memory"))?;
    memory.read_exact_at(&mut [0], start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Text;

    fn process() -> Process {
        Process { pid: 5, name: Text::from("other") }
    }

    #[test]
    fn nobody_to_read_from_is_neither_done_nor_refused() {
        let result = sum_up(&[], 0, &[], None);
        assert!(!result.done && !result.refused, "{result:?}");
        assert_eq!(result.tried, Some(0));
    }

    #[test]
    fn memory_that_may_not_be_read_is_refused() {
        let error = Some(io::ErrorKind::PermissionDenied.into());
        let result = sum_up(&[process()], 0, &[], error);
        // An error without a number is none of the kernel's.
        assert!(!result.done && !result.refused, "{result:?}");
        let error = Some(rustix::io::Errno::ACCESS.into());
        let result = sum_up(&[process()], 0, &[], error);
        assert!(!result.done && result.refused, "{result:?}");
    }

    #[test]
    fn one_that_was_read_is_done_in_spite_of_the_others() {
        let error = Some(rustix::io::Errno::ACCESS.into());
        let result = sum_up(&[process(), process()], 1, &["other (5)".to_owned()], error);
        assert!(result.done && !result.refused, "{result:?}");
        assert_eq!((result.tried, result.succeeded), (Some(2), Some(1)));
    }
}
