//! Stays with a running VM: its events, its console's input, this process's signals, its end.

use std::io;
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use api::config::{Field, Section};
use api::event::{ErrorKind, Event, Failure, StopReason};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::configure::Origins;
use super::console::ConsoleInput;
use super::escape::{self, Request};
use super::shutdown::Shutdown;
use super::status::StatusLines;
use super::timeline::Timeline;
use crate::errors::{CliError, notice};
use crate::vmm_process::VmmProcess;

/// Signals as bytes on a socket, so that one wait covers them and all else.
pub(crate) type Signals = SignalDelivery<UnixStream, SignalOnly>;

/// Takes over the signals that would end this process, and the one that continues it.
pub(crate) fn take_signals() -> Result<Signals, CliError> {
    let failed = |source| CliError::System { what: "signals can't be handled", source };
    let (read, write) = UnixStream::pair().map_err(failed)?;
    let signals = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCONT];
    SignalDelivery::with_pipe(read, write, SignalOnly, signals).map_err(failed)
}

/// What a wait can end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    VmmEnded,
    Signals,
    Status,
    Typed,
    GuestReads,
}

/// A running VM and all that belongs to it here. The VMM goes first when this is dropped, so that
/// nothing writes to the terminal after its modes are restored.
pub(super) struct Supervisor {
    name: String,
    vmm: VmmProcess,
    input: Option<ConsoleInput>,
    signals: Signals,
    status: StatusLines,
    timeline: Timeline,
    shutdown: Shutdown,
    /// Somebody at the terminal asked for the end.
    quit: bool,
    /// The last word of the VMM.
    last: Option<LastWord>,
}

/// The event that's a VMM's last.
#[derive(Debug)]
enum LastWord {
    Failed(Failure),
    Stopped(StopReason),
}

/// How a VM came to its end.
#[derive(Debug)]
pub(super) struct Ended {
    last: Option<LastWord>,
    status: ExitStatus,
    requested: bool,
    quit: bool,
}

impl Supervisor {
    pub(super) fn new(
        name: String,
        vmm: VmmProcess,
        signals: Signals,
        timeline: Timeline,
        shutdown_timeout_s: u32,
    ) -> Result<Self, CliError> {
        Ok(Self {
            name,
            vmm,
            input: None,
            signals,
            status: StatusLines::default(),
            timeline,
            shutdown: Shutdown::new(Duration::from_secs(shutdown_timeout_s.into())),
            quit: false,
            last: None,
        })
    }

    /// Runs until the VMM has ended. An error on the way ends it too.
    pub(super) fn run(mut self) -> Result<Ended, CliError> {
        loop {
            let ready = self.wait().map_err(system("the VM can't be waited for"))?;
            for event in &ready {
                self.handle(*event)?;
            }
            let overdue = self.shutdown.expire(Instant::now());
            self.send(overdue);
            if ready.contains(&Ready::VmmEnded) {
                break;
            }
        }
        // What it said last may have come after the last look.
        self.read_status()?;
        let status = self.vmm.wait().map_err(system("the VM can't be waited for"))?;
        Ok(Ended {
            last: self.last.take(),
            status,
            requested: self.shutdown.was_requested(),
            quit: self.quit,
        })
    }

    /// Waits until something is ready, or until the shutdown's deadline.
    fn wait(&self) -> io::Result<Vec<Ready>> {
        let mut sources = vec![
            (Ready::VmmEnded, PollFd::from_borrowed_fd(self.vmm.ended(), PollFlags::IN)),
            (Ready::Signals, PollFd::new(self.signals.get_read(), PollFlags::IN)),
        ];
        if !self.status.ended() {
            sources.push((Ready::Status, PollFd::new(&self.vmm.status, PollFlags::IN)));
        }
        if let Some(input) = &self.input {
            let typed = input.source().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            sources.extend(typed.map(|poll_fd| (Ready::Typed, poll_fd)));
            let sink = input.sink().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT));
            sources.extend(sink.map(|poll_fd| (Ready::GuestReads, poll_fd)));
        }
        let (names, mut poll_fds): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
        let time_left = self.shutdown.time_left(Instant::now());
        let timeout = time_left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut poll_fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        let ready = names.into_iter().zip(&poll_fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(name, _)| name).collect())
    }

    fn handle(&mut self, ready: Ready) -> Result<(), CliError> {
        match ready {
            Ready::VmmEnded => {}
            Ready::Signals => self.handle_signals()?,
            Ready::Status => self.read_status()?,
            Ready::Typed => self.read_input(),
            Ready::GuestReads => {
                if let Some(input) = &mut self.input {
                    input.write();
                }
            }
        }
        Ok(())
    }

    fn handle_signals(&mut self) -> Result<(), CliError> {
        let signals: Vec<_> = self.signals.pending().collect();
        for signal in signals {
            let to_send = match signal {
                SIGCONT => {
                    if let Some(input) = &self.input {
                        input.resume().map_err(system("the terminal can't be made raw"))?;
                    }
                    continue;
                }
                SIGQUIT => self.shutdown.quit(Instant::now()),
                _ => self.shutdown.request(Instant::now()),
            };
            self.send(to_send);
        }
        Ok(())
    }

    fn read_status(&mut self) -> Result<(), CliError> {
        let events = self
            .status
            .read(&mut self.vmm.status)
            .map_err(system("the VM's events can't be read"))?;
        for event in events {
            self.timeline.record(&event);
            match event {
                Event::VmCreated { .. } => self.connect_console()?,
                Event::Paused { .. } => notice(&format!(
                    "\nThe VM was paused; vmctl vm resume {} lets it go on.",
                    self.name
                )),
                Event::Resumed { .. } => notice("\nThe VM goes on."),
                Event::Failed { error } => self.hear(LastWord::Failed(error)),
                Event::Stopped { reason, .. } => self.hear(LastWord::Stopped(reason)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Keeps the first of what should be one last word.
    fn hear(&mut self, word: LastWord) {
        self.last.get_or_insert(word);
    }

    /// Takes the terminal, only now: until the VM exists, errors find it as it was, and Ctrl-C
    /// works.
    fn connect_console(&mut self) -> Result<(), CliError> {
        let Some(guest) = self.vmm.input.take() else { return Ok(()) };
        let input =
            ConsoleInput::connect(guest).map_err(system("the terminal can't be made raw"))?;
        if input.is_terminal() {
            notice("Connected to the guest's console. Ctrl-A x ends the VM, Ctrl-A h says more.");
        }
        self.input = Some(input);
        Ok(())
    }

    fn read_input(&mut self) {
        let Some(input) = &mut self.input else { return };
        for request in input.read() {
            match request {
                Request::Quit => {
                    self.quit = true;
                    let signals = self.shutdown.quit(Instant::now());
                    self.send(signals);
                }
                Request::PowerButton => {
                    let signals = self.shutdown.press_power_button(Instant::now());
                    self.send(signals);
                }
                Request::Detach => {
                    notice(
                        "\nThis VM ends with vmctl; boot it with --detach to leave it to itself.",
                    );
                }
                Request::Help => notice(&format!("\n{}", escape::HELP)),
            }
        }
    }

    fn send(&self, signals: &[Signal]) {
        for signal in signals {
            log::info!("sending {signal:?} to the vmm process");
            self.vmm.signal(*signal);
        }
    }
}

impl Ended {
    /// The exit code of an end in order, or what the user is told about another. `killed`: whether
    /// another `vmctl` has killed the VMM.
    pub(super) fn into_result(self, origins: &Origins, killed: bool) -> Result<u8, CliError> {
        match self.last {
            Some(LastWord::Failed(failure)) => Err(explain(failure, origins)),
            Some(LastWord::Stopped(StopReason::PowerOff | StopReason::Reset)) => {
                Ok(api::exit::STOPPED)
            }
            // Whoever typed the escape sequence got what they asked for.
            Some(LastWord::Stopped(StopReason::Killed)) | None if self.quit => {
                Ok(api::exit::STOPPED)
            }
            Some(LastWord::Stopped(StopReason::Killed)) if !self.requested => {
                Err(CliError::EndedBy("a request to its API, or by signals to its VMM"))
            }
            Some(LastWord::Stopped(reason)) => Err(CliError::Stopped(reason)),
            None if killed => Err(CliError::EndedBy("another vmctl (vm kill, or vm rm --force)")),
            None if self.requested => Err(CliError::Stopped(StopReason::Killed)),
            None => Err(CliError::VmmDied(self.status)),
        }
    }
}

/// Names the flag that a failure is about.
pub(super) fn explain(failure: Failure, origins: &Origins) -> CliError {
    let field = failure.field.clone().or_else(|| field_of(failure.kind));
    let place = field.map(|field| origins.place(&field));
    CliError::Vm { place, failure: Box::new(failure) }
}

/// The field that a kind of failure is always about.
fn field_of(kind: ErrorKind) -> Option<Field> {
    let (section, key) = match kind {
        ErrorKind::KernelMissing | ErrorKind::KernelUnreadable | ErrorKind::KernelUnsupported => {
            (Section::BootSource, "kernel_image_path")
        }
        ErrorKind::InitrdMissing | ErrorKind::InitrdUnreadable | ErrorKind::InitrdTooLarge => {
            (Section::BootSource, "initrd_path")
        }
        ErrorKind::MemoryUnavailable => (Section::MachineConfig, "mem_size_mib"),
        ErrorKind::HugePagesUnavailable => (Section::MachineConfig, "huge_pages"),
        _ => return None,
    };
    Some(Field::new(section, key))
}

/// Wraps what the system said, for a step that doesn't fail on a healthy host.
fn system(what: &'static str) -> impl Fn(io::Error) -> CliError {
    move |source| CliError::System { what, source }
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").field("vmm", &self.vmm).finish_non_exhaustive()
    }
}
