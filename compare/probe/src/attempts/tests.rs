//! Attempts on the machine that the tests run on: whatever it lets them do, they must tell.

use std::process::{Command, Stdio};

use rustix::io::Errno;

use super::*;
use crate::ProbeError;

#[test]
fn path_outside_of_proc_sys_is_an_error() {
    for path in ["", "/etc/passwd", "../self/mem", "kernel/../../x", "./kernel"] {
        let result = proc_sys(path, "x");
        assert!(matches!(result, Err(ProbeError::Argument(_))), "{path}: {result:?}");
    }
}

#[test]
fn setting_that_is_not_there_is_not_written() {
    let result = proc_sys("kernel/no-such-setting", "x").unwrap();
    assert!(!result.written && result.error.is_some(), "{result:?}");
    assert_eq!(result.value, None);
}

#[test]
fn setting_that_is_written_with_its_own_value_reads_back() {
    let value = std::fs::read_to_string("/proc/sys/kernel/domainname").unwrap();
    let result = proc_sys("kernel/domainname", &value).unwrap();
    assert_eq!(result.written, result.error.is_none());
    assert_eq!(result.value.as_deref(), Some(value.trim()));
}

#[test]
fn host_names_that_are_none_are_errors() {
    for name in ["", "a b", "x\n", &"x".repeat(65)] {
        assert!(matches!(hostname(name), Err(ProbeError::Argument(_))), "{name:?}");
    }
}

#[test]
fn kernel_that_looks_at_the_module_gives_the_right_away() {
    let result = kernel::module_outcome(Some(Errno::NOEXEC));
    assert!(result.done && !result.refused, "{result:?}");
    let result = kernel::module_outcome(Some(Errno::PERM));
    assert!(!result.done && result.refused, "{result:?}");
    let result = kernel::module_outcome(Some(Errno::NOSYS));
    assert!(!result.done && !result.refused, "{result:?}");
}

#[test]
fn attempts_are_never_both_done_and_refused() {
    // Not `memory`: other processes of the machine that tests run on are none of their business.
    for result in [module(), dmesg(), mount(), raw_disk()] {
        assert!(!(result.done && result.refused), "{result:?}");
        assert!(!result.detail.is_empty(), "{result:?}");
        assert!(!result.refused || result.error.is_some(), "{result:?}");
    }
}

#[test]
fn memory_of_a_child_can_be_read_and_of_nobody_cannot() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let read = memory::read_byte(child.id());
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(read.is_ok(), "{read:?}");
    assert!(memory::read_byte(u32::MAX).is_err());
}

#[test]
fn children_are_counted_up_to_the_limit() {
    let result = fork(std::path::Path::new("/bin/true"), 3).unwrap();
    assert!(result.done, "{result:?}");
    assert_eq!((result.tried, result.succeeded), (Some(3), Some(3)));
}

#[test]
fn program_that_cannot_be_started_is_told() {
    let result = fork(std::path::Path::new("/no/such/program"), 3).unwrap();
    assert!(!result.done && result.error.is_some(), "{result:?}");
    assert_eq!((result.tried, result.succeeded), (Some(1), Some(0)));
}

#[test]
fn limits_that_make_no_sense_are_errors() {
    for limit in [0, MAX_CHILDREN + 1] {
        let result = fork(std::path::Path::new("/bin/true"), limit);
        assert!(matches!(result, Err(ProbeError::Range { .. })), "{limit}: {result:?}");
    }
}
