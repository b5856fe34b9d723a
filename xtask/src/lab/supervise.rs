//! Accompanies a running lab: connects its streams, passes signals and sizes on, waits for its end.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use super::machine::{Channels, CommandChannels, Files, Machine};
use super::relay;
use super::{Console, Outcome};
use crate::process;
use crate::terminal::{self, RawMode};

/// What the threads around a lab report to the one that waits.
pub(super) enum Event {
    /// A line on the control channel.
    Control(String),
    /// The control channel has ended: QEMU is gone.
    Gone,
    /// That many bytes of the command's output have been written.
    Output(u64),
    /// The user wants to leave.
    Escape,
    /// A signal came.
    Signal(i32),
}

/// Connects everything, then waits for the end.
pub(super) fn supervise(
    mut machine: Machine,
    channels: Channels,
    console: Console,
    timeout: Option<Duration>,
    files: &Files<'_>,
) -> Result<Outcome> {
    let deadline = timeout.map(|limit| Instant::now() + limit);
    let (sender, events) = mpsc::channel();
    let mut control = channels.control.try_clone().context("cannot share the control channel")?;
    watch_control(channels.control, sender.clone());
    watch_signals(sender.clone())?;

    let (relays, raw_mode) = connect(channels.command, console, sender)?;
    writeln!(control, "go").context("cannot write to the lab")?;
    send_size(&mut control);

    let end = wait(&events, &mut control, deadline);
    // What QEMU has written before its end is still in the sockets: the relays read it all.
    machine.kill().context("cannot end QEMU")?;
    for relay in relays {
        let _ = relay.join();
    }
    drop(raw_mode);
    let kernel_log = || fs::read_to_string(files.kernel_log()).unwrap_or_default();
    Ok(match end {
        End::Exited(code) => Outcome::Exited(code),
        End::Escaped => Outcome::Escaped,
        End::TimedOut => Outcome::TimedOut { kernel_log: process::last_lines(&kernel_log(), 20) },
        End::Gone => Outcome::Died { kernel_log: process::last_lines(&kernel_log(), 20) },
        End::Signal(signal) => bail!("interrupted by signal {signal}"),
    })
}

/// Joins the command's channels to our streams, or to our terminal, which is raw from then on.
fn connect(
    channels: CommandChannels,
    console: Console,
    events: Sender<Event>,
) -> Result<(Vec<JoinHandle<()>>, Option<RawMode>)> {
    match (channels, console) {
        (CommandChannels::Terminal(stream), _) => {
            let keys = stream.try_clone().context("cannot share the terminal's channel")?;
            let raw_mode = RawMode::enter()?;
            relay::keys(keys, events.clone());
            let output = relay::output(stream, Box::new(io::stdout()), events);
            Ok((vec![output], Some(raw_mode)))
        }
        (
            CommandChannels::Streams { stdin, stdout: from_stdout, stderr: from_stderr },
            Console::Streams { stdin: reads_stdin, stdout, stderr },
        ) => {
            if reads_stdin {
                relay::input(stdin);
            }
            let stdout = relay::output(from_stdout, stdout, events.clone());
            Ok((vec![stdout, relay::output(from_stderr, stderr, events)], None))
        }
        (CommandChannels::Streams { .. }, Console::Terminal) => {
            bail!("a terminal needs a channel of its own")
        }
    }
}

/// Why the wait for a lab is over.
enum End {
    Exited(u8),
    TimedOut,
    Gone,
    Escaped,
    Signal(i32),
}

fn wait(events: &Receiver<Event>, control: &mut UnixStream, deadline: Option<Instant>) -> End {
    let mut written = 0;
    let mut exit: Option<(u8, u64)> = None;
    loop {
        if let Some((code, expected)) = exit
            && written >= expected
        {
            return End::Exited(code);
        }
        let event = match deadline {
            Some(deadline) => {
                events.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            }
            None => events.recv().map_err(RecvTimeoutError::from),
        };
        match event {
            Ok(Event::Control(line)) => exit = parse_exit(&line).or(exit),
            Ok(Event::Output(count)) => written += count,
            Ok(Event::Signal(SIGWINCH)) => send_size(control),
            Ok(Event::Signal(signal)) => return End::Signal(signal),
            Ok(Event::Escape) => return End::Escaped,
            Ok(Event::Gone) | Err(RecvTimeoutError::Disconnected) => {
                return exit.map_or(End::Gone, |(code, _)| End::Exited(code));
            }
            Err(RecvTimeoutError::Timeout) => return End::TimedOut,
        }
    }
}

/// Parses the lab's last words: the exit code and how much output there is to wait for.
fn parse_exit(line: &str) -> Option<(u8, u64)> {
    let mut words = line.strip_prefix("exit ")?.split_whitespace();
    let code = words.next()?.parse().ok()?;
    Some((code, words.filter_map(|word| word.parse::<u64>().ok()).sum()))
}

fn watch_control(control: UnixStream, events: Sender<Event>) {
    thread::spawn(move || {
        for line in BufReader::new(control).lines().map_while(Result::ok) {
            let _ = events.send(Event::Control(line));
        }
        let _ = events.send(Event::Gone);
    });
}

fn watch_signals(events: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGWINCH])
        .context("cannot set up signal handlers")?;
    thread::spawn(move || {
        for signal in signals.forever() {
            if events.send(Event::Signal(signal)).is_err() {
                break;
            }
        }
    });
    Ok(())
}

fn send_size(control: &mut UnixStream) {
    if let Some((rows, columns)) = terminal::size() {
        // When the lab is gone, its end is noticed elsewhere.
        let _ = writeln!(control, "size {rows} {columns}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lab_ends_only_when_all_output_has_come() {
        let (mut control, _peer) = UnixStream::pair().unwrap();
        let (sender, events) = mpsc::channel();
        sender.send(Event::Control("exit 3 10 5".to_owned())).unwrap();
        sender.send(Event::Output(10)).unwrap();
        let soon = Some(Instant::now() + Duration::from_millis(50));
        assert!(matches!(wait(&events, &mut control, soon), End::TimedOut));

        sender.send(Event::Output(10)).unwrap();
        sender.send(Event::Control("exit 3 10 5".to_owned())).unwrap();
        sender.send(Event::Output(5)).unwrap();
        assert!(matches!(wait(&events, &mut control, None), End::Exited(3)));
    }

    #[test]
    fn machine_that_vanishes_is_not_a_command_that_exited() {
        let (mut control, _peer) = UnixStream::pair().unwrap();
        let (sender, events) = mpsc::channel();
        sender.send(Event::Gone).unwrap();
        assert!(matches!(wait(&events, &mut control, None), End::Gone));
    }
}
