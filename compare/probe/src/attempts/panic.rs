//! The end of a kernel. Only of one's own.

use std::{fs, io};

use super::{done, not_done};
use crate::results::AttemptResult;
use crate::{ProbeError, files};

/// Has the kernel panic. Doesn't return if it does.
///
/// # Errors
///
/// This is the kernel with the boot id that must not panic, or its boot id can't be read: whoever
/// runs this in a container by mistake keeps their machine.
pub fn panic(host_boot_id: &str) -> Result<AttemptResult, ProbeError> {
    let own = files::read("/proc/sys/kernel/random/boot_id")
        .map_err(ProbeError::system("read the boot id"))?;
    check(own.trim(), host_boot_id.trim())?;
    let what = "panic";
    // May be enabled already, or not be writable while the trigger is.
    let enabled = fs::write("/proc/sys/kernel/sysrq", "1");
    Ok(match trigger() {
        Ok(()) => done(what, "the kernel was told to panic, and did not"),
        Err(error) => {
            let more = match enabled {
                Ok(()) => String::new(),
                Err(error) => format!("; kernel.sysrq can't be set either: {error}"),
            };
            not_done(what, &error, format!("the kernel could not be told to panic{more}"))
        }
    })
}

fn trigger() -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open("/proc/sysrq-trigger")
        .and_then(|mut file| io::Write::write_all(&mut file, b"c"))
}

/// Refuses the host's kernel.
fn check(own: &str, host: &str) -> Result<(), ProbeError> {
    // 36 characters, hyphens among them.
    let is_id = |id: &str| id.len() == 36 && id.chars().all(|c| c == '-' || c.is_ascii_hexdigit());
    if !is_id(host) || !is_id(own) {
        return Err(ProbeError::Argument(format!("{host:?} or {own:?} is no boot id")));
    }
    if own.eq_ignore_ascii_case(host) {
        return Err(ProbeError::Argument("this is the host's own kernel: it stays up".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_of_the_host_is_spared() {
        let id = "d1f0b9c2-2f1c-4a57-8a0e-0d8f4dbb8a11";
        assert!(check(id, id).is_err());
        assert!(check(id, &id.to_ascii_uppercase()).is_err());
        assert!(check(id, "01f0b9c2-2f1c-4a57-8a0e-0d8f4dbb8a11").is_ok());
    }

    #[test]
    fn host_that_is_not_named_properly_is_spared() {
        let id = "d1f0b9c2-2f1c-4a57-8a0e-0d8f4dbb8a11";
        for wrong in ["", "1", "d1f0b9c2-2f1c-4a57-8a0e-0d8f4dbb8a1g"] {
            assert!(check(id, wrong).is_err(), "{wrong}");
            assert!(check(wrong, id).is_err(), "{wrong}");
        }
    }

    #[test]
    fn this_machine_is_spared() {
        let own = files::read("/proc/sys/kernel/random/boot_id").unwrap();
        assert!(panic(&own).is_err());
    }
}
