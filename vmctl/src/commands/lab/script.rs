//! Running an exercise's scripts: with a time limit and bounded output, in a process group that goes
//! as a whole.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The most that a script may print, in bytes.
const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// The longest line that's looked at, in bytes; the rest of a longer one is dropped.
const MAX_LINE_BYTES: usize = 4096;

/// How long whoever has left the process group may keep the output open after the script's end.
const DRAIN: Duration = Duration::from_secs(2);

/// What happens while a script runs. The number says whose it is: an earlier one's output may
/// still be open.
enum Event {
    Signal(i32),
    Output(u64, Vec<u8>),
    Closed(u64),
    Ended(u64),
}

/// Runs scripts one after the other, and hears of signals all the time.
pub(super) struct Scripts {
    events: Receiver<Event>,
    sender: SyncSender<Event>,
    runs: u64,
}

/// How a script ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// By itself.
    Exited(ExitStatus),
    /// It was killed: it took too long.
    TimedOut(Duration),
    /// It was killed: it printed too much.
    TooMuch,
    /// It was killed: this signal asked to end.
    Interrupted(i32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "ended with {status}"),
            Self::TimedOut(limit) => {
                write!(f, "isn't over after {} seconds, and was killed", limit.as_secs())
            }
            Self::TooMuch => {
                write!(f, "printed more than {} KiB, and was killed", MAX_OUTPUT_BYTES >> 10)
            }
            Self::Interrupted(signal) => write!(f, "was interrupted by signal {signal}"),
        }
    }
}

impl Scripts {
    /// Begins to handle SIGINT, SIGTERM and SIGHUP.
    pub(super) fn new() -> io::Result<Self> {
        let (sender, events) = sync_channel(64);
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let told = sender.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                if told.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { events, sender, runs: 0 })
    }

    /// Runs a script to its end; `line` gets what it prints, line by line. A signal that has come
    /// since the last one counts.
    pub(super) fn run(
        &mut self,
        mut command: Command,
        limit: Duration,
        line: &mut dyn FnMut(&str),
    ) -> io::Result<End> {
        self.runs += 1;
        let (reader, writer) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.process_group(0).spawn()?;
        // It holds this process's copies of the writing end.
        drop(command);
        let group = Pid::from_child(&child);
        self.watch(group, reader).inspect_err(|_| kill(group))?;
        let mut lines = Lines::default();
        let cut = self.follow(limit, &mut lines, line);
        // Also what the script has left running.
        kill(group);
        let status = child.wait()?;
        if cut.is_none() {
            self.drain(&mut lines, line);
        }
        lines.finish(line);
        Ok(cut.unwrap_or(End::Exited(status)))
    }

    /// Starts to read its output and to wait for its end.
    fn watch(&self, group: Pid, mut reader: io::PipeReader) -> io::Result<()> {
        let run = self.runs;
        let told = self.sender.clone();
        thread::Builder::new().name("output".to_owned()).spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if told.send(Event::Output(run, buffer[..count].to_vec())).is_err() {
                    return;
                }
            }
            let _ = told.send(Event::Closed(run));
        })?;
        let told = self.sender.clone();
        thread::Builder::new().name("end".to_owned()).spawn(move || {
            // It isn't reaped here: until it is, its process group's number is nobody else's.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            let ended = || rustix::process::waitid(WaitId::Pid(group), options);
            while matches!(ended(), Err(rustix::io::Errno::INTR)) {}
            let _ = told.send(Event::Ended(run));
        })?;
        Ok(())
    }

    /// Follows a script until it ends, or until there's a reason to end it.
    fn follow(
        &self,
        limit: Duration,
        lines: &mut Lines,
        line: &mut dyn FnMut(&str),
    ) -> Option<End> {
        let started = Instant::now();
        loop {
            match self.events.recv_timeout(limit.saturating_sub(started.elapsed())) {
                Ok(Event::Output(run, bytes)) if run == self.runs => {
                    if !lines.add(&bytes, line) {
                        return Some(End::TooMuch);
                    }
                }
                Ok(Event::Ended(run)) if run == self.runs => return None,
                Ok(Event::Signal(signal)) => return Some(End::Interrupted(signal)),
                Err(RecvTimeoutError::Timeout) => return Some(End::TimedOut(limit)),
                // This end holds a sender: they're never all gone.
                Ok(_) | Err(RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// Reads what a script that has ended had still printed.
    fn drain(&self, lines: &mut Lines, line: &mut dyn FnMut(&str)) {
        let started = Instant::now();
        while let Ok(event) = self.events.recv_timeout(DRAIN.saturating_sub(started.elapsed())) {
            match event {
                // It's over: there's nothing to end when it's too much.
                Event::Output(run, bytes) if run == self.runs => drop(lines.add(&bytes, line)),
                Event::Closed(run) if run == self.runs => return,
                Event::Signal(signal) => {
                    // Heard again when the next one runs. A full channel means that it's heard anyway.
                    let _ = self.sender.try_send(Event::Signal(signal));
                    return;
                }
                _ => {}
            }
        }
    }
}

/// Kills a whole process group; one that's gone is as wanted.
fn kill(group: Pid) {
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
}

/// Makes lines of output.
#[derive(Default)]
struct Lines {
    bytes: usize,
    line: Vec<u8>,
}

impl Lines {
    /// Takes output; false once it's too much.
    fn add(&mut self, bytes: &[u8], line: &mut dyn FnMut(&str)) -> bool {
        for byte in bytes {
            match byte {
                b'\n' => self.flush(line),
                _ if self.line.len() < MAX_LINE_BYTES => self.line.push(*byte),
                _ => {}
            }
        }
        self.bytes += bytes.len();
        self.bytes <= MAX_OUTPUT_BYTES
    }

    fn flush(&mut self, line: &mut dyn FnMut(&str)) {
        line(&printable(&self.line));
        self.line.clear();
    }

    fn finish(&mut self, line: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            self.flush(line);
        }
    }
}

/// A line that does nothing to a terminal: a part of it may come from an instance. Tabs become
/// blanks.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r').replace('\t', " ");
    crate::format::one_line(&text)
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::PidfdFlags;

    use super::*;

    fn run(script: &str, limit: Duration) -> (End, Vec<String>) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut said = Vec::new();
        let mut scripts = Scripts::new().unwrap();
        let end = scripts.run(command, limit, &mut |line| said.push(line.to_owned())).unwrap();
        (end, said)
    }

    const LONG: Duration = Duration::from_secs(60);

    fn code(end: &End) -> Option<i32> {
        match end {
            End::Exited(status) => status.code(),
            _ => None,
        }
    }

    #[test]
    fn output_comes_line_by_line_without_control_characters() {
        let (end, said) =
            run("printf 'a\\033[2Jb\\nc\\td\\r\\n'; echo e >&2; printf f; exit 3", LONG);
        assert_eq!(code(&end), Some(3));
        assert_eq!(said, ["a?[2Jb", "c d", "e", "f"]);
    }

    #[test]
    fn script_that_hangs_is_killed_with_all_its_processes() {
        let script = "sleep 1000 & echo $!; sleep 1000";
        let (end, said) = run(script, Duration::from_millis(500));
        assert_eq!(end, End::TimedOut(Duration::from_millis(500)));
        let pid = Pid::from_raw(said[0].parse().unwrap()).unwrap();
        // It's gone, or about to go.
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
            let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).unwrap();
            assert_eq!(ended, 1);
        }
    }

    #[test]
    fn script_that_prints_without_end_is_killed() {
        let (end, said) = run("yes", LONG);
        assert_eq!(end, End::TooMuch);
        assert!(said.len() <= MAX_OUTPUT_BYTES);
        let (end, said) = run("head -c 900000 /dev/zero", LONG);
        assert_eq!(code(&end), Some(0));
        assert_eq!(said.iter().map(String::len).sum::<usize>(), MAX_LINE_BYTES);
    }

    #[test]
    fn what_a_script_leaves_running_is_not_waited_for() {
        let started = Instant::now();
        let (end, said) = run("setsid sleep 20 & echo done", LONG);
        assert_eq!((code(&end), said.as_slice()), (Some(0), &["done".to_owned()][..]));
        assert!(started.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn signal_ends_the_script() {
        let mut command = Command::new("sleep");
        command.arg("1000");
        let mut scripts = Scripts::new().unwrap();
        // As if it had come: a real one would reach the other tests, too.
        scripts.sender.send(Event::Signal(SIGHUP)).unwrap();
        assert_eq!(scripts.run(command, LONG, &mut |_| {}).unwrap(), End::Interrupted(SIGHUP));
    }
}
