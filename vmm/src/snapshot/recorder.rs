//! Finds out which pages a restored guest touches first, and writes them down for the next restore.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, eventfd};
use snapshot::lazy::{LazyError, PageServer};
use snapshot::memory::MemoryFile;
use sys::memory::GuestRam;
use sys::thread_start::{self, Role};

use super::lazy::{LazyMemory, LazyRestoreError};

/// Supplies the pages of a guest out of its memory file, on a thread of this process, and notes
/// them until it's told that it's enough. Dropped, it notes no more; the machine must be gone by
/// then, because nobody supplies its pages any more.
pub struct Recorder {
    _memory: LazyMemory,
    enough: OwnedFd,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Begins to supply the pages of `memory`, which nobody has touched, out of `file`. What is
    /// touched until [`finish`](Self::finish) will be in the working set at `path`.
    ///
    /// # Errors
    /// [`LazyRestoreError`]; the memory is of no use then.
    pub fn start(
        memory: &GuestRam,
        file: MemoryFile,
        path: &Path,
    ) -> Result<Self, LazyRestoreError> {
        let fail = |source| LazyRestoreError::Handler { path: path.to_owned(), source };
        let (ours, theirs) = UnixStream::pair().map_err(fail)?;
        let memory = LazyMemory::hand_over(memory, ours, fail)?;
        let server =
            PageServer::accept(&theirs, file).map_err(|error| fail(io::Error::other(error)))?;
        let new_event = || eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| fail(error.into()));
        let (enough, stop) = (new_event()?, new_event()?);
        let (seen_enough, seen_stop) =
            (enough.try_clone().map_err(fail)?, stop.try_clone().map_err(fail)?);
        let working_set = path.to_owned();
        let serve = move || {
            thread_start::begin(Role::Snapshot);
            if let Err(error) = serve(server, &working_set, &seen_enough, &seen_stop) {
                log::error!("the guest's memory can't be supplied any more: {error}");
            }
        };
        let thread = thread::Builder::new().name("pages".to_owned()).spawn(serve).map_err(fail)?;
        Ok(Self { _memory: memory, enough, stop, thread: Some(thread) })
    }

    /// Has what was touched until now written down; pages are supplied as before.
    pub fn finish(&self) {
        signal(&self.enough);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        signal(&self.enough);
        signal(&self.stop);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that supplied the guest's memory had panicked");
        }
    }
}

/// Supplies pages until `stop`, and writes those down that were touched before `enough`.
fn serve(
    mut server: PageServer,
    path: &Path,
    enough: &OwnedFd,
    stop: &OwnedFd,
) -> Result<(), LazyError> {
    server.record();
    server.run(&[enough.as_fd(), stop.as_fd()])?;
    if let Some(working_set) = server.take_recording()
        && let Err(error) = working_set.save(path)
    {
        log::error!("the working set can't be written: {error}");
    }
    server.run(&[stop.as_fd()])
}

fn signal(event: &OwnedFd) {
    // It fails only when it's full, and then it's readable.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use snapshot::lazy::WorkingSet;
    use snapshot::memory::MemoryWriter;
    use snapshot::{MemoryRegion, SnapshotId};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::{Backing, allocate};

    #[test]
    fn touched_pages_are_recorded_until_it_is_enough_and_supplied_afterwards() {
        let directory = tempfile::tempdir().unwrap();
        let [path, recorded] = ["mem", "set"].map(|name| directory.path().join(name));
        // Far apart: what surrounds a touched page may come along.
        let size = 64 << 20;
        let regions = [MemoryRegion { guest_address: 0, size_bytes: size }];
        let id = SnapshotId::random().unwrap();
        let mut writer = MemoryWriter::create(&path, id, None, &regions).unwrap();
        for page in [0, 32 << 20, 48 << 20] {
            writer.write(page, &[7; 4096]).unwrap();
        }
        writer.finish().unwrap().file.publish().unwrap();

        let memory = allocate(&[(GuestAddress(0), size)], &Backing::default()).unwrap();
        let file = MemoryFile::open(&path).unwrap();
        let recorder = Recorder::start(&memory, file, &recorded).unwrap();
        let read = |address| memory.read_obj::<u8>(GuestAddress(address)).unwrap();
        assert_eq!((read(0), read(32 << 20)), (7, 7));
        recorder.finish();
        assert_eq!((read(48 << 20), read(16 << 20)), (7, 0));
        drop(recorder);

        let file = MemoryFile::open(&path).unwrap();
        let set = WorkingSet::load(&recorded, &file).unwrap();
        let has = |offset| set.runs().iter().any(|run| (run.offset..run.end()).contains(&offset));
        assert!(has(0) && has(32 << 20), "{:?}", set.runs());
        assert!(!has(16 << 20), "{:?}", set.runs());
    }
}
