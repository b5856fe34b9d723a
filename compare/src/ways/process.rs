//! Programs that are run, and what they print, with limits and until Ctrl-C.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Output, WayError};
use crate::interrupt::Interrupt;

/// How much of a program's output is kept. An instance may print without end.
const KEPT_BYTES: usize = 1 << 20;

/// How much of a program's complaints an error shows, in characters.
const SHOWN: usize = 400;

/// Runs a program to its end, within `limit`. It's in a process group of its own: a terminal's
/// Ctrl-C doesn't reach it.
///
/// # Errors
/// It can't be started, isn't over in time, or it's time to end.
pub(crate) fn run(
    mut command: Command,
    limit: Duration,
    interrupt: Option<&Interrupt>,
) -> Result<Output, WayError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = Killed(spawn(&mut command)?);
    let deadline = Instant::now() + limit;
    let (stdout, stderr) = collect(&mut child.0, deadline, interrupt)
        .map_err(|stopped| stopped.into_error(&command, limit))?;
    // Whoever has closed its output ends soon; one that doesn't is killed with the deadline's error.
    let status = wait(&mut child.0, deadline, interrupt)
        .map_err(|stopped| stopped.into_error(&command, limit))?;
    Ok(Output { code: code(status), stdout, stderr })
}

/// The same for a program that has to succeed; returns what it printed.
///
/// # Errors
/// As [`run`], and when it fails.
pub(crate) fn run_ok(
    command: Command,
    limit: Duration,
    interrupt: Option<&Interrupt>,
) -> Result<String, WayError> {
    let program = name(&command);
    let output = run(command, limit, interrupt)?;
    if output.code == 0 {
        return Ok(output.stdout);
    }
    Err(WayError::Program {
        program,
        status: format!("exit code {}", output.code),
        message: last(if output.stderr.trim().is_empty() {
            &output.stdout
        } else {
            &output.stderr
        }),
    })
}

/// Starts a program whose standard output and error go to one pipe.
///
/// # Errors
/// It can't be started.
pub(crate) fn start(mut command: Command) -> Result<(Child, PipeReader), WayError> {
    let pipe = || -> io::Result<_> {
        let (reader, writer) = io::pipe()?;
        Ok((reader, writer.try_clone()?, writer))
    };
    let (reader, stdout, stderr) = pipe().map_err(system("make a pipe"))?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
    let child = spawn(&mut command)?;
    // The command holds the writing ends: with it they're closed.
    drop(command);
    Ok((child, reader))
}

/// Reads what has come, waiting for at least a byte; nothing at the output's end.
///
/// # Errors
/// Nothing comes in time, or it's time to end.
pub(crate) fn read_some(
    output: &mut PipeReader,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Result<Vec<u8>, Stopped> {
    wait_for(&[output.as_fd()], deadline, Some(interrupt))?;
    let mut buffer = vec![0; 4096];
    let count = output.read(&mut buffer).map_err(Stopped::System)?;
    buffer.truncate(count);
    Ok(buffer)
}

/// Waits for a program's end.
///
/// # Errors
/// It doesn't end in time, or it's time to end.
pub(crate) fn wait(
    child: &mut Child,
    deadline: Instant,
    interrupt: Option<&Interrupt>,
) -> Result<ExitStatus, Stopped> {
    // One that was looked after before has no number any more.
    if let Some(status) = child.try_wait().map_err(Stopped::System)? {
        return Ok(status);
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let ended = pid.map(|pid| {
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|errno| Stopped::System(errno.into()))
    });
    if let Some(ended) = ended.transpose()? {
        wait_for(&[ended.as_fd()], deadline, interrupt)?;
    }
    child.wait().map_err(Stopped::System)
}

/// The exit code of a program that has ended.
///
/// # Errors
/// The system doesn't tell.
pub(crate) fn try_wait(child: &mut Child) -> Result<Option<i32>, WayError> {
    let ended = child.try_wait().map_err(system("ask whether a program has ended"))?;
    Ok(ended.map(code))
}

/// Waits until one of them can be read; says which ones can.
pub(crate) fn wait_for(
    fds: &[BorrowedFd<'_>],
    deadline: Instant,
    interrupt: Option<&Interrupt>,
) -> Result<Vec<bool>, Stopped> {
    loop {
        let mut polled: Vec<_> =
            fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        if let Some(interrupt) = interrupt {
            polled.push(PollFd::from_borrowed_fd(interrupt.fd(), PollFlags::IN));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).ok();
        match poll(&mut polled, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(Stopped::System(errno.into())),
            Ok(0) => return Err(Stopped::Late),
            Ok(_) => {}
        }
        let mut ready: Vec<_> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        if interrupt.is_some() && ready.pop() == Some(true) {
            return Err(Stopped::Interrupted);
        }
        return Ok(ready);
    }
}

/// Why something was no longer waited for.
#[derive(Debug)]
pub(crate) enum Stopped {
    Late,
    Interrupted,
    System(io::Error),
}

impl Stopped {
    fn into_error(self, command: &Command, limit: Duration) -> WayError {
        self.into_way_error(&name(command), limit)
    }

    /// Says what was waited for.
    pub(crate) fn into_way_error(self, what: &str, limit: Duration) -> WayError {
        match self {
            Self::Late => WayError::Late { what: what.to_owned(), seconds: limit.as_secs() },
            Self::Interrupted => WayError::Interrupted,
            Self::System(source) => WayError::System { what: format!("wait for {what}"), source },
        }
    }
}

/// A child that is killed with its group unless it has ended.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        kill_group(&self.0);
        let _ = self.0.wait();
    }
}

/// Kills a child's process group. One that's gone is none to complain of.
pub(crate) fn kill_group(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

fn spawn(command: &mut Command) -> Result<Child, WayError> {
    command.spawn().map_err(system(format!("start {}", name(command))))
}

fn collect(
    child: &mut Child,
    deadline: Instant,
    interrupt: Option<&Interrupt>,
) -> Result<(String, String), Stopped> {
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Ok(Default::default());
    };
    let mut texts = [Vec::new(), Vec::new()];
    let mut open = [true, true];
    while open.contains(&true) {
        let all = [stdout.as_fd(), stderr.as_fd()];
        let which: Vec<_> = (0..2).filter(|index| open[*index]).collect();
        let fds: Vec<_> = which.iter().map(|index| all[*index]).collect();
        let ready = wait_for(&fds, deadline, interrupt)?;
        for (index, _) in which.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            let mut buffer = [0; 16 * 1024];
            let read = if index == 0 { stdout.read(&mut buffer) } else { stderr.read(&mut buffer) };
            let count = read.map_err(Stopped::System)?;
            open[index] = count > 0;
            let room = KEPT_BYTES.saturating_sub(texts[index].len());
            texts[index].extend_from_slice(&buffer[..count.min(room)]);
        }
    }
    let [out, err] = texts.map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok((out, err))
}

/// An exit code as a shell has it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The program's own name. What's run in a cgroup is called by a shell.
fn name(command: &Command) -> String {
    let mut words = [command.get_program()].into_iter().chain(command.get_args());
    let mut program = words.next().unwrap_or_default();
    if program == "sh" {
        program = words.nth(3).unwrap_or(program);
    }
    let path = std::path::Path::new(program);
    path.file_name().unwrap_or(program).to_string_lossy().into_owned()
}

/// The end of a program's complaints, on one line.
pub(crate) fn last(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skipped = line.chars().count().saturating_sub(SHOWN);
    let shown: String = line.chars().skip(skipped).collect();
    if skipped > 0 { format!("…{shown}") } else { shown }
}

/// Makes an error of the system's.
pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> WayError {
    let what = what.into();
    move |source| WayError::System { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Duration = Duration::from_secs(60);

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_errors_and_code_are_told_apart() {
        let output = run(sh("echo one; echo two >&2; exit 3"), PLENTY, None).unwrap();
        assert_eq!((output.code, &*output.stdout, &*output.stderr), (3, "one\n", "two\n"));
        let error = run_ok(sh("echo it broke >&2; exit 3"), PLENTY, None).unwrap_err();
        assert!(error.to_string().ends_with("failed (exit code 3): it broke"), "{error}");
    }

    #[test]
    fn endless_output_is_cut() {
        let output = run(sh("head -c 3000000 /dev/zero; echo end >&2"), PLENTY, None).unwrap();
        assert_eq!((output.stdout.len(), &*output.stderr), (KEPT_BYTES, "end\n"));
    }

    #[test]
    fn what_takes_too_long_is_killed_with_its_children() {
        let error = run(sh("sleep 1000 & wait"), Duration::from_millis(50), None).unwrap_err();
        assert!(matches!(error, WayError::Late { .. }), "{error}");
    }

    #[test]
    fn an_interrupt_ends_the_wait() {
        let interrupt = Interrupt::new().unwrap();
        interrupt.tell();
        let error = run(sh("sleep 1000"), PLENTY, Some(&interrupt)).unwrap_err();
        assert!(matches!(error, WayError::Interrupted), "{error}");
    }

    #[test]
    fn both_outputs_of_a_started_program_are_read_to_their_end() {
        let (mut child, mut output) = start(sh("echo one >&2; echo two")).unwrap();
        let interrupt = Interrupt::new().unwrap();
        let deadline = Instant::now() + PLENTY;
        let mut text = Vec::new();
        loop {
            let more = read_some(&mut output, deadline, &interrupt).unwrap();
            if more.is_empty() {
                break;
            }
            text.extend(more);
        }
        assert_eq!(text, b"one\ntwo\n");
        assert!(wait(&mut child, deadline, None).unwrap().success());
    }

    #[test]
    fn program_that_was_looked_after_can_still_be_waited_for() {
        let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let late = || Instant::now() + Duration::from_secs(30);
        assert_eq!(code(wait(&mut child, late(), None).unwrap()), 7);
        assert_eq!(child.try_wait().unwrap().map(code), Some(7));
        assert_eq!(code(wait(&mut child, late(), None).unwrap()), 7);
    }
}
