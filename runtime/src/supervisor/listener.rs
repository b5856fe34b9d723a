//! A socket that's served on a thread of its own, until dropped.

use std::io;
use std::ops::ControlFlow;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::RuntimeError;
use crate::error::{file, system};
use crate::files;

/// Serves a socket; dropping it ends that, and removes the socket.
#[derive(Debug)]
pub(super) struct Listener {
    path: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens at `path`, where nobody else does: what's there is replaced. `serve` gets each
    /// connection, and may end it all.
    pub(super) fn open(
        path: &Path,
        name: &str,
        mut serve: impl FnMut(UnixStream) -> ControlFlow<()> + Send + 'static,
    ) -> Result<Self, RuntimeError> {
        files::remove_file(path).map_err(file("remove", path))?;
        let listener = UnixListener::bind(path).map_err(file("listen at", path))?;
        let over = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&over);
        let accept = move || {
            loop {
                let connection = listener.accept();
                if theirs.load(Ordering::Acquire) {
                    return;
                }
                match connection {
                    Ok((connection, _)) => {
                        if serve(connection).is_break() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        // Descriptors ran out: others will let go of some.
                        log::warn!("a connection can't be accepted: {error}");
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(accept);
        let thread = Some(thread.map_err(system("start a thread"))?);
        Ok(Self { path: path.to_owned(), over, thread })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // It wakes from its wait by a connection; if it has ended, there's nobody to wake.
        drop(UnixStream::connect(&self.path));
        if let Err(error) = files::remove_file(&self.path) {
            log::warn!("{} can't be removed: {error}", self.path.display());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of {} panicked", self.path.display());
        }
    }
}

/// Counts what there's a limit of: threads for a guest's connections, say.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    taken: Arc<AtomicUsize>,
}

/// One of them, given back when it's dropped.
#[derive(Debug)]
pub(super) struct Slot {
    taken: Arc<AtomicUsize>,
}

impl Slots {
    /// Takes one, if there's one of `limit` left.
    pub(super) fn take(&self, limit: usize) -> Option<Slot> {
        let more = |taken: usize| (taken < limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Slot { taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn socket_is_served_and_gone_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        std::fs::write(&path, "stale").unwrap();
        let listener = Listener::open(&path, "test", |mut stream| {
            stream.write_all(b"hi").unwrap();
            ControlFlow::Continue(())
        })
        .unwrap();
        for _ in 0..2 {
            let mut text = String::new();
            UnixStream::connect(&path).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "hi");
        }
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn slots_are_limited_and_come_back() {
        let slots = Slots::default();
        let (first, _second) = (slots.take(2).unwrap(), slots.take(2).unwrap());
        assert!(slots.take(2).is_none());
        drop(first);
        assert!(slots.take(2).is_some());
    }
}
