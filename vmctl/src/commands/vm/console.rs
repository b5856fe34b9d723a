//! `vmctl vm console`: this terminal at a VM's console.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use signal_hook::consts::SIGCONT;

use crate::commands::boot::console::ConsoleInput;
use crate::commands::boot::escape::{ATTACHED_HELP, Request};
use crate::commands::boot::supervise::take_signals;
use crate::errors::{CliError, notice};
use crate::registry::{Entry, Registry};

/// Connects this terminal to a VM's console, beginning with the newest 64 KiB that it printed.
///
/// On a terminal, Ctrl-A d leaves the VM to itself, and Ctrl-A h lists what else there is.
#[derive(Debug, Args)]
pub(super) struct ConsoleArgs {
    /// The VM.
    name: String,
}

pub(super) fn run(registry: &Registry, args: &ConsoleArgs) -> Result<u8, CliError> {
    let entry = registry.find(&args.name)?;
    if entry.process().is_none() {
        return Err(super::not_running(&entry));
    }
    let Some(path) = &entry.record.console_socket else {
        return Err(CliError::NoConsole { name: entry.record.name });
    };
    let failed = |source| CliError::System { what: "the console can't be connected to", source };
    let stream = UnixStream::connect(path).map_err(failed)?;
    serve(&entry, stream).map_err(failed)?;
    Ok(api::exit::STOPPED)
}

/// Passes bytes both ways until either side is through.
fn serve(entry: &Entry, mut stream: UnixStream) -> io::Result<()> {
    let mut signals = take_signals().map_err(io::Error::other)?;
    let mut input = ConsoleInput::connect(stream.try_clone()?.into())?;
    if input.is_terminal() {
        notice("Connected to the guest's console. Ctrl-A d leaves it, Ctrl-A h says more.");
    }
    loop {
        let [ended, signalled, printed, typed, takes] = wait(&stream, signals.get_read(), &input)?;
        if signalled {
            for signal in signals.pending() {
                if signal != SIGCONT {
                    return Ok(());
                }
                input.resume()?;
            }
        }
        if takes {
            input.write();
        }
        if typed {
            for request in input.read() {
                match request {
                    Request::Detach => return Ok(()),
                    Request::Help => notice(&format!("\n{ATTACHED_HELP}")),
                    Request::PowerButton => signal(entry, &[Signal::TERM])?,
                    Request::Quit => signal(entry, &[Signal::TERM, Signal::INT])?,
                }
            }
        }
        if (printed || ended) && !print(&mut stream)? {
            return Ok(());
        }
    }
}

/// Waits; tells whether the VMM hung up, a signal came, the guest printed, something was typed, the
/// guest takes input.
fn wait(stream: &UnixStream, signals: &UnixStream, input: &ConsoleInput) -> io::Result<[bool; 5]> {
    let mut sources = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(stream, PollFlags::IN)];
    let typed = input.source().map(|fd| {
        sources.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        sources.len() - 1
    });
    let takes = input.sink().map(|fd| {
        sources.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        sources.len() - 1
    });
    match poll(&mut sources, None) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok([false; 5]),
        Err(errno) => return Err(errno.into()),
    }
    let is_ready = |index: usize| !sources[index].revents().is_empty();
    let ended = sources[1].revents().intersects(PollFlags::HUP | PollFlags::ERR);
    let [typed, takes] = [typed, takes].map(|index| index.is_some_and(is_ready));
    Ok([ended, is_ready(0), is_ready(1), typed, takes])
}

/// Prints what came; returns whether more may.
fn print(stream: &mut UnixStream) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(length) => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&buffer[..length])?;
            stdout.flush()?;
            Ok(true)
        }
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
        Err(error) => Err(error),
    }
}

fn signal(entry: &Entry, signals: &[Signal]) -> io::Result<()> {
    let Some(process) = entry.process() else { return Ok(()) };
    signals.iter().try_for_each(|signal| process.signal(*signal))
}
