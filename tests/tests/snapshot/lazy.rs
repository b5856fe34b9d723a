//! Memory that another process supplies, page by page, as the guest touches it.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, ensure};
use api::v1::{MemoryBackendType, SnapshotType};
use integration_tests::api_vm::lean;
use integration_tests::transfer::accept_unix;
use snapshot::lazy::{PageServer, WorkingSet};
use snapshot::memory::MemoryFile;

use crate::support::{Pair, Place};

/// A page fault handler that serves one VM until it has ended.
struct Handler {
    socket: PathBuf,
    thread: JoinHandle<Result<WorkingSet>>,
}

impl Handler {
    /// Listens at `socket`; fills the pages of `set` in advance, if there is one.
    fn start(pair: &Pair, socket: PathBuf, set: Option<WorkingSet>) -> Result<Self> {
        let listener = UnixListener::bind(&socket)?;
        let memory = MemoryFile::open(&pair.memory)?;
        let thread = thread::spawn(move || {
            let stream = accept_unix(&listener)?;
            let mut server = PageServer::accept(&stream, memory)?;
            if let Some(set) = set {
                let filled = server.prefault(&set)?;
                ensure!(filled >= set.len_bytes(), "{filled} of {} bytes", set.len_bytes());
            }
            server.record();
            server.run(&[stream.as_fd()])?;
            server.take_recording().context("nothing was recorded")
        });
        Ok(Self { socket, thread })
    }

    /// Waits for its end and returns what the guest touched.
    fn finish(self) -> Result<WorkingSet> {
        self.thread.join().map_err(|_| anyhow!("the handler panicked"))?
    }
}

/// A first restore records what the guest touches, a small part of its memory; a second one gets
/// that in advance, and hardly asks for more.
#[test]
fn handler_supplies_what_the_guest_touches() -> Result<()> {
    let place = Place::new("lazy")?;
    let mut guest = place.boot("origin", lean(1, 256))?;
    // Content that nobody touches afterwards, and some that is asked for.
    guest.run("head -c 33554432 /dev/zero | tr '\\0' x >/tmp/idle")?;
    guest.run("head -c 1048576 /dev/urandom >/tmp/used")?;
    let hash = guest.run("sha256sum /tmp/used")?;
    let pair = place.pair("full");
    pair.take_and_kill(guest, SnapshotType::Full)?;
    let content = MemoryFile::open(&pair.memory)?.info().data_pages * 4096;

    let mut recorded: Option<WorkingSet> = None;
    let saved = place.file("working-set");
    for round in ["first", "second"] {
        let socket = place.file(&format!("{round}.uffd"));
        let handler = Handler::start(&pair, socket, recorded.take())?;
        let params = pair.load_from(MemoryBackendType::Uffd, &handler.socket);
        let mut guest = place.vmm(round)?.restore(params)?;
        ensure!(guest.run("sha256sum /tmp/used")? == hash, "the guest reads something else");
        guest.power_off()?;
        let touched = handler.finish()?;
        if round == "first" {
            ensure!(touched.len_bytes() > 0, "the handler was never asked");
            ensure!(
                touched.len_bytes() < content / 2,
                "{} bytes were asked for of {content}",
                touched.len_bytes()
            );
            touched.save(&saved)?;
            recorded = Some(WorkingSet::load(&saved, &MemoryFile::open(&pair.memory)?)?);
        } else {
            let first = WorkingSet::load(&saved, &MemoryFile::open(&pair.memory)?)?;
            ensure!(
                touched.len_bytes() < first.len_bytes() / 4,
                "{} bytes were asked for although {} were there",
                touched.len_bytes(),
                first.len_bytes()
            );
        }
    }
    Ok(())
}
