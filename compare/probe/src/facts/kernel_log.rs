//! The kernel's log, which has what the kernel says of the whole machine.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat};
use rustix::io::Errno;

use crate::results::{KernelLog, Text};
use crate::{files, places};

/// The most records that are counted.
const MAX_RECORDS: u32 = 1 << 20;

/// The longest record (`CONSOLE_EXT_LOG_MAX`).
const RECORD_BYTES: usize = 8192;

/// Tries to read the kernel's log: by its device, by one that is made where an image has none, and
/// at last by `/proc/kmsg`. That one is only opened: reading it would take records away.
pub(crate) fn kernel_log() -> KernelLog {
    match open_device() {
        Ok(device) => read(device),
        Err(error) if error.kind() == ErrorKind::NotFound => by_proc(),
        Err(error) => refused(&error.to_string()),
    }
}

fn refused(error: &str) -> KernelLog {
    KernelLog { error: Some(Text::from(error)), ..KernelLog::default() }
}

fn open(path: impl AsRef<std::path::Path>) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Opens the device; "not found" if there's none and none can be made.
fn open_device() -> io::Result<File> {
    let error = match open("/dev/kmsg") {
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        opened => return opened,
    };
    for path in places::candidates() {
        let mode = Mode::RUSR | Mode::WUSR;
        if mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(1, 11)).is_ok() {
            let made = places::Removed(path);
            // A file system without devices says nothing of the right to read.
            if let Ok(device) = open(&made.0) {
                return Ok(device);
            }
        }
    }
    Err(error)
}

fn by_proc() -> KernelLog {
    match open("/proc/kmsg") {
        Ok(_) => KernelLog { readable: true, ..KernelLog::default() },
        Err(error) => {
            let open_to_all = files::read("/proc/sys/kernel/dmesg_restrict")
                .is_ok_and(|value| value.trim() == "0");
            let more = if open_to_all { "; but kernel.dmesg_restrict is 0" } else { "" };
            refused(&format!("no /dev/kmsg, and /proc/kmsg: {error}{more}"))
        }
    }
}

/// Counts the records: each read returns one (`Documentation/ABI/testing/dev-kmsg`).
fn read(mut device: impl Read) -> KernelLog {
    let mut log = KernelLog { readable: true, records: Some(0), ..KernelLog::default() };
    let mut buffer = [0; RECORD_BYTES];
    let mut records = 0;
    while records < MAX_RECORDS {
        match device.read(&mut buffer) {
            Ok(0) => break,
            Ok(size) => {
                records += 1;
                log.first.get_or_insert_with(|| message(&buffer[..size]));
            }
            // The oldest records were overwritten meanwhile.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PIPE) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return refused(&error.to_string()),
        }
    }
    log.records = Some(records);
    log
}

/// A record's message: `6,1,0,-;Linux version …`, then lines about it.
fn message(record: &[u8]) -> Text {
    let text = String::from_utf8_lossy(record);
    let line = text.lines().next().unwrap_or_default();
    Text::from(line.split_once(';').map_or(line, |(_, message)| message))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A device that returns these, then says that it would block.
    struct Device(VecDeque<Result<&'static [u8], Errno>>);

    impl Read for Device {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let record = self.0.pop_front().unwrap_or(Err(Errno::AGAIN))?;
            buffer[..record.len()].copy_from_slice(record);
            Ok(record.len())
        }
    }

    #[test]
    fn records_are_counted_across_an_overwritten_one() {
        let records =
            [Err(Errno::PIPE), Ok(&b"6,1,0,-;Linux \x1b[31m\n SUBSYSTEM=x\n"[..]), Ok(b"x")];
        let log = read(Device(records.into()));
        assert_eq!(log.records, Some(2));
        assert_eq!(log.first, Some(Text::from("Linux \u{fffd}[31m")));
        assert!(log.readable);
    }

    #[test]
    fn log_that_cannot_be_read_is_refused() {
        let log = read(Device([Ok(&b"x"[..]), Err(Errno::PERM)].into()));
        assert!(!log.readable && log.error.is_some(), "{log:?}");
    }
}
