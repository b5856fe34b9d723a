//! What changes the kernel that an instance runs on, or tells of it.

use std::io;

use rustix::io::Errno;
use rustix::system::{init_module, sethostname, uname};
use rustix::time::{ClockId, clock_gettime, clock_settime};

use super::{done, not_done};
use crate::ProbeError;
use crate::facts::kernel_log;
use crate::results::{AttemptResult, Text};

/// The longest host name (`__NEW_UTS_LEN`).
const MAX_HOSTNAME: usize = 64;

/// Sets the host name.
///
/// # Errors
///
/// It's no host name.
pub fn hostname(name: &str) -> Result<AttemptResult, ProbeError> {
    if name.is_empty() || name.len() > MAX_HOSTNAME || name.contains(char::is_whitespace) {
        return Err(ProbeError::Argument(format!("{name:?} is no host name")));
    }
    let was = Text::from_bytes(uname().nodename().to_bytes());
    Ok(match sethostname(name.as_bytes()) {
        Ok(()) => {
            let is = Text::from_bytes(uname().nodename().to_bytes());
            done("hostname", format!("the host name was {was}, and is {is}"))
        }
        Err(error) => {
            not_done("hostname", &error.into(), format!("the host name is {was} as before"))
        }
    })
}

/// Sets the clock of the day to what it shows.
pub fn clock() -> AttemptResult {
    match clock_settime(ClockId::Realtime, clock_gettime(ClockId::Realtime)) {
        Ok(()) => done("clock", "the clock was set to the time that it showed"),
        Err(error) => not_done("clock", &error.into(), "the clock was not set"),
    }
}

/// Loads a module that is none: the kernel looks at the right to load modules first, and at the
/// module after that.
pub fn module() -> AttemptResult {
    module_outcome(init_module(&[], c"").err())
}

/// Tells what the kernel's answer to a module that is none means.
pub(super) fn module_outcome(error: Option<Errno>) -> AttemptResult {
    let what = "module";
    match error {
        None => done(what, "the kernel took an empty module"),
        Some(error @ (Errno::NOEXEC | Errno::INVAL)) => AttemptResult {
            error: Some(Text::from(io::Error::from(error).to_string())),
            ..done(
                what,
                "an empty module was handed to the kernel, which found fault with the module only: the right to load one is there",
            )
        },
        Some(error @ Errno::NOSYS) => not_done(
            what,
            &error.into(),
            "the kernel can't load modules, or a filter says that it can't",
        ),
        Some(error) => not_done(what, &error.into(), "an empty module was not even looked at"),
    }
}

/// Reads the kernel's log.
pub fn dmesg() -> AttemptResult {
    let log = kernel_log();
    let what = "dmesg";
    if log.readable {
        let records = log.records.map_or("records".to_owned(), |count| format!("{count} records"));
        let first = log.first.map_or(String::new(), |first| format!("; the first: {first}"));
        return done(what, format!("the kernel's log has {records}{first}"));
    }
    AttemptResult {
        what: what.into(),
        refused: true,
        error: log.error,
        detail: "the kernel's log can't be read".into(),
        ..AttemptResult::default()
    }
}
