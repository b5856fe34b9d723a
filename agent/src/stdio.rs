//! A process's standard streams: the ends that it gets, and the ends that the agent keeps.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;

use agent_proto::{ProcessSpec, TerminalSize};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::fault::{Context, ErrorKind, Result, fault};
use crate::relay::{self, InputEnds, Once, Port};

/// Stacks of threads that only copy.
pub(crate) const SMALL_STACK: usize = 64 << 10;

/// What the process gets as its descriptors 0, 1 and 2.
#[derive(Debug)]
pub(crate) struct ChildEnds {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
    /// The terminal's name below `/dev/pts`.
    pub(crate) terminal: Option<String>,
}

/// What the agent keeps: where the host's connections arrive, and the other ends.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Standard input, or the terminal.
    pub(crate) input: Option<Arc<Port>>,
    pub(crate) stdout: Option<Arc<Port>>,
    pub(crate) stderr: Option<Arc<Port>>,
    pub(crate) tty: Option<Arc<Port>>,
    pub(crate) exited: Arc<Once>,
    pub(crate) close_input: Arc<Once>,
    master: Option<File>,
    pipes: Vec<Pipe>,
}

#[derive(Debug)]
enum Pipe {
    Input(File, Arc<Port>, bool),
    Output(File, Arc<Port>),
}

/// Makes a process's streams. `devpts` is the directory of the container's terminals.
pub(crate) fn make(spec: &ProcessSpec, devpts: &str) -> Result<(ChildEnds, Streams)> {
    let (exited, close_input) = (Once::new(), Once::new());
    let mut streams = Streams {
        input: None,
        stdout: None,
        stderr: None,
        tty: None,
        exited: Arc::new(exited.internal("cannot make an event")?),
        close_input: Arc::new(close_input.internal("cannot make an event")?),
        master: None,
        pipes: Vec::new(),
    };
    let ends = match spec.terminal {
        Some(size) => streams.add_terminal(size, spec, devpts)?,
        None => streams.add_pipes(spec).internal("cannot make a pipe")?,
    };
    Ok((ends, streams))
}

impl Streams {
    fn add_pipes(&mut self, spec: &ProcessSpec) -> io::Result<ChildEnds> {
        let mut ends = ChildEnds {
            stdin: Stdio::null(),
            stdout: Stdio::null(),
            stderr: Stdio::null(),
            terminal: None,
        };
        if spec.stdio.stdin {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            relay::set_nonblocking(&write)?;
            let port = Arc::<Port>::default();
            self.input = Some(Arc::clone(&port));
            self.pipes.push(Pipe::Input(write.into(), port, false));
            ends.stdin = read.into();
        }
        for (wanted, port, end) in [
            (spec.stdio.stdout, &mut self.stdout, &mut ends.stdout),
            (spec.stdio.stderr, &mut self.stderr, &mut ends.stderr),
        ] {
            if wanted {
                let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                let new = port.insert(Arc::default());
                self.pipes.push(Pipe::Output(read.into(), Arc::clone(new)));
                *end = write.into();
            }
        }
        Ok(ends)
    }

    fn add_terminal(
        &mut self,
        size: TerminalSize,
        spec: &ProcessSpec,
        devpts: &str,
    ) -> Result<ChildEnds> {
        let (master, slave, name) = open_terminal(devpts).internal("cannot make a terminal")?;
        set_size(&master, size).internal("cannot set the terminal's size")?;
        relay::set_nonblocking(&master).internal("cannot set up the terminal")?;
        let clone = |file: &File| file.try_clone().internal("cannot copy a terminal's descriptor");
        let port = Arc::<Port>::default();
        if spec.stdio.stdin {
            self.input = Some(Arc::clone(&port));
            self.pipes.push(Pipe::Input(clone(&master)?, Arc::clone(&port), true));
        }
        self.pipes.push(Pipe::Output(clone(&master)?, Arc::clone(&port)));
        if spec.stdio.stdin || spec.stdio.stdout || spec.stdio.stderr {
            self.tty = Some(port);
        }
        self.master = Some(master);
        Ok(ChildEnds {
            stdin: clone(&slave)?.into(),
            stdout: clone(&slave)?.into(),
            stderr: slave.into(),
            terminal: Some(name),
        })
    }

    /// Checks that the host has connected to what it said it would.
    pub(crate) fn check_connected(&self) -> Result<()> {
        let ports = [&self.input, &self.stdout, &self.stderr, &self.tty];
        if ports.into_iter().flatten().all(|port| port.is_connected()) {
            return Ok(());
        }
        fault(ErrorKind::Busy, "the process's streams aren't all connected yet")
    }

    /// Returns how many outputs have to be drained before the process's end is told.
    pub(crate) fn outputs(&self) -> usize {
        self.pipes.iter().filter(|pipe| matches!(pipe, Pipe::Output(..))).count()
    }

    /// Starts copying. `drained` is called once for each output.
    pub(crate) fn start(&mut self, drained: &(impl Fn() + Clone + Send + 'static)) -> Result<()> {
        for pipe in std::mem::take(&mut self.pipes) {
            let (exited, close) = (Arc::clone(&self.exited), Arc::clone(&self.close_input));
            let drained = drained.clone();
            let copy = move || match pipe {
                Pipe::Input(to, port, is_terminal) => {
                    relay::pump_input(&port, &to, &InputEnds { exited, close }, is_terminal);
                    drop(to);
                    if !is_terminal {
                        port.close();
                    }
                }
                Pipe::Output(from, port) => relay::pump_output(&from, &exited, &port, drained),
            };
            let thread = thread::Builder::new().name("stream".into()).stack_size(SMALL_STACK);
            thread.spawn(copy).internal("cannot start a thread")?;
        }
        Ok(())
    }

    /// Sets the terminal's size.
    pub(crate) fn resize(&self, size: TerminalSize) -> Result<()> {
        let Some(master) = &self.master else {
            return fault(ErrorKind::Invalid, "the process has no terminal");
        };
        set_size(master, size).internal("cannot set the terminal's size")
    }

    /// Lets input that waits for a connection end.
    pub(crate) fn process_ended(&self) {
        self.exited.happen();
        if self.tty.is_none()
            && let Some(input) = &self.input
        {
            input.close();
        }
    }
}

fn set_size(terminal: &File, size: TerminalSize) -> rustix::io::Result<()> {
    rustix::termios::tcsetwinsize(
        terminal,
        Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 },
    )
}

/// Opens a terminal of the container's own `/dev/pts`, so that it finds it there.
fn open_terminal(devpts: &str) -> io::Result<(File, File, String)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open(format!("{devpts}/ptmx"), flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let name = name.to_string_lossy();
    let name = name.rsplit('/').next().unwrap_or_default().to_owned();
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave: OwnedFd = rustix::pty::ioctl_tiocgptpeer(&master, peer)?;
    Ok((master.into(), slave.into(), name))
}
