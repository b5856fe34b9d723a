//! Starting stages.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

use agent_proto::frame;
use rustix::io::FdFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::fault::{AgentError, Context, ErrorKind, Result, fault};
use crate::stage::{self, Go, Place, StageReply, StageSpec};
use crate::stdio::{ChildEnds, SMALL_STACK};
use crate::sys;

/// A stage that runs.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Its number, where the agent is.
    pub(crate) pid: i32,
    socket: UnixStream,
}

/// Starts a stage, in the PID namespace that it's to be in.
///
/// Callers hold the lock under which children are reaped: until this returns, nobody reaps.
pub(crate) fn spawn(ends: ChildEnds, spec: &StageSpec) -> Result<Stage> {
    let (ours, theirs) = UnixStream::pair().internal("cannot make a socket")?;
    let place = spec.place.clone();
    // A thread's children go to the PID namespace that this thread has chosen, so it's a thread of
    // its own, which ends with that.
    let spawned = thread::scope(|scope| {
        let spawn = || choose_pid_namespace(&place).and_then(|()| spawn_here(ends, theirs.into()));
        let thread = thread::Builder::new().stack_size(2 * SMALL_STACK).spawn_scoped(scope, spawn);
        thread.map(|thread| thread.join())
    });
    let pid = match spawned {
        Ok(Ok(result)) => result.internal("cannot start a process")?,
        Ok(Err(_)) | Err(_) => return fault(ErrorKind::Internal, "cannot start a thread"),
    };
    let mut socket = ours;
    frame::write(&mut socket, spec).internal("cannot tell the new process what it is")?;
    Ok(Stage { pid, socket })
}

fn choose_pid_namespace(place: &Place) -> io::Result<()> {
    match place {
        Place::New { .. } => sys::unshare(UnshareFlags::NEWPID),
        Place::Of(leader) => {
            let namespace = File::open(format!("/proc/{leader}/ns/pid"))?;
            Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))?)
        }
        Place::Here => Ok(()),
    }
}

fn spawn_here(ends: ChildEnds, socket: OwnedFd) -> io::Result<i32> {
    // The lock that the caller holds also keeps this from leaking into another child.
    rustix::io::fcntl_setfd(&socket, FdFlags::empty())?;
    let child = Command::new("/proc/self/exe")
        .arg0(stage::NAME)
        .arg(socket.as_raw_fd().to_string())
        .env_clear()
        .stdin(ends.stdin)
        .stdout(ends.stdout)
        .stderr(ends.stderr)
        .spawn()?;
    // It's reaped with all others, by its number.
    i32::try_from(child.id()).map_err(|_| io::ErrorKind::InvalidData.into())
}

impl Stage {
    /// Waits until the stage has made its place.
    pub(crate) fn ready(&mut self) -> Result<()> {
        match frame::read(&mut self.socket).internal("cannot hear the new process")? {
            Some(StageReply::Ready) => Ok(()),
            Some(StageReply::Failed(error)) => Err(error),
            None => fault(ErrorKind::Internal, "the new process ended before it was ready"),
        }
    }

    /// Lets a ready stage go on.
    pub(crate) fn go(&mut self) -> Result<()> {
        frame::write(&mut self.socket, &Go).internal("cannot tell the new process to go on")
    }

    /// Waits until the stage has become the process.
    pub(crate) fn executed(mut self) -> Result<()> {
        match frame::read(&mut self.socket) {
            Ok(None) => Ok(()),
            Ok(Some(StageReply::Failed(error))) => Err(error),
            Ok(Some(StageReply::Ready)) => fault(ErrorKind::Internal, "a stage was ready twice"),
            Err(error) => Err(AgentError::new(ErrorKind::Internal, error.to_string())),
        }
    }
}
