//! Waits for something to happen to a container: its files to change, its supervisor to end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

use crate::RuntimeError;
use crate::error::{file, system};
use crate::paths::ContainerPaths;
use crate::wire::{self, Request};

/// Tells of changes of one directory's files.
#[derive(Debug)]
pub(crate) struct DirWatch {
    inotify: OwnedFd,
}

/// Tells of changes of a container's files, until its supervisor has ended.
#[derive(Debug)]
pub(crate) struct ContainerWatch {
    files: DirWatch,
    /// Ends with the supervisor.
    supervisor: Option<UnixStream>,
}

impl DirWatch {
    /// Watches a directory from now on.
    pub(crate) fn open(dir: &Path) -> Result<Self, RuntimeError> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).map_err(|errno| system("watch files")(errno.into()))?;
        let wanted = inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::DELETE_SELF;
        inotify::add_watch(&inotify, dir, wanted)
            .map_err(|errno| file("watch", dir)(errno.into()))?;
        Ok(Self { inotify })
    }

    /// Waits for a change, or until `deadline`.
    pub(crate) fn wait(&self, deadline: Option<SystemTime>) -> Result<(), RuntimeError> {
        let failed = system("wait for files");
        let outcome = wait_for(&mut [PollFd::new(&self.inotify, PollFlags::IN)], deadline);
        outcome.and_then(|()| self.clear()).map_err(failed)
    }

    /// Forgets what has happened: only that something did is of interest.
    fn clear(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(&self.inotify, &mut buffer) {
                Ok(0) | Err(Errno::WOULDBLOCK) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl ContainerWatch {
    /// Watches a container from now on.
    pub(crate) fn open(paths: &ContainerPaths) -> Result<Self, RuntimeError> {
        let files = DirWatch::open(&paths.data)?;
        let supervisor = UnixStream::connect(paths.supervisor_socket())
            .and_then(|mut stream| {
                wire::send_request(&mut stream, &Request::Watch).map(|()| stream)
            })
            .ok();
        Ok(Self { files, supervisor })
    }

    /// Waits for a change, or until `deadline`; false when there'll be no more: the supervisor has
    /// ended.
    pub(crate) fn wait(&mut self, deadline: Option<SystemTime>) -> Result<bool, RuntimeError> {
        let Some(supervisor) = &self.supervisor else { return Ok(false) };
        let mut sources = [
            PollFd::new(&self.files.inotify, PollFlags::IN),
            PollFd::new(supervisor, PollFlags::IN),
        ];
        wait_for(&mut sources, deadline).map_err(system("wait for a container"))?;
        let [_, supervisor] = &sources;
        let ended = !supervisor.revents().is_empty();
        self.files.clear().map_err(system("wait for files"))?;
        Ok(!ended)
    }
}

fn wait_for(sources: &mut [PollFd<'_>], deadline: Option<SystemTime>) -> io::Result<()> {
    loop {
        let left = deadline.map(|deadline| {
            let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
            left.saturating_add(Duration::from_millis(1))
        });
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(sources, timeout.as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
