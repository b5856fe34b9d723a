//! Processes without end, up to a bound.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use rustix::io::Errno;

use super::{done, not_done};
use crate::ProbeError;
use crate::error::in_range;
use crate::results::{AttemptResult, Text};

/// The most children that may be asked for.
pub const MAX_CHILDREN: u64 = 65_536;

/// Starts children that do nothing until the kernel refuses another one, or there are `limit`; ends
/// them and waits for them. `done` says that there were as many as that.
///
/// `program` is this program, which knows the hidden command `sleep`.
///
/// # Errors
///
/// The limit is 0 or absurd, or no pipe can be made.
pub fn fork(program: &std::path::Path, limit: u64) -> Result<AttemptResult, ProbeError> {
    in_range("--limit", limit, 1, MAX_CHILDREN)?;
    let (input, held) = io::pipe().map_err(ProbeError::system("make a pipe"))?;
    let mut children: Vec<Child> = Vec::new();
    let mut refusal = None;
    while (children.len() as u64) < limit && refusal.is_none() {
        // Each waits for the end of the same pipe: nothing but a process is held for each.
        let child = input.try_clone().and_then(|input| {
            Command::new(program)
                .arg("sleep")
                .stdin(input)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        });
        match child {
            Ok(child) => children.push(child),
            Err(error) => refusal = Some(error),
        }
    }
    drop(held);
    let spawned = children.len() as u64;
    let killed = reap(children);
    let result = match refusal {
        None => done(
            "fork",
            format!("{spawned} processes were started, as many as were allowed here{killed}"),
        ),
        Some(error) => AttemptResult {
            refused: is_limit(&error),
            ..not_done(
                "fork",
                &error,
                format!("{spawned} processes were started, another one was refused{killed}"),
            )
        },
    };
    let tried = Some(if result.done { spawned } else { spawned + 1 });
    Ok(AttemptResult { tried, succeeded: Some(spawned), ..result })
}

/// Whether an error says that there are processes enough, rather than that none can be started.
fn is_limit(error: &io::Error) -> bool {
    super::forbids(error)
        || matches!(Errno::from_io_error(error), Some(Errno::AGAIN | Errno::NOMEM))
}

/// Waits for all, and tells how many the kernel had killed before their end.
fn reap(children: Vec<Child>) -> Text {
    let mut killed = 0_u32;
    for mut child in children {
        if child.wait().is_ok_and(|status| status.signal().is_some()) {
            killed += 1;
        }
    }
    Text::from(if killed == 0 {
        String::new()
    } else {
        format!("; the kernel killed {killed} of them")
    })
}
